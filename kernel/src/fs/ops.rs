//! Changes to the name space and to attributes, with the checks that Linux makes, in its order.
//!
//! Lock order: the rename latch, then the latches of two directories in the order of their addresses, then one of a victim directory.

use super::perm::{self, Access};
use super::walk::{self, Last, NAME_MAX, Parent};
use super::{Dentry, Fd, NewInode, NewKind, OpenFile, Path, notify, same_inode};
use crate::error::{Result, err};
use crate::task::{Cap, Cx};
use abi::Errno;
use abi::fs::{Attr, DeviceId, FileType};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use hal::{SetAttr, TimeSet};

/// `RENAME_NOREPLACE`.
pub const RENAME_NOREPLACE: u32 = 1;
/// `RENAME_EXCHANGE`.
pub const RENAME_EXCHANGE: u32 = 2;
/// `RENAME_WHITEOUT`.
pub const RENAME_WHITEOUT: u32 = 4;

fn dir_flag(directory: bool) -> u32 {
    if directory { notify::ISDIR } else { 0 }
}

/// Adds an entry with the current task as its owner; `mode` is still subject to the umask. The caller holds the directory's latch.
pub(super) fn add(cx: &Cx, dir: &Path, name: &[u8], kind: NewKind<'_>, mode: u32) -> Result<Path> {
    let (attr, creds) = (may_add(cx, dir, name)?, cx.task.creds());
    let directory = kind == NewKind::Directory;
    let umask = if matches!(kind, NewKind::Symlink(_)) { 0 } else { cx.fs().umask.load(Ordering::Relaxed) };
    let (mode, gid) = perm::inherit(&creds, &attr, mode & 0o7777 & !umask, directory);
    let new = NewInode { kind, mode, uid: creds.fsuid, gid };
    let inode = dir.dentry.inode.create(cx, name, &new)?;
    let dentry = dir.dentry.attach(cx, name, inode, None);
    notify::event(cx, &dir.dentry.inode, notify::CREATE | dir_flag(directory), name, 0);
    Ok(Path { mount: dir.mount.clone(), dentry })
}

/// Checks that a name may be added to a directory.
fn may_add(cx: &Cx, dir: &Path, name: &[u8]) -> Result<Attr> {
    if name.len() > NAME_MAX {
        return err(Errno::ENAMETOOLONG);
    }
    match dir.dentry.child(cx, name) {
        Ok(_) => return err(Errno::EEXIST),
        Err(e) if e.errno() == Errno::ENOENT => {}
        Err(e) => return Err(e),
    }
    dir.want_write()?;
    if dir.dentry.is_deleted() {
        return err(Errno::ENOENT);
    }
    let attr = dir.dentry.inode.attr()?;
    perm::check(&cx.task.creds(), &attr, Access::WRITE | Access::EXEC)?;
    Ok(attr)
}

/// `mkdirat(2)`.
pub fn mkdir(cx: &Cx, dirfd: Fd, path: &[u8], mode: u32) -> Result<Path> {
    let Parent { dir, name, .. } = walk::resolve_parent(cx, dirfd, path, Errno::EEXIST)?;
    let _names = dir.dentry.latch.lock(cx);
    add(cx, &dir, &name, NewKind::Directory, mode & 0o1777)
}

/// `mknodat(2)`, and what `bind(2)` makes of a socket address. Devices need `CAP_MKNOD`.
pub fn mknod(
    cx: &Cx,
    dirfd: Fd,
    path: &[u8],
    file_type: FileType,
    mode: u32,
    rdev: DeviceId,
) -> Result<Path> {
    let parent = walk::resolve_parent(cx, dirfd, path, Errno::EEXIST)?;
    let device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
    let whiteout = file_type == FileType::CharDevice && rdev == DeviceId::default();
    if device && !whiteout && !cx.task.creds().has(Cap::Mknod) {
        return err(Errno::EPERM);
    }
    let kind = match file_type {
        FileType::Regular => NewKind::File,
        other => NewKind::Special(other, rdev),
    };
    add_at(cx, &parent, kind, mode)
}

