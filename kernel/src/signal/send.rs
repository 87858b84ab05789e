//! Sending signals.

use super::{SigInfo, SigSet, sig};
use crate::error::Result;
use crate::task::{ExitStatus, Process, Resource, Task, group_exit, must_end};
use crate::wait::PollEvents;
use abi::signal::Sigaction;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;
/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;

/// Whether a signal's default action is to do nothing.
pub fn ignored_by_default(signo: i32) -> bool {
    matches!(signo, sig::CHLD | sig::URG | sig::WINCH | sig::CONT)
}

/// Whether a signal with these actions has no effect on the process when it is not blocked.
fn is_ignored(process: &Process, signo: i32) -> bool {
    has_no_effect(&process.signals.action(signo), signo)
}

/// Whether this action does nothing about this signal.
pub(super) fn has_no_effect(action: &Sigaction, signo: i32) -> bool {
    action.handler == SIG_IGN || (action.handler == SIG_DFL && ignored_by_default(signo))
}

/// Sends to a process: any thread that does not block the signal takes it. Does not block. A signal that finds its queue full is lost.
pub fn send_to_process(process: &Arc<Process>, info: SigInfo) {
    let _ = try_send(process, None, info);
}

/// Sends to one thread.
pub fn send_to_task(task: &Arc<Task>, info: SigInfo) {
    let _ = try_send(&task.process, Some(task), info);
}

/// Sends to a process, or to one of its threads; `EAGAIN` when `RLIMIT_SIGPENDING` signals are queued already.
pub(crate) fn try_send(process: &Arc<Process>, target: Option<&Arc<Task>>, info: SigInfo) -> Result<()> {
    if process.pid == 1 {
        // The init process is a record of the kernel's; nothing disturbs it.
        return Ok(());
    }
    if info.signo == sig::KILL {
        group_exit(process, ExitStatus::Signaled { signo: sig::KILL, core: false });
        return Ok(());
    }
    side_effects(process, info.signo);
    let blocks = |task: &Arc<Task>| {
        let signals = task.signals.lock();
        signals.mask_lent || (signals.mask | signals.waiting_for).has(info.signo)
    };
    // An ignored signal is kept only while it is blocked: the action may change before it is unblocked.
    if is_ignored(process, info.signo) {
        let blocked = match target {
            Some(task) => blocks(task),
            None => process.threads().iter().all(blocks),
        };
        if !blocked {
            return Ok(());
        }
    }
    let limit = process.limit(Resource::Sigpending);
    match target {
        Some(task) => task.signals.lock().pending.push(info, limit)?,
        None => process.signals.shared.lock().push(info, limit)?,
    }
    process.signals.sent.wake_all(PollEvents::READABLE);
    match target {
        Some(task) => notify_if_ready(task, info.signo),
        // Looked at after the signal is in its queue: who unblocks it, starts or ends now sees it there.
        None => notify_one(&process.threads(), SigSet::of(info.signo)),
    }
    Ok(())
}

/// Tells the first thread that does not block one of these signals: the main thread if it can take it, as Linux prefers; and those before it
/// that may.
fn notify_one(threads: &[Arc<Task>], set: SigSet) {
    for task in threads {
        let (may, lent) = {
            let signals = task.signals.lock();
            (signals.may_take(set), signals.mask_lent)
        };
        if may {
            task.notify_signal();
        }
        if may && !lent {
            return;
        }
    }
}

/// `task` blocks `blocked` from now on, or ends: what is pending for the process and would have been its to take goes to another thread.
pub(crate) fn retarget(task: &Arc<Task>, blocked: SigSet) {
    let pending = task.process.signals.shared.lock().set() & blocked;
    for signo in pending.iter() {
        let mut others = task.process.threads();
        others.retain(|t| !Arc::ptr_eq(t, task));
        notify_one(&others, SigSet::of(signo));
    }
}

fn notify_if_ready(task: &Arc<Task>, signo: i32) {
    if task.signals.lock().may_take(SigSet::of(signo)) {
        task.notify_signal();
    }
}

/// Sending `SIGCONT` takes pending stops away and continues; sending a stop takes a pending `SIGCONT` away.
fn side_effects(process: &Arc<Process>, signo: i32) {
    let discard = if signo == sig::CONT {
        SigSet::STOPS
    } else if SigSet::STOPS.has(signo) {
        SigSet::of(sig::CONT)
    } else {
        SigSet::EMPTY
    };
    if !discard.is_empty() {
        {
            let mut shared = process.signals.shared.lock();
            shared.discard(discard);
            if signo == sig::CONT {
                process.signals.stop_taken.store(false, Ordering::SeqCst);
            }
        }
        for task in process.threads() {
            task.signals.lock().pending.discard(discard);
        }
    }
    if signo == sig::CONT {
        super::stop::continue_process(process);
    }
}

/// Whether a signal that is pending for `task` ends an interruptible wait: it is not blocked, or the task has to end or stop.
pub fn interrupts_wait(task: &Arc<Task>) -> bool {
    let process = &task.process;
    if must_end(task) || process.family.lock().stopped.is_some() {
        return true;
    }
    let shared = process.signals.shared.lock().set();
    let signals = task.signals.lock();
    !((signals.pending.set() | shared) - signals.mask).is_empty()
}
