//! Resource limits and usage.

use crate::error::{Result, err};
use crate::task::{Cap, Cx, Process, RLIM_NLIMITS, Resource, Rlimit, Usage};
use crate::user::UserPtr;
use abi::Errno;
use abi::system::Rusage;
use abi::time::Timeval;
use alloc::sync::Arc;

pub(super) fn getrlimit(cx: &Cx, resource: u32, rlim: UserPtr<Rlimit>) -> Result<()> {
    let value = get(cx.process(), resource)?;
    rlim.write(cx, &value)
}

pub(super) fn setrlimit(cx: &Cx, resource: u32, rlim: UserPtr<Rlimit>) -> Result<()> {
    let new = rlim.read(cx)?;
    swap(cx, cx.process(), resource, Some(new)).map(drop)
}

pub(super) fn prlimit64(
    cx: &Cx,
    pid: i32,
    resource: u32,
    new: UserPtr<Rlimit>,
    old: UserPtr<Rlimit>,
) -> Result<()> {
    let new = match new.non_null() {
        Some(ptr) => Some(ptr.read(cx)?),
        None => None,
    };
    let process = match pid {
        0 => cx.process().clone(),
        pid => {
            let task = cx.kernel.pids.task(pid).ok_or(Errno::ESRCH)?;
            let (mine, theirs) = (cx.task.creds(), task.creds());
            let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|&u| u == mine.uid)
                && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|&g| g == mine.gid);
            if !Arc::ptr_eq(cx.task, &task) && !same && !mine.has(Cap::SysResource) {
                return err(Errno::EPERM);
            }
            task.process.clone()
        }
    };
    let before = swap(cx, &process, resource, new)?;
    old.write_if_some(cx, &before)
}

fn get(process: &Process, resource: u32) -> Result<Rlimit> {
    let limits = process.limits.lock();
    limits.0.get(resource as usize).copied().ok_or(Errno::EINVAL.into())
}

fn swap(cx: &Cx, process: &Process, resource: u32, new: Option<Rlimit>) -> Result<Rlimit> {
    if resource as usize >= RLIM_NLIMITS {
        return err(Errno::EINVAL);
    }
    let may_raise = cx.task.creds().has(Cap::SysResource);
    let mut limits = process.limits.lock();
    let Some(slot) = limits.0.get_mut(resource as usize) else { return err(Errno::EINVAL) };
    let before = *slot;
    if let Some(new) = new {
        if new.cur > new.max {
            return err(Errno::EINVAL);
        }
        if resource == Resource::Nofile as u32 && new.max > cx.kernel.settings.nr_open.size() as u64 {
            return err(Errno::EPERM);
        }
        if new.max > before.max && !may_raise {
            return err(Errno::EPERM);
        }
        *slot = new;
    }
    drop(limits);
    if resource == Resource::Fsize as u32 {
        // Of a process that writes without the kernel.
        cx.kernel.machine.recall_offers();
    }
    if new.is_some() {
        let of_memory = resource == Resource::As as u32 || resource == Resource::Data as u32;
        if let Some(mm) = crate::mm::memory(process).filter(|_| of_memory) {
            // It takes memory without the kernel.
            mm.recall_lent();
        }
        process.limits_changed();
    }
    Ok(before)
}

pub(super) fn getrusage(cx: &Cx, who: i32, buf: UserPtr<Rusage>) -> Result<()> {
    const SELF: i32 = 0;
    const CHILDREN: i32 = -1;
    const THREAD: i32 = 1;
    let peak = || cx.mm().peak_rss_pages();
    let usage = match who {
        SELF => Usage { max_rss_pages: peak(), ..cx.process().usage() },
        CHILDREN => cx.process().family.lock().dead_children,
        THREAD => Usage { max_rss_pages: peak(), ..cx.task.usage() },
        _ => return err(Errno::EINVAL),
    };
    buf.write(cx, &to_rusage(&usage))
}

/// As user space sees it.
pub(super) fn to_rusage(usage: &Usage) -> Rusage {
    Rusage {
        utime: Timeval::from_ns(usage.user_ns),
        stime: Timeval::from_ns(usage.system_ns),
        maxrss: (usage.max_rss_pages * (hal::PAGE_SIZE / 1024)) as i64,
        minflt: usage.minor_faults as i64,
        majflt: usage.major_faults as i64,
        nvcsw: usage.voluntary_switches as i64,
        nivcsw: usage.involuntary_switches as i64,
        ..Rusage::default()
    }
}
