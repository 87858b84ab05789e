//! Opening by path (`open(2)`, `openat2(2)`).

use super::dentry::with_room;
use super::walk::{self, Last, Lookup, Walk};
use super::{
    AnonInode, Dentry, Fd, Inode, NewInode, NewKind, OpenFile, OpenFlags, Path, PathOnly, notify, ops, perm,
};
use crate::error::{Result, err};
use crate::task::Cx;
use abi::Errno;
use abi::fs::FileType;
use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use hal::SetAttr;
use perm::Access;

/// Opens for the current task; `mode` counts when `O_CREAT` or `O_TMPFILE` makes a file (the umask is applied). May block in the open
/// of a FIFO or a device.
pub fn open_path(cx: &Cx, dirfd: Fd, path: &[u8], flags: OpenFlags, mode: u32) -> Result<Arc<OpenFile>> {
    open_scoped(cx, dirfd, path, flags, mode, Lookup::empty())
}

/// Like [`open_path`] with restrictions on the walk (`openat2(2)`).
pub fn open_scoped(
    cx: &Cx,
    dirfd: Fd,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    scope: Lookup,
) -> Result<Arc<OpenFile>> {
    let mut lookup = scope;
    lookup.set(Lookup::NOFOLLOW, flags.contains(OpenFlags::NOFOLLOW));
    lookup.set(Lookup::DIRECTORY, flags.contains(OpenFlags::DIRECTORY));
    walk::unless_lost(|| open_once(cx, dirfd, path, flags, mode, lookup))
}

fn open_once(
    cx: &Cx,
    dirfd: Fd,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    lookup: Lookup,
) -> Result<Arc<OpenFile>> {
    if flags.contains(OpenFlags::PATH) {
        let at = walk::resolve(cx, dirfd, path, lookup)?;
        let keep = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW;
        let inode = at.dentry.inode.clone();
        return Ok(OpenFile::new(cx.kernel, Arc::new(PathOnly), Some(inode), Some(at), flags & keep));
    }
    if flags.contains(OpenFlags::TMPFILE_BIT) {
        return open_unnamed(cx, dirfd, path, flags, mode, lookup);
    }
    if flags.contains(OpenFlags::CREAT) {
        return open_or_create(cx, dirfd, path, flags, mode, lookup);
    }
    let at = walk::resolve(cx, dirfd, path, lookup)?;
    open_at(cx, at, flags, false)
}

/// Opens a program for execution: a regular file with execute permission on a mount that allows it, else `EACCES`. Read permission is
/// not needed. `ETXTBSY` while somebody has it open for writing.
pub fn open_exec(cx: &Cx, dirfd: Fd, path: &[u8], lookup: Lookup) -> Result<Arc<OpenFile>> {
    walk::unless_lost(|| open_exec_once(cx, dirfd, path, lookup))
}

fn open_exec_once(cx: &Cx, dirfd: Fd, path: &[u8], lookup: Lookup) -> Result<Arc<OpenFile>> {
    let at = walk::resolve(cx, dirfd, path, lookup)?;
    let attr = at.dentry.inode.attr()?;
    match attr.file_type() {
        FileType::Regular => {}
        FileType::Symlink => return err(Errno::ELOOP),
        _ => return err(Errno::EACCES),
    }
    if !walk::may_execute(&at) {
        return err(Errno::EACCES);
    }
    perm::check(&cx.task.creds(), &attr, Access::EXEC)?;
    // Only a look: what is executed in the end keeps its use.
    drop(cx.kernel.vfs.busy.execute(&attr)?);
    let file = open_at(cx, at, OpenFlags::empty(), true)?;
    match file.file.mmap(cx, &file) {
        // As on a mount that is `noexec` here.
        Ok(super::Mappable::Host(host)) if !host.may_execute() => err(Errno::EACCES),
        _ => Ok(file),
    }
}

fn open_or_create(
    cx: &Cx,
    dirfd: Fd,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    lookup: Lookup,
) -> Result<Arc<OpenFile>> {
    if path.is_empty() {
        return err(Errno::ENOENT);
    }
    let exclusive = flags.contains(OpenFlags::EXCL);
    let creds = cx.task.creds();
    let mut walk = Walk::start(cx, &creds, dirfd, path, lookup)?;
    loop {
        let name = match walk.walk_to_last()? {
            Last::Name(name, false) => name,
            Last::Name(_, true) => return err(Errno::EISDIR),
            _ if exclusive => return err(Errno::EEXIST),
            Last::DotDot => return err(Errno::EISDIR),
            // `/`, `.`, or where a magic link led.
            Last::Itself => return open_at(cx, walk.at, flags, false),
        };
        match walk.child(&name) {
            Ok(_) if exclusive => return err(Errno::EEXIST),
            Ok(child) => {
                let symlink = child.dentry.inode.attr()?.file_type() == FileType::Symlink;
                if symlink && flags.contains(OpenFlags::NOFOLLOW) {
                    return err(Errno::ELOOP);
                }
                if !walk.enter(child, true)? {
                    return open_at(cx, walk.at, flags, false);
                }
            }
            Err(e) if e.errno() == Errno::ENOENT => {
                let dir = walk.at.clone();
                let _names = dir.dentry.latch.lock(cx);
                match ops::add(cx, &dir, &name, NewKind::File, mode) {
                    // Somebody else was quicker: then it is an ordinary open.
                    Err(e) if e.errno() == Errno::EEXIST && !exclusive => {
                        let child = walk.child(&name)?;
                        if !walk.enter(child, true)? {
                            return open_at(cx, walk.at, flags, false);
                        }
                    }
                    Err(e) => return Err(e),
                    Ok(at) => return open_at(cx, at, flags, true),
                }
            }
            Err(e) => return Err(e),
        }
    }
}

