//! Scheduling calls: affinity, policies, nice values, I/O priorities.

use crate::error::{Result, err};
use crate::task::{Cap, Cx, Process, SchedPolicy, Task, priority};
use crate::user::UserPtr;
use abi::Errno;
use abi::system::SchedAttr;
use abi::time::Timespec;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// `SCHED_RESET_ON_FORK` in a policy, and its bit in `sched_attr.flags`.
const RESET_ON_FORK: u32 = 0x4000_0000;
/// Bytes of a CPU mask: as many words as the CPUs need.
const MASK_BYTES: usize = 8;

pub(super) fn sched_yield(cx: &Cx) -> Result<()> {
    cx.yield_now();
    Ok(())
}

/// The task with this thread id; 0 is the caller.
fn find(cx: &Cx, pid: i32) -> Result<Arc<Task>> {
    match pid {
        0 => Ok(cx.task.clone()),
        pid => Ok(cx.kernel.pids.task(pid).ok_or(Errno::ESRCH)?),
    }
}

/// The same for calls that refuse negative ids with `EINVAL`.
fn find_positive(cx: &Cx, pid: i32) -> Result<Arc<Task>> {
    if pid < 0 { err(Errno::EINVAL) } else { find(cx, pid) }
}

fn online_mask(cx: &Cx) -> u64 {
    match cx.kernel.machine.cpu().count() {
        n if n >= 64 => u64::MAX,
        n => (1 << n) - 1,
    }
}

pub(super) fn sched_getaffinity(cx: &Cx, pid: i32, len: u32, mask: UserPtr<u8>) -> Result<usize> {
    let len = len as usize;
    if !len.is_multiple_of(8) || len.saturating_mul(8) < cx.kernel.machine.cpu().count() {
        return err(Errno::EINVAL);
    }
    let allowed = find(cx, pid)?.sched.allowed.load(Ordering::Relaxed) & online_mask(cx);
    mask.write_bytes(cx, &allowed.to_le_bytes())?;
    Ok(MASK_BYTES)
}

pub(super) fn sched_setaffinity(cx: &Cx, pid: i32, len: u32, mask: UserPtr<u8>) -> Result<()> {
    let mut bytes = [0u8; MASK_BYTES];
    let given = mask.read_vec(cx, (len as usize).min(MASK_BYTES))?;
    for (to, from) in bytes.iter_mut().zip(given) {
        *to = from;
    }
    let task = find(cx, pid)?;
    if !task.priority_may_be_set_by(cx) {
        return err(Errno::EPERM);
    }
    let allowed = u64::from_le_bytes(bytes) & online_mask(cx);
    if allowed == 0 {
        return err(Errno::EINVAL);
    }
    task.sched.allowed.store(allowed, Ordering::Relaxed);
    if Arc::ptr_eq(&task, cx.task) && allowed & (1 << (cx.cpu().0 & 63)) == 0 {
        cx.yield_now();
    }
    Ok(())
}

fn policy_word(policy: &SchedPolicy) -> u32 {
    policy.policy | if policy.reset_on_fork { RESET_ON_FORK } else { 0 }
}

pub(super) fn sched_getscheduler(cx: &Cx, pid: i32) -> Result<u32> {
    let task = find_positive(cx, pid)?;
    let policy = *task.policy.lock();
    Ok(policy_word(&policy))
}

pub(super) fn sched_setscheduler(cx: &Cx, pid: i32, policy: i32, param: UserPtr<i32>) -> Result<()> {
    if policy < 0 || pid < 0 || param.is_null() {
        return err(Errno::EINVAL);
    }
    let priority = param.read(cx)?;
    let task = find(cx, pid)?;
    let nice = task.policy.lock().nice;
    let policy = policy as u32;
    let reset_on_fork = policy & RESET_ON_FORK != 0;
    task.set_policy(cx, SchedPolicy { policy: policy & !RESET_ON_FORK, priority, nice, reset_on_fork })
}

