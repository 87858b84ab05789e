//! `execve(2)`: a new program in place of the old one.
//!
//! The new address space is built completely before the old one goes, so a file that can't be executed never makes a half-replaced
//! process: it is an errno for the caller, or the end of the process where Linux finds the fault too late for an errno.

mod image;
mod script;
mod stack;
#[cfg(test)]
mod tests;

use super::{Creds, Cx, ExitStatus, Resource, exit};
use crate::error::{Result, err};
use crate::fs::{AT_FDCWD, Fd, Lookup, MountFlags, OpenFile, open_exec};
use crate::mm::Mm;
use crate::signal::{SIG_IGN, SigSet, sig};
use crate::sync::Mutex;
use crate::user::Sink;
use crate::wait::PollEvents;
use abi::Errno;
use abi::signal::Sigaction;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use hal::{LogLevel, Regs};
use image::Failure;

/// A program to execute, with everything copied out of user memory.
pub struct Program {
    /// The file.
    pub file: Arc<OpenFile>,
    /// Its path as the caller gave it, for `AT_EXECFN`, the task's name and scripts; `/dev/fd/N…` when it was named by a descriptor.
    pub path: Vec<u8>,
    /// The path goes through a descriptor that is closed on the way, so that an interpreter could not open it.
    pub unreachable: bool,
    /// Arguments.
    pub args: Vec<Vec<u8>>,
    /// Environment.
    pub env: Vec<Vec<u8>>,
}

/// Opens a file for execution.
pub(crate) fn open_executable(cx: &Cx, path: &[u8]) -> Result<Arc<OpenFile>> {
    open_exec(cx, AT_FDCWD, path, Lookup::empty())
}

/// Opens the program of `execveat(2)`; arguments and environment are still empty.
pub(crate) fn open_for_exec(cx: &Cx, dir: Fd, path: &[u8], flags: u32) -> Result<Program> {
    const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
    const AT_EMPTY_PATH: u32 = 0x1000;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return err(Errno::EINVAL);
    }
    let mut lookup = Lookup::empty();
    lookup.set(Lookup::NOFOLLOW, flags & AT_SYMLINK_NOFOLLOW != 0);
    lookup.set(Lookup::EMPTY_PATH, flags & AT_EMPTY_PATH != 0);
    let file = open_exec(cx, dir, path, lookup)?;
    let by_fd = dir != AT_FDCWD && !path.starts_with(b"/");
    let mut shown = Vec::new();
    if by_fd {
        shown.extend_from_slice(format!("/dev/fd/{}", dir.0).as_bytes());
        if !path.is_empty() {
            shown.push(b'/');
        }
    }
    shown.extend_from_slice(path);
    let unreachable = by_fd && cx.files().cloexec(dir).unwrap_or(false);
    Ok(Program { file, path: shown, unreachable, args: Vec::new(), env: Vec::new() })
}

