//! The rules by which a task changes its identity (`setuid(2)` and its kin, `capset(2)`, `capabilities(7)`).
//!
//! Everything here is a function from old credentials to new ones; [`commit`] makes them the task's.

use super::creds::CAP_FULL;
use super::{Cap, Creds, Cx};
use crate::error::{Result, err};
use abi::Errno;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// "Leave it" in `setreuid(2)` and so on.
pub const KEEP: u32 = u32::MAX;

/// `SECBIT_NOROOT`, and so on (`uapi/linux/securebits.h`).
#[allow(missing_docs)]
pub mod secbit {
    pub const NO_SETUID_FIXUP: u32 = 1 << 2;
    pub const KEEP_CAPS: u32 = 1 << 4;
    pub const KEEP_CAPS_LOCKED: u32 = 1 << 5;
    pub const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
    /// Every bit that exists, and the half of them that locks the other half.
    pub const ALL: u32 = 0xff;
    pub const LOCKS: u32 = 0xaa;
}

/// Capabilities that belong to file-system ids: `CAP_FS_SET` (CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID,
/// LINUX_IMMUTABLE, MKNOD, MAC_OVERRIDE).
const FS_CAPS: u64 = 0b11111 | 1 << 9 | 1 << 27 | 1 << 32;

/// Makes new credentials the task's. A change of identity or a gain of capabilities makes the process undumpable and forgets the parent-death
/// signal (`prctl(2)`, `PR_SET_DUMPABLE` and `PR_SET_PDEATHSIG`).
pub fn commit(cx: &Cx, new: Creds) {
    let old = cx.task.creds();
    let moved = (old.euid, old.egid, old.fsuid, old.fsgid) != (new.euid, new.egid, new.fsuid, new.fsgid);
    if moved || new.permitted & !old.permitted != 0 {
        cx.process().dumpable.store(0, Ordering::Relaxed);
        cx.task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    if old.uid != new.uid {
        cx.kernel.pids.change_owner(cx.task.tid(), new.uid);
    }
    *cx.task.creds.lock() = Arc::new(new);
    cx.answers_stale.set(true);
}

impl Creds {
    /// `setuid(2)`.
    pub fn with_uid(&self, uid: u32) -> Result<Creds> {
        let mut new = self.clone();
        if uid == KEEP {
            return err(Errno::EINVAL);
        }
        if self.has(Cap::Setuid) {
            (new.uid, new.suid) = (uid, uid);
        } else if uid != self.uid && uid != self.suid {
            return err(Errno::EPERM);
        }
        (new.euid, new.fsuid) = (uid, uid);
        Ok(new.uid_changed(self))
    }

    /// `setreuid(2)`.
    pub fn with_reuid(&self, ruid: u32, euid: u32) -> Result<Creds> {
        let mut new = self.clone();
        let cap = self.has(Cap::Setuid);
        if ruid != KEEP {
            if !cap && ![self.uid, self.euid].contains(&ruid) {
                return err(Errno::EPERM);
            }
            new.uid = ruid;
        }
        if euid != KEEP {
            if !cap && ![self.uid, self.euid, self.suid].contains(&euid) {
                return err(Errno::EPERM);
            }
            new.euid = euid;
        }
        if ruid != KEEP || (euid != KEEP && euid != self.uid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        Ok(new.uid_changed(self))
    }

    /// `setresuid(2)`.
    pub fn with_resuid(&self, ruid: u32, euid: u32, suid: u32) -> Result<Creds> {
        let mine = [self.uid, self.euid, self.suid];
        let allowed = |id: &u32| *id == KEEP || mine.contains(id);
        if !self.has(Cap::Setuid) && ![ruid, euid, suid].iter().all(allowed) {
            return err(Errno::EPERM);
        }
        let mut new = self.clone();
        let pick = |id: u32, old: u32| if id == KEEP { old } else { id };
        (new.uid, new.euid, new.suid) = (pick(ruid, self.uid), pick(euid, self.euid), pick(suid, self.suid));
        new.fsuid = new.euid;
        Ok(new.uid_changed(self))
    }

    /// `setfsuid(2)`: `None` when nothing changes, which is not an error.
    pub fn with_fsuid(&self, uid: u32) -> Option<Creds> {
        let allowed = [self.uid, self.euid, self.suid, self.fsuid].contains(&uid) || self.has(Cap::Setuid);
        if !allowed || uid == self.fsuid || uid == KEEP {
            return None;
        }
        let mut new = self.clone();
        new.fsuid = uid;
        if self.securebits & secbit::NO_SETUID_FIXUP == 0 {
            if self.fsuid == 0 {
                new.effective &= !FS_CAPS;
            } else if uid == 0 {
                new.effective |= self.permitted & FS_CAPS;
            }
        }
        Some(new)
    }

    /// `setgid(2)`.
    pub fn with_gid(&self, gid: u32) -> Result<Creds> {
        let mut new = self.clone();
        if gid == KEEP {
            return err(Errno::EINVAL);
        }
        if self.has(Cap::Setgid) {
            (new.gid, new.sgid) = (gid, gid);
        } else if gid != self.gid && gid != self.sgid {
            return err(Errno::EPERM);
        }
        (new.egid, new.fsgid) = (gid, gid);
        Ok(new)
    }

    /// `setregid(2)`.
    pub fn with_regid(&self, rgid: u32, egid: u32) -> Result<Creds> {
        let mut new = self.clone();
        let cap = self.has(Cap::Setgid);
        if rgid != KEEP {
            if !cap && ![self.gid, self.egid].contains(&rgid) {
                return err(Errno::EPERM);
            }
            new.gid = rgid;
        }
        if egid != KEEP {
            if !cap && ![self.gid, self.egid, self.sgid].contains(&egid) {
                return err(Errno::EPERM);
            }
            new.egid = egid;
        }
        if rgid != KEEP || (egid != KEEP && egid != self.gid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(new)
    }

    /// `setresgid(2)`.
    pub fn with_resgid(&self, rgid: u32, egid: u32, sgid: u32) -> Result<Creds> {
        let mine = [self.gid, self.egid, self.sgid];
        let allowed = |id: &u32| *id == KEEP || mine.contains(id);
        if !self.has(Cap::Setgid) && ![rgid, egid, sgid].iter().all(allowed) {
            return err(Errno::EPERM);
        }
        let mut new = self.clone();
        let pick = |id: u32, old: u32| if id == KEEP { old } else { id };
        (new.gid, new.egid, new.sgid) = (pick(rgid, self.gid), pick(egid, self.egid), pick(sgid, self.sgid));
        new.fsgid = new.egid;
        Ok(new)
    }

    /// `setfsgid(2)`: `None` when nothing changes.
    pub fn with_fsgid(&self, gid: u32) -> Option<Creds> {
        let allowed = [self.gid, self.egid, self.sgid, self.fsgid].contains(&gid) || self.has(Cap::Setgid);
        if !allowed || gid == self.fsgid || gid == KEEP {
            return None;
        }
        Some(Creds { fsgid: gid, ..self.clone() })
    }

    /// What a change of user ids does to capabilities (`capabilities(7)`, "Effect of user ID changes on capabilities").
    fn uid_changed(mut self, old: &Creds) -> Creds {
        if old.securebits & secbit::NO_SETUID_FIXUP != 0 {
            return self;
        }
        let any_root = |c: &Creds| c.uid == 0 || c.euid == 0 || c.suid == 0;
        if any_root(old) && !any_root(&self) {
            if old.securebits & secbit::KEEP_CAPS == 0 {
                (self.permitted, self.effective) = (0, 0);
            }
            self.ambient = 0;
        }
        if old.euid == 0 && self.euid != 0 {
            self.effective = 0;
        }
        if old.euid != 0 && self.euid == 0 {
            self.effective = self.permitted;
        }
        self
    }

    /// `capset(2)`.
    pub fn with_caps(&self, effective: u64, permitted: u64, inheritable: u64) -> Result<Creds> {
        let (effective, permitted, inheritable) =
            (effective & CAP_FULL, permitted & CAP_FULL, inheritable & CAP_FULL);
        let beyond = |set: u64, limit: u64| set & !limit != 0;
        if (!self.has(Cap::Setpcap) && beyond(inheritable, self.inheritable | self.permitted))
            || beyond(inheritable, self.inheritable | self.bounding)
            || beyond(permitted, self.permitted)
            || beyond(effective, permitted)
        {
            return err(Errno::EPERM);
        }
        let ambient = self.ambient & permitted & inheritable;
        Ok(Creds { effective, permitted, inheritable, ambient, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn user() -> Creds {
        Creds::new(1000, 1000, Vec::new())
    }

    #[test]
    fn root_that_leaves_for_good_loses_its_capabilities() {
        let new = Creds::new(0, 0, Vec::new()).with_uid(1000).unwrap();
        assert_eq!((new.uid, new.euid, new.suid, new.fsuid), (1000, 1000, 1000, 1000));
        assert_eq!((new.permitted, new.effective), (0, 0));
        assert_eq!(new.with_uid(0).unwrap_err().errno(), Errno::EPERM);
    }

    #[test]
    fn root_that_may_come_back_keeps_the_permitted_set() {
        let root = Creds::new(0, 0, Vec::new());
        let away = root.with_resuid(KEEP, 1000, KEEP).unwrap();
        assert_eq!((away.effective, away.permitted), (0, CAP_FULL));
        assert_eq!(away.fsuid, 1000);
        let back = away.with_resuid(KEEP, 0, KEEP).unwrap();
        assert_eq!(back.effective, CAP_FULL);
    }

    #[test]
    fn keep_caps_keeps_permitted_only() {
        let mut root = Creds::new(0, 0, Vec::new());
        root.securebits = secbit::KEEP_CAPS;
        root.inheritable = 1;
        root.ambient = 1;
        let new = root.with_resuid(1, 1, 1).unwrap();
        assert_eq!((new.effective, new.permitted, new.ambient), (0, CAP_FULL, 0));
    }

    #[test]
    fn a_user_swaps_only_its_own_ids() {
        let mut setuid_program = user();
        (setuid_program.euid, setuid_program.suid) = (50, 50);
        let swapped = setuid_program.with_reuid(50, 1000).unwrap();
        assert_eq!((swapped.uid, swapped.euid, swapped.suid), (50, 1000, 1000));
        assert!(user().with_reuid(KEEP, 1).is_err());
        assert!(user().with_resuid(1000, 1000, 1).is_err());
        assert!(user().with_gid(5).is_err());
        assert_eq!(user().with_uid(KEEP).unwrap_err().errno(), Errno::EINVAL);
    }

    #[test]
    fn setfsuid_moves_the_file_capabilities() {
        let root = Creds::new(0, 0, Vec::new());
        let away = root.with_fsuid(7).unwrap();
        assert_eq!(away.effective, CAP_FULL & !FS_CAPS);
        assert_eq!(away.with_fsuid(0).unwrap().effective, CAP_FULL);
        assert!(user().with_fsuid(7).is_none());
    }

    #[test]
    fn capset_only_takes_away() {
        let root = Creds::new(0, 0, Vec::new());
        let less = root.with_caps(1, 3, 0).unwrap();
        assert!(less.with_caps(4, 7, 0).is_err());
        assert!(less.with_caps(2, 1, 0).is_err(), "effective beyond permitted");
        assert!(less.with_caps(0, 3, 2).is_ok());
        assert!(less.with_caps(0, 3, 4).is_err(), "inheritable beyond permitted without CAP_SETPCAP");
    }
}
