//! Forks until the kernel refuses with EAGAIN, or up to the number given (20,000); then ends and reaps
//! every child. Prints `N processes, then EAGAIN` and exits 0; any other end is a failure.
//!
//! Run it under a process limit: `forkbomb LIMIT` sets RLIMIT_NPROC to LIMIT first. The superuser is above
//! that limit on Linux, so as root it becomes user 65534 first.

use std::process::ExitCode;

fn main() -> ExitCode {
    let limit = std::env::args().nth(1).and_then(|n| n.parse::<u64>().ok());
    if let Some(limit) = limit {
        let l = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: plain system calls with a live structure.
        unsafe {
            libc::setrlimit(libc::RLIMIT_NPROC, &l);
            if libc::geteuid() == 0 {
                libc::setresuid(65534, 65534, 65534);
            }
        }
    }
    let mut children = Vec::new();
    let refused = loop {
        // SAFETY: this process has one thread; the child only waits for its end.
        match unsafe { libc::fork() } {
            -1 => break std::io::Error::last_os_error(),
            0 => loop {
                // SAFETY: blocks until killed.
                unsafe { libc::pause() };
            },
            pid => children.push(pid),
        }
        if children.len() >= 20_000 {
            break std::io::Error::other("no limit found");
        }
    };
    for pid in &children {
        // SAFETY: our own children, not yet reaped.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
    let reaped = children.iter().filter(|pid| reap(**pid)).count();
    if refused.raw_os_error() != Some(libc::EAGAIN) || reaped != children.len() {
        eprintln!("forkbomb: {refused}; reaped {reaped} of {}", children.len());
        return ExitCode::FAILURE;
    }
    println!("{reaped} processes, then EAGAIN");
    ExitCode::SUCCESS
}

/// Reaps one child; whether SIGKILL ended it.
fn reap(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: a live integer.
    unsafe { libc::waitpid(pid, &mut status, 0) == pid && libc::WIFSIGNALED(status) }
}
