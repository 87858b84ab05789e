//! Pictures of a host tree, byte for byte, to compare before and after.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Everything in a tree that a write could change. Access times are not in it: reading moves them.
#[derive(Debug, PartialEq, Eq)]
pub struct Picture(BTreeMap<PathBuf, Entry>);

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: Vec<u8>,
}

impl Picture {
    /// Takes the picture.
    ///
    /// # Panics
    /// When the tree cannot be read.
    pub fn of(root: &Path) -> Picture {
        let mut all = BTreeMap::new();
        let mut todo = vec![root.to_path_buf()];
        while let Some(path) = todo.pop() {
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let kind = meta.file_type();
            let content = if kind.is_symlink() {
                fs::read_link(&path).expect("a link").as_os_str().as_bytes().to_vec()
            } else if kind.is_file() {
                fs::read(&path).expect("a file")
            } else {
                Vec::new()
            };
            if kind.is_dir() {
                todo.extend(
                    fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()),
                );
            }
            let entry = Entry {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                links: meta.nlink(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
                content,
            };
            all.insert(path, entry);
        }
        Picture(all)
    }

    /// Whether a name is in it, relative or absolute, as the last component.
    pub fn has(&self, name: &str) -> bool {
        self.0.keys().any(|path| path.file_name() == Some(OsStr::new(name)))
    }
}
