//! Attributes of generated inodes.

use abi::fs::{Attr, DeviceId, FileType};
use abi::time::Timespec;
use alloc::sync::Arc;

/// Someone whose ids own an inode and may change.
pub trait Owner: Send + Sync {
    /// User and group.
    fn ids(&self) -> (u32, u32);
}

/// What `stat(2)` says of a generated inode.
#[derive(Clone)]
pub struct Meta {
    /// Device of the tree.
    pub dev: DeviceId,
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub file_type: FileType,
    /// Permission bits.
    pub mode: u32,
    /// Number of links.
    pub nlink: u64,
    /// Owner; root when `None`.
    pub owner: Option<Arc<dyn Owner>>,
    /// When it was made.
    pub time: Timespec,
    /// Device number of a device node.
    pub rdev: DeviceId,
    /// Size in bytes, 0 except where Linux says otherwise.
    pub size: u64,
    /// What it is about, as a number that nothing else has while this lives: tells apart what has the same inode number at different times.
    pub instance: usize,
}

impl Meta {
    /// An inode of root's.
    pub fn new(dev: DeviceId, ino: u64, file_type: FileType, mode: u32, time: Timespec) -> Meta {
        let nlink = if file_type == FileType::Directory { 2 } else { 1 };
        Meta {
            dev,
            ino,
            file_type,
            mode,
            nlink,
            owner: None,
            time,
            rdev: DeviceId::default(),
            size: 0,
            instance: 0,
        }
    }

    /// The same with another owner.
    pub fn owned(mut self, owner: Arc<dyn Owner>) -> Meta {
        self.owner = Some(owner);
        self
    }

    /// The same, about this instance of something.
    pub fn about(mut self, instance: usize) -> Meta {
        self.instance = instance;
        self
    }

    /// Whether an inode with the other attributes stands for the same file. The inode number, what it is about, and the mode say so.
    pub fn is_same(&self, other: &Meta) -> bool {
        let key = |m: &Meta| (m.dev, m.ino, m.instance, m.file_type, m.mode);
        key(self) == key(other)
    }

    /// As the VFS wants it.
    pub fn attr(&self) -> Attr {
        let (uid, gid) = self.owner.as_ref().map_or((0, 0), |owner| owner.ids());
        Attr {
            dev: self.dev,
            ino: self.ino,
            mode: self.file_type.mode_bits() | self.mode,
            nlink: self.nlink,
            uid,
            gid,
            rdev: self.rdev,
            size: self.size,
            blksize: 1024,
            blocks: 0,
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            btime: None,
        }
    }
}
