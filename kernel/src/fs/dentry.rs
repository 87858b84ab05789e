//! Names: dentries and the cache of them.
//!
//! A [`Dentry`] is a name in a directory and the inode behind it. A directory's dentry holds those of its children that were looked up,
//! and remembers names that do not exist. [`DentryCache`] bounds how many are held: the least recently used leave first.
//! Where a directory's names may change by themselves ([`Inode::cacheable`] is false) every lookup asks the inode, and a known dentry
//! is used again when the answer is the same inode.
//!
//! Lock order: two directories' `children` in the order of their addresses; then a `link`; the cache's queue is a leaf.
//! No inode is called and no dentry dropped with any of them held.

use super::{Inode, Latch};
use crate::error::{Result, err};
use crate::sync::Mutex;
use crate::task::Cx;
use abi::Errno;
use abi::fs::FileType;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use hashbrown::HashMap;

/// Most dentries that the cache holds. Each may hold a host descriptor, so this stays well below what a host process may open.
const CACHE_LIMIT: usize = 8192;
/// What is left of that where the host gives few descriptors.
const CACHE_LIMIT_LEAST: usize = 64;

struct Link {
    parent: Option<Arc<Dentry>>,
    name: Arc<[u8]>,
}

enum Slot {
    /// Held by the cache.
    Cached(Arc<Dentry>),
    /// In a directory that is asked anew each time.
    Loose(Weak<Dentry>),
    /// There is no such name.
    Negative,
}

struct Child {
    slot: Slot,
    /// Second chance: set by a lookup, cleared when the cache looks for victims.
    used: bool,
}

#[derive(Default)]
struct Children {
    map: HashMap<Arc<[u8]>, Child>,
    /// Counts changes of the directory, so that a lookup that overlapped one is not remembered.
    changes: u64,
}

/// A name in a directory and the inode behind it.
pub struct Dentry {
    /// The inode.
    pub inode: Arc<dyn Inode>,
    link: Mutex<Link>,
    children: Mutex<Children>,
    /// How many mounts have this as their mount point.
    pub(super) mounts: AtomicU32,
    /// The type bits of the inode's mode, which never change; 0 before they were asked for.
    kind: AtomicU32,
    deleted: AtomicBool,
    /// Of a directory: see [`Inode::cacheable`].
    cacheable: bool,
    /// Whether it never had a name and may get one (`O_TMPFILE`).
    pub(super) nameless: bool,
    /// Held while names in this directory are made and removed.
    pub(super) latch: Latch,
}

/// Whether two references are to the same inode.
pub fn same_inode(a: &Arc<dyn Inode>, b: &Arc<dyn Inode>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b)) || a.is_same(b.as_ref())
}

