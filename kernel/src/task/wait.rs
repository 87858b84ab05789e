//! Waiting for children (`wait(2)`).
#![allow(missing_docs, reason = "flags carry the names of the uapi headers")]

use super::{Cx, ExitStatus, Process, ProcessState, Usage, exit};
use crate::error::{Error, Result, err};
use abi::Errno;
use alloc::sync::Arc;
use bitflags::bitflags;
use core::sync::atomic::Ordering;

bitflags! {
    /// Options of `waitid(2)` and `wait4(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct WaitOptions: u32 {
        /// `WNOHANG`.
        const NOHANG = 1;
        /// `WUNTRACED` and `WSTOPPED`.
        const STOPPED = 2;
        /// `WEXITED`.
        const EXITED = 4;
        /// `WCONTINUED`.
        const CONTINUED = 8;
        /// `WNOWAIT`.
        const NOWAIT = 0x0100_0000;
        /// `__WNOTHREAD`.
        const NOTHREAD = 0x2000_0000;
        /// `__WALL`.
        const ALL = 0x4000_0000;
        /// `__WCLONE`.
        const CLONE = 0x8000_0000;
    }
}

/// Which children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Any.
    Any,
    /// This one.
    Pid(i32),
    /// Those of this process group.
    Group(i32),
}

/// What a child did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ended.
    Ended(ExitStatus),
    /// Stopped by this signal.
    Stopped(i32),
    /// Continued.
    Continued,
}

/// A report of [`wait`].
pub struct Report {
    /// The child.
    pub pid: i32,
    /// Its real user id.
    pub uid: u32,
    /// What it did.
    pub change: Change,
    /// What it used, with its own waited-for children.
    pub usage: Usage,
}

/// Waits for a change of a child; `None` when `NOHANG` and nothing yet. `ECHILD` when there is no such child.
pub fn wait(cx: &Cx, which: Which, options: WaitOptions) -> Result<Option<Report>> {
    let process = cx.process();
    cx.wait(&process.child_changed, || match look(cx, which, options) {
        Ok(Some(report)) => Some(Ok(Some(report))),
        Ok(None) if options.contains(WaitOptions::NOHANG) => Some(Ok(None)),
        Ok(None) => None,
        Err(error) => Some(Err(error)),
    })
}

fn matches(child: &Process, which: Which, options: WaitOptions) -> bool {
    let chosen = match which {
        Which::Any => true,
        Which::Pid(pid) => child.pid == pid,
        Which::Group(pgid) => child.pgid.load(Ordering::Relaxed) == pgid,
    };
    // A child that does not send SIGCHLD is a "clone child".
    let clone_child = child.exit_signal.load(Ordering::Relaxed) != crate::signal::sig::CHLD;
    chosen && (options.contains(WaitOptions::ALL) || clone_child == options.contains(WaitOptions::CLONE))
}

fn look(cx: &Cx, which: Which, options: WaitOptions) -> Result<Option<Report>, Error> {
    // A parent of thousands does not look at all of them for the one that it means.
    let named = match which {
        Which::Pid(pid) => Some(cx.kernel.pids.process(pid)),
        Which::Any | Which::Group(_) => None,
    };
    let mut any = false;
    let mut look_at = |child: &Arc<Process>| {
        if !matches(child, which, options) {
            return None;
        }
        any = true;
        Some((child.clone(), take_change(child, options)?))
    };
    let family = cx.process().family.lock();
    let found = match &named {
        Some(child) => {
            let mine = |child: &&Arc<Process>| family.children.iter().any(|c| Arc::ptr_eq(c, child));
            child.as_ref().filter(mine).and_then(&mut look_at)
        }
        None => family.children.iter().find_map(&mut look_at),
    };
    drop(family);
    let Some((child, change)) = found else { return if any { Ok(None) } else { err(Errno::ECHILD) } };
    let usage = child.usage_with_children();
    let uid = child.leader.lock().as_ref().map_or(0, |t| t.creds().uid);
    if matches!(change, Change::Ended(_)) && !options.contains(WaitOptions::NOWAIT) {
        exit::bury(cx.kernel, &child);
    }
    Ok(Some(Report { pid: child.pid, uid, change, usage }))
}

/// A change that the options ask for; it is taken unless `NOWAIT`. A zombie is claimed by whoever sees it first.
fn take_change(child: &Arc<Process>, options: WaitOptions) -> Option<Change> {
    let keep = options.contains(WaitOptions::NOWAIT);
    let mut family = child.family.lock();
    match family.state {
        ProcessState::Zombie(status) if options.contains(WaitOptions::EXITED) => {
            if !keep {
                family.state = ProcessState::Reaped;
            }
            return Some(Change::Ended(status));
        }
        ProcessState::Running => {}
        _ => return None,
    }
    if options.contains(WaitOptions::STOPPED) && family.stop_unreported {
        if let Some(signo) = family.stopped {
            family.stop_unreported = keep;
            return Some(Change::Stopped(signo));
        }
    }
    if options.contains(WaitOptions::CONTINUED) && family.continue_unreported {
        family.continue_unreported = keep;
        return Some(Change::Continued);
    }
    None
}
