//! What a kernel is told at start.

use abi::Errno;
use alloc::string::String;
use alloc::vec::Vec;

/// A host directory or file that the guest sees, with writes going through.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Host path.
    pub host: String,
    /// Absolute guest path; made as an empty mount point if it does not exist.
    pub guest: String,
    /// Refuse writes with `EROFS`.
    pub read_only: bool,
}

/// The program to run.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// Program: a path, or a name that is looked up in the guest's `PATH`.
    pub program: Vec<u8>,
    /// Arguments including the zeroth.
    pub args: Vec<Vec<u8>>,
    /// Environment as `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// Working directory in the guest; falls back to `/` when `None`.
    pub workdir: Option<Vec<u8>>,
}

/// Everything else.
#[derive(Clone, Debug)]
pub struct Config {
    /// Host directory that is the lower layer of the root; `None` for an empty root in memory.
    pub root: Option<String>,
    /// Refuse all writes to the root with `EROFS`.
    pub read_only: bool,
    /// Volumes.
    pub volumes: Vec<VolumeConfig>,
    /// User and group ids of the first process, and its supplementary groups.
    pub user: (u32, u32, Vec<u32>),
    /// Resource limits of the first process that differ from the usual ones: resource as in `getrlimit(2)`, soft limit, hard limit.
    pub limits: Vec<(u32, u64, u64)>,
    /// Host name.
    pub hostname: String,
    /// Log every system call.
    pub strace: bool,
    /// Patch system-call sites that are used often, where the machine has a gate for them; not while system calls are logged.
    pub patch: bool,
    /// The first process.
    pub command: Command,
}

/// Why the first program did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The kernel could not be set up; the text says what is wrong and what to do.
    Setup(String),
    /// The program could not be executed: `ENOENT` when there is none.
    Exec {
        /// The program as given.
        program: String,
        /// Why.
        errno: Errno,
    },
}
