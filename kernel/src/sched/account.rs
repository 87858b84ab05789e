//! Accounting of CPU time and load.

use super::{RunState, Scheduler};
use crate::sync::Mutex;
use crate::task::Task;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// How often the load is looked at, in nanoseconds (`LOAD_FREQ` of `linux/sched/loadavg.h`).
const SAMPLE_NS: u64 = 5_000_000_000;
/// Bits of fraction.
const SHIFT: u32 = 11;
/// 1 / e^(5s/1min), 1 / e^(5s/5min), 1 / e^(5s/15min) in that fixed point (same header).
const DECAY: [u64; 3] = [1884, 2014, 2037];

/// Load averages.
#[derive(Default)]
pub(crate) struct Load {
    next_ns: AtomicU64,
    averages: Mutex<[u64; 3]>,
}

impl Load {
    /// Takes samples that are due. Called often; cheap when none is. Time that nobody looked at was idle, because a busy CPU comes by.
    pub(crate) fn sample(&self, now_ns: u64, runnable: impl Fn() -> usize) {
        let next = self.next_ns.load(Ordering::Relaxed);
        if now_ns < next {
            return;
        }
        let claimed =
            self.next_ns.compare_exchange(next, now_ns + SAMPLE_NS, Ordering::SeqCst, Ordering::SeqCst);
        if claimed.is_err() || next == 0 {
            return;
        }
        let missed = ((now_ns - next) / SAMPLE_NS).min(1000);
        let active = (runnable() as u64) << SHIFT;
        let mut averages = self.averages.lock();
        for (average, decay) in averages.iter_mut().zip(DECAY) {
            for _ in 0..missed {
                *average = (*average * decay) >> SHIFT;
            }
            *average = (*average * decay + active * ((1 << SHIFT) - decay)) >> SHIFT;
        }
    }
}

impl Scheduler {
    /// The load over one, five and fifteen minutes, with 11 bits of fraction.
    pub fn load_averages(&self, now_ns: u64) -> [u64; 3] {
        self.load.sample(now_ns, || self.runnable());
        *self.load.averages.lock()
    }

    /// CPU time of a task in nanoseconds, with what it has used since it got the CPU.
    pub fn run_ns(&self, task: &Task) -> u64 {
        let mut total = task.sched.run_ns.load(Ordering::Relaxed);
        let running = matches!(
            task.sched.state(),
            RunState::OnCpu | RunState::PreparingSleep | RunState::PreparingBlock | RunState::Yielding
        );
        if running && let Some(cpu) = self.cpus.get(task.sched.cpu.load(Ordering::Relaxed)) {
            total += self.now_ns().saturating_sub(cpu.since_ns.load(Ordering::Relaxed));
        }
        total
    }

    /// For each CPU, the time in guest code and the time with a task on it, in nanoseconds.
    pub fn cpu_times(&self) -> Vec<(u64, u64)> {
        let now = self.now_ns();
        let times = self.cpus.iter().map(|cpu| {
            let mut busy = cpu.busy_ns.load(Ordering::Relaxed);
            if cpu.busy.load(Ordering::SeqCst) {
                busy += now.saturating_sub(cpu.since_ns.load(Ordering::Relaxed));
            }
            (cpu.user_ns.load(Ordering::Relaxed), busy)
        });
        times.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_rises_to_what_runs_and_decays() {
        let load = Load::default();
        for i in 1..200 {
            load.sample(i * SAMPLE_NS, || 2);
        }
        let one_minute = load.averages.lock()[0];
        assert!((3900..=4096).contains(&one_minute), "{one_minute}");
        // A long time without a look counts as idle.
        load.sample(400 * SAMPLE_NS, || 0);
        assert_eq!(load.averages.lock()[0], 0);
    }
}
