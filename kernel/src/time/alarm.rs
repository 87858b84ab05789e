//! One timer of a process, on any clock.
//!
//! The machine's timers run on the monotonic clock only. A timer on a CPU clock is looked at when it could expire at the earliest (every CPU
//! working for it), and as long as the process does not get on, at growing distances: so it may come up to [`MAX_LOOK_NS`] late after the
//! process slept, where Linux, which looks at every tick, is exact to a tick.

use super::period::{MIN_PERIOD_NS, Period};
use super::{CpuTime, TimerId, process_cpu_ns};
use crate::sched::{Scheduler, TICK_NS};
use crate::task::{Process, Task};
use alloc::sync::Weak;

/// The longest time between two looks at a CPU clock.
const MAX_LOOK_NS: u64 = 16 * TICK_NS;

/// What a timer runs on.
pub(super) enum AlarmClock {
    /// The monotonic clock.
    Wall,
    /// CPU time of a process.
    Process(Weak<Process>, CpuTime),
    /// CPU time of a thread.
    Thread(Weak<Task>),
}

impl AlarmClock {
    /// The reading; a clock whose process is gone stands still at the end of time.
    pub(super) fn now_ns(&self, sched: &Scheduler) -> u64 {
        match self {
            AlarmClock::Wall => sched.now_ns(),
            AlarmClock::Process(process, what) => {
                process.upgrade().map_or(0, |p| process_cpu_ns(sched, &p, *what))
            }
            AlarmClock::Thread(task) => task.upgrade().map_or(0, |t| sched.run_ns(&t)),
        }
    }
}

/// A timer.
pub(super) struct Alarm {
    pub(super) clock: AlarmClock,
    pub(super) period: Period,
    /// The machine timer that is set for it.
    pub(super) timer: Option<TimerId>,
    /// CPU clock at the last look, and the distance to the next one.
    last_look: (u64, u64),
}

impl Alarm {
    pub(super) fn new(clock: AlarmClock) -> Alarm {
        Alarm { clock, period: Period::default(), timer: None, last_look: (0, TICK_NS) }
    }

    /// The monotonic time at which to look again; `None` when disarmed.
    pub(super) fn next_look(&mut self, sched: &Scheduler) -> Option<u64> {
        let next = self.period.next_ns?;
        let now = sched.now_ns();
        if matches!(self.clock, AlarmClock::Wall) {
            // Periods that are too short are served together.
            let floor = if self.period.interval_ns > 0 { now.saturating_add(MIN_PERIOD_NS) } else { 0 };
            return Some(if next <= now { next } else { next.max(floor) });
        }
        let reading = self.clock.now_ns(sched);
        let (before, wait) = self.last_look;
        let wait = if reading > before { TICK_NS } else { (wait * 2).min(MAX_LOOK_NS) };
        self.last_look = (reading, wait);
        let cpus = sched.cpus.len().max(1) as u64;
        Some(now.saturating_add((next.saturating_sub(reading) / cpus).max(wait)))
    }

    /// Sets a new expiry; whatever machine timer was set has to be cancelled by the caller.
    pub(super) fn set(&mut self, period: Period, sched: &Scheduler) {
        self.period = period;
        self.last_look = (self.clock.now_ns(sched), TICK_NS / 2);
    }

    /// Time left and period as they stand now, without touching the timer.
    pub(super) fn report(&self, sched: &Scheduler) -> (u64, u64) {
        let now = self.clock.now_ns(sched);
        let mut period = self.period;
        if period.interval_ns > 0 {
            period.expire(now);
        }
        (period.left_ns(now), period.interval_ns)
    }
}