fn open_unnamed(
    cx: &Cx,
    dirfd: Fd,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    lookup: Lookup,
) -> Result<Arc<OpenFile>> {
    let dir = walk::resolve(cx, dirfd, path, lookup | Lookup::DIRECTORY)?;
    dir.want_write()?;
    let attr = dir.dentry.inode.attr()?;
    let creds = cx.task.creds();
    perm::check(&creds, &attr, Access::WRITE | Access::EXEC)?;
    let umask = cx.fs().umask.load(Ordering::Relaxed);
    let (mode, gid) = perm::inherit(&creds, &attr, mode & 0o7777 & !umask, false);
    let new = NewInode { kind: NewKind::File, mode, uid: creds.fsuid, gid };
    let inode = dir.dentry.inode.create_unnamed(cx, &new)?;
    let name = format!("#{}", inode.attr()?.ino);
    let dentry = Dentry::unlinked(&dir.dentry, inode, name.as_bytes(), !flags.contains(OpenFlags::EXCL));
    let keep = flags - OpenFlags::DIRECTORY;
    open_at(cx, Path { mount: dir.mount, dentry }, keep, true)
}

/// Opens what is at a place. `allowed`: permissions are not checked, because the caller just made it or checked others.
pub fn open_at(cx: &Cx, at: Path, flags: OpenFlags, allowed: bool) -> Result<Arc<OpenFile>> {
    let inode = at.dentry.inode.clone();
    let file_type = at.dentry.file_type()?;
    let writes = flags.writable() || flags.bits() & 3 == 3 || flags.contains(OpenFlags::TRUNC);
    match file_type {
        FileType::Symlink => return err(Errno::ELOOP),
        FileType::Directory if writes || flags.contains(OpenFlags::CREAT) => return err(Errno::EISDIR),
        FileType::Directory => {}
        _ if flags.contains(OpenFlags::DIRECTORY) => return err(Errno::ENOTDIR),
        FileType::Regular if writes && !allowed => at.want_write()?,
        _ => {}
    }
    if !allowed {
        let (creds, rights) = (cx.task.creds(), inode.rights()?);
        let mut access = Access::empty();
        access.set(Access::READ, flags.bits() & 3 != 1);
        access.set(Access::WRITE, writes);
        perm::check(&creds, rights, access)?;
        if flags.contains(OpenFlags::NOATIME) {
            perm::check_owner(&creds, rights)?;
        }
    }
    let writer = match file_type {
        FileType::Regular if writes => Some(cx.kernel.vfs.busy.write(&inode.attr()?)?),
        _ => None,
    };
    let file = at.dentry.unless_lost(with_room(cx, || inode.open(cx, &at, flags)))?;
    if flags.contains(OpenFlags::TRUNC) && file_type == FileType::Regular && !allowed {
        inode.set_attr(cx, &SetAttr { size: Some(0), ..SetAttr::default() })?;
        notify::path(cx, &at, notify::MODIFY);
    }
    let flags = flags | OpenFlags::LARGEFILE;
    if let Some(anon) = inode.as_any().downcast_ref::<AnonInode>() {
        return Ok(OpenFile::new(cx.kernel, file, anon.file().inode.clone(), None, flags));
    }
    let is_dir = if file_type == FileType::Directory { notify::ISDIR } else { 0 };
    notify::path(cx, &at, notify::OPEN | is_dir);
    let of = OpenFile::new(cx.kernel, file, Some(inode), Some(at), flags);
    if flags.writable() {
        *of.writer.lock() = writer;
    }
    Ok(of)
}

/// Opens an inode that stands alone, with a dentry of its own outside of the name space (`memfd_create(2)`).
pub fn open_alone(cx: &Cx, inode: Arc<dyn Inode>, name: &[u8], flags: OpenFlags) -> Result<Arc<OpenFile>> {
    let at = Path { mount: cx.kernel.vfs.anon.clone(), dentry: Dentry::root(inode.clone(), name) };
    let file = inode.open(cx, &at, flags)?;
    Ok(OpenFile::new(cx.kernel, file, Some(inode), Some(at), flags | OpenFlags::LARGEFILE))
}
