//! Directories: finding, adding and removing names, and listings.

use super::listing::Listing;
use super::node::{Body, DIR_ENTRY_SIZE, Directory, Entry, Listed, Node};
use crate::error::{Result, err};
use crate::fs::{DirEntry, File, NewInode, OpenFile, dotdot_ino};
use crate::sync::Mutex;
use crate::task::Cx;
use abi::Errno;
use abi::fs::FileType;
use abi::time::Timespec;
use alloc::sync::Arc;
use core::any::Any;

/// Positions of entries in memory; below are those of the lower directory, behind `.` and `..`.
const UPPER_POS: u64 = 1 << 40;
/// Entries that a listing shows at a time, with the directory locked.
const BATCH: usize = 64;

impl Directory {
    fn insert(&mut self, name: &[u8], node: Arc<Node>, hides_lower: bool) {
        self.take(name);
        let pos = self.next_pos;
        self.next_pos += 1;
        let key: Arc<[u8]> = name.into();
        self.order.insert(pos, Listed { name: key.clone(), ino: node.ino(), file_type: node.file_type });
        self.entries.insert(key, Entry { node: Some(node), pos, hides_lower });
    }

    /// Takes a name out, whiteout or not.
    fn take(&mut self, name: &[u8]) -> Option<Entry> {
        let entry = self.entries.remove(name)?;
        self.order.remove(&entry.pos);
        Some(entry)
    }

    /// Takes a name out and leaves a whiteout if the lower directory has it.
    fn remove(&mut self, name: &[u8], hides_lower: bool) -> Option<Entry> {
        let entry = self.take(name);
        if hides_lower {
            let pos = self.next_pos;
            self.next_pos += 1;
            self.entries.insert(name.into(), Entry { node: None, pos, hides_lower: true });
        }
        entry
    }

    fn names(&self) -> bool {
        !self.order.is_empty()
    }
}

impl Node {
    /// Works on the directory; `ENOTDIR`.
    pub(super) fn directory<T>(&self, f: impl FnOnce(&mut Directory) -> T) -> Result<T> {
        match &mut self.state.lock().body {
            Body::Directory(directory) => Ok(f(directory)),
            _ => err(Errno::ENOTDIR),
        }
    }

    /// The node with this name, and whether the lower directory has the name.
    pub(super) fn find(&self, name: &[u8]) -> Result<(Arc<Node>, bool)> {
        let merged = {
            match &self.state.lock().body {
                Body::Directory(directory) => match directory.entries.get(name) {
                    Some(Entry { node: Some(node), hides_lower, .. }) => {
                        return Ok((node.clone(), *hides_lower));
                    }
                    Some(_) => return err(Errno::ENOENT),
                    None => directory.merged,
                },
                _ => return err(Errno::ENOTDIR),
            }
        };
        match &self.lower {
            Some(lower) if merged => {
                let (lower, attr) = lower.clone().find(name)?;
                Ok((self.shared.adopt(lower, attr), true))
            }
            _ => err(Errno::ENOENT),
        }
    }

    /// Checks that a name is free, and tells whether the lower directory has it.
    pub(super) fn find_free(&self, name: &[u8]) -> Result<bool> {
        let known = self.directory(|d| match d.entries.get(name) {
            Some(Entry { node: Some(_), .. }) => err(Errno::EEXIST),
            Some(entry) => Ok(Some(entry.hides_lower)),
            None if d.merged => Ok(None),
            None => Ok(Some(false)),
        })??;
        match (known, &self.lower) {
            (Some(hides_lower), _) => Ok(hides_lower),
            (None, None) => Ok(false),
            (None, Some(lower)) => match lower.clone().find(name) {
                Ok(_) => err(Errno::EEXIST),
                Err(Errno::ENOENT) => Ok(false),
                Err(e) => Err(e.into()),
            },
        }
    }

    /// Puts a name in that is free.
    pub(super) fn insert(
        &self,
        name: &[u8],
        node: &Arc<Node>,
        hides_lower: bool,
        now: Timespec,
    ) -> Result<()> {
        self.change_entries(1, node.is_directory(), now, |d| {
            if d.dead {
                return err(Errno::ENOENT);
            }
            d.insert(name, node.clone(), hides_lower);
            Ok(())
        })
    }

    /// Changes names, and the directory's size, times and links after `by` more of them.
    fn change_entries<T>(
        &self,
        by: i64,
        directories: bool,
        now: Timespec,
        f: impl FnOnce(&mut Directory) -> Result<T>,
    ) -> Result<T> {
        let in_memory = self.lower.is_none();
        self.change_state(|state| {
            let Body::Directory(directory) = &mut state.body else { return err(Errno::ENOTDIR) };
            let result = f(directory)?;
            let attr = &mut state.attr;
            if in_memory {
                attr.size = attr.size.saturating_add_signed(by * DIR_ENTRY_SIZE as i64);
            }
            // Some host file systems do not count subdirectories and always say 1.
            if directories && attr.nlink >= 2 {
                attr.nlink = attr.nlink.saturating_add_signed(by);
            }
            attr.mtime = now;
            attr.ctime = now;
            Ok(result)
        })
    }

