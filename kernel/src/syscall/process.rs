//! Processes and threads: making, ending, identifying and grouping them.

use super::SysRet;
use crate::error::{Error, Result, err};
use crate::signal::sig;
use crate::task::clone::{self, CloneArgs, CloneFlags};
use crate::task::rseq::{self, Rseq};
use crate::task::{Cap, Cx, ExitStatus, Process, ProcessState, Session, Task, exit, group_exit};
use crate::user::UserPtr;
use abi::Errno;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The exit signal in the flags of `clone(2)` (`CSIGNAL`).
const CSIGNAL: u64 = 0xff;
/// Size of `struct robust_list_head`.
const ROBUST_HEAD_LEN: usize = 24;

/// `clone(2)` with the argument order of x86_64.
pub(super) fn clone(
    cx: &Cx,
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
) -> Result<i32> {
    let flags = flags & u64::from(u32::MAX);
    // A number that is no signal is never sent, as on Linux.
    let signal = (flags & CSIGNAL) as i32;
    let exit_signal = if signal <= sig::MAX { signal } else { 0 };
    let flags = CloneFlags::from_bits_truncate(flags & !CSIGNAL);
    if flags.contains(CloneFlags::PIDFD | CloneFlags::DETACHED) {
        return err(Errno::EINVAL);
    }
    // Both would go to the same place.
    if flags.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
        return err(Errno::EINVAL);
    }
    clone::clone(cx, &CloneArgs { flags, exit_signal, stack, tls, parent_tid, child_tid, pidfd: parent_tid })
}

/// `fork(2)`.
pub(super) fn fork(cx: &Cx) -> Result<i32> {
    clone(cx, sig::CHLD as u64, 0, 0, 0, 0)
}

/// `unshare(2)`: descriptors, directories and umask; namespaces are refused as for `clone`.
pub(super) fn unshare(cx: &Cx, flags: u64) -> Result<()> {
    let of_a_process = CloneFlags::VM | CloneFlags::THREAD | CloneFlags::SIGHAND;
    let own = CloneFlags::FS | CloneFlags::FILES | CloneFlags::SYSVSEM;
    let known = own | of_a_process | CloneFlags::NAMESPACES;
    let flags = CloneFlags::from_bits(flags).filter(|f| known.contains(*f)).ok_or(Errno::EINVAL)?;
    if flags.intersects(of_a_process) && cx.process().threads().len() > 1 {
        return err(Errno::EINVAL);
    }
    if flags.intersects(CloneFlags::NAMESPACES) {
        return Err(Error::new(Errno::EPERM, "namespaces are not supported"));
    }
    if flags.contains(CloneFlags::FILES) {
        cx.set_files(cx.files().duplicate());
    }
    if flags.contains(CloneFlags::FS) {
        let own = cx.fs().duplicate();
        let shared = core::mem::replace(&mut *cx.task.fs.lock(), own);
        drop(shared);
    }
    Ok(())
}

/// `vfork(2)`.
pub(super) fn vfork(cx: &Cx) -> Result<i32> {
    let flags = (CloneFlags::VFORK | CloneFlags::VM).bits();
    clone(cx, flags | sig::CHLD as u64, 0, 0, 0, 0)
}

/// `struct clone_args` (`uapi/linux/sched.h`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_ARGS_SIZE_VER0`.
const CLONE_ARGS_MIN: usize = 64;
/// Depth of nested process id namespaces (`MAX_PID_NS_LEVEL`).
const MAX_PID_NS_LEVEL: u64 = 32;

/// Copies in a structure that may be shorter or longer than the one known here; what is unknown must be zero (`E2BIG`).
fn read_clone_args(cx: &Cx, args: UserPtr<u8>, size: usize) -> Result<RawCloneArgs> {
    if size > hal::PAGE_SIZE as usize {
        return err(Errno::E2BIG);
    }
    if size < CLONE_ARGS_MIN {
        return err(Errno::EINVAL);
    }
    let bytes = args.read_vec(cx, size)?;
    let mut raw = RawCloneArgs::new_zeroed();
    let known = size_of::<RawCloneArgs>().min(size);
    if bytes.iter().skip(known).any(|&b| b != 0) {
        return err(Errno::E2BIG);
    }
    for (to, from) in raw.as_mut_bytes().iter_mut().zip(&bytes) {
        *to = *from;
    }
    Ok(raw)
}

