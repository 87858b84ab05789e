//! Waiting for signals: sigsuspend, pause, sigtimedwait, signalfd; alternate stacks; what is interrupted
//! and what is restarted.

use crate::kit::prelude::*;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

fn raise(s: i32) -> Result<i64, E> {
    sc!(SYS_tgkill, getpid(), gettid(), s)
}

fn queue(s: i32, value: i32) -> Result<i64, E> {
    let mut info = [0i32; 32];
    (info[0], info[2], info[4], info[6]) = (s, SI_QUEUE, getpid(), value);
    sc!(SYS_rt_sigqueueinfo, getpid(), s, &info)
}

/// rt_sigtimedwait: the signal and its siginfo's words.
fn take(sigs: &[i32], timeout: Option<u64>) -> Result<(i32, [i32; 32]), E> {
    let mut info = [0i32; 32];
    let set = sig::set(sigs);
    let t = ts(timeout.unwrap_or(0));
    let t = if timeout.is_some() { &raw const t } else { std::ptr::null() };
    let s = sc!(SYS_rt_sigtimedwait, &set, &mut info, t, 8)?;
    Ok((s as i32, info))
}

fn signalfd(fd: i32, sigs: &[i32], flags: i32) -> Result<i32, E> {
    sc!(SYS_signalfd4, fd, &sig::set(sigs), 8, flags).map(|fd| fd as i32)
}

fn sigsuspend_swaps_the_mask_and_back() -> R {
    sig::record(SIGUSR1, 0)?;
    sig::record(SIGUSR2, 0)?;
    sig::block(&[SIGUSR1, SIGUSR2])?;
    raise(SIGUSR1)?;
    raise(SIGUSR2)?;
    let mask = sig::set(&[SIGUSR2]);
    errno_is!(sc!(SYS_rt_sigsuspend, &mask, 8), EINTR);
    eq!(sig::numbers(), [SIGUSR1]);
    eq!(sig::current()?, sig::set(&[SIGUSR1, SIGUSR2]));
    errno_is!(sc!(SYS_rt_sigsuspend, &mask, 4), EINVAL);
    Ok(())
}

fn pause_waits_for_a_handler() -> R {
    let c = child(|| {
        sig::record(SIGUSR1, SA_RESTART)?;
        errno_is!(sc!(SYS_pause), EINTR);
        eq!(sig::numbers(), [SIGUSR1]);
        Ok(())
    })?;
    c.asleep()?;
    // An ignored signal does not end it.
    c.kill(SIGWINCH)?;
    c.asleep()?;
    c.kill(SIGUSR1)?;
    c.ok()
}

fn sigtimedwait_takes_without_a_handler() -> R {
    sig::block(&[SIGUSR1, 40])?;
    queue(40, 9)?;
    let (s, info) = take(&[SIGUSR1, 40], None)?;
    eq!((s, info[0], info[2], info[4], info[6]), (40, 40, SI_QUEUE, getpid(), 9));
    eq!(sig::pending()?, 0);
    Ok(())
}

fn sigtimedwait_timeouts() -> R {
    sig::block(&[SIGUSR1])?;
    errno_is!(take(&[SIGUSR1], Some(0)), EAGAIN);
    let start = now(CLOCK_MONOTONIC)?;
    errno_is!(take(&[SIGUSR1], Some(20 * MS)), EAGAIN);
    that!(now(CLOCK_MONOTONIC)? - start >= 20 * MS);
    errno_is!(sc!(SYS_rt_sigtimedwait, &0u64, 0, &timespec { tv_sec: 0, tv_nsec: -1 }, 8), EINVAL);
    errno_is!(sc!(SYS_rt_sigtimedwait, &0u64, 0, &ts(0), 4), EINVAL);
    errno_is!(sc!(SYS_rt_sigtimedwait, BAD, 0, &ts(0), 8), EFAULT);
    Ok(())
}

fn sigtimedwait_wakes_for_a_later_signal() -> R {
    sig::block(&[SIGUSR1])?;
    let c = child(|| {
        eq!(take(&[SIGUSR1], None)?.0, SIGUSR1);
        Ok(())
    })?;
    c.asleep()?;
    c.kill(SIGUSR1)?;
    c.ok()
}

fn sigtimedwait_is_interrupted_by_others() -> R {
    sig::block(&[SIGUSR1])?;
    sig::tick(SA_RESTART)?;
    errno_is!(take(&[SIGUSR1], None), EINTR);
    Ok(())
}

