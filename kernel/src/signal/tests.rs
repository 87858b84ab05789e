//! Signals as guests see them: masks, order, handlers, restarts, stops.

use crate::testing::{GUEST, exit, guest};
use abi::raw::*;
use hal::mock::Guest;
use std::vec::Vec;

const HANDLER: u64 = 0x8000;
const RESTORER: u64 = 0x9000;
const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_RESTART: u64 = 0x1000_0000;
const USR1: u64 = 10;
const USR2: u64 = 12;
/// Where handlers note what they got: a count, then signal numbers.
const NOTES: u64 = GUEST + 0x2000;
/// For arguments.
const SCRATCH: u64 = GUEST + 0x1000;

fn nr(nr: u32) -> u64 {
    u64::from(nr)
}

fn store_words<const N: usize>(g: &mut Guest, at: u64, words: [u64; N]) {
    g.store(at, &words.map(u64::to_ne_bytes).concat());
}

fn action(g: &mut Guest, signo: u64, handler: u64, flags: u64, mask: u64) {
    store_words(g, SCRATCH, [handler, flags | SA_RESTORER, RESTORER, mask]);
    assert_eq!(g.syscall(nr(__NR_rt_sigaction), &[signo, SCRATCH, 0, 8]), 0);
}

fn set_mask(g: &mut Guest, mask: u64) {
    store_words(g, SCRATCH, [mask]);
    assert_eq!(g.syscall(nr(__NR_rt_sigprocmask), &[2, SCRATCH, 0, 8]), 0);
}

fn bit(signo: u64) -> u64 {
    1 << (signo - 1)
}

fn me(g: &mut Guest) -> u64 {
    g.syscall(nr(__NR_getpid), &[]) as u64
}

fn kill(g: &mut Guest, pid: u64, signo: u64) {
    assert_eq!(g.syscall(nr(__NR_kill), &[pid, signo]), 0);
}

/// What the handlers noted so far.
fn notes(g: &mut Guest) -> Vec<u64> {
    let count = g.load_u64(NOTES);
    (1..=count).map(|i| g.load_u64(NOTES + 8 * i)).collect()
}
/// A guest with a handler that notes its signal, or for a queued one its value.
fn with_handlers(body: impl Fn(&mut Guest) + Send + Sync + 'static) {
    with_handlers_on(hal::mock::MockMachine::new(), body);
}

fn with_handlers_on(
    machine: std::sync::Arc<hal::mock::MockMachine>,
    body: impl Fn(&mut Guest) + Send + Sync + 'static,
) {
    machine.code(HANDLER, |g| {
        let (signo, info) = (g.regs.rdi, g.regs.rsi);
        let mut code = [0; 4];
        g.load(info + 8, &mut code);
        let note = if i32::from_ne_bytes(code) == -1 { g.load_u64(info + 24) } else { signo };
        let count = g.load_u64(NOTES) + 1;
        g.store_u64(NOTES, count);
        g.store_u64(NOTES + 8 * count, note);
    });
    machine.code(RESTORER, |g| {
        g.syscall(nr(__NR_rt_sigreturn), &[]);
    });
    let status = crate::testing::guest_on(machine, 0, move |g| {
        body(g);
        exit(g, 0);
    });
    assert_eq!(status, crate::task::ExitStatus::Exited(0));
}

#[test]
fn a_handler_runs_and_returns_with_registers_and_mask_as_before() {
    with_handlers(|g| {
        action(g, USR1, HANDLER, SA_SIGINFO, bit(USR2));
        let pid = me(g);
        g.regs.rbx = 77;
        kill(g, pid, USR1);
        assert_eq!(g.regs.rbx, 77);
        assert_eq!(notes(g), [USR1]);
        g.syscall(nr(__NR_rt_sigprocmask), &[0, 0, SCRATCH, 8]);
        assert_eq!(g.load_u64(SCRATCH), 0);
    });
}

#[test]
fn blocked_signals_come_lowest_first_and_queued_ones_in_order() {
    with_handlers(|g| {
        for signo in [USR1, USR2, 34, 35] {
            action(g, signo, HANDLER, SA_SIGINFO, !0);
        }
        set_mask(g, !0);
        let pid = me(g);
        for value in [341, 342, 343] {
            store_words(g, SCRATCH, [34, -1i32 as u32 as u64, 0, value]);
            assert_eq!(g.syscall(nr(__NR_rt_sigqueueinfo), &[pid, 34, SCRATCH]), 0);
        }
        kill(g, pid, USR2);
        kill(g, pid, USR2);
        kill(g, pid, USR1);
        g.syscall(nr(__NR_rt_sigpending), &[SCRATCH, 8]);
        assert_eq!(g.load_u64(SCRATCH), bit(USR1) | bit(USR2) | bit(34));
        assert_eq!(notes(g), []);
        set_mask(g, 0);
        // Each handler blocks everything, so one runs after the other.
        assert_eq!(notes(g), [USR1, USR2, 341, 342, 343]);
    });
}

