//! Ranges of bytes and the locks on one file's ranges.

use super::LockKind;
use alloc::vec::Vec;

/// Whom a record lock belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A process (`F_SETLK`).
    Process(i32),
    /// An open file description (`F_OFD_SETLK`), by its number.
    Description(u64),
}

/// Bytes from `start` to `end`, both included. The last possible byte stands for "to the end, wherever that is".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

impl Range {
    /// The last possible byte.
    pub const MAX: u64 = i64::MAX as u64;
    /// The whole file.
    pub const ALL: Range = Range { start: 0, end: Range::MAX };

    fn overlaps(self, other: Range) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn touches(self, other: Range) -> bool {
        self.start <= other.end.saturating_add(1) && other.start <= self.end.saturating_add(1)
    }
}

/// A record lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLock {
    /// Whom it belongs to.
    pub owner: Owner,
    /// The process that set it.
    pub pid: i32,
    /// Where.
    pub range: Range,
    /// What it excludes.
    pub kind: LockKind,
}

/// Record locks of one file, in the order of their starts.
#[derive(Default)]
pub(super) struct Ranges(Vec<RangeLock>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &RangeLock> {
        self.0.iter()
    }

    /// The first lock of someone else that excludes this one.
    pub(super) fn conflict(&self, wanted: &RangeLock) -> Option<RangeLock> {
        let excludes = |held: &&RangeLock| {
            held.owner != wanted.owner
                && held.range.overlaps(wanted.range)
                && (held.kind == LockKind::Exclusive || wanted.kind == LockKind::Exclusive)
        };
        self.0.iter().find(excludes).copied()
    }

    /// Takes the owner's locks off a range; whether there were any.
    pub(super) fn remove(&mut self, owner: Owner, range: Range) -> bool {
        let mut kept = Vec::with_capacity(self.0.len() + 1);
        let mut changed = false;
        for lock in self.0.drain(..) {
            if lock.owner != owner || !lock.range.overlaps(range) {
                kept.push(lock);
                continue;
            }
            changed = true;
            if lock.range.start < range.start {
                kept.push(RangeLock {
                    range: Range { start: lock.range.start, end: range.start - 1 },
                    ..lock
                });
            }
            if lock.range.end > range.end {
                kept.push(RangeLock { range: Range { start: range.end + 1, end: lock.range.end }, ..lock });
            }
        }
        self.0 = kept;
        changed
    }

    /// Sets a lock that conflicts with no other: replaces what its owner has there, and joins neighbours of the same kind.
    pub(super) fn insert(&mut self, mut lock: RangeLock) {
        self.remove(lock.owner, lock.range);
        self.0.retain(|other| {
            let joins =
                other.owner == lock.owner && other.kind == lock.kind && other.range.touches(lock.range);
            if joins {
                lock.range.start = lock.range.start.min(other.range.start);
                lock.range.end = lock.range.end.max(other.range.end);
            }
            !joins
        });
        let at = self.0.partition_point(|other| other.range.start < lock.range.start);
        self.0.insert(at, lock);
    }
}
