//! Who is to go when RAM is full.

use super::Mm;
use crate::Kernel;
use crate::task::{Cx, Process, ProcessState};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// An `oom_score_adj` that keeps a process alive (`proc_pid_oom_score_adj(5)`).
const NEVER: i32 = -1000;

/// How bad a process is, as `/proc/PID/oom_score` shows it: its resident memory in thousandths of RAM, with `oom_score_adj` added.
/// `None` for one that is never chosen.
pub fn oom_score(kernel: &Kernel, process: &Process) -> Option<i64> {
    let adjust = process.oom_score_adj.load(Ordering::Relaxed);
    if !may_go(process) {
        return None;
    }
    Some(points(kernel, process, adjust) * 1000 / (kernel.frames.total().max(1) as i64))
}

/// Whether a process may be killed at all: not init, which could not even end.
fn may_go(process: &Process) -> bool {
    process.pid != 1 && process.oom_score_adj.load(Ordering::Relaxed) > NEVER
}

/// The address space of a process: that of a thread that has not left it.
pub(crate) fn memory(process: &Process) -> Option<Arc<Mm>> {
    let threads = process.family.lock().threads.clone();
    threads.iter().find_map(|task| task.mm.lock().clone())
}

/// Resident memory in pages, with the adjustment in thousandths of RAM.
fn points(kernel: &Kernel, process: &Process, adjust: i32) -> i64 {
    let resident = memory(process).map_or(0, |mm| mm.resident_pages()) as i64;
    (resident + i64::from(adjust) * (kernel.frames.total() as i64) / 1000).max(0)
}

/// Gives up memory that processes keep only because it may be wanted again; how many frames.
pub fn reclaim(cx: &Cx) -> u64 {
    cx.kernel.pids.processes().iter().filter_map(|p| memory(p)).map(|mm| mm.empty_stash(cx)).sum()
}

/// The process to kill when RAM is full: one that is ending already, or else the one with the most resident memory and adjustment
/// (`oom_score_adj`). `None` when nobody may be killed.
pub fn oom_victim(kernel: &Kernel) -> Option<Arc<Process>> {
    let running = |p: &Arc<Process>| p.state() == ProcessState::Running;
    let processes = || kernel.pids.processes().into_iter().filter(running);
    if let Some(ending) = processes().find(|p| p.family.lock().exiting.is_some()) {
        return Some(ending);
    }
    processes()
        .filter_map(|p| {
            let adjust = p.oom_score_adj.load(Ordering::Relaxed);
            may_go(&p).then(|| (points(kernel, &p, adjust), p))
        })
        // The youngest of several that are equal.
        .max_by_key(|(points, p)| (*points, p.pid))
        .map(|(_, p)| p)
}
