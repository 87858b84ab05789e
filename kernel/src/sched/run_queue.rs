//! One CPU's queue of runnable tasks, ordered by virtual run time.

use super::place::may_run;
use crate::task::Task;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::mem::replace;
use core::sync::atomic::Ordering;

/// Virtual run time, order of arrival.
type Key = (u64, u64);

/// Runnable tasks in order. The first one is kept apart: where one task at a time waits, nothing is allocated for it.
#[derive(Default)]
pub(crate) struct RunQueue {
    first: Option<(Key, Arc<Task>)>,
    others: BTreeMap<Key, Arc<Task>>,
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
            let first = self.first.as_ref().map_or(running, |((first, _), _)| *first);
            self.floor = self.floor.max(running.min(first));
        }
        let entity = &task.sched;
        let vruntime =
            entity.vruntime.load(Ordering::Relaxed).max(self.floor.saturating_sub(SLEEPER_CREDIT_NS));
        // A task that comes from another queue may be far ahead of this one.
        let vruntime = vruntime.min(self.floor.saturating_add(1_000_000_000));
        entity.vruntime.store(vruntime, Ordering::Relaxed);
        let new = (vruntime, self.next);
        self.next += 1;
        match &mut self.first {
            None => self.first = Some((new, task)),
            Some((key, first)) if new < *key => {
                self.others.insert(replace(key, new), replace(first, task));
            }
            Some(_) => {
                self.others.insert(new, task);
            }
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Arc<Task>> {
        let ((vruntime, _), task) = self.take_front()?;
        self.floor = self.floor.max(vruntime);
        Some(task)
    }

    fn take_front(&mut self) -> Option<(Key, Arc<Task>)> {
        replace(&mut self.first, self.others.pop_first())
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = (&Key, &Arc<Task>)> {
        self.first.iter().map(|(key, task)| (key, task)).chain(&self.others)
    }

    fn remove(&mut self, key: Key) -> Option<Arc<Task>> {
        match &self.first {
            Some((first, _)) if *first == key => self.take_front().map(|(_, task)| task),
            _ => self.others.remove(&key),
        }
    }

    /// The CPU runs a task with this virtual run time.
    pub(crate) fn raise_floor(&mut self, vruntime: u64) {
        self.floor = self.floor.max(vruntime);
    }

    /// Takes the first task that may run on `cpu`.
    pub(crate) fn take_first(&mut self, cpu: usize) -> Option<Arc<Task>> {
        let key = *self.iter().find(|(_, t)| may_run(t, cpu))?.0;
        self.remove(key)
    }

    /// Takes the task that would run last among those that may run on `cpu`.
    pub(crate) fn steal(&mut self, cpu: usize) -> Option<Arc<Task>> {
        let key = *self.iter().rev().find(|(_, t)| may_run(t, cpu))?.0;
        self.remove(key)
    }

    /// Takes the first task that may run on `cpu` if its virtual run time is below `limit`.
    pub(crate) fn take_behind(&mut self, cpu: usize, limit: u64) -> Option<Arc<Task>> {
        let key = *self.iter().take_while(|(key, _)| key.0 < limit).find(|(_, t)| may_run(t, cpu))?.0;
        self.remove(key)
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }
}
