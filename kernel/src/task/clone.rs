//! New tasks from the current one (`clone(2)`).
#![allow(missing_docs, reason = "flags carry the names of the uapi headers")]

use super::spawn::{launch, new_process};
use super::{Cx, NewTask, Resource, Task, VforkDone, user_loop};
use crate::error::{Result, err};
use crate::ipc::PidTarget;
use crate::signal::{SharedSignals, sig};
use crate::sync::Mutex;
use crate::user::UserPtr;
use abi::Errno;
use alloc::sync::Arc;
use bitflags::bitflags;
use core::sync::atomic::Ordering;

bitflags! {
    /// `CLONE_*` without the exit signal (`uapi/linux/sched.h`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CloneFlags: u64 {
        /// `CLONE_NEWTIME`.
        const NEWTIME = 0x80;
        /// `CLONE_VM`.
        const VM = 0x100;
        /// `CLONE_FS`.
        const FS = 0x200;
        /// `CLONE_FILES`.
        const FILES = 0x400;
        /// `CLONE_SIGHAND`.
        const SIGHAND = 0x800;
        /// `CLONE_PIDFD`.
        const PIDFD = 0x1000;
        /// `CLONE_PTRACE`.
        const PTRACE = 0x2000;
        /// `CLONE_VFORK`.
        const VFORK = 0x4000;
        /// `CLONE_PARENT`.
        const PARENT = 0x8000;
        /// `CLONE_THREAD`.
        const THREAD = 0x1_0000;
        /// `CLONE_NEWNS`.
        const NEWNS = 0x2_0000;
        /// `CLONE_SYSVSEM`.
        const SYSVSEM = 0x4_0000;
        /// `CLONE_SETTLS`.
        const SETTLS = 0x8_0000;
        /// `CLONE_PARENT_SETTID`.
        const PARENT_SETTID = 0x10_0000;
        /// `CLONE_CHILD_CLEARTID`.
        const CHILD_CLEARTID = 0x20_0000;
        /// `CLONE_DETACHED`.
        const DETACHED = 0x40_0000;
        /// `CLONE_UNTRACED`.
        const UNTRACED = 0x80_0000;
        /// `CLONE_CHILD_SETTID`.
        const CHILD_SETTID = 0x100_0000;
        /// `CLONE_NEWCGROUP`.
        const NEWCGROUP = 0x200_0000;
        /// `CLONE_NEWUTS`.
        const NEWUTS = 0x400_0000;
        /// `CLONE_NEWIPC`.
        const NEWIPC = 0x800_0000;
        /// `CLONE_NEWUSER`.
        const NEWUSER = 0x1000_0000;
        /// `CLONE_NEWPID`.
        const NEWPID = 0x2000_0000;
        /// `CLONE_NEWNET`.
        const NEWNET = 0x4000_0000;
        /// `CLONE_IO`.
        const IO = 0x8000_0000;
        /// `CLONE_CLEAR_SIGHAND`.
        const CLEAR_SIGHAND = 0x1_0000_0000;
        /// `CLONE_INTO_CGROUP`.
        const INTO_CGROUP = 0x2_0000_0000;
    }
}

