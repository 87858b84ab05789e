//! The scheduler's promises: fairness, prompt wake-ups, stealing, affinity.

use super::TICK_NS;
use crate::task::ExitStatus;
use crate::testing::{GUEST, exit, guest, guest_on};
use abi::raw::*;
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
