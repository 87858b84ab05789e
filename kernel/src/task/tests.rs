//! Processes as guests see them: fork, wait, reparenting, stops, threads, limits.

use super::ExitStatus;
use crate::testing::{GUEST, exit, guest, guest_on};
use abi::raw::*;
use hal::mock::{Guest, MockMachine};

const WNOHANG: u64 = 1;
const WUNTRACED: u64 = 2;
const WCONTINUED: u64 = 8;
const SIGCHLD: u64 = 17;
/// `CLONE_VM | FS | FILES | SIGHAND | THREAD`.
const THREAD: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000;

fn nr(nr: u32) -> u64 {
    u64::from(nr)
}

fn fork(g: &mut Guest, child: impl FnOnce(&mut Guest) + Send + 'static) -> i64 {
    g.fork(nr(__NR_fork), &[], child)
}

/// A thread with a stack of its own at this offset of the guest's memory.
fn thread(g: &mut Guest, stack: u64, body: impl FnOnce(&mut Guest) + Send + 'static) -> i64 {
    g.fork(nr(__NR_clone), &[THREAD, GUEST + stack], body)
}

/// `wait4`: the pid and the status word.
fn wait(g: &mut Guest, pid: i64, options: u64) -> (i64, i32) {
    let at = GUEST + 0x100;
    let pid = g.syscall(nr(__NR_wait4), &[pid as u64, at, options, 0]);
    (pid, g.load_u64(at) as i32)
}

#[test]
fn a_child_is_waited_for_once() {
    guest(|g| {
        let child = fork(g, |g| exit(g, 7));
        assert!(child > 2);
        assert_eq!(wait(g, -1, 0), (child, 7 << 8));
        assert_eq!(wait(g, -1, 0).0, -10, "ECHILD");
        assert_eq!(g.syscall(nr(__NR_kill), &[child as u64, 0]), -3, "ESRCH");
    });
}

#[test]
fn nohang_does_not_wait_and_groups_choose() {
    guest(|g| {
        let child = fork(g, |g| {
            g.syscall(nr(__NR_setpgid), &[0, 0]);
            g.syscall(nr(__NR_pause), &[]);
        });
        assert_eq!(wait(g, child, WNOHANG).0, 0);
        g.syscall(nr(__NR_sched_yield), &[]);
        assert_eq!(wait(g, 0, WNOHANG).0, -10, "it left our group");
        assert_eq!(g.syscall(nr(__NR_kill), &[(-child) as u64, 9]), 0);
        assert_eq!(wait(g, -child, 0), (child, 9));
    });
}

#[test]
fn a_stop_a_continue_and_a_death_are_reported_in_turn() {
    guest(|g| {
        let child = fork(g, |g| {
            loop {
                g.syscall(nr(__NR_pause), &[]);
            }
        });
        g.syscall(nr(__NR_sched_yield), &[]);
        g.syscall(nr(__NR_kill), &[child as u64, 19]);
        assert_eq!(wait(g, child, WUNTRACED), (child, 19 << 8 | 0x7f));
        assert_eq!(wait(g, child, WUNTRACED | WNOHANG).0, 0, "reported once");
        g.syscall(nr(__NR_kill), &[child as u64, 18]);
        assert_eq!(wait(g, child, WCONTINUED), (child, 0xffff));
        g.syscall(nr(__NR_kill), &[child as u64, 19]);
        // A stopped process ends all the same.
        g.syscall(nr(__NR_kill), &[child as u64, 9]);
        assert_eq!(wait(g, child, 0), (child, 9));
    });
}

