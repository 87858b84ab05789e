//! Futexes as guests see them.

use crate::testing::{GUEST, exit, guest};
use abi::raw::*;
use hal::mock::Guest;

const WORD: u64 = GUEST;
const WORD2: u64 = GUEST + 64;
const TIME: u64 = GUEST + 128;
const NOTE: u64 = GUEST + 256;
const PRIVATE: u64 = 128;
/// `CLONE_VM | FS | FILES | SIGHAND | THREAD`.
const THREAD: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000;

fn futex(g: &mut Guest, args: &[u64]) -> i64 {
    g.syscall(u64::from(__NR_futex), args)
}

fn thread(g: &mut Guest, index: u64, body: impl FnOnce(&mut Guest) + Send + 'static) -> i64 {
    let stack = GUEST + 0x1_0000 + 0x2000 * index;
    g.fork(u64::from(__NR_clone), &[THREAD, stack], move |g| {
        body(g);
        g.syscall(u64::from(__NR_exit), &[0]);
    })
}

/// Lets everybody else run until they sleep.
fn settle(g: &mut Guest) {
    for _ in 0..20 {
        g.syscall(u64::from(__NR_sched_yield), &[]);
    }
}

fn add_note(g: &mut Guest, value: u64) {
    let sum = g.load_u64(NOTE) + value;
    g.store_u64(NOTE, sum);
}

/// Threads `1..=count` that wait on the word and then add their number to the note.
fn waiters(g: &mut Guest, count: u64) {
    for i in 1..=count {
        thread(g, i, move |g| {
            assert_eq!(futex(g, &[WORD, PRIVATE, 0, 0]), 0);
            add_note(g, 1 << (8 * (i - 1)));
        });
    }
    settle(g);
}

#[test]
fn a_wait_needs_the_value_and_times_out() {
    guest(|g| {
        g.store_u64(WORD, 5);
        assert_eq!(futex(g, &[WORD, PRIVATE, 4, 0]), -11);
        g.store(TIME, &[0u64, 1_000_000].map(u64::to_ne_bytes).concat());
        assert_eq!(futex(g, &[WORD, PRIVATE, 5, TIME]), -110);
        assert_eq!(futex(g, &[WORD + 1, PRIVATE, 5, TIME]), -22);
        assert_eq!(futex(g, &[0x10, PRIVATE, 5, TIME]), -14);
        g.store(TIME, &[0u64, 1_000_000_000].map(u64::to_ne_bytes).concat());
        assert_eq!(futex(g, &[WORD, PRIVATE, 5, TIME]), -22);
        assert_eq!(futex(g, &[WORD, PRIVATE | 9, 5, 0, 0, 0]), -22, "no bits");
        assert_eq!(futex(g, &[WORD, 256 | 1, 1]), -38, "a clock for a wake");
    });
}

#[test]
fn a_wake_takes_as_many_as_it_says_in_order() {
    guest(|g| {
        waiters(g, 3);
        assert_eq!(futex(g, &[WORD, PRIVATE | 1, 1]), 1);
        settle(g);
        assert_eq!(g.load_u64(NOTE), 0x1);
        assert_eq!(futex(g, &[WORD, PRIVATE | 1, 0x7fff_ffff]), 2);
        settle(g);
        assert_eq!(g.load_u64(NOTE), 0x1_0101);
        assert_eq!(futex(g, &[WORD, PRIVATE | 1, 1]), 0);
    });
}

#[test]
fn requeue_moves_without_waking() {
    guest(|g| {
        waiters(g, 4);
        assert_eq!(futex(g, &[WORD, PRIVATE | 4, 1, 2, WORD2, 1]), -11, "another value");
        assert_eq!(futex(g, &[WORD, PRIVATE | 4, 1, 2, WORD2, 0]), 3);
        settle(g);
        assert_eq!(g.load_u64(NOTE), 0x1);
        assert_eq!(futex(g, &[WORD, PRIVATE | 1, 9]), 1);
        assert_eq!(futex(g, &[WORD2, PRIVATE | 1, 9]), 2);
        settle(g);
        assert_eq!(g.load_u64(NOTE), 0x101_0101);
    });
}

