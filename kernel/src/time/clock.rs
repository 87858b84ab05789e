//! Clocks (`clock_gettime(2)`).
//!
//! All but CPU time comes from the machine, as it does where the gate or the vDSO answers. Differs from Linux: no clock can be set.

use crate::error::{Result, err};
use crate::sched::Scheduler;
use crate::task::{Cx, Process, Task};
use crate::user::UserPtr;
use abi::Errno;
use abi::time::Timespec;
use alloc::sync::Arc;
use hal::ClockId;

/// A clock, decoded from a `clockid_t`.
#[derive(Clone)]
pub enum Clock {
    /// One of the machine's.
    Machine(ClockId),
    /// CPU time of a process.
    Process(Arc<Process>),
    /// CPU time of a thread.
    Thread(Arc<Task>),
}

/// What of CPU time a clock counts (the low bits of an encoded `clockid_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuTime {
    /// In guest code and in the kernel.
    All,
    /// In guest code only.
    User,
}

/// The number of a clock as user space passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockNumber(pub i32);

impl ClockNumber {
    /// Whether it is one of the coarse clocks, whose resolution is a tick.
    pub fn is_coarse(self) -> bool {
        matches!(self.0, 5 | 6)
    }

    /// The clock; `EINVAL` when there is none with this number, or its process or thread is gone.
    pub fn decode(self, cx: &Cx) -> Result<Clock> {
        Ok(match self.0 {
            0 | 8 => Clock::Machine(ClockId::Realtime),
            1 => Clock::Machine(ClockId::Monotonic),
            4 => Clock::Machine(ClockId::MonotonicRaw),
            5 => Clock::Machine(ClockId::RealtimeCoarse),
            6 => Clock::Machine(ClockId::MonotonicCoarse),
            7 | 9 => Clock::Machine(ClockId::Boottime),
            11 => Clock::Machine(ClockId::Tai),
            2 => Clock::Process(cx.process().clone()),
            3 => Clock::Thread(cx.task.clone()),
            number if number < 0 => return cpu_clock(cx, number),
            _ => return err(Errno::EINVAL),
        })
    }
}

/// An encoded CPU clock: bits 0 and 1 are the kind (3 is a descriptor of a clock device), bit 2 says thread, the rest is the inverted id
/// (`clock_getcpuclockid(3)`).
fn cpu_clock(cx: &Cx, number: i32) -> Result<Clock> {
    let id = !(number >> 3);
    let thread = number & 4 != 0;
    if number & 3 == 3 {
        return err(Errno::EINVAL);
    }
    let clock = match (thread, id) {
        (true, 0) => Some(Clock::Thread(cx.task.clone())),
        (true, id) => {
            let task = cx.kernel.pids.task(id);
            // Only threads of the own process.
            task.filter(|t| Arc::ptr_eq(&t.process, cx.process())).map(Clock::Thread)
        }
        (false, 0) => Some(Clock::Process(cx.process().clone())),
        (false, id) => cx.kernel.pids.process(id).map(Clock::Process),
    };
    clock.ok_or(Errno::EINVAL.into())
}

impl Clock {
    /// Whether it counts CPU time.
    pub fn is_cpu(&self) -> bool {
        matches!(self, Clock::Process(_) | Clock::Thread(_))
    }

    /// Its reading in nanoseconds.
    pub fn now_ns(&self, cx: &Cx) -> u64 {
        match self {
            Clock::Machine(id) => cx.kernel.machine.clock_ns(*id),
            Clock::Process(process) => process_cpu_ns(&cx.kernel.sched, process, CpuTime::All),
            Clock::Thread(task) => cx.kernel.sched.run_ns(task),
        }
    }

    /// The monotonic time at which a clock that is not a CPU clock will show `at_ns`.
    pub fn to_monotonic(&self, cx: &Cx, at_ns: u64) -> u64 {
        match self {
            Clock::Machine(id) if *id != ClockId::Monotonic => {
                // Read together: what passes between the two readings makes a sleep longer, never shorter.
                let other = self.now_ns(cx);
                cx.now_ns().saturating_add(at_ns.saturating_sub(other))
            }
            _ => at_ns,
        }
    }
}

/// CPU time of a process with its ended threads, in nanoseconds.
pub fn process_cpu_ns(sched: &Scheduler, process: &Process, what: CpuTime) -> u64 {
    let (threads, dead) = {
        let family = process.family.lock();
        (family.threads.clone(), family.dead_threads)
    };
    match what {
        CpuTime::All => threads.iter().map(|t| sched.run_ns(t)).sum::<u64>() + dead.user_ns + dead.system_ns,
        CpuTime::User => {
            let now = sched.now_ns();
            threads.iter().map(|t| t.user_time.ns(now)).sum::<u64>() + dead.user_ns
        }
    }
}

/// Copies in a relative time: `None` for `NULL`, `EINVAL` when it is negative or not normal.
pub fn read_timespec(cx: &Cx, ptr: UserPtr<Timespec>) -> Result<Option<u64>> {
    match ptr.non_null() {
        Some(ptr) => Ok(Some(ptr.read(cx)?.to_ns().ok_or(Errno::EINVAL)?)),
        None => Ok(None),
    }
}

/// The monotonic deadline of a time-out that starts now; none for none.
pub fn deadline_after(cx: &Cx, timeout_ns: Option<u64>) -> Option<u64> {
    timeout_ns.map(|ns| cx.now_ns().saturating_add(ns))
}