#[test]
fn an_orphan_goes_to_init_and_leaves_nothing() {
    guest(|g| {
        let child = fork(g, |g| {
            fork(g, |g| {
                while g.syscall(nr(__NR_getppid), &[]) != 1 {
                    g.syscall(nr(__NR_sched_yield), &[]);
                }
                exit(g, 0);
            });
            exit(g, 3);
        });
        assert_eq!(wait(g, child, 0), (child, 3 << 8));
        while g.syscall(nr(__NR_kill), &[(child + 1) as u64, 0]) != -3 {
            g.syscall(nr(__NR_sched_yield), &[]);
        }
        assert_eq!(wait(g, -1, 0).0, -10);
    });
}

#[test]
fn a_subreaper_gets_orphans() {
    guest(|g| {
        assert_eq!(g.syscall(nr(__NR_prctl), &[36, 1]), 0);
        let child = fork(g, |g| {
            fork(g, |g| exit(g, 5));
            exit(g, 3);
        });
        assert_eq!(wait(g, child, 0), (child, 3 << 8));
        assert_eq!(wait(g, -1, 0), (child + 1, 5 << 8));
    });
}

#[test]
fn a_parent_that_ignores_sigchld_has_no_zombies() {
    guest(|g| {
        g.store(GUEST, &[1u64, 0, 0, 0].map(u64::to_ne_bytes).concat());
        assert_eq!(g.syscall(nr(__NR_rt_sigaction), &[SIGCHLD, GUEST, 0, 8]), 0);
        let child = fork(g, |g| exit(g, 1));
        assert_eq!(wait(g, -1, 0).0, -10);
        assert_eq!(g.syscall(nr(__NR_kill), &[child as u64, 0]), -3);
    });
}

#[test]
fn a_vfork_parent_goes_on_when_the_child_has_ended() {
    guest(|g| {
        g.store_u64(GUEST, 1);
        let child = g.fork(nr(__NR_vfork), &[], |g| {
            g.syscall(nr(__NR_sched_yield), &[]);
            g.store_u64(GUEST, 2);
            exit(g, 0);
        });
        assert_eq!(g.load_u64(GUEST), 2, "the memory is one");
        assert_eq!(wait(g, child, 0), (child, 0));
    });
}

#[test]
fn the_status_is_the_last_threads() {
    guest(|g| {
        let child = fork(g, |g| {
            thread(g, 0x8000, |g| {
                g.syscall(nr(__NR_sched_yield), &[]);
                g.syscall(nr(__NR_exit), &[9]);
            });
            g.syscall(nr(__NR_exit), &[4]);
        });
        assert_eq!(wait(g, child, 0), (child, 9 << 8));
    });
}

#[test]
fn exit_group_ends_sleeping_threads() {
    guest(|g| {
        let child = fork(g, |g| {
            for i in 1..20 {
                thread(g, 0x4000 * i, |g| {
                    loop {
                        g.syscall(nr(__NR_pause), &[]);
                    }
                });
            }
            g.syscall(nr(__NR_sched_yield), &[]);
            exit(g, 6);
        });
        assert_eq!(wait(g, child, 0), (child, 6 << 8));
    });
}

#[test]
fn a_fork_bomb_meets_its_limit_and_everything_comes_back() {
    let machine = MockMachine::new();
    let spaces = machine.clone();
    let status = guest_on(machine, 1000, move |g| {
        let limit = [20u64, 20].map(u64::to_ne_bytes).concat();
        g.store(GUEST, &limit);
        assert_eq!(g.syscall(nr(__NR_setrlimit), &[6, GUEST]), 0);
        for _ in 0..3 {
            let mut children = 0;
            loop {
                match fork(g, |g| {
                    g.syscall(nr(__NR_pause), &[]);
                }) {
                    -11 => break,
                    pid => assert!(pid > 0, "fork: {pid}"),
                }
                children += 1;
            }
            assert_eq!(children, 19);
            assert_eq!(g.syscall(nr(__NR_kill), &[-1i64 as u64, 9]), 0);
            for _ in 0..children {
                assert_eq!(wait(g, -1, 0).1, 9);
            }
            assert_eq!(spaces.live_spaces(), 1);
        }
        exit(g, 0);
    });
    assert_eq!(status, ExitStatus::Exited(0));
}

