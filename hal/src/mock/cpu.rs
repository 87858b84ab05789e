//! CPUs, alarms and the virtual clock: one lock, because time moves when all CPUs are idle.

use super::lock;
use crate::{Cpu, CpuId};
use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};
use std::vec;
use std::vec::Vec;

std::thread_local! {
    /// The CPU that the thread is, or whose fiber it is.
    static CURRENT: Cell<Option<CpuId>> = const { Cell::new(None) };
}

/// Says that the calling thread executes for `cpu` from now on.
pub(super) fn set_current(cpu: CpuId) {
    CURRENT.set(Some(cpu));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Nobody drives it: counts as idle for ever.
    Out,
    Running,
    Idle {
        deadline_ns: Option<u64>,
    },
}

#[derive(Clone)]
struct Slot {
    activity: Activity,
    interrupted: bool,
    alarm_ns: Option<u64>,
    lent_to: Option<CpuId>,
}

struct State {
    now_ns: u64,
    cpus: Vec<Slot>,
}

/// The CPUs of a [`super::MockMachine`].
pub struct MockCpu {
    state: Mutex<State>,
    changed: Condvar,
    wait_for_outside: bool,
}

impl MockCpu {
    pub(super) fn new(count: usize, wait_for_outside: bool) -> MockCpu {
        let slot = Slot { activity: Activity::Out, interrupted: false, alarm_ns: None, lent_to: None };
        let state = State { now_ns: 0, cpus: vec![slot; count] };
        MockCpu { state: Mutex::new(state), changed: Condvar::new(), wait_for_outside }
    }

    /// Monotonic time in nanoseconds.
    pub fn now(&self) -> u64 {
        lock(&self.state).now_ns
    }

    /// The alarm that is set for a CPU.
    pub fn alarm(&self, cpu: CpuId) -> Option<u64> {
        lock(&self.state).cpus[cpu.0].alarm_ns
    }

    /// Says whom the host CPU of a CPU works for while that is idle.
    pub(super) fn lend(&self, cpu: CpuId, to: Option<CpuId>) {
        lock(&self.state).cpus[cpu.0].lent_to = to;
    }

    /// Whether an interrupt is pending, without taking it.
    pub fn is_interrupted(&self, cpu: CpuId) -> bool {
        lock(&self.state).cpus[cpu.0].interrupted
    }

    pub(super) fn advance(&self, ns: u64) {
        let mut state = lock(&self.state);
        let to = state.now_ns.saturating_add(ns);
        state.move_to(to);
        self.changed.notify_all();
    }

    pub(super) fn start_all(&self) {
        for slot in &mut lock(&self.state).cpus {
            slot.activity = Activity::Running;
        }
    }

    /// Takes a pending interrupt, as entering guest mode does.
    pub(super) fn take_interrupt(&self, cpu: CpuId) -> bool {
        core::mem::take(&mut lock(&self.state).cpus[cpu.0].interrupted)
    }

    fn leave(&self, cpu: CpuId) {
        let mut state = lock(&self.state);
        state.cpus[cpu.0].activity = Activity::Out;
        state.advance_if_idle();
        self.changed.notify_all();
    }
}

impl State {
    fn move_to(&mut self, ns: u64) {
        self.now_ns = self.now_ns.max(ns);
        for slot in &mut self.cpus {
            if slot.alarm_ns.is_some_and(|at| at <= self.now_ns) {
                slot.alarm_ns = None;
                slot.interrupted = true;
            }
        }
    }

    /// When every CPU waits and none has a reason to go on, jumps to the next reason. False when there is
    /// none.
    fn advance_if_idle(&mut self) -> bool {
        let mut next: Option<u64> = None;
        let mut anybody = false;
        for slot in &self.cpus {
            let deadline = match slot.activity {
                Activity::Running => return true,
                Activity::Out => continue,
                Activity::Idle { deadline_ns } => deadline_ns,
            };
            if slot.interrupted || deadline.is_some_and(|at| at <= self.now_ns) {
                return true;
            }
            anybody = true;
            for at in [deadline, slot.alarm_ns].into_iter().flatten() {
                next = Some(next.map_or(at, |n| n.min(at)));
            }
        }
        match next {
            Some(at) => self.move_to(at),
            None => return !anybody,
        }
        true
    }
}

impl Cpu for MockCpu {
    fn count(&self) -> usize {
        lock(&self.state).cpus.len()
    }

    fn current(&self) -> Option<CpuId> {
        CURRENT.get()
    }

    fn idle(&self, cpu: CpuId, deadline_ns: Option<u64>) {
        let mut state = lock(&self.state);
        state.cpus[cpu.0].activity = Activity::Idle { deadline_ns };
        loop {
            let can_go_on = state.advance_if_idle();
            let now = state.now_ns;
            let slot = &mut state.cpus[cpu.0];
            if slot.interrupted || deadline_ns.is_some_and(|at| at <= now) {
                slot.interrupted = false;
                slot.activity = Activity::Running;
                return;
            }
            if !can_go_on && !self.wait_for_outside {
                slot.activity = Activity::Out;
                drop(state);
                panic!("mock machine: every CPU is idle and nothing will ever wake one");
            }
            // The clock may have moved to somebody else's deadline.
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn interrupt(&self, cpu: CpuId) {
        lock(&self.state).cpus[cpu.0].interrupted = true;
        self.changed.notify_all();
    }

    fn lent_to(&self, cpu: CpuId) -> Option<CpuId> {
        lock(&self.state).cpus[cpu.0].lent_to
    }

    fn set_alarm(&self, cpu: CpuId, deadline_ns: Option<u64>) {
        let mut state = lock(&self.state);
        state.cpus[cpu.0].alarm_ns = deadline_ns;
        let now = state.now_ns;
        state.move_to(now);
        self.changed.notify_all();
    }
}

/// Marks a CPU as left when its thread returns or panics, so that the others' time goes on.
pub(super) struct Leave<'a>(&'a MockCpu, CpuId);

impl<'a> Leave<'a> {
    pub(super) fn new(cpus: &'a MockCpu, cpu: CpuId) -> Self {
        Leave(cpus, cpu)
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}
