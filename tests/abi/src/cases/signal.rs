//! Signals: sending, handlers, masks, pending sets, siginfo.

use crate::kit::prelude::*;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;

fn tgkill(tid: i32, s: i32) -> Result<i64, E> {
    sc!(SYS_tgkill, getpid(), tid, s)
}

fn raise(s: i32) -> Result<i64, E> {
    tgkill(gettid(), s)
}

fn handler_runs_and_execution_goes_on() -> R {
    sig::record(SIGUSR1, 0)?;
    kill(getpid(), SIGUSR1)?;
    kill(getpid(), SIGUSR1)?;
    eq!(sig::numbers(), [SIGUSR1, SIGUSR1]);
    Ok(())
}

fn siginfo_of_kill_and_tgkill() -> R {
    sig::record(SIGUSR1, 0)?;
    kill(getpid(), SIGUSR1)?;
    raise(SIGUSR1)?;
    sc!(SYS_tkill, gettid(), SIGUSR1)?;
    let seen = sig::seen();
    eq!(seen.iter().map(|s| s.code).collect::<Vec<_>>(), [SI_USER, SI_TKILL, SI_TKILL]);
    that!(seen.iter().all(|s| s.pid == getpid() && s.tid == gettid()));
    Ok(())
}

fn siginfo_of_sigchld() -> R {
    sig::record(SIGCHLD, 0)?;
    sig::block(&[SIGCHLD])?;
    let c = fork(|| 7)?;
    c.wait()?;
    sig::unblock(&[SIGCHLD])?;
    let seen = sig::seen();
    eq!(seen.len(), 1);
    eq!((seen[0].sig, seen[0].code, seen[0].pid), (SIGCHLD, CLD_EXITED, c.pid));
    Ok(())
}

fn sigchld_for_stop_and_continue_unless_nocldstop() -> R {
    for (flags, events) in [(SA_RESTART, 2), (SA_RESTART | SA_NOCLDSTOP, 0)] {
        sig::reset();
        sig::record(SIGCHLD, flags)?;
        let c = child(|| {
            loop {
                let _ = sc!(SYS_pause);
            }
        })?;
        c.kill(SIGSTOP)?;
        wait4(c.pid, WUNTRACED)?;
        // The state can be seen a moment before the signal comes; two pending ones would merge.
        while events > 0 && sig::count() < 1 {
            sc!(SYS_sched_yield)?;
        }
        c.kill(SIGCONT)?;
        wait4(c.pid, WCONTINUED)?;
        while events > 0 && sig::count() < 2 {
            sc!(SYS_sched_yield)?;
        }
        let before = sig::seen();
        eq!(before.len(), events);
        if events == 2 {
            eq!((before[0].code, before[1].code), (CLD_STOPPED, CLD_CONTINUED));
        }
        c.kill(SIGKILL)?;
        c.wait()?;
        while sig::count() <= events {
            sc!(SYS_sched_yield)?;
        }
        eq!(sig::seen().last().map(|s| s.code), Some(CLD_KILLED));
    }
    Ok(())
}

fn blocked_signals_wait_and_standard_ones_merge() -> R {
    sig::record(SIGUSR1, 0)?;
    sig::block(&[SIGUSR1])?;
    for _ in 0..5 {
        kill(getpid(), SIGUSR1)?;
    }
    eq!((sig::count(), sig::pending()?), (0, sig::set(&[SIGUSR1])));
    sig::unblock(&[SIGUSR1])?;
    eq!((sig::count(), sig::pending()?), (1, 0));
    Ok(())
}

fn mask_operations() -> R {
    eq!(sig::mask(SIG_SETMASK, sig::set(&[SIGUSR1, 40]))?, 0);
    eq!(sig::mask(SIG_BLOCK, sig::set(&[SIGUSR2]))?, sig::set(&[SIGUSR1, 40]));
    eq!(sig::mask(SIG_UNBLOCK, sig::set(&[40]))?, sig::set(&[SIGUSR1, SIGUSR2, 40]));
    eq!(sig::current()?, sig::set(&[SIGUSR1, SIGUSR2]));
    // KILL and STOP cannot be blocked.
    sig::mask(SIG_SETMASK, !0)?;
    eq!(sig::current()?, !sig::set(&[SIGKILL, SIGSTOP]));
    errno_is!(sc!(SYS_rt_sigprocmask, 99, &0u64, 0, 8), EINVAL);
    errno_is!(sc!(SYS_rt_sigprocmask, SIG_BLOCK, &0u64, 0, 4), EINVAL);
    errno_is!(sc!(SYS_rt_sigprocmask, SIG_BLOCK, BAD, 0, 8), EFAULT);
    Ok(())
}

