//! All locks of a kernel.

use super::range::{Owner, Range, RangeLock, Ranges};
use super::{FileKey, LockKind};
use crate::fs::OpenFile;
use crate::sync::Mutex;
use crate::wait::{PollEvents, WaitQueue};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

struct Flock {
    description: u64,
    pid: i32,
    kind: LockKind,
}

#[derive(Default)]
struct FileLocks {
    ranges: Ranges,
    flocks: Vec<Flock>,
    /// Woken when a lock on the file goes away or gets weaker.
    queue: WaitQueue,
    /// Number of tasks that hold a copy of the queue.
    users: usize,
}

impl FileLocks {
    fn unused(&self) -> bool {
        self.ranges.is_empty() && self.flocks.is_empty() && self.users == 0
    }
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<FileKey, FileLocks>,
    /// Tasks, by their ids, that wait for a process's record lock.
    waiting: BTreeMap<i32, Waiting>,
}

/// Whom a task waits for. It goes when a lock on the file is released: the task wakes up, and says again whom it waits for then. An entry that
/// outlived its reason would let [`LockTable::would_deadlock`] see circles that are none.
struct Waiting {
    file: FileKey,
    /// The process of the task.
    process: i32,
    /// The process that has the lock.
    holder: i32,
}

/// All locks of a kernel.
#[derive(Default)]
pub struct LockTable {
    me: Weak<LockTable>,
    inner: Mutex<Inner>,
    /// Number of record locks, so that a close that has nothing to release is quick.
    pub(super) records: AtomicUsize,
}

/// A line of `/proc/locks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockInfo {
    /// `POSIX`, `OFDLCK` or `FLOCK`.
    pub class: &'static str,
    /// What it excludes.
    pub kind: LockKind,
    /// Who set it; -1 for a description's.
    pub pid: i32,
    /// Device number and inode number of the file.
    pub file: (u64, u64),
    /// Where.
    pub range: Range,
}

/// Held by an open file description that may have locks; releases them when it goes away.
pub struct LockToken {
    table: Weak<LockTable>,
    key: FileKey,
    description: u64,
}

impl Drop for LockToken {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.remove_flock(self.key, self.description);
            table.unlock_range(self.key, Owner::Description(self.description), Range::ALL);
        }
    }
}

impl LockTable {
    /// Whether anybody holds a record lock.
    pub(in crate::fs) fn has_records(&self) -> bool {
        self.records.load(Ordering::Relaxed) != 0
    }

    /// A table without locks.
    pub fn new() -> Arc<LockTable> {
        Arc::new_cyclic(|me| LockTable { me: me.clone(), ..LockTable::default() })
    }

    /// Makes the description release its locks when it goes away.
    pub(super) fn watch(&self, of: &OpenFile, key: FileKey) {
        let mut token = of.locks.lock();
        token.get_or_insert_with(|| LockToken { table: self.me.clone(), key, description: of.id });
    }

    /// The queue of those who wait for a lock on the file. [`LockTable::tidy`] must follow.
    pub(super) fn queue(&self, key: FileKey) -> WaitQueue {
        let mut inner = self.inner.lock();
        let file = inner.files.entry(key).or_default();
        file.users += 1;
        file.queue.clone()
    }

    /// The counterpart of [`LockTable::queue`]: forgets the file if it has no locks.
    pub(super) fn tidy(&self, key: FileKey) {
        let mut inner = self.inner.lock();
        if let Some(file) = inner.files.get_mut(&key) {
            file.users = file.users.saturating_sub(1);
            if file.unused() {
                inner.files.remove(&key);
            }
        }
    }

    /// Changes a file's locks if it has any, and wakes those who wait when `change` says that something became free.
    fn release(&self, key: FileKey, change: impl FnOnce(&mut FileLocks) -> bool) {
        let queue = {
            let mut inner = self.inner.lock();
            let Some(file) = inner.files.get_mut(&key) else { return };
            let before = file.ranges.len();
            let freed = change(file);
            self.recount(before, file.ranges.len());
            let queue = freed.then(|| file.queue.clone());
            if file.unused() {
                inner.files.remove(&key);
            }
            if freed {
                inner.waiting.retain(|_, waiting| waiting.file != key);
            }
            queue
        };
        if let Some(queue) = queue {
            queue.wake_all(PollEvents::empty());
        }
    }

