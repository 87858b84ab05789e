//! Places for objects without a name: pipes, sockets, event files.
//!
//! `/proc/PID/fd/N` leads to such an object; the walk needs a [`Path`] for it. It gets a dentry of its own on a mount that is in no name
//! space. Opening it opens the object again.

use super::{Dentry, File, FileSystem, Inode, Mount, OpenFile, OpenFlags, Path};
use crate::error::{Result, err};
use crate::task::Cx;
use abi::Errno;
use abi::fs::{Attr, Statfs};
use alloc::sync::Arc;
use core::any::Any;
use hal::SetAttr;

/// The inode of an object that has none.
pub struct AnonInode(Arc<OpenFile>);

impl AnonInode {
    /// The object.
    pub fn file(&self) -> &Arc<OpenFile> {
        &self.0
    }
}

impl Inode for AnonInode {
    fn attr(&self) -> Result<Attr> {
        self.0.attr()
    }
    fn set_attr(&self, cx: &Cx, set: &SetAttr) -> Result<()> {
        match &self.0.inode {
            Some(inode) => inode.set_attr(cx, set),
            None => match (set.size, SetAttr { size: None, ..*set } == SetAttr::default()) {
                (Some(size), true) => {
                    self.0.file.resize(size)?;
                    // All openings of it share one position, which must not stay behind the new end (`> /dev/stdout`).
                    self.0.file.seek(cx, &self.0, 0, 2).map(|_| ())
                }
                _ => err(Errno::EPERM),
            },
        }
    }
    fn open(&self, cx: &Cx, _path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        self.0.file.reopen(cx, flags).unwrap_or_else(|| Ok(self.0.file.clone()))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct AnonFs;

impl FileSystem for AnonFs {
    fn fs_type(&self) -> &'static str {
        "anon_inodefs"
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(NoInode)
    }
    fn statfs(&self) -> Result<Statfs> {
        Ok(Statfs { fs_type: 0x0904_1934, bsize: 4096, frsize: 4096, namelen: 255, ..Statfs::default() })
    }
}

struct NoInode;

impl Inode for NoInode {
    fn attr(&self) -> Result<Attr> {
        err(Errno::EBADF)
    }
    fn open(&self, _cx: &Cx, _path: &Path, _flags: OpenFlags) -> Result<Arc<dyn File>> {
        err(Errno::ENXIO)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The mount of all such places.
pub(super) fn mount() -> Arc<Mount> {
    let fs = Arc::new(AnonFs);
    let root = Dentry::root(fs.root(), b"");
    Mount::detached(fs, root)
}

/// A place for an open file that has none.
pub(super) fn path(cx: &Cx, file: &Arc<OpenFile>) -> Path {
    let name = file.file.describe();
    let dentry = Dentry::root(Arc::new(AnonInode(file.clone())), name.as_bytes());
    Path { mount: cx.kernel.vfs.anon.clone(), dentry }
}