#[test]
fn the_end_of_the_first_process_ends_many_others() {
    let machine = MockMachine::builder().cpus(2).build();
    let status = guest_on(machine.clone(), 0, |g| {
        for i in 0..30 {
            fork(g, move |g| {
                if i % 3 == 0 {
                    g.syscall(nr(__NR_pause), &[]);
                }
                loop {
                    g.compute(1_000_000);
                    g.syscall(nr(__NR_getpid), &[]);
                }
            });
        }
        exit(g, 8);
    });
    assert_eq!(status, ExitStatus::Exited(8));
    assert_eq!(machine.live_spaces(), 0);
}

#[test]
fn setpgid_and_setsid_follow_the_rules() {
    guest(|g| {
        let me = g.syscall(nr(__NR_getpid), &[]);
        assert_eq!(g.syscall(nr(__NR_setsid), &[]), -1, "a group leader");
        assert_eq!(g.syscall(nr(__NR_setpgid), &[0, 0]), -1, "a session leader");
        assert_eq!(g.syscall(nr(__NR_setpgid), &[0, -1i32 as u32 as u64]), -22);
        assert_eq!(g.syscall(nr(__NR_getpgid), &[9999]), -3);
        let child = fork(g, |g| {
            assert_eq!(g.syscall(nr(__NR_setpgid), &[0, 9999]), -1, "no such group");
            let pid = g.syscall(nr(__NR_setsid), &[]);
            assert_eq!(pid, g.syscall(nr(__NR_getpid), &[]));
            assert_eq!(g.syscall(nr(__NR_getsid), &[0]), pid);
            assert_eq!(g.syscall(nr(__NR_getpgrp), &[]), pid);
            exit(g, 0);
        });
        assert_eq!(g.syscall(nr(__NR_setpgid), &[child as u64, child as u64]), 0);
        assert_eq!(g.syscall(nr(__NR_setpgid), &[child as u64, me as u64]), 0);
        assert_eq!(wait(g, child, 0), (child, 0));
    });
}

#[test]
fn bad_clones_are_refused() {
    guest(|g| {
        let mut clone = |flags: u64| g.syscall(nr(__NR_clone), &[flags]);
        assert_eq!(clone(0x1_0000), -22, "THREAD without SIGHAND");
        assert_eq!(clone(0x800), -22, "SIGHAND without VM");
        assert_eq!(clone(0x1000_0000), -1, "a user namespace");
        let mut clone3 = |words: [u64; 11], size: u64| {
            g.store(GUEST, &words.map(u64::to_ne_bytes).concat());
            g.syscall(nr(__NR_clone3), &[GUEST, size])
        };
        assert_eq!(clone3([0; 11], 63), -22);
        assert_eq!(clone3([0; 11], 5000), -7);
        assert_eq!(clone3([0, 0, 0, 0, 65, 0, 0, 0, 0, 0, 0], 88), -22, "no such signal");
        assert_eq!(clone3([0, 0, 0, 0, 17, 0, 4096, 0, 0, 0, 0], 88), -22, "a size without a stack");
        assert_eq!(clone3([0, 0, 0, 0, 17, 0, 0, 0, GUEST, 1, 0], 88), -1, "set_tid");
        assert_eq!(wait(g, -1, 0).0, -10);
    });
}

#[test]
fn an_oops_kills_one_process_only() {
    let machine = MockMachine::new();
    let status = guest_on(machine.clone(), 0, |g| {
        let child = fork(g, |_| panic!("as if kernel code had panicked"));
        assert_eq!(wait(g, child, 0), (child, 9));
        exit(g, 0);
    });
    assert_eq!(status, ExitStatus::Exited(0));
    let log = machine.take_log();
    assert!(log.iter().any(|(_, line)| line.contains("oops")), "{log:?}");
}