/// `clone3(2)`. No process ids of the caller's choice and no control groups.
pub(super) fn clone3(cx: &Cx, args: UserPtr<u8>, size: usize) -> Result<i32> {
    let raw = read_clone_args(cx, args, size)?;
    if raw.set_tid_size > MAX_PID_NS_LEVEL || (raw.set_tid == 0) != (raw.set_tid_size == 0) {
        return err(Errno::EINVAL);
    }
    if raw.exit_signal > sig::MAX as u64 || raw.flags & CSIGNAL & !CloneFlags::NEWTIME.bits() != 0 {
        return err(Errno::EINVAL);
    }
    let Some(flags) = CloneFlags::from_bits(raw.flags) else { return err(Errno::EINVAL) };
    let joined = CloneFlags::THREAD | CloneFlags::PARENT;
    if flags.contains(CloneFlags::DETACHED) || (flags.intersects(joined) && raw.exit_signal != 0) {
        return err(Errno::EINVAL);
    }
    let end = raw.stack.checked_add(raw.stack_size);
    if (raw.stack == 0) != (raw.stack_size == 0) || end.is_none_or(|e| e > cx.kernel.machine.user_limit()) {
        return err(Errno::EINVAL);
    }
    if raw.set_tid_size > 0 {
        return Err(Error::new(Errno::EPERM, "set_tid is not supported"));
    }
    if flags.contains(CloneFlags::INTO_CGROUP) {
        return Err(Error::new(Errno::EOPNOTSUPP, "control groups are not supported"));
    }
    let stack = raw.stack + raw.stack_size;
    clone::clone(
        cx,
        &CloneArgs {
            flags,
            exit_signal: raw.exit_signal as i32,
            stack,
            tls: raw.tls,
            parent_tid: raw.parent_tid,
            child_tid: raw.child_tid,
            pidfd: raw.pidfd,
        },
    )
}

/// `_exit(2)` of one thread.
pub(super) fn exit(cx: &Cx, status: i32) -> Result<SysRet> {
    exit::exit_task(cx, ExitStatus::Exited(status as u8));
    Ok(SysRet::Exit)
}

/// `exit_group(2)`.
pub(super) fn exit_group(cx: &Cx, status: i32) -> Result<SysRet> {
    let status = ExitStatus::Exited(status as u8);
    group_exit(cx.process(), status);
    exit::exit_task(cx, status);
    Ok(SysRet::Exit)
}

/// `getpid(2)`.
pub(super) fn getpid(cx: &Cx) -> Result<i32> {
    Ok(cx.process().pid)
}

/// `gettid(2)`.
pub(super) fn gettid(cx: &Cx) -> Result<i32> {
    Ok(cx.task.tid())
}

/// `getppid(2)`.
pub(super) fn getppid(cx: &Cx) -> Result<i32> {
    Ok(cx.process().ppid())
}

/// The process of a thread id, also a zombie's; 0 is the caller. `ESRCH`.
fn process_of(cx: &Cx, pid: i32) -> Result<Arc<Process>> {
    if pid == 0 {
        return Ok(cx.process().clone());
    }
    let pids = &cx.kernel.pids;
    pids.process(pid).or_else(|| pids.task(pid).map(|t| t.process.clone())).ok_or(Errno::ESRCH.into())
}

/// `setpgid(2)`: the caller or a child that has not executed a program, within the session.
pub(super) fn setpgid(cx: &Cx, pid: i32, pgid: i32) -> Result<()> {
    let me = cx.process();
    let pid = if pid == 0 { me.pid } else { pid };
    let pgid = if pgid == 0 { pid } else { pgid };
    if pgid < 0 {
        return err(Errno::EINVAL);
    }
    let target = process_of(cx, pid)?;
    if target.pid != pid {
        // A thread that does not lead its group.
        return err(Errno::EINVAL);
    }
    let session = me.session.lock().id;
    let is_child = target.family.lock().parent.upgrade().is_some_and(|p| Arc::ptr_eq(&p, me));
    if is_child {
        if target.session.lock().id != session {
            return err(Errno::EPERM);
        }
        if target.did_exec.load(Ordering::Relaxed) {
            return err(Errno::EACCES);
        }
    } else if !Arc::ptr_eq(&target, me) {
        return err(Errno::ESRCH);
    }
    if target.session.lock().id == target.pid {
        return err(Errno::EPERM);
    }
    let exists = |p: &Arc<Process>| {
        p.pgid.load(Ordering::Relaxed) == pgid
            && p.session.lock().id == session
            && p.state() != ProcessState::Reaped
    };
    if pgid != target.pid && !cx.kernel.pids.processes().iter().any(exists) {
        return err(Errno::EPERM);
    }
    target.pgid.store(pgid, Ordering::Relaxed);
    Ok(())
}

