//! Credentials (`credentials(7)`, `capabilities(7)`).

use alloc::vec::Vec;

/// Capabilities by number (`uapi/linux/capability.h`), those that the kernel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Cap {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    LinuxImmutable = 9,
    NetBindService = 10,
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    IpcOwner = 15,
    SysModule = 16,
    SysRawio = 17,
    SysChroot = 18,
    SysPtrace = 19,
    SysPacct = 20,
    SysAdmin = 21,
    SysBoot = 22,
    SysNice = 23,
    SysResource = 24,
    SysTime = 25,
    SysTtyConfig = 26,
    Mknod = 27,
    Lease = 28,
    Setfcap = 31,
}

/// The highest capability number (`CAP_LAST_CAP`).
pub const CAP_LAST: u32 = 40;
/// All capabilities.
pub const CAP_FULL: u64 = (1 << (CAP_LAST + 1)) - 1;

/// A task's identity. Immutable; a change makes a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Creds {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
    pub securebits: u32,
}

impl Creds {
    /// A user with all ids the same; user 0 has every capability.
    pub fn new(uid: u32, gid: u32, groups: Vec<u32>) -> Creds {
        let caps = if uid == 0 { CAP_FULL } else { 0 };
        Creds {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups,
            effective: caps,
            permitted: caps,
            inheritable: 0,
            bounding: CAP_FULL,
            ambient: 0,
            securebits: 0,
        }
    }

    /// Whether an effective capability is there.
    pub fn has(&self, cap: Cap) -> bool {
        self.effective & (1 << cap as u8) != 0
    }

    /// Whether `gid` is the file-system group or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// Whether `gid` is the effective group or a supplementary one.
    pub fn in_egroup(&self, gid: u32) -> bool {
        self.egid == gid || self.groups.contains(&gid)
    }

    /// The capability sets after an `execve` of a file without capabilities of its own (`capabilities(7)`): user 0 has all that
    /// the bounding set allows, others keep the ambient ones.
    pub fn after_exec(&mut self) {
        const SECBIT_NOROOT: u32 = 1;
        let root = self.securebits & SECBIT_NOROOT == 0;
        if self.euid == 0 && root {
            self.permitted = self.bounding;
            self.effective = self.permitted;
        } else {
            self.permitted = self.ambient | if self.uid == 0 && root { self.bounding } else { 0 };
            self.effective = self.ambient;
        }
        if self.euid != self.uid || self.egid != self.gid {
            self.ambient = 0;
        }
    }
}