fn signalfd_reads_records() -> R {
    sig::block(&[SIGUSR1, 40])?;
    let fd = signalfd(-1, &[SIGUSR1, 40], SFD_NONBLOCK | SFD_CLOEXEC)?;
    errno_is!(read(fd, &mut [0; 128]), EAGAIN);
    eq!(poll1(fd, POLLIN, 0)?, 0);
    kill(getpid(), SIGUSR1)?;
    queue(40, 7)?;
    eq!(poll1(fd, POLLIN, 0)?, POLLIN);
    let all = read_some(fd, 1000)?;
    eq!(all.len(), 256);
    let word = |i: usize| i32::from_ne_bytes([all[i], all[i + 1], all[i + 2], all[i + 3]]);
    eq!((word(0), word(8), word(12)), (SIGUSR1, SI_USER, getpid()));
    eq!((word(128), word(128 + 8), word(128 + 44)), (40, SI_QUEUE, 7));
    eq!(sig::pending()?, 0);
    Ok(())
}

fn signalfd_changes_its_set_and_checks() -> R {
    sig::block(&[SIGUSR1, SIGUSR2])?;
    let fd = signalfd(-1, &[SIGUSR1], SFD_NONBLOCK)?;
    kill(getpid(), SIGUSR2)?;
    errno_is!(read(fd, &mut [0; 128]), EAGAIN);
    eq!(signalfd(fd, &[SIGUSR2], 0)?, fd);
    eq!(read_some(fd, 128)?.len(), 128);
    errno_is!(read(fd, &mut [0; 127]), EINVAL);
    errno_is!(signalfd(0, &[SIGUSR1], 0), EINVAL);
    errno_is!(signalfd(9999, &[SIGUSR1], 0), EBADF);
    errno_is!(signalfd(-1, &[SIGUSR1], 0x10), EINVAL);
    errno_is!(sc!(SYS_signalfd4, -1, &0u64, 4, 0), EINVAL);
    Ok(())
}

fn signalfd_blocks_until_a_signal() -> R {
    sig::block(&[SIGUSR1])?;
    let c = child(|| {
        let fd = signalfd(-1, &[SIGUSR1], 0)?;
        eq!(read_some(fd, 128)?.len(), 128);
        Ok(())
    })?;
    c.asleep()?;
    c.kill(SIGUSR1)?;
    c.ok()
}

fn signalfd_for_children() -> R {
    sig::block(&[SIGCHLD])?;
    let fd = signalfd(-1, &[SIGCHLD], 0)?;
    let c = fork(|| 6)?;
    let rec = read_some(fd, 128)?;
    let word = |i: usize| i32::from_ne_bytes([rec[i], rec[i + 1], rec[i + 2], rec[i + 3]]);
    eq!((word(0), word(8), word(12), word(40)), (SIGCHLD, CLD_EXITED, c.pid, 6));
    eq!(c.wait()?, Status::Exited(6));
    Ok(())
}

static SP: AtomicUsize = AtomicUsize::new(0);
static FLAGS: AtomicI32 = AtomicI32::new(-1);

extern "C" fn where_am_i(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    let here = 0u8;
    SP.store(&raw const here as usize, SeqCst);
    let mut now = zeroed::<stack_t>();
    let _ = sc!(SYS_sigaltstack, 0, &mut now);
    FLAGS.store(now.ss_flags, SeqCst);
}

fn alternate_stack_is_used_and_reported() -> R {
    let p = rw(65536)?;
    let mut old = zeroed::<stack_t>();
    let new = stack_t { ss_sp: p.cast(), ss_flags: 0, ss_size: 65536 };
    sc!(SYS_sigaltstack, &new, &mut old)?;
    sig::handle(SIGUSR1, where_am_i, SA_ONSTACK, &[])?;
    raise(SIGUSR1)?;
    let sp = SP.load(SeqCst);
    that!(sp >= p as usize && sp < p as usize + 65536, "{sp:#x} not in {p:?}");
    eq!(FLAGS.load(SeqCst), SS_ONSTACK);
    sc!(SYS_sigaltstack, 0, &mut old)?;
    eq!((old.ss_flags, old.ss_size, old.ss_sp as usize), (0, 65536, p as usize));
    // Without the flag the usual stack serves.
    sig::handle(SIGUSR1, where_am_i, 0, &[])?;
    raise(SIGUSR1)?;
    let sp = SP.load(SeqCst);
    that!(sp < p as usize || sp >= p as usize + 65536);
    eq!(FLAGS.load(SeqCst), 0);
    Ok(())
}

fn alternate_stack_errors() -> R {
    let p = rw(65536)?;
    let try_it = |flags: i32, size: usize| {
        sc!(SYS_sigaltstack, &stack_t { ss_sp: p.cast(), ss_flags: flags, ss_size: size }, 0)
    };
    errno_is!(try_it(0, 100), ENOMEM);
    errno_is!(try_it(7, 65536), EINVAL);
    errno_is!(sc!(SYS_sigaltstack, BAD, 0), EFAULT);
    try_it(SS_DISABLE, 0)?;
    let mut old = zeroed::<stack_t>();
    sc!(SYS_sigaltstack, 0, &mut old)?;
    eq!(old.ss_flags, SS_DISABLE);
    Ok(())
}