/// Reads up to `len` bytes at `offset`.
pub(super) fn read_at(cx: &Cx, file: &OpenFile, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        let mut pos = offset + done as u64;
        let mut rest: &mut [u8] = bytes.get_mut(done..).unwrap_or_default();
        let sink: &mut dyn Sink = &mut rest;
        match file.file.read(cx, file, &mut pos, sink)? {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Replaces the current program. On success the registers are those of the new program's start. After an error the process may
/// be about to end ([`Failure::Fatal`]).
pub fn exec(cx: &Cx, program: Program) -> Result<()> {
    let path = program.path.clone();
    replace(cx, program).map_err(|failure| match failure {
        Failure::Refused(error) => error,
        Failure::Fatal(error) => {
            // What the program started by is told in any case, others on demand.
            let first = cx.process().image.lock().exe.is_none();
            let level = if first { LogLevel::Warn } else { LogLevel::Info };
            let path = String::from_utf8_lossy(&path);
            cx.kernel.log(level, &format!("{path}: killed by SIGSEGV: cannot be loaded: {}", error.errno()));
            let core = cx.process().limit(Resource::Core) > 0;
            exit::group_exit(cx.process(), ExitStatus::Signaled { signo: sig::SEGV, core });
            error
        }
    })
}

fn replace(cx: &Cx, mut program: Program) -> Result<(), Failure> {
    let head = script::follow(cx, &mut program)?;
    stack::check_sizes(cx, &program)?;
    let mm = new_memory(cx)?;
    mm.expect_program(cx);
    let personality = cx.process().personality.load(Ordering::Relaxed);
    let randomize =
        personality & image::ADDR_NO_RANDOMIZE == 0 && cx.kernel.settings.randomize_va_space.get() > 0;
    mm.set_layout(cx.process().limit(Resource::Stack), randomize);
    let running = match &program.file.inode {
        Some(inode) => Some(Arc::new(cx.kernel.vfs.busy.execute(&inode.attr()?)?)),
        None => None,
    };
    let image = image::load(cx, &mm, &program.file, &head)?;
    let creds = new_credentials(cx, &program.file);
    let stack = stack::build(cx, &mm, &program, &image, &creds)?;
    let preparation = mm.prepare(cx, image.start, stack.sp);

    // From here on there is no way back.
    end_other_threads(cx)?;
    let task = cx.task;
    let process = cx.process();
    exit::leave_memory(cx);
    *task.rseq.lock() = None;
    let peak = cx.mm().peak_rss_pages();
    {
        let mut family = process.family.lock();
        family.dead_threads.max_rss_pages = family.dead_threads.max_rss_pages.max(peak);
    }
    crate::fs::view::end(cx);
    cx.set_mm(mm);
    if !cx.owns_files() {
        let own = cx.files().duplicate();
        cx.set_files(own);
    }
    for file in cx.files().remove_range(0, usize::MAX, |cloexec| cloexec) {
        // What closing says is of no interest to the new program.
        let _ = crate::fs::close(cx, file);
    }
    reset_signals(cx);
    let changes = (creds.euid, creds.egid) != (creds.uid, creds.gid);
    *task.creds.lock() = Arc::new(creds);
    if changes {
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    *task.name.lock() = stack::comm(&program.path);
    {
        let mut current = process.image.lock();
        *current = crate::task::Image {
            exe: program.file.path.clone(),
            running,
            args: stack.args,
            env: stack.env,
            auxv: stack.auxv,
            stack_start: stack.sp,
            code: image.code,
            data: image.data,
        };
    }
    process.exit_signal.store(sig::CHLD, Ordering::Relaxed);
    process.did_exec.store(true, Ordering::Relaxed);
    process.dumpable.store(u32::from(!changes), Ordering::Relaxed);
    if exit::release_vfork(task) {
        // Who waits for a child mostly goes on to wait for its end. Nothing of a program that has not begun is on this CPU yet, so it is the one that moves if not.
        cx.kernel.sched.resched(cx.cpu());
    }
    // The leader's id, and perhaps another user.
    cx.answers_stale.set(true);
    cx.mm().prepared(cx, &preparation);
    let mut user = cx.user.borrow_mut();
    *user.regs() = Regs { rip: image.start, rsp: stack.sp, eflags: 0x202, ..Regs::default() };
    user.swap_fpu(&mut Vec::new());
    Ok(())
}

/// Where the new program goes. Whoever has never had a program has an address space that is as good as a new one.
fn new_memory(cx: &Cx) -> Result<Arc<Mm>> {
    let own = cx.mm().clone();
    if own.is_empty() { Ok(own) } else { Mm::new(cx.kernel) }
}

/// Ends all other threads and takes over the process id. `EAGAIN` when another thread was faster.
fn end_other_threads(cx: &Cx) -> Result<()> {
    let (task, process) = (cx.task, cx.process());
    let others = {
        let mut family = process.family.lock();
        if family.exiting.is_some() || family.exec_by.is_some() {
            return err(Errno::EAGAIN);
        }
        if family.threads.len() == 1 && task.tid() == process.pid {
            return Ok(());
        }
        family.exec_by = Some(task.tid());
        family.threads.clone()
    };
    for other in others.iter().filter(|t| !Arc::ptr_eq(t, task)) {
        other.notify_signal();
    }
    let alone =
        cx.wait_killable(&process.changed, || (process.family.lock().threads.len() == 1).then_some(()));
    if alone.is_none() {
        // A group exit overtakes; the user loop ends this task.
        return err(Errno::EINTR);
    }
    if task.tid() != process.pid {
        cx.kernel.pids.remove_task(task.tid());
        task.set_tid(process.pid);
        cx.kernel.pids.add_task(task);
        *process.leader.lock() = Some(task.clone());
    }
    process.family.lock().exec_by = None;
    Ok(())
}

/// Handlers become default, what is ignored stays ignored; the alternate stack goes, mask and pending signals stay.
fn reset_signals(cx: &Cx) {
    let old = *cx.process().signals.actions.lock().clone().lock();
    let mut new = [Sigaction::default(); 64];
    for (new, old) in new.iter_mut().zip(old) {
        if old.handler == SIG_IGN {
            new.handler = SIG_IGN;
        }
    }
    *cx.process().signals.actions.lock() = Arc::new(Mutex::new(new));
    let mut signals = cx.task.signals.lock();
    signals.altstack = Default::default();
    signals.saved_mask = None;
    signals.waiting_for = SigSet::EMPTY;
    drop(signals);
    crate::time::exec_resets_timers(cx.process());
    cx.process().changed.wake_all(PollEvents::empty());
}

/// What the program runs as: set-user-ID and set-group-ID, and the rules of `capabilities(7)` for `execve`.
fn new_credentials(cx: &Cx, file: &OpenFile) -> Creds {
    let mut creds = (*cx.task.creds()).clone();
    let no_suid = file.path.as_ref().is_some_and(|p| p.mount.flags().contains(MountFlags::NOSUID));
    if let Ok(attr) = file.attr() {
        if !no_suid && !cx.task.no_new_privs.load(Ordering::Relaxed) {
            if attr.mode & 0o4000 != 0 {
                creds.euid = attr.uid;
            }
            if attr.mode & 0o2010 == 0o2010 {
                creds.egid = attr.gid;
            }
        }
    }
    creds.suid = creds.euid;
    creds.fsuid = creds.euid;
    creds.sgid = creds.egid;
    creds.fsgid = creds.egid;
    creds.after_exec();
    creds
}
