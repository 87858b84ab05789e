//! File locks: `flock(2)`, POSIX record locks and open-file-description locks (`fcntl(2)`, "Advisory record locking").
//!
//! All locks of a kernel are in one [`LockTable`], by the file's device and inode number. Record locks of a process go when it closes any
//! descriptor of the file; the others go with their open file description, which holds a [`LockToken`].
//!
//! Lock order: the table's lock is a leaf. Differs from Linux: no leases.

mod range;
mod table;
#[cfg(test)]
mod tests;

pub use range::{Owner, Range, RangeLock};
pub use table::{LockInfo, LockTable, LockToken};

use crate::error::{Result, err};
use crate::fs::OpenFile;
use crate::task::Cx;
use abi::Errno;

/// What identifies a file: its device and inode number.
pub(crate) type FileKey = (u64, u64);

/// What a lock excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Writers: others may share it.
    Shared,
    /// Everybody.
    Exclusive,
}

/// Whether to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Fail with `EAGAIN`.
    No,
    /// Wait; a signal interrupts.
    Yes,
}

fn key(of: &OpenFile) -> Result<FileKey> {
    let attr = of.attr()?;
    Ok((attr.dev.encode(), attr.ino))
}

/// `flock(2)`: sets or, with `None`, removes the description's lock. A change of kind is not atomic: the old lock is given up first.
pub fn flock(cx: &Cx, of: &OpenFile, kind: Option<LockKind>, wait: LockWait) -> Result<()> {
    let (locks, key) = (&cx.kernel.locks, key(of)?);
    let Some(kind) = kind else {
        locks.remove_flock(key, of.id);
        return Ok(());
    };
    super::lend::end(cx);
    locks.watch(of, key);
    let pid = cx.process().pid;
    let queue = locks.queue(key);
    let result = match wait {
        LockWait::No => locks.try_flock(key, of.id, pid, kind).map_or(err(Errno::EAGAIN), Ok),
        LockWait::Yes => cx.wait(&queue, || locks.try_flock(key, of.id, pid, kind).map(Ok)),
    };
    locks.tidy(key);
    result
}

/// Sets or, with `None`, removes a record lock.
pub fn set_range(
    cx: &Cx,
    of: &OpenFile,
    owner: Owner,
    range: Range,
    kind: Option<LockKind>,
    wait: LockWait,
) -> Result<()> {
    let (locks, key) = (&cx.kernel.locks, key(of)?);
    let pid = cx.process().pid;
    let Some(kind) = kind else {
        locks.unlock_range(key, owner, range);
        return Ok(());
    };
    super::lend::end(cx);
    if matches!(owner, Owner::Description(_)) {
        locks.watch(of, key);
    }
    let lock = RangeLock { owner, pid, range, kind };
    let queue = locks.queue(key);
    let result = match wait {
        LockWait::No => locks.try_range(key, lock).map_or(err(Errno::EAGAIN), Ok),
        LockWait::Yes => {
            let result = cx.wait(&queue, || match locks.try_range(key, lock) {
                Some(()) => Some(Ok(())),
                None if locks.would_deadlock(key, lock, cx.task.tid()) => Some(err(Errno::EDEADLK)),
                None => None,
            });
            locks.stop_waiting(cx.task.tid());
            result
        }
    };
    locks.tidy(key);
    result
}

/// The first lock that keeps `owner` from setting this one.
pub fn conflict(
    cx: &Cx,
    of: &OpenFile,
    owner: Owner,
    range: Range,
    kind: LockKind,
) -> Result<Option<RangeLock>> {
    let lock = RangeLock { owner, pid: 0, range, kind };
    Ok(cx.kernel.locks.conflict(key(of)?, lock))
}

/// Releases the process's record locks on a file of which it closes a descriptor. Called on every close.
pub fn closed(cx: &Cx, of: &OpenFile) {
    if cx.kernel.locks.has_records()
        && let Ok(key) = key(of)
    {
        cx.kernel.locks.unlock_range(key, Owner::Process(cx.process().pid), Range::ALL);
    }
}

/// Releases the record locks of the current process, which ends.
pub(crate) fn release_process(cx: &Cx) {
    if cx.kernel.locks.has_records() {
        cx.kernel.locks.release_owner(Owner::Process(cx.process().pid));
    }
}
