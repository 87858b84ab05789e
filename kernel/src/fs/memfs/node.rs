//! Nodes: the inodes of a file system in memory.

use super::{Key, MemOptions, Shared};
use crate::error::{Result, err};
use crate::fs::perm::{self, Rights};
use crate::fs::{File, Inode, Latch, NewInode, NewKind, OpenFlags, Path, device};
use crate::mm::PageCache;
use crate::mm::view::Times;
use crate::sync::Mutex;
use crate::task::Cx;
use abi::Errno;
use abi::fs::{Attr, DeviceId, FileType};
use abi::time::Timespec;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};
use hal::{HostFile, HostNode, SetAttr};
use hashbrown::HashMap;

/// What a directory's size grows by for each entry, as tmpfs on Linux shows it.
pub(super) const DIR_ENTRY_SIZE: u64 = 20;

/// A name in a directory.
pub(super) struct Entry {
    /// `None` is a whiteout: the lower directory's entry is hidden.
    pub(super) node: Option<Arc<Node>>,
    /// Where it stands in listings.
    pub(super) pos: u64,
    /// Whether the lower directory has this name.
    pub(super) hides_lower: bool,
}

/// What a listing says of an entry.
pub(super) struct Listed {
    pub(super) name: Arc<[u8]>,
    pub(super) ino: u64,
    pub(super) file_type: FileType,
}

#[derive(Default)]
pub(super) struct Directory {
    pub(super) entries: HashMap<Arc<[u8]>, Entry>,
    /// Entries that are not whiteouts, in the order in which they are listed.
    pub(super) order: BTreeMap<u64, Listed>,
    pub(super) next_pos: u64,
    /// Whether the lower directory's names are seen.
    pub(super) merged: bool,
    /// Removed: nothing may be added.
    pub(super) dead: bool,
}

pub(super) enum Body {
    /// A regular file whose content is the lower node's, kept open once it was opened.
    Lower(Option<Arc<dyn HostFile>>),
    /// A regular file in memory.
    Cache(Arc<PageCache>),
    Directory(Directory),
    /// `None`: the lower node's target.
    Symlink(Option<Arc<[u8]>>),
    Special,
}

pub(super) struct State {
    pub(super) attr: Attr,
    pub(super) body: Body,
    /// `None`: the lower node's.
    pub(super) xattrs: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Differs from its lower node, or has none.
    pub(super) changed: bool,
}

impl State {
    /// The content, if that is in memory.
    pub(super) fn cache(&self) -> Option<&Arc<PageCache>> {
        match &self.body {
            Body::Cache(cache) => Some(cache),
            _ => None,
        }
    }

    /// Takes over when guest code has read and written by itself.
    pub(super) fn settle(&mut self) {
        let times = self.cache().and_then(|cache| cache.take_times());
        let Some(Times { read, written, now }) = times else { return };
        let [read, written, now] = [read, written, now].map(Timespec::from_ns);
        let attr = &mut self.attr;
        // The clock that guest code looks at is behind by some milliseconds.
        let later = |old: Timespec, new: Timespec| if old > now { new } else { old.max(new) };
        if written > Timespec::default() {
            (attr.mtime, attr.ctime) = (later(attr.mtime, written), later(attr.ctime, written));
        }
        if read > Timespec::default() && is_stale(attr, read) {
            attr.atime = later(attr.atime, read);
        }
    }
}

/// Whether a read at this time changes the access time, as `relatime` has it (`mount(8)`).
pub(super) fn is_stale(attr: &Attr, now: Timespec) -> bool {
    let changed = attr.atime <= attr.mtime || attr.atime <= attr.ctime;
    changed || now.sec.saturating_sub(attr.atime.sec) >= 86_400
}

/// An inode in memory, perhaps with one of the host behind it.
pub struct Node {
    pub(super) shared: Arc<Shared>,
    pub(super) me: Weak<Node>,
    pub(super) lower: Option<Arc<dyn HostNode>>,
    pub(super) key: Key,
    pub(super) file_type: FileType,
    pub(super) state: Mutex<State>,
    /// What [`Inode::all_may_search`] answers. Written with `state` locked.
    all_may_search: AtomicBool,
    /// Whether guests may have been told the attributes. Set with `state` locked.
    lent: AtomicBool,
    /// Held while content changes.
    pub(super) content: Latch,
}