    fn recount(&self, before: usize, after: usize) {
        if after >= before {
            self.records.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.records.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Sets a description's lock on the whole file; `None` when another one is in the way, and then its own is gone too.
    pub(super) fn try_flock(&self, key: FileKey, description: u64, pid: i32, kind: LockKind) -> Option<()> {
        let mut freed = None;
        let result = {
            let mut inner = self.inner.lock();
            let file = inner.files.entry(key).or_default();
            if let Some(at) = file.flocks.iter().position(|l| l.description == description) {
                if file.flocks.get(at).is_some_and(|l| l.kind == kind) {
                    return Some(());
                }
                file.flocks.remove(at);
                freed = Some(file.queue.clone());
            }
            let blocked =
                file.flocks.iter().any(|l| l.kind == LockKind::Exclusive || kind == LockKind::Exclusive);
            if blocked {
                None
            } else {
                file.flocks.push(Flock { description, pid, kind });
                Some(())
            }
        };
        if let Some(queue) = freed {
            queue.wake_all(PollEvents::empty());
        }
        result
    }

    pub(super) fn remove_flock(&self, key: FileKey, description: u64) {
        self.release(key, |file| {
            let before = file.flocks.len();
            file.flocks.retain(|l| l.description != description);
            file.flocks.len() != before
        });
    }

    /// Sets a record lock; `None` when another one is in the way.
    pub(super) fn try_range(&self, key: FileKey, lock: RangeLock) -> Option<()> {
        let queue = {
            let mut inner = self.inner.lock();
            let file = inner.files.entry(key).or_default();
            if file.ranges.conflict(&lock).is_some() {
                return None;
            }
            let before = file.ranges.len();
            file.ranges.insert(lock);
            self.recount(before, file.ranges.len());
            // An exclusive lock of its owner may have become a shared one.
            let queue = (lock.kind == LockKind::Shared && file.users > 1).then(|| file.queue.clone());
            if queue.is_some() {
                inner.waiting.retain(|_, waiting| waiting.file != key);
            }
            queue
        };
        if let Some(queue) = queue {
            queue.wake_all(PollEvents::empty());
        }
        Some(())
    }

    pub(super) fn unlock_range(&self, key: FileKey, owner: Owner, range: Range) {
        self.release(key, |file| file.ranges.remove(owner, range));
    }

    pub(super) fn release_owner(&self, owner: Owner) {
        let keys: Vec<FileKey> = {
            let inner = self.inner.lock();
            let has = |file: &FileLocks| file.ranges.iter().any(|l| l.owner == owner);
            inner.files.iter().filter(|(_, file)| has(file)).map(|(key, _)| *key).collect()
        };
        for key in keys {
            self.unlock_range(key, owner, Range::ALL);
        }
    }

    pub(super) fn conflict(&self, key: FileKey, lock: RangeLock) -> Option<RangeLock> {
        self.inner.lock().files.get(&key).and_then(|file| file.ranges.conflict(&lock))
    }

    /// Notes that the task `tid` is about to wait for this lock; true when the wait would close a circle of processes. Descriptions' locks
    /// are not followed, as on Linux.
    pub(super) fn would_deadlock(&self, key: FileKey, lock: RangeLock, tid: i32) -> bool {
        let mut inner = self.inner.lock();
        let Owner::Process(me) = lock.owner else { return false };
        let holder = inner.files.get(&key).and_then(|file| file.ranges.conflict(&lock));
        let Some(Owner::Process(holder)) = holder.map(|h| h.owner) else { return false };
        // Walks from the holder along whom it waits for; each process is looked at once.
        let mut seen = alloc::vec![holder];
        let mut at = 0;
        while let Some(&process) = seen.get(at) {
            at += 1;
            for waiting in inner.waiting.values().filter(|w| w.process == process) {
                if waiting.holder == me {
                    return true;
                }
                if !seen.contains(&waiting.holder) {
                    seen.push(waiting.holder);
                }
            }
        }
        inner.waiting.insert(tid, Waiting { file: key, process: me, holder });
        false
    }

    pub(super) fn stop_waiting(&self, tid: i32) {
        self.inner.lock().waiting.remove(&tid);
    }

    /// All locks, for `/proc/locks`.
    pub fn list(&self) -> Vec<LockInfo> {
        let inner = self.inner.lock();
        let mut out = Vec::new();
        for (&file, locks) in &inner.files {
            for lock in locks.ranges.iter() {
                let (class, pid) = match lock.owner {
                    Owner::Process(pid) => ("POSIX", pid),
                    Owner::Description(_) => ("OFDLCK", -1),
                };
                out.push(LockInfo { class, kind: lock.kind, pid, file, range: lock.range });
            }
            for lock in &locks.flocks {
                out.push(LockInfo {
                    class: "FLOCK",
                    kind: lock.kind,
                    pid: lock.pid,
                    file,
                    range: Range::ALL,
                });
            }
        }
        out
    }
}
