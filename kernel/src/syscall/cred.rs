//! User and group ids, supplementary groups and capabilities.

use crate::error::{Result, err};
use crate::task::{Cap, Creds, Cx, ids};
use crate::user::UserPtr;
use abi::Errno;
use abi::system::{CapData, CapHeader};

/// `NGROUPS_MAX`.
const NGROUPS_MAX: usize = 65536;

pub(super) fn getuid(cx: &Cx) -> Result<u32> {
    Ok(cx.task.creds().uid)
}

pub(super) fn geteuid(cx: &Cx) -> Result<u32> {
    Ok(cx.task.creds().euid)
}

pub(super) fn getgid(cx: &Cx) -> Result<u32> {
    Ok(cx.task.creds().gid)
}

pub(super) fn getegid(cx: &Cx) -> Result<u32> {
    Ok(cx.task.creds().egid)
}

pub(super) fn getresuid(cx: &Cx, r: UserPtr<u32>, e: UserPtr<u32>, s: UserPtr<u32>) -> Result<()> {
    let creds = cx.task.creds();
    r.write(cx, &creds.uid)?;
    e.write(cx, &creds.euid)?;
    s.write(cx, &creds.suid)
}

pub(super) fn getresgid(cx: &Cx, r: UserPtr<u32>, e: UserPtr<u32>, s: UserPtr<u32>) -> Result<()> {
    let creds = cx.task.creds();
    r.write(cx, &creds.gid)?;
    e.write(cx, &creds.egid)?;
    s.write(cx, &creds.sgid)
}

pub(super) fn setuid(cx: &Cx, uid: u32) -> Result<()> {
    change(cx, |old| old.with_uid(uid))
}

pub(super) fn setgid(cx: &Cx, gid: u32) -> Result<()> {
    change(cx, |old| old.with_gid(gid))
}

pub(super) fn setreuid(cx: &Cx, ruid: u32, euid: u32) -> Result<()> {
    change(cx, |old| old.with_reuid(ruid, euid))
}

pub(super) fn setregid(cx: &Cx, rgid: u32, egid: u32) -> Result<()> {
    change(cx, |old| old.with_regid(rgid, egid))
}

pub(super) fn setresuid(cx: &Cx, ruid: u32, euid: u32, suid: u32) -> Result<()> {
    change(cx, |old| old.with_resuid(ruid, euid, suid))
}

pub(super) fn setresgid(cx: &Cx, rgid: u32, egid: u32, sgid: u32) -> Result<()> {
    change(cx, |old| old.with_resgid(rgid, egid, sgid))
}

/// Returns the old id, whether or not it changed.
pub(super) fn setfsuid(cx: &Cx, uid: u32) -> Result<u32> {
    let old = cx.task.creds();
    if let Some(new) = old.with_fsuid(uid) {
        ids::commit(cx, new);
    }
    Ok(old.fsuid)
}

/// Returns the old id, whether or not it changed.
pub(super) fn setfsgid(cx: &Cx, gid: u32) -> Result<u32> {
    let old = cx.task.creds();
    if let Some(new) = old.with_fsgid(gid) {
        ids::commit(cx, new);
    }
    Ok(old.fsgid)
}

fn change(cx: &Cx, rule: impl FnOnce(&Creds) -> Result<Creds>) -> Result<()> {
    let new = rule(&cx.task.creds())?;
    ids::commit(cx, new);
    Ok(())
}

pub(super) fn getgroups(cx: &Cx, size: i32, list: UserPtr<u32>) -> Result<usize> {
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let creds = cx.task.creds();
    if size != 0 {
        if size < creds.groups.len() {
            return err(Errno::EINVAL);
        }
        list.write_array(cx, &creds.groups)?;
    }
    Ok(creds.groups.len())
}

pub(super) fn setgroups(cx: &Cx, size: i32, list: UserPtr<u32>) -> Result<()> {
    let old = cx.task.creds();
    if !old.has(Cap::Setgid) {
        return err(Errno::EPERM);
    }
    let size = usize::try_from(size).ok().filter(|&n| n <= NGROUPS_MAX).ok_or(Errno::EINVAL)?;
    let mut groups = list.read_array(cx, size)?;
    if groups.contains(&u32::MAX) {
        return err(Errno::EINVAL);
    }
    groups.sort_unstable();
    ids::commit(cx, Creds { groups, ..(*old).clone() });
    Ok(())
}

/// Reads the header and says how many [`CapData`] belong to its version; tells the preferred version when it is unknown.
fn cap_header(cx: &Cx, header: UserPtr<CapHeader>) -> Result<(CapHeader, Option<usize>)> {
    const V1: u32 = 0x1998_0330;
    const V2: u32 = 0x2007_1026;
    const V3: u32 = 0x2008_0522;
    let got = header.read(cx)?;
    let words = match got.version {
        V1 => Some(1),
        V2 | V3 => Some(2),
        _ => {
            header.cast::<u32>().write(cx, &V3)?;
            None
        }
    };
    Ok((got, words))
}

pub(super) fn capget(cx: &Cx, header: UserPtr<CapHeader>, data: UserPtr<CapData>) -> Result<()> {
    let (head, words) = cap_header(cx, header)?;
    if data.is_null() {
        return Ok(());
    }
    let Some(words) = words else { return err(Errno::EINVAL) };
    if head.pid < 0 {
        return err(Errno::EINVAL);
    }
    let creds = match head.pid {
        0 => cx.task.creds(),
        pid => cx.kernel.pids.task(pid).ok_or(Errno::ESRCH)?.creds(),
    };
    for i in 0..words {
        let half = |set: u64| (set >> (32 * i)) as u32;
        let value = CapData {
            effective: half(creds.effective),
            permitted: half(creds.permitted),
            inheritable: half(creds.inheritable),
        };
        data.add(i).write(cx, &value)?;
    }
    Ok(())
}

pub(super) fn capset(cx: &Cx, header: UserPtr<CapHeader>, data: UserPtr<CapData>) -> Result<()> {
    let (head, words) = cap_header(cx, header)?;
    let Some(words) = words else { return err(Errno::EINVAL) };
    if head.pid != 0 && head.pid != cx.task.tid() {
        return err(Errno::EPERM);
    }
    let (mut effective, mut permitted, mut inheritable) = (0u64, 0u64, 0u64);
    for (i, half) in data.read_array(cx, words)?.iter().enumerate() {
        effective |= u64::from(half.effective) << (32 * i);
        permitted |= u64::from(half.permitted) << (32 * i);
        inheritable |= u64::from(half.inheritable) << (32 * i);
    }
    change(cx, |old| old.with_caps(effective, permitted, inheritable))
}
