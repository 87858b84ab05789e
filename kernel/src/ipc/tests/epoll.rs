//! Epoll: the modes, who is woken, what close does, nesting.

use crate::error::Result;
use crate::fs::{Fd, File, OpenFile, OpenFlags};
use crate::ipc::{Epoll, EpollEvent, EpollOp, EventFd, pipe_new};
use crate::task::Cx;
use crate::testing::{run, thread};
use abi::Errno;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

const IN: u32 = 1;
const OUT: u32 = 4;
const ERR: u32 = 8;
const HUP: u32 = 0x10;
const EXCLUSIVE: u32 = 1 << 28;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;

fn open(cx: &Cx, file: impl File + 'static) -> Arc<OpenFile> {
    OpenFile::new(cx.kernel, Arc::new(file), None, None, OpenFlags::RDWR)
}

fn epoll(cx: &Cx) -> Arc<OpenFile> {
    open(cx, Epoll::new(cx.kernel.next_id()))
}

fn eventfd(cx: &Cx, count: u32) -> Arc<OpenFile> {
    open(cx, EventFd::new(count, false, 0))
}

fn control(cx: &Cx, ep: &OpenFile, op: EpollOp, fd: i32, of: &Arc<OpenFile>, events: u32) -> Result<()> {
    let epoll: &Epoll = ep.downcast().unwrap();
    epoll.control(cx, op, Fd(fd), of, EpollEvent::new(events, [fd as u32, 7]))
}

fn add(cx: &Cx, ep: &OpenFile, fd: i32, of: &Arc<OpenFile>, events: u32) {
    control(cx, ep, EpollOp::Add, fd, of, events).unwrap();
}

/// Descriptor and events of what is ready now.
fn now(cx: &Cx, ep: &OpenFile) -> Vec<(u32, u32)> {
    some(cx, ep, 100)
}

fn some(cx: &Cx, ep: &OpenFile, max: usize) -> Vec<(u32, u32)> {
    let epoll: &Epoll = ep.downcast().unwrap();
    let events = epoll.wait(cx, max, Some(0)).unwrap();
    events.iter().map(|e| (e.data[0], e.events)).collect()
}

fn bump(cx: &Cx, of: &OpenFile) {
    let bytes = 1u64.to_ne_bytes();
    of.file.write(cx, of, &mut 0, &mut &bytes[..]).unwrap();
}

fn drain(cx: &Cx, of: &OpenFile) {
    let mut bytes = [0; 8];
    of.file.read(cx, of, &mut 0, &mut &mut bytes[..]).unwrap();
}

#[test]
fn level_triggered_reports_until_it_is_not_ready() {
    run(|cx| {
        let (ep, ev) = (epoll(cx), eventfd(cx, 0));
        add(cx, &ep, 3, &ev, IN);
        assert_eq!(now(cx, &ep), []);
        bump(cx, &ev);
        assert_eq!(now(cx, &ep), [(3, IN)]);
        assert_eq!(now(cx, &ep), [(3, IN)]);
        drain(cx, &ev);
        assert_eq!(now(cx, &ep), []);
    });
}

#[test]
fn edge_triggered_reports_each_change_once() {
    run(|cx| {
        let (ep, ev) = (epoll(cx), eventfd(cx, 1));
        add(cx, &ep, 3, &ev, IN | EDGE);
        assert_eq!(now(cx, &ep), [(3, IN)]);
        assert_eq!(now(cx, &ep), []);
        // More data is a new edge although it was ready all the time.
        bump(cx, &ev);
        assert_eq!(now(cx, &ep), [(3, IN)]);
        assert_eq!(now(cx, &ep), []);
        // A modification looks again.
        control(cx, &ep, EpollOp::Modify, 3, &ev, IN | OUT | EDGE).unwrap();
        assert_eq!(now(cx, &ep), [(3, IN | OUT)]);
        assert_eq!(now(cx, &ep), []);
    });
}

#[test]
fn one_shot_reports_once_until_it_is_armed_again() {
    run(|cx| {
        let (ep, ev) = (epoll(cx), eventfd(cx, 1));
        add(cx, &ep, 3, &ev, IN | ONESHOT);
        assert_eq!(now(cx, &ep), [(3, IN)]);
        bump(cx, &ev);
        assert_eq!(now(cx, &ep), []);
        control(cx, &ep, EpollOp::Modify, 3, &ev, IN | ONESHOT).unwrap();
        assert_eq!(now(cx, &ep), [(3, IN)]);
        assert_eq!(now(cx, &ep), []);
    });
}