fn ignored_signals_vanish() -> R {
    sig::dispose(SIGUSR1, SIG_IGN, 0)?;
    kill(getpid(), SIGUSR1)?;
    sig::block(&[SIGUSR2])?;
    kill(getpid(), SIGUSR2)?;
    eq!(sig::pending()?, sig::set(&[SIGUSR2]));
    // Ignoring what is pending discards it.
    sig::dispose(SIGUSR2, SIG_IGN, 0)?;
    eq!(sig::pending()?, 0);
    Ok(())
}

fn default_actions() -> R {
    for s in [SIGURG, SIGCHLD, SIGWINCH, SIGCONT] {
        kill(getpid(), s)?;
    }
    for s in [
        SIGHUP, SIGINT, SIGPIPE, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2, SIGIO, SIGVTALRM, SIGPROF, SIGPWR,
        SIGSTKFLT, 34, 64,
    ] {
        let c = child(|| {
            kill(getpid(), s)?;
            fail!("survived {s}")
        })?;
        eq!(c.wait()?, Status::Killed(s));
    }
    for s in [SIGQUIT, SIGILL, SIGABRT, SIGFPE, SIGSEGV, SIGBUS, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ] {
        let c = child(|| {
            kill(getpid(), s)?;
            fail!("survived {s}")
        })?;
        eq!(c.wait()?, Status::Killed(s));
    }
    Ok(())
}

fn kill_errors() -> R {
    errno_is!(kill(getpid(), 65), EINVAL);
    errno_is!(kill(getpid(), -1), EINVAL);
    errno_is!(kill(999_999, 0), ESRCH);
    errno_is!(kill(i32::MIN, 0), ESRCH);
    kill(getpid(), 0)?;
    errno_is!(sc!(SYS_tgkill, getpid(), 0, 0), EINVAL);
    errno_is!(sc!(SYS_tgkill, -1, gettid(), 0), EINVAL);
    errno_is!(sc!(SYS_tgkill, 1, gettid(), 0), ESRCH);
    errno_is!(sc!(SYS_tkill, 999_999, 0), ESRCH);
    Ok(())
}

fn sigaction_errors_and_old_action() -> R {
    for s in [0, 65, SIGKILL, SIGSTOP] {
        errno_is!(sig::dispose(s, SIG_IGN, 0), EINVAL);
    }
    sig::handle(SIGUSR1, sig::recorder, SA_RESTART | SA_NODEFER, &[SIGUSR2])?;
    // The kernel's own structure: handler, flags, restorer, mask.
    let mut old = [0u64; 4];
    sc!(SYS_rt_sigaction, SIGUSR1, 0, &mut old, 8)?;
    eq!(old[0] as usize, sig::recorder as *const () as usize);
    eq!(old[1] as i32 & !0x0400_0000, SA_SIGINFO | SA_RESTART | SA_NODEFER);
    eq!(old[3], sig::set(&[SIGUSR2]));
    errno_is!(sc!(SYS_rt_sigaction, SIGUSR1, 0, &mut old, 4), EINVAL);
    errno_is!(sc!(SYS_rt_sigaction, SIGUSR1, BAD, 0, 8), EFAULT);
    Ok(())
}

static INSIDE: AtomicU64 = AtomicU64::new(0);

extern "C" fn note_mask(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    INSIDE.store(sig::current().unwrap_or(!0), SeqCst);
}

fn a_handler_blocks_its_signal_and_its_mask() -> R {
    sig::handle(SIGUSR1, note_mask, 0, &[SIGUSR2, 40])?;
    raise(SIGUSR1)?;
    eq!(INSIDE.load(SeqCst), sig::set(&[SIGUSR1, SIGUSR2, 40]));
    eq!(sig::current()?, 0);
    sig::handle(SIGUSR1, note_mask, SA_NODEFER, &[SIGUSR2])?;
    raise(SIGUSR1)?;
    eq!(INSIDE.load(SeqCst), sig::set(&[SIGUSR2]));
    Ok(())
}

static DEPTH: AtomicI32 = AtomicI32::new(0);
static DEEPEST: AtomicI32 = AtomicI32::new(0);
static CALLS: AtomicI32 = AtomicI32::new(0);

extern "C" fn nest(s: i32, _: *mut siginfo_t, _: *mut c_void) {
    let depth = DEPTH.fetch_add(1, SeqCst) + 1;
    DEEPEST.fetch_max(depth, SeqCst);
    if CALLS.fetch_add(1, SeqCst) < 5 {
        let _ = raise(s);
    }
    DEPTH.fetch_sub(1, SeqCst);
}