impl Node {
    fn build(
        shared: &Arc<Shared>,
        lower: Option<Arc<dyn HostNode>>,
        attr: Attr,
        body: Body,
        changed: bool,
    ) -> Arc<Node> {
        let xattrs = if lower.is_some() { None } else { Some(BTreeMap::new()) };
        let key = super::key(&attr);
        shared.inodes.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|me| Node {
            shared: shared.clone(),
            me: me.clone(),
            lower,
            key,
            file_type: attr.file_type(),
            all_may_search: AtomicBool::new(perm::all_may_search(attr.mode)),
            lent: AtomicBool::new(false),
            state: Mutex::new(State { attr, body, xattrs, changed }),
            content: Latch::new(),
        })
    }

    pub(super) fn lower(shared: &Arc<Shared>, lower: Arc<dyn HostNode>, attr: Attr) -> Arc<Node> {
        let body = match attr.file_type() {
            FileType::Regular => Body::Lower(None),
            FileType::Directory => Body::Directory(Directory { merged: true, ..Directory::default() }),
            FileType::Symlink => Body::Symlink(None),
            _ => Body::Special,
        };
        Node::build(shared, Some(lower), attr, body, false)
    }

    pub(super) fn new_root(shared: &Arc<Shared>, options: &MemOptions) -> Arc<Node> {
        let new = NewInode {
            kind: NewKind::Directory,
            mode: options.mode,
            uid: options.owner.0,
            gid: options.owner.1,
        };
        Node::fresh(shared, shared.dev, &new, shared.now())
    }

    /// A new node in memory only.
    pub(super) fn fresh(shared: &Arc<Shared>, dev: DeviceId, new: &NewInode<'_>, now: Timespec) -> Arc<Node> {
        let (file_type, rdev, size, body) = match new.kind {
            NewKind::File => (FileType::Regular, DeviceId::default(), 0, Body::Cache(shared.new_content())),
            NewKind::Directory => {
                let size = 2 * DIR_ENTRY_SIZE;
                (FileType::Directory, DeviceId::default(), size, Body::Directory(Directory::default()))
            }
            NewKind::Symlink(target) => {
                let size = target.len() as u64;
                (FileType::Symlink, DeviceId::default(), size, Body::Symlink(Some(target.into())))
            }
            NewKind::Special(file_type, rdev) => (file_type, rdev, 0, Body::Special),
        };
        let attr = Attr {
            dev,
            ino: shared.new_ino(),
            mode: file_type.mode_bits() | new.mode & 0o7777,
            nlink: if file_type == FileType::Directory { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev,
            size,
            blksize: 4096,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: Some(now),
        };
        Node::build(shared, None, attr, body, true)
    }

    /// Whether there is room for one more node.
    pub(super) fn may_add(shared: &Shared) -> Result<()> {
        if shared.inodes.load(Ordering::Relaxed) >= shared.max_inodes { err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// The node behind an inode of the same instance; `EXDEV`.
    pub(super) fn of(&self, inode: &Arc<dyn Inode>) -> Result<Arc<Node>> {
        let node = inode.as_any().downcast_ref::<Node>().and_then(|n| n.me.upgrade());
        node.filter(|n| Arc::ptr_eq(&n.shared, &self.shared)).ok_or(Errno::EXDEV.into())
    }

    pub(super) fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }

    pub(super) fn ino(&self) -> u64 {
        self.key.1
    }

    /// Changes the attributes; from now on the node is kept by the index while it has a name.
    pub(super) fn change(&self, f: impl FnOnce(&mut Attr)) {
        self.change_state(|state| f(&mut state.attr));
    }

    /// As [`Node::change`], and what belongs to it.
    pub(super) fn change_state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.hold();
        let (result, was_kept, keep) = {
            let mut state = self.state.lock();
            let was_kept = state.changed && state.attr.nlink > 0;
            state.settle();
            let result = f(&mut state);
            state.changed = true;
            if let Some(cache) = state.cache() {
                cache.forget_read();
            }
            self.all_may_search.store(perm::all_may_search(state.attr.mode), Ordering::Release);
            (result, was_kept, state.attr.nlink > 0)
        };
        self.recall();
        if self.lower.is_some()
            && was_kept != keep
            && let Some(me) = self.me.upgrade()
        {
            self.shared.keep(self.key, &me, keep);
        }
        result
    }

    /// The attributes if they are the lower node's, to be told to guests until they change.
    pub(super) fn lend(&self) -> Option<Attr> {
        let state = self.state.lock();
        if state.changed || !matches!(state.body, Body::Lower(Some(_))) {
            return None;
        }
        self.lent.store(true, Ordering::Release);
        Some(state.attr)
    }

    /// The attributes have changed: nobody is told the old ones any more.
    fn recall(&self) {
        if self.lent.load(Ordering::Acquire) && self.lent.swap(false, Ordering::AcqRel) {
            self.shared.machine.recall_offers();
        }
    }

    /// Keeps the lower node from being lost. When that fails, it still works as long as the host leaves it where it is.
    pub(super) fn hold(&self) {
        if let Some(lower) = &self.lower {
            let _ = lower.hold();
        }
    }

    /// The lower file's content.
    pub(super) fn lower_file(&self) -> Result<Arc<dyn HostFile>> {
        if let Body::Lower(Some(file)) = &self.state.lock().body {
            return Ok(file.clone());
        }
        let Some(lower) = &self.lower else { return err(Errno::EIO) };
        let (file, attr) = lower.open_read()?;
        self.refresh(attr, Some(&file));
        Ok(file)
    }

    /// Opens the lower file's content, or looks at its attributes again if it is open.
    pub(super) fn open_lower(&self) -> Result<()> {
        let known = match &self.state.lock().body {
            Body::Lower(Some(file)) => Some(file.clone()),
            Body::Lower(None) => None,
            _ => return Ok(()),
        };
        match known {
            // The host may have changed it, but does not take it away.
            Some(file) => self.refresh(file.attr()?, None),
            None => drop(self.lower_file()?),
        }
        Ok(())
    }

    /// Takes over what the host says of a file whose content is the lower node's.
    fn refresh(&self, fresh: Attr, opened: Option<&Arc<dyn HostFile>>) {
        let mut state = self.state.lock();
        let State { body, attr, changed, .. } = &mut *state;
        let Body::Lower(slot) = body else { return };
        if let (None, Some(file)) = (&slot, opened) {
            *slot = Some(file.clone());
        }
        let before = *attr;
        attr.size = fresh.size;
        attr.blocks = fresh.blocks;
        if !*changed {
            *attr = fresh;
        }
        if before != *attr {
            drop(state);
            self.recall();
        }
    }
}

