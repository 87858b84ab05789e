//! Which files are open for writing and which are being executed: one excludes the other (`ETXTBSY`).
//!
//! Files are known by device and inode number. As on Linux since 6.11 only programs count, not their interpreters.

use crate::error::{Result, err};
use crate::sync::Mutex;
use abi::Errno;
use abi::fs::Attr;
use alloc::sync::Arc;
use hashbrown::HashMap;

type Key = (u64, u64);

/// Number of writers, or minus the number of images.
type Table = Mutex<HashMap<Key, i64>>;

/// All files of a kernel that are in such use.
#[derive(Default)]
pub struct Busy(Arc<Table>);

/// One use; it ends when this is dropped.
pub struct FileUse {
    table: Arc<Table>,
    key: Key,
    by: i64,
}

impl Drop for FileUse {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if let Some(count) = table.get_mut(&self.key) {
            *count -= self.by;
            if *count == 0 {
                table.remove(&self.key);
            }
        }
    }
}

fn key(attr: &Attr) -> Key {
    (attr.dev.encode(), attr.ino)
}

impl Busy {
    fn begin(&self, attr: &Attr, by: i64) -> Result<FileUse> {
        let key = key(attr);
        let mut table = self.0.lock();
        let count = table.entry(key).or_insert(0);
        if *count * by < 0 {
            return err(Errno::ETXTBSY);
        }
        *count += by;
        Ok(FileUse { table: self.0.clone(), key, by })
    }

    /// The file is opened for writing; `ETXTBSY` while it is executed.
    pub fn write(&self, attr: &Attr) -> Result<FileUse> {
        self.begin(attr, 1)
    }

    /// The file is executed; `ETXTBSY` while it is open for writing.
    pub fn execute(&self, attr: &Attr) -> Result<FileUse> {
        self.begin(attr, -1)
    }
}
