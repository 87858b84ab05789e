//! Tasks and processes.
//!
//! A [`Task`] is a thread as the scheduler sees it: a fiber, and the guest registers that the fiber holds while it is in the user
//! loop. A [`Process`] is a thread group. [`Cx`] is what running code has in hand: "the current task".
//!
//! Lock order: [`pid::Pids`] before a process's `state`; everything else here is a leaf.

mod answers;
pub mod clone;
mod cpu_limit;
mod creds;
mod cx;
pub(crate) mod exec;
pub(crate) mod exit;
pub mod ids;
mod pid;
pub mod priority;
mod process;
mod rlimit;
pub mod rseq;
mod spawn;
pub(crate) mod start;
#[cfg(test)]
mod tests;
mod usage;
pub(crate) mod user_loop;
pub mod wait;

pub use creds::{CAP_FULL, CAP_LAST, Cap, Creds};
pub(crate) use cx::RestartState;
pub use cx::{Cx, WaitEnd};
pub(crate) use exit::{group_exit, must_end};
pub use pid::{PID_MAX, Pids};
pub use process::{ExitStatus, Family, Image, Process, ProcessState, Session, Usage};
pub use rlimit::{Limits, RLIM_NLIMITS, Resource, Rlimit};
#[cfg(test)]
pub(crate) use spawn::launch;
pub(crate) use spawn::{NewTask, spawn_first};
pub use usage::UserTime;

use crate::fs::{FdTable, Path};
use crate::mm::Mm;
use crate::sched::{Entity, Scheduler, Woken};
use crate::signal::{SigSet, TaskSignals};
use crate::sync::Mutex;
use crate::wait::Waker;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use hal::{CpuId, Fiber};

/// Working directory, root and umask; shared by the tasks that `CLONE_FS` joined.
pub struct FsContext {
    /// Working directory and root; `None` only before the root is mounted.
    pub dirs: Mutex<Option<(Path, Path)>>,
    /// File mode creation mask.
    pub umask: AtomicU32,
}

impl FsContext {
    /// A copy (`fork`).
    pub fn duplicate(&self) -> Arc<FsContext> {
        Arc::new(FsContext {
            dirs: Mutex::new(self.dirs.lock().clone()),
            umask: AtomicU32::new(self.umask.load(Ordering::Relaxed)),
        })
    }
}

/// How a `vfork` child tells its parent that it has a memory of its own, or has ended.
#[derive(Default)]
pub(crate) struct VforkDone {
    pub(crate) done: AtomicBool,
    pub(crate) queue: crate::wait::WaitQueue,
}

/// A thread.
pub struct Task {
    tid: AtomicI32,
    /// Its thread group.
    pub process: Arc<Process>,
    /// The scheduler's part.
    pub sched: Entity,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) fiber: Mutex<Option<Box<dyn Fiber>>>,
    /// Woken when a `vfork` child lets go of the parent's memory; the flag says that it has.
    pub(crate) vfork_done: Mutex<Option<Arc<VforkDone>>>,
    /// Its name as `/proc/PID/comm` shows it, at most 15 bytes.
    pub name: Mutex<alloc::vec::Vec<u8>>,
    /// Signal mask, pending signals of this thread, alternate stack.
    pub signals: Mutex<TaskSignals>,
    /// Set when the task must look at its signals before it returns to guest code.
    pub(crate) signal_pending: AtomicBool,
    /// Credentials; replaced as a whole.
    pub creds: Mutex<Arc<Creds>>,
    /// Address space, as others see it; the task itself uses [`Cx::mm`]. `None` once it has ended, and for the init process.
    pub mm: Mutex<Option<Arc<Mm>>>,
    /// Descriptors.
    pub files: Mutex<Arc<FdTable>>,
    /// Directories and umask.
    pub fs: Mutex<Arc<FsContext>>,
    /// `set_tid_address(2)`: zeroed and woken when the task ends.
    pub clear_child_tid: AtomicU64,
    /// `set_robust_list(2)`: address of the head.
    pub robust_list: AtomicU64,
    /// `rseq(2)`.
    pub rseq: Mutex<Option<rseq::Rseq>>,
    /// The system call that it is in, for `/proc/PID/syscall` and oops reports; `u64::MAX` when none.
    pub in_syscall: AtomicU64,
    /// Time in guest code.
    pub user_time: UserTime,
    /// When it was made, monotonic nanoseconds.
    pub start_ns: u64,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: AtomicBool,
    /// `PR_SET_PDEATHSIG`.
    pub parent_death_signal: AtomicU32,
    /// Timer slack and other per-thread `prctl` values.
    pub timer_slack_ns: AtomicU64,
    /// `SCHED_*` policy and real-time priority, and nice value (biased by 20), as last set.
    pub policy: Mutex<SchedPolicy>,
    /// Page faults without and with I/O.
    pub faults: [AtomicU64; 2],
}

/// Scheduling parameters as user space set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SchedPolicy {
    /// `SCHED_OTHER` and so on.
    pub policy: u32,
    /// Real-time priority.
    pub priority: i32,
    /// Nice value.
    pub nice: i32,
    /// `SCHED_RESET_ON_FORK`.
    pub reset_on_fork: bool,
}

impl Task {
    /// Thread id. An `execve` by a thread other than the first gives it the process's.
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }

    pub(crate) fn set_tid(&self, tid: i32) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// Ends a wait; false when it was not waiting. Any virtual CPU context.
    pub fn wake(self: &Arc<Task>) -> bool {
        self.wake_by(Waker::GoesOn)
    }

    /// The same, with what is known about the waker.
    pub fn wake_by(self: &Arc<Task>, waker: Waker) -> bool {
        match self.sched.wake(false) {
            Woken::No => false,
            Woken::StillOnCpu => true,
            Woken::MustQueue => {
                self.scheduler.enqueue(self.clone(), waker);
                true
            }
        }
    }

    /// Has the task look at its signals: ends an interruptible wait, or interrupts the CPU that it runs on.
    pub fn notify_signal(self: &Arc<Task>) {
        self.signal_pending.store(true, Ordering::SeqCst);
        match self.sched.wake(true) {
            Woken::MustQueue => self.scheduler.enqueue(self.clone(), Waker::GoesOn),
            Woken::StillOnCpu => {}
            Woken::No => {
                let cpu = CpuId(self.sched.cpu.load(Ordering::Relaxed));
                let cpus = self.scheduler.machine.cpu();
                // Who runs on this very CPU looks before it goes back to guest code.
                if self.sched.state() == crate::sched::RunState::OnCpu && cpus.current() != Some(cpu) {
                    cpus.interrupt(cpu);
                }
            }
        }
    }

    /// Whether a signal waits that is not blocked.
    pub fn has_signal(&self) -> bool {
        self.signal_pending.load(Ordering::SeqCst)
    }

    /// The signal mask.
    pub fn sigmask(&self) -> SigSet {
        self.signals.lock().mask
    }

    /// Credentials now.
    pub fn creds(&self) -> Arc<Creds> {
        self.creds.lock().clone()
    }
}
