//! Single system calls, and short sequences of them.

use crate::Context;
use crate::clock::each;
use crate::sys::{check, exactly};
use std::fs::File;
use std::hint::black_box;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// No system call at all: where this differs between launchers, the machine was disturbed.
pub fn control(cx: &Context) -> Result<f64> {
    let mut x = 1u64;
    each(cx.time, || {
        for _ in 0..1000 {
            x = black_box(x.wrapping_mul(0x2545_F491_4F6C_DD1D).wrapping_add(7));
        }
        Ok(())
    })
}

/// A system call without arguments, past libc.
fn plain(cx: &Context, number: libc::c_long) -> Result<f64> {
    // SAFETY: the calls that come here take no arguments.
    each(cx.time, || check(unsafe { libc::syscall(number) }).map(drop))
}

pub fn getppid(cx: &Context) -> Result<f64> {
    plain(cx, libc::SYS_getppid)
}

pub fn getpid(cx: &Context) -> Result<f64> {
    plain(cx, libc::SYS_getpid)
}

pub fn gettid(cx: &Context) -> Result<f64> {
    plain(cx, libc::SYS_gettid)
}

pub fn getuid(cx: &Context) -> Result<f64> {
    plain(cx, libc::SYS_getuid)
}

pub fn sched_yield(cx: &Context) -> Result<f64> {
    plain(cx, libc::SYS_sched_yield)
}

pub fn clock_gettime_raw(cx: &Context) -> Result<f64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    each(cx.time, || {
        // SAFETY: the time goes to a live structure of the right type.
        check(unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) })
            .map(drop)
    })
}

pub fn clock_gettime(cx: &Context) -> Result<f64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time goes to a live structure of the right type.
    each(cx.time, || check(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) }).map(drop))
}

pub fn sigprocmask(cx: &Context) -> Result<f64> {
    let block = 1u64 << (libc::SIGUSR2 - 1);
    let mut old = 0u64;
    let set = |how: libc::c_int, old: &mut u64| {
        // SAFETY: both masks are live and have the size that is passed, which is the kernel's.
        check(unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const block, std::ptr::from_mut(old), 8)
        })
    };
    let two = each(cx.time, || {
        set(libc::SIG_BLOCK, &mut old)?;
        set(libc::SIG_UNBLOCK, &mut old).map(drop)
    })?;
    Ok(two / 2.0)
}

pub fn read_zero(cx: &Context) -> Result<f64> {
    let (file, mut byte) = (File::open("/dev/zero")?, 0u8);
    // SAFETY: one byte into one byte.
    each(cx.time, || exactly(unsafe { libc::read(file.as_raw_fd(), (&raw mut byte).cast(), 1) }, 1))
}

pub fn write_null(cx: &Context) -> Result<f64> {
    let (file, byte) = (File::options().write(true).open("/dev/null")?, 0u8);
    // SAFETY: one byte from one byte.
    each(cx.time, || exactly(unsafe { libc::write(file.as_raw_fd(), (&raw const byte).cast(), 1) }, 1))
}

/// Write to an eventfd, wait for it in an epoll, read it.
pub fn epoll_eventfd(cx: &Context) -> Result<f64> {
    // SAFETY: two new descriptors, owned from here on.
    let (event, epoll) = unsafe {
        let event = OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_NONBLOCK))?);
        (event, OwnedFd::from_raw_fd(check(libc::epoll_create1(0))?))
    };
    let (event_fd, epoll_fd) = (event.as_raw_fd(), epoll.as_raw_fd());
    let mut got = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: a live structure.
    check(unsafe { libc::epoll_ctl(epoll_fd, libc::EPOLL_CTL_ADD, event_fd, &raw mut got) })?;
    let mut value = 1u64;
    each(cx.time, || {
        // SAFETY: eight bytes each way, and room for one event.
        unsafe {
            exactly(libc::write(event_fd, (&raw const value).cast(), 8), 8)?;
            exactly(libc::epoll_wait(epoll_fd, &raw mut got, 1, -1) as isize, 1)?;
            exactly(libc::read(event_fd, (&raw mut value).cast(), 8), 8)
        }
    })
}

static CAUGHT: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_signal: libc::c_int) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// kill, the handler, the return from it.
pub fn signal_self(cx: &Context) -> Result<f64> {
    let handler = count as extern "C" fn(libc::c_int);
    // SAFETY: the handler only adds to an atomic.
    if unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) } == libc::SIG_ERR {
        return Err(Error::last_os_error());
    }
    let (own, mut sent) = (std::process::id().cast_signed(), 0);
    let ns = each(cx.time, || {
        sent += 1;
        // SAFETY: a signal to ourselves, for which there is a handler.
        check(unsafe { libc::kill(own, libc::SIGUSR1) }).map(drop)
    })?;
    match CAUGHT.load(Ordering::Relaxed) {
        caught if caught == sent => Ok(ns),
        caught => Err(Error::other(format!("{caught} of {sent} signals were caught"))),
    }
}