#[test]
fn hang_up_is_reported_unasked() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::empty());
        let ep = epoll(cx);
        add(cx, &ep, 3, &r, 0);
        add(cx, &ep, 4, &w, 0);
        drop(w);
        assert_eq!(now(cx, &ep), [(3, HUP)]);
        let (r, w) = pipe_new(cx, OpenFlags::empty());
        add(cx, &ep, 5, &w, OUT);
        drop(r);
        assert_eq!(now(cx, &ep).pop(), Some((5, OUT | ERR)));
    });
}

#[test]
fn reports_rotate_when_there_is_room_for_few() {
    run(|cx| {
        let ep = epoll(cx);
        let files: Vec<_> = (0..3).map(|_| eventfd(cx, 1)).collect();
        for (fd, file) in files.iter().enumerate() {
            add(cx, &ep, fd as i32, file, IN);
        }
        let seen: Vec<u32> = (0..4).map(|_| some(cx, &ep, 1)[0].0).collect();
        assert_eq!(seen, [0, 1, 2, 0]);
    });
}

#[test]
fn control_errors() {
    run(|cx| {
        let (ep, ev) = (epoll(cx), eventfd(cx, 0));
        let fails = |op, of, events| control(cx, &ep, op, 3, of, events).unwrap_err().errno();
        assert_eq!(fails(EpollOp::Modify, &ev, IN), Errno::ENOENT);
        assert_eq!(fails(EpollOp::Delete, &ev, 0), Errno::ENOENT);
        add(cx, &ep, 3, &ev, IN | EXCLUSIVE);
        assert_eq!(fails(EpollOp::Add, &ev, IN), Errno::EEXIST);
        assert_eq!(fails(EpollOp::Modify, &ev, IN), Errno::EINVAL, "an exclusive item can't be changed");
        // The same file under another number is another item.
        add(cx, &ep, 4, &ev, IN);
        let other = eventfd(cx, 0);
        assert_eq!(fails(EpollOp::Add, &other, IN | EXCLUSIVE | ONESHOT), Errno::EINVAL);
        let inner = epoll(cx);
        assert_eq!(fails(EpollOp::Add, &inner, IN | EXCLUSIVE), Errno::EINVAL);
    });
}

#[test]
fn a_closed_file_is_gone() {
    run(|cx| {
        let (ep, ev) = (epoll(cx), eventfd(cx, 1));
        add(cx, &ep, 3, &ev, IN);
        let other = ev.clone();
        drop(ev);
        assert_eq!(now(cx, &ep), [(3, IN)], "another descriptor keeps it open");
        drop(other);
        assert_eq!(now(cx, &ep), []);
        let reused = eventfd(cx, 1);
        add(cx, &ep, 3, &reused, IN);
        assert_eq!(now(cx, &ep), [(3, IN)]);
        // Thousands that come and go leave nothing behind.
        for _ in 0..5000 {
            add(cx, &ep, 4, &eventfd(cx, 0), IN);
        }
        assert!(ep.file.fdinfo().lines().count() == 1);
    });
}

#[test]
fn a_deleted_item_is_silent() {
    run(|cx| {
        let (ep, ev) = (epoll(cx), eventfd(cx, 1));
        add(cx, &ep, 3, &ev, IN);
        control(cx, &ep, EpollOp::Delete, 3, &ev, 0).unwrap();
        bump(cx, &ev);
        assert_eq!(now(cx, &ep), []);
        add(cx, &ep, 3, &ev, IN);
        assert_eq!(now(cx, &ep), [(3, IN)]);
    });
}

#[test]
fn nested_epolls_pass_readiness_on() {
    run(|cx| {
        let (outer, inner, ev) = (epoll(cx), epoll(cx), eventfd(cx, 0));
        add(cx, &outer, 3, &inner, IN);
        add(cx, &inner, 4, &ev, IN);
        assert_eq!(now(cx, &outer), []);
        bump(cx, &ev);
        assert_eq!(now(cx, &outer), [(3, IN)]);
        assert_eq!(now(cx, &inner), [(4, IN)]);
        drain(cx, &ev);
        assert_eq!(now(cx, &outer), []);
        bump(cx, &ev);
        assert_eq!(now(cx, &outer), [(3, IN)]);
    });
}

