//! Where a woken task runs, and when waiting work changes its CPU.
//!
//! A wake-up across CPUs costs a host wake-up, which takes as long as twenty switches on one CPU. So a task that its waker's CPU can take goes there
//! and waits for [`HAND_OVER_NS`], about as long as that wake-up takes: a waker that then waits itself has passed the CPU on
//! for nothing, and one that goes on has the task handed to an idle CPU. Nobody loses more than twice of what the better choice had cost. Where wakers keep waiting
//! soon, the time is [`PATIENT_NS`], until the first that does not.
//!
//! A CPU may be idle while its host CPU works for another one ([`hal::Cpu::lent_to`]), which then does more than both would do apart. Such a CPU
//! is not idle for who wakes up: it goes to that other one, and waits there for a turn of [`PATIENT_NS`] at most. When it turns out not to make such use of
//! the host CPU itself, the CPUs are apart again and waiting work is handed over as usual.
//!
//! In order: a CPU whose loop woke the task and has nothing else to do; the waker's CPU, if the task ran there last or the waker says that it will
//! wait soon; the last CPU, if it is idle; any idle CPU; the shorter queue of the last and the waker's CPU. Linux does the same
//! with `wake_affine` and `select_idle_sibling`, but looks for an idle CPU at once.

use super::{PerCpu, Scheduler, TICK_NS};
use crate::task::Task;
use crate::wait::Waker;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use hal::CpuId;

/// How long a task waits behind a running one before an idle CPU gets it, in nanoseconds.
const HAND_OVER_NS: u64 = 100_000;
/// The same where that has not been necessary for the last [`STREAK`] wake-ups, because the host timer for it is not free.
const PATIENT_NS: u64 = 1_000_000;
const STREAK: u64 = 16;

/// Whether the mask of a task has a CPU.
pub(super) fn may_run(task: &Task, cpu: usize) -> bool {
    task.sched.allowed.load(Ordering::Relaxed) & (1 << (cpu & 63)) != 0
}

impl PerCpu {
    /// When a task that begins to wait here may be given away.
    fn hand_over_at(&self, now_ns: u64) -> u64 {
        let patient = self.streak.load(Ordering::Relaxed) >= STREAK;
        now_ns + if patient { PATIENT_NS } else { HAND_OVER_NS }
    }

    /// A task begins to wait behind the running one.
    pub(super) fn starts_waiting(&self, now_ns: u64, alone: bool) {
        if alone || self.hand_over_ns.load(Ordering::Relaxed) == u64::MAX {
            self.hand_over_ns.store(self.hand_over_at(now_ns), Ordering::SeqCst);
        }
    }

