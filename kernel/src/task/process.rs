//! Processes (thread groups), sessions and process groups.

use super::{Limits, Task};
use crate::signal::{SharedSignals, SigInfo};
use crate::sync::Mutex;
use crate::wait::WaitQueue;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// `_exit(2)` with this status.
    Exited(u8),
    /// A signal.
    Signaled {
        /// Which.
        signo: i32,
        /// Whether Linux would have dumped core.
        core: bool,
    },
}

impl ExitStatus {
    /// The word that `wait(2)` returns.
    pub fn wait_word(self) -> i32 {
        match self {
            ExitStatus::Exited(code) => i32::from(code) << 8,
            ExitStatus::Signaled { signo, core } => (signo & 0x7f) | if core { 0x80 } else { 0 },
        }
    }
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// Has threads.
    Running,
    /// All its threads are gone; waits to be reaped.
    Zombie(ExitStatus),
    /// Reaped.
    Reaped,
}

/// A session (`setsid(2)`) and its controlling terminal.
pub struct Session {
    /// Its id: the pid of the process that made it.
    pub id: i32,
    /// The controlling terminal, as the tty code made it.
    pub tty: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
}

/// CPU time and faults of children that were waited for, and of threads that ended.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Usage {
    pub user_ns: u64,
    pub system_ns: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub max_rss_pages: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

impl Usage {
    /// Adds another's, taking the larger resident size.
    pub fn add(&mut self, other: &Usage) {
        self.user_ns += other.user_ns;
        self.system_ns += other.system_ns;
        self.minor_faults += other.minor_faults;
        self.major_faults += other.major_faults;
        self.max_rss_pages = self.max_rss_pages.max(other.max_rss_pages);
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
    }
}

/// The parent of a process. Its id stands beside it: children that ask for it have nothing to do with each other, and would if each
/// counted a reference to the same parent.
#[derive(Default)]
pub struct Parent {
    process: Weak<Process>,
    pid: i32,
}

impl Parent {
    /// This process.
    pub fn new(parent: &Arc<Process>) -> Parent {
        Parent { process: Arc::downgrade(parent), pid: parent.pid }
    }

    /// The process, unless it is gone.
    pub fn upgrade(&self) -> Option<Arc<Process>> {
        self.process.upgrade()
    }
}

/// The mutable part of a process that its relatives look at.
pub struct Family {
    /// Life state.
    pub state: ProcessState,
    /// The parent; the init process has none.
    pub parent: Parent,
    /// Children, also zombies.
    pub children: Vec<Arc<Process>>,
    /// Threads that have not ended.
    pub threads: Vec<Arc<Task>>,
    /// Group exit in progress with this status.
    pub exiting: Option<ExitStatus>,
    /// It is ending and takes no more children.
    pub closed: bool,
    /// Stopped by this signal; `reported` says whether a waiter has seen it.
    pub stopped: Option<i32>,
    /// A stop that `WUNTRACED` has not reported yet.
    pub stop_unreported: bool,
    /// A continue that `WCONTINUED` has not reported yet.
    pub continue_unreported: bool,
    /// An `execve` by this thread has all others end first.
    pub exec_by: Option<i32>,
    /// Usage of ended threads.
    pub dead_threads: Usage,
    /// Usage of waited-for children.
    pub dead_children: Usage,
}

/// A thread group.
pub struct Process {
    /// Process id: the thread id of its first thread.
    pub pid: i32,
    /// Process group.
    pub pgid: AtomicI32,
    /// Session.
    pub session: Mutex<Arc<Session>>,
    /// Life, relatives, threads. Lock order: parent before child.
    pub family: Mutex<Family>,
    /// Signal actions and process-wide pending signals.
    pub signals: SharedSignals,
    /// Woken when a child changes state (for `wait(2)`).
    pub child_changed: WaitQueue,
    /// Woken when the process itself changes state (for `pidfd`, stops).
    pub changed: WaitQueue,
    /// Resource limits.
    pub limits: Mutex<Limits>,
    /// When `RLIMIT_CPU` is looked at next, monotonic nanoseconds.
    pub(super) cpu_check_ns: AtomicU64,
    /// The signal that the parent gets when it ends; 0 for none.
    pub exit_signal: AtomicI32,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub subreaper: AtomicBool,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: AtomicU32,
    /// `personality(2)`.
    pub personality: AtomicU32,
    /// Whether it has called `execve` since it was forked (`setpgid(2)`).
    pub did_exec: AtomicBool,
    /// What it runs, for `/proc`.
    pub image: Mutex<Image>,
    /// `oom_score_adj`.
    pub oom_score_adj: AtomicI32,
    /// Interval timers and POSIX timers, once there are any.
    pub timers: Mutex<Option<Arc<crate::time::ProcessTimers>>>,
    /// The first thread, kept after its end for name, credentials and times of a zombie; `None` once reaped.
    pub leader: Mutex<Option<Arc<Task>>>,
    /// When it was made, monotonic nanoseconds.
    pub start_ns: u64,
    /// Bytes read and written by calls, for `/proc/PID/io`.
    pub io: [AtomicU64; 4],
}

/// What a process runs (set by `execve`).
#[derive(Clone, Default)]
pub struct Image {
    /// The executable.
    pub exe: Option<crate::fs::Path>,
    /// Keeps it from being written; until the process ends.
    pub running: Option<Arc<crate::fs::busy::FileUse>>,
    /// Where the arguments lie in its memory (start, end).
    pub args: (u64, u64),
    /// Where the environment lies in its memory (start, end).
    pub env: (u64, u64),
    /// The auxiliary vector as bytes.
    pub auxv: Vec<u8>,
    /// Top of the stack at start.
    pub stack_start: u64,
    /// Code start, end; data start, end.
    pub code: (u64, u64),
    /// Data start and end.
    pub data: (u64, u64),
}

impl Process {
    /// Life state now.
    pub fn state(&self) -> ProcessState {
        self.family.lock().state
    }

    /// Threads that have not ended.
    pub fn threads(&self) -> Vec<Arc<Task>> {
        self.family.lock().threads.clone()
    }

    /// The parent's pid; 0 for none.
    pub fn ppid(&self) -> i32 {
        self.family.lock().parent.pid
    }

    /// A soft limit.
    pub fn limit(&self, resource: super::Resource) -> u64 {
        self.limits.lock().cur(resource)
    }

    /// Sends a signal to the process as a whole. Any virtual CPU context; does not block.
    pub fn send_signal(self: &Arc<Process>, info: SigInfo) {
        crate::signal::send_to_process(self, info);
    }
}