#[test]
fn nesting_is_bounded_and_acyclic() {
    run(|cx| {
        for down in [true, false] {
            let chain: Vec<_> = (0..7).map(|_| epoll(cx)).collect();
            let link = |i: usize| {
                let (of, target) = if down { (&chain[i + 1], &chain[i]) } else { (&chain[i], &chain[i + 1]) };
                control(cx, of, EpollOp::Add, 9, target, IN).map_err(|e| e.errno())
            };
            for i in 0..4 {
                assert_eq!(link(i), Ok(()), "link {i}");
            }
            assert_eq!(link(4), Err(Errno::ELOOP));
            assert_eq!(link(5), Ok(()), "another chain");
        }
        let (a, b) = (epoll(cx), epoll(cx));
        add(cx, &a, 3, &b, IN);
        assert_eq!(control(cx, &b, EpollOp::Add, 3, &a, IN).unwrap_err().errno(), Errno::ELOOP);
    });
}

#[test]
fn a_waiter_is_woken_and_only_one() {
    let (woken, asleep) = run(|cx| {
        let (ep, ev) = (epoll(cx), eventfd(cx, 0));
        add(cx, &ep, 3, &ev, IN | EDGE);
        let woken = Arc::new(Mutex::new(0));
        for _ in 0..3 {
            let (ep, woken) = (ep.clone(), woken.clone());
            thread(cx, move |cx| {
                let epoll: &Epoll = ep.downcast().unwrap();
                let events = epoll.wait(cx, 10, None).unwrap();
                *woken.lock().unwrap() += events.len();
            });
        }
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        bump(cx, &ev);
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        let first = *woken.lock().unwrap();
        bump(cx, &ev);
        bump(cx, &ev);
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        (first, *woken.lock().unwrap())
    });
    assert_eq!(woken, 1);
    // The two later edges come close together: one report or two.
    assert!((2..=3).contains(&asleep), "{asleep}");
}

#[test]
fn a_wait_times_out() {
    run(|cx| {
        let ep = epoll(cx);
        let before = cx.now_ns();
        let epoll: &Epoll = ep.downcast().unwrap();
        assert!(epoll.wait(cx, 1, Some(before + 5_000_000)).unwrap().is_empty());
        assert!(cx.now_ns() >= before + 5_000_000);
    });
}

/// How many of two epolls with a waiter each wake up for one event.
fn woken_of_two(flags: u32) -> usize {
    run(move |cx| {
        let event = eventfd(cx, 0);
        let woken = Arc::new(Mutex::new(0));
        for _ in 0..2 {
            let (event, woken) = (event.clone(), woken.clone());
            thread(cx, move |cx| {
                let ep = epoll(cx);
                add(cx, &ep, 5, &event, IN | flags);
                let epoll: &Epoll = ep.downcast().unwrap();
                if !epoll.wait(cx, 1, Some(cx.now_ns() + 1_000_000_000)).unwrap().is_empty() {
                    *woken.lock().unwrap() += 1;
                }
            });
        }
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        bump(cx, &event);
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        let count = *woken.lock().unwrap();
        cx.sleep(Some(cx.now_ns() + 2_000_000_000));
        count
    })
}

#[test]
fn an_exclusive_registration_wakes_one_epoll() {
    assert_eq!(woken_of_two(0), 2);
    assert_eq!(woken_of_two(EXCLUSIVE), 1);
}

#[test]
fn a_wake_up_for_one_is_not_spent_on_a_waiter_that_leaves() {
    run(|cx| {
        let queue = crate::wait::WaitQueue::new();
        let mut looks = 0;
        // The only wake-up comes after the look and before the end of the time, as from another CPU.
        let result = cx.wait_deadline(&[&queue], Some(cx.now_ns()), || {
            looks += 1;
            let available = looks > 1;
            queue.wake(1, crate::wait::PollEvents::empty(), crate::wait::Waker::GoesOn);
            available.then_some(())
        });
        assert_eq!(result, Ok(()));
    });
}
