//! Threads and processes.

use crate::Context;
use crate::clock::each;
use crate::sys::{fork, reap};
use std::ffi::CString;
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

/// A thread of the C library's, with nothing around it.
pub fn thread_create_join(cx: &Context) -> Result<f64> {
    extern "C" fn nothing(_: *mut libc::c_void) -> *mut libc::c_void {
        std::ptr::null_mut()
    }
    let done = |error| if error == 0 { Ok(()) } else { Err(Error::from_raw_os_error(error)) };
    each(cx.time, || {
        let mut thread = 0;
        // SAFETY: the thread touches no memory, and it is joined once.
        unsafe {
            done(libc::pthread_create(&raw mut thread, std::ptr::null(), nothing, std::ptr::null_mut()))?;
            done(libc::pthread_join(thread, std::ptr::null_mut()))
        }
    })
}

/// One of the standard library's: with a signal stack and its guard page, which are three more mappings, and a look at the thread's CPUs.
pub fn std_thread(cx: &Context) -> Result<f64> {
    each(cx.time, || {
        let thread = std::thread::Builder::new().spawn(|| ())?;
        thread.join().map_err(|_| Error::other("a thread panicked"))
    })
}

pub fn fork_exit_wait(cx: &Context) -> Result<f64> {
    each(cx.time, fork_and_reap)
}

fn fork_and_reap() -> Result<()> {
    reap(fork(|| Ok(()))?)
}

/// This static program as a child that shares memory until it is another, as libc starts one (CLONE_VM and CLONE_VFORK).
pub fn vfork_exec(cx: &Context) -> Result<f64> {
    let path = CString::new(std::env::current_exe()?.as_os_str().as_bytes())?;
    let argv = [path.as_ptr().cast_mut(), c"exit".as_ptr().cast_mut(), std::ptr::null_mut()];
    let envp = [std::ptr::null_mut()];
    each(cx.time, || {
        let mut pid = 0;
        // SAFETY: C strings, and lists that end with a null.
        let error = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                path.as_ptr(),
                std::ptr::null(),
                std::ptr::null(),
                argv.as_ptr(),
                envp.as_ptr(),
            )
        };
        if error != 0 { Err(Error::from_raw_os_error(error)) } else { reap(pid) }
    })
}

/// The same by a process that has made copies of itself before: what those have left is there.
pub fn vfork_exec_after_forks(cx: &Context) -> Result<f64> {
    for _ in 0..500 {
        fork_and_reap()?;
    }
    vfork_exec(cx)
}

/// A dynamic program, as a shell would.
pub fn spawn_true(cx: &Context) -> Result<f64> {
    each(cx.time, || {
        let status = Command::new("/bin/true").status()?;
        if status.success() { Ok(()) } else { Err(Error::other(format!("/bin/true ended with {status}"))) }
    })
}
