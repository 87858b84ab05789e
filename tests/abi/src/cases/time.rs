//! Clocks, sleeping, interval timers, POSIX timers, timerfd.

use crate::kit::prelude::*;

const PAGE: usize = 4096;

fn tv(usec: i64) -> timeval {
    timeval { tv_sec: usec / 1_000_000, tv_usec: usec % 1_000_000 }
}

fn its(value: u64, interval: u64) -> itimerspec {
    itimerspec { it_interval: ts(interval), it_value: ts(value) }
}

fn nanos(t: timespec) -> u64 {
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn clocks_advance() -> R {
    for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_TAI] {
        let before = now(clock)?;
        sc!(SYS_nanosleep, &ts(MS), 0)?;
        that!(now(clock)? >= before + MS / 2);
    }
    let mut last = now(CLOCK_MONOTONIC)?;
    for _ in 0..2000 {
        let next = now(CLOCK_MONOTONIC)?;
        that!(next >= last);
        last = next;
    }
    Ok(())
}

/// Every way to a clock shows the same: the vDSO, a call of the C library's, and one from where nobody has called before.
fn clocks_are_the_same_whoever_is_asked() -> R {
    let all = [
        CLOCK_REALTIME,
        CLOCK_MONOTONIC,
        CLOCK_MONOTONIC_RAW,
        CLOCK_REALTIME_COARSE,
        CLOCK_MONOTONIC_COARSE,
        CLOCK_BOOTTIME,
        CLOCK_TAI,
    ];
    for clock in all {
        let page = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
        // mov eax, 228; syscall; ret
        let code = [0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0xc3];
        for (i, byte) in code.iter().enumerate() {
            poke(at(page, i), *byte);
        }
        sc!(SYS_mprotect, page, PAGE, PROT_READ | PROT_EXEC)?;
        // SAFETY: the code above, which takes and changes what such a function may.
        let fresh: extern "C" fn(i32, *mut timespec) -> i32 = unsafe { std::mem::transmute(page) };
        let mut last = 0;
        for round in 0..60 {
            let mut t = zeroed::<timespec>();
            let readings = [
                now(clock)?,
                {
                    // SAFETY: a live structure.
                    eq!(unsafe { clock_gettime(clock, &mut t) }, 0);
                    nanos(t)
                },
                {
                    eq!(fresh(clock, &mut t), 0);
                    nanos(t)
                },
            ];
            for reading in readings {
                that!(reading >= last, "clock {clock} goes back by {} ns in round {round}", last - reading);
                last = reading;
            }
        }
        munmap(page, PAGE)?;
    }
    Ok(())
}

/// What a process has computed is seen by others while it goes on.
fn the_time_of_a_process_that_computes_goes_on() -> R {
    let child = fork(|| {
        loop {
            std::hint::spin_loop();
        }
    })?;
    let path = std::ffi::CString::new(format!("/proc/{}/stat", child.pid)).map_err(|_| E(EINVAL))?;
    let ticks = || -> R<u64> {
        let all = text(&path)?;
        let rest = all.rsplit(')').next().unwrap_or_default();
        Ok(rest.split_whitespace().nth(11).and_then(|word| word.parse().ok()).unwrap_or(0))
    };
    for goal in [2, 8] {
        while ticks()? < goal {
            sc!(SYS_nanosleep, &ts(5 * MS), 0)?;
        }
    }
    kill(child.pid, SIGKILL)?;
    child.wait()?;
    Ok(())
}

fn libc_and_system_call_agree() -> R {
    // libc asks the vDSO where there is one.
    let a = now(CLOCK_MONOTONIC)?;
    let mut t = zeroed::<timespec>();
    // SAFETY: a live structure.
    eq!(unsafe { clock_gettime(CLOCK_MONOTONIC, &mut t) }, 0);
    let b = now(CLOCK_MONOTONIC)?;
    that!(a <= nanos(t) && nanos(t) <= b);
    let mut v = zeroed::<timeval>();
    sc!(SYS_gettimeofday, &mut v, 0)?;
    let real = now(CLOCK_REALTIME)?;
    that!(real / 1_000_000_000 - v.tv_sec as u64 <= 1);
    let secs = sc!(SYS_time, 0)?;
    that!((real / 1_000_000_000) as i64 - secs <= 1);
    that!(v.tv_sec > 1_700_000_000);
    Ok(())
}

fn coarse_clocks_are_close() -> R {
    for (coarse, fine) in [(CLOCK_REALTIME_COARSE, CLOCK_REALTIME), (CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC)]
    {
        let (c, f) = (now(coarse)?, now(fine)?);
        that!(f.abs_diff(c) < 2_000 * MS);
    }
    Ok(())
}

