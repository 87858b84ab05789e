//! Signals to process groups, and what POSIX says of orphaned groups and session leaders.

use super::{SigInfo, sig};
use crate::Kernel;
use crate::task::{Process, ProcessState};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// The living processes of a group.
pub fn members(kernel: &Kernel, pgid: i32) -> Vec<Arc<Process>> {
    let mut all = kernel.pids.processes();
    all.retain(|p| p.pgid.load(Ordering::Relaxed) == pgid && p.state() == ProcessState::Running);
    all
}

/// Sends a signal to every process of a group; the number of processes.
pub fn send_to_group(kernel: &Kernel, pgid: i32, info: SigInfo) -> usize {
    let members = members(kernel, pgid);
    for process in &members {
        process.send_signal(info);
    }
    members.len()
}

/// Whether no member of the process's group has a parent in another group of the same session, so that nobody would continue it.
pub(crate) fn is_orphaned(kernel: &Kernel, process: &Process) -> bool {
    orphaned_without(kernel, process.pgid.load(Ordering::Relaxed), process.session.lock().id, None)
}

fn orphaned_without(kernel: &Kernel, pgid: i32, session: i32, leaving: Option<i32>) -> bool {
    !members(kernel, pgid).iter().any(|member| {
        let Some(parent) = member.family.lock().parent.upgrade() else { return false };
        Some(parent.pid) != leaving
            && Some(member.pid) != leaving
            && parent.pgid.load(Ordering::Relaxed) != pgid
            && parent.session.lock().id == session
    })
}

/// A process ended: groups that it leaves orphaned with stopped members get `SIGHUP` and `SIGCONT` (POSIX, `_exit`): its own, and those
/// of its children, `groups`.
pub(crate) fn hang_up_orphans_of(kernel: &Kernel, process: &Process, parent: &Process, mut groups: Vec<i32>) {
    let session = process.session.lock().id;
    let group = process.pgid.load(Ordering::Relaxed);
    if parent.session.lock().id == session && parent.pgid.load(Ordering::Relaxed) != group {
        groups.push(group);
    }
    groups.sort_unstable();
    groups.dedup();
    for pgid in groups {
        let stopped = members(kernel, pgid).iter().any(|p| p.family.lock().stopped.is_some());
        if stopped && orphaned_without(kernel, pgid, session, Some(process.pid)) {
            send_to_group(kernel, pgid, SigInfo::kernel(sig::HUP));
            send_to_group(kernel, pgid, SigInfo::kernel(sig::CONT));
        }
    }
}

/// A session leader that ends gives up its terminal, whose foreground group gets `SIGHUP` (`setsid(2)`).
pub(crate) fn leave_session_if_leader(kernel: &Arc<Kernel>, process: &Arc<Process>) {
    let session = process.session.lock().clone();
    if session.id == process.pid {
        crate::tty::session_ended(kernel, &session);
    }
}
