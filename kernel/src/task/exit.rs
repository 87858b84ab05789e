//! The end of tasks and processes (`_exit(2)`, `exit_group(2)`), and what relatives learn of it.

use super::{Cx, ExitStatus, Process, ProcessState, Task};
use crate::Kernel;
use crate::fs::FdTable;
use crate::signal::{SigInfo, SigSet, SigSource, code, sig};
use crate::wait::PollEvents;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// Has every thread of a process end with this status; the first call counts. Does not block.
pub(crate) fn group_exit(process: &Arc<Process>, status: ExitStatus) {
    let threads = {
        let mut family = process.family.lock();
        family.exiting.get_or_insert(status);
        family.stopped = None;
        family.threads.clone()
    };
    process.changed.wake_all(PollEvents::empty());
    for task in threads {
        task.notify_signal();
    }
}

/// Whether a task has to end rather than go on: its group exits, or another thread executes a new program.
pub(crate) fn must_end(task: &Task) -> bool {
    let family = task.process.family.lock();
    family.exiting.is_some() || family.exec_by.is_some_and(|tid| tid != task.tid())
}

/// What a task leaves in memory that it lets go of: robust locks and the cleared thread id (`set_tid_address(2)`).
pub(crate) fn leave_memory(cx: &Cx) {
    crate::ipc::futex::exit_robust_list(cx);
    let clear = cx.task.clear_child_tid.swap(0, Ordering::Relaxed);
    // As on Linux nothing is cleared when nobody else has the memory.
    if clear != 0 && cx.shares_memory() {
        let ptr = crate::user::UserPtr::<u32>::new(clear);
        if ptr.write(cx, &0).is_ok() {
            crate::ipc::futex::wake_address(cx, ptr.addr(), 1);
        }
    }
}

/// Ends the current task. Afterwards its fiber must return without touching user memory. `status` counts for the process if this is
/// the last thread and no group exit was asked for.
pub(crate) fn exit_task(cx: &Cx, status: ExitStatus) {
    let task = cx.task;
    leave_memory(cx);
    release_vfork(task);
    let peak = cx.mm.borrow().as_ref().map_or(0, |mm| mm.peak_rss_pages());
    let last = leave_group(task, peak);
    // Closing files and giving back memory comes before anyone hears of the end. POSIX locks belong to the process.
    if last {
        task.process.image.lock().running = None;
        crate::fs::lock::release_process(cx);
        crate::ipc::sysv::exit_process(cx);
    }
    crate::fs::view::end(cx);
    let files = cx.files.replace(FdTable::new());
    // The task's own record holds the other reference.
    if Arc::strong_count(&files) <= 2 {
        for file in files.remove_range(0, usize::MAX, |_| true) {
            let _ = crate::fs::close(cx, file);
        }
    }
    drop(files);
    drop(cx.mm.borrow_mut().take());
    release_record(task);
    leave_tables(cx.kernel, task, last, status);
}

/// A task's fiber panicked and is gone: the process dies, and what [`exit_task`] would have done with the task's record is done here.
pub(crate) fn after_oops(kernel: &Arc<Kernel>, task: &Arc<Task>) {
    let killed = ExitStatus::Signaled { signo: sig::KILL, core: false };
    release_vfork(task);
    group_exit(&task.process, killed);
    let last = leave_group(task, 0);
    release_record(task);
    leave_tables(kernel, task, last, killed);
}

/// Takes the task out of its process; whether it was the last thread.
fn leave_group(task: &Arc<Task>, peak_rss_pages: u64) -> bool {
    let process = &task.process;
    let last = {
        let mut family = process.family.lock();
        family.threads.retain(|t| !Arc::ptr_eq(t, task));
        let mut usage = task.usage();
        usage.max_rss_pages = peak_rss_pages;
        family.dead_threads.add(&usage);
        family.threads.is_empty()
    };
    if !last {
        // What this thread was told of is another's to take now.
        crate::signal::retarget(task, SigSet::ALL);
    }
    last
}

/// What others reach through the record must not outlive the task.
fn release_record(task: &Task) {
    drop(core::mem::replace(&mut *task.files.lock(), FdTable::new()));
    drop(task.mm.lock().take());
}

fn leave_tables(kernel: &Arc<Kernel>, task: &Arc<Task>, last: bool, status: ExitStatus) {
    if last {
        end_process(kernel, &task.process, status);
    } else {
        // The first thread's id lives on with the process.
        if task.tid() != task.process.pid {
            kernel.pids.remove_task(task.tid());
        }
        // An `execve` waits for the others to go.
        task.process.changed.wake_all(PollEvents::empty());
    }
}

/// Lets a parent that waits in `vfork` go on; whether there is one.
pub(crate) fn release_vfork(task: &Task) -> bool {
    let Some(done) = task.vfork_done.lock().take() else { return false };
    done.done.store(true, Ordering::SeqCst);
    done.queue.wake_all_sync(PollEvents::empty());
    true
}

/// The last thread is gone. The status is that of a group exit, else its own (Linux before 5.17 told that of the first thread).
fn end_process(kernel: &Arc<Kernel>, process: &Arc<Process>, status: ExitStatus) {
    let status = {
        let family = process.family.lock();
        family.exiting.unwrap_or(status)
    };
    drop(process.timers.lock().take());
    crate::signal::group::leave_session_if_leader(kernel, process);
    let groups = adopt_children(kernel, process);
    // Made before the parent can reap it.
    let info = child_info(process, process.exit_signal.load(Ordering::Relaxed), status);
    let parent = {
        let mut family = process.family.lock();
        family.state = ProcessState::Zombie(status);
        family.parent.upgrade()
    };
    process.changed.wake_all(PollEvents::READABLE);
    if kernel.is_main(process) {
        kernel.finish(Ok(status));
    }
    if let Some(parent) = parent {
        crate::signal::group::hang_up_orphans_of(kernel, process, &parent, groups);
        notify_parent(kernel, &parent, process, info);
    }
}

