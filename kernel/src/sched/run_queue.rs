//! One CPU's queue of runnable tasks, ordered by virtual run time.

use super::place::may_run;
use crate::task::Task;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// Runnable tasks; the key is (virtual run time, order of arrival).
#[derive(Default)]
pub(crate) struct RunQueue {
    tasks: BTreeMap<(u64, u64), Arc<Task>>,
    next: u64,
    /// The least virtual run time that a newcomer gets, so that a long sleeper does not take over the CPU.
    floor: u64,
}

/// Credit in nanoseconds that a task which slept keeps over those that ran.
const SLEEPER_CREDIT_NS: u64 = 2_000_000;

impl RunQueue {
    /// `running`: virtual run time of the task that the CPU runs meanwhile.
    pub(crate) fn push(&mut self, task: Arc<Task>, running: Option<u64>) {
        // A task that ran alone was never queued; what it used counts all the same.
        if let Some(running) = running {
            let first = self.tasks.first_key_value().map_or(running, |((first, _), _)| *first);
            self.floor = self.floor.max(running.min(first));
        }
        let entity = &task.sched;
        let vruntime =
            entity.vruntime.load(Ordering::Relaxed).max(self.floor.saturating_sub(SLEEPER_CREDIT_NS));
        // A task that comes from another queue may be far ahead of this one.
        let vruntime = vruntime.min(self.floor.saturating_add(1_000_000_000));
        entity.vruntime.store(vruntime, Ordering::Relaxed);
        let order = self.next;
        self.next += 1;
        self.tasks.insert((vruntime, order), task);
    }

    pub(crate) fn pop(&mut self) -> Option<Arc<Task>> {
        let ((vruntime, _), task) = self.tasks.pop_first()?;
        self.floor = self.floor.max(vruntime);
        Some(task)
    }

    /// The CPU runs a task with this virtual run time.
    pub(crate) fn raise_floor(&mut self, vruntime: u64) {
        self.floor = self.floor.max(vruntime);
    }

    /// Takes the first task that may run on `cpu`.
    pub(crate) fn take_first(&mut self, cpu: usize) -> Option<Arc<Task>> {
        let key = *self.tasks.iter().find(|(_, t)| may_run(t, cpu))?.0;
        self.tasks.remove(&key)
    }

    /// Takes the task that would run last among those that may run on `cpu`.
    pub(crate) fn steal(&mut self, cpu: usize) -> Option<Arc<Task>> {
        let key = *self.tasks.iter().rev().find(|(_, t)| may_run(t, cpu))?.0;
        self.tasks.remove(&key)
    }

    /// Takes the first task that may run on `cpu` if its virtual run time is below `limit`.
    pub(crate) fn take_behind(&mut self, cpu: usize, limit: u64) -> Option<Arc<Task>> {
        let key = *self.tasks.range(..(limit, 0)).find(|(_, t)| may_run(t, cpu))?.0;
        self.tasks.remove(&key)
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }
}
