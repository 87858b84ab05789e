//! Files of the host: directories that a guest may see.
//!
//! The kernel walks paths itself: a host node is asked for one name at a time and a symbolic link is never followed on the
//! host's side, so nothing outside of a shared directory can be reached.

use abi::Errno;
use abi::fs::{Attr, DeviceId, FileType, Statfs};
use abi::time::Timespec;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// The way into the host's files.
pub trait HostFs: Send + Sync {
    /// The node at a host path, following symbolic links as the host does: the path comes from the command
    /// line, not from a guest. Blocks for the time of the host call.
    fn open_path(&self, path: &str) -> Result<Arc<dyn HostNode>, Errno>;
    /// Takes the result of a transfer that has ended. Virtual CPU context; does not block.
    fn transferred(&self, id: u64) -> Option<Transferred>;
}

/// How to open a host file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading.
    Read,
    /// For writing.
    Write,
    /// For both.
    ReadWrite,
}

/// What to create in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewNode<'a> {
    /// An empty regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
    /// A FIFO, a socket or a device.
    Special(FileType, DeviceId),
}

/// How a time changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// To the host's present time.
    Now,
    /// To this.
    At(Timespec),
}

/// Attribute changes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeSet>,
    /// Modification time.
    pub mtime: Option<TimeSet>,
}

/// One directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDirEntry {
    /// Name, without `.` and `..`.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub file_type: FileType,
}

/// A host inode, without access to its content. All methods block the virtual CPU for the
/// time of the host call and fail with the host's errno. Names are single components; a host must refuse
/// `/`, `.` and `..` with `EINVAL`.
pub trait HostNode: Send + Sync {
    /// Attributes, read now.
    fn attr(&self) -> Result<Attr, Errno>;
    /// The node with this name in a directory; symbolic links are returned, not followed.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn HostNode>, Errno>;
    /// As [`HostNode::lookup`], with its attributes. The host may leave it at that look until more is wanted of the node; when the name
    /// leads to another inode by then, that fails with `ESTALE`.
    fn find(self: Arc<Self>, name: &[u8]) -> Result<(Arc<dyn HostNode>, Attr), Errno> {
        let node = self.lookup(name)?;
        let attr = node.attr()?;
        Ok((node, attr))
    }
    /// From now on the node is this inode whatever becomes of its name; `ESTALE` when it is too late for that.
    fn hold(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// All entries of a directory, without `.` and `..`, in the host's order.
    fn read_dir(&self) -> Result<Vec<HostDirEntry>, Errno>;
    /// The target of a symbolic link.
    fn read_link(&self) -> Result<Vec<u8>, Errno>;
    /// Opens a regular file's content.
    fn open(&self, mode: OpenMode) -> Result<Arc<dyn HostFile>, Errno>;
    /// Opens a regular file's content for reading, and reads its attributes.
    fn open_read(&self) -> Result<(Arc<dyn HostFile>, Attr), Errno> {
        Ok((self.open(OpenMode::Read)?, self.attr()?))
    }
    /// Creates an entry that must not exist, with these permission bits exactly (no umask).
    fn create(&self, name: &[u8], what: NewNode<'_>, mode: u32) -> Result<Arc<dyn HostNode>, Errno>;
    /// Adds a hard link to `target` in this directory.
    fn link(&self, name: &[u8], target: &dyn HostNode) -> Result<(), Errno>;
    /// Removes an entry; `directory` says which kind it must be (`AT_REMOVEDIR`).
    fn unlink(&self, name: &[u8], directory: bool) -> Result<(), Errno>;
    /// Moves an entry, with the flags of `renameat2(2)`.
    fn rename(&self, name: &[u8], to: &dyn HostNode, to_name: &[u8], flags: u32) -> Result<(), Errno>;
    /// Changes attributes.
    fn set_attr(&self, set: &SetAttr) -> Result<(), Errno>;
    /// Reads an extended attribute.
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno>;
    /// Sets an extended attribute, with the flags of `setxattr(2)`.
    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno>;
    /// Names of extended attributes.
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>, Errno>;
    /// Removes an extended attribute.
    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno>;
    /// The file system that holds it.
    fn statfs(&self) -> Result<Statfs, Errno>;
    /// A path for messages.
    fn describe(&self) -> String;
    /// For the implementation, to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// How far something got that must not wait for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: usize,
    /// Whether the rest has to wait; otherwise there is no rest.
    pub blocked: bool,
}

/// What a host does beside the virtual CPUs.
#[derive(Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Fills the buffer from a byte offset, as [`HostFile::read_at`].
    Read(u64, Vec<u8>),
    /// Writes the buffer at a byte offset, as [`HostFile::write_at`].
    Write(u64, Vec<u8>),
    /// As [`HostFile::sync`] with this `data_only`.
    Sync(bool),
}

/// The end of a [`Transfer`].
#[derive(Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Number of bytes, or why there are none.
    pub result: Result<usize, Errno>,
    /// The buffer of the transfer; empty for [`Transfer::Sync`].
    pub buf: Vec<u8>,
}

/// An open regular file of the host. All methods but `*_now` and `start` block for the time of the host call, which may be long.
pub trait HostFile: Send + Sync {
    /// Reads at a byte offset what is there at once; does not wait for a device. When that is less than the buffer, another call tells why: the
    /// file ends (nothing more), or the rest has to wait (blocked). One host call, if the host can do that. Virtual CPU context.
    fn read_now(&self, offset: u64, buf: &mut [u8]) -> Result<Progress, Errno>;
    /// Like [`HostFile::write_at`], as far as no device has to be waited for. Virtual CPU context.
    fn write_now(&self, offset: u64, buf: &[u8]) -> Result<Progress, Errno>;
    /// Begins a transfer under a number that no other unfinished one of the machine has; does not block. At its end there is an
    /// [`crate::Event::Transferred`], and [`HostFs::transferred`] has the result. Gives the transfer back when it can't be begun.
    fn start(&self, id: u64, transfer: Transfer) -> Result<(), Transfer>;
    /// Reads at a byte offset; short only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno>;
    /// Writes at a byte offset; short only when the disk is full.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<usize, Errno>;
    /// Whether it may be mapped for execution: its file system is not mounted `noexec` on the host.
    fn may_execute(&self) -> bool {
        true
    }
    /// Attributes, read now.
    fn attr(&self) -> Result<Attr, Errno>;
    /// Size in bytes now.
    fn size(&self) -> Result<u64, Errno>;
    /// `fallocate(2)`.
    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno>;
    /// `SEEK_DATA` and `SEEK_HOLE` of `lseek(2)`.
    fn seek_extent(&self, offset: u64, hole: bool) -> Result<u64, Errno>;
    /// `fsync(2)`, or `fdatasync(2)` when `data_only`.
    fn sync(&self, data_only: bool) -> Result<(), Errno>;
    /// For the implementation, to find its own type again.
    fn as_any(&self) -> &dyn Any;
}
