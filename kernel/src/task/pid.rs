//! Process and thread ids.

use super::{Process, Task};
use crate::error::{Result, err};
use crate::settings::Settings;
use crate::sync::Mutex;
use abi::Errno;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Highest id plus one that there can be.
pub const PID_MAX: i32 = 1 << 22;

#[derive(Default)]
struct Inner {
    tasks: BTreeMap<i32, Arc<Task>>,
    processes: BTreeMap<i32, Arc<Process>>,
    last: i32,
    /// The real user id that each task counts for, from before it is made until it is reaped.
    owners: BTreeMap<i32, u32>,
    /// How many tasks count for each user.
    users: BTreeMap<u32, u64>,
}

impl Inner {
    fn free_id(&mut self, max: i32) -> Option<i32> {
        for _ in 0..max {
            let next = if self.last + 1 >= max { 300 } else { self.last + 1 };
            self.last = next;
            let used = self.tasks.contains_key(&next)
                || self.processes.contains_key(&next)
                || self.owners.contains_key(&next);
            if !used {
                return Some(next);
            }
        }
        None
    }

    fn count_for(&mut self, tid: i32, uid: u32) {
        self.discount(tid);
        self.owners.insert(tid, uid);
        *self.users.entry(uid).or_default() += 1;
    }

    fn discount(&mut self, tid: i32) {
        let Some(uid) = self.owners.remove(&tid) else { return };
        let left = self.users.get(&uid).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            self.users.remove(&uid);
        } else {
            self.users.insert(uid, left);
        }
    }
}

/// All tasks and processes by id. An id is free again when the process is reaped and no group or session uses it.
#[derive(Default)]
pub struct Pids {
    inner: Mutex<Inner>,
}

impl Pids {
    /// A free id for a task of this user: the next one in turn, as Linux does. The task counts from now on, so that many that are made
    /// at the same time do not pass the limits together; [`Pids::remove_task`] ends that. `EAGAIN` when the user has
    /// `user_limit` tasks, all have `kernel.threads-max`, or all ids below `kernel.pid_max` are in use.
    pub fn allocate(&self, uid: u32, user_limit: u64, settings: &Settings) -> Result<i32> {
        let mut inner = self.inner.lock();
        let used = inner.users.get(&uid).copied().unwrap_or(0);
        if used >= user_limit || inner.owners.len() >= settings.threads_max.size() {
            return err(Errno::EAGAIN);
        }
        let max = i32::try_from(settings.pid_max.get()).unwrap_or(PID_MAX).min(PID_MAX);
        let tid = inner.free_id(max).ok_or(Errno::EAGAIN)?;
        inner.count_for(tid, uid);
        Ok(tid)
    }

    /// The task counts for another user from now on.
    pub fn change_owner(&self, tid: i32, uid: u32) {
        self.inner.lock().count_for(tid, uid);
    }

    /// Adds a task.
    pub fn add_task(&self, task: &Arc<Task>) {
        self.inner.lock().tasks.insert(task.tid(), task.clone());
    }
    /// Adds a process.
    pub fn add_process(&self, process: &Arc<Process>) {
        self.inner.lock().processes.insert(process.pid, process.clone());
    }
    /// Removes a task that has ended, or was never made: its id is free, and it no longer counts for its user.
    pub fn remove_task(&self, tid: i32) {
        let gone = {
            let mut inner = self.inner.lock();
            inner.discount(tid);
            inner.tasks.remove(&tid)
        };
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
    /// Number of tasks.
    pub fn task_count(&self) -> usize {
        self.inner.lock().tasks.len()
    }
    /// The id that was given out last (`/proc/loadavg`).
    pub fn last(&self) -> i32 {
        self.inner.lock().last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_count_before_they_exist() {
        let pids = Pids::default();
        let first = pids.allocate(7, 2, &Settings::new(3)).unwrap();
        pids.allocate(7, 2, &Settings::new(3)).unwrap();
        let full = |uid, user_limit, limit| {
            pids.allocate(uid, user_limit, &Settings::new(limit)).unwrap_err().errno()
        };
        assert_eq!(full(7, 2, 3), Errno::EAGAIN, "of the user");
        let other = pids.allocate(8, 2, &Settings::new(3)).unwrap();
        assert_eq!(full(8, 2, 3), Errno::EAGAIN, "of all");
        pids.change_owner(other, 7);
        pids.remove_task(first);
        pids.remove_task(first);
        assert_eq!(full(7, 2, 9), Errno::EAGAIN);
        pids.remove_task(other);
        pids.allocate(7, 2, &Settings::new(3)).unwrap();
    }
}
