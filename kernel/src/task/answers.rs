//! System calls that the machine may answer itself: those whose results a task knows in advance, because they say who it is, and those
//! that change nothing but its own state.

use super::Cx;
use crate::fs::{lend, view};
use abi::raw;
use hal::Offers;

/// Tells the machine what it may answer for this task, if it is time. Whoever changes one of these sets [`Cx::answers_stale`].
pub(super) fn update(cx: &Cx) {
    if !cx.kernel.patches() || !cx.answers_stale.replace(false) {
        return;
    }
    let creds = cx.task.creds();
    let answers = [
        (raw::__NR_getpid, cx.process().pid as u32),
        (raw::__NR_gettid, cx.task.tid() as u32),
        (raw::__NR_getuid, creds.uid),
        (raw::__NR_geteuid, creds.euid),
        (raw::__NR_getgid, creds.gid),
        (raw::__NR_getegid, creds.egid),
    ];
    cx.user.borrow_mut().set_answers(&answers.map(|(nr, value)| (nr as u8, u64::from(value))));
}

/// Before guest code runs: what the machine may do for it. `alone` says that nobody waits for the CPU.
pub(super) fn offer(cx: &Cx, alone: bool) {
    if cx.kernel.patches() {
        let sigmask = crate::signal::lend_mask(cx).map(|mask| mask.0);
        let actions = crate::signal::lend_actions(cx);
        let closable = lend::closable(cx);
        view::offer(cx);
        cx.user.borrow_mut().set_offers(Offers { yields: alone, sigmask, actions, closable });
    }
}

/// Guest code has stopped: takes over what it has changed.
pub(super) fn take_back(cx: &Cx) {
    lend::take_back(cx);
    if let Some(lent) = cx.actions_lent.take() {
        let plain = cx.user.borrow().plain_actions();
        crate::signal::take_actions_back(cx, lent, plain.unwrap_or(lent.plain));
    }
    if cx.mask_calls.get() == 0 {
        return;
    }
    let sigmask = cx.user.borrow().sigmask();
    if let Some(mask) = sigmask {
        crate::signal::take_mask_back(cx, crate::signal::SigSet(mask));
    }
}