pub(super) fn sched_getparam(cx: &Cx, pid: i32, param: UserPtr<i32>) -> Result<()> {
    if param.is_null() {
        return err(Errno::EINVAL);
    }
    let task = find_positive(cx, pid)?;
    let priority = task.policy.lock().priority;
    param.write(cx, &priority)
}

pub(super) fn sched_setparam(cx: &Cx, pid: i32, param: UserPtr<i32>) -> Result<()> {
    if param.is_null() || pid < 0 {
        return err(Errno::EINVAL);
    }
    let priority = param.read(cx)?;
    let task = find(cx, pid)?;
    let old = *task.policy.lock();
    task.set_policy(cx, SchedPolicy { priority, ..old })
}

pub(super) fn sched_get_priority_max(_cx: &Cx, policy: u32) -> Result<i32> {
    match policy {
        priority::policy::FIFO | priority::policy::RR => Ok(priority::RT_PRIORITY_MAX),
        0 | 3 | 5 | 6 | 7 => Ok(0),
        _ => err(Errno::EINVAL),
    }
}

pub(super) fn sched_get_priority_min(_cx: &Cx, policy: u32) -> Result<i32> {
    match policy {
        priority::policy::FIFO | priority::policy::RR => Ok(1),
        0 | 3 | 5 | 6 | 7 => Ok(0),
        _ => err(Errno::EINVAL),
    }
}

pub(super) fn sched_rr_get_interval(cx: &Cx, pid: i32, interval: UserPtr<Timespec>) -> Result<()> {
    let task = find_positive(cx, pid)?;
    let policy = task.policy.lock().policy;
    let ns = match policy {
        priority::policy::FIFO => 0,
        priority::policy::RR => 100_000_000,
        _ => crate::sched::TICK_NS,
    };
    interval.write(cx, &Timespec::from_ns(ns))
}

pub(super) fn sched_getattr(
    cx: &Cx,
    pid: i32,
    attr: UserPtr<SchedAttr>,
    size: u32,
    flags: u32,
) -> Result<()> {
    const SIZE_V0: usize = 48;
    let size = size as usize;
    if attr.is_null() || pid < 0 || flags != 0 || !(SIZE_V0..=4096).contains(&size) {
        return err(Errno::EINVAL);
    }
    let task = find(cx, pid)?;
    let policy = *task.policy.lock();
    let len = size.min(size_of::<SchedAttr>());
    let value = SchedAttr {
        size: len as u32,
        policy: policy.policy,
        flags: u64::from(policy.reset_on_fork),
        nice: if policy.is_realtime() { 0 } else { policy.nice },
        priority: policy.priority as u32,
        runtime: if policy.is_realtime() { 0 } else { crate::sched::TICK_NS },
        util_max: 1024,
        ..SchedAttr::default()
    };
    let bytes = zerocopy::IntoBytes::as_bytes(&value);
    attr.cast::<u8>().write_bytes(cx, bytes.get(..len).unwrap_or_default())
}

pub(super) fn sched_setattr(cx: &Cx, pid: i32, attr: UserPtr<SchedAttr>, flags: u32) -> Result<()> {
    const KEEP_POLICY: u64 = 8;
    const KEEP_PARAMS: u64 = 16;
    const KNOWN: u64 = 0x7f;
    if attr.is_null() || pid < 0 || flags != 0 {
        return err(Errno::EINVAL);
    }
    let size = match attr.cast::<u32>().read(cx)? {
        0 => 48,
        size => size as usize,
    };
    if !(48..=4096).contains(&size) {
        attr.cast::<u32>().write(cx, &(size_of::<SchedAttr>() as u32))?;
        return err(Errno::E2BIG);
    }
    let mut value = SchedAttr::default();
    let bytes = attr.cast::<u8>().read_vec(cx, size)?;
    let own = zerocopy::IntoBytes::as_mut_bytes(&mut value);
    let beyond = bytes.get(own.len()..).unwrap_or_default();
    if beyond.iter().any(|&b| b != 0) {
        return err(Errno::E2BIG);
    }
    own.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
    if value.flags & !KNOWN != 0 || value.policy > i32::MAX as u32 {
        return err(Errno::EINVAL);
    }
    let task = find(cx, pid)?;
    let old = *task.policy.lock();
    let mut new = SchedPolicy { reset_on_fork: value.flags & 1 != 0, ..old };
    if value.flags & KEEP_POLICY == 0 {
        new.policy = value.policy;
    }
    if value.flags & KEEP_PARAMS == 0 {
        new.priority = value.priority as i32;
        if !new.is_realtime() {
            new.nice = value.nice.clamp(-20, 19);
        }
    }
    task.set_policy(cx, new)
}

