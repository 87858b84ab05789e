//! Time: clocks, sleeps, the timer queue, and the timers of processes. The raw clocks come from the machine.

mod alarm;
mod clock;
mod period;
mod process_timers;
mod queue;
mod timerfd;

#[cfg(test)]
mod tests;

pub use clock::{Clock, ClockNumber, CpuTime, deadline_after, process_cpu_ns, read_timespec};
pub(crate) use process_timers::signal_taken;
pub use process_timers::{Itimer, Notify, ProcessTimers, exec_resets_timers, process_timers};
pub use queue::{TimerHook, TimerId, TimerQueue};
pub use timerfd::TimerFd;