fn resolutions() -> R {
    let mut t = zeroed::<timespec>();
    for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID] {
        sc!(SYS_clock_getres, clock, &mut t)?;
        eq!(nanos(t), 1);
    }
    sc!(SYS_clock_getres, CLOCK_MONOTONIC_COARSE, &mut t)?;
    that!(nanos(t) >= MS && nanos(t) <= 20 * MS);
    sc!(SYS_clock_getres, CLOCK_MONOTONIC, 0)?;
    errno_is!(sc!(SYS_clock_getres, 99, &mut t), EINVAL);
    Ok(())
}

fn clock_errors() -> R {
    errno_is!(now(99), EINVAL);
    errno_is!(now(-1), EINVAL);
    errno_is!(sc!(SYS_clock_gettime, CLOCK_MONOTONIC, BAD), EFAULT);
    errno_is!(sc!(SYS_clock_settime, CLOCK_MONOTONIC, &ts(0)), EINVAL);
    if !root() {
        errno_is!(sc!(SYS_clock_settime, CLOCK_REALTIME, &ts(0)), EPERM);
    }
    Ok(())
}

fn cpu_clocks_count_work_only() -> R {
    let (p, t) = (now(CLOCK_PROCESS_CPUTIME_ID)?, now(CLOCK_THREAD_CPUTIME_ID)?);
    sc!(SYS_nanosleep, &ts(30 * MS), 0)?;
    that!(now(CLOCK_PROCESS_CPUTIME_ID)? - p < 25 * MS);
    while now(CLOCK_THREAD_CPUTIME_ID)? - t < 20 * MS {}
    that!(now(CLOCK_PROCESS_CPUTIME_ID)? - p >= 15 * MS);
    Ok(())
}

fn nanosleep_sleeps_at_least_that_long() -> R {
    let start = now(CLOCK_MONOTONIC)?;
    sc!(SYS_nanosleep, &ts(25 * MS), 0)?;
    that!(now(CLOCK_MONOTONIC)? - start >= 25 * MS);
    errno_is!(sc!(SYS_nanosleep, &timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }, 0), EINVAL);
    errno_is!(sc!(SYS_nanosleep, &timespec { tv_sec: -1, tv_nsec: 0 }, 0), EINVAL);
    errno_is!(sc!(SYS_nanosleep, BAD, 0), EFAULT);
    sc!(SYS_nanosleep, &ts(0), 0)?;
    Ok(())
}

fn an_interrupted_sleep_tells_the_rest() -> R {
    sig::record(SIGALRM, 0)?;
    sig::interval(20_000)?;
    let mut rest = zeroed::<timespec>();
    errno_is!(sc!(SYS_nanosleep, &ts(10_000 * MS), &mut rest), EINTR);
    that!(nanos(rest) < 9_990 * MS && nanos(rest) > 5_000 * MS, "{}", nanos(rest));
    let mut rest = zeroed::<timespec>();
    errno_is!(sc!(SYS_clock_nanosleep, CLOCK_REALTIME, 0, &ts(10_000 * MS), &mut rest), EINTR);
    that!(nanos(rest) < 9_999 * MS && nanos(rest) > 5_000 * MS);
    Ok(())
}

fn absolute_sleeps() -> R {
    for clock in [CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME] {
        let until = now(clock)? + 15 * MS;
        sc!(SYS_clock_nanosleep, clock, TIMER_ABSTIME, &ts(until), 0)?;
        that!(now(clock)? >= until);
        // The past is over at once.
        sc!(SYS_clock_nanosleep, clock, TIMER_ABSTIME, &ts(1), 0)?;
    }
    errno_is!(sc!(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &ts(1), 0), EINVAL | EOPNOTSUPP);
    errno_is!(sc!(SYS_clock_nanosleep, 99, 0, &ts(1), 0), EINVAL);
    // Interrupted, an absolute sleep leaves the rest alone.
    sig::tick(0)?;
    let mut rest = ts(77);
    let far = now(CLOCK_MONOTONIC)? + 100_000 * MS;
    errno_is!(sc!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &ts(far), &mut rest), EINTR);
    eq!(nanos(rest), 77);
    Ok(())
}

