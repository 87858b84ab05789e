//! Signals: actions, masks, waiting for them, alternate stacks. Sending is in [`super::kill`].

use super::SysRet;
use crate::error::{Error, Restart, Result, err};
use crate::signal::{self, SigInfo, SigSet, read_mask, sig, with_temporary_mask};
use crate::task::{Cx, WaitEnd};
use crate::user::UserPtr;
use abi::Errno;
use abi::signal::{RawSiginfo, SigAltStack, Sigaction};
use abi::time::Timespec;

/// Size of a signal set as the calls take it.
const SET_LEN: usize = size_of::<SigSet>();
/// The flags that Linux keeps (`UAPI_SA_FLAGS`); the others read back as zero, which is how a program asks what is supported.
const SA_FLAGS: u64 = 1 | 2 | 4 | 0x800 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x4000_0000 | 0x8000_0000;

/// `rt_sigaction(2)`.
pub(super) fn rt_sigaction(
    cx: &Cx,
    signo: i32,
    new: UserPtr<Sigaction>,
    old: UserPtr<Sigaction>,
    size: usize,
) -> Result<()> {
    if size != SET_LEN {
        return err(Errno::EINVAL);
    }
    let new = match new.non_null() {
        Some(ptr) => Some(ptr.read(cx)?),
        None => None,
    };
    if !(1..=sig::MAX).contains(&signo) || (new.is_some() && SigSet::UNBLOCKABLE.has(signo)) {
        return err(Errno::EINVAL);
    }
    signal::count_action_call(cx);
    let before = match new {
        None => cx.process().signals.action(signo),
        Some(action) => signal::set_action(
            cx.process(),
            signo,
            Sigaction { flags: action.flags & SA_FLAGS, mask: SigSet(action.mask).as_mask().0, ..action },
        ),
    };
    old.write_if_some(cx, &before)
}

/// `rt_sigprocmask(2)`.
pub(super) fn rt_sigprocmask(
    cx: &Cx,
    how: i32,
    set: UserPtr<SigSet>,
    old: UserPtr<SigSet>,
    size: usize,
) -> Result<()> {
    const BLOCK: i32 = 0;
    const UNBLOCK: i32 = 1;
    const SETMASK: i32 = 2;
    if size != SET_LEN {
        return err(Errno::EINVAL);
    }
    let before = cx.task.sigmask();
    if !set.is_null() {
        let set = set.read(cx)?;
        let mask = match how {
            BLOCK => before | set,
            UNBLOCK => before - set,
            SETMASK => set,
            _ => return err(Errno::EINVAL),
        };
        signal::set_mask(cx.task, mask);
        signal::count_mask_call(cx);
    }
    old.write_if_some(cx, &before)
}

/// `rt_sigpending(2)`: what is pending and blocked.
pub(super) fn rt_sigpending(cx: &Cx, set: UserPtr<u8>, size: usize) -> Result<()> {
    if size > SET_LEN {
        return err(Errno::EINVAL);
    }
    let shared = cx.process().signals.shared.lock().set();
    let (own, mask) = {
        let signals = cx.task.signals.lock();
        (signals.pending.set(), signals.mask)
    };
    let bytes = ((own | shared) & mask).0.to_le_bytes();
    set.write_bytes(cx, bytes.get(..size).unwrap_or_default())
}

/// `rt_sigtimedwait(2)`.
pub(super) fn rt_sigtimedwait(
    cx: &Cx,
    set: UserPtr<SigSet>,
    info: UserPtr<RawSiginfo>,
    timeout: UserPtr<Timespec>,
    size: usize,
) -> Result<i32> {
    if size != SET_LEN {
        return err(Errno::EINVAL);
    }
    let set = set.read(cx)?.as_mask();
    let deadline_ns = match timeout.non_null() {
        Some(ptr) => {
            let time = ptr.read(cx)?.to_ns().ok_or(Errno::EINVAL)?;
            Some(cx.now_ns().saturating_add(time))
        }
        None => None,
    };
    let taken = wait_for(cx, set, deadline_ns)?;
    info.write_if_some(cx, &taken.to_raw())?;
    Ok(taken.signo)
}

fn wait_for(cx: &Cx, set: SigSet, deadline_ns: Option<u64>) -> Result<SigInfo> {
    if let Some(info) = signal::take(cx, set) {
        return Ok(info);
    }
    cx.task.signals.lock().waiting_for = set;
    let end = cx.wait_deadline(&[&cx.process().signals.sent], deadline_ns, || signal::take(cx, set));
    cx.task.signals.lock().waiting_for = SigSet::EMPTY;
    match end {
        Ok(info) => Ok(info),
        Err(WaitEnd::TimedOut) => err(Errno::EAGAIN),
        Err(WaitEnd::Interrupted) => err(Errno::EINTR),
    }
}

/// `rt_sigsuspend(2)`.
pub(super) fn rt_sigsuspend(cx: &Cx, mask: UserPtr<u64>, size: usize) -> Result<()> {
    if size != SET_LEN {
        return err(Errno::EINVAL);
    }
    let mask = match read_mask(cx, mask, size)? {
        Some(mask) => mask,
        None => return err(Errno::EFAULT),
    };
    with_temporary_mask(cx, Some(mask), || pause(cx))
}

/// `pause(2)`.
pub(super) fn pause(cx: &Cx) -> Result<()> {
    cx.sleep(None);
    Err(Error::Interrupted(Restart::UnlessHandled))
}

/// `rt_sigreturn(2)`.
pub(super) fn rt_sigreturn(cx: &Cx) -> Result<SysRet> {
    if signal::sigreturn(cx).is_err() {
        signal::force(cx, SigInfo::kernel(sig::SEGV));
    }
    Ok(SysRet::Keep)
}

/// `sigaltstack(2)`.
pub(super) fn sigaltstack(cx: &Cx, new: UserPtr<SigAltStack>, old: UserPtr<SigAltStack>) -> Result<()> {
    const ONSTACK: i32 = 1;
    const DISABLE: i32 = 2;
    const AUTODISARM: i32 = 1 << 31;
    const MINSIGSTKSZ: u64 = 2048;
    let new = match new.non_null() {
        Some(ptr) => Some(ptr.read(cx)?),
        None => None,
    };
    let sp = cx.user.borrow_mut().stack_pointer();
    let before = cx.task.signals.lock().altstack;
    let before = SigAltStack { flags: signal::alt_stack_flags(cx.task, sp), pad: 0, ..before };
    if let Some(new) = new {
        if before.flags & ONSTACK != 0 {
            return err(Errno::EPERM);
        }
        let keep = new.flags & AUTODISARM;
        let stack = match new.flags & !AUTODISARM {
            DISABLE => SigAltStack { sp: 0, flags: keep, pad: 0, size: 0 },
            0 | ONSTACK if new.size < MINSIGSTKSZ => return err(Errno::ENOMEM),
            0 | ONSTACK => SigAltStack { flags: keep, pad: 0, ..new },
            _ => return err(Errno::EINVAL),
        };
        cx.task.signals.lock().altstack = stack;
    }
    old.write_if_some(cx, &before)
}
