//! The small files of a process.

use super::Target;
use crate::error::{Result, err};
use crate::fs::Path;
use crate::fs::pseudo::{Out, put};
use crate::sched::RunState;
use crate::task::{Cap, Cx, ProcessState};
use abi::Errno;
use core::sync::atomic::Ordering;

/// The number that a write holds, without spaces and line end.
pub(super) fn number(bytes: &[u8]) -> Result<i64> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    Ok(text.parse::<i64>().map_err(|_| Errno::EINVAL)?)
}

/// An empty file.
pub(super) fn nothing(_cx: &Cx, _target: &Target, _out: &mut Out) -> Result<()> {
    Ok(())
}

/// A file whose writes have no effect.
pub(super) fn ignore(_cx: &Cx, _target: &Target, _bytes: &[u8]) -> Result<()> {
    Ok(())
}

/// A file that can't be changed here.
pub(super) fn refuse(_cx: &Cx, _target: &Target, _bytes: &[u8]) -> Result<()> {
    err(Errno::EPERM)
}

pub(super) fn no_module(_cx: &Cx, _target: &Target, _out: &mut Out) -> Result<()> {
    err(Errno::EINVAL)
}

pub(super) fn refuse_module(_cx: &Cx, _target: &Target, _bytes: &[u8]) -> Result<()> {
    err(Errno::EINVAL)
}

pub(super) fn personality(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    put!(out, "{:08x}\n", target.process()?.personality.load(Ordering::Relaxed));
    Ok(())
}

pub(super) fn limits(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let limits = *target.process()?.limits.lock();
    put!(out, "{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let value = |v: u64| {
        if v == u64::MAX { alloc::string::String::from("unlimited") } else { alloc::format!("{v}") }
    };
    for ((name, unit), limit) in NAMES.iter().zip(limits.0.iter()) {
        put!(out, "{name:<25} {:<20} {:<20} ", value(limit.cur), value(limit.max));
        if !unit.is_empty() {
            put!(out, "{unit:<10}");
        } else {
            // Linux leaves the unit's column out but not the space before it.
        }
        out.text("\n");
    }
    Ok(())
}

pub(super) fn comm(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let name = super::stat::name(target)?;
    out.bytes(&name);
    out.text("\n");
    Ok(())
}

pub(super) fn set_comm(cx: &Cx, target: &Target, bytes: &[u8]) -> Result<()> {
    let task = target.live_task()?;
    // Any thread of the process may name the others (`proc(5)`).
    if task.process.pid != cx.process().pid {
        return err(Errno::EINVAL);
    }
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()).min(15);
    let mut name = bytes.get(..end).unwrap_or_default().to_vec();
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    *task.name.lock() = name;
    Ok(())
}

pub(super) fn syscall(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let task = target.live_task()?;
    let nr = task.in_syscall.load(Ordering::Relaxed);
    match (task.sched.state(), nr) {
        (RunState::OnCpu | RunState::Queued | RunState::Yielding, _) => out.text("running\n"),
        // The registers are in the task's own hands: only the number is known from outside.
        (_, u64::MAX) => out.text("-1 0x0 0x0\n"),
        (_, nr) => put!(out, "{nr} 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n"),
    }
    Ok(())
}

pub(super) fn children(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let process = target.process()?;
    // Children belong to the process here, not to the thread that made them; Linux lists them by thread.
    if target.tid == target.pid {
        let mut pids: alloc::vec::Vec<i32> = process.family.lock().children.iter().map(|c| c.pid).collect();
        pids.sort_unstable();
        for pid in pids {
            put!(out, "{pid} ");
        }
    }
    Ok(())
}

fn dirs(target: &Target) -> Result<(Path, Path)> {
    let process = target.process()?;
    if process.state() != ProcessState::Running {
        return err(Errno::ENOENT);
    }
    let task = target.task().ok_or(Errno::ENOENT)?;
    let fs = task.fs.lock().clone();
    let dirs = fs.dirs.lock().clone();
    dirs.ok_or(Errno::ENOENT.into())
}

pub(super) fn cwd(_cx: &Cx, target: &Target) -> Result<Path> {
    Ok(dirs(target)?.0)
}