/// `symlinkat(2)`.
pub fn symlink(cx: &Cx, target: &[u8], dirfd: Fd, path: &[u8]) -> Result<Path> {
    let parent = walk::resolve_parent(cx, dirfd, path, Errno::EEXIST)?;
    add_at(cx, &parent, NewKind::Symlink(target), 0o777)
}

/// A name that a slash follows can only be a directory.
fn add_at(cx: &Cx, parent: &Parent, kind: NewKind<'_>, mode: u32) -> Result<Path> {
    let _names = parent.dir.dentry.latch.lock(cx);
    no_slash(cx, parent)?;
    add(cx, &parent.dir, &parent.name, kind, mode)
}

fn no_slash(cx: &Cx, parent: &Parent) -> Result<()> {
    if !parent.slash {
        return Ok(());
    }
    parent.dir.dentry.child(cx, &parent.name)?;
    err(Errno::EEXIST)
}

/// `linkat(2)`: another name for what is at `old`.
pub fn link(cx: &Cx, old: &Path, dirfd: Fd, path: &[u8]) -> Result<()> {
    let parent = walk::resolve_parent(cx, dirfd, path, Errno::EEXIST)?;
    if !Arc::ptr_eq(&old.mount, &parent.dir.mount) {
        return err(Errno::EXDEV);
    }
    let inode = &old.dentry.inode;
    let attr = inode.attr()?;
    may_link(cx, &attr)?;
    let _names = parent.dir.dentry.latch.lock(cx);
    no_slash(cx, &parent)?;
    may_add(cx, &parent.dir, &parent.name)?;
    if attr.file_type() == FileType::Directory {
        return err(Errno::EPERM);
    }
    if attr.nlink == 0 && !old.dentry.nameless {
        return err(Errno::ENOENT);
    }
    parent.dir.dentry.inode.link(cx, &parent.name, inode)?;
    parent.dir.dentry.attach(cx, &parent.name, inode.clone(), None);
    notify::event(cx, inode, notify::ATTRIB, b"", 0);
    notify::event(cx, &parent.dir.dentry.inode, notify::CREATE, &parent.name, 0);
    Ok(())
}

/// `fs.protected_hardlinks`: only what one owns, or could read and write anyway.
fn may_link(cx: &Cx, attr: &Attr) -> Result<()> {
    let creds = cx.task.creds();
    if creds.fsuid == attr.uid || creds.has(Cap::Fowner) || attr.file_type() == FileType::Directory {
        return Ok(());
    }
    let special = attr.file_type() != FileType::Regular
        || attr.mode & perm::S_ISUID != 0
        || attr.mode & (perm::S_ISGID | 0o010) == perm::S_ISGID | 0o010;
    if special || perm::check(&creds, attr, Access::READ | Access::WRITE).is_err() {
        return err(Errno::EPERM);
    }
    Ok(())
}

