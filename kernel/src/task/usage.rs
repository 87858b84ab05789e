//! What tasks and processes have used (`getrusage(2)`).

use super::process::Usage;
use super::{Process, Task};
use core::sync::atomic::{AtomicU64, Ordering};

/// How long a task has been in guest code, with what goes on.
#[derive(Debug, Default)]
pub struct UserTime(
    /// Nanoseconds; while guest code runs, when it would have begun had it never stopped, and [`IN_GUEST`].
    AtomicU64,
);

/// See [`UserTime`].
const IN_GUEST: u64 = 1 << 63;

impl UserTime {
    /// Guest code is about to run, at this monotonic time in nanoseconds. Only the task itself calls this and [`UserTime::leave`].
    pub(crate) fn enter(&self, now_ns: u64) {
        self.0.store(now_ns.saturating_sub(self.ns(now_ns)) | IN_GUEST, Ordering::Relaxed);
    }

    /// It has stopped.
    pub(crate) fn leave(&self, now_ns: u64) {
        self.0.store(self.ns(now_ns), Ordering::Relaxed);
    }

    /// All of it, in nanoseconds.
    pub fn ns(&self, now_ns: u64) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            word if word & IN_GUEST != 0 => now_ns.saturating_sub(word & !IN_GUEST),
            word => word,
        }
    }
}

impl Task {
    /// What this thread has used so far. System time is CPU time outside of guest code.
    pub fn usage(&self) -> Usage {
        let user_ns = self.user_time.ns(self.scheduler.now_ns());
        let run_ns = self.scheduler.run_ns(self);
        Usage {
            user_ns,
            system_ns: run_ns.saturating_sub(user_ns),
            minor_faults: self.faults[0].load(Ordering::Relaxed),
            major_faults: self.faults[1].load(Ordering::Relaxed),
            max_rss_pages: self.mm.lock().as_ref().map_or(0, |mm| mm.peak_rss_pages()),
            voluntary_switches: self.sched.switches[0].load(Ordering::Relaxed),
            involuntary_switches: self.sched.switches[1].load(Ordering::Relaxed),
        }
    }
}

impl Process {
    /// What it and the children that it has waited for have used.
    pub fn usage_with_children(&self) -> Usage {
        let mut usage = self.usage();
        usage.add(&self.family.lock().dead_children);
        usage
    }

    /// What the process has used so far: its threads, also those that have ended.
    pub fn usage(&self) -> Usage {
        let (mut sum, threads) = {
            let family = self.family.lock();
            (family.dead_threads, family.threads.clone())
        };
        for task in threads {
            sum.add(&task.usage());
            let mm = task.mm.lock().clone();
            sum.max_rss_pages = sum.max_rss_pages.max(mm.map_or(0, |mm| mm.peak_rss_pages()));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::UserTime;

    #[test]
    fn user_time_goes_on_while_guest_code_runs() {
        let time = UserTime::default();
        assert_eq!(time.ns(1000), 0);
        time.enter(1000);
        assert_eq!((time.ns(1000), time.ns(1500)), (0, 500));
        time.leave(1600);
        assert_eq!((time.ns(1600), time.ns(9000)), (600, 600));
        time.enter(9000);
        assert_eq!(time.ns(9001), 601);
        time.leave(9100);
        assert_eq!(time.ns(10_000), 700);
    }
}