/// Does something that may need the host's descriptors or memory; when it is out of them, lets go of what the cache holds and does it
/// once more.
pub(super) fn with_room<T>(cx: &Cx, mut f: impl FnMut() -> Result<T>) -> Result<T> {
    let result = f();
    match &result {
        Err(e) if matches!(e.errno(), Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => {
            cx.kernel.vfs.dentries.exhausted();
            f()
        }
        _ => result,
    }
}

impl Dentry {
    /// A dentry without a parent: the root of a file system, or of a nameless object; then `name` is what is shown of it.
    pub fn root(inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Dentry> {
        Dentry::new(inode, None, name.into())
    }

    /// A dentry below `parent` that no lookup finds (`O_TMPFILE`); `linkable` when it may get a name later.
    pub fn unlinked(parent: &Arc<Dentry>, inode: Arc<dyn Inode>, name: &[u8], linkable: bool) -> Arc<Dentry> {
        let dentry = Dentry::build(inode, Some(parent.clone()), name.into(), linkable);
        dentry.deleted.store(true, Ordering::Relaxed);
        dentry
    }

    fn new(inode: Arc<dyn Inode>, parent: Option<Arc<Dentry>>, name: Arc<[u8]>) -> Arc<Dentry> {
        Dentry::build(inode, parent, name, false)
    }

    fn build(
        inode: Arc<dyn Inode>,
        parent: Option<Arc<Dentry>>,
        name: Arc<[u8]>,
        nameless: bool,
    ) -> Arc<Dentry> {
        Arc::new(Dentry {
            cacheable: inode.cacheable(),
            inode,
            link: Mutex::new(Link { parent, name }),
            children: Mutex::default(),
            mounts: AtomicU32::new(0),
            kind: AtomicU32::new(0),
            deleted: AtomicBool::new(false),
            nameless,
            latch: Latch::new(),
        })
    }

    /// The last component; empty for a root.
    pub fn name(&self) -> Arc<[u8]> {
        self.link.lock().name.clone()
    }

    /// The directory; `None` for a root.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.link.lock().parent.clone()
    }

    /// The inode's type.
    pub fn file_type(&self) -> Result<FileType> {
        if let Some(known) = FileType::from_mode(self.kind.load(Ordering::Relaxed)) {
            return Ok(known);
        }
        let file_type = self.inode.attr()?.file_type();
        self.kind.store(file_type.mode_bits(), Ordering::Relaxed);
        Ok(file_type)
    }

    /// Whether something is mounted on it, in some mount of its file system.
    pub(super) fn is_mount_point(&self) -> bool {
        self.mounts.load(Ordering::Acquire) > 0
    }

    /// Whether its name was removed.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Whether `self` is `other` or lies below it.
    pub fn is_within(self: &Arc<Dentry>, other: &Arc<Dentry>) -> bool {
        let mut at = self.clone();
        loop {
            if Arc::ptr_eq(&at, other) {
                return true;
            }
            let Some(parent) = at.parent() else { return false };
            at = parent;
        }
    }

    /// The child with this name; `ENOENT`. The caller has checked that this is a directory that may be searched.
    pub fn child(self: &Arc<Dentry>, cx: &Cx, name: &[u8]) -> Result<Arc<Dentry>> {
        let cacheable = self.cacheable;
        let changes = {
            let mut children = self.children.lock();
            if let Some(child) = children.map.get_mut(name) {
                child.used = true;
                match &child.slot {
                    Slot::Cached(dentry) if cacheable || dentry.is_mount_point() => {
                        return Ok(dentry.clone());
                    }
                    Slot::Loose(weak) => {
                        if let Some(dentry) = weak.upgrade().filter(|d| d.is_mount_point()) {
                            return Ok(dentry);
                        }
                    }
                    Slot::Negative if cacheable => return err(Errno::ENOENT),
                    _ => {}
                }
            }
            children.changes
        };
        let found = cx.ahead.borrow_mut().look(self, name, changes, || cx.now_ns());
        let found = match found {
            Some(inode) => Ok(inode),
            None => self.unless_lost(with_room(cx, || self.inode.lookup(cx, name))),
        };
        match found {
            Ok(inode) => Ok(self.attach(cx, name, inode, Some(changes))),
            Err(e) => {
                if cacheable && e.errno() == Errno::ENOENT {
                    self.insert_negative(cx, name, Some(changes));
                }
                Err(e)
            }
        }
    }

    /// The state of the names in the directory if nothing is known of this one.
    pub(super) fn changes_unless_known(&self, name: &[u8]) -> Option<u64> {
        let children = self.children.lock();
        (!children.map.contains_key(name)).then_some(children.changes)
    }

    /// The dentry for a name whose inode is now known: an existing one for the same inode, else a new one. It is remembered unless the
    /// directory changed since `changes` was read; a creator passes `None` and counts as a change itself.
    pub(super) fn attach(
        self: &Arc<Dentry>,
        cx: &Cx,
        name: &[u8],
        inode: Arc<dyn Inode>,
        changes: Option<u64>,
    ) -> Arc<Dentry> {
        let cacheable = self.cacheable;
        let (mut old, mut key) = (None, None);
        let new = {
            let mut children = self.children.lock();
            if let Some((known, child)) = children.map.get_key_value(name) {
                if let Some(dentry) = child.peek() {
                    if changes.is_none_or(|changes| changes == children.changes)
                        && same_inode(&dentry.inode, &inode)
                    {
                        children.changes += u64::from(changes.is_none());
                        return dentry;
                    }
                    old = Some(dentry);
                }
                key = Some(known.clone());
            }
            let listed = key.is_some();
            let key = key.unwrap_or_else(|| name.into());
            let new = Dentry::new(inode, Some(self.clone()), key.clone());
            match changes {
                Some(changes) if changes != children.changes => return new,
                Some(_) => {}
                None => children.changes += 1,
            }
            // The host replaced the file behind the name.
            if let Some(old) = &old {
                old.deleted.store(true, Ordering::Release);
            }
            let slot = if cacheable { Slot::Cached(new.clone()) } else { Slot::Loose(Arc::downgrade(&new)) };
            if !cacheable && children.map.len() == children.map.capacity() {
                children.map.retain(|_, c| !matches!(&c.slot, Slot::Loose(weak) if weak.strong_count() == 0));
            }
            children.map.insert(key.clone(), Child { slot, used: false });
            drop(children);
            if cacheable && !listed {
                cx.kernel.vfs.dentries.added(self, key);
            }
            new
        };
        drop(old);
        new
    }

    /// Hands on what became of something that was done with the inode. When the host has put another file in its place (`ESTALE`), the cache
    /// forgets the name, so that the next walk finds that one.
    pub(super) fn unless_lost<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(e) = &result
            && e.errno() == Errno::ESTALE
            && let Some(parent) = self.parent()
        {
            let name = self.name();
            let is_self = |slot: &Slot| matches!(slot, Slot::Cached(d) if core::ptr::eq(&**d, self));
            let mut children = parent.children.lock();
            let before = match children.map.get(&name) {
                Some(child) if is_self(&child.slot) => children.map.remove(&name),
                _ => None,
            };
            drop(children);
            drop(before);
        }
        result
    }

    fn insert_negative(self: &Arc<Dentry>, cx: &Cx, name: &[u8], changes: Option<u64>) {
        let key: Arc<[u8]> = name.into();
        {
            let mut children = self.children.lock();
            if changes.is_some_and(|c| c != children.changes) {
                return;
            }
            let before = children.map.insert(key.clone(), Child { slot: Slot::Negative, used: false });
            drop(children);
            if before.is_some() {
                return;
            }
        }
        cx.kernel.vfs.dentries.added(self, key);
    }

    /// The name was removed from the directory, which is remembered: names often come again.
    pub(super) fn removed(&self, name: &[u8]) {
        let cacheable = self.cacheable;
        let before = {
            let mut children = self.children.lock();
            children.changes += 1;
            match children.map.get_mut(name) {
                Some(child) if cacheable => {
                    Some(core::mem::replace(child, Child { slot: Slot::Negative, used: false }))
                }
                _ => children.map.remove(name),
            }
        };
        if let Some(dentry) = before.and_then(Child::dentry) {
            dentry.deleted.store(true, Ordering::Release);
        }
    }

    /// Forgets everything below, at once: a mount or a kernel ends. Dentries that are still used stay usable.
    pub(super) fn forget_children(&self) {
        let mut todo: Vec<Child> = Vec::new();
        let take = |dentry: &Dentry, todo: &mut Vec<Child>| {
            let map = core::mem::take(&mut dentry.children.lock().map);
            todo.extend(map.into_values());
        };
        take(self, &mut todo);
        while let Some(child) = todo.pop() {
            if let Some(dentry) = child.dentry() {
                take(&dentry, &mut todo);
            }
        }
    }

    /// The entry `name` of `self` became `to_name` of `to`; with `exchange` the other way round too.
    pub(super) fn moved(
        self: &Arc<Dentry>,
        cx: &Cx,
        name: &[u8],
        to: &Arc<Dentry>,
        to_name: &[u8],
        exchange: bool,
    ) {
        let take = |dir: &Arc<Dentry>, name: &[u8]| {
            let mut children = dir.children.lock();
            children.changes += 1;
            children.map.remove(name)
        };
        let source = take(self, name);
        let target = take(to, to_name);
        let put = |dir: &Arc<Dentry>, name: &[u8], child: Option<Child>| {
            let Some(child) = child else { return };
            let key: Arc<[u8]> = name.into();
            let Some(dentry) = child.peek() else { return };
            let before = {
                let mut link = dentry.link.lock();
                link.name = key.clone();
                link.parent.replace(dir.clone())
            };
            let mut children = dir.children.lock();
            children.changes += 1;
            let replaced = children.map.insert(key.clone(), child);
            drop(children);
            drop((before, replaced));
            cx.kernel.vfs.dentries.added(dir, key);
        };
        put(to, to_name, source);
        if exchange {
            put(self, name, target);
        } else if let Some(dentry) = target.and_then(Child::dentry) {
            dentry.deleted.store(true, Ordering::Release);
        }
    }
}

