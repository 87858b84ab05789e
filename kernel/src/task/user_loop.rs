//! The user loop: run guest code, serve why it stopped, look at signals, run again.

use super::{Cx, ExitStatus, exit};
use crate::error::{Error, Restart, Result};
use crate::fs::ahead;
use crate::mm::FaultOutcome;
use crate::signal::{self, Delivery, SigInfo, sig};
use crate::syscall::{SysRet, dispatch};
use abi::Errno;
use alloc::format;
use core::sync::atomic::Ordering;
use hal::{Exit, Fault, LogLevel};

/// A system call that a signal interrupted, while it is undecided what becomes of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterruptedCall {
    pub nr: u64,
    pub restart: Restart,
}

/// Length of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;
/// `__NR_restart_syscall`.
const NR_RESTART_SYSCALL: u64 = abi::raw::__NR_restart_syscall as u64;

/// Runs the task's guest code until the task has ended. The registers in `cx.user` are where it starts.
pub(crate) fn user_loop(cx: &Cx) {
    let mut interrupted = None;
    loop {
        let Some(start) = prepare(cx, interrupted.take()) else { return };
        let exit = {
            let mm = cx.mm.borrow();
            let Some(mm) = mm.as_ref() else { return };
            let cpu = cx.cpu();
            cx.kernel.sched.guest_switch(cpu);
            cx.task.user_time.enter(start);
            let mut meanwhile = || {
                if !mm.patch_busy_site(cx) {
                    ahead::look_ahead(cx);
                }
            };
            let exit = mm.space().run_beside(cpu, &mut **cx.user.borrow_mut(), &mut meanwhile);
            cx.kernel.sched.guest_switch(cpu);
            // If it had the host CPU for itself.
            mm.patch_busy_site(cx);
            exit
        };
        cx.kernel.sched.left_guest(cx.cpu());
        super::answers::take_back(cx);
        cx.task.user_time.leave(cx.now_ns());
        match exit {
            Exit::Syscall { nr, args, ip } => match call(cx, nr, &args, ip) {
                Ok(SysRet::Value(value)) => cx.user.borrow_mut().set_syscall_result(value),
                Ok(SysRet::Keep) => {}
                Ok(SysRet::Exit) => return,
                // As if the call had waited for memory: it is made again when there is some.
                Err(Error::Errno { errno: Errno::ENOMEM, .. }) if cx.ram_full.get() => {
                    restart_call(cx, InterruptedCall { nr, restart: Restart::IfAsked });
                }
                Err(Error::Errno { errno, .. }) => set_errno(cx, errno),
                Err(Error::Interrupted(restart)) => {
                    // The signal decides; until then the call counts as failed.
                    set_errno(cx, Errno::EINTR);
                    interrupted = Some(InterruptedCall { nr, restart });
                }
            },
            Exit::Fault(fault) => serve_fault(cx, &fault),
            Exit::Interrupted => {}
            Exit::Dead(why) => {
                cx.kernel.log(
                    LogLevel::Error,
                    &format!("process {} is killed: its address space failed: {why}", cx.process().pid),
                );
                exit::group_exit(cx.process(), ExitStatus::Signaled { signo: sig::KILL, core: false });
            }
        }
    }
}

fn call(cx: &Cx, nr: u64, args: &[u64; 6], ip: u64) -> Result<SysRet> {
    if cx.kernel.patches()
        && let Some(mm) = cx.mm.borrow().as_ref()
    {
        mm.note_call(cx, ip);
    }
    dispatch(cx, nr, args)
}

fn set_errno(cx: &Cx, errno: Errno) {
    cx.user.borrow_mut().set_syscall_result(i64::from(-errno.raw()) as u64);
}