/// The tasks that a `which`/`who` pair names; `ESRCH` when there are none.
fn chosen(cx: &Cx, kind: Who, who: i32) -> Result<Vec<Arc<Task>>> {
    let of = |pick: &dyn Fn(&Arc<Process>) -> bool| -> Vec<Arc<Task>> {
        cx.kernel.pids.processes().iter().filter(|p| pick(p)).flat_map(|p| p.threads()).collect()
    };
    let tasks = match kind {
        Who::Task => alloc::vec![find(cx, who)?],
        Who::Group => {
            let group = if who == 0 { cx.process().pgid.load(Ordering::Relaxed) } else { who };
            of(&|p| p.pgid.load(Ordering::Relaxed) == group)
        }
        Who::User => {
            let uid = if who == 0 { cx.task.creds().uid } else { who as u32 };
            let mut all = of(&|_| true);
            all.retain(|t| t.creds().uid == uid);
            all
        }
    };
    if tasks.is_empty() { err(Errno::ESRCH) } else { Ok(tasks) }
}

/// What an id means.
#[derive(Clone, Copy)]
enum Who {
    Task,
    Group,
    User,
}

impl Who {
    /// `PRIO_*`, which start at 0.
    fn from_prio(which: i32) -> Result<Who> {
        match which {
            0 => Ok(Who::Task),
            1 => Ok(Who::Group),
            2 => Ok(Who::User),
            _ => err(Errno::EINVAL),
        }
    }
}

/// The result is biased so that it is not negative: 20 minus the nice value.
pub(super) fn getpriority(cx: &Cx, which: i32, who: i32) -> Result<i32> {
    let tasks = chosen(cx, Who::from_prio(which)?, who)?;
    let best = tasks.iter().map(|t| 20 - t.policy.lock().nice).max();
    best.ok_or(Errno::ESRCH.into())
}

pub(super) fn setpriority(cx: &Cx, which: i32, who: i32, nice: i32) -> Result<()> {
    let tasks = chosen(cx, Who::from_prio(which)?, who)?;
    let nice = nice.clamp(-20, 19);
    let mut result = Ok(());
    for task in tasks {
        if !task.priority_may_be_set_by(cx) {
            result = err(Errno::EPERM);
        } else if !task.may_have_nice(cx, nice) {
            result = err(Errno::EACCES);
        } else {
            task.set_nice(nice);
        }
    }
    result
}

/// There is no I/O scheduler whose queues could be ordered: priorities are checked and not kept.
pub(super) fn ioprio_set(cx: &Cx, which: i32, who: i32, ioprio: u32) -> Result<()> {
    let (class, level) = (ioprio >> 13 & 7, ioprio & 7);
    match class {
        1 if !cx.task.creds().has(Cap::SysNice) && !cx.task.creds().has(Cap::SysAdmin) => {
            return err(Errno::EPERM);
        }
        0 if level != 0 => return err(Errno::EINVAL),
        0..=3 => {}
        _ => return err(Errno::EINVAL),
    }
    let tasks = chosen(cx, Who::from_prio(which.wrapping_sub(1))?, who)?;
    if tasks.iter().all(|t| t.priority_may_be_set_by(cx)) { Ok(()) } else { err(Errno::EPERM) }
}

pub(super) fn ioprio_get(cx: &Cx, which: i32, who: i32) -> Result<u32> {
    chosen(cx, Who::from_prio(which.wrapping_sub(1))?, who)?;
    Ok(0)
}
