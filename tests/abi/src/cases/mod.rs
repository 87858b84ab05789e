//! The cases, a file per family or part of one.

pub mod busy;
mod clone;
mod copies;
mod creds;
mod epoll;
mod exec;
mod fault;
mod file_flags;
mod file_io;
mod futex;
mod heap;
mod inotify;
mod locks;
mod mem;
mod mem_file;
mod meta;
mod misc;
mod paths;
mod pipes;
mod poll;
mod positions;
mod process;
mod procfs;
mod sched;
mod session;
mod signal;
mod sigwait;
mod sock;
mod sock_pass;
mod taking;
mod time;
mod tty;
mod tty_job;
mod xfer;

use crate::kit::Case;

/// Every case, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        file_io::CASES,
        file_flags::CASES,
        paths::CASES,
        meta::CASES,
        locks::CASES,
        xfer::CASES,
        inotify::CASES,
        pipes::CASES,
        positions::CASES,
        poll::CASES,
        epoll::CASES,
        sock::CASES,
        sock_pass::CASES,
        busy::CASES,
        copies::CASES,
        process::CASES,
        exec::CASES,
        session::CASES,
        creds::CASES,
        sched::CASES,
        clone::CASES,
        futex::CASES,
        signal::CASES,
        sigwait::CASES,
        fault::CASES,
        heap::CASES,
        mem::CASES,
        mem_file::CASES,
        taking::CASES,
        time::CASES,
        tty::CASES,
        tty_job::CASES,
        misc::CASES,
        procfs::CASES,
    ]
    .into_iter()
    .flatten()
}