#[test]
fn a_cpu_limit_sends_sigxcpu_to_a_lone_spinner_and_then_kills() {
    guest(|g| {
        for (limits, ignore, signo) in [([1u64, 9], false, 24), ([1, 2], true, 9)] {
            let child = fork(g, move |g| {
                g.store(GUEST, &limits.map(u64::to_ne_bytes).concat());
                g.syscall(nr(__NR_setrlimit), &[0, GUEST]);
                if ignore {
                    g.store(GUEST, &[1u64, 0, 0, 0].map(u64::to_ne_bytes).concat());
                    g.syscall(nr(__NR_rt_sigaction), &[24, GUEST, 0, 8]);
                }
                loop {
                    g.compute(10_000_000);
                }
            });
            assert_eq!(wait(g, child, 0), (child, signo));
        }
    });
}

#[test]
fn a_copy_that_finds_ram_full_kills_the_largest_and_goes_on() {
    const PAGE: u64 = 4096;
    let map = |g: &mut Guest, len: u64| {
        let (prot, flags) = (3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
        let at = g.syscall(nr(__NR_mmap), &[0, len, prot, u64::from(flags), u64::MAX, 0]);
        assert!(at > 0, "{at}");
        at as u64
    };
    let machine = MockMachine::builder().memory(4 << 20).build();
    let status = guest_on(machine.clone(), 0, move |g| {
        let hog = g.fork(nr(__NR_fork), &[], move |g| {
            let at = map(g, 5 << 19);
            for page in 0..(5 << 19) / PAGE {
                g.store(at + page * PAGE, b"x");
            }
            g.syscall(nr(__NR_pause), &[]);
        });
        g.store(GUEST + 16, &[0u64, 1_000_000].map(u64::to_ne_bytes).concat());
        g.syscall(nr(__NR_nanosleep), &[GUEST + 16, 0]);
        // Every call copies to a page that does not exist yet.
        let at = map(g, 2 << 20);
        for page in 0..(2 << 20) / PAGE {
            assert_eq!(g.syscall(nr(__NR_getrandom), &[at + page * PAGE, 64, 0]), 64);
        }
        assert_eq!(g.syscall(nr(__NR_wait4), &[hog as u64, GUEST, 0, 0]), hog);
        assert_eq!(g.load_u64(GUEST) as u32, 9);
        exit(g, 0);
    });
    assert_eq!(status, ExitStatus::Exited(0));
    let log = machine.take_log();
    assert!(
        log.iter().any(|(_, line)| line.contains("out of memory") && line.contains("killed process")),
        "{log:?}"
    );
}

#[test]
fn memory_that_is_only_kept_goes_before_anybody_is_killed() {
    const PAGE: u64 = 4096;
    const KEPT: u64 = 60;
    let machine = MockMachine::builder().memory(4 << 20).build();
    let status = guest_on(machine.clone(), 0, |g| {
        let map = |g: &mut Guest, pages: u64| {
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
            let at = g.syscall(nr(__NR_mmap), &[0, pages * PAGE, 3, u64::from(flags), u64::MAX, 0]);
            assert!(at > 0, "{at}");
            at as u64
        };
        let fill = |g: &mut Guest, at, pages| (0..pages).for_each(|page| g.store(at + page * PAGE, b"x"));
        let large = map(g, 1000);
        let kept = map(g, KEPT);
        fill(g, kept, KEPT);
        assert_eq!(g.syscall(nr(__NR_munmap), &[kept, KEPT * PAGE]), 0);
        assert_eq!(g.syscall(nr(__NR_sysinfo), &[GUEST]), 0);
        let free = g.load_u64(GUEST + 40) / PAGE;
        fill(g, large, free + KEPT / 2);
        exit(g, 0);
    });
    assert_eq!(status, ExitStatus::Exited(0));
    assert!(machine.take_log().iter().all(|(_, line)| !line.contains("out of memory")));
}
