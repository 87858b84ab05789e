//! Tests of ranges, conflicts, waiting and release.

use super::range::Ranges;
use super::*;
use crate::fs::{OpenFile, OpenFlags};
use crate::net::{SocketFile, SocketType};
use crate::testing::{run, thread};
use std::sync::Arc;
use std::vec::Vec;

fn lock(owner: i32, start: u64, end: u64, kind: LockKind) -> RangeLock {
    RangeLock { owner: Owner::Process(owner), pid: owner, range: Range { start, end }, kind }
}

fn shape(ranges: &Ranges) -> Vec<(u64, u64, LockKind)> {
    ranges.iter().map(|l| (l.range.start, l.range.end, l.kind)).collect()
}

#[test]
fn locks_of_one_owner_split_and_join() {
    use LockKind::{Exclusive as X, Shared as S};
    let mut ranges = Ranges::default();
    ranges.insert(lock(1, 0, 99, X));
    ranges.insert(lock(1, 40, 59, S));
    assert_eq!(shape(&ranges), [(0, 39, X), (40, 59, S), (60, 99, X)]);
    ranges.insert(lock(1, 40, 59, X));
    assert_eq!(shape(&ranges), [(0, 99, X)]);
    ranges.insert(lock(1, 100, Range::MAX, X));
    assert_eq!(shape(&ranges), [(0, Range::MAX, X)]);
    assert!(ranges.remove(Owner::Process(1), Range { start: 0, end: 9 }));
    assert!(!ranges.remove(Owner::Process(2), Range::ALL));
    assert_eq!(shape(&ranges), [(10, Range::MAX, X)]);
    assert!(ranges.conflict(&lock(2, 0, 9, X)).is_none());
    assert!(ranges.conflict(&lock(2, 0, 10, S)).is_some());
    assert!(ranges.conflict(&lock(1, 0, 10, S)).is_none());
}

/// An open file with an identity of its own.
fn file(cx: &Cx) -> Arc<OpenFile> {
    let socket = cx.kernel.net.get(cx, 1).unwrap().create(cx, SocketType::Stream, 0).unwrap();
    SocketFile::open(cx.kernel, socket, OpenFlags::empty())
}

/// Another description of the same file.
fn reopened(cx: &Cx, of: &OpenFile) -> Arc<OpenFile> {
    OpenFile::new(cx.kernel, of.file.clone(), None, None, OpenFlags::RDWR)
}

#[test]
fn flock_belongs_to_the_description() {
    run(|cx| {
        let a = file(cx);
        let b = reopened(cx, &a);
        flock(cx, &a, Some(LockKind::Shared), LockWait::No).unwrap();
        flock(cx, &b, Some(LockKind::Shared), LockWait::No).unwrap();
        // A failed upgrade loses the lock that was there.
        let refused = flock(cx, &a, Some(LockKind::Exclusive), LockWait::No);
        assert_eq!(refused.unwrap_err().errno(), Errno::EAGAIN);
        flock(cx, &b, Some(LockKind::Exclusive), LockWait::No).unwrap();
        drop(b);
        flock(cx, &a, Some(LockKind::Exclusive), LockWait::No).unwrap();
        assert_eq!(cx.kernel.locks.list().len(), 1);
        drop(a);
        assert_eq!(cx.kernel.locks.list().len(), 0);
    });
}

#[test]
fn a_waiter_gets_the_lock_when_it_is_free() {
    run(|cx| {
        let a = file(cx);
        let b = reopened(cx, &a);
        flock(cx, &a, Some(LockKind::Exclusive), LockWait::No).unwrap();
        let holder = thread(cx, move |cx| {
            cx.sleep(Some(cx.now_ns() + 1_000_000));
            drop(a);
        });
        flock(cx, &b, Some(LockKind::Exclusive), LockWait::Yes).unwrap();
        drop(holder);
        flock(cx, &b, None, LockWait::No).unwrap();
        assert_eq!(cx.kernel.locks.list().len(), 0);
    });
}

#[test]
fn any_close_by_the_process_releases_its_record_locks() {
    run(|cx| {
        let a = file(cx);
        let b = reopened(cx, &a);
        let me = Owner::Process(cx.process().pid);
        set_range(cx, &a, me, Range::ALL, Some(LockKind::Exclusive), LockWait::No).unwrap();
        let description = Owner::Description(b.id);
        let other = set_range(cx, &b, description, Range::ALL, Some(LockKind::Shared), LockWait::No);
        assert_eq!(other.unwrap_err().errno(), Errno::EAGAIN);
        closed(cx, &b);
        set_range(cx, &b, description, Range::ALL, Some(LockKind::Shared), LockWait::No).unwrap();
        let found = conflict(cx, &a, me, Range { start: 5, end: 5 }, LockKind::Exclusive).unwrap();
        assert_eq!(found.unwrap().owner, description);
        drop(b);
        assert!(conflict(cx, &a, me, Range::ALL, LockKind::Exclusive).unwrap().is_none());
    });
}

#[test]
fn a_circle_of_waiters_is_a_deadlock() {
    let table = LockTable::new();
    let (x, y) = ((1, 1), (1, 2));
    let all = |owner| lock(owner, 0, 9, LockKind::Exclusive);
    table.try_range(x, all(1)).unwrap();
    table.try_range(y, all(2)).unwrap();
    assert!(table.try_range(y, all(1)).is_none());
    assert!(!table.would_deadlock(y, all(1), 1));
    assert!(table.try_range(x, all(2)).is_none());
    assert!(table.would_deadlock(x, all(2), 2));
    table.stop_waiting(1);
    assert!(!table.would_deadlock(x, all(2), 2));
}

#[test]
fn who_was_woken_waits_for_nobody() {
    let table = LockTable::new();
    let x = (1, 1);
    let at = |owner, start| lock(owner, start, start, LockKind::Exclusive);
    table.try_range(x, at(1, 0)).unwrap();
    table.try_range(x, at(2, 1)).unwrap();
    assert!(!table.would_deadlock(x, at(1, 1), 1), "1 waits for 2");
    table.unlock_range(x, Owner::Process(2), Range::ALL);
    // 1 is awake, but has not run yet; 2 comes back and wants what 1 has.
    assert!(table.try_range(x, at(2, 0)).is_none());
    assert!(!table.would_deadlock(x, at(2, 0), 2));
    assert!(table.try_range(x, at(1, 1)).is_some());
    table.unlock_range(x, Owner::Process(1), Range::ALL);
    assert!(table.try_range(x, at(2, 0)).is_some());
}