fn a_sleep_goes_on_after_a_stop() -> R {
    let c = child(|| {
        let start = now(CLOCK_MONOTONIC)?;
        sc!(SYS_nanosleep, &ts(40 * MS), 0)?;
        that!(now(CLOCK_MONOTONIC)? - start >= 40 * MS);
        Ok(())
    })?;
    c.kill(SIGSTOP)?;
    // On a busy machine it may be through before the stop.
    match wait4(c.pid, WUNTRACED)?.1 {
        Status::Stopped(_) => {
            c.kill(SIGCONT)?;
            c.ok()
        }
        status => {
            eq!(status, Status::Exited(0));
            Ok(())
        }
    }
}

fn alarm_counts_down_and_fires_once() -> R {
    eq!(sc!(SYS_alarm, 100)?, 0);
    eq!(sc!(SYS_alarm, 0)?, 100);
    eq!(sc!(SYS_alarm, 0)?, 0);
    sig::record(SIGALRM, 0)?;
    sc!(SYS_setitimer, ITIMER_REAL, &itimerval { it_interval: tv(0), it_value: tv(10_000) }, 0)?;
    errno_is!(sc!(SYS_pause), EINTR);
    eq!(sig::numbers(), [SIGALRM]);
    let mut left = itimerval { it_interval: tv(5), it_value: tv(5) };
    sc!(SYS_getitimer, ITIMER_REAL, &mut left)?;
    eq!((left.it_value.tv_sec, left.it_value.tv_usec), (0, 0));
    Ok(())
}

fn interval_timers_repeat_and_tell_the_old_value() -> R {
    sig::record(SIGALRM, SA_RESTART)?;
    sig::interval(3_000)?;
    while sig::count() < 5 {
        let _ = sc!(SYS_pause);
    }
    let mut old = zeroed::<itimerval>();
    sc!(SYS_setitimer, ITIMER_REAL, &itimerval { it_interval: tv(0), it_value: tv(0) }, &mut old)?;
    eq!(old.it_interval.tv_usec, 3_000);
    eq!(sig::seen()[0].code, SI_KERNEL);
    let bad = itimerval { it_interval: tv(0), it_value: timeval { tv_sec: 0, tv_usec: 1_000_000 } };
    errno_is!(sc!(SYS_setitimer, ITIMER_REAL, &bad, 0), EINVAL);
    errno_is!(sc!(SYS_getitimer, 9, &mut old), EINVAL);
    Ok(())
}

const SI_KERNEL: i32 = 0x80;

fn virtual_and_profiling_timers_count_cpu_time() -> R {
    for (which, signal) in [(ITIMER_VIRTUAL, SIGVTALRM), (ITIMER_PROF, SIGPROF)] {
        sig::reset();
        sig::record(signal, 0)?;
        sc!(SYS_setitimer, which, &itimerval { it_interval: tv(0), it_value: tv(20_000) }, 0)?;
        while sig::count() == 0 {
            std::hint::spin_loop();
        }
        eq!(sig::numbers(), [signal]);
    }
    Ok(())
}

/// A POSIX timer: (notify, signal, value, thread id).
fn timer(clock: i32, notify: i32, signal: i32, value: usize, tid: i32) -> Result<i32, E> {
    let event = [value, signal as usize | (notify as usize) << 32, tid as usize, 0, 0, 0, 0, 0];
    let mut id = -1i32;
    sc!(SYS_timer_create, clock, &event, &mut id).map(|_| id)
}

fn posix_timer_signals_with_its_value() -> R {
    sig::record(SIGUSR1, 0)?;
    sig::block(&[SIGUSR1])?;
    let id = timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 4242, 0)?;
    sc!(SYS_timer_settime, id, 0, &its(5 * MS, 0), 0)?;
    let mask = 0u64;
    errno_is!(sc!(SYS_rt_sigsuspend, &mask, 8), EINTR);
    let seen = sig::seen();
    eq!((seen[0].code, seen[0].value), (SI_TIMER, 4242));
    sc!(SYS_timer_delete, id)?;
    errno_is!(sc!(SYS_timer_delete, id), EINVAL);
    Ok(())
}

fn posix_timer_without_an_event_sends_sigalrm_with_its_id() -> R {
    sig::block(&[SIGALRM])?;
    let mut id = -1i32;
    sc!(SYS_timer_create, CLOCK_MONOTONIC, 0, &mut id)?;
    sc!(SYS_timer_settime, id, 0, &its(MS, 0), 0)?;
    let mut info = [0i32; 32];
    eq!(sc!(SYS_rt_sigtimedwait, &sig::set(&[SIGALRM]), &mut info, 0, 8)?, SIGALRM as i64);
    eq!((info[2], info[6]), (SI_TIMER, id));
    Ok(())
}