#[test]
fn wake_op_changes_the_word_and_wakes_both() {
    guest(|g| {
        waiters(g, 1);
        g.store_u64(WORD2, 7);
        // Add 3; wake there if the old value was greater than 6.
        let op = 1 << 28 | 4 << 24 | 3 << 12 | 6;
        assert_eq!(futex(g, &[WORD, PRIVATE | 5, 1, 1, WORD2, op]), 1);
        assert_eq!(g.load_u64(WORD2), 10);
    });
}

#[test]
fn an_owner_that_dies_hands_its_robust_lock_on() {
    guest(|g| {
        let tid = thread(g, 1, |g| {
            let tid = g.syscall(u64::from(__NR_gettid), &[]) as u64;
            // A list of one lock, whose word is 16 bytes behind its link.
            let (head, lock) = (GUEST + 0x400, GUEST + 0x500);
            g.store(head, &[lock, 16, 0].map(u64::to_ne_bytes).concat());
            g.store_u64(lock, head);
            g.store_u64(lock + 16, tid | 0x8000_0000);
            assert_eq!(g.syscall(u64::from(__NR_set_robust_list), &[head, 24]), 0);
        });
        g.store_u64(GUEST + 0x510, 0);
        settle(g);
        assert!(tid > 0);
        assert_eq!(g.load_u64(GUEST + 0x510), 0xc000_0000, "waiters, and the owner died");
    });
}

#[test]
fn a_pi_lock_goes_from_owner_to_waiter() {
    guest(|g| {
        let me = g.syscall(u64::from(__NR_gettid), &[]) as u64;
        assert_eq!(futex(g, &[WORD, PRIVATE | 6]), 0);
        assert_eq!(g.load_u64(WORD), me);
        assert_eq!(futex(g, &[WORD, PRIVATE | 6]), -35, "EDEADLK");
        let other = thread(g, 1, |g| {
            assert_eq!(futex(g, &[WORD, PRIVATE | 8]), -11, "taken");
            assert_eq!(futex(g, &[WORD, PRIVATE | 7]), -1, "not the owner");
            assert_eq!(futex(g, &[WORD, PRIVATE | 6]), 0);
            add_note(g, 1);
            assert_eq!(futex(g, &[WORD, PRIVATE | 7]), 0);
        });
        settle(g);
        assert_eq!(g.load_u64(WORD), me | 0x8000_0000);
        assert_eq!(futex(g, &[WORD, PRIVATE | 7]), 0);
        assert_eq!(g.load_u64(WORD), other as u64);
        settle(g);
        assert_eq!((g.load_u64(WORD), g.load_u64(NOTE)), (0, 1));
    });
}

#[test]
fn waitv_tells_which_word_was_woken() {
    guest(|g| {
        for (i, word) in [WORD, WORD2].into_iter().enumerate() {
            g.store(NOTE + 0x100 + 24 * i as u64, &[0, word, 0x82].map(u64::to_ne_bytes).concat());
        }
        thread(g, 1, |g| {
            let index = g.syscall(u64::from(__NR_futex_waitv), &[NOTE + 0x100, 2, 0, 0, 0]);
            add_note(g, 10 + index as u64);
        });
        settle(g);
        assert_eq!(futex(g, &[WORD2, PRIVATE | 1, 1]), 1);
        settle(g);
        assert_eq!(g.load_u64(NOTE), 11);
        assert_eq!(futex(g, &[WORD, PRIVATE | 1, 1]), 0, "it left the other queue");
    });
}

#[test]
fn the_end_of_a_thread_clears_its_id_and_wakes() {
    guest(|g| {
        g.store_u64(WORD, 77);
        let flags = THREAD | 0x20_0000;
        let tid = g.fork(u64::from(__NR_clone), &[flags, GUEST + 0x2_0000, 0, WORD], |g| {
            g.syscall(u64::from(__NR_exit), &[0]);
        });
        assert!(tid > 0);
        assert_eq!(futex(g, &[WORD, 0, 77, 0]), 0);
        assert_eq!(g.load_u64(WORD), 0);
        exit(g, 0);
    });
}
