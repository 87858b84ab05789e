//! Sending signals: `kill(2)`, `tgkill(2)`, `rt_sigqueueinfo(2)` and their kin.

use crate::error::{Result, err};
use crate::signal::{SigInfo, code, sig, try_send};
use crate::task::{Cap, Cx, Process, ProcessState, Task};
use crate::user::UserPtr;
use abi::Errno;
use abi::signal::RawSiginfo;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// Whether the task may send `signo` to a process (`kill(2)`). A zombie's rights are those that it had.
pub(super) fn may_signal(cx: &Cx, process: &Arc<Process>, signo: i32) -> bool {
    if Arc::ptr_eq(process, cx.process()) {
        return true;
    }
    let leader = process.leader.lock().clone();
    let Some(target) = leader else { return false };
    let (mine, theirs) = (cx.task.creds(), target.creds());
    let same = [mine.euid, mine.uid].iter().any(|&u| u == theirs.suid || u == theirs.uid);
    // One lock at a time: the other one may ask the same about us.
    let session = |of: &Process| of.session.lock().id;
    let same_session = || session(cx.process()) == session(process);
    same || mine.has(Cap::Kill) || (signo == sig::CONT && same_session())
}

fn check(signo: i32) -> Result<()> {
    if (0..=sig::MAX).contains(&signo) { Ok(()) } else { err(Errno::EINVAL) }
}

fn from_me(cx: &Cx, signo: i32, code: i32) -> SigInfo {
    SigInfo::user(signo, code, cx.process().pid, cx.task.creds().uid)
}

/// Sends to one process if that is allowed; signal 0 only asks.
fn to_process(cx: &Cx, process: &Arc<Process>, info: SigInfo) -> Result<()> {
    if !may_signal(cx, process, info.signo) {
        return err(Errno::EPERM);
    }
    if info.signo == 0 { Ok(()) } else { try_send(process, None, info) }
}

/// The process of an id: a thread's id stands for its process. `ESRCH`.
fn find(cx: &Cx, pid: i32) -> Result<Arc<Process>> {
    let pids = &cx.kernel.pids;
    pids.process(pid).or_else(|| pids.task(pid).map(|t| t.process.clone())).ok_or(Errno::ESRCH.into())
}

/// `kill(2)`.
pub(super) fn kill(cx: &Cx, pid: i32, signo: i32) -> Result<()> {
    check(signo)?;
    let info = from_me(cx, signo, code::USER);
    if pid > 0 {
        return to_process(cx, &find(cx, pid)?, info);
    }
    let group = match pid {
        i32::MIN => return err(Errno::ESRCH),
        0 => cx.process().pgid.load(Ordering::Relaxed),
        pid => -pid,
    };
    let everybody = pid == -1;
    let (mut sent, mut refused) = (false, false);
    for process in cx.kernel.pids.processes() {
        let chosen = if everybody {
            process.pid > 1 && !Arc::ptr_eq(&process, cx.process())
        } else {
            process.pgid.load(Ordering::Relaxed) == group
        };
        if chosen && process.state() != ProcessState::Reaped {
            match to_process(cx, &process, info) {
                Ok(()) => sent = true,
                Err(_) => refused = true,
            }
        }
    }
    match (sent, refused) {
        (true, _) => Ok(()),
        // Linux counts a refusal by everybody as success, but not one by a group.
        (false, true) if everybody => Ok(()),
        (false, true) => err(Errno::EPERM),
        (false, false) => err(Errno::ESRCH),
    }
}

fn to_thread(cx: &Cx, task: &Arc<Task>, info: SigInfo) -> Result<()> {
    if !may_signal(cx, &task.process, info.signo) {
        return err(Errno::EPERM);
    }
    if info.signo == 0 { Ok(()) } else { try_send(&task.process, Some(task), info) }
}

/// `tkill(2)`.
pub(super) fn tkill(cx: &Cx, tid: i32, signo: i32) -> Result<()> {
    if tid <= 0 {
        return err(Errno::EINVAL);
    }
    check(signo)?;
    let task = cx.kernel.pids.task(tid).ok_or(Errno::ESRCH)?;
    to_thread(cx, &task, from_me(cx, signo, code::TKILL))
}

/// `tgkill(2)`.
pub(super) fn tgkill(cx: &Cx, tgid: i32, tid: i32, signo: i32) -> Result<()> {
    if tgid <= 0 || tid <= 0 {
        return err(Errno::EINVAL);
    }
    check(signo)?;
    let task = thread_of(cx, tgid, tid)?;
    to_thread(cx, &task, from_me(cx, signo, code::TKILL))
}

fn thread_of(cx: &Cx, tgid: i32, tid: i32) -> Result<Arc<Task>> {
    let task = cx.kernel.pids.task(tid).filter(|t| t.process.pid == tgid);
    task.ok_or(Errno::ESRCH.into())
}

/// What a guest passed; only to itself may it pretend that the kernel or `kill(2)` sent it.
pub(super) fn queued_info(cx: &Cx, signo: i32, info: UserPtr<RawSiginfo>, target: i32) -> Result<SigInfo> {
    let raw = info.read(cx)?;
    if (raw.code >= 0 || raw.code == code::TKILL) && target != cx.process().pid {
        return err(Errno::EPERM);
    }
    Ok(SigInfo::from_raw(signo, &raw))
}

/// `rt_sigqueueinfo(2)`.
pub(super) fn rt_sigqueueinfo(cx: &Cx, pid: i32, signo: i32, info: UserPtr<RawSiginfo>) -> Result<()> {
    let info = queued_info(cx, signo, info, pid)?;
    check(signo)?;
    if pid <= 0 {
        return err(Errno::ESRCH);
    }
    to_process(cx, &find(cx, pid)?, info)
}

/// `rt_tgsigqueueinfo(2)`.
pub(super) fn rt_tgsigqueueinfo(
    cx: &Cx,
    tgid: i32,
    tid: i32,
    signo: i32,
    info: UserPtr<RawSiginfo>,
) -> Result<()> {
    if tgid <= 0 || tid <= 0 {
        return err(Errno::EINVAL);
    }
    let info = queued_info(cx, signo, info, tid)?;
    check(signo)?;
    to_thread(cx, &thread_of(cx, tgid, tid)?, info)
}
