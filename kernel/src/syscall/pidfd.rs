//! `pidfd_open(2)`, `pidfd_send_signal(2)`, `pidfd_getfd(2)`.

use super::kill::may_signal;
use crate::error::{Result, err};
use crate::fs::procfs::process_of_dir;
use crate::fs::{Fd, OpenFlags};
use crate::ipc::{PidFd, PidTarget, pidfd_for};
use crate::signal::{SigInfo, code, group, send_to_task, sig};
use crate::task::{Cap, Cx, Process, ProcessState, Task};
use crate::user::UserPtr;
use abi::Errno;
use abi::signal::RawSiginfo;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// `PIDFD_THREAD`, which has the value of `O_EXCL`.
const PIDFD_THREAD: u32 = OpenFlags::EXCL.bits();

/// `pidfd_open(2)`: `PIDFD_NONBLOCK`, `PIDFD_THREAD`. The descriptor is always close-on-exec.
pub(super) fn pidfd_open(cx: &Cx, pid: i32, flags: u32) -> Result<Fd> {
    if pid <= 0 || flags & !(OpenFlags::NONBLOCK.bits() | PIDFD_THREAD) != 0 {
        return err(Errno::EINVAL);
    }
    let target = if flags & PIDFD_THREAD != 0 {
        PidTarget::Thread(cx.kernel.pids.task(pid).ok_or(Errno::ESRCH)?)
    } else {
        match cx.kernel.pids.process(pid) {
            Some(process) => PidTarget::Process(process),
            // The id of a thread that does not lead.
            None if cx.kernel.pids.task(pid).is_some() => return err(Errno::ENOENT),
            None => return err(Errno::ESRCH),
        }
    };
    let status = OpenFlags::from_bits_retain(flags) & OpenFlags::NONBLOCK;
    cx.install(pidfd_for(cx, target, status), true)
}

/// Whom `pidfd_send_signal` addresses.
enum Scope {
    Thread(Arc<Task>),
    Process(Arc<Process>),
    Group(Arc<Process>),
}

/// `pidfd_send_signal(2)`: `PIDFD_SIGNAL_THREAD`, `_THREAD_GROUP`, `_PROCESS_GROUP`.
pub(super) fn pidfd_send_signal(
    cx: &Cx,
    fd: Fd,
    signo: i32,
    info: UserPtr<RawSiginfo>,
    flags: u32,
) -> Result<()> {
    if flags & !7 != 0 || flags.count_ones() > 1 {
        return err(Errno::EINVAL);
    }
    let of = cx.file(fd)?;
    // A descriptor of `/proc/PID` stands for the process, too.
    let dir = match of.downcast::<PidFd>() {
        Some(_) => None,
        None => Some(PidTarget::Process(process_of_dir(&of).ok_or(Errno::EBADF)??)),
    };
    let pidfd = of.downcast::<PidFd>();
    let target = dir.as_ref().or(pidfd.map(PidFd::target)).ok_or(Errno::EBADF)?;
    let process = target.process();
    let scope = match (flags, target) {
        (1, PidTarget::Process(p)) => Scope::Thread(p.leader.lock().clone().ok_or(Errno::ESRCH)?),
        (0 | 1, PidTarget::Thread(task)) => Scope::Thread(task.clone()),
        (4, _) => Scope::Group(process.clone()),
        _ => Scope::Process(process.clone()),
    };
    if !(0..=sig::MAX).contains(&signo) {
        return err(Errno::EINVAL);
    }
    let info = match info.non_null() {
        Some(info) => {
            let raw = info.read(cx)?;
            if raw.signo != signo {
                return err(Errno::EINVAL);
            }
            // Only the kernel and a process to itself may claim that it was `kill`.
            if (raw.code >= 0 || raw.code == code::TKILL) && !Arc::ptr_eq(process, cx.process()) {
                return err(Errno::EPERM);
            }
            SigInfo::from_raw(signo, &raw)
        }
        None => SigInfo::user(signo, code::USER, cx.process().pid, cx.task.creds().uid),
    };
    if pidfd.is_some_and(|pidfd| pidfd.id() < 0) {
        return err(Errno::ESRCH);
    }
    if !may_signal(cx, process, signo) {
        return err(Errno::EPERM);
    }
    match scope {
        _ if signo == 0 => {}
        Scope::Thread(task) => send_to_task(&task, info),
        Scope::Process(process) => process.send_signal(info),
        Scope::Group(process) => {
            for member in group::members(cx.kernel, process.pgid.load(Ordering::Relaxed)) {
                if may_signal(cx, &member, signo) {
                    member.send_signal(info);
                }
            }
        }
    }
    Ok(())
}

/// `pidfd_getfd(2)`: a descriptor of another process, for who may trace it.
pub(super) fn pidfd_getfd(cx: &Cx, fd: Fd, target: Fd, flags: u32) -> Result<Fd> {
    if flags != 0 {
        return err(Errno::EINVAL);
    }
    let of = cx.file(fd)?;
    let pidfd = of.downcast::<PidFd>().ok_or(Errno::EBADF)?;
    let process = pidfd.process();
    if process.state() != ProcessState::Running {
        return err(Errno::ESRCH);
    }
    let task = process.threads().first().cloned().ok_or(Errno::ESRCH)?;
    let (mine, theirs) = (cx.task.creds(), task.creds());
    // `PTRACE_MODE_ATTACH_REALCREDS` of `ptrace(2)`.
    let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|&id| id == mine.uid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|&id| id == mine.gid);
    let own = Arc::ptr_eq(process, cx.process());
    let allowed = own || mine.has(Cap::SysPtrace) || same && process.dumpable.load(Ordering::Relaxed) == 1;
    if !allowed {
        return err(Errno::EPERM);
    }
    let files = task.files.lock().clone();
    cx.install(files.get(target)?, true)
}
