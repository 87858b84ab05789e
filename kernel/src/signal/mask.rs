//! Signal masks: set for good, for the time of one call (`ppoll(2)`, `pselect(2)`, `epoll_pwait(2)`, `sigsuspend(2)`), and by guest code
//! without a trap.
//!
//! A thread that changes its mask often is lent it while it runs ([`hal::Offers`]), unless a signal is pending for it. Meanwhile
//! `TaskSignals::mask` may be old: whoever sends a signal counts it as one that the thread may take and interrupts it, and the thread looks again with
//! its mask taken back.

use super::{SigSet, interrupts_wait};
use crate::error::{Error, Result};
use crate::task::{Cx, Task};
use crate::user::UserPtr;
use abi::Errno;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// Runs `call` with this mask. When a signal interrupts it, the old mask stays in `saved_mask`: the signal code delivers under the temporary
/// mask and puts the old one back, into the handler's frame or, when no handler runs, at once. Otherwise it is put back here.
pub fn with_temporary_mask<T>(cx: &Cx, mask: Option<SigSet>, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(mask) = mask else { return call() };
    {
        let mut signals = cx.task.signals.lock();
        let old = core::mem::replace(&mut signals.mask, mask.as_mask());
        signals.saved_mask.get_or_insert(old);
    }
    // What the old mask blocked may be deliverable now.
    if interrupts_wait(cx.task) {
        cx.task.signal_pending.store(true, Ordering::SeqCst);
    }
    let result = call();
    if !matches!(result, Err(Error::Interrupted(_))) {
        let mut signals = cx.task.signals.lock();
        if let Some(old) = signals.saved_mask.take() {
            signals.mask = old;
        }
    }
    result
}

/// Sets the mask of a thread. What it lets through is delivered before guest code runs; what it blocks goes to other threads.
pub fn set_mask(task: &Arc<Task>, mask: SigSet) {
    let mask = mask.as_mask();
    let before = core::mem::replace(&mut task.signals.lock().mask, mask);
    let blocked = mask - before;
    if !blocked.is_empty() && task.process.signals.has_shared() {
        super::send::retarget(task, blocked);
    }
    if !(before - mask).is_empty() && interrupts_wait(task) {
        task.signal_pending.store(true, Ordering::SeqCst);
    }
}

/// Copies in a signal set that a call takes with its size: `None` for `NULL`, `EINVAL` for a wrong size.
pub fn read_mask(cx: &Cx, mask: UserPtr<u64>, size: usize) -> Result<Option<SigSet>> {
    let Some(mask) = mask.non_null() else { return Ok(None) };
    if size != size_of::<u64>() {
        return Err(Errno::EINVAL.into());
    }
    Ok(Some(SigSet(mask.read(cx)?)))
}

/// How often a thread has to change its mask before it is lent it: lending costs something with each run.
const LENT_AFTER: u8 = 8;

/// The task has changed its mask by a call.
pub(crate) fn count_mask_call(cx: &Cx) {
    cx.mask_calls.set((cx.mask_calls.get() + 1).min(LENT_AFTER));
}

/// Lends the current thread its mask until [`take_mask_back`]; `None` when it does not use it, or when a change may let a signal through.
pub(crate) fn lend_mask(cx: &Cx) -> Option<SigSet> {
    if cx.mask_calls.get() < LENT_AFTER {
        return None;
    }
    let mask = {
        let mut signals = cx.task.signals.lock();
        signals.mask_lent = signals.pending.is_empty();
        signals.mask_lent.then_some(signals.mask)
    };
    // Whoever sends to the process puts the signal into the queue first and then looks at the threads: one of the two sees the other.
    if mask.is_some() && cx.process().signals.has_shared() {
        cx.task.signals.lock().mask_lent = false;
        return None;
    }
    mask
}

/// Guest code has stopped, and has left this mask.
pub(crate) fn take_mask_back(cx: &Cx, mask: SigSet) {
    let changed = {
        let mut signals = cx.task.signals.lock();
        signals.mask_lent = false;
        signals.mask != mask.as_mask()
    };
    if changed {
        set_mask(cx.task, mask);
    }
}
