//! Tests of ids and keys, atomic operations, waiting and message types.

use super::*;
use crate::testing::{run, thread};
use abi::Errno;
use abi::ipc::Sembuf;
use std::vec::Vec;

const CREAT: GetFlags = GetFlags(0o1600);
const NOWAIT: i16 = 0o4000;

fn op(num: u16, op: i16, flags: i16) -> Sembuf {
    Sembuf { num, op, flags }
}

#[test]
fn keys_name_objects_and_ids_are_not_used_again_soon() {
    run(|cx| {
        let id = sem::get(cx, 7, 1, CREAT).unwrap();
        assert_eq!(sem::get(cx, 7, 0, GetFlags(0)).unwrap(), id);
        let error = |flags, count| sem::get(cx, 7, count, GetFlags(flags)).unwrap_err().errno();
        assert_eq!(error(0o3600, 1), Errno::EEXIST);
        assert_eq!(error(0, 2), Errno::EINVAL);
        sem::remove(cx, id).unwrap();
        assert_eq!(error(0, 1), Errno::ENOENT);
        assert_ne!(sem::get(cx, 7, 1, CREAT).unwrap(), id);
    });
}

#[test]
fn all_operations_happen_or_none() {
    run(|cx| {
        let id = sem::get(cx, 0, 2, CREAT).unwrap();
        sem::set_value(cx, id, 0, 3).unwrap();
        let failed = sem::operate(cx, id, &[op(0, -2, 0), op(1, -1, NOWAIT)], None).unwrap_err();
        assert_eq!(failed.errno(), Errno::EAGAIN);
        assert_eq!(sem::values(cx, id).unwrap(), [3, 0]);
        sem::operate(cx, id, &[op(0, -3, 0), op(0, 0, NOWAIT), op(1, 1, 0)], None).unwrap();
        assert_eq!(sem::values(cx, id).unwrap(), [0, 1]);
        let late = sem::operate(cx, id, &[op(0, -1, 0)], Some(cx.now_ns() + 1000)).unwrap_err();
        assert_eq!(late.errno(), Errno::EAGAIN);
        assert_eq!(sem::query(cx, id, 0, sem::Query::WaitingForMore).unwrap(), 0);
    });
}

#[test]
fn waiters_are_counted_woken_and_told_of_the_removal() {
    run(|cx| {
        let id = sem::get(cx, 0, 1, CREAT).unwrap();
        thread(cx, move |cx| {
            assert_eq!(sem::query(cx, id, 0, sem::Query::WaitingForMore).unwrap(), 1);
            sem::operate(cx, id, &[op(0, 2, 0)], None).unwrap();
        });
        sem::operate(cx, id, &[op(0, -2, 0)], None).unwrap();
        thread(cx, move |cx| sem::remove(cx, id).unwrap());
        let gone = sem::operate(cx, id, &[op(0, -1, 0)], None).unwrap_err();
        assert_eq!(gone.errno(), Errno::EIDRM);
    });
}

#[test]
fn what_a_process_took_comes_back() {
    const UNDO: i16 = 0x1000;
    run(|cx| {
        let id = sem::get(cx, 0, 2, CREAT).unwrap();
        sem::set_values(cx, id, &[5, 0]).unwrap();
        sem::operate(cx, id, &[op(0, -4, UNDO), op(1, 6, UNDO)], None).unwrap();
        sem::operate(cx, id, &[op(1, -5, 0)], None).unwrap();
        exit_process(cx);
        assert_eq!(sem::values(cx, id).unwrap(), [5, 0], "never below zero");
        exit_process(cx);
        assert_eq!(sem::values(cx, id).unwrap(), [5, 0]);
    });
}

#[test]
fn message_types_choose() {
    const NOWAIT: u32 = 0o4000;
    run(|cx| {
        let id = msg::get(cx, 0, CREAT).unwrap();
        let send = |kind: i64, text: &str| {
            msg::send(cx, id, msg::Message { kind, text: text.as_bytes().to_vec() }, NOWAIT)
        };
        for (kind, text) in [(3, "c"), (1, "a"), (2, "b"), (1, "d")] {
            send(kind, text).unwrap();
        }
        assert_eq!(send(0, "x").unwrap_err().errno(), Errno::EINVAL);
        let take = |kind, flags| msg::receive(cx, id, 8, kind, flags | NOWAIT).map(|m| m.text);
        assert_eq!(take(-2, 0).unwrap(), b"a");
        assert_eq!(take(1, 0o20000).unwrap(), b"c", "anything but type 1");
        assert_eq!(take(2, 0).unwrap(), b"b");
        assert_eq!(take(9, 0).unwrap_err().errno(), Errno::ENOMSG);
        let short = msg::receive(cx, id, 0, 0, NOWAIT).unwrap_err();
        assert_eq!(short.errno(), Errno::E2BIG);
        assert_eq!(msg::receive(cx, id, 0, 0, NOWAIT | 0o10000).unwrap().text, b"");
    });
}

#[test]
fn a_removed_segment_keeps_no_key() {
    run(|cx| {
        let id = shm::get(cx, 9, 5000, CREAT).unwrap();
        let found: Vec<_> = cx.kernel.sysv.shm.list();
        assert_eq!((found.len(), found[0].1.status(id).segsz, found[0].1.attachments()), (1, 5000, 0));
        drop(found);
        shm::remove(cx, id).unwrap();
        assert!(cx.kernel.sysv.shm.list().is_empty());
        assert_eq!(shm::get(cx, 9, 1, GetFlags(0)).unwrap_err().errno(), Errno::ENOENT);
    });
}
