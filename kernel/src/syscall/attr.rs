//! Attributes: `stat` and its kin, modes, owners, times, sizes.

use super::dir::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, lookup};
use super::io::plain;
use crate::error::{Result, err};
use crate::fs::perm::{self, Access};
use crate::fs::walk::{self, Lookup};
use crate::fs::{Fd, Path, ops};
use crate::task::{Creds, Cx};
use crate::user::{UserCStr, UserPtr};
use abi::Errno;
use abi::fs::{Attr, FileType, Stat, Statfs, Statx, StatxTimestamp};
use abi::time::{Timespec, Timeval};
use alloc::sync::Arc;
use hal::TimeSet;

/// `AT_EACCESS`.
const AT_EACCESS: u32 = 0x200;
/// `AT_NO_AUTOMOUNT`.
const AT_NO_AUTOMOUNT: u32 = 0x800;
/// `AT_STATX_SYNC_TYPE`.
const AT_STATX_SYNC_TYPE: u32 = 0x6000;

pub(super) fn stat(cx: &Cx, path: UserCStr, buf: UserPtr<Stat>) -> Result<()> {
    newfstatat(cx, Fd::CWD, path, buf, 0)
}

pub(super) fn lstat(cx: &Cx, path: UserCStr, buf: UserPtr<Stat>) -> Result<()> {
    newfstatat(cx, Fd::CWD, path, buf, AT_SYMLINK_NOFOLLOW)
}

pub(super) fn fstat(cx: &Cx, fd: Fd, buf: UserPtr<Stat>) -> Result<()> {
    let attr = cx.file(fd)?.attr()?;
    buf.write(cx, &Stat::from(&attr))
}

pub(super) fn newfstatat(cx: &Cx, dirfd: Fd, path: UserCStr, buf: UserPtr<Stat>, flags: u32) -> Result<()> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return err(Errno::EINVAL);
    }
    let (attr, _) = attr_at(cx, dirfd, path, flags)?;
    buf.write(cx, &Stat::from(&attr))
}

/// The attributes of what is named, and the number of its mount and whether it is the mount's root.
fn attr_at(cx: &Cx, dirfd: Fd, path: UserCStr, flags: u32) -> Result<(Attr, Option<(u32, bool)>)> {
    // A null path is as good as an empty one since Linux 6.11.
    let text = match path.is_null() && flags & AT_EMPTY_PATH != 0 {
        true => Default::default(),
        false => path.read_path(cx)?,
    };
    if text.is_empty() && flags & AT_EMPTY_PATH != 0 && dirfd != Fd::CWD {
        let of = cx.file(dirfd)?;
        return Ok((of.attr()?, of.path.as_ref().map(mount_of)));
    }
    let at = walk::resolve(cx, dirfd, &text, lookup(flags))?;
    Ok((at.dentry.inode.attr()?, Some(mount_of(&at))))
}

fn mount_of(at: &Path) -> (u32, bool) {
    (at.mount.id, Arc::ptr_eq(&at.dentry, &at.mount.root))
}

/// `STATX_BASIC_STATS`.
const STATX_BASIC: u32 = 0x7ff;
/// `STATX_BTIME`.
const STATX_BTIME: u32 = 0x800;
/// `STATX_MNT_ID`.
const STATX_MNT_ID: u32 = 0x1000;
/// `STATX__RESERVED`.
const STATX_RESERVED: u32 = 0x8000_0000;
/// `STATX_ATTR_MOUNT_ROOT`.
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

pub(super) fn statx(
    cx: &Cx,
    dirfd: Fd,
    path: UserCStr,
    flags: u32,
    mask: u32,
    buf: UserPtr<Statx>,
) -> Result<()> {
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if mask & STATX_RESERVED != 0 || flags & !known != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE {
        return err(Errno::EINVAL);
    }
    let (attr, mount) = attr_at(cx, dirfd, path, flags)?;
    let time = |t: Timespec| StatxTimestamp { sec: t.sec, nsec: t.nsec as u32, reserved: 0 };
    let mut out = Statx {
        mask: STATX_BASIC,
        blksize: attr.blksize,
        attributes_mask: STATX_ATTR_MOUNT_ROOT,
        nlink: attr.nlink as u32,
        uid: attr.uid,
        gid: attr.gid,
        mode: attr.mode as u16,
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major: attr.rdev.major,
        rdev_minor: attr.rdev.minor,
        dev_major: attr.dev.major,
        dev_minor: attr.dev.minor,
        ..Statx::default()
    };
    if let Some(btime) = attr.btime {
        out.mask |= STATX_BTIME;
        out.btime = time(btime);
    }
    if let Some((id, root)) = mount {
        out.mask |= STATX_MNT_ID;
        out.mnt_id = u64::from(id);
        if root {
            out.attributes |= STATX_ATTR_MOUNT_ROOT;
        }
    }
    buf.write(cx, &out)
}

