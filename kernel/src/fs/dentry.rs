//! Names: dentries, mounts and paths.

use super::{FileSystem, Inode};
use crate::sync::Mutex;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A name in a directory and the inode behind it.
pub struct Dentry {
    /// The last component; empty for a root.
    pub name: Mutex<Vec<u8>>,
    /// The directory's dentry; `None` for a root.
    pub parent: Mutex<Option<Arc<Dentry>>>,
    /// The inode.
    pub inode: Arc<dyn Inode>,
}

/// A file system in the name space.
pub struct Mount {
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// Its root's dentry.
    pub root: Arc<Dentry>,
}

/// A place in the name space.
#[derive(Clone)]
pub struct Path {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The dentry in it.
    pub dentry: Arc<Dentry>,
}