/// `getpgid(2)`.
pub(super) fn getpgid(cx: &Cx, pid: i32) -> Result<i32> {
    Ok(process_of(cx, pid)?.pgid.load(Ordering::Relaxed))
}

/// `getpgrp(2)`.
pub(super) fn getpgrp(cx: &Cx) -> Result<i32> {
    getpgid(cx, 0)
}

/// `getsid(2)`.
pub(super) fn getsid(cx: &Cx, pid: i32) -> Result<i32> {
    let process = process_of(cx, pid)?;
    let id = process.session.lock().id;
    Ok(id)
}

/// `setsid(2)`: not for a process whose id is that of a process group.
pub(super) fn setsid(cx: &Cx) -> Result<i32> {
    let me = cx.process();
    let taken =
        |p: &Arc<Process>| p.pgid.load(Ordering::Relaxed) == me.pid && p.state() != ProcessState::Reaped;
    if me.session.lock().id == me.pid || cx.kernel.pids.processes().iter().any(taken) {
        return err(Errno::EPERM);
    }
    let new = Arc::new(Session { id: me.pid, tty: crate::sync::Mutex::new(None) });
    let old = core::mem::replace(&mut *me.session.lock(), new);
    me.pgid.store(me.pid, Ordering::Relaxed);
    drop(old);
    Ok(me.pid)
}

/// `set_tid_address(2)`.
pub(super) fn set_tid_address(cx: &Cx, address: UserPtr<i32>) -> Result<i32> {
    cx.task.clear_child_tid.store(address.addr().0, Ordering::Relaxed);
    Ok(cx.task.tid())
}

/// `set_robust_list(2)`.
pub(super) fn set_robust_list(cx: &Cx, head: UserPtr<u8>, len: usize) -> Result<()> {
    if len != ROBUST_HEAD_LEN {
        return err(Errno::EINVAL);
    }
    cx.task.robust_list.store(head.addr().0, Ordering::Relaxed);
    Ok(())
}

/// `get_robust_list(2)`.
pub(super) fn get_robust_list(cx: &Cx, pid: i32, head: UserPtr<u64>, len: UserPtr<u64>) -> Result<()> {
    let task = match pid {
        0 => cx.task.clone(),
        pid => cx.kernel.pids.task(pid).ok_or(Errno::ESRCH)?,
    };
    if !may_inspect(cx, &task) {
        return err(Errno::EPERM);
    }
    len.write(cx, &(ROBUST_HEAD_LEN as u64))?;
    head.write(cx, &task.robust_list.load(Ordering::Relaxed))
}

/// `rseq(2)`.
pub(super) fn rseq(cx: &Cx, area: UserPtr<u8>, len: u32, flags: i32, signature: u32) -> Result<()> {
    const UNREGISTER: i32 = 1;
    let area = Rseq { addr: area.addr().0, len, signature, cpu: None };
    match flags {
        0 => rseq::register(cx, area),
        UNREGISTER => rseq::unregister(cx, area),
        _ => err(Errno::EINVAL),
    }
}

/// Whether the task may look into another (`ptrace(2)`, "Ptrace access mode checking").
fn may_inspect(cx: &Cx, task: &Arc<Task>) -> bool {
    if Arc::ptr_eq(&task.process, cx.process()) {
        return true;
    }
    let (mine, theirs) = (cx.task.creds(), task.creds());
    let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|&u| u == mine.uid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|&g| g == mine.gid);
    (same && task.process.dumpable.load(Ordering::Relaxed) == 1) || mine.has(Cap::SysPtrace)
}
