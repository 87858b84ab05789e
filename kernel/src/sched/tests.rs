//! The scheduler's promises: fairness, prompt wake-ups, stealing, affinity.

use super::TICK_NS;
use crate::task::ExitStatus;
use crate::testing::{GUEST, exit, guest, guest_on};
use abi::raw::*;
use hal::CpuId;
use hal::mock::{Guest, MockMachine};

fn nr(nr: u32) -> u64 {
    u64::from(nr)
}

/// User and system time of the caller's process in nanoseconds.
fn cpu_ns(g: &mut Guest) -> u64 {
    g.syscall(nr(__NR_clock_gettime), &[2, GUEST]);
    g.load_u64(GUEST) * 1_000_000_000 + g.load_u64(GUEST + 8)
}

fn now(g: &mut Guest) -> u64 {
    g.syscall(nr(__NR_clock_gettime), &[1, GUEST]);
    g.load_u64(GUEST) * 1_000_000_000 + g.load_u64(GUEST + 8)
}

/// Children that compute until a moment and exit with the milliseconds of CPU time that they got.
fn shares(g: &mut Guest, nice: &[i64], run_ms: u64) -> std::vec::Vec<u64> {
    let end = now(g) + run_ms * 1_000_000;
    let children: std::vec::Vec<i64> = nice
        .iter()
        .map(|&nice| {
            g.fork(nr(__NR_fork), &[], move |g| {
                g.syscall(nr(__NR_setpriority), &[0, 0, nice as u64]);
                while now(g) < end {
                    g.compute(200_000);
                }
                let ms = cpu_ns(g) / 1_000_000;
                exit(g, ms);
            })
        })
        .collect();
    let mut got = std::vec::Vec::new();
    for child in children {
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, GUEST, 0, 0]), child);
        got.push(g.load_u64(GUEST) >> 8 & 0xff);
    }
    got
}

#[test]
fn equal_tasks_get_equal_shares() {
    guest(|g| {
        let got = shares(g, &[0, 0, 0, 0], 200);
        assert!(got.iter().all(|&ms| (40..=60).contains(&ms)), "{got:?}");
    });
}

#[test]
fn a_nice_task_gets_less_but_something() {
    guest(|g| {
        let got = shares(g, &[0, 10], 200);
        // The weights are 1024 and 110.
        assert!((165..=195).contains(&got[0]) && (5..=35).contains(&got[1]), "{got:?}");
    });
}

#[test]
fn a_sleeper_runs_soon_beside_a_spinning_guest() {
    guest(|g| {
        let spinner = g.fork(nr(__NR_fork), &[], |g| {
            loop {
                g.compute(200_000);
            }
        });
        for _ in 0..10 {
            let before = now(g);
            g.store(GUEST + 16, &[0u64, 1_000_000].map(u64::to_ne_bytes).concat());
            g.syscall(nr(__NR_nanosleep), &[GUEST + 16, 0]);
            let slept = now(g) - before;
            assert!((1_000_000..=1_000_000 + 2 * TICK_NS).contains(&slept), "{slept}");
        }
        assert_eq!(g.syscall(nr(__NR_kill), &[spinner as u64, 9]), 0);
        assert_eq!(g.syscall(nr(__NR_wait4), &[spinner as u64, GUEST, 0, 0]), spinner);
    });
}

#[test]
fn an_idle_cpu_takes_work_over_and_affinity_is_kept() {
    let machine = MockMachine::builder().cpus(2).build();
    let status = guest_on(machine, 0, |g| {
        // Bound to the second CPU.
        g.store_u64(GUEST, 2);
        assert_eq!(g.syscall(nr(__NR_sched_setaffinity), &[0, 8, GUEST]), 0);
        for _ in 0..20 {
            g.syscall(nr(__NR_getcpu), &[GUEST, 0, 0]);
            assert_eq!(g.load_u64(GUEST) as u32, 1);
            g.compute(1_000_000);
            g.syscall(nr(__NR_sched_yield), &[]);
        }
        g.store_u64(GUEST, 3);
        assert_eq!(g.syscall(nr(__NR_sched_setaffinity), &[0, 8, GUEST]), 0);
        // Three that compute on two CPUs all get on.
        let got = shares(g, &[0, 0, 0], 150);
        assert!(got.iter().all(|&ms| ms >= 50), "{got:?}");
        exit(g, 0);
    });
    assert_eq!(status, ExitStatus::Exited(0));
}

/// A pipe whose ends do not block: read end, write end.
fn pipe(g: &mut Guest, flags: u32) -> (u64, u64) {
    assert_eq!(g.syscall(nr(__NR_pipe2), &[GUEST + 64, u64::from(flags)]), 0);
    let both = g.load_u64(GUEST + 64);
    (both & 0xffff_ffff, both >> 32)
}

#[test]
fn an_idle_cpu_gets_a_woken_task_whose_waker_goes_on() {
    let machine = MockMachine::builder().cpus(2).build();
    let status = guest_on(machine, 0, |g| {
        let (request, ask) = pipe(g, 0);
        let (answer, reply) = pipe(g, O_NONBLOCK);
        let child = g.fork(nr(__NR_fork), &[], move |g| {
            assert_eq!(g.syscall(nr(__NR_read), &[request, GUEST, 1]), 1);
            assert_eq!(g.syscall(nr(__NR_write), &[reply, GUEST, 1]), 1);
            exit(g, 0);
        });
        // The child waits by now: it got this CPU.
        g.store(GUEST + 16, &[0u64, 1_000_000].map(u64::to_ne_bytes).concat());
        g.syscall(nr(__NR_nanosleep), &[GUEST + 16, 0]);
        assert_eq!(g.syscall(nr(__NR_write), &[ask, GUEST, 1]), 1);
        // Much less than a slice; from then on no time passes, but the other CPU's host thread needs some.
        g.compute(TICK_NS / 2);
        let answered = (0..200_000).any(|_| g.syscall(nr(__NR_read), &[answer, GUEST, 1]) == 1);
        assert!(answered);
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, GUEST, 0, 0]), child);
        exit(g, 0);
    });
    assert_eq!(status, ExitStatus::Exited(0));
}