pub(super) fn access(cx: &Cx, path: UserCStr, mode: u32) -> Result<()> {
    faccessat2(cx, Fd::CWD, path, mode, 0)
}

pub(super) fn faccessat(cx: &Cx, dirfd: Fd, path: UserCStr, mode: u32) -> Result<()> {
    faccessat2(cx, dirfd, path, mode, 0)
}

pub(super) fn faccessat2(cx: &Cx, dirfd: Fd, path: UserCStr, mode: u32, flags: u32) -> Result<()> {
    let access = Access::from_bits(mode).ok_or(Errno::EINVAL)?;
    if flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return err(Errno::EINVAL);
    }
    let creds = if flags & AT_EACCESS != 0 { cx.task.creds() } else { real_identity(&cx.task.creds()) };
    let path = path.read_path(cx)?;
    let at = walk::resolve_as(cx, &creds, dirfd, &path, lookup(flags))?;
    let attr = at.dentry.inode.attr()?;
    let regular = attr.file_type() == FileType::Regular;
    if access.contains(Access::EXEC) && regular && !walk::may_execute(&at) {
        return err(Errno::EACCES);
    }
    let special = matches!(
        attr.file_type(),
        FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket
    );
    perm::check(&creds, &attr, access)?;
    if access.contains(Access::WRITE) && !special {
        at.want_write()?;
    }
    Ok(())
}

/// `access(2)` asks for the real user, with the capabilities that it would have.
fn real_identity(creds: &Creds) -> Arc<Creds> {
    let effective = if creds.uid == 0 { creds.permitted } else { 0 };
    Arc::new(Creds { fsuid: creds.uid, fsgid: creds.gid, effective, ..creds.clone() })
}

pub(super) fn chmod(cx: &Cx, path: UserCStr, mode: u32) -> Result<()> {
    fchmodat2(cx, Fd::CWD, path, mode, 0)
}

pub(super) fn fchmod(cx: &Cx, fd: Fd, mode: u32) -> Result<()> {
    let of = plain(cx, fd)?;
    ops::chmod(cx, &walk::path_of(cx, &of), mode)
}

pub(super) fn fchmodat(cx: &Cx, dirfd: Fd, path: UserCStr, mode: u32) -> Result<()> {
    fchmodat2(cx, dirfd, path, mode, 0)
}

pub(super) fn fchmodat2(cx: &Cx, dirfd: Fd, path: UserCStr, mode: u32, flags: u32) -> Result<()> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return err(Errno::EINVAL);
    }
    let path = path.read_path(cx)?;
    ops::chmod(cx, &walk::resolve(cx, dirfd, &path, lookup(flags))?, mode)
}

fn id(raw: u32) -> Option<u32> {
    (raw != u32::MAX).then_some(raw)
}

pub(super) fn chown(cx: &Cx, path: UserCStr, uid: u32, gid: u32) -> Result<()> {
    fchownat(cx, Fd::CWD, path, uid, gid, 0)
}

pub(super) fn lchown(cx: &Cx, path: UserCStr, uid: u32, gid: u32) -> Result<()> {
    fchownat(cx, Fd::CWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)
}

pub(super) fn fchown(cx: &Cx, fd: Fd, uid: u32, gid: u32) -> Result<()> {
    let of = plain(cx, fd)?;
    ops::chown(cx, &walk::path_of(cx, &of), id(uid), id(gid))
}

pub(super) fn fchownat(cx: &Cx, dirfd: Fd, path: UserCStr, uid: u32, gid: u32, flags: u32) -> Result<()> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return err(Errno::EINVAL);
    }
    let path = path.read_path(cx)?;
    ops::chown(cx, &walk::resolve(cx, dirfd, &path, lookup(flags))?, id(uid), id(gid))
}

/// `UTIME_NOW`.
const UTIME_NOW: i64 = (1 << 30) - 1;
/// `UTIME_OMIT`.
const UTIME_OMIT: i64 = (1 << 30) - 2;

