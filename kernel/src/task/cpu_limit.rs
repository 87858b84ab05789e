//! `RLIMIT_CPU` (`getrlimit(2)`): `SIGXCPU` at the soft limit and every second from there, `SIGKILL` at the hard one.
//!
//! A soft limit of zero counts as a second, as on Linux. A process with a limit has a moment at which it can first have used it up; nothing is looked at before.

use super::{Cx, Limits, Process, Resource};
use crate::sched::TICK_NS;
use crate::signal::{SigInfo, sig};
use crate::time::{CpuTime, process_cpu_ns};
use core::sync::atomic::Ordering;

const NS_PER_S: u64 = 1_000_000_000;
/// [`Process::cpu_check_ns`] of a process without a limit.
const NEVER: u64 = u64::MAX;

/// When to look first, for a process with these limits.
pub(super) fn first_check(limits: &Limits) -> u64 {
    let unlimited = limits.cur(Resource::Cpu) == u64::MAX && limits.hard(Resource::Cpu) == u64::MAX;
    if unlimited { NEVER } else { 0 }
}

impl Process {
    /// Its limits have changed.
    pub fn limits_changed(&self) {
        let first = first_check(&self.limits.lock());
        self.cpu_check_ns.store(first, Ordering::Relaxed);
    }
}

/// Before guest code runs: sends what is due; when the process must be looked at again.
pub(super) fn check(cx: &Cx, now: u64) -> Option<u64> {
    let process = cx.process();
    let at = process.cpu_check_ns.load(Ordering::Relaxed);
    if at == NEVER {
        return None;
    }
    if now < at {
        return Some(at);
    }
    let used = process_cpu_ns(&cx.kernel.sched, process, CpuTime::All);
    let (soft, hard) = {
        let limits = process.limits.lock();
        (limits.cur(Resource::Cpu).max(1), limits.hard(Resource::Cpu))
    };
    let mut soft_ns = soft.saturating_mul(NS_PER_S);
    let hard_ns = hard.saturating_mul(NS_PER_S);
    if used >= hard_ns {
        process.send_signal(SigInfo::kernel(sig::KILL));
    } else if used >= soft_ns {
        process.send_signal(SigInfo::kernel(sig::XCPU));
        soft_ns = soft_ns.saturating_add(NS_PER_S);
        if let Some(limit) = process.limits.lock().0.get_mut(Resource::Cpu as usize) {
            limit.cur = soft.saturating_add(1);
        }
    }
    // All threads may use CPUs at the same time.
    let threads = process.threads().len().max(1) as u64;
    let left = soft_ns.min(hard_ns).saturating_sub(used) / threads;
    let next = now.saturating_add(left.max(TICK_NS)).min(NEVER - 1);
    process.cpu_check_ns.store(next, Ordering::Relaxed);
    Some(next)
}
