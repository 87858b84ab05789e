//! Time: clocks, sleeps and the timer queue. The raw clocks come from the machine.

mod clock;
mod queue;

pub use clock::{Clock, ClockNumber, CpuTime, deadline_after, process_cpu_ns, read_timespec, task_cpu_ns};
pub use queue::{TimerHook, TimerId, TimerQueue};

/// `execve` deletes POSIX timers (`timer_create(2)`); interval timers go on.
pub(crate) fn exec_resets_timers(_process: &crate::task::Process) {}
