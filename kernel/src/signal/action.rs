//! Signal actions, and taking pending signals without a handler (`sigtimedwait(2)`, `signalfd(2)`).

use super::{SigInfo, SigSet, send};
use crate::task::{Cx, Process};
use crate::time::signal_taken;
use abi::signal::Sigaction;
use alloc::sync::Arc;

/// Sets the action of a signal and returns the one before. A signal that is ignored from now on is no longer pending, blocked or not
/// (`sigaction(2)`; POSIX).
pub fn set_action(process: &Arc<Process>, signo: i32, action: Sigaction) -> Sigaction {
    let table = process.signals.actions.lock().clone();
    let before = {
        let mut actions = table.lock();
        let slot = usize::try_from(signo - 1).ok().and_then(|i| actions.get_mut(i));
        slot.map_or_else(Sigaction::default, |slot| core::mem::replace(slot, action))
    };
    if send::has_no_effect(&action, signo) {
        let set = SigSet::of(signo);
        process.signals.shared.lock().discard(set);
        for task in process.threads() {
            task.signals.lock().pending.discard(set);
        }
    }
    before
}

/// Takes the next pending signal in `set`, the thread's own before the process's. Does not block.
pub fn take(cx: &Cx, set: SigSet) -> Option<SigInfo> {
    let info = {
        let mut shared = cx.process().signals.shared.lock();
        let mut own = cx.task.signals.lock();
        own.pending.pop(set).or_else(|| shared.pop(set))
    }?;
    signal_taken(cx.process(), &info);
    Some(info)
}