/// Hands the children to the nearest subreaper, or to init. Returns the process groups of those that were in another group of the same
/// session: they may have lost the one who would continue them.
fn adopt_children(kernel: &Arc<Kernel>, process: &Arc<Process>) -> Vec<i32> {
    let children = {
        let mut family = process.family.lock();
        family.closed = true;
        core::mem::take(&mut family.children)
    };
    let mut groups = Vec::new();
    if children.is_empty() {
        return groups;
    }
    let Some(reaper) = find_reaper(kernel, process) else { return groups };
    let (session, group) = (process.session.lock().id, process.pgid.load(Ordering::Relaxed));
    for child in children {
        let state = {
            // Both locks, parent before child: a child that is reaped at this moment is in no list afterwards.
            let mut adopter = reaper.family.lock();
            let mut family = child.family.lock();
            if family.state == ProcessState::Reaped {
                continue;
            }
            family.parent = super::process::Parent::new(&reaper);
            adopter.children.push(child.clone());
            family.state
        };
        child.exit_signal.store(sig::CHLD, Ordering::Relaxed);
        for task in child.threads() {
            let signo = task.parent_death_signal.load(Ordering::Relaxed) as i32;
            if signo != 0 {
                crate::signal::send_to_process(&child, SigInfo::user(signo, code::USER, process.pid, 0));
            }
        }
        let child_group = child.pgid.load(Ordering::Relaxed);
        if child_group != group && child.session.lock().id == session {
            groups.push(child_group);
        }
        if let ProcessState::Zombie(status) = state {
            let info = child_info(&child, sig::CHLD, status);
            notify_parent(kernel, &reaper, &child, info);
        }
    }
    groups
}

fn find_reaper(kernel: &Arc<Kernel>, process: &Arc<Process>) -> Option<Arc<Process>> {
    let mut at = process.family.lock().parent.upgrade();
    while let Some(ancestor) = at {
        if ancestor.pid == 1 {
            break;
        }
        if ancestor.subreaper.load(Ordering::Relaxed) && ancestor.state() == ProcessState::Running {
            return Some(ancestor);
        }
        at = ancestor.family.lock().parent.upgrade();
    }
    kernel.init_process()
}

/// Tells a parent that a child has become a zombie, or reaps the child if the parent does not want to know. `info.signo` is 0 for a
/// child that ends silently.
fn notify_parent(kernel: &Arc<Kernel>, parent: &Arc<Process>, child: &Arc<Process>, info: SigInfo) {
    const SA_NOCLDWAIT: u64 = 2;
    if parent.pid == 1 {
        return reap(kernel, child);
    }
    let action = parent.signals.action(sig::CHLD);
    let ignored = info.signo == sig::CHLD && action.handler == crate::signal::SIG_IGN;
    let unwanted = ignored || (info.signo == sig::CHLD && action.flags & SA_NOCLDWAIT != 0);
    if unwanted {
        reap(kernel, child);
    }
    if info.signo != 0 && !ignored {
        parent.send_signal(info);
    }
    parent.child_changed.wake_all_sync(PollEvents::READABLE);
}

fn child_info(child: &Arc<Process>, signo: i32, status: ExitStatus) -> SigInfo {
    let (code, status) = match status {
        ExitStatus::Exited(code) => (code::CLD_EXITED, i32::from(code)),
        ExitStatus::Signaled { signo, core: true } => (code::CLD_DUMPED, signo),
        ExitStatus::Signaled { signo, core: false } => (code::CLD_KILLED, signo),
    };
    child_signal(child, signo, code, status)
}

/// A `SIGCHLD` about `child`.
pub(crate) fn child_signal(child: &Arc<Process>, signo: i32, code: i32, status: i32) -> SigInfo {
    let usage = child.usage();
    let uid = child.leader.lock().as_ref().map_or(0, |t| t.creds().uid);
    const NS_PER_TICK: u64 = 10_000_000;
    SigInfo {
        signo,
        code,
        errno: 0,
        source: SigSource::Child {
            pid: child.pid,
            uid,
            status,
            utime: (usage.user_ns / NS_PER_TICK) as i64,
            stime: (usage.system_ns / NS_PER_TICK) as i64,
        },
    }
}

/// Takes a zombie for its reaper: whoever gets `true` calls [`bury`].
fn claim(child: &Process) -> bool {
    let mut family = child.family.lock();
    let zombie = matches!(family.state, ProcessState::Zombie(_));
    if zombie {
        family.state = ProcessState::Reaped;
    }
    zombie
}

fn reap(kernel: &Arc<Kernel>, child: &Arc<Process>) {
    if claim(child) {
        bury(kernel, child);
    }
}

/// Takes a claimed zombie out of the world; its usage goes to the parent.
pub(crate) fn bury(kernel: &Arc<Kernel>, child: &Arc<Process>) {
    let usage = child.usage_with_children();
    let parent = child.family.lock().parent.upgrade();
    if let Some(parent) = parent {
        let mut family = parent.family.lock();
        if parent.pid != 1 {
            family.dead_children.add(&usage);
        }
        family.children.retain(|c| !Arc::ptr_eq(c, child));
    }
    kernel.pids.remove_task(child.pid);
    kernel.pids.remove_process(child.pid);
    drop(child.leader.lock().take());
}
