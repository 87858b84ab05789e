//! Directories, names and links.

use super::io::plain;
use crate::error::{Result, err};
use crate::fs::perm::{self, Access};
use crate::fs::walk::{self, Lookup};
use crate::fs::{self, Fd, ops};
use crate::task::{Cap, Cx};
use crate::user::{UserCStr, UserPtr};
use abi::Errno;
use abi::fs::{DeviceId, FileType};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// `AT_SYMLINK_NOFOLLOW`.
pub(super) const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
/// `AT_REMOVEDIR`.
const AT_REMOVEDIR: u32 = 0x200;
/// `AT_SYMLINK_FOLLOW`.
const AT_SYMLINK_FOLLOW: u32 = 0x400;
/// `AT_EMPTY_PATH`.
pub(super) const AT_EMPTY_PATH: u32 = 0x1000;
/// Most bytes that one call lists: more would only be held twice.
const LIST_MAX: usize = 256 << 10;
/// Bytes that there is room for at first.
const LIST_FIRST: usize = 4096;

/// How `AT_*` flags walk.
pub(super) fn lookup(flags: u32) -> Lookup {
    let mut lookup = Lookup::empty();
    lookup.set(Lookup::NOFOLLOW, flags & AT_SYMLINK_NOFOLLOW != 0);
    lookup.set(Lookup::EMPTY_PATH, flags & AT_EMPTY_PATH != 0);
    lookup
}

pub(super) fn getdents64(cx: &Cx, fd: Fd, buf: UserPtr<u8>, count: u32) -> Result<usize> {
    list(cx, fd, buf, count, true)
}

pub(super) fn getdents(cx: &Cx, fd: Fd, buf: UserPtr<u8>, count: u32) -> Result<usize> {
    list(cx, fd, buf, count, false)
}

/// `struct linux_dirent64` and the old `struct linux_dirent`, whose type stands in the last byte.
fn list(cx: &Cx, fd: Fd, buf: UserPtr<u8>, count: u32, wide: bool) -> Result<usize> {
    let of = plain(cx, fd)?;
    let is_dir = match &of.path {
        Some(at) => at.dentry.file_type()? == FileType::Directory,
        None => false,
    };
    if !is_dir {
        return err(Errno::ENOTDIR);
    }
    let count = (count as usize).min(LIST_MAX);
    let mut out: Vec<u8> = Vec::with_capacity(count.min(LIST_FIRST));
    let mut full = false;
    let before = of.pos();
    fs::read_dir(cx, &of, &mut |entry| {
        let head = if wide { 19 } else { 18 };
        let tail = if wide { 1 } else { 2 };
        let len = (head + entry.name.len() + tail).next_multiple_of(8);
        if out.len() + len > count {
            full = true;
            return false;
        }
        let start = out.len();
        let kind = entry.file_type.dirent_type();
        let mut fixed = [0; 19];
        fixed[..8].copy_from_slice(&entry.ino.to_ne_bytes());
        fixed[8..16].copy_from_slice(&entry.next.to_ne_bytes());
        fixed[16..18].copy_from_slice(&(len as u16).to_ne_bytes());
        fixed[18] = kind;
        out.extend_from_slice(fixed.get(..head).unwrap_or_default());
        out.extend_from_slice(entry.name);
        out.resize(start + len, 0);
        if let (false, Some(last)) = (wide, out.last_mut()) {
            *last = kind;
        }
        true
    })?;
    if out.is_empty() && full {
        return err(Errno::EINVAL);
    }
    if let Err(e) = buf.write_bytes(cx, &out) {
        of.set_pos(before);
        return Err(e);
    }
    let len = out.len();
    if let (true, Some(at)) = (wide, &of.path) {
        cx.ahead.borrow_mut().listed(&at.dentry, before > 0, out);
    }
    Ok(len)
}

pub(super) fn getcwd(cx: &Cx, buf: UserPtr<u8>, size: usize) -> Result<usize> {
    let (cwd, root) = (walk::cwd(cx)?, walk::root(cx)?);
    if cwd.dentry.is_deleted() {
        return err(Errno::ENOENT);
    }
    let mut text = walk::path_string(&root, &cwd);
    text.push(0);
    if text.len() > size {
        return err(Errno::ERANGE);
    }
    buf.write_bytes(cx, &text)?;
    Ok(text.len())
}

pub(super) fn chdir(cx: &Cx, path: UserCStr) -> Result<()> {
    let path = path.read_path(cx)?;
    walk::change_directory(cx, &path)
}

pub(super) fn fchdir(cx: &Cx, fd: Fd) -> Result<()> {
    let of = cx.file(fd)?;
    match &of.path {
        Some(at) => walk::set_cwd(cx, at.clone()),
        None => err(Errno::ENOTDIR),
    }
}

pub(super) fn chroot(cx: &Cx, path: UserCStr) -> Result<()> {
    let path = path.read_path(cx)?;
    let at = walk::resolve(cx, Fd::CWD, &path, Lookup::DIRECTORY)?;
    let creds = cx.task.creds();
    perm::check(&creds, &at.dentry.inode.attr()?, Access::EXEC)?;
    if !creds.has(Cap::SysChroot) {
        return err(Errno::EPERM);
    }
    let fs = cx.fs();
    let before = fs.dirs.lock().as_mut().map(|dirs| core::mem::replace(&mut dirs.1, at));
    drop(before);
    Ok(())
}

