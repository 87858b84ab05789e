//! Making tasks.

use super::{
    Creds, Cx, Family, FsContext, Image, Limits, Process, ProcessState, SchedPolicy, Session, Task, Usage,
};
use crate::Kernel;
use crate::error::{Result, err};
use crate::fs::FdTable;
use crate::mm::Mm;
use crate::sched::Entity;
use crate::signal::{SharedSignals, SigSet, TaskSignals};
use crate::sync::Mutex;
use crate::wait::WaitQueue;
use abi::Errno;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use hal::{CpuId, UserContext};

/// What a new task starts with.
pub(crate) struct NewTask {
    pub tid: i32,
    pub process: Arc<Process>,
    pub name: Vec<u8>,
    pub creds: Arc<Creds>,
    pub mm: Option<Arc<Mm>>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
    pub mask: SigSet,
    pub policy: SchedPolicy,
    pub cpu: CpuId,
    pub allowed: u64,
    pub vruntime: u64,
}

impl NewTask {
    /// Makes the task record; it has no fiber yet and is in no table.
    pub(crate) fn build(self, kernel: &Kernel) -> Arc<Task> {
        let entity = Entity::new(self.cpu, self.policy.weight(), self.allowed);
        entity.vruntime.store(self.vruntime, Ordering::Relaxed);
        Arc::new(Task {
            tid: AtomicI32::new(self.tid),
            process: self.process,
            sched: entity,
            scheduler: kernel.sched.clone(),
            fiber: Mutex::new(None),
            vfork_done: Mutex::new(None),
            name: Mutex::new(self.name),
            signals: Mutex::new(TaskSignals { mask: self.mask, ..TaskSignals::default() }),
            signal_pending: AtomicBool::new(false),
            creds: Mutex::new(self.creds),
            mm: Mutex::new(self.mm),
            files: Mutex::new(self.files),
            fs: Mutex::new(self.fs),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            rseq: Mutex::new(None),
            in_syscall: AtomicU64::new(u64::MAX),
            user_time: super::UserTime::default(),
            start_ns: kernel.sched.now_ns(),
            no_new_privs: AtomicBool::new(false),
            parent_death_signal: AtomicU32::new(0),
            timer_slack_ns: AtomicU64::new(50_000),
            policy: Mutex::new(self.policy),
            faults: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }
}

/// Gives a task its fiber and makes it runnable. `EAGAIN` when no stack can be had. The task has to be in its tables before.
pub(crate) fn launch(
    kernel: &Arc<Kernel>,
    task: &Arc<Task>,
    user: Box<dyn UserContext>,
    entry: impl FnOnce(&Cx) + Send + 'static,
) -> Result<()> {
    let (fiber_kernel, fiber_task) = (kernel.clone(), task.clone());
    let fiber = kernel.machine.fibers().spawn(Box::new(move |suspend| {
        let cx = Cx::new(&fiber_kernel, &fiber_task, suspend, user);
        entry(&cx);
    }));
    let Some(fiber) = fiber else { return err(Errno::EAGAIN) };
    *task.fiber.lock() = Some(fiber);
    task.wake();
    Ok(())
}

/// A process record without threads.
pub(crate) fn new_process(
    kernel: &Kernel,
    pid: i32,
    parent: Option<&Arc<Process>>,
    session: Arc<Session>,
    pgid: i32,
    limits: Limits,
) -> Arc<Process> {
    Arc::new(Process {
        pid,
        pgid: AtomicI32::new(pgid),
        session: Mutex::new(session),
        family: Mutex::new(Family {
            state: ProcessState::Running,
            parent: parent.map(super::process::Parent::new).unwrap_or_default(),
            children: Vec::new(),
            threads: Vec::new(),
            exiting: None,
            closed: false,
            stopped: None,
            stop_unreported: false,
            continue_unreported: false,
            exec_by: None,
            dead_threads: Usage::default(),
            dead_children: Usage::default(),
        }),
        signals: SharedSignals::new(),
        child_changed: WaitQueue::new(),
        changed: WaitQueue::new(),
        cpu_check_ns: AtomicU64::new(super::cpu_limit::first_check(&limits)),
        limits: Mutex::new(limits),
        exit_signal: AtomicI32::new(crate::signal::sig::CHLD),
        subreaper: AtomicBool::new(false),
        dumpable: AtomicU32::new(1),
        personality: AtomicU32::new(0),
        did_exec: AtomicBool::new(false),
        image: Mutex::new(Image::default()),
        oom_score_adj: AtomicI32::new(0),
        timers: Mutex::new(None),
        leader: Mutex::new(None),
        start_ns: kernel.sched.now_ns(),
        io: Default::default(),
    })
}

/// Makes the init process (a record that adopts orphans and runs nothing) and the first real process, whose only
/// task runs `entry`.
pub(crate) fn spawn_first(
    kernel: &Arc<Kernel>,
    entry: impl FnOnce(&Cx) + Send + 'static,
) -> Result<Arc<Task>> {
    let max_tasks = (kernel.frames.total() / 8).clamp(256, 1 << 20);
    let mut limits = Limits::initial(max_tasks);
    for (resource, cur, max) in &kernel.config.limits {
        if let Some(limit) = limits.0.get_mut(*resource as usize) {
            *limit = super::Rlimit { cur: (*cur).min(*max), max: *max };
        }
    }
    let root = Arc::new(Creds::new(0, 0, Vec::new()));
    let (uid, gid, groups) = kernel.config.user.clone();
    let creds = Arc::new(Creds::new(uid, gid, groups));
    let mut parent: Option<Arc<Process>> = None;
    let mut last = None;
    for first in [true, false] {
        let pid = kernel.pids.allocate(if first { 0 } else { uid }, u64::MAX, &kernel.settings)?;
        let session = Arc::new(Session { id: pid, tty: Mutex::new(None) });
        let process = new_process(kernel, pid, parent.as_ref(), session, pid, limits);
        let mm = if first { None } else { Some(Mm::new(kernel)?) };
        let task = NewTask {
            tid: pid,
            process: process.clone(),
            name: if first { b"init".to_vec() } else { b"vkernel".to_vec() },
            creds: if first { root.clone() } else { creds.clone() },
            mm,
            files: FdTable::new(),
            fs: Arc::new(FsContext { dirs: Mutex::new(None), umask: AtomicU32::new(0o022) }),
            mask: SigSet::EMPTY,
            policy: SchedPolicy::default(),
            cpu: CpuId(0),
            allowed: u64::MAX,
            vruntime: 0,
        }
        .build(kernel);
        process.family.lock().threads.push(task.clone());
        *process.leader.lock() = Some(task.clone());
        if let Some(parent) = &parent {
            parent.family.lock().children.push(process.clone());
        }
        kernel.pids.add_process(&process);
        kernel.pids.add_task(&task);
        parent = Some(process);
        last = Some(task);
    }
    let Some(task) = last else { return err(Errno::EAGAIN) };
    launch(kernel, &task, kernel.machine.new_context(), entry)?;
    Ok(task)
}

impl Kernel {
    /// The process that adopts orphans.
    pub(crate) fn init_process(&self) -> Option<Arc<Process>> {
        self.pids.process(1)
    }
}
