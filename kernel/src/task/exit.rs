//! The end of tasks and processes (`_exit(2)`, `exit_group(2)`), and what relatives learn of it.

use super::{Cx, ExitStatus, Process, ProcessState, Task};
use crate::Kernel;
use crate::fs::FdTable;
use crate::signal::{SigInfo, SigSource, code, sig};
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

/// Ends the current task. Afterwards its fiber must return without touching user memory. `status` counts for the process if this is
/// the last thread and no group exit was asked for.
pub(crate) fn exit_task(cx: &Cx, status: ExitStatus) {
    let task = cx.task;
    let process = cx.process();
    crate::ipc::futex::exit_robust_list(cx);
    let clear = task.clear_child_tid.swap(0, Ordering::Relaxed);
    if clear != 0 {
        let ptr = crate::user::UserPtr::<u32>::new(clear);
        if ptr.write(cx, &0).is_ok() {
            crate::ipc::futex::wake_address(cx, ptr.addr(), 1);
        }
    }
    release_vfork(task);

    let peak = cx.mm.borrow().as_ref().map_or(0, |mm| mm.peak_rss_pages());
    let last = {
        let mut family = process.family.lock();
        family.threads.retain(|t| !Arc::ptr_eq(t, task));
        let mut usage = task.usage();
        usage.max_rss_pages = peak;
        family.dead_threads.add(&usage);
        family.threads.is_empty()
    };
    // Closing files and giving back memory comes before anyone hears of the end. POSIX locks belong to the process.
    if last {
        crate::fs::lock::release_process(cx);
    }
    let files = cx.files.replace(FdTable::new());
    // The task's own record holds the other reference.
    if Arc::strong_count(&files) <= 2 {
        for file in files.remove_range(0, usize::MAX, |_| true) {
            let _ = crate::fs::close(cx, file);
        }
    }
    drop(files);
    drop(core::mem::replace(&mut *task.files.lock(), FdTable::new()));
    drop(task.mm.lock().take());
    drop(cx.mm.borrow_mut().take());
    if last {
        end_process(cx.kernel, process, status);
    } else {
        cx.kernel.pids.remove_task(task.tid());
        // An `execve` waits for the others to go.
        process.changed.wake_all(PollEvents::empty());
    }
}

/// A task's fiber panicked and is gone: the process dies, and what [`exit_task`] would have done with the task's record is done here.
pub(crate) fn after_oops(kernel: &Arc<Kernel>, task: &Arc<Task>) {
    let process = &task.process;
    let killed = ExitStatus::Signaled { signo: sig::KILL, core: false };
    release_vfork(task);
    let last = {
        let mut family = process.family.lock();
        family.threads.retain(|t| !Arc::ptr_eq(t, task));
        family.dead_threads.add(&task.usage());
        family.threads.is_empty()
    };
    drop(core::mem::replace(&mut *task.files.lock(), FdTable::new()));
    drop(task.mm.lock().take());
    group_exit(process, killed);
    if last {
        end_process(kernel, process, killed);
    } else {
        kernel.pids.remove_task(task.tid());
        process.changed.wake_all(PollEvents::empty());
    }
}

/// Lets a parent that waits in `vfork` go on.
pub(crate) fn release_vfork(task: &Task) {
    let done = task.vfork_done.lock().take();
    if let Some(done) = done {
        done.done.store(true, Ordering::SeqCst);
        done.queue.wake_all(PollEvents::empty());
    }
}

/// The last thread is gone.
fn end_process(kernel: &Arc<Kernel>, process: &Arc<Process>, status: ExitStatus) {
    let status = process.family.lock().exiting.unwrap_or(status);
    drop(process.timers.lock().take());
    crate::signal::group::leave_session_if_leader(kernel, process);
    adopt_children(kernel, process);
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
        crate::signal::group::hang_up_orphans_of(kernel, process, &parent);
        notify_parent(kernel, &parent, process, status);
    }
}

/// Hands the children to the nearest subreaper, or to init.
fn adopt_children(kernel: &Arc<Kernel>, process: &Arc<Process>) {
    let children = core::mem::take(&mut process.family.lock().children);
    if children.is_empty() {
        return;
    }
    let Some(reaper) = find_reaper(kernel, process) else { return };
    for child in children {
        let state = {
            let mut family = child.family.lock();
            family.parent = Arc::downgrade(&reaper);
            family.state
        };
        for task in child.threads() {
            let signo = task.parent_death_signal.load(Ordering::Relaxed) as i32;
            if signo != 0 {
                child.send_signal(SigInfo::user(signo, code::USER, process.pid, 0));
            }
        }
        reaper.family.lock().children.push(child.clone());
        child.exit_signal.store(sig::CHLD, Ordering::Relaxed);
        if let ProcessState::Zombie(status) = state {
            notify_parent(kernel, &reaper, &child, status);
        }
    }
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

/// Tells a parent that a child has become a zombie, or reaps the child if the parent does not want to know.
fn notify_parent(kernel: &Arc<Kernel>, parent: &Arc<Process>, child: &Arc<Process>, status: ExitStatus) {
    const SA_NOCLDWAIT: u64 = 2;
    if parent.pid == 1 {
        reap(kernel, parent, child);
        return;
    }
    let signo = child.exit_signal.load(Ordering::Relaxed);
    let action = parent.signals.action(sig::CHLD);
    let unwanted =
        signo == sig::CHLD && (action.handler == crate::signal::SIG_IGN || action.flags & SA_NOCLDWAIT != 0);
    if signo != 0 && !(unwanted && action.handler == crate::signal::SIG_IGN) {
        parent.send_signal(child_info(child, signo, status));
    }
    if unwanted {
        reap(kernel, parent, child);
    }
    parent.child_changed.wake_all(PollEvents::READABLE);
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

/// Takes a zombie out of the world; its usage goes to the parent.
pub(crate) fn reap(kernel: &Arc<Kernel>, parent: &Arc<Process>, child: &Arc<Process>) {
    let mut usage = child.usage();
    {
        let mut family = child.family.lock();
        usage.add(&family.dead_children);
        family.state = ProcessState::Reaped;
    }
    let gone: Vec<_> = {
        let mut family = parent.family.lock();
        if parent.pid != 1 {
            family.dead_children.add(&usage);
        }
        let (gone, stay) =
            core::mem::take(&mut family.children).into_iter().partition(|c| Arc::ptr_eq(c, child));
        family.children = stay;
        gone
    };
    drop(gone);
    kernel.pids.remove_task(child.pid);
    kernel.pids.remove_process(child.pid);
    drop(child.leader.lock().take());
}
