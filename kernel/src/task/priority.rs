//! Nice values and scheduling policies of a task: the rules of who may set what (`sched(7)`), and their effect.

use super::{Cap, Cx, Resource, SchedPolicy, Task};
use crate::error::{Result, err};
use crate::sched::nice_weight;
use abi::Errno;
use core::sync::atomic::Ordering;

/// `SCHED_*`.
#[allow(missing_docs)]
pub mod policy {
    pub const OTHER: u32 = 0;
    pub const FIFO: u32 = 1;
    pub const RR: u32 = 2;
    pub const BATCH: u32 = 3;
    pub const IDLE: u32 = 5;
    pub const DEADLINE: u32 = 6;
}

/// The highest real-time priority.
pub const RT_PRIORITY_MAX: i32 = 99;

impl SchedPolicy {
    /// Whether the policy is a real-time one.
    pub fn is_realtime(&self) -> bool {
        matches!(self.policy, policy::FIFO | policy::RR)
    }

    /// What a child starts with (`SCHED_RESET_ON_FORK`, `sched(7)`).
    pub(super) fn inherited(self) -> SchedPolicy {
        if !self.reset_on_fork {
            return self;
        }
        SchedPolicy { nice: self.nice.max(0), ..SchedPolicy::default() }
    }

    pub(super) fn weight(&self) -> u64 {
        match self.policy {
            policy::FIFO | policy::RR => nice_weight(-20),
            policy::IDLE => 3,
            _ => nice_weight(self.nice),
        }
    }
}

impl Task {
    /// Whether `cx`'s task may change this one's priority: the same user, or `CAP_SYS_NICE`. The real user id counts only where Linux lets it.
    pub fn priority_may_be_set_by(&self, cx: &Cx) -> bool {
        let (mine, theirs) = (cx.task.creds(), self.creds());
        mine.euid == theirs.uid || mine.euid == theirs.euid || mine.has(Cap::SysNice)
    }

    /// Whether a nice value this low may be asked for: not below the present one, within `RLIMIT_NICE`, or with `CAP_SYS_NICE`.
    pub fn may_have_nice(&self, cx: &Cx, nice: i32) -> bool {
        let limit = self.process.limit(Resource::Nice);
        nice >= self.policy.lock().nice || (20 - nice) as u64 <= limit || cx.task.creds().has(Cap::SysNice)
    }

    /// Sets the nice value.
    pub fn set_nice(&self, nice: i32) {
        let mut policy = self.policy.lock();
        policy.nice = nice;
        self.sched.weight.store(policy.weight(), Ordering::Relaxed);
    }

    /// Sets policy and priority: `EINVAL` for a combination that does not exist, `EPERM` for one that is not allowed.
    pub fn set_policy(&self, cx: &Cx, new: SchedPolicy) -> Result<()> {
        let valid = match new.policy {
            policy::FIFO | policy::RR => (1..=RT_PRIORITY_MAX).contains(&new.priority),
            policy::OTHER | policy::BATCH | policy::IDLE => new.priority == 0,
            _ => false,
        };
        if !valid {
            return err(Errno::EINVAL);
        }
        let old = *self.policy.lock();
        if !cx.task.creds().has(Cap::SysNice) {
            if new.is_realtime() {
                let limit = self.process.limit(Resource::Rtprio);
                if new.policy != old.policy && limit == 0 {
                    return err(Errno::EPERM);
                }
                if new.priority > old.priority && new.priority as u64 > limit {
                    return err(Errno::EPERM);
                }
            } else if !self.may_have_nice(cx, new.nice) {
                return err(Errno::EPERM);
            }
            if old.policy == policy::IDLE && new.policy != policy::IDLE && !self.may_have_nice(cx, old.nice) {
                return err(Errno::EPERM);
            }
            if !self.priority_may_be_set_by(cx) || (old.reset_on_fork && !new.reset_on_fork) {
                return err(Errno::EPERM);
            }
        }
        *self.policy.lock() = new;
        self.sched.weight.store(new.weight(), Ordering::Relaxed);
        Ok(())
    }
}