extern "C" fn change_while_on_it(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    let off = stack_t { ss_sp: std::ptr::null_mut(), ss_flags: SS_DISABLE, ss_size: 0 };
    FLAGS.store(sc!(SYS_sigaltstack, &off, 0).err().map_or(0, |e| e.0), SeqCst);
}

fn the_stack_in_use_cannot_be_changed() -> R {
    let p = rw(65536)?;
    sc!(SYS_sigaltstack, &stack_t { ss_sp: p.cast(), ss_flags: 0, ss_size: 65536 }, 0)?;
    sig::handle(SIGUSR1, change_while_on_it, SA_ONSTACK, &[])?;
    raise(SIGUSR1)?;
    eq!(FLAGS.load(SeqCst), EPERM);
    // With SS_AUTODISARM it may: the kernel forgot it on entry.
    sc!(SYS_sigaltstack, &stack_t { ss_sp: p.cast(), ss_flags: 1 << 31, ss_size: 65536 }, 0)?;
    raise(SIGUSR1)?;
    eq!(FLAGS.load(SeqCst), 0);
    Ok(())
}

/// The call, which has to block, ends with EINTR under a handler without SA_RESTART.
fn interrupted(call: impl Fn() -> Result<i64, E>) -> R {
    sig::tick(0)?;
    errno_is!(call(), EINTR);
    sig::interval(0).map_err(Into::into)
}

/// The call goes on after handlers with SA_RESTART, until `release` lets it end.
fn restarted(call: impl FnOnce() -> Result<i64, E>, release: impl FnOnce() -> R) -> R {
    let p = shared(4096)?;
    let me = getpid();
    let helper = child(|| {
        // Three signals, each while the other sleeps in its call.
        for _ in 0..3 {
            asleep(me, me)?;
            kill(me, SIGUSR1)?;
        }
        asleep(me, me)?;
        cell(p).store(1, SeqCst);
        release()
    })?;
    sig::record(SIGUSR1, SA_RESTART)?;
    call()?;
    eq!(cell(p).load(SeqCst), 1);
    that!(sig::count() >= 1);
    helper.ok()
}

fn eintr_of_read_and_write() -> R {
    let (r, w) = pipe(0)?;
    interrupted(|| read(r, &mut [0]).map(|n| n as i64))?;
    write(w, &[0; 65536])?;
    interrupted(|| write(w, b"x").map(|n| n as i64))
}

fn eintr_of_wait() -> R {
    let c = child(|| {
        loop {
            let _ = sc!(SYS_pause);
        }
    })?;
    interrupted(|| sc!(SYS_wait4, c.pid, 0, 0, 0))?;
    interrupted(|| sc!(SYS_waitid, P_PID, c.pid, 0, WEXITED, 0))?;
    c.kill(SIGKILL)?;
    c.wait()?;
    Ok(())
}

fn eintr_of_sleeps_and_polls_even_with_restart() -> R {
    sig::tick(SA_RESTART)?;
    let (r, _w) = pipe(0)?;
    errno_is!(poll1(r, POLLIN, -1), EINTR);
    errno_is!(sc!(SYS_select, 0, 0, 0, 0, 0), EINTR);
    errno_is!(sc!(SYS_nanosleep, &ts(10_000 * MS), 0), EINTR);
    let ep = sc!(SYS_epoll_create1, 0)?;
    errno_is!(sc!(SYS_epoll_wait, ep, &mut [0u64; 2], 1, -1), EINTR);
    errno_is!(sc!(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &ts(10_000 * MS), 0), EINTR);
    Ok(())
}

fn eintr_of_futex_flock_and_locks() -> R {
    let word = 0u32;
    interrupted(|| sc!(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0))?;
    let (a, b) = (open(c"f", O_CREAT | O_RDWR, 0o644)?, open(c"f", O_RDWR, 0)?);
    sc!(SYS_flock, a, LOCK_EX)?;
    interrupted(|| sc!(SYS_flock, b, LOCK_EX))?;
    let whole = flock { l_type: F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(a, F_OFD_SETLK, &whole)?;
    interrupted(|| fcntl(b, F_OFD_SETLKW, &whole).map(i64::from))
}

fn eintr_of_sockets_and_fifos() -> R {
    let mut sv = [0i32; 2];
    sc!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, &mut sv)?;
    interrupted(|| sc!(SYS_recvfrom, sv[0], &mut [0u8; 1], 1, 0, 0, 0))?;
    let l = sc!(SYS_socket, AF_UNIX, SOCK_STREAM, 0)?;
    sc!(SYS_bind, l, &(AF_UNIX as u16), 2)?;
    sc!(SYS_listen, l, 5)?;
    interrupted(|| sc!(SYS_accept, l, 0, 0))?;
    mkfifo(c"p")?;
    interrupted(|| open(c"p", O_RDONLY, 0).map(i64::from))?;
    let fd = sc!(SYS_eventfd2, 0, 0)? as i32;
    interrupted(|| read(fd, &mut [0; 8]).map(|n| n as i64))
}