fn time_set(t: Timespec) -> Result<Option<TimeSet>> {
    match t.nsec {
        UTIME_NOW => Ok(Some(TimeSet::Now)),
        UTIME_OMIT => Ok(None),
        0..=999_999_999 => Ok(Some(TimeSet::At(t))),
        _ => err(Errno::EINVAL),
    }
}

pub(super) fn utimensat(
    cx: &Cx,
    dirfd: Fd,
    path: UserCStr,
    times: UserPtr<Timespec>,
    flags: u32,
) -> Result<()> {
    let (atime, mtime) = match times.non_null() {
        None => (Some(TimeSet::Now), Some(TimeSet::Now)),
        Some(times) => (time_set(times.read(cx)?)?, time_set(times.add(1).read(cx)?)?),
    };
    if (atime, mtime) == (None, None) {
        return Ok(());
    }
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return err(Errno::EINVAL);
    }
    set_times(cx, dirfd, path, (atime, mtime), flags)
}

fn set_times(
    cx: &Cx,
    dirfd: Fd,
    path: UserCStr,
    (atime, mtime): (Option<TimeSet>, Option<TimeSet>),
    flags: u32,
) -> Result<()> {
    let at = if path.is_null() && dirfd != Fd::CWD {
        if flags != 0 {
            return err(Errno::EINVAL);
        }
        walk::path_of(cx, &plain(cx, dirfd)?)
    } else {
        let path = path.read_path(cx)?;
        walk::resolve(cx, dirfd, &path, lookup(flags))?
    };
    ops::set_times(cx, &at, atime, mtime)
}

pub(super) fn futimesat(cx: &Cx, dirfd: Fd, path: UserCStr, times: UserPtr<Timeval>) -> Result<()> {
    let set = match times.non_null() {
        None => (Some(TimeSet::Now), Some(TimeSet::Now)),
        Some(times) => {
            let at = |t: Timeval| {
                if !(0..1_000_000).contains(&t.usec) {
                    return err(Errno::EINVAL);
                }
                Ok(Some(TimeSet::At(Timespec { sec: t.sec, nsec: t.usec * 1000 })))
            };
            (at(times.read(cx)?)?, at(times.add(1).read(cx)?)?)
        }
    };
    set_times(cx, dirfd, path, set, 0)
}

pub(super) fn utimes(cx: &Cx, path: UserCStr, times: UserPtr<Timeval>) -> Result<()> {
    futimesat(cx, Fd::CWD, path, times)
}

pub(super) fn utime(cx: &Cx, path: UserCStr, times: UserPtr<i64>) -> Result<()> {
    let set = match times.non_null() {
        None => (Some(TimeSet::Now), Some(TimeSet::Now)),
        Some(times) => {
            let at = |sec| Some(TimeSet::At(Timespec { sec, nsec: 0 }));
            (at(times.read(cx)?), at(times.add(1).read(cx)?))
        }
    };
    set_times(cx, Fd::CWD, path, set, 0)
}

pub(super) fn truncate(cx: &Cx, path: UserCStr, len: i64) -> Result<()> {
    let len = u64::try_from(len).map_err(|_| Errno::EINVAL)?;
    let path = path.read_path(cx)?;
    ops::truncate(cx, &walk::resolve(cx, Fd::CWD, &path, Lookup::empty())?, len)
}

pub(super) fn ftruncate(cx: &Cx, fd: Fd, len: i64) -> Result<()> {
    let len = u64::try_from(len).map_err(|_| Errno::EINVAL)?;
    ops::ftruncate(cx, &*plain(cx, fd)?, len)
}

fn statfs_of(at: &Path) -> Result<Statfs> {
    let mut out = at.mount.fs.statfs()?;
    // ST_VALID: the flags are meant.
    out.flags = i64::from((at.mount.flags() & crate::fs::MountFlags::STATFS).bits()) | 0x20;
    if at.mount.flags().contains(crate::fs::MountFlags::RELATIME) {
        out.flags |= 0x1000;
    }
    Ok(out)
}

pub(super) fn statfs(cx: &Cx, path: UserCStr, buf: UserPtr<Statfs>) -> Result<()> {
    let path = path.read_path(cx)?;
    let at = walk::resolve(cx, Fd::CWD, &path, Lookup::empty())?;
    buf.write(cx, &statfs_of(&at)?)
}

pub(super) fn fstatfs(cx: &Cx, fd: Fd, buf: UserPtr<Statfs>) -> Result<()> {
    let at = walk::path_of(cx, &cx.file(fd)?);
    buf.write(cx, &statfs_of(&at)?)
}