    pub(super) fn add_new(&self, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Node>> {
        let hides_lower = self.find_free(name)?;
        Node::may_add(&self.shared)?;
        let now = self.shared.now();
        let node = Node::fresh(&self.shared, self.state.lock().attr.dev, new, now);
        self.insert(name, &node, hides_lower, now)?;
        Ok(node)
    }

    pub(super) fn add_link(&self, name: &[u8], target: &Arc<Node>) -> Result<()> {
        if target.is_directory() {
            return err(Errno::EPERM);
        }
        let hides_lower = self.find_free(name)?;
        let now = self.shared.now();
        self.insert(name, target, hides_lower, now)?;
        target.change(|attr| {
            attr.nlink += 1;
            attr.ctime = now;
        });
        Ok(())
    }

    /// Takes a name out, whose node and place are known from [`Node::find`].
    pub(super) fn take_name(
        &self,
        name: &[u8],
        hides_lower: bool,
        directory: bool,
        now: Timespec,
    ) -> Result<()> {
        let entry = self.change_entries(-1, directory, now, |d| Ok(d.remove(name, hides_lower)))?;
        drop(entry);
        Ok(())
    }

    pub(super) fn unlinked(&self, now: Timespec) {
        self.change(|attr| {
            attr.nlink = attr.nlink.saturating_sub(1);
            attr.ctime = now;
        });
    }

    pub(super) fn remove_file(&self, name: &[u8]) -> Result<()> {
        let (node, hides_lower) = self.find(name)?;
        if node.is_directory() {
            return err(Errno::EISDIR);
        }
        let now = self.shared.now();
        self.take_name(name, hides_lower, false, now)?;
        node.unlinked(now);
        Ok(())
    }

    pub(super) fn remove_directory(&self, name: &[u8]) -> Result<()> {
        let (node, hides_lower) = self.find(name)?;
        node.die_if_empty()?;
        self.take_name(name, hides_lower, true, self.shared.now())?;
        Ok(())
    }

    /// Marks an empty directory as removed; `ENOTEMPTY`, `ENOTDIR`.
    pub(super) fn die_if_empty(&self) -> Result<()> {
        let merged = self.directory(|d| d.merged && !d.dead)?;
        if let (true, Some(lower)) = (merged, &self.lower) {
            let names = lower.read_dir()?;
            let seen = self.directory(|d| names.iter().any(|n| !d.entries.contains_key(&*n.name)))?;
            if seen {
                return err(Errno::ENOTEMPTY);
            }
        }
        let empty = self.directory(|d| {
            d.dead |= !d.names();
            if d.dead {
                d.merged = false;
                d.entries.clear();
            }
            d.dead
        })?;
        if !empty {
            return err(Errno::ENOTEMPTY);
        }
        let now = self.shared.now();
        self.change(|attr| {
            attr.nlink = 0;
            attr.ctime = now;
        });
        Ok(())
    }
}

/// An open directory.
pub(super) struct MemDir {
    node: Arc<Node>,
    /// The lower directory as it was when the listing began.
    lower: Mutex<Option<Listing>>,
}

impl MemDir {
    pub(super) fn new(node: Arc<Node>) -> MemDir {
        MemDir { node, lower: Mutex::new(None) }
    }

    fn listing(&self, again: bool) -> Result<Listing> {
        let known = self.lower.lock().clone();
        if let (false, Some(listing)) = (again, known) {
            return Ok(listing);
        }
        let merged = self.node.directory(|d| d.merged)?;
        let listing = match &self.node.lower {
            Some(lower) if merged => self.node.lower_names(&**lower)?,
            _ => Listing::default(),
        };
        *self.lower.lock() = Some(listing.clone());
        Ok(listing)
    }
}

impl File for MemDir {
    fn read(
        &self,
        _cx: &Cx,
        _of: &OpenFile,
        _pos: &mut u64,
        _sink: &mut dyn crate::user::Sink,
    ) -> Result<usize> {
        err(Errno::EISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn read_dir(
        &self,
        _cx: &Cx,
        of: &OpenFile,
        pos: u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        if self.node.directory(|d| d.dead)? {
            return err(Errno::ENOENT);
        }
        self.node.accessed(of);
        let mut emit = |name: &[u8], ino, file_type, next| emit(DirEntry { name, ino, file_type, next });
        let own = self.node.ino();
        if pos == 0 && !emit(b".", own, FileType::Directory, 1) {
            return Ok(());
        }
        if pos <= 1 && !emit(b"..", dotdot_ino(of).unwrap_or(own), FileType::Directory, 2) {
            return Ok(());
        }
        if pos < UPPER_POS {
            let listing = self.listing(pos == 0)?;
            let mut next = pos.saturating_sub(2);
            for batch in listing.get(next as usize..).unwrap_or_default().chunks(BATCH) {
                let full = self.node.directory(|d| {
                    batch.iter().any(|entry| {
                        next += 1;
                        let hidden = d.entries.contains_key(&*entry.name);
                        !hidden && !emit(&entry.name, entry.ino, entry.file_type, next + 2)
                    })
                })?;
                if full {
                    return Ok(());
                }
            }
        }
        let mut from = pos.saturating_sub(UPPER_POS);
        loop {
            let mut count = 0;
            let full = self.node.directory(|d| {
                d.order.range(from..).take(BATCH).any(|(pos, entry)| {
                    count += 1;
                    from = pos + 1;
                    !emit(&entry.name, entry.ino, entry.file_type, UPPER_POS + from)
                })
            })?;
            if full || count < BATCH {
                return Ok(());
            }
        }
    }

    fn seek(&self, _cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        let base = match whence {
            0 => 0,
            1 => of.pos(),
            // As where names are hashed (ext4): behind the last position that there can be.
            2 if self.node.shared.overlay => i64::MAX as u64,
            _ => return err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|&p| p <= i64::MAX as u64).ok_or(Errno::EINVAL.into())
    }

    fn pollable(&self) -> bool {
        false
    }

    fn sync(&self, _cx: &Cx, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