    /// A turn begins: who still waits waits for this one from now on.
    pub(super) fn turn_begins(&self, now_ns: u64) {
        let next = if self.queued() == 0 { u64::MAX } else { self.hand_over_at(now_ns) };
        let before = self.hand_over_ns.swap(next, Ordering::SeqCst);
        if before != u64::MAX && now_ns < before {
            self.streak.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn gives_away(&self) {
        self.streak.store(0, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    fn queued(&self) -> usize {
        self.queue.lock().len()
    }

    /// Virtual run time of the task on the CPU, with its present turn.
    pub(super) fn running_vruntime(&self, now_ns: u64) -> Option<u64> {
        if !self.busy.load(Ordering::SeqCst) {
            return None;
        }
        let [vruntime, weight] = &self.current;
        let ran = now_ns.saturating_sub(self.since_ns.load(Ordering::Relaxed));
        let ran = ran.saturating_mul(1024) / weight.load(Ordering::Relaxed).max(1);
        Some(vruntime.load(Ordering::Relaxed).saturating_add(ran))
    }
}

impl Scheduler {
    /// The last CPU of the task if it may run there, else the first that it may.
    pub(super) fn last_cpu(&self, task: &Task) -> CpuId {
        let last = task.sched.cpu.load(Ordering::Relaxed).min(self.cpus.len() - 1);
        if may_run(task, last) {
            return CpuId(last);
        }
        CpuId((0..self.cpus.len()).find(|i| may_run(task, *i)).unwrap_or(0))
    }

    /// An idle CPU that the task may run on, other than `except`, and whose host CPU is idle too.
    fn idle_cpu(&self, task: &Task, except: usize) -> Option<CpuId> {
        let mut cpus = self.cpus.iter().enumerate();
        let free = |i: usize, c: &PerCpu| c.is_idle() && self.lent_to(CpuId(i)).is_none();
        cpus.find(|(i, c)| *i != except && free(*i, c) && may_run(task, *i)).map(|(i, _)| CpuId(i))
    }

    /// The CPU that the host CPU of an idle one works for.
    pub(super) fn lent_to(&self, cpu: CpuId) -> Option<CpuId> {
        self.machine.cpu().lent_to(cpu)
    }

    /// How long a turn on `cpu` is when others wait. Those that wait because their CPU's host CPU is lent to `cpu` wait no longer than for a hand-over.
    pub(super) fn slice_ns(&self, cpu: CpuId) -> u64 {
        let borrows = (0..self.cpus.len()).any(|i| i != cpu.0 && self.lent_to(CpuId(i)) == Some(cpu));
        if borrows { PATIENT_NS } else { TICK_NS }
    }

    /// The calling CPU begins or ends to serve timers and events.
    pub(crate) fn in_events(&self, value: bool) {
        let own = self.machine.cpu().current().and_then(|cpu| self.cpus.get(cpu.0));
        if let Some(per_cpu) = own {
            per_cpu.in_events.store(value, Ordering::Relaxed);
        }
    }

    /// Where a woken task is queued; see the module's head.
    pub(super) fn place(&self, task: &Task, waker: Waker) -> CpuId {
        let last = self.last_cpu(task);
        if self.cpus.len() == 1 {
            return last;
        }
        let own = self.machine.cpu().current().filter(|cpu| may_run(task, cpu.0));
        let own = own.and_then(|cpu| self.cpus.get(cpu.0).map(|per_cpu| (cpu, per_cpu)));
        if let Some((cpu, per_cpu)) = own
            && per_cpu.queued() == 0
        {
            let free = !per_cpu.busy.load(Ordering::SeqCst);
            let partner = waker == Waker::WaitsSoon || cpu == last;
            if free || (partner && !per_cpu.in_events.load(Ordering::Relaxed)) {
                return cpu;
            }
        }
        let Some(last_cpu) = self.cpus.get(last.0) else { return last };
        if last_cpu.is_idle() {
            return self.lent_to(last).filter(|user| may_run(task, user.0)).unwrap_or(last);
        }
        if let Some(idle) = self.idle_cpu(task, last.0) {
            return idle;
        }
        match own {
            Some((cpu, per_cpu)) if cpu != last && per_cpu.queued() < last_cpu.queued() => cpu,
            _ => last,
        }
    }

    /// Whether an idle CPU may take the first task of this queue now.
    pub(super) fn may_steal(&self, other: &PerCpu, now_ns: u64) -> bool {
        match other.queued() {
            0 => false,
            1 => now_ns >= other.hand_over_ns.load(Ordering::SeqCst),
            _ => true,
        }
    }

    /// When the next queue has work that an idle CPU may take.
    pub(super) fn next_hand_over(&self) -> Option<u64> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let queues = self.cpus.iter().filter(|c| c.queued() > 0);
        queues.map(|c| c.hand_over_ns.load(Ordering::SeqCst)).filter(|at| *at != u64::MAX).min()
    }

    /// Gives tasks that have waited long enough on `cpu` to idle CPUs. When one waits that is not due, says when it will be.
    pub(super) fn hand_over(&self, cpu: CpuId) -> Option<u64> {
        let me = self.cpus.get(cpu.0)?;
        let mut bound = false;
        let free = |i: usize, c: &PerCpu| c.is_idle() && self.lent_to(CpuId(i)) != Some(cpu);
        for (to, _) in self.cpus.iter().enumerate().filter(|(i, c)| free(*i, c)) {
            let at = me.hand_over_ns.load(Ordering::SeqCst);
            match me.queued() {
                0 => return None,
                _ if at == u64::MAX => return None,
                1 if self.now_ns() < at => return Some(at),
                _ => {}
            }
            let task = me.queue.lock().take_first(to);
            bound |= task.is_none();
            if let Some(task) = task {
                me.gives_away();
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                self.push(CpuId(to), task);
            }
        }
        if bound {
            // Until the next newcomer comes, or the next turn begins.
            me.hand_over_ns.store(u64::MAX, Ordering::SeqCst);
        }
        None
    }

    /// Takes a task from the longest other queue that may be stolen from.
    pub(super) fn steal(&self, cpu: CpuId) -> Option<Arc<Task>> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let now = self.now_ns();
        let others = self.cpus.iter().enumerate().filter(|(i, c)| *i != cpu.0 && self.may_steal(c, now));
        let mut others: alloc::vec::Vec<(usize, &PerCpu)> = others.map(|(_, c)| (c.queued(), c)).collect();
        others.sort_by_key(|(len, _)| core::cmp::Reverse(*len));
        // The longest may hold nothing but tasks that are bound to their CPU.
        let task = others.iter().find_map(|(_, other)| {
            let task = other.queue.lock().steal(cpu.0);
            if task.is_some() {
                other.gives_away();
            } else {
                other.hand_over_ns.store(u64::MAX, Ordering::SeqCst);
            }
            task
        })?;
        task.sched.cpu.store(cpu.0, Ordering::Relaxed);
        if let Some(me) = self.cpus.get(cpu.0) {
            me.queue.lock().raise_floor(task.sched.vruntime.load(Ordering::Relaxed));
        }
        Some(task)
    }
}