#[test]
fn a_full_queue_is_eagain() {
    with_handlers(|g| {
        store_words(g, SCRATCH, [3, 3]);
        assert_eq!(g.syscall(nr(__NR_setrlimit), &[11, SCRATCH]), 0);
        set_mask(g, !0);
        let pid = me(g);
        let results: Vec<i64> = (0..5)
            .map(|i| {
                store_words(g, SCRATCH, [34, -1i32 as u32 as u64, 0, i]);
                g.syscall(nr(__NR_rt_sigqueueinfo), &[pid, 34, SCRATCH])
            })
            .collect();
        assert_eq!(results, [0, 0, 0, -11, -11]);
        kill(g, pid, USR1);
    });
}

#[test]
fn sigtimedwait_takes_without_a_handler_and_times_out() {
    guest(|g| {
        set_mask(g, bit(USR1));
        let pid = me(g);
        kill(g, pid, USR1);
        store_words(g, SCRATCH, [bit(USR1), 0, 50_000_000]);
        let take = [SCRATCH, 0, SCRATCH + 8, 8];
        assert_eq!(g.syscall(nr(__NR_rt_sigtimedwait), &take), USR1 as i64);
        assert_eq!(g.syscall(nr(__NR_rt_sigtimedwait), &take), -11);
        // One that comes while it waits, although its default action is to be ignored.
        store_words(g, SCRATCH, [bit(17), 10, 0]);
        g.fork(nr(__NR_fork), &[], |g| exit(g, 0));
        assert_eq!(g.syscall(nr(__NR_rt_sigtimedwait), &take), 17);
    });
}

/// A child that sends USR1 to its parent once the parent sleeps, and ends when told by USR2.
fn poke(g: &mut Guest) -> i64 {
    let parent = me(g);
    g.fork(nr(__NR_fork), &[], move |g| {
        kill(g, parent, USR1);
        for _ in 0..3 {
            g.syscall(nr(__NR_sched_yield), &[]);
        }
        exit(g, 0);
    })
}

#[test]
fn wait_is_restarted_only_if_the_handler_asks() {
    with_handlers(|g| {
        action(g, USR1, HANDLER, SA_SIGINFO | SA_RESTART, 0);
        let child = poke(g);
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, 0, 0, 0]), child);
        assert_eq!(notes(g), [USR1]);
        action(g, USR1, HANDLER, SA_SIGINFO, 0);
        let child = poke(g);
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, 0, 0, 0]), -4);
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, 0, 0, 0]), child);
    });
}

#[test]
fn sigsuspend_runs_the_handler_and_puts_the_mask_back() {
    with_handlers(|g| {
        action(g, USR1, HANDLER, SA_SIGINFO | SA_RESTART, 0);
        set_mask(g, bit(USR1));
        let child = poke(g);
        store_words(g, SCRATCH, [0]);
        assert_eq!(g.syscall(nr(__NR_rt_sigsuspend), &[SCRATCH, 8]), -4, "SA_RESTART does not count");
        assert_eq!(notes(g), [USR1]);
        g.syscall(nr(__NR_rt_sigprocmask), &[0, 0, SCRATCH, 8]);
        assert_eq!(g.load_u64(SCRATCH), bit(USR1));
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, 0, 0, 0]), child);
    });
}

#[test]
fn ignoring_a_pending_signal_drops_it() {
    with_handlers(|g| {
        action(g, USR1, HANDLER, SA_SIGINFO, 0);
        set_mask(g, bit(USR1));
        let pid = me(g);
        kill(g, pid, USR1);
        action(g, USR1, 1, 0, 0);
        action(g, USR1, HANDLER, SA_SIGINFO, 0);
        set_mask(g, 0);
        assert_eq!(notes(g), []);
    });
}

#[test]
fn a_continue_drops_pending_stops_and_a_stop_pending_continues() {
    with_handlers(|g| {
        set_mask(g, !0);
        let pid = me(g);
        kill(g, pid, 20);
        kill(g, pid, 18);
        g.syscall(nr(__NR_rt_sigpending), &[SCRATCH, 8]);
        assert_eq!(g.load_u64(SCRATCH), bit(18));
        kill(g, pid, 21);
        g.syscall(nr(__NR_rt_sigpending), &[SCRATCH, 8]);
        assert_eq!(g.load_u64(SCRATCH), bit(21));
    });
}