impl Inode for Node {
    fn attr(&self) -> Result<Attr> {
        let mut state = self.state.lock();
        state.settle();
        let mut attr = state.attr;
        if let Some(cache) = state.cache() {
            let (size, pages) = cache.usage();
            attr.size = size;
            attr.blocks = pages * 8;
        }
        Ok(attr)
    }

    fn rights(&self) -> Result<Rights> {
        Ok(Rights::from(&self.state.lock().attr))
    }

    fn all_may_search(&self) -> bool {
        self.all_may_search.load(Ordering::Acquire)
    }

    fn set_attr(&self, cx: &Cx, set: &SetAttr) -> Result<()> {
        self.set_attributes(cx, set)
    }

    fn lookup(&self, _cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let node: Arc<dyn Inode> = self.find(name)?.0;
        Ok(node)
    }

    fn create(&self, _cx: &Cx, name: &[u8], new: &NewInode<'_>) -> Result<Arc<dyn Inode>> {
        let node: Arc<dyn Inode> = self.add_new(name, new)?;
        Ok(node)
    }

    fn create_unnamed(&self, _cx: &Cx, new: &NewInode<'_>) -> Result<Arc<dyn Inode>> {
        Node::may_add(&self.shared)?;
        let dev = self.state.lock().attr.dev;
        let node = Node::fresh(&self.shared, dev, new, self.shared.now());
        node.state.lock().attr.nlink = 0;
        Ok(node)
    }

    fn link(&self, _cx: &Cx, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        self.add_link(name, &self.of(target)?)
    }

    fn unlink(&self, _cx: &Cx, name: &[u8]) -> Result<()> {
        self.remove_file(name)
    }

    fn rmdir(&self, _cx: &Cx, name: &[u8]) -> Result<()> {
        self.remove_directory(name)
    }

    fn rename(&self, _cx: &Cx, name: &[u8], to: &Arc<dyn Inode>, to_name: &[u8], flags: u32) -> Result<()> {
        self.rename_entry(name, &self.of(to)?, to_name, flags)
    }

    fn read_link(&self, _cx: &Cx) -> Result<Vec<u8>> {
        match &self.state.lock().body {
            Body::Symlink(Some(target)) => return Ok(target.to_vec()),
            Body::Symlink(None) => {}
            _ => return err(Errno::EINVAL),
        }
        let Some(lower) = &self.lower else { return err(Errno::EIO) };
        let target = lower.read_link()?;
        if let Body::Symlink(slot) = &mut self.state.lock().body {
            *slot = Some(target.as_slice().into());
        }
        Ok(target)
    }

    fn open(&self, cx: &Cx, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        if !matches!(self.file_type, FileType::Regular | FileType::Directory) {
            return device::open_special(cx, path, flags);
        }
        let Some(me) = self.me.upgrade() else { return err(Errno::ENOENT) };
        if self.is_directory() {
            if let Some(lower) = &self.lower {
                lower.hold()?;
            }
            return Ok(Arc::new(super::dir::MemDir::new(me)));
        }
        super::file::open(me, flags)
    }

    fn looks_ahead(&self) -> bool {
        self.lower.is_some()
    }

    fn get_xattr(&self, _cx: &Cx, name: &[u8]) -> Result<Vec<u8>> {
        self.xattr(name)
    }
    fn set_xattr(&self, _cx: &Cx, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.put_xattr(name, value, flags)
    }
    fn list_xattr(&self, _cx: &Cx) -> Result<Vec<Vec<u8>>> {
        self.xattr_names()
    }
    fn remove_xattr(&self, _cx: &Cx, name: &[u8]) -> Result<()> {
        self.drop_xattr(name)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.inodes.fetch_sub(1, Ordering::Relaxed);
        if self.lower.is_some() {
            self.shared.gone(self.key);
        }
        // A deep tree must not be dropped by recursion: kernel stacks are small.
        let mut todo = Vec::new();
        self.take_children(&mut todo);
        while let Some(child) = todo.pop() {
            if let Some(mut node) = Arc::into_inner(child) {
                node.take_children(&mut todo);
            }
        }
    }
}

impl Node {
    fn take_children(&mut self, into: &mut Vec<Arc<Node>>) {
        if let Body::Directory(directory) = &mut self.state.get_mut().body {
            directory.order.clear();
            into.extend(core::mem::take(&mut directory.entries).into_values().filter_map(|e| e.node));
        }
    }
}