impl CloneFlags {
    /// Those that ask for a new namespace.
    pub const NAMESPACES: CloneFlags = CloneFlags::NEWTIME
        .union(CloneFlags::NEWNS)
        .union(CloneFlags::NEWCGROUP)
        .union(CloneFlags::NEWUTS)
        .union(CloneFlags::NEWIPC)
        .union(CloneFlags::NEWUSER)
        .union(CloneFlags::NEWPID)
        .union(CloneFlags::NEWNET);
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct CloneArgs {
    /// What is shared.
    pub flags: CloneFlags,
    /// The signal that the parent gets at the end; 0 for none.
    pub exit_signal: i32,
    /// Stack pointer of the child; 0 for the parent's.
    pub stack: u64,
    /// TLS base.
    pub tls: u64,
    /// Where the parent's memory gets the child's id.
    pub parent_tid: u64,
    /// Where the child's memory gets its id, and what is cleared at its end.
    pub child_tid: u64,
    /// Where the descriptor for `PIDFD` goes.
    pub pidfd: u64,
}

fn check(flags: CloneFlags, exit_signal: i32) -> Result<()> {
    let need = |flag, other| !flags.contains(flag) || flags.contains(other);
    if !need(CloneFlags::THREAD, CloneFlags::SIGHAND) || !need(CloneFlags::SIGHAND, CloneFlags::VM) {
        return err(Errno::EINVAL);
    }
    if flags.contains(CloneFlags::SIGHAND | CloneFlags::CLEAR_SIGHAND) {
        return err(Errno::EINVAL);
    }
    if flags.contains(CloneFlags::FS) && flags.intersects(CloneFlags::NEWNS | CloneFlags::NEWUSER) {
        return err(Errno::EINVAL);
    }
    if flags.intersects(CloneFlags::NAMESPACES) {
        return Err(crate::error::Error::new(Errno::EPERM, "namespaces are not supported"));
    }
    if !(0..=sig::MAX).contains(&exit_signal) {
        return err(Errno::EINVAL);
    }
    Ok(())
}

/// `clone(2)`: returns the child's thread id. Blocks until the child lets go when `VFORK`.
pub fn clone(cx: &Cx, args: &CloneArgs) -> Result<i32> {
    let flags = args.flags;
    check(flags, args.exit_signal)?;
    let tid = new_id(cx)?;
    make(cx, args, tid).inspect_err(|_| cx.kernel.pids.remove_task(tid))
}

fn make(cx: &Cx, args: &CloneArgs, tid: i32) -> Result<i32> {
    let flags = args.flags;
    let kernel = cx.kernel;
    let (me, my_process) = (cx.task, cx.process());
    let thread = flags.contains(CloneFlags::THREAD);

    let mm = if flags.contains(CloneFlags::VM) { cx.mm().clone() } else { cx.mm().fork(cx)? };
    if flags.contains(CloneFlags::VM) && !flags.contains(CloneFlags::VFORK) {
        mm.recall_lent();
    }
    let process = if thread { my_process.clone() } else { child_process(cx, tid, args) };
    let policy = me.policy.lock().inherited();
    let new = NewTask {
        tid,
        process: process.clone(),
        name: me.name.lock().clone(),
        creds: me.creds(),
        mm: Some(mm),
        files: if flags.contains(CloneFlags::FILES) { cx.files() } else { cx.files().duplicate() },
        fs: if flags.contains(CloneFlags::FS) { cx.fs() } else { cx.fs().duplicate() },
        mask: me.sigmask(),
        policy,
        cpu: cx.cpu(),
        allowed: me.sched.allowed.load(Ordering::Relaxed),
        vruntime: me.sched.vruntime.load(Ordering::Relaxed),
    };
    let task = new.build(kernel);
    task.no_new_privs.store(me.no_new_privs.load(Ordering::Relaxed), Ordering::Relaxed);
    task.timer_slack_ns.store(me.timer_slack_ns.load(Ordering::Relaxed), Ordering::Relaxed);
    inherit_signals(cx, &task, flags);
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        task.clear_child_tid.store(args.child_tid, Ordering::Relaxed);
    }
    if !flags.contains(CloneFlags::VM) || thread {
        *task.rseq.lock() = if thread { None } else { *me.rseq.lock() };
    }
    let vfork = flags.contains(CloneFlags::VFORK).then(|| {
        let done = Arc::new(VforkDone::default());
        *task.vfork_done.lock() = Some(done.clone());
        done
    });

    let mut user = cx.user.borrow_mut().duplicate();
    {
        let regs = user.regs();
        regs.rax = 0;
        if args.stack != 0 {
            regs.rsp = args.stack;
        }
        if flags.contains(CloneFlags::SETTLS) {
            regs.fs_base = args.tls;
        }
    }
    let target = if thread { PidTarget::Thread(task.clone()) } else { PidTarget::Process(process.clone()) };
    let pidfd = match flags.contains(CloneFlags::PIDFD) {
        true => Some(open_pidfd(cx, target, args.pidfd)?),
        false => None,
    };
    let close_pidfd = || {
        if let Some(fd) = pidfd {
            drop(cx.files().remove(fd));
        }
    };
    if let Err(error) = enter_tables(cx, &task, thread) {
        withdraw(cx, &task, thread);
        close_pidfd();
        return Err(error);
    }
    if flags.contains(CloneFlags::PARENT_SETTID) {
        // As on Linux, a bad address is not an error.
        let _ = UserPtr::<i32>::new(args.parent_tid).write(cx, &tid);
    }
    let set_tid = flags.contains(CloneFlags::CHILD_SETTID).then_some(args.child_tid);
    // Threads of a program do alike.
    let mask_calls = if thread { cx.mask_calls.get() } else { 0 };
    let started = launch(kernel, &task, user, move |cx| {
        cx.mask_calls.set(mask_calls);
        if let Some(addr) = set_tid {
            // As on Linux, a bad address is the child's own problem.
            let _ = UserPtr::<i32>::new(addr).write(cx, &tid);
        }
        user_loop::user_loop(cx);
    });
    if let Err(error) = started {
        withdraw(cx, &task, thread);
        close_pidfd();
        return Err(error);
    }
    if let Some(done) = vfork {
        wait_vfork(cx, &done);
    }
    Ok(tid)
}

fn open_pidfd(cx: &Cx, target: PidTarget, out: u64) -> Result<crate::fs::Fd> {
    let file = crate::ipc::pidfd_for(cx, target, Default::default());
    let fd = cx.install(file, true)?;
    match UserPtr::<i32>::new(out).write(cx, &fd.0) {
        Ok(()) => Ok(fd),
        Err(error) => {
            drop(cx.files().remove(fd));
            Err(error)
        }
    }
}

