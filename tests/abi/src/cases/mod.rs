//! The cases, a file per family or part of one.

mod epoll;
mod exec;
mod file_flags;
mod file_io;
mod inotify;
mod locks;
mod meta;
mod paths;
mod pipes;
mod poll;
mod process;
mod sock;
mod sock_pass;
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
        poll::CASES,
        epoll::CASES,
        sock::CASES,
        sock_pass::CASES,
        process::CASES,
        exec::CASES,
    ]
    .into_iter()
    .flatten()
}