fn nodefer_nests_and_the_default_defers() -> R {
    sig::handle(SIGUSR1, nest, 0, &[])?;
    raise(SIGUSR1)?;
    eq!((DEEPEST.load(SeqCst), CALLS.load(SeqCst)), (1, 6));
    DEEPEST.store(0, SeqCst);
    CALLS.store(0, SeqCst);
    sig::handle(SIGUSR1, nest, SA_NODEFER, &[])?;
    raise(SIGUSR1)?;
    eq!((DEEPEST.load(SeqCst), CALLS.load(SeqCst)), (6, 6));
    Ok(())
}

fn resethand_runs_once() -> R {
    let c = child(|| {
        sig::record(SIGUSR1, SA_RESETHAND)?;
        raise(SIGUSR1)?;
        eq!(sig::count(), 1);
        raise(SIGUSR1)?;
        fail!("survived")
    })?;
    eq!(c.wait()?, Status::Killed(SIGUSR1));
    Ok(())
}

extern "C" fn other_inside(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    let _ = raise(SIGUSR2);
    INSIDE.store(sig::count() as u64, SeqCst);
}

fn another_signal_interrupts_a_handler() -> R {
    sig::record(SIGUSR2, 0)?;
    sig::handle(SIGUSR1, other_inside, 0, &[])?;
    raise(SIGUSR1)?;
    eq!(INSIDE.load(SeqCst), 1);
    sig::handle(SIGUSR1, other_inside, 0, &[SIGUSR2])?;
    raise(SIGUSR1)?;
    // Deferred until the handler returned.
    eq!((INSIDE.load(SeqCst), sig::count()), (1, 2));
    Ok(())
}

fn a_signal_to_a_thread_runs_there() -> R {
    static TID: AtomicI32 = AtomicI32::new(0);
    sig::record(SIGUSR1, 0)?;
    let gate = Gate::new()?;
    let t = thread::spawn(move || -> R {
        TID.store(gettid(), SeqCst);
        // Interrupted, not ended: the read fails once.
        errno_is!(read(gate_fd(gate), &mut [0]), EINTR);
        Ok(())
    });
    while TID.load(SeqCst) == 0 {
        sc!(SYS_sched_yield)?;
    }
    asleep(getpid(), TID.load(SeqCst))?;
    tgkill(TID.load(SeqCst), SIGUSR1)?;
    let Ok(r) = t.join() else { fail!("panic") };
    r?;
    eq!(sig::seen()[0].tid, TID.load(SeqCst));
    Ok(())
}

fn gate_fd(gate: Gate) -> i32 {
    gate.reader()
}

fn a_process_signal_goes_to_a_thread_that_takes_it() -> R {
    sig::record(SIGUSR1, 0)?;
    sig::block(&[SIGUSR1])?;
    static TID: AtomicI32 = AtomicI32::new(0);
    let gate = Gate::new()?;
    let t = thread::spawn(move || -> R {
        sig::unblock(&[SIGUSR1])?;
        TID.store(gettid(), SeqCst);
        errno_is!(read(gate.reader(), &mut [0]), EINTR);
        Ok(())
    });
    while TID.load(SeqCst) == 0 {
        sc!(SYS_sched_yield)?;
    }
    asleep(getpid(), TID.load(SeqCst))?;
    kill(getpid(), SIGUSR1)?;
    let Ok(r) = t.join() else { fail!("panic") };
    r?;
    eq!(sig::seen()[0].tid, TID.load(SeqCst));
    Ok(())
}

fn masks_are_per_thread_and_inherited() -> R {
    sig::block(&[SIGUSR1])?;
    let t = thread::spawn(|| -> Result<u64, E> {
        let at_start = sig::current()?;
        sig::mask(SIG_SETMASK, 0)?;
        Ok(at_start)
    });
    let Ok(mask) = t.join() else { fail!("panic") };
    eq!(mask?, sig::set(&[SIGUSR1]));
    eq!(sig::current()?, sig::set(&[SIGUSR1]));
    Ok(())
}

fn pending_of_thread_and_process_are_apart() -> R {
    sig::block(&[SIGUSR1, SIGUSR2])?;
    raise(SIGUSR1)?;
    kill(getpid(), SIGUSR2)?;
    eq!(sig::pending()?, sig::set(&[SIGUSR1, SIGUSR2]));
    let t = thread::spawn(sig::pending);
    let Ok(p) = t.join() else { fail!("panic") };
    eq!(p?, sig::set(&[SIGUSR2]));
    let status = text(c"/proc/self/status")?;
    that!(status.contains("\nSigPnd:\t0000000000000200\n"), "{status}");
    that!(status.contains("\nShdPnd:\t0000000000000800\n"), "{status}");
    that!(status.contains("\nSigBlk:\t0000000000000a00\n"), "{status}");
    Ok(())
}

