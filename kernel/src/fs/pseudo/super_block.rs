//! A mounted generated tree.

use crate::error::Result;
use crate::fs::{FileSystem, Inode};
use abi::fs::Statfs;
use alloc::string::String;
use alloc::sync::Arc;
use hal::PAGE_SIZE;

/// A file system whose root is a generated directory.
pub struct PseudoFs {
    /// Type as in `/proc/mounts`.
    pub fs_type: &'static str,
    /// `f_type` of `statfs(2)` (`uapi/linux/magic.h`).
    pub magic: i64,
    /// The root directory.
    pub root: Arc<dyn Inode>,
    /// Mount options besides `rw`.
    pub options: &'static str,
}

impl FileSystem for PseudoFs {
    fn fs_type(&self) -> &'static str {
        self.fs_type
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<Statfs> {
        Ok(Statfs {
            fs_type: self.magic,
            bsize: PAGE_SIZE as i64,
            namelen: 255,
            frsize: PAGE_SIZE as i64,
            ..Statfs::default()
        })
    }
    fn options(&self) -> String {
        String::from(self.options)
    }
}