fn restart_of_read() -> R {
    let (r, w) = pipe(0)?;
    restarted(|| read(r, &mut [0]).map(|n| n as i64), || Ok(write(w, b"x").map(drop)?))
}

fn restart_of_wait() -> R {
    let gate = Gate::new()?;
    let c = child(|| gate.pass())?;
    restarted(|| sc!(SYS_wait4, c.pid, 0, 0, 0), || Ok(gate.open()?))
}

fn restart_of_futex() -> R {
    let p = shared(4096)?;
    restarted(
        || sc!(SYS_futex, p, FUTEX_WAIT, 0, 0, 0, 0),
        || Ok(sc!(SYS_futex, p, FUTEX_WAKE, 1, 0, 0, 0).map(drop)?),
    )
}

fn partial_transfers_beat_eintr() -> R {
    let (r, w) = pipe(0)?;
    sig::tick(0)?;
    // Fills the pipe, then is interrupted: what went in is told.
    eq!(write(w, &[1; 100_000])?, 65536);
    sig::interval(0)?;
    eq!(read_some(r, 10)?.len(), 10);
    Ok(())
}

fn a_stop_and_continue_does_not_end_a_read() -> R {
    let (r, w) = pipe(0)?;
    let c = child(|| {
        eq!(read_some(r, 9)?, b"x");
        Ok(())
    })?;
    c.asleep()?;
    c.kill(SIGSTOP)?;
    wait4(c.pid, WUNTRACED)?;
    c.kill(SIGCONT)?;
    write(w, b"x")?;
    c.ok()
}

fn signal_driven_io() -> R {
    let rt = 40;
    sig::block(&[SIGIO, rt])?;
    let (r, w) = pipe(0)?;
    sc!(SYS_fcntl, r, F_SETOWN, getpid())?;
    sc!(SYS_fcntl, r, F_SETFL, O_ASYNC | O_NONBLOCK)?;
    write(w, b"x")?;
    eq!(take(&[SIGIO], Some(1000 * MS))?.0, SIGIO);
    // F_SETSIG.
    sc!(SYS_fcntl, r, 10, rt)?;
    write(w, b"x")?;
    let (s, info) = take(&[rt], Some(1000 * MS))?;
    // si_code is POLL_IN, si_band POLLIN | POLLRDNORM, si_fd the descriptor.
    eq!((s, info[2], info[4], info[6]), (rt, 1, 0x41, r));
    sc!(SYS_fcntl, r, F_SETFL, O_NONBLOCK)?;
    write(w, b"x")?;
    errno_is!(take(&[SIGIO, rt], Some(0)), EAGAIN);
    let mut sv = [0i32; 2];
    sc!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, &mut sv)?;
    sc!(SYS_fcntl, sv[0], F_SETOWN, getpid())?;
    sc!(SYS_ioctl, sv[0], FIOASYNC, &1i32)?;
    write(sv[1], b"x")?;
    eq!(take(&[SIGIO], Some(1000 * MS))?.0, SIGIO);
    errno_is!(take(&[SIGIO], Some(0)), EAGAIN);
    Ok(())
}

cases!("sigwait":
    signal_driven_io,
    sigsuspend_swaps_the_mask_and_back, pause_waits_for_a_handler, sigtimedwait_takes_without_a_handler,
    sigtimedwait_timeouts, sigtimedwait_wakes_for_a_later_signal, sigtimedwait_is_interrupted_by_others,
    signalfd_reads_records, signalfd_changes_its_set_and_checks, signalfd_blocks_until_a_signal,
    signalfd_for_children, alternate_stack_is_used_and_reported, alternate_stack_errors,
    the_stack_in_use_cannot_be_changed, eintr_of_read_and_write, eintr_of_wait,
    eintr_of_sleeps_and_polls_even_with_restart, eintr_of_futex_flock_and_locks, eintr_of_sockets_and_fifos,
    restart_of_read, restart_of_wait, restart_of_futex, partial_transfers_beat_eintr,
    a_stop_and_continue_does_not_end_a_read,
);