#[test]
fn a_sleep_goes_on_after_a_stop() {
    guest(|g| {
        let child = g.fork(nr(__NR_fork), &[], |g| {
            store_words(g, SCRATCH, [1, 0]);
            let result = g.syscall(nr(__NR_nanosleep), &[SCRATCH, 0]);
            exit(g, if result == 0 { 0 } else { 1 });
        });
        g.syscall(nr(__NR_sched_yield), &[]);
        kill(g, child as u64, 19);
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, 0, 2, 0]), child);
        kill(g, child as u64, 18);
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, SCRATCH, 0, 0]), child);
        assert_eq!(g.load_u64(SCRATCH) as u32, 0);
    });
}

#[test]
fn a_blocked_fault_kills_and_a_bad_frame_too() {
    guest(|g| {
        let child = g.fork(nr(__NR_fork), &[], |g| {
            set_mask(g, !0);
            g.load_u64(0x10);
        });
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, SCRATCH, 0, 0]), child);
        assert_eq!(g.load_u64(SCRATCH) as u32 & 0x7f, 11);
        let child = g.fork(nr(__NR_fork), &[], |g| {
            g.regs.rsp = 0x10;
            g.syscall(nr(__NR_rt_sigreturn), &[]);
        });
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, SCRATCH, 0, 0]), child);
        assert_eq!(g.load_u64(SCRATCH) as u32 & 0x7f, 11);
    });
}

#[test]
fn who_may_signal_whom() {
    guest(|g| {
        assert_eq!(g.syscall(nr(__NR_kill), &[2, 65]), -22);
        assert_eq!(g.syscall(nr(__NR_kill), &[9999, 0]), -3);
        assert_eq!(g.syscall(nr(__NR_tgkill), &[2, 9999, 0]), -3);
        assert_eq!(g.syscall(nr(__NR_tkill), &[0, 0]), -22);
        let parent = me(g);
        let child = g.fork(nr(__NR_fork), &[], move |g| {
            assert_eq!(g.syscall(nr(__NR_setuid), &[1000]), 0);
            assert_eq!(g.syscall(nr(__NR_kill), &[parent, 0]), -1);
            assert_eq!(g.syscall(nr(__NR_kill), &[parent, 18]), 0, "SIGCONT within the session");
            assert_eq!(g.syscall(nr(__NR_kill), &[0, 0]), 0, "the group has one that it may signal");
            exit(g, 0);
        });
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, SCRATCH, 0, 0]), child);
        assert_eq!(g.load_u64(SCRATCH) as u32, 0);
    });
}

#[test]
fn a_signal_frame_that_finds_no_memory_costs_the_greediest_process() {
    // Where the hog maps its memory, and the stack that the handler runs on: nobody has touched it when RAM is full.
    const HOG: u64 = 0x4000_0000;
    const STACK: u64 = GUEST + 0x8_0000;
    const SA_ONSTACK: u64 = 0x0800_0000;
    let free = |g: &mut Guest| {
        assert_eq!(g.syscall(nr(__NR_sysinfo), &[SCRATCH]), 0);
        g.load_u64(SCRATCH + core::mem::offset_of!(abi::system::Sysinfo, freeram) as u64)
    };
    with_handlers_on(hal::mock::MockMachine::builder().memory(8 << 20).build(), move |g| {
        action(g, USR1, HANDLER, SA_SIGINFO | SA_ONSTACK, 0);
        store_words(g, SCRATCH, [STACK, 0, 0x1_0000]);
        assert_eq!(g.syscall(nr(__NR_sigaltstack), &[SCRATCH, 0]), 0);
        let parent = me(g);
        let child = g.fork(nr(__NR_fork), &[], move |g| {
            let map = g.syscall(nr(__NR_mmap), &[HOG, 16 << 20, 3, 0x4032, !0, 0]);
            assert_eq!(map, HOG as i64);
            let mut at = HOG;
            while free(g) > 0 {
                g.store_u64(at, 1);
                at += hal::PAGE_SIZE;
            }
            kill(g, parent, USR1);
            loop {
                g.syscall(nr(__NR_pause), &[]);
            }
        });
        g.syscall(nr(__NR_pause), &[]);
        assert_eq!(notes(g), [USR1]);
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, SCRATCH, 0, 0]), child);
        assert_eq!(g.load_u64(SCRATCH) as u32 & 0x7f, 9);
    });
}