/// `unlinkat(2)` without `AT_REMOVEDIR`.
pub fn unlink(cx: &Cx, dirfd: Fd, path: &[u8]) -> Result<()> {
    let Parent { dir, name, slash } = walk::resolve_parent(cx, dirfd, path, Errno::EISDIR)?;
    let _names = dir.dentry.latch.lock(cx);
    let (victim, attr) = victim(cx, &dir, &name)?;
    let directory = attr.file_type() == FileType::Directory;
    if slash {
        return err(if directory { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    if directory {
        return err(Errno::EISDIR);
    }
    not_mounted(&victim)?;
    dir.dentry.inode.unlink(cx, &name)?;
    removed(cx, &dir, &name, &victim, false);
    Ok(())
}

/// `rmdir(2)`.
pub fn rmdir(cx: &Cx, dirfd: Fd, path: &[u8]) -> Result<()> {
    let (dir, name) = match walk::resolve_last(cx, dirfd, path)? {
        (dir, Last::Name(name, _)) => (dir, name),
        (_, Last::DotDot) => return err(Errno::ENOTEMPTY),
        (_, Last::Itself) if path.iter().all(|&b| b == b'/') => return err(Errno::EBUSY),
        (_, Last::Itself) => return err(Errno::EINVAL),
    };
    let _names = dir.dentry.latch.lock(cx);
    let (victim, attr) = victim(cx, &dir, &name)?;
    if attr.file_type() != FileType::Directory {
        return err(Errno::ENOTDIR);
    }
    not_mounted(&victim)?;
    let _inside = victim.latch.lock(cx);
    dir.dentry.inode.rmdir(cx, &name)?;
    removed(cx, &dir, &name, &victim, true);
    Ok(())
}

/// The entry that is to go, after the checks that it may.
fn victim(cx: &Cx, dir: &Path, name: &[u8]) -> Result<(Arc<Dentry>, Attr)> {
    if name.len() > NAME_MAX {
        return err(Errno::ENAMETOOLONG);
    }
    let victim = dir.dentry.child(cx, name)?;
    dir.want_write()?;
    let attr = victim.inode.attr()?;
    perm::check_delete(&cx.task.creds(), &dir.dentry.inode.attr()?, &attr)?;
    Ok((victim, attr))
}

fn not_mounted(dentry: &Dentry) -> Result<()> {
    if dentry.mounts.load(Ordering::Acquire) > 0 { err(Errno::EBUSY) } else { Ok(()) }
}

fn removed(cx: &Cx, dir: &Path, name: &[u8], victim: &Arc<Dentry>, directory: bool) {
    dir.dentry.removed(name);
    let gone = victim.inode.attr().map_or(true, |a| a.nlink == 0);
    if !directory {
        notify::event(cx, &victim.inode, notify::ATTRIB, b"", 0);
    }
    notify::event(cx, &dir.dentry.inode, notify::DELETE | dir_flag(directory), name, 0);
    if gone || directory {
        notify::event(cx, &victim.inode, notify::DELETE_SELF | dir_flag(directory), b"", 0);
    }
}

/// `renameat2(2)`.
pub fn rename(cx: &Cx, olddir: Fd, old: &[u8], newdir: Fd, new: &[u8], flags: u32) -> Result<()> {
    let known = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
    let exchange = flags & RENAME_EXCHANGE != 0;
    if flags & !known != 0 || (exchange && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT) != 0) {
        return err(Errno::EINVAL);
    }
    let (old_dir, old_last) = walk::resolve_last(cx, olddir, old)?;
    let (new_dir, new_last) = walk::resolve_last(cx, newdir, new)?;
    if !Arc::ptr_eq(&old_dir.mount, &new_dir.mount) {
        return err(Errno::EXDEV);
    }
    let Last::Name(name, slash) = old_last else { return err(Errno::EBUSY) };
    let old = Parent { dir: old_dir, name, slash };
    let new = match new_last {
        Last::Name(name, slash) => Parent { dir: new_dir, name, slash },
        _ if flags & RENAME_NOREPLACE != 0 => return err(Errno::EEXIST),
        _ => return err(Errno::EBUSY),
    };
    let (from, to) = (&old.dir.dentry, &new.dir.dentry);
    let same_dir = Arc::ptr_eq(from, to);
    let _shape = (!same_dir).then(|| cx.kernel.vfs.rename.lock(cx));
    let (first, second) = if Arc::as_ptr(from) < Arc::as_ptr(to) { (from, to) } else { (to, from) };
    let _first = first.latch.lock(cx);
    let _second = (!same_dir).then(|| second.latch.lock(cx));

    if old.name.len() > NAME_MAX || new.name.len() > NAME_MAX {
        return err(Errno::ENAMETOOLONG);
    }
    let source = from.child(cx, &old.name)?;
    let target = match to.child(cx, &new.name) {
        Ok(_) if flags & RENAME_NOREPLACE != 0 => return err(Errno::EEXIST),
        Ok(target) => Some(target),
        Err(e) if e.errno() == Errno::ENOENT && !exchange => None,
        Err(e) => return Err(e),
    };
    let attr = source.inode.attr()?;
    let directory = attr.file_type() == FileType::Directory;
    let target_attr = target.as_ref().map(|t| t.inode.attr()).transpose()?;
    let target_directory = target_attr.is_some_and(|a| a.file_type() == FileType::Directory);
    if (!directory && (old.slash || (!exchange && new.slash))) || (exchange && !target_directory && new.slash)
    {
        return err(Errno::ENOTDIR);
    }
    if directory && to.is_within(&source) {
        return err(Errno::EINVAL);
    }
    if target.as_ref().is_some_and(|t| target_directory && from.is_within(t)) {
        return err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    old.dir.want_write()?;
    let creds = cx.task.creds();
    let (from_attr, to_attr) = (from.inode.attr()?, to.inode.attr()?);
    perm::check_delete(&creds, &from_attr, &attr)?;
    match &target_attr {
        Some(victim) => perm::check_delete(&creds, &to_attr, victim)?,
        None if to.is_deleted() => return err(Errno::ENOENT),
        None => perm::check(&creds, &to_attr, Access::WRITE | Access::EXEC)?,
    }
    if let (Some(target), false) = (&target, exchange) {
        if same_inode(&source.inode, &target.inode) {
            return Ok(());
        }
        match (directory, target_directory) {
            (true, false) => return err(Errno::ENOTDIR),
            (false, true) => return err(Errno::EISDIR),
            _ => {}
        }
    }
    if !same_dir {
        // `..` of a moved directory changes, which is a write to it.
        if directory {
            perm::check(&creds, &attr, Access::WRITE)?;
        }
        if let (true, true, Some(a)) = (exchange, target_directory, &target_attr) {
            perm::check(&creds, a, Access::WRITE)?;
        }
    }
    not_mounted(&source)?;
    if let Some(target) = &target {
        not_mounted(target)?;
    }
    from.inode.rename(cx, &old.name, &to.inode, &new.name, flags)?;
    from.moved(cx, &old.name, to, &new.name, exchange);
    moved_events(cx, &old, &new, &source, directory);
    if let Some(target) = &target {
        if exchange {
            moved_events(cx, &new, &old, target, target_directory);
        } else if target.inode.attr().map_or(true, |a| a.nlink == 0) {
            notify::event(cx, &target.inode, notify::DELETE_SELF | dir_flag(target_directory), b"", 0);
        }
    }
    Ok(())
}

fn moved_events(cx: &Cx, old: &Parent, new: &Parent, source: &Dentry, directory: bool) {
    let cookie = cx.kernel.next_id() as u32;
    let flag = dir_flag(directory);
    notify::event(cx, &old.dir.dentry.inode, notify::MOVED_FROM | flag, &old.name, cookie);
    notify::event(cx, &new.dir.dentry.inode, notify::MOVED_TO | flag, &new.name, cookie);
    notify::event(cx, &source.inode, notify::MOVE_SELF | flag, b"", 0);
}

fn attributes_changed(cx: &Cx, at: &Path, attr: &Attr) {
    notify::path(cx, at, notify::ATTRIB | dir_flag(attr.file_type() == FileType::Directory));
}

/// `chmod(2)`.
pub fn chmod(cx: &Cx, at: &Path, mode: u32) -> Result<()> {
    at.want_write()?;
    let inode = &at.dentry.inode;
    let attr = inode.attr()?;
    let creds = cx.task.creds();
    if attr.file_type() == FileType::Symlink {
        return err(Errno::EOPNOTSUPP);
    }
    perm::check_owner(&creds, &attr)?;
    let mut mode = mode & 0o7777;
    if !creds.in_group(attr.gid) && !creds.has(Cap::Fsetid) {
        mode &= !perm::S_ISGID;
    }
    inode.set_attr(cx, &SetAttr { mode: Some(mode), ..SetAttr::default() })?;
    attributes_changed(cx, at, &attr);
    Ok(())
}

/// `chown(2)`; `None` leaves one as it is.
pub fn chown(cx: &Cx, at: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    at.want_write()?;
    let inode = &at.dentry.inode;
    let attr = inode.attr()?;
    let creds = cx.task.creds();
    let owner = creds.fsuid == attr.uid;
    if !creds.has(Cap::Chown) {
        let uid_ok = uid.is_none_or(|uid| owner && uid == attr.uid);
        let gid_ok = gid.is_none_or(|gid| owner && (gid == attr.gid || creds.in_group(gid)));
        if !uid_ok || !gid_ok {
            return err(Errno::EPERM);
        }
    }
    let mut mode = attr.mode & 0o7777;
    if attr.file_type() != FileType::Directory {
        mode &= !perm::S_ISUID;
        if mode & 0o010 != 0 {
            mode &= !perm::S_ISGID;
        }
    }
    let changed = (mode != attr.mode & 0o7777).then_some(mode);
    inode.set_attr(cx, &SetAttr { mode: changed, uid, gid, ..SetAttr::default() })?;
    attributes_changed(cx, at, &attr);
    Ok(())
}

/// `utimensat(2)`; `None` leaves one as it is. Setting both to now needs write access only.
pub fn set_times(cx: &Cx, at: &Path, atime: Option<TimeSet>, mtime: Option<TimeSet>) -> Result<()> {
    at.want_write()?;
    let inode = &at.dentry.inode;
    let attr = inode.attr()?;
    let creds = cx.task.creds();
    if let Err(e) = perm::check_owner(&creds, &attr) {
        if (atime, mtime) != (Some(TimeSet::Now), Some(TimeSet::Now)) {
            return Err(e);
        }
        perm::check(&creds, &attr, Access::WRITE)?;
    }
    inode.set_attr(cx, &SetAttr { atime, mtime, ..SetAttr::default() })?;
    attributes_changed(cx, at, &attr);
    Ok(())
}

/// `truncate(2)`.
pub fn truncate(cx: &Cx, at: &Path, size: u64) -> Result<()> {
    let inode = &at.dentry.inode;
    let attr = inode.attr()?;
    match attr.file_type() {
        FileType::Regular => {}
        FileType::Directory => return err(Errno::EISDIR),
        _ => return err(Errno::EINVAL),
    }
    at.want_write()?;
    perm::check(&cx.task.creds(), &attr, Access::WRITE)?;
    let _writer = cx.kernel.vfs.busy.write(&attr)?;
    resize(cx, at, &attr, size)
}

/// `ftruncate(2)`: `EINVAL` unless open for writing.
pub fn ftruncate(cx: &Cx, of: &OpenFile, size: u64) -> Result<()> {
    if !of.flags().writable() {
        return err(Errno::EINVAL);
    }
    let Some(inode) = &of.inode else { return of.file.resize(size) };
    let attr = inode.attr()?;
    if attr.file_type() != FileType::Regular {
        return err(Errno::EINVAL);
    }
    match &of.path {
        Some(at) => resize(cx, at, &attr, size),
        None => inode.set_attr(cx, &SetAttr { size: Some(size), ..SetAttr::default() }),
    }
}

fn resize(cx: &Cx, at: &Path, attr: &Attr, size: u64) -> Result<()> {
    if size > attr.size {
        super::limit_growth(cx, size.saturating_sub(1), 1)?;
    }
    let mut mode = attr.mode & 0o7777 & !perm::S_ISUID;
    if mode & 0o010 != 0 {
        mode &= !perm::S_ISGID;
    }
    let keep = mode == attr.mode & 0o7777 || cx.task.creds().has(Cap::Fsetid);
    let mode = if keep { None } else { Some(mode) };
    at.dentry.inode.set_attr(cx, &SetAttr { size: Some(size), mode, ..SetAttr::default() })?;
    notify::path(cx, at, notify::MODIFY);
    Ok(())
}

/// The text of the symbolic link at a place, or `EINVAL`.
pub fn read_link(cx: &Cx, at: &Path) -> Result<Vec<u8>> {
    let inode = &at.dentry.inode;
    if inode.attr()?.file_type() != FileType::Symlink {
        return err(Errno::EINVAL);
    }
    at.dentry.unless_lost(inode.read_link(cx))
}