fn posix_timer_to_a_thread() -> R {
    let t = std::thread::spawn(|| -> R<(i32, i32)> {
        sig::record(SIGUSR1, 0)?;
        sig::block(&[SIGUSR1])?;
        let id = timer(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGUSR1, 0, gettid())?;
        sc!(SYS_timer_settime, id, 0, &its(3 * MS, 0), 0)?;
        let mask = 0u64;
        errno_is!(sc!(SYS_rt_sigsuspend, &mask, 8), EINTR);
        Ok((sig::seen()[0].tid, gettid()))
    });
    let Ok(r) = t.join() else { fail!("panic") };
    let (ran, wanted) = r?;
    eq!(ran, wanted);
    Ok(())
}

fn posix_timer_without_notification_only_counts() -> R {
    let id = timer(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0)?;
    let mut left = its(9, 9);
    sc!(SYS_timer_gettime, id, &mut left)?;
    eq!((nanos(left.it_value), nanos(left.it_interval)), (0, 0));
    sc!(SYS_timer_settime, id, 0, &its(100_000 * MS, 5 * MS), 0)?;
    sc!(SYS_timer_gettime, id, &mut left)?;
    that!(nanos(left.it_value) > 90_000 * MS && nanos(left.it_value) <= 100_000 * MS);
    eq!(nanos(left.it_interval), 5 * MS);
    let mut old = its(0, 0);
    sc!(SYS_timer_settime, id, 0, &its(0, 0), &mut old)?;
    that!(nanos(old.it_value) > 90_000 * MS);
    Ok(())
}

fn posix_timer_overruns() -> R {
    sig::block(&[SIGUSR1])?;
    let id = timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0, 0)?;
    sc!(SYS_timer_settime, id, 0, &its(2 * MS, 2 * MS), 0)?;
    sc!(SYS_nanosleep, &ts(30 * MS), 0)?;
    eq!(sc!(SYS_rt_sigtimedwait, &sig::set(&[SIGUSR1]), 0, 0, 8)?, SIGUSR1 as i64);
    that!(sc!(SYS_timer_getoverrun, id)? >= 10);
    Ok(())
}

fn posix_timer_absolute_and_errors() -> R {
    sig::block(&[SIGUSR1])?;
    let id = timer(CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR1, 0, 0)?;
    sc!(SYS_timer_settime, id, TIMER_ABSTIME, &its(now(CLOCK_REALTIME)? - 5 * MS, 0), 0)?;
    eq!(sc!(SYS_rt_sigtimedwait, &sig::set(&[SIGUSR1]), 0, 0, 8)?, SIGUSR1 as i64);
    errno_is!(timer(99, SIGEV_NONE, 0, 0, 0), EINVAL);
    errno_is!(timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, 99, 0, 0), EINVAL);
    errno_is!(timer(CLOCK_MONOTONIC, 77, SIGUSR1, 0, 0), EINVAL);
    errno_is!(sc!(SYS_timer_settime, 9999, 0, &its(0, 0), 0), EINVAL);
    let bad = itimerspec { it_interval: ts(0), it_value: timespec { tv_sec: 0, tv_nsec: -5 } };
    errno_is!(sc!(SYS_timer_settime, id, 0, &bad, 0), EINVAL);
    Ok(())
}

fn posix_timers_do_not_cross_fork_or_exec() -> R {
    let id = timer(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0)?;
    child(|| {
        errno_is!(sc!(SYS_timer_gettime, id, &mut its(0, 0)), EINVAL);
        Ok(())
    })?
    .ok()
}

fn timerfd(clock: i32, flags: i32) -> Result<i32, E> {
    sc!(SYS_timerfd_create, clock, flags).map(|fd| fd as i32)
}

fn expirations(fd: i32) -> Result<u64, E> {
    let mut buf = [0; 8];
    read(fd, &mut buf)?;
    Ok(u64::from_ne_bytes(buf))
}

fn timerfd_expires_and_counts() -> R {
    let fd = timerfd(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)?;
    errno_is!(expirations(fd), EAGAIN);
    sc!(SYS_timerfd_settime, fd, 0, &its(3 * MS, 3 * MS), 0)?;
    eq!(poll1(fd, POLLIN, -1)?, POLLIN);
    that!(expirations(fd)? >= 1);
    sc!(SYS_nanosleep, &ts(20 * MS), 0)?;
    that!(expirations(fd)? >= 4);
    sc!(SYS_timerfd_settime, fd, 0, &its(0, 0), 0)?;
    errno_is!(expirations(fd), EAGAIN);
    errno_is!(read(fd, &mut [0; 4]), EINVAL);
    Ok(())
}

