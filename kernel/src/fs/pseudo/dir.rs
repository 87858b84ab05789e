//! Generated directories.

use super::Meta;
use super::text::only_truncates;
use crate::error::{Result, err};
use crate::fs::{DirEntry, File, Inode, OpenFile, OpenFlags, Path};
use crate::task::Cx;
use abi::Errno;
use abi::fs::{Attr, FileType};
use alloc::sync::Arc;
use core::any::Any;
use hal::SetAttr;

/// One entry, as a [`DirSource`] lists it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its place in the directory: constant while it exists, and ascending.
    pub key: u64,
    /// Name.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub file_type: FileType,
}

/// The entries of a generated directory.
pub trait DirSource: Send + Sync {
    /// The inode with this name; `ENOENT`.
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>>;
    /// Lists entries with a key of at least `from` in the order of their keys, until `emit` says false.
    fn list(&self, cx: &Cx, from: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()>;
    /// Number of links that `stat(2)` shows, where it is not 2.
    fn nlink(&self) -> Option<u64> {
        None
    }
    /// What the directory is about, for calls that take a descriptor of it for that.
    fn subject(&self) -> Option<&dyn Any> {
        None
    }
    /// Checks at `open(2)`, beyond the permission bits.
    fn check_open(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }
}

/// The inode of a generated directory.
pub struct PseudoDir {
    meta: Meta,
    source: Arc<dyn DirSource>,
    creating: Errno,
}

impl PseudoDir {
    /// A directory in which nothing can be made.
    pub fn new(meta: Meta, source: Arc<dyn DirSource>) -> Arc<PseudoDir> {
        Arc::new(PseudoDir { meta, source, creating: Errno::ENOENT })
    }
}

impl Inode for PseudoDir {
    fn attr(&self) -> Result<Attr> {
        let mut attr = self.meta.attr();
        if let Some(nlink) = self.source.nlink() {
            attr.nlink = nlink;
        }
        Ok(attr)
    }
    fn set_attr(&self, _cx: &Cx, set: &SetAttr) -> Result<()> {
        only_truncates(set)
    }
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.source.lookup(cx, name)
    }
    fn create(&self, _cx: &Cx, _name: &[u8], _new: &crate::fs::NewInode<'_>) -> Result<Arc<dyn Inode>> {
        // procfs has no `create`, which `open(2)` with `O_CREAT` reports as a missing file.
        err(self.creating)
    }
    fn open(&self, cx: &Cx, _path: &Path, _flags: OpenFlags) -> Result<Arc<dyn File>> {
        self.source.check_open(cx)?;
        Ok(Arc::new(OpenDir { source: self.source.clone() }))
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn is_same(&self, other: &dyn Inode) -> bool {
        other.as_any().downcast_ref::<PseudoDir>().is_some_and(|other| self.meta.is_same(&other.meta))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open generated directory.
pub struct OpenDir {
    source: Arc<dyn DirSource>,
}

impl OpenDir {
    /// [`DirSource::subject`].
    pub fn subject(&self) -> Option<&dyn Any> {
        self.source.subject()
    }
}

/// Positions: 0 is `.`, 1 is `..`, and an entry's is its key plus this.
const FIRST: u64 = 2;

impl File for OpenDir {
    fn seekable(&self) -> bool {
        true
    }

    fn read(
        &self,
        _cx: &Cx,
        _of: &OpenFile,
        _pos: &mut u64,
        _sink: &mut dyn crate::user::Sink,
    ) -> Result<usize> {
        err(Errno::EISDIR)
    }

    fn read_dir(
        &self,
        cx: &Cx,
        of: &OpenFile,
        pos: u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let own = of.attr().map_or(1, |attr| attr.ino);
        let file_type = FileType::Directory;
        if pos == 0 && !emit(DirEntry { name: b".", ino: own, file_type, next: 1 }) {
            return Ok(());
        }
        if pos <= 1 {
            let ino = crate::fs::dotdot_ino(of).unwrap_or(own);
            if !emit(DirEntry { name: b"..", ino, file_type, next: FIRST }) {
                return Ok(());
            }
        }
        let from = pos.saturating_sub(FIRST);
        self.source.list(cx, from, &mut |entry| {
            emit(DirEntry {
                name: entry.name,
                ino: entry.ino,
                file_type: entry.file_type,
                next: entry.key.saturating_add(FIRST + 1),
            })
        })
    }

    fn pollable(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
