//! poll, ppoll, select, pselect and eventfd.

use crate::kit::prelude::*;
use std::thread;

fn pfd(fd: i32, events: i16) -> pollfd {
    pollfd { fd, events, revents: -1 }
}

fn eventfd(init: u32, flags: i32) -> Result<i32, E> {
    sc!(SYS_eventfd2, init, flags).map(|fd| fd as i32)
}

fn add(fd: i32, n: u64) -> Result<usize, E> {
    write(fd, &n.to_ne_bytes())
}

fn take(fd: i32) -> Result<u64, E> {
    let mut buf = [0; 8];
    read(fd, &mut buf)?;
    Ok(u64::from_ne_bytes(buf))
}

fn poll_counts_ready_descriptors() -> R {
    let (r, w) = pipe(0)?;
    let mut set = [pfd(r, POLLIN), pfd(w, POLLOUT), pfd(-1, POLLIN), pfd(9999, POLLIN)];
    eq!(sc!(SYS_poll, &mut set, 4, -1)?, 2);
    eq!(set.map(|p| p.revents), [0, POLLOUT, 0, POLLNVAL]);
    Ok(())
}

fn poll_of_regular_files_is_always_ready() -> R {
    put(c"f", b"")?;
    let fd = open(c"f", O_RDWR, 0)?;
    eq!(poll1(fd, POLLIN | POLLOUT, -1)?, POLLIN | POLLOUT);
    let d = open(c".", O_RDONLY, 0)?;
    eq!(poll1(d, POLLIN, 0)?, POLLIN);
    Ok(())
}

fn poll_timeout_passes() -> R {
    let (r, _w) = pipe(0)?;
    let start = now(CLOCK_MONOTONIC)?;
    eq!(poll1(r, POLLIN, 30)?, 0);
    that!(now(CLOCK_MONOTONIC)? - start >= 30 * MS);
    let start = now(CLOCK_MONOTONIC)?;
    eq!(sc!(SYS_poll, 0, 0, 20)?, 0);
    that!(now(CLOCK_MONOTONIC)? - start >= 20 * MS);
    Ok(())
}

fn poll_wakes_when_data_comes() -> R {
    let (r, w) = pipe(0)?;
    let waiter = child(|| {
        eq!(poll1(r, POLLIN, -1)?, POLLIN);
        Ok(())
    })?;
    waiter.asleep()?;
    write(w, b"x")?;
    waiter.ok()
}

fn poll_errors() -> R {
    errno_is!(sc!(SYS_poll, BAD, 1, 0), EFAULT);
    sc!(SYS_prlimit64, 0, RLIMIT_NOFILE, &rlimit { rlim_cur: 20, rlim_max: 1000 }, 0)?;
    errno_is!(sc!(SYS_poll, &mut [pfd(-1, 0); 21], 21, 0), EINVAL);
    errno_is!(sc!(SYS_ppoll, 0, 0, &timespec { tv_sec: 0, tv_nsec: -1 }, 0, 8), EINVAL);
    Ok(())
}

fn ppoll_mask_lets_a_pending_signal_in() -> R {
    sig::record(SIGUSR1, 0)?;
    sig::block(&[SIGUSR1])?;
    kill(getpid(), SIGUSR1)?;
    eq!(sig::count(), 0);
    let empty: sig::Set = 0;
    errno_is!(sc!(SYS_ppoll, 0, 0, 0, &empty, 8), EINTR);
    eq!(sig::numbers(), [SIGUSR1]);
    eq!(sig::current()?, sig::set(&[SIGUSR1]));
    errno_is!(sc!(SYS_ppoll, 0, 0, &ts(0), &empty, 4), EINVAL);
    Ok(())
}

fn ppoll_updates_the_time_left() -> R {
    let (r, w) = pipe(0)?;
    write(w, b"x")?;
    let mut left = ts(10_000 * MS);
    eq!(sc!(SYS_ppoll, &mut pfd(r, POLLIN), 1, &mut left, 0, 8)?, 1);
    that!(left.tv_sec <= 10 && left.tv_sec >= 5, "{} s left", left.tv_sec);
    Ok(())
}

fn select_reports_all_three_sets() -> R {
    let (r, w) = pipe(0)?;
    let bit = |fd: i32| 1u64 << fd;
    let (mut rd, mut wr, mut ex) = ([bit(r) | bit(w), 0], [bit(w), 0], [bit(r), 0]);
    eq!(sc!(SYS_select, w + 1, &mut rd, &mut wr, &mut ex, &mut timeval { tv_sec: 5, tv_usec: 0 })?, 1);
    eq!((rd[0], wr[0], ex[0]), (0, bit(w), 0));
    write(w, b"x")?;
    rd = [bit(r), 0];
    eq!(sc!(SYS_select, r + 1, &mut rd, 0, 0, 0)?, 1);
    eq!(rd[0], bit(r));
    Ok(())
}

fn select_errors_and_timeout() -> R {
    let (r, _w) = pipe(0)?;
    let mut rd = [1u64 << 50, 0];
    errno_is!(sc!(SYS_select, 64, &mut rd, 0, 0, 0), EBADF);
    errno_is!(sc!(SYS_select, -1, &mut rd, 0, 0, 0), EINVAL);
    rd = [1 << r, 0];
    let start = now(CLOCK_MONOTONIC)?;
    eq!(sc!(SYS_select, r + 1, &mut rd, 0, 0, &mut timeval { tv_sec: 0, tv_usec: 20_000 })?, 0);
    that!(now(CLOCK_MONOTONIC)? - start >= 20 * MS);
    eq!(rd[0], 0);
    errno_is!(sc!(SYS_select, 0, 0, 0, 0, &mut timeval { tv_sec: -1, tv_usec: 0 }), EINVAL);
    Ok(())
}

