//! `/proc/PID/stat`, and what it shares with `status`.

use super::{Target, ticks};
use crate::error::Result;
use crate::fs::pseudo::{Out, put};
use crate::sched::RunState;
use crate::signal::SigSet;
use crate::signal::sig;
use crate::task::{Cx, Process, ProcessState, Task};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// The name of a task.
pub(super) fn name(target: &Target) -> Result<Vec<u8>> {
    target.process()?;
    Ok(target.task().map(|task| task.name.lock().clone()).unwrap_or_default())
}

/// The state as a letter and in words (`proc(5)`).
pub(super) fn state(process: &Process, task: Option<&Arc<Task>>) -> (char, &'static str) {
    let family = process.family.lock();
    match family.state {
        ProcessState::Zombie(_) => return ('Z', "zombie"),
        ProcessState::Reaped => return ('X', "dead"),
        ProcessState::Running => {}
    }
    let stopped = family.stopped.is_some();
    drop(family);
    match task.map(|task| task.sched.state()) {
        None | Some(RunState::Dead) => ('Z', "zombie"),
        Some(RunState::Sleeping) if stopped => ('T', "stopped"),
        Some(RunState::Blocked) if stopped => ('T', "stopped"),
        Some(RunState::Sleeping) => ('S', "sleeping"),
        // A process without memory of its own is the kernel's: it runs nothing and waits for no disk.
        Some(RunState::Blocked) if task.is_some_and(|t| t.mm.lock().is_none()) => ('S', "sleeping"),
        Some(RunState::Blocked) => ('D', "disk sleep"),
        Some(_) => ('R', "running"),
    }
}

/// CPU time in nanoseconds, in guest code and in the kernel.
pub(super) fn cpu_time(cx: &Cx, task: &Task) -> (u64, u64) {
    let total = cx.kernel.sched.run_ns(task);
    let user = task.user_time.ns(cx.now_ns()).min(total);
    (user, total - user)
}

/// Ignored and caught signals.
pub(super) fn handled(process: &Process) -> (SigSet, SigSet) {
    let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
    for signo in 1..=sig::MAX {
        match process.signals.action(signo).handler {
            0 => {}
            1 => ignored.add(signo),
            _ => caught.add(signo),
        }
    }
    (ignored, caught)
}

/// Kernel priority as `stat` shows it: 0..=39 for ordinary tasks, negative for real-time ones.
fn priority(policy: u32, rt_priority: i32, nice: i32) -> i32 {
    // SCHED_FIFO and SCHED_RR.
    if matches!(policy, 1 | 2) { -1 - rt_priority } else { 20 + nice }
}

pub(super) fn stat(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let process = target.process()?;
    let task = target.task();
    let allowed = target.check_read(cx).is_ok();
    let family = process.family.lock();
    let (dead_children, dead_threads) = (family.dead_children, family.dead_threads);
    let threads = family.threads.len();
    let exit_code = match family.state {
        ProcessState::Zombie(status) if allowed => status.wait_word(),
        _ => 0,
    };
    drop(family);

    let (mut user, mut system, mut minor, mut major) = (0, 0, 0, 0);
    for task in target.tasks() {
        let (u, s) = cpu_time(cx, &task);
        user += u;
        system += s;
        minor += task.faults[0].load(Ordering::Relaxed);
        major += task.faults[1].load(Ordering::Relaxed);
    }
    if target.whole {
        user += dead_threads.user_ns;
        system += dead_threads.system_ns;
        minor += dead_threads.minor_faults;
        major += dead_threads.major_faults;
    }
    let policy = task.as_ref().map(|t| *t.policy.lock()).unwrap_or_default();
    let session = process.session.lock().clone();
    let (tty_nr, tpgid) = crate::tty::stat_numbers(&session);
    let memory = target.mm().map(|mm| super::memory::usage(&mm)).unwrap_or_default();
    let image = process.image.lock().clone();
    let (pending, blocked) = match &task {
        Some(task) => {
            let signals = task.signals.lock();
            (signals.pending.set(), signals.mask)
        }
        None => (SigSet::EMPTY, SigSet::EMPTY),
    };
    let (ignored, caught) = handled(&process);
    // The first 31 signals: the fields are older than real-time signals.
    let old = |set: SigSet| set.0 & 0x7fff_ffff;
    let start = task.as_ref().map_or(process.start_ns, |task| task.start_ns);
    let shown = |value: u64| if allowed { value } else { 0 };

    put!(out, "{} (", target.tid);
    out.bytes(&name(target)?);
    put!(
        out,
        ") {} {} {} {} {tty_nr} {tpgid} {}",
        state(&process, task.as_ref()).0,
        process.ppid(),
        process.pgid.load(Ordering::Relaxed),
        session.id,
        flags(&process)
    );
    put!(
        out,
        " {minor} {} {major} {} {} {} {} {}",
        dead_children.minor_faults,
        dead_children.major_faults,
        ticks(user),
        ticks(system),
        ticks(dead_children.user_ns),
        ticks(dead_children.system_ns)
    );
    put!(
        out,
        " {} {} {threads} 0 {}",
        priority(policy.policy, policy.priority, policy.nice),
        policy.nice,
        ticks(start)
    );
    put!(
        out,
        " {} {} {}",
        memory.size * hal::PAGE_SIZE,
        memory.resident,
        process.limit(crate::task::Resource::Rss)
    );
    // Code, stack start, and the registers, which Linux also hides from everyone but a dying task.
    put!(out, " {} {} {} 0 0", shown(image.code.0), shown(image.code.1), shown(image.stack_start));
    put!(out, " {} {} {} {} 0 0 0", old(pending), old(blocked), old(ignored), old(caught));
    put!(
        out,
        " {} {} {} {} 0 0 0",
        process.exit_signal.load(Ordering::Relaxed),
        task.as_ref().map_or(0, |t| t.sched.cpu.load(Ordering::Relaxed)),
        policy.priority,
        policy.policy
    );
    put!(
        out,
        " {} {} {} {} {} {} {} {exit_code}\n",
        shown(image.data.0),
        shown(image.data.1),
        shown(memory.brk_start),
        shown(image.args.0),
        shown(image.args.1),
        shown(image.env.0),
        shown(image.env.1)
    );
    Ok(())
}

/// `PF_RANDOMIZE`, and `PF_FORKNOEXEC` for what has not called `execve` yet: what tools look at.
fn flags(process: &Process) -> u32 {
    let forked = if process.did_exec.load(Ordering::Relaxed) { 0 } else { 0x40 };
    0x40_0000 | forked
}
