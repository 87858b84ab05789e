//! The programs that `cargo xtask bench` measures, natively and inside. [`rows::ROWS`] names them.
//!
//! One row is one run of the binary, so that nothing that a row leaves behind reaches the next. What it measured is the line
//! `vk-bench: value NUMBER`, in the row's unit; a failure is `vk-bench: fail REASON`. Other lines are whatever the
//! environment has to say (a booting kernel, for instance) and mean nothing.

mod apps;
mod calls;
mod clock;
pub mod crowd;
mod files;
pub mod init;
mod ipc;
mod memory;
mod process;
pub mod rows;
pub mod storm;
mod sys;
mod workdir;

use std::path::PathBuf;
use std::time::Duration;

/// What starts a line that is meant for the program outside.
pub const MARK: &str = "vk-bench: ";
/// Where programs are looked for, inside and outside; a fixed one, so that every launcher finds the same.
pub const PATH: &str = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin";

/// What a row is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// How long the measured part should take. Rows that are one run of a program take what they take.
    pub time: Duration,
    /// A directory on a memory-backed file system; a row makes its own directory in it.
    pub work: PathBuf,
    /// The input files of the applications, on the host's file system.
    pub input: PathBuf,
}