/// Everything that has to happen before guest code runs. Returns the time; `None` when the task has ended.
fn prepare(cx: &Cx, interrupted: Option<InterruptedCall>) -> Option<u64> {
    let mut now = cx.now_ns();
    cx.kernel.poll_machine(now);
    if cx.ram_full.get() {
        out_of_memory(cx);
    }
    if cx.kernel.sched.should_yield(cx.cpu(), cx.task, now) {
        cx.task.sched.switches[1].fetch_add(1, Ordering::Relaxed);
        cx.yield_now();
        now = cx.now_ns();
    }
    let cpu_check = super::cpu_limit::check(cx, now);
    let mut interrupted = interrupted;
    while interrupted.is_some() || cx.task.has_signal() || cx.rseq_stale.get() {
        if interrupted.is_some() || cx.task.has_signal() {
            if let Delivery::Exit(status) = signal::deliver(cx, interrupted.take()) {
                exit::exit_task(cx, status);
                return None;
            }
        }
        // Last, because a stop takes the task off its CPU; it may itself force a signal.
        if cx.rseq_stale.get() {
            super::rseq::update(cx);
        }
    }
    super::answers::update(cx);
    let alone = cx.kernel.sched.arm(cx.cpu(), cpu_check);
    super::answers::offer(cx, alone);
    Some(now)
}

/// Has the interrupted call made again when guest code runs next.
pub(crate) fn restart_call(cx: &Cx, call: InterruptedCall) {
    let nr = if call.restart == Restart::Resume { NR_RESTART_SYSCALL } else { call.nr };
    let mut user = cx.user.borrow_mut();
    let regs = user.regs();
    regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
    regs.rax = nr;
}

fn serve_fault(cx: &Cx, fault: &Fault) {
    const PAGE_FAULT: u32 = 14;
    if fault.vector == PAGE_FAULT {
        match cx.mm().fault(cx, fault) {
            FaultOutcome::Handled => return,
            FaultOutcome::Signal { signo, code } => {
                cx.last_fault.set((fault.vector, fault.error, fault.addr));
                signal::force(cx, SigInfo::fault(signo, code, fault.addr));
            }
            FaultOutcome::OutOfMemory => out_of_memory(cx),
        }
        return;
    }
    cx.last_fault.set((fault.vector, fault.error, fault.addr));
    let addr = if fault.code == signal::code::KERNEL { 0 } else { fault.addr };
    signal::force(cx, SigInfo::fault(fault.signo, fault.code, addr));
}

/// Does something to the task's own memory that it can't go on without. When RAM is full, somebody has to go first, as for a page fault;
/// an error is what remains if that is the task itself.
pub(crate) fn with_memory<T>(cx: &Cx, mut access: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match access() {
            Err(error) if error.errno() == Errno::ENOMEM && !super::must_end(cx.task) => out_of_memory(cx),
            result => return result,
        }
    }
}

/// RAM is full: somebody has to go, or this task can't go on.
fn out_of_memory(cx: &Cx) {
    cx.ram_full.set(false);
    if crate::mm::reclaim(cx) > 0 {
        return;
    }
    let victim = crate::mm::oom_victim(cx.kernel).unwrap_or_else(|| cx.process().clone());
    let name = victim
        .leader
        .lock()
        .as_ref()
        .map(|t| alloc::string::String::from_utf8_lossy(&t.name.lock()).into_owned())
        .unwrap_or_default();
    // One that is ending already was reported when it was chosen.
    if victim.family.lock().exiting.is_none() {
        // RAM that is free says that it is the host that has no room.
        let free = cx.kernel.frames.available() * hal::PAGE_SIZE / 1024;
        let text = format!("out of memory ({free} KiB of RAM free): killed process {} ({name})", victim.pid);
        cx.kernel.log(LogLevel::Warn, &text);
    }
    exit::group_exit(&victim, ExitStatus::Signaled { signo: sig::KILL, core: false });
    if !alloc::sync::Arc::ptr_eq(&victim, cx.process()) {
        // Its memory comes back when it runs and ends.
        cx.yield_now();
    }
}
