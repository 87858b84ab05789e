//! Delivery: what a task does about its pending signals before it runs guest code.

use super::{SIG_DFL, SIG_IGN, SigInfo, SigSet, frame, sig, stop};
use crate::error::Restart;
use crate::task::user_loop::{InterruptedCall, restart_call, with_memory};
use crate::task::{Cx, ExitStatus, group_exit, must_end};
use crate::time::signal_taken;
use abi::signal::Sigaction;
use alloc::format;
use core::sync::atomic::Ordering;
use hal::LogLevel;

/// What a task does after its signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Runs guest code.
    Run,
    /// Ends with this status.
    Exit(ExitStatus),
}

/// What a signal does when the action is the default (`signal(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Default {
    Ignore,
    Stop,
    Terminate,
    Core,
}

fn default_action(signo: i32) -> Default {
    match signo {
        _ if super::ignored_by_default(signo) => Default::Ignore,
        sig::STOP | sig::TSTP | sig::TTIN | sig::TTOU => Default::Stop,
        sig::QUIT
        | sig::ILL
        | sig::TRAP
        | sig::ABRT
        | sig::BUS
        | sig::FPE
        | sig::SEGV
        | sig::XCPU
        | sig::XFSZ
        | sig::SYS => Default::Core,
        _ => Default::Terminate,
    }
}

/// Flags of `sigaction(2)`.
pub(super) mod flags {
    pub const NODEFER: u64 = 0x4000_0000;
    pub const RESETHAND: u64 = 0x8000_0000;
    pub const RESTART: u64 = 0x1000_0000;
    pub const ONSTACK: u64 = 0x0800_0000;
    pub const RESTORER: u64 = 0x0400_0000;
}

/// Delivers everything that can be delivered. `interrupted` is the call that a signal broke off, if one did.
pub(crate) fn deliver(cx: &Cx, mut interrupted: Option<InterruptedCall>) -> Delivery {
    let task = cx.task;
    // Cleared first: whatever comes from here on sets it again.
    task.signal_pending.store(false, Ordering::SeqCst);
    let mut handled = false;
    loop {
        if must_end(task) {
            let status = cx.process().family.lock().exiting.unwrap_or(ExitStatus::Exited(0));
            return Delivery::Exit(status);
        }
        if stop::wait_while_stopped(cx) {
            continue;
        }
        let Some(info) = next(cx) else { break };
        let action = cx.process().signals.action(info.signo);
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => match default_action(info.signo) {
                Default::Ignore => {}
                Default::Stop => stop::stop_process(cx, info.signo),
                Default::Terminate => end(cx, info.signo, false),
                Default::Core => end(cx, info.signo, true),
            },
            _ => {
                run_handler(cx, &info, action, interrupted.take());
                handled = true;
            }
        }
    }
    if let Some(call) = interrupted {
        restart_call(cx, call);
    }
    if !handled {
        let mut signals = task.signals.lock();
        if let Some(mask) = signals.saved_mask.take() {
            signals.mask = mask;
            drop(signals);
            // What the temporary mask held back may be deliverable now.
            if super::interrupts_wait(task) {
                task.signal_pending.store(true, Ordering::SeqCst);
                return deliver(cx, None);
            }
        }
    }
    Delivery::Run
}

/// The next signal that is not blocked. A stop that is taken out here is noted while the queue is locked, so that a `SIGCONT` from then
/// on takes it back.
fn next(cx: &Cx) -> Option<SigInfo> {
    let signals = &cx.process().signals;
    let info = {
        let mut shared = signals.shared.lock();
        let mut own = cx.task.signals.lock();
        let which = SigSet(!own.mask.0);
        let info = own.pending.pop(which).or_else(|| shared.pop(which));
        if info.is_some_and(|i| SigSet::STOPS.has(i.signo)) {
            signals.stop_taken.store(true, Ordering::SeqCst);
        }
        info
    }?;
    signal_taken(cx.process(), &info);
    Some(info)
}

fn end(cx: &Cx, signo: i32, core: bool) {
    // No core files are written, but a parent is told "core dumped" only where the limit would allow one.
    let core = core && cx.process().limit(crate::task::Resource::Core) > 0;
    if signo == sig::SEGV || signo == sig::BUS || signo == sig::ILL {
        let (vector, error, addr) = cx.last_fault.get();
        let mut user = cx.user.borrow_mut();
        let regs = user.regs();
        cx.kernel.log(
            LogLevel::Debug,
            &format!(
                "process {} ends by signal {signo}: vector {vector} error {error:#x} address {addr:#x} ip {:#x} sp {:#x}",
                cx.process().pid,
                regs.rip,
                regs.rsp
            ),
        );
    }
    group_exit(cx.process(), ExitStatus::Signaled { signo, core });
}

fn run_handler(cx: &Cx, info: &SigInfo, action: Sigaction, interrupted: Option<InterruptedCall>) {
    if let Some(call) = interrupted {
        // The result register holds -EINTR already.
        if call.restart == Restart::IfAsked && action.flags & flags::RESTART != 0 {
            restart_call(cx, call);
        }
    }
    if action.flags & flags::RESETHAND != 0 {
        set_default(cx, info.signo);
    }
    let old_mask = {
        let mut signals = cx.task.signals.lock();
        signals.saved_mask.take().unwrap_or(signals.mask)
    };
    // Programs know nothing of patched calls.
    let ip = cx.user.borrow_mut().regs().rip;
    cx.user.borrow_mut().regs().rip = cx.mm().outside_slots(ip);
    crate::task::rseq::update(cx);
    let pushed = with_memory(cx, || frame::push(cx, info, &action, old_mask));
    if pushed.is_ok() {
        let mut mask = cx.task.sigmask() | SigSet(action.mask);
        if action.flags & flags::NODEFER == 0 {
            mask.add(info.signo);
        }
        super::set_mask(cx.task, mask);
    } else {
        // No stack to run on: as on Linux, SIGSEGV, which kills if it is the one that failed. The mask is the one from before the call.
        cx.task.signals.lock().mask = old_mask;
        if info.signo == sig::SEGV {
            set_default(cx, sig::SEGV);
        }
        force(cx, SigInfo::kernel(sig::SEGV));
    }
}

fn set_default(cx: &Cx, signo: i32) {
    let table = cx.process().signals.actions.lock().clone();
    let mut actions = table.lock();
    if let Some(action) = usize::try_from(signo - 1).ok().and_then(|i| actions.get_mut(i)) {
        action.handler = SIG_DFL;
    }
}

/// Sends the current task a signal that it can't put off: a blocked or ignored one kills.
pub(crate) fn force(cx: &Cx, info: SigInfo) {
    let blocked = cx.task.sigmask().has(info.signo);
    let ignored = cx.process().signals.action(info.signo).handler == SIG_IGN;
    if blocked || ignored {
        set_default(cx, info.signo);
        cx.task.signals.lock().mask.remove(info.signo);
    }
    // Standard signals are never refused.
    let _ = cx.task.signals.lock().pending.push(info, u64::MAX);
    cx.task.signal_pending.store(true, Ordering::SeqCst);
}
