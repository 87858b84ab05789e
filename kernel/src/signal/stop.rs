//! Stopping and continuing processes (job control, `SIGSTOP`, `SIGCONT`).

use super::{code, group, sig};
use crate::task::{Cx, Process, exit};
use crate::wait::PollEvents;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// `SA_NOCLDSTOP`.
const SA_NOCLDSTOP: u64 = 1;

/// The current task's process stops because of `signo`. A terminal stop has no effect in an orphaned process group (POSIX).
pub(super) fn stop_process(cx: &Cx, signo: i32) {
    let process = cx.process();
    if signo != sig::STOP && group::is_orphaned(cx.kernel, process) {
        return;
    }
    let threads = {
        let mut family = process.family.lock();
        if family.exiting.is_some() || !process.signals.stop_taken.swap(false, Ordering::SeqCst) {
            return;
        }
        family.stopped = Some(signo);
        family.stop_unreported = true;
        family.continue_unreported = false;
        family.threads.clone()
    };
    for task in threads.iter().filter(|t| !Arc::ptr_eq(t, cx.task)) {
        task.notify_signal();
    }
    tell_parent(process, code::CLD_STOPPED, signo);
}

/// Waits while the process is stopped; true when it waited.
pub(super) fn wait_while_stopped(cx: &Cx) -> bool {
    let process = cx.process();
    if process.family.lock().stopped.is_none() {
        return false;
    }
    cx.wait_killable(&process.changed, || process.family.lock().stopped.is_none().then_some(()));
    // Whatever came while it was stopped is looked at now.
    cx.task.signal_pending.store(true, Ordering::SeqCst);
    true
}

/// `SIGCONT` was sent.
pub(super) fn continue_process(process: &Arc<Process>) {
    {
        let mut family = process.family.lock();
        if family.stopped.take().is_none() {
            return;
        }
        family.stop_unreported = false;
        family.continue_unreported = true;
    }
    process.changed.wake_all(PollEvents::empty());
    tell_parent(process, code::CLD_CONTINUED, sig::CONT);
}

fn tell_parent(process: &Arc<Process>, code: i32, status: i32) {
    let parent = process.family.lock().parent.upgrade();
    let Some(parent) = parent else { return };
    if parent.signals.action(sig::CHLD).flags & SA_NOCLDSTOP == 0 {
        parent.send_signal(exit::child_signal(process, sig::CHLD, code, status));
    }
    parent.child_changed.wake_all(PollEvents::READABLE);
}
