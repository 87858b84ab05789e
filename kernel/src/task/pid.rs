//! Process and thread ids.

use super::{Process, Task};
use crate::sync::Mutex;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Highest id plus one (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: i32 = 1 << 22;

#[derive(Default)]
struct Inner {
    tasks: BTreeMap<i32, Arc<Task>>,
    processes: BTreeMap<i32, Arc<Process>>,
    last: i32,
}

/// All tasks and processes by id. An id is free again when the process is reaped and no group or session uses it.
#[derive(Default)]
pub struct Pids {
    inner: Mutex<Inner>,
}

impl Pids {
    /// A free id: the next one in turn, as Linux does. `None` when all are in use.
    pub fn allocate(&self) -> Option<i32> {
        let mut inner = self.inner.lock();
        for _ in 0..PID_MAX {
            let next = if inner.last + 1 >= PID_MAX { 300 } else { inner.last + 1 };
            inner.last = next;
            let used = inner.tasks.contains_key(&next) || inner.processes.contains_key(&next);
            if !used {
                return Some(next);
            }
        }
        None
    }

    /// Adds a task.
    pub fn add_task(&self, task: &Arc<Task>) {
        self.inner.lock().tasks.insert(task.tid(), task.clone());
    }
    /// Adds a process.
    pub fn add_process(&self, process: &Arc<Process>) {
        self.inner.lock().processes.insert(process.pid, process.clone());
    }
    /// Removes a task that has ended.
    pub fn remove_task(&self, tid: i32) {
        let gone = self.inner.lock().tasks.remove(&tid);
        drop(gone);
    }
    /// Removes a process that was reaped.
    pub fn remove_process(&self, pid: i32) {
        let gone = self.inner.lock().processes.remove(&pid);
        drop(gone);
    }
    /// The task with this thread id.
    pub fn task(&self, tid: i32) -> Option<Arc<Task>> {
        self.inner.lock().tasks.get(&tid).cloned()
    }
    /// The process with this id, also a zombie.
    pub fn process(&self, pid: i32) -> Option<Arc<Process>> {
        self.inner.lock().processes.get(&pid).cloned()
    }
    /// All processes in order of their ids, also zombies.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.inner.lock().processes.values().cloned().collect()
    }
    /// Takes everything out.
    pub(crate) fn drain(&self) -> Vec<Arc<Task>> {
        let mut inner = self.inner.lock();
        for process in core::mem::take(&mut inner.processes).into_values() {
            process.leader.lock().take();
            let mut family = process.family.lock();
            let (children, threads) =
                (core::mem::take(&mut family.children), core::mem::take(&mut family.threads));
            drop(family);
            drop((children, threads));
        }
        core::mem::take(&mut inner.tasks).into_values().collect()
    }
    /// Number of tasks for which `pick` holds.
    pub fn count_tasks(&self, pick: impl Fn(&Task) -> bool) -> usize {
        self.inner.lock().tasks.values().filter(|t| pick(t)).count()
    }
    /// Number of tasks.
    pub fn task_count(&self) -> usize {
        self.inner.lock().tasks.len()
    }
    /// The id that was given out last (`/proc/loadavg`).
    pub fn last(&self) -> i32 {
        self.inner.lock().last
    }
}