fn a_group_signal_reaches_every_member_once() -> R {
    let (ready, done) = (Gate::new()?, Gate::new()?);
    let leader = child(|| {
        sc!(SYS_setpgid, 0, 0)?;
        ready.open()?;
        sig::block(&[SIGUSR1])?;
        done.pass()
    })?;
    ready.pass()?;
    let mut members = Vec::new();
    for _ in 0..3 {
        let c = child(|| {
            sig::record(SIGUSR1, 0)?;
            sig::block(&[SIGUSR1])?;
            sc!(SYS_setpgid, 0, leader.pid)?;
            ready.open()?;
            let mask = 0u64;
            errno_is!(sc!(SYS_rt_sigsuspend, &mask, 8), EINTR);
            eq!(sig::count(), 1);
            Ok(())
        })?;
        ready.pass()?;
        members.push(c);
    }
    kill(-leader.pid, SIGUSR1)?;
    for m in members {
        m.ok()?;
    }
    done.open()?;
    // Pending and blocked in the leader, which leaves well.
    leader.ok()
}

fn real_time_signals_queue_in_order() -> R {
    sig::record(40, 0)?;
    sig::block(&[40])?;
    for n in 0..10 {
        queue(40, n)?;
    }
    sig::unblock(&[40])?;
    eq!(sig::seen().iter().map(|s| s.value).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    that!(sig::seen().iter().all(|s| s.code == SI_QUEUE && s.pid == getpid()));
    Ok(())
}

/// sigqueue to ourselves, with a value.
fn queue(s: i32, value: i32) -> Result<i64, E> {
    queue_to(getpid(), s, SI_QUEUE, value)
}

fn queue_to(pid: i32, s: i32, code: i32, value: i32) -> Result<i64, E> {
    let mut info = [0i32; 32];
    (info[0], info[2], info[4], info[6]) = (s, code, getpid(), value);
    sc!(SYS_rt_sigqueueinfo, pid, s, &info)
}

fn lower_numbers_are_delivered_first() -> R {
    // Standard before real-time, each in order; with several pending handlers the last set up runs first,
    // so the masks keep them from nesting.
    let all = [50, SIGUSR2, 40, SIGUSR1, 45];
    for s in all {
        sig::handle(s, sig::recorder, 0, &all)?;
    }
    sig::block(&all)?;
    for s in all {
        queue(s, 0)?;
    }
    sig::unblock(&all)?;
    eq!(sig::numbers(), [SIGUSR1, SIGUSR2, 40, 45, 50]);
    Ok(())
}

fn synchronous_signals_come_before_others() -> R {
    let all = [SIGINT, SIGSEGV, SIGTRAP];
    for s in all {
        sig::handle(s, sig::recorder, 0, &all)?;
    }
    sig::block(&all)?;
    for s in all {
        raise(s)?;
    }
    sig::unblock(&all)?;
    eq!(sig::numbers()[2], SIGINT);
    Ok(())
}

fn sigqueue_rules() -> R {
    sig::record(SIGUSR1, 0)?;
    // Negative codes are the senders' own; others are the kernel's.
    queue_to(getpid(), SIGUSR1, -60, 5)?;
    eq!((sig::seen()[0].code, sig::seen()[0].value), (-60, 5));
    let c = child(|| {
        loop {
            let _ = sc!(SYS_pause);
        }
    })?;
    errno_is!(queue_to(c.pid, SIGUSR1, SI_USER, 0), EPERM);
    errno_is!(queue_to(c.pid, SIGUSR1, SI_TKILL, 0), EPERM);
    errno_is!(queue_to(999_999, SIGUSR1, SI_QUEUE, 0), ESRCH);
    errno_is!(queue_to(c.pid, 99, SI_QUEUE, 0), EINVAL);
    c.kill(SIGKILL)?;
    c.wait()?;
    let mut info = [0i32; 32];
    (info[0], info[2], info[4], info[6]) = (SIGUSR1, SI_QUEUE, getpid(), 8);
    sc!(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR1, &info)?;
    eq!(sig::seen()[1].value, 8);
    Ok(())
}

fn the_queue_is_limited() -> R {
    sig::block(&[40])?;
    sc!(SYS_prlimit64, 0, RLIMIT_SIGPENDING, &rlimit { rlim_cur: 0, rlim_max: 0 }, 0)?;
    errno_is!(queue(40, 1), EAGAIN);
    // A standard signal always gets through, if without its data.
    sig::record(SIGUSR1, 0)?;
    kill(getpid(), SIGUSR1)?;
    eq!(sig::count(), 1);
    Ok(())
}

fn stop_signals_discard_pending_continue_and_back() -> R {
    sig::block(&[SIGTSTP, SIGCONT])?;
    kill(getpid(), SIGTSTP)?;
    eq!(sig::pending()?, sig::set(&[SIGTSTP]));
    kill(getpid(), SIGCONT)?;
    // The handlerless SIGCONT is not kept pending... unless it is blocked.
    eq!(sig::pending()?, sig::set(&[SIGCONT]));
    Ok(())
}

fn a_caught_tstp_does_not_stop_and_cont_can_be_caught() -> R {
    sig::record(SIGTSTP, 0)?;
    raise(SIGTSTP)?;
    eq!(sig::numbers(), [SIGTSTP]);
    let ready = Gate::new()?;
    let c = child(|| {
        sig::record(SIGCONT, 0)?;
        sig::block(&[SIGCONT])?;
        ready.open()?;
        let mask = 0u64;
        errno_is!(sc!(SYS_rt_sigsuspend, &mask, 8), EINTR);
        eq!(sig::numbers(), [SIGTSTP, SIGCONT]);
        Ok(())
    })?;
    ready.pass()?;
    c.kill(SIGSTOP)?;
    wait4(c.pid, WUNTRACED)?;
    c.kill(SIGCONT)?;
    c.ok()
}

fn stopping_stops_every_thread() -> R {
    let p = shared(4096)?;
    let counter = cell(p);
    let c = child(|| {
        for _ in 0..3 {
            thread::spawn(|| {
                loop {
                    counter.fetch_add(1, SeqCst);
                }
            });
        }
        loop {
            let _ = sc!(SYS_pause);
        }
    })?;
    while counter.load(SeqCst) < 1000 {
        sc!(SYS_sched_yield)?;
    }
    c.kill(SIGSTOP)?;
    eq!(wait4(c.pid, WUNTRACED)?.1, Status::Stopped(SIGSTOP));
    let before = counter.load(SeqCst);
    sc!(SYS_nanosleep, &ts(20 * MS), 0)?;
    eq!(counter.load(SeqCst), before);
    c.kill(SIGCONT)?;
    while counter.load(SeqCst) == before {
        sc!(SYS_sched_yield)?;
    }
    c.kill(SIGKILL)?;
    c.wait()?;
    Ok(())
}

fn interrupting_a_spinning_thread() -> R {
    static FLAG: AtomicU32 = AtomicU32::new(0);
    extern "C" fn set(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        FLAG.store(1, SeqCst);
    }
    sig::handle(SIGALRM, set, 0, &[])?;
    sig::interval(2000)?;
    // No system call in the loop: the signal has to break in.
    while FLAG.load(SeqCst) == 0 {
        std::hint::spin_loop();
    }
    Ok(())
}

fn many_signals_while_computing_lose_nothing() -> R {
    sig::tick(0)?;
    sig::interval(300)?;
    let mut x = 1.0f64;
    let mut n = 0u64;
    while sig::count() < 100 {
        for _ in 0..1000 {
            x = (x * 1.000_001).sqrt() + 0.5;
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
    }
    sig::interval(0)?;
    that!(x.is_finite() && n != 0);
    Ok(())
}

cases!("signal":
    handler_runs_and_execution_goes_on, siginfo_of_kill_and_tgkill, siginfo_of_sigchld,
    sigchld_for_stop_and_continue_unless_nocldstop, blocked_signals_wait_and_standard_ones_merge,
    mask_operations, ignored_signals_vanish, default_actions, kill_errors, sigaction_errors_and_old_action,
    a_handler_blocks_its_signal_and_its_mask, nodefer_nests_and_the_default_defers, resethand_runs_once,
    another_signal_interrupts_a_handler, a_signal_to_a_thread_runs_there,
    a_process_signal_goes_to_a_thread_that_takes_it, masks_are_per_thread_and_inherited,
    pending_of_thread_and_process_are_apart, a_group_signal_reaches_every_member_once,
    real_time_signals_queue_in_order, lower_numbers_are_delivered_first,
    synchronous_signals_come_before_others, sigqueue_rules, the_queue_is_limited,
    stop_signals_discard_pending_continue_and_back, a_caught_tstp_does_not_stop_and_cont_can_be_caught,
    stopping_stops_every_thread, interrupting_a_spinning_thread, many_signals_while_computing_lose_nothing,
);