pub(super) fn umask(cx: &Cx, mask: u32) -> Result<u32> {
    Ok(cx.fs().umask.swap(mask & 0o777, Ordering::Relaxed))
}

pub(super) fn mkdir(cx: &Cx, path: UserCStr, mode: u32) -> Result<()> {
    mkdirat(cx, Fd::CWD, path, mode)
}

pub(super) fn mkdirat(cx: &Cx, dirfd: Fd, path: UserCStr, mode: u32) -> Result<()> {
    ops::mkdir(cx, dirfd, &path.read_path(cx)?, mode).map(drop)
}

pub(super) fn mknod(cx: &Cx, path: UserCStr, mode: u32, dev: u64) -> Result<()> {
    mknodat(cx, Fd::CWD, path, mode, dev)
}

pub(super) fn mknodat(cx: &Cx, dirfd: Fd, path: UserCStr, mode: u32, dev: u64) -> Result<()> {
    let file_type = match mode & 0o170000 {
        0 => FileType::Regular,
        0o040000 => return err(Errno::EPERM),
        bits => FileType::from_mode(bits).filter(|t| *t != FileType::Symlink).ok_or(Errno::EINVAL)?,
    };
    // The call takes 32 bits of device number (`new_decode_dev`).
    let dev = DeviceId::decode(dev & 0xffff_ffff);
    let path = path.read_path(cx)?;
    ops::mknod(cx, dirfd, &path, file_type, mode & 0o7777, dev).map(drop)
}

pub(super) fn rmdir(cx: &Cx, path: UserCStr) -> Result<()> {
    ops::rmdir(cx, Fd::CWD, &path.read_path(cx)?)
}

pub(super) fn unlink(cx: &Cx, path: UserCStr) -> Result<()> {
    ops::unlink(cx, Fd::CWD, &path.read_path(cx)?)
}

pub(super) fn unlinkat(cx: &Cx, dirfd: Fd, path: UserCStr, flags: u32) -> Result<()> {
    let path = match flags {
        0 | AT_REMOVEDIR => path.read_path(cx)?,
        _ => return err(Errno::EINVAL),
    };
    if flags == AT_REMOVEDIR { ops::rmdir(cx, dirfd, &path) } else { ops::unlink(cx, dirfd, &path) }
}

pub(super) fn rename(cx: &Cx, old: UserCStr, new: UserCStr) -> Result<()> {
    renameat2(cx, Fd::CWD, old, Fd::CWD, new, 0)
}

pub(super) fn renameat(cx: &Cx, olddir: Fd, old: UserCStr, newdir: Fd, new: UserCStr) -> Result<()> {
    renameat2(cx, olddir, old, newdir, new, 0)
}

pub(super) fn renameat2(
    cx: &Cx,
    olddir: Fd,
    old: UserCStr,
    newdir: Fd,
    new: UserCStr,
    flags: u32,
) -> Result<()> {
    let (old, new) = (old.read_path(cx)?, new.read_path(cx)?);
    ops::rename(cx, olddir, &old, newdir, &new, flags)
}

pub(super) fn link(cx: &Cx, old: UserCStr, new: UserCStr) -> Result<()> {
    linkat(cx, Fd::CWD, old, Fd::CWD, new, 0)
}

pub(super) fn linkat(
    cx: &Cx,
    olddir: Fd,
    old: UserCStr,
    newdir: Fd,
    new: UserCStr,
    flags: u32,
) -> Result<()> {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return err(Errno::EINVAL);
    }
    let old = old.read_path(cx)?;
    let new = new.read_path(cx)?;
    let mut how = lookup(flags & AT_EMPTY_PATH);
    how.set(Lookup::NOFOLLOW, flags & AT_SYMLINK_FOLLOW == 0);
    let at = walk::resolve(cx, olddir, &old, how)?;
    ops::link(cx, &at, newdir, &new)
}

pub(super) fn symlink(cx: &Cx, target: UserCStr, path: UserCStr) -> Result<()> {
    symlinkat(cx, target, Fd::CWD, path)
}

pub(super) fn symlinkat(cx: &Cx, target: UserCStr, dirfd: Fd, path: UserCStr) -> Result<()> {
    let target = target.read_path(cx)?;
    if target.is_empty() {
        return err(Errno::ENOENT);
    }
    ops::symlink(cx, &target, dirfd, &path.read_path(cx)?).map(drop)
}

pub(super) fn readlink(cx: &Cx, path: UserCStr, buf: UserPtr<u8>, size: i32) -> Result<usize> {
    readlinkat(cx, Fd::CWD, path, buf, size)
}

pub(super) fn readlinkat(cx: &Cx, dirfd: Fd, path: UserCStr, buf: UserPtr<u8>, size: i32) -> Result<usize> {
    let size = usize::try_from(size).ok().filter(|&s| s > 0).ok_or(Errno::EINVAL)?;
    let path = path.read_path(cx)?;
    let how = Lookup::NOFOLLOW | Lookup::EMPTY_PATH;
    if path.is_empty() && dirfd == Fd::CWD {
        return err(Errno::ENOENT);
    }
    let text = match walk::unless_lost(|| ops::read_link(cx, &walk::resolve(cx, dirfd, &path, how)?)) {
        // An empty path with a descriptor of something else is "no such file".
        Err(e) if e.errno() == Errno::EINVAL && path.is_empty() => return err(Errno::ENOENT),
        other => other?,
    };
    let text = text.get(..size.min(text.len())).unwrap_or_default();
    buf.write_bytes(cx, text)?;
    Ok(text.len())
}