fn timerfd_blocks_and_absolute_time() -> R {
    let fd = timerfd(CLOCK_REALTIME, 0)?;
    let until = now(CLOCK_REALTIME)? + 10 * MS;
    sc!(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &its(until, 0), 0)?;
    eq!(expirations(fd)?, 1);
    that!(now(CLOCK_REALTIME)? >= until);
    sc!(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &its(1, 0), 0)?;
    eq!(expirations(fd)?, 1);
    Ok(())
}

fn timerfd_gettime_and_old_value() -> R {
    let fd = timerfd(CLOCK_BOOTTIME, 0)?;
    sc!(SYS_timerfd_settime, fd, 0, &its(50_000 * MS, 7 * MS), 0)?;
    let mut left = its(0, 0);
    sc!(SYS_timerfd_gettime, fd, &mut left)?;
    that!(nanos(left.it_value) > 40_000 * MS);
    eq!(nanos(left.it_interval), 7 * MS);
    sc!(SYS_timerfd_settime, fd, 0, &its(0, 0), &mut left)?;
    eq!(nanos(left.it_interval), 7 * MS);
    Ok(())
}

fn timerfd_errors() -> R {
    errno_is!(timerfd(99, 0), EINVAL);
    errno_is!(timerfd(CLOCK_MONOTONIC, 1), EINVAL);
    let fd = timerfd(CLOCK_MONOTONIC, 0)?;
    errno_is!(sc!(SYS_timerfd_settime, fd, 0x10, &its(0, 0), 0), EINVAL);
    errno_is!(sc!(SYS_timerfd_settime, fd, 0, BAD, 0), EFAULT);
    errno_is!(sc!(SYS_timerfd_settime, 0, 0, &its(0, 0), 0), EINVAL);
    errno_is!(sc!(SYS_timerfd_gettime, 9999, &mut its(0, 0)), EBADF);
    errno_is!(write(fd, b"x"), EINVAL);
    Ok(())
}

fn times_counts_in_hundredths() -> R {
    let mut t = zeroed::<tms>();
    let a = sc!(SYS_times, &mut t)?;
    let start = now(CLOCK_PROCESS_CPUTIME_ID)?;
    while now(CLOCK_PROCESS_CPUTIME_ID)? - start < 50 * MS {}
    let b = sc!(SYS_times, &mut t)?;
    that!(b - a >= 4, "{}", b - a);
    that!(t.tms_utime + t.tms_stime >= 3);
    sc!(SYS_times, 0)?;
    errno_is!(sc!(SYS_times, BAD), EFAULT);
    Ok(())
}

fn many_sleepers_wake_in_order() -> R {
    let (r, w) = pipe(0)?;
    let start = now(CLOCK_MONOTONIC)? + 30 * MS;
    let children: Vec<_> = [3u8, 1, 2, 0]
        .into_iter()
        .map(|n| {
            child(move || {
                let until = start + 30 * MS * n as u64;
                sc!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &ts(until), 0)?;
                that!(now(CLOCK_MONOTONIC)? >= until);
                write(w, &[n])?;
                Ok(())
            })
        })
        .collect::<Result<_, _>>()?;
    for c in children {
        c.ok()?;
    }
    let mut all = read_some(r, 9)?;
    all.sort();
    eq!(all, [0, 1, 2, 3]);
    Ok(())
}

cases!("time":
    clocks_advance, clocks_are_the_same_whoever_is_asked, the_time_of_a_process_that_computes_goes_on, libc_and_system_call_agree, coarse_clocks_are_close, resolutions, clock_errors,
    cpu_clocks_count_work_only, nanosleep_sleeps_at_least_that_long, an_interrupted_sleep_tells_the_rest,
    absolute_sleeps, a_sleep_goes_on_after_a_stop, alarm_counts_down_and_fires_once,
    interval_timers_repeat_and_tell_the_old_value, virtual_and_profiling_timers_count_cpu_time,
    posix_timer_signals_with_its_value, posix_timer_without_an_event_sends_sigalrm_with_its_id,
    posix_timer_to_a_thread, posix_timer_without_notification_only_counts, posix_timer_overruns,
    posix_timer_absolute_and_errors, posix_timers_do_not_cross_fork_or_exec, timerfd_expires_and_counts,
    timerfd_blocks_and_absolute_time, timerfd_gettime_and_old_value, timerfd_errors,
    times_counts_in_hundredths, many_sleepers_wake_in_order,
);
