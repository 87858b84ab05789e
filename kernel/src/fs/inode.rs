//! Inodes and file systems, as traits.

use super::perm::Rights;
use super::{File, OpenFile, OpenFlags, Path};
use crate::error::{Result, err};
use crate::task::Cx;
use abi::Errno;
use abi::fs::{Attr, DeviceId, FileType, Statfs};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use hal::SetAttr;

/// What [`Inode::create`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKind<'a> {
    /// An empty regular file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
    /// A FIFO, socket or device.
    Special(FileType, DeviceId),
}

/// A new inode's attributes; the umask has been applied and set-group-ID inheritance decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewInode<'a> {
    /// What it is.
    pub kind: NewKind<'a>,
    /// Permission bits, 0..=0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A mounted file system instance.
pub trait FileSystem: Send + Sync {
    /// Its type as in `/proc/mounts`.
    fn fs_type(&self) -> &'static str;
    /// The root directory.
    fn root(&self) -> Arc<dyn Inode>;
    /// `statfs(2)`.
    fn statfs(&self) -> Result<Statfs>;
    /// Writes everything to where it lives.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    /// Mount options for `/proc/mounts`, without `rw`/`ro`.
    fn options(&self) -> alloc::string::String {
        alloc::string::String::new()
    }
}

/// A file, directory, link or device on a file system. Permission checks are the caller's (the VFS's) business; an
/// inode checks only what it alone can know. Names are single components, never empty, `.` or `..`.
pub trait Inode: Send + Sync {
    /// Attributes. Does not suspend.
    fn attr(&self) -> Result<Attr>;

    /// What permission checks look at. Does not suspend.
    fn rights(&self) -> Result<Rights> {
        self.attr().map(|attr| Rights::from(&attr))
    }

    /// Whether everybody may look names up in it, as far as is known without a lock: nearly all directories of a path are like that, and every
    /// virtual CPU comes through the first of them.
    fn all_may_search(&self) -> bool {
        false
    }

    /// Changes attributes and the change time. `size` truncates or extends a regular file.
    fn set_attr(&self, _cx: &Cx, _set: &SetAttr) -> Result<()> {
        err(Errno::EPERM)
    }

    /// The entry of a directory; `ENOENT` when there is none.
    fn lookup(&self, _cx: &Cx, _name: &[u8]) -> Result<Arc<dyn Inode>> {
        err(Errno::ENOTDIR)
    }

    /// Adds an entry that must not exist.
    fn create(&self, _cx: &Cx, _name: &[u8], _new: &NewInode<'_>) -> Result<Arc<dyn Inode>> {
        err(Errno::EPERM)
    }

    /// An inode without a name in this directory's file system (`O_TMPFILE`).
    fn create_unnamed(&self, _cx: &Cx, _new: &NewInode<'_>) -> Result<Arc<dyn Inode>> {
        err(Errno::EOPNOTSUPP)
    }

    /// Adds a hard link to an inode of the same file system.
    fn link(&self, _cx: &Cx, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<()> {
        err(Errno::EPERM)
    }

    /// Removes an entry that is not a directory.
    fn unlink(&self, _cx: &Cx, _name: &[u8]) -> Result<()> {
        err(Errno::EPERM)
    }

    /// Removes an empty directory.
    fn rmdir(&self, _cx: &Cx, _name: &[u8]) -> Result<()> {
        err(Errno::EPERM)
    }

    /// Moves an entry to a directory of the same file system; flags as in `renameat2(2)`.
    fn rename(
        &self,
        _cx: &Cx,
        _name: &[u8],
        _to: &Arc<dyn Inode>,
        _to_name: &[u8],
        _flags: u32,
    ) -> Result<()> {
        err(Errno::EPERM)
    }

    /// The text of a symbolic link.
    fn read_link(&self, _cx: &Cx) -> Result<Vec<u8>> {
        err(Errno::EINVAL)
    }

    /// For links that lead to an object rather than to a name (`/proc/PID/exe`, `/proc/PID/fd/N`, `cwd`, `root`):
    /// where following it ends. `None` for ordinary links.
    fn follow(&self, _cx: &Cx) -> Option<Result<Path>> {
        None
    }

    /// For links like `/proc/PID/fd/N` whose object has no path: the open file itself, which opening the link reopens.
    fn follow_file(&self, _cx: &Cx) -> Option<Result<Arc<OpenFile>>> {
        None
    }

    /// Opens the content. Called for every type but symbolic links; `path` is how it was reached.
    fn open(&self, cx: &Cx, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>>;

    /// An extended attribute.
    fn get_xattr(&self, _cx: &Cx, _name: &[u8]) -> Result<Vec<u8>> {
        err(Errno::EOPNOTSUPP)
    }
    /// Whether the file system keeps POSIX access control lists (`acl(5)`) under their names.
    fn has_acl(&self) -> bool {
        false
    }
    /// Sets one; flags as in `setxattr(2)`.
    fn set_xattr(&self, _cx: &Cx, _name: &[u8], _value: &[u8], _flags: u32) -> Result<()> {
        err(Errno::EOPNOTSUPP)
    }
    /// Their names.
    fn list_xattr(&self, _cx: &Cx) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
    /// Removes one.
    fn remove_xattr(&self, _cx: &Cx, _name: &[u8]) -> Result<()> {
        err(Errno::EOPNOTSUPP)
    }

    /// Whether the VFS may remember what [`Inode::lookup`] said of this directory's names, also that there is none. False
    /// where names come and go by themselves (`/proc`) or on the host (`--volume`).
    fn cacheable(&self) -> bool {
        true
    }

    /// Whether a look at a name takes so long that it is worth doing it before somebody asks (`fs/ahead.rs`).
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Whether another object stands for the same file. For inodes that are made anew by each lookup; all others are compared by
    /// their place in memory.
    fn is_same(&self, _other: &dyn Inode) -> bool {
        false
    }

    /// For the implementation, to find its own type again.
    fn as_any(&self) -> &dyn Any;
}
