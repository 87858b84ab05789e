//! System calls with errors as values.

use std::io::{Error, Result};

/// What a call answered, or errno as an error.
pub fn check<T: Copy + PartialOrd + From<i8>>(answer: T) -> Result<T> {
    if answer < T::from(0) { Err(Error::last_os_error()) } else { Ok(answer) }
}

/// An error unless a count is the one that was wanted.
pub fn exactly(answer: isize, wanted: usize) -> Result<()> {
    let got = check(answer)?;
    if got.cast_unsigned() == wanted {
        Ok(())
    } else {
        Err(Error::other(format!("{got} instead of {wanted}")))
    }
}

/// A child that runs the function and exits; the function's error is exit status 1.
pub fn fork(child: impl FnOnce() -> Result<()>) -> Result<libc::pid_t> {
    // SAFETY: the process has one thread here (no row that forks has made another before), so the child may use everything.
    match check(unsafe { libc::fork() })? {
        0 => {
            let status = if child().is_ok() { 0 } else { 1 };
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid),
    }
}

/// Waits for a child and wants status 0.
pub fn reap(pid: libc::pid_t) -> Result<()> {
    let mut status = 0;
    // SAFETY: the status is a live integer.
    check(unsafe { libc::waitpid(pid, &raw mut status, 0) })?;
    if status == 0 {
        Ok(())
    } else {
        Err(Error::other(format!("a child ended with wait status {status:#x}")))
    }
}

/// Binds the calling thread to the first CPU that it may use.
pub fn pin() -> Result<()> {
    // SAFETY: CPU sets are plain bits, and both calls get their size.
    unsafe {
        let mut may: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        check(libc::sched_getaffinity(0, size, &raw mut may))?;
        let first = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, &may));
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(first.unwrap_or(0), &mut one);
        check(libc::sched_setaffinity(0, size, &raw const one)).map(drop)
    }
}
