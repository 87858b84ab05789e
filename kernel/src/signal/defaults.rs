//! Default actions, which a thread that asks for many or sets many is lent: `posix_spawn` asks for each signal's action in the child and sets the default one.
//!
//! What it may change without the kernel has no effect but on what it is told when it asks: flags and restorer of an action without handler. So
//! nobody else needs to know that it is lent, unless he shares the actions; then they are not lent.

use super::{SIG_DFL, SigSet, sig};
use crate::task::Cx;
use abi::signal::Sigaction;
use alloc::sync::Arc;
use hal::DefaultActions;

/// `SA_RESTORER` (`asm/signal.h`).
const SA_RESTORER: u64 = 0x0400_0000;
/// What a call counts, less one for each time that the thread stops for whatever reason; from how much on it is lent them, and the most.
const CALL: u8 = 2;
const LENT_FROM: u8 = 6;
const MOST: u8 = 12;

/// The thread has asked for an action or set one by a call.
pub(crate) fn count_action_call(cx: &Cx) {
    cx.action_calls.set((cx.action_calls.get() + CALL).min(MOST));
}

/// Lends the current thread its process's default actions until it stops; `None` when it does not use them, or somebody else could notice.
pub(crate) fn lend_actions(cx: &Cx) -> Option<DefaultActions> {
    let calls = cx.action_calls.get();
    cx.action_calls.set(calls.saturating_sub(1));
    if calls < LENT_FROM {
        return None;
    }
    let process = cx.process();
    // A default action takes pending signals away that it ignores.
    if process.family.lock().threads.len() > 1
        || process.signals.has_shared()
        || !cx.task.signals.lock().pending.is_empty()
    {
        return None;
    }
    let table = process.signals.actions.lock();
    if Arc::strong_count(&table) > 1 {
        return None;
    }
    let mut lent = DefaultActions::default();
    for (signo, action) in (1..=sig::MAX).zip(table.lock().iter()) {
        let bit = SigSet::of(signo).0;
        if action.handler != SIG_DFL || action.mask != 0 || SigSet::UNBLOCKABLE.has(signo) {
            continue;
        }
        match (action.flags, action.restorer) {
            (0, 0) => lent.defaults |= bit,
            // Of several restorers, the first.
            (SA_RESTORER, restorer) if lent.plain == 0 || restorer == lent.restorer => {
                lent.restorer = restorer;
                lent.defaults |= bit;
                lent.plain |= bit;
            }
            _ => {}
        }
    }
    cx.actions_lent.set(Some(lent));
    Some(lent)
}

/// The thread has stopped, and says which of the actions that it was lent have a restorer now.
pub(crate) fn take_actions_back(cx: &Cx, lent: DefaultActions, plain: u64) {
    let changed = SigSet(plain & lent.defaults & !lent.plain);
    if changed.is_empty() {
        return;
    }
    let table = cx.process().signals.actions.lock();
    for (signo, action) in (1..=sig::MAX).zip(table.lock().iter_mut()) {
        if changed.has(signo) {
            *action = Sigaction { flags: SA_RESTORER, restorer: lent.restorer, ..Sigaction::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{SigInfo, code, set_action};
    use crate::testing;

    const RESTORER: u64 = 0x40_1000;

    fn plain() -> Sigaction {
        Sigaction { flags: SA_RESTORER, restorer: RESTORER, ..Sigaction::default() }
    }

    /// What is lent after a call.
    fn after_call(cx: &Cx) -> Option<DefaultActions> {
        count_action_call(cx);
        cx.actions_lent.take();
        lend_actions(cx)
    }

    #[test]
    fn default_actions_are_lent_and_come_back() {
        testing::run(|cx| {
            set_action(cx.process(), sig::INT, plain());
            set_action(cx.process(), sig::USR1, Sigaction { handler: 0x1234, ..plain() });
            set_action(cx.process(), sig::USR2, Sigaction { mask: 1, ..plain() });
            set_action(cx.process(), sig::HUP, Sigaction { restorer: RESTORER + 1, ..plain() });
            assert_eq!((0..4).filter_map(|_| after_call(cx)).count(), 0, "not at once");
            let lent = (0..4).find_map(|_| after_call(cx)).unwrap();
            // The first restorer is the one of SIGHUP.
            assert_eq!((lent.plain, lent.restorer), (1 << (sig::HUP - 1), RESTORER + 1));
            set_action(cx.process(), sig::HUP, Sigaction::default());
            let lent = after_call(cx).unwrap();
            let own = [sig::USR1, sig::USR2, sig::KILL, sig::STOP];
            assert_eq!(lent.defaults, own.iter().fold(!0, |set, signo| set & !SigSet::of(*signo).0));
            assert_eq!((lent.plain, lent.restorer), (1 << (sig::INT - 1), RESTORER));

            // Only what was lent comes back, whatever the guest says.
            take_actions_back(cx, lent, !0);
            let action = |signo| {
                let action = cx.process().signals.action(signo);
                (action.handler, action.flags, action.restorer, action.mask)
            };
            for signo in [sig::HUP, sig::CHLD] {
                assert_eq!(action(signo), (0, SA_RESTORER, RESTORER, 0));
            }
            assert_eq!(action(sig::USR1), (0x1234, SA_RESTORER, RESTORER, 0));
            assert_eq!(action(sig::USR2), (0, SA_RESTORER, RESTORER, 1));
            assert_eq!(action(sig::KILL), (0, 0, 0, 0));

            // Nothing is lent that takes away what is pending, that others share, or when nobody asks any more.
            assert!(after_call(cx).is_some());
            let table = cx.process().signals.actions.lock().clone();
            assert!(after_call(cx).is_none());
            drop(table);
            assert!(after_call(cx).is_some());
            cx.task.signals.lock().mask = SigSet::of(sig::CHLD);
            cx.process().send_signal(SigInfo::user(sig::CHLD, code::USER, 1, 0));
            assert!(after_call(cx).is_none());
            cx.process().signals.shared.lock().discard(SigSet::ALL);
            assert!(after_call(cx).is_some());
            assert!((0..16).map(|_| lend_actions(cx)).last().unwrap().is_none());
        });
    }
}