impl Child {
    fn peek(&self) -> Option<Arc<Dentry>> {
        match &self.slot {
            Slot::Cached(dentry) => Some(dentry.clone()),
            Slot::Loose(weak) => weak.upgrade(),
            Slot::Negative => None,
        }
    }
    fn dentry(self) -> Option<Arc<Dentry>> {
        self.peek()
    }
}

impl Drop for Dentry {
    /// A deep chain must not be dropped by recursion: kernel stacks are small.
    fn drop(&mut self) {
        let mut parent = self.link.get_mut().parent.take();
        while let Some(dentry) = parent {
            parent = Arc::into_inner(dentry).and_then(|mut d| d.link.get_mut().parent.take());
        }
    }
}

/// A name that the cache holds and the directory that it is in.
type Cached = (Weak<Dentry>, Arc<[u8]>);

/// All dentries that are held only because they may be used again.
pub struct DentryCache {
    queue: Mutex<VecDeque<Cached>>,
    /// How many are held at most.
    limit: AtomicUsize,
}

impl Default for DentryCache {
    fn default() -> DentryCache {
        DentryCache { queue: Mutex::default(), limit: AtomicUsize::new(CACHE_LIMIT) }
    }
}

impl DentryCache {
    fn added(&self, parent: &Arc<Dentry>, name: Arc<[u8]>) {
        let len = {
            let mut queue = self.queue.lock();
            queue.push_back((Arc::downgrade(parent), name));
            queue.len()
        };
        let limit = self.limit.load(Ordering::Relaxed);
        if len > limit {
            self.shrink_steps(limit, 8);
        }
    }