pub(super) fn root(_cx: &Cx, target: &Target) -> Result<Path> {
    Ok(dirs(target)?.1)
}

pub(super) fn exe(_cx: &Cx, target: &Target) -> Result<Path> {
    let process = target.process()?;
    if process.state() != ProcessState::Running {
        return err(Errno::ENOENT);
    }
    let exe = process.image.lock().exe.clone();
    exe.ok_or(Errno::ENOENT.into())
}

pub(super) fn wchan(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    target.process()?;
    out.text("0");
    Ok(())
}

pub(super) fn cpuset(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    target.process()?;
    out.text("/\n");
    Ok(())
}

pub(super) fn cgroup(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    target.process()?;
    out.text("0::/\n");
    Ok(())
}

pub(super) fn oom_score(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let process = target.process()?;
    // On Linux's scale of 0 to 2000 where 666 is a process that uses nothing.
    let score = crate::mm::oom_score(cx.kernel, &process).map_or(0, |score| (1000 + score) * 2 / 3);
    put!(out, "{}\n", score.max(0));
    Ok(())
}

pub(super) fn oom_score_adj(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    put!(out, "{}\n", target.process()?.oom_score_adj.load(Ordering::Relaxed));
    Ok(())
}

pub(super) fn set_oom_score_adj(cx: &Cx, target: &Target, bytes: &[u8]) -> Result<()> {
    let value = number(bytes)?;
    if !(-1000..=1000).contains(&value) {
        return err(Errno::EINVAL);
    }
    let process = target.process()?;
    // Only a privileged task may go below what it was given (`proc(5)`).
    let old = i64::from(process.oom_score_adj.load(Ordering::Relaxed));
    if value < old.min(0) && !cx.task.creds().has(Cap::SysResource) {
        return err(Errno::EACCES);
    }
    process.oom_score_adj.store(value as i32, Ordering::Relaxed);
    Ok(())
}

pub(super) fn oom_adj(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let score = target.process()?.oom_score_adj.load(Ordering::Relaxed);
    put!(out, "{}\n", if score == 1000 { 15 } else { score * 17 / 1000 });
    Ok(())
}

pub(super) fn set_oom_adj(cx: &Cx, target: &Target, bytes: &[u8]) -> Result<()> {
    let value = number(bytes)?;
    if !(-17..=15).contains(&value) {
        return err(Errno::EINVAL);
    }
    let score = if value == 15 { 1000 } else { value * 1000 / 17 };
    set_oom_score_adj(cx, target, alloc::format!("{score}").as_bytes())
}

/// `loginuid` and `sessionid` without an audit system: never set.
pub(super) fn unset_id(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    target.process()?;
    put!(out, "{}", u32::MAX);
    Ok(())
}

pub(super) fn coredump_filter(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    target.process()?;
    out.text("00000033\n");
    Ok(())
}

pub(super) fn io(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let process = target.process()?;
    let counts: [u64; 4] = core::array::from_fn(|i| process.io[i].load(Ordering::Relaxed));
    let [rchar, wchar, syscr, syscw] = counts;
    put!(out, "rchar: {rchar}\nwchar: {wchar}\nsyscr: {syscr}\nsyscw: {syscw}\n");
    out.text("read_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n");
    Ok(())
}

/// The identity: there is one user name space.
pub(super) fn id_map(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    target.process()?;
    put!(out, "{:>10} {:>10} {:>10}\n", 0, 0, u32::MAX);
    Ok(())
}

pub(super) fn setgroups(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    target.process()?;
    out.text("allow\n");
    Ok(())
}

pub(super) fn timerslack(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    put!(out, "{}\n", target.live_task()?.timer_slack_ns.load(Ordering::Relaxed));
    Ok(())
}

pub(super) fn set_timerslack(_cx: &Cx, target: &Target, bytes: &[u8]) -> Result<()> {
    let value = u64::try_from(number(bytes)?).map_err(|_| Errno::EINVAL)?;
    target.live_task()?.timer_slack_ns.store(value, Ordering::Relaxed);
    Ok(())
}
