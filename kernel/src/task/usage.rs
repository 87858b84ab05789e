//! What tasks and processes have used (`getrusage(2)`).

use super::process::Usage;
use super::{Process, Task};
use core::sync::atomic::Ordering;

impl Task {
    /// What this thread has used so far. System time is CPU time outside of guest code.
    pub fn usage(&self) -> Usage {
        let user_ns = self.user_ns.load(Ordering::Relaxed);
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