    /// The host is out of descriptors: from now on half as many as now are held, so that others find some.
    fn exhausted(&self) {
        let limit = (self.queue.lock().len() / 2).clamp(CACHE_LIMIT_LEAST, CACHE_LIMIT);
        self.limit.fetch_min(limit, Ordering::Relaxed);
        self.shrink(0);
    }

    /// Drops entries that nobody uses until at most `keep` are left or all were looked at twice.
    pub fn shrink(&self, keep: usize) {
        let steps = self.queue.lock().len().saturating_mul(2);
        self.shrink_steps(keep, steps);
    }

    fn shrink_steps(&self, keep: usize, steps: usize) {
        for _ in 0..steps {
            let entry = {
                let mut queue = self.queue.lock();
                if queue.len() <= keep {
                    return;
                }
                queue.pop_front()
            };
            let Some((parent, name)) = entry else { return };
            let Some(directory) = parent.upgrade() else { continue };
            let mut victim = None;
            {
                let mut children = directory.children.lock();
                let Some(child) = children.map.get_mut(&*name) else { continue };
                let busy = match &child.slot {
                    Slot::Cached(dentry) => Arc::strong_count(dentry) > 1,
                    _ => false,
                };
                if child.used || busy {
                    child.used = false;
                } else {
                    victim = children.map.remove(&*name);
                }
            }
            if victim.is_none() {
                self.queue.lock().push_back((parent, name));
            }
        }
    }
}