fn select_sees_eof_as_readable() -> R {
    let (r, w) = pipe(0)?;
    close(w)?;
    let mut rd = [1u64 << r, 0];
    eq!(sc!(SYS_select, r + 1, &mut rd, 0, 0, 0)?, 1);
    Ok(())
}

fn pselect_mask_lets_a_pending_signal_in() -> R {
    sig::record(SIGUSR1, 0)?;
    sig::block(&[SIGUSR1])?;
    kill(getpid(), SIGUSR1)?;
    let empty: sig::Set = 0;
    let arg = [&raw const empty as usize, 8];
    errno_is!(sc!(SYS_pselect6, 0, 0, 0, 0, 0, &arg), EINTR);
    eq!(sig::numbers(), [SIGUSR1]);
    eq!(sig::current()?, sig::set(&[SIGUSR1]));
    Ok(())
}

fn eventfd_counts_and_resets() -> R {
    let fd = eventfd(3, EFD_NONBLOCK)?;
    add(fd, 4)?;
    eq!(take(fd)?, 7);
    errno_is!(take(fd), EAGAIN);
    Ok(())
}

fn eventfd_semaphore_takes_one() -> R {
    let fd = eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE)?;
    eq!(take(fd)?, 1);
    eq!(take(fd)?, 1);
    errno_is!(take(fd), EAGAIN);
    Ok(())
}

fn eventfd_overflow_and_sizes() -> R {
    let fd = eventfd(0, EFD_NONBLOCK)?;
    errno_is!(add(fd, u64::MAX), EINVAL);
    add(fd, u64::MAX - 1)?;
    errno_is!(add(fd, 1), EAGAIN);
    eq!(poll1(fd, POLLIN | POLLOUT, 0)?, POLLIN);
    errno_is!(write(fd, &[0; 4]), EINVAL);
    errno_is!(read(fd, &mut [0; 4]), EINVAL);
    eq!(take(fd)?, u64::MAX - 1);
    errno_is!(eventfd(0, 0x10), EINVAL);
    Ok(())
}

fn eventfd_blocks_and_wakes() -> R {
    let fd = eventfd(0, 0)?;
    let waiter = child(|| {
        eq!(take(fd)?, 5);
        Ok(())
    })?;
    waiter.asleep()?;
    eq!(poll1(fd, POLLIN | POLLOUT, 0)?, POLLOUT);
    add(fd, 5)?;
    waiter.ok()
}

fn eventfd_blocked_writer_wakes() -> R {
    let fd = eventfd(0, 0)?;
    add(fd, u64::MAX - 1)?;
    let writer = child(|| {
        add(fd, 9)?;
        Ok(())
    })?;
    writer.asleep()?;
    eq!(take(fd)?, u64::MAX - 1);
    writer.ok()?;
    eq!(take(fd)?, 9);
    Ok(())
}

fn poll_on_many_descriptors() -> R {
    let mut set = Vec::new();
    let mut writers = Vec::new();
    for _ in 0..90 {
        let (r, w) = pipe(0)?;
        set.push(pfd(r, POLLIN));
        writers.push(w);
    }
    write(writers[77], b"x")?;
    eq!(sc!(SYS_poll, &mut set[..], 90, -1)?, 1);
    that!(set.iter().enumerate().all(|(i, p)| (p.revents != 0) == (i == 77)));
    Ok(())
}

fn every_waiter_of_a_poll_wakes() -> R {
    let (r, w) = pipe(0)?;
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            child(|| {
                eq!(poll1(r, POLLIN, -1)?, POLLIN);
                Ok(())
            })
        })
        .collect::<Result<_, _>>()?;
    for c in &waiters {
        c.asleep()?;
    }
    write(w, b"x")?;
    for c in waiters {
        c.ok()?;
    }
    Ok(())
}

fn closing_a_polled_descriptor_in_a_thread_is_harmless() -> R {
    let (r, w) = pipe(0)?;
    let fd = sc!(SYS_dup, r)? as i32;
    let t = thread::spawn(move || poll1(fd, POLLIN, -1));
    close(fd)?;
    write(w, b"x")?;
    // Either it saw the data, or it looked only after the descriptor was gone.
    let got = t.join().map_err(|_| E(0))??;
    that!(got == POLLIN || got == POLLNVAL, "{got:#x}");
    Ok(())
}

cases!("poll":
    poll_counts_ready_descriptors, poll_of_regular_files_is_always_ready, poll_timeout_passes,
    poll_wakes_when_data_comes, poll_errors, ppoll_mask_lets_a_pending_signal_in,
    ppoll_updates_the_time_left, select_reports_all_three_sets, select_errors_and_timeout,
    select_sees_eof_as_readable, pselect_mask_lets_a_pending_signal_in, eventfd_counts_and_resets,
    eventfd_semaphore_takes_one, eventfd_overflow_and_sizes, eventfd_blocks_and_wakes,
    eventfd_blocked_writer_wakes, poll_on_many_descriptors, every_waiter_of_a_poll_wakes,
    closing_a_polled_descriptor_in_a_thread_is_harmless,
);
