//! Controlling terminals and job control (`credentials(7)`, `termios(3)`, POSIX ch. 11.1).

use super::Terminal;
use crate::Kernel;
use crate::error::{Error, Restart, Result, err};
use crate::signal::{SIG_IGN, SigInfo, group, sig};
use crate::task::{Cap, Cx, Session};
use abi::Errno;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

/// The controlling terminal of a session.
pub(crate) fn of_session(session: &Session) -> Option<Arc<Terminal>> {
    let tty = session.tty.lock().clone()?;
    tty.downcast::<Terminal>().ok()
}

/// The controlling terminal of the caller.
pub(super) fn of_caller(cx: &Cx) -> Option<Arc<Terminal>> {
    let session = cx.process().session.lock().clone();
    of_session(&session)
}

fn is_controlling(cx: &Cx, terminal: &Terminal) -> bool {
    of_caller(cx).is_some_and(|own| core::ptr::eq(own.as_ref(), terminal))
}

/// The caller's process group.
pub(super) fn own_group(cx: &Cx) -> i32 {
    cx.process().pgid.load(Ordering::Relaxed)
}

/// Lets a background process know that it must not do this now: it gets `signo` (`SIGTTIN` or `SIGTTOU`) and the call is tried again
/// later. `EIO` when the signal could not have an effect.
pub(super) fn check_foreground(cx: &Cx, terminal: &Terminal, signo: i32) -> Result<()> {
    if !is_controlling(cx, terminal) {
        return Ok(());
    }
    let foreground = terminal.state.lock().foreground;
    let own = own_group(cx);
    if foreground == 0 || foreground == own {
        return Ok(());
    }
    let process = cx.process();
    let ignored = cx.task.sigmask().has(signo) || process.signals.action(signo).handler == SIG_IGN;
    if ignored {
        return if signo == sig::TTIN { err(Errno::EIO) } else { Ok(()) };
    }
    if group::is_orphaned(cx.kernel, process) {
        return err(Errno::EIO);
    }
    group::send_to_group(cx.kernel, own, SigInfo::kernel(signo));
    Err(Error::Interrupted(Restart::IfAsked))
}

/// Makes it the controlling terminal of the caller's session. The caller has checked that it may.
fn acquire(cx: &Cx, terminal: &Arc<Terminal>) {
    let session = cx.process().session.lock().clone();
    let previous = session.tty.lock().replace(terminal.clone());
    drop(previous);
    let mut state = terminal.state.lock();
    state.session = Arc::downgrade(&session);
    state.foreground = own_group(cx);
}

/// A session leader without a terminal that opens a free one for reading gets it (`open(2)`, `O_NOCTTY`).
pub(super) fn acquire_on_open(cx: &Cx, terminal: &Arc<Terminal>) {
    let session = cx.process().session.lock().clone();
    let leader = session.id == cx.process().pid;
    let has_terminal = session.tty.lock().is_some();
    if leader && !has_terminal && terminal.state.lock().session.upgrade().is_none() {
        acquire(cx, terminal);
    }
}

/// `TIOCSCTTY`.
pub(super) fn set_controlling(cx: &Cx, terminal: &Arc<Terminal>, readable: bool, steal: bool) -> Result<()> {
    let session = cx.process().session.lock().clone();
    let leader = session.id == cx.process().pid;
    let owner = terminal.state.lock().session.upgrade();
    if leader && owner.as_ref().is_some_and(|owner| Arc::ptr_eq(owner, &session)) {
        return Ok(());
    }
    if !leader || session.tty.lock().is_some() {
        return err(Errno::EPERM);
    }
    let admin = cx.task.creds().has(Cap::SysAdmin);
    if let Some(owner) = owner {
        if !(steal && admin) {
            return err(Errno::EPERM);
        }
        let lost = owner.tty.lock().take();
        drop(lost);
    }
    if !readable && !admin {
        return err(Errno::EPERM);
    }
    acquire(cx, terminal);
    Ok(())
}

/// `TIOCNOTTY`. Differs from Linux: only the session as a whole can let go, so for anyone but its leader nothing changes.
pub(super) fn give_up(cx: &Cx, terminal: &Terminal) -> Result<()> {
    if !is_controlling(cx, terminal) {
        return err(Errno::ENOTTY);
    }
    let session = cx.process().session.lock().clone();
    if session.id == cx.process().pid {
        leave(cx.kernel, &session, true);
    }
    Ok(())
}

/// The session lets go of its terminal; the foreground group gets `SIGHUP`, and `SIGCONT` unless the leader is ending.
pub(super) fn leave(kernel: &Kernel, session: &Session, with_continue: bool) {
    let Some(terminal) = of_session(session) else { return };
    let foreground = {
        let mut state = terminal.state.lock();
        state.session = Weak::new();
        core::mem::take(&mut state.foreground)
    };
    let lost = session.tty.lock().take();
    drop(lost);
    if foreground > 0 {
        group::send_to_group(kernel, foreground, SigInfo::kernel(sig::HUP));
        if with_continue {
            group::send_to_group(kernel, foreground, SigInfo::kernel(sig::CONT));
        }
    }
}

/// `TIOCGPGRP`: 0 when there is no foreground group.
pub(super) fn foreground(cx: &Cx, terminal: &Terminal, from_master: bool) -> Result<i32> {
    if !from_master && !is_controlling(cx, terminal) {
        return err(Errno::ENOTTY);
    }
    Ok(terminal.state.lock().foreground)
}

/// `TIOCSPGRP`.
pub(super) fn set_foreground(cx: &Cx, terminal: &Terminal, pgid: i32) -> Result<()> {
    match check_foreground(cx, terminal, sig::TTOU) {
        Err(e @ Error::Errno { errno: Errno::EIO, .. }) => {
            return Err(match e {
                Error::Errno { why, .. } => Error::new(Errno::ENOTTY, why),
                other => other,
            });
        }
        other => other?,
    }
    if pgid < 0 {
        return err(Errno::EINVAL);
    }
    let session = cx.process().session.lock().clone();
    let owns = core::ptr::eq(terminal.state.lock().session.as_ptr(), Arc::as_ptr(&session));
    if !is_controlling(cx, terminal) || !owns {
        return err(Errno::ENOTTY);
    }
    let member = cx.kernel.pids.processes().into_iter().find(|p| p.pgid.load(Ordering::Relaxed) == pgid);
    let Some(member) = member else { return err(Errno::ESRCH) };
    if member.session.lock().id != session.id {
        return err(Errno::EPERM);
    }
    terminal.state.lock().foreground = pgid;
    Ok(())
}

/// `TIOCGSID`.
pub(super) fn session_of(cx: &Cx, terminal: &Terminal, from_master: bool) -> Result<i32> {
    if !from_master && !is_controlling(cx, terminal) {
        return err(Errno::ENOTTY);
    }
    match terminal.state.lock().session.upgrade() {
        Some(session) => Ok(session.id),
        None => err(Errno::ENOTTY),
    }
}