/// Until the child executes or ends, or this task has to end itself; other signals wait.
fn wait_vfork(cx: &Cx, done: &VforkDone) {
    cx.wait_killable(&done.queue, || done.done.load(Ordering::SeqCst).then_some(()));
}

/// An id for a new task. `RLIMIT_NPROC` counts the tasks of a real user id (`getrlimit(2)`).
fn new_id(cx: &Cx) -> Result<i32> {
    let creds = cx.task.creds();
    let privileged = creds.uid == 0 || creds.has(super::Cap::SysAdmin) || creds.has(super::Cap::SysResource);
    let limit = if privileged { u64::MAX } else { cx.process().limit(Resource::Nproc) };
    cx.kernel.pids.allocate(creds.uid, limit, &cx.kernel.settings)
}

fn child_process(cx: &Cx, pid: i32, args: &CloneArgs) -> Arc<super::Process> {
    let mine = cx.process();
    let parent = if args.flags.contains(CloneFlags::PARENT) {
        mine.family.lock().parent.upgrade().unwrap_or_else(|| mine.clone())
    } else {
        mine.clone()
    };
    let session = mine.session.lock().clone();
    let limits = *mine.limits.lock();
    let process =
        new_process(cx.kernel, pid, Some(&parent), session, mine.pgid.load(Ordering::Relaxed), limits);
    let exit_signal = if args.flags.contains(CloneFlags::PARENT) {
        mine.exit_signal.load(Ordering::Relaxed)
    } else {
        args.exit_signal
    };
    process.exit_signal.store(exit_signal, Ordering::Relaxed);
    process.dumpable.store(mine.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
    process.personality.store(mine.personality.load(Ordering::Relaxed), Ordering::Relaxed);
    process.oom_score_adj.store(mine.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
    *process.image.lock() = mine.image.lock().clone();
    process
}

fn inherit_signals(cx: &Cx, task: &Arc<Task>, flags: CloneFlags) {
    if !flags.contains(CloneFlags::THREAD) {
        let mine: &SharedSignals = &cx.process().signals;
        let table = mine.actions.lock().clone();
        let table = if flags.contains(CloneFlags::SIGHAND) {
            table
        } else {
            let mut copy = *table.lock();
            if flags.contains(CloneFlags::CLEAR_SIGHAND) {
                for action in copy.iter_mut().filter(|a| a.handler != crate::signal::SIG_IGN) {
                    *action = Default::default();
                }
            }
            Arc::new(Mutex::new(copy))
        };
        *task.process.signals.actions.lock() = table;
    }
    // A new stack needs a new alternate stack, unless the parent waits (`vfork`).
    if !flags.contains(CloneFlags::VM) || flags.contains(CloneFlags::VFORK) {
        task.signals.lock().altstack = cx.task.signals.lock().altstack;
    }
}

fn enter_tables(cx: &Cx, task: &Arc<Task>, thread: bool) -> Result<()> {
    let process = &task.process;
    if thread {
        let mut family = process.family.lock();
        if family.exiting.is_some() || family.exec_by.is_some() {
            return err(Errno::EAGAIN);
        }
        family.threads.push(task.clone());
        // A stop or a signal for the process that came since the others were told is this one's, too.
        task.signal_pending.store(true, Ordering::SeqCst);
    } else {
        process.family.lock().threads.push(task.clone());
        *process.leader.lock() = Some(task.clone());
        join_parent(cx, process)?;
        cx.kernel.pids.add_process(process);
    }
    cx.kernel.pids.add_task(task);
    Ok(())
}

/// Enters the list of the parent's children. A parent that is ending takes none (`CLONE_PARENT`): then it is as if it had ended before.
fn join_parent(cx: &Cx, process: &Arc<super::Process>) -> Result<()> {
    let parent = process.family.lock().parent.upgrade();
    let init = cx.kernel.init_process();
    for parent in parent.into_iter().chain(init) {
        let mut family = parent.family.lock();
        if !family.closed {
            process.family.lock().parent = super::process::Parent::new(&parent);
            family.children.push(process.clone());
            return Ok(());
        }
    }
    err(Errno::EAGAIN)
}

fn withdraw(cx: &Cx, task: &Arc<Task>, thread: bool) {
    let process = &task.process;
    process.family.lock().threads.retain(|t| !Arc::ptr_eq(t, task));
    if !thread {
        let parent = process.family.lock().parent.upgrade();
        if let Some(parent) = parent {
            parent.family.lock().children.retain(|c| !Arc::ptr_eq(c, process));
        }
        cx.kernel.pids.remove_process(process.pid);
        drop(process.leader.lock().take());
    }
}