#[test]
fn a_woken_task_goes_where_its_cpu_is_lent() {
    let machine = MockMachine::builder().cpus(2).build();
    let cpus = machine.clone();
    let status = guest_on(machine, 0, move |g| {
        let (request, ask) = pipe(g, 0);
        let (answer, reply) = pipe(g, O_NONBLOCK);
        let bind = |g: &mut Guest, mask: u64| {
            g.store_u64(GUEST, mask);
            assert_eq!(g.syscall(nr(__NR_sched_setaffinity), &[0, 8, GUEST]), 0);
        };
        let child = g.fork(nr(__NR_fork), &[], move |g| {
            bind(g, 2);
            bind(g, 3);
            // Says each time which CPU it has; it last had the second one.
            while g.syscall(nr(__NR_read), &[request, GUEST, 1]) == 1 {
                g.syscall(nr(__NR_getcpu), &[GUEST + 8, 0, 0]);
                assert_eq!(g.syscall(nr(__NR_write), &[reply, GUEST + 8, 1]), 1);
            }
            exit(g, 0);
        });
        bind(g, 1);
        for lent in [true, false] {
            g.store(GUEST + 16, &[0u64, 1_000_000].map(u64::to_ne_bytes).concat());
            g.syscall(nr(__NR_nanosleep), &[GUEST + 16, 0]);
            cpus.lend(CpuId(1), lent.then_some(CpuId(0)));
            assert_eq!(g.syscall(nr(__NR_write), &[ask, GUEST, 1]), 1);
            // A child that waits here gets its turn when the slice ends; the other CPU takes it before.
            g.compute(if lent { 2 * TICK_NS } else { TICK_NS / 2 });
            let answered = (0..200_000).any(|_| g.syscall(nr(__NR_read), &[answer, GUEST + 24, 1]) == 1);
            assert!(answered);
            assert_eq!(g.load_u64(GUEST + 24) & 0xff, u64::from(!lent), "lent: {lent}");
        }
        g.syscall(nr(__NR_kill), &[child as u64, 9]);
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, GUEST, 0, 0]), child);
        exit(g, 0);
    });
    assert_eq!(status, ExitStatus::Exited(0));
}

#[test]
fn partners_that_wait_for_each_other_share_a_cpu() {
    let machine = MockMachine::builder().cpus(2).build();
    let status = guest_on(machine.clone(), 0, |g| {
        let (request, ask) = pipe(g, 0);
        let (answer, reply) = pipe(g, 0);
        let child = g.fork(nr(__NR_fork), &[], move |g| {
            while g.syscall(nr(__NR_read), &[request, GUEST, 1]) == 1 {
                g.syscall(nr(__NR_getcpu), &[GUEST + 8, 0, 0]);
                assert_eq!(g.syscall(nr(__NR_write), &[reply, GUEST + 8, 1]), 1);
            }
            exit(g, 0);
        });
        let mut moved = 0;
        for _ in 0..500 {
            assert_eq!(g.syscall(nr(__NR_write), &[ask, GUEST, 1]), 1);
            assert_eq!(g.syscall(nr(__NR_read), &[answer, GUEST + 24, 1]), 1);
            g.syscall(nr(__NR_getcpu), &[GUEST + 8, 0, 0]);
            moved += u64::from(g.load_u64(GUEST + 8) & 0xff != g.load_u64(GUEST + 24) & 0xff);
        }
        assert_eq!(moved, 0);
        g.syscall(nr(__NR_kill), &[child as u64, 9]);
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, GUEST, 0, 0]), child);
        exit(g, 0);
    });
    assert_eq!(status, ExitStatus::Exited(0));
}

#[test]
fn a_task_that_ran_alone_is_not_put_behind_a_newcomer() {
    guest(|g| {
        let (answer, reply) = pipe(g, 0);
        let end = now(g) + 700_000_000;
        let child = g.fork(nr(__NR_fork), &[], move |g| {
            while now(g) < end {
                g.compute(200_000);
            }
            let used = cpu_ns(g);
            g.store_u64(GUEST, used);
            g.syscall(nr(__NR_write), &[reply, GUEST, 8]);
            exit(g, 0);
        });
        // It runs alone for half a second.
        g.store(GUEST + 16, &[0u64, 500_000_000].map(u64::to_ne_bytes).concat());
        g.syscall(nr(__NR_nanosleep), &[GUEST + 16, 0]);
        while now(g) < end {
            g.compute(200_000);
        }
        assert_eq!(g.syscall(nr(__NR_read), &[answer, GUEST, 8]), 8);
        // All of the first 500 ms and half of the rest.
        let ms = g.load_u64(GUEST) / 1_000_000;
        assert!((570..=630).contains(&ms), "{ms}");
        assert_eq!(g.syscall(nr(__NR_wait4), &[child as u64, GUEST, 0, 0]), child);
    });
}
