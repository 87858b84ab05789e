//! `wait4(2)` and `waitid(2)`.

use super::limits::to_rusage;
use crate::error::{Error, Result, err};
use crate::fs::Fd;
use crate::ipc::PidFd;
use crate::signal::{code, sig};
use crate::task::wait::{self, Change, Report, WaitOptions, Which};
use crate::task::{Cx, ExitStatus};
use crate::user::UserPtr;
use abi::Errno;
use abi::system::Rusage;
use core::sync::atomic::Ordering;

/// The word that a continued child gives.
const CONTINUED: i32 = 0xffff;

/// `wait4(2)`.
pub(super) fn wait4(
    cx: &Cx,
    pid: i32,
    status: UserPtr<i32>,
    options: u32,
    usage: UserPtr<Rusage>,
) -> Result<i32> {
    let allowed = WaitOptions::NOHANG
        | WaitOptions::STOPPED
        | WaitOptions::CONTINUED
        | WaitOptions::NOTHREAD
        | WaitOptions::CLONE
        | WaitOptions::ALL;
    let options = WaitOptions::from_bits(options).filter(|o| allowed.contains(*o)).ok_or(Errno::EINVAL)?;
    let which = match pid {
        i32::MIN => return err(Errno::ESRCH),
        -1 => Which::Any,
        0 => Which::Group(cx.process().pgid.load(Ordering::Relaxed)),
        pid if pid > 0 => Which::Pid(pid),
        pid => Which::Group(-pid),
    };
    let Some(report) = wait::wait(cx, which, options | WaitOptions::EXITED)? else { return Ok(0) };
    let word = match report.change {
        Change::Ended(status) => status.wait_word(),
        Change::Stopped(signo) => signo << 8 | 0x7f,
        Change::Continued => CONTINUED,
    };
    status.write_if_some(cx, &word)?;
    usage.write_if_some(cx, &to_rusage(&report.usage))?;
    Ok(report.pid)
}

/// `waitid(2)`.
pub(super) fn waitid(
    cx: &Cx,
    kind: i32,
    id: i32,
    info: UserPtr<u8>,
    options: u32,
    usage: UserPtr<Rusage>,
) -> Result<()> {
    const P_ALL: i32 = 0;
    const P_PID: i32 = 1;
    const P_PGID: i32 = 2;
    const P_PIDFD: i32 = 3;
    let mut options = WaitOptions::from_bits(options).ok_or(Errno::EINVAL)?;
    if !options.intersects(WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED) {
        return err(Errno::EINVAL);
    }
    let mut nonblocking = false;
    let which = match kind {
        P_ALL => Which::Any,
        P_PID if id > 0 => Which::Pid(id),
        P_PGID if id == 0 => Which::Group(cx.process().pgid.load(Ordering::Relaxed)),
        P_PGID if id > 0 => Which::Group(id),
        P_PIDFD if id >= 0 => {
            let (pid, flags) = pidfd(cx, Fd(id))?;
            nonblocking = flags && !options.contains(WaitOptions::NOHANG);
            Which::Pid(pid)
        }
        _ => return err(Errno::EINVAL),
    };
    options.set(WaitOptions::NOHANG, nonblocking || options.contains(WaitOptions::NOHANG));
    let report = wait::wait(cx, which, options)?;
    if report.is_none() && nonblocking {
        return err(Errno::EAGAIN);
    }
    if let Some(report) = &report {
        usage.write_if_some(cx, &to_rusage(&report.usage))?;
    }
    if info.is_null() { Ok(()) } else { write_info(cx, info, report.as_ref()) }
}

/// The process of a pidfd, and whether it is non-blocking.
fn pidfd(cx: &Cx, fd: Fd) -> Result<(i32, bool)> {
    let file = cx.file(fd)?;
    let Some(pidfd) = file.downcast::<PidFd>() else { return Err(Error::new(Errno::EBADF, "not a pidfd")) };
    match pidfd.id() {
        // Reaped: nobody's child any more.
        id if id < 0 => err(Errno::ECHILD),
        _ => Ok((pidfd.process().pid, file.nonblocking())),
    }
}

/// Writes the six fields that `waitid` fills in, and nothing else.
fn write_info(cx: &Cx, info: UserPtr<u8>, report: Option<&Report>) -> Result<()> {
    let (signo, code, pid, uid, status) = match report {
        None => (0, 0, 0, 0, 0),
        Some(report) => {
            let (code, status) = match report.change {
                Change::Ended(ExitStatus::Exited(status)) => (code::CLD_EXITED, i32::from(status)),
                Change::Ended(ExitStatus::Signaled { signo, core: true }) => (code::CLD_DUMPED, signo),
                Change::Ended(ExitStatus::Signaled { signo, core: false }) => (code::CLD_KILLED, signo),
                Change::Stopped(signo) => (code::CLD_STOPPED, signo),
                Change::Continued => (code::CLD_CONTINUED, sig::CONT),
            };
            (sig::CHLD, code, report.pid, report.uid, status)
        }
    };
    // si_signo, si_errno, si_code; then, after padding, si_pid, si_uid, si_status.
    info.cast::<[i32; 3]>().write(cx, &[signo, 0, code])?;
    info.byte_add(16).cast::<[i32; 3]>().write(cx, &[pid, uid as i32, status])
}
