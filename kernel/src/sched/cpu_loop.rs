//! What a virtual CPU does: pick a task, resume its fiber, look at events and timers, idle.

use super::{GUEST_WITH_TICK, GUEST_WITHOUT_TICK, NOT_IN_GUEST, RunState, Scheduler, TICK_NS};
use crate::Kernel;
use crate::task::Task;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use hal::{CpuId, FiberState};

/// How far, in virtual run time, a waiting task must be behind a running one before it changes its CPU.
const IMBALANCE_NS: u64 = 5 * TICK_NS;
/// How long a CPU is idle before it gives memory back to the host.
const CLEAN_UP_NS: u64 = 100_000_000;

/// Runs the scheduler loop on `cpu` until the kernel stops.
pub(crate) fn run_cpu(kernel: &Arc<Kernel>, cpu: CpuId) {
    let sched = &kernel.sched;
    let Some(me) = sched.cpus.get(cpu.0) else { return };
    // The first CPU has the first program.
    if cpu.0 == 1 && kernel.patches() {
        crate::mm::prepare_decoder();
    }
    let mut now = sched.now_ns();
    while !sched.stopping.load(Ordering::SeqCst) {
        kernel.poll_machine(now);
        let own = me.queue.lock().pop();
        let next = own.or_else(|| {
            let stolen = idle(kernel, cpu);
            now = sched.now_ns();
            stolen
        });
        if let Some(task) = next {
            sched.waiting.fetch_sub(1, Ordering::SeqCst);
            now = run_task(kernel, cpu, task, now);
        }
    }
}

/// Runs the task until it waits or gives way; `start` is the time, and the result is the time then.
fn run_task(kernel: &Arc<Kernel>, cpu: CpuId, task: Arc<Task>, start: u64) -> u64 {
    let sched = &kernel.sched;
    let Some(me) = sched.cpus.get(cpu.0) else { return start };
    me.need_resched.store(false, Ordering::SeqCst);
    task.sched.cpu.store(cpu.0, Ordering::Relaxed);
    me.since_ns.store(start, Ordering::Relaxed);
    let [vruntime, weight] = &me.current;
    vruntime.store(task.sched.vruntime.load(Ordering::Relaxed), Ordering::Relaxed);
    weight.store(task.sched.weight.load(Ordering::Relaxed), Ordering::Relaxed);
    me.busy.store(true, Ordering::SeqCst);
    me.turn_begins(start);
    me.slice_end_ns.store(start + sched.slice_ns(cpu), Ordering::Relaxed);
    sched.switches.fetch_add(1, Ordering::Relaxed);

    let user_before = task.user_time.ns(start);
    task.sched.set_state(RunState::OnCpu);
    // Nobody else wants the lock: a task whose fiber is in use is in no queue.
    let state = {
        let mut slot = task.fiber.lock();
        match slot.as_mut() {
            Some(fiber) => {
                let state = fiber.resume(cpu);
                if state != FiberState::Suspended {
                    *slot = None;
                }
                state
            }
            None => FiberState::Finished,
        }
    };
    let end = sched.now_ns();
    let ran = end.saturating_sub(start);
    task.sched.run_ns.fetch_add(ran, Ordering::Relaxed);
    // Before anybody can queue it again.
    task.sched.vruntime.fetch_add(weighted(&task, ran), Ordering::Relaxed);
    me.busy_ns.fetch_add(ran, Ordering::Relaxed);
    let user = task.user_time.ns(end).saturating_sub(user_before);
    me.user_ns.fetch_add(user, Ordering::Relaxed);
    me.busy.store(false, Ordering::SeqCst);
    sched.load.sample(end, || sched.runnable());
    match state {
        FiberState::Suspended => settle(sched, task),
        FiberState::Finished => task.sched.set_state(RunState::Dead),
        FiberState::Panicked(message) => {
            task.sched.set_state(RunState::Dead);
            kernel.oops(&task, &message);
        }
    }
    end
}

/// Virtual run time for time on a CPU.
fn weighted(task: &Task, ran_ns: u64) -> u64 {
    ran_ns.saturating_mul(1024) / task.sched.weight.load(Ordering::Relaxed).max(1)
}

/// The fiber has suspended: makes an announced sleep real, or queues the task again.
fn settle(sched: &Scheduler, task: Arc<Task>) {
    let entity = &task.sched;
    if entity.change(RunState::PreparingSleep, RunState::Sleeping)
        || entity.change(RunState::PreparingBlock, RunState::Blocked)
    {
        return;
    }
    // Woken in between, or it yielded.
    entity.set_state(RunState::Queued);
    sched.requeue(task);
}

/// Takes work from another CPU, or waits for some.
fn idle(kernel: &Kernel, cpu: CpuId) -> Option<Arc<Task>> {
    let sched = &kernel.sched;
    let me = sched.cpus.get(cpu.0)?;
    me.idle.store(true, Ordering::SeqCst);
    // Whoever enqueues after this line sees the flag and interrupts or hands over; whoever did before is seen here.
    let mut stolen = None;
    if me.queue.lock().len() == 0 && !sched.stopping.load(Ordering::SeqCst) {
        let lent = sched.lent_to(cpu).is_some();
        stolen = if lent { None } else { sched.steal(cpu) };
        if stolen.is_none() {
            let clean_up = kernel.frames.may_give_back().then(|| sched.now_ns() + CLEAN_UP_NS);
            let hand_over = if lent { None } else { sched.next_hand_over() };
            let deadline = [sched.timers.earliest(), hand_over, clean_up];
            sched.machine.tidy();
            sched.machine.cpu().idle(cpu, deadline.into_iter().flatten().min());
            if clean_up.is_some_and(|at| sched.now_ns() >= at) {
                kernel.frames.give_back_some();
            }
        }
    }
    me.idle.store(false, Ordering::SeqCst);
    stolen
}

impl Scheduler {
    /// To be called by the user loop before guest code runs: arms the alarm for the next timer or, when others wait
    /// for a CPU, for the end of the time slice; at the latest for `latest_ns`. Returns whether nobody waits, which holds until the CPU is interrupted.
    pub(crate) fn arm(&self, cpu: CpuId, latest_ns: Option<u64>) -> bool {
        let Some(me) = self.cpus.get(cpu.0) else { return false };
        // Said before the look at `waiting`: whoever enqueues sees this, or is seen here.
        me.slice.store(GUEST_WITHOUT_TICK, Ordering::SeqCst);
        let mut deadline = self.timers.earliest();
        let alone = self.waiting.load(Ordering::SeqCst) == 0;
        if !alone {
            me.slice.store(GUEST_WITH_TICK, Ordering::SeqCst);
            let slice_end = Some(me.slice_end_ns.load(Ordering::Relaxed));
            deadline = [deadline, slice_end, self.hand_over(cpu)].into_iter().flatten().min();
        }
        let deadline = [deadline, latest_ns].into_iter().flatten().min();
        self.machine.cpu().set_alarm(cpu, deadline);
        alone
    }

    /// To be called by the user loop when guest code has stopped.
    pub(crate) fn left_guest(&self, cpu: CpuId) {
        if let Some(me) = self.cpus.get(cpu.0) {
            me.slice.store(NOT_IN_GUEST, Ordering::Release);
        }
    }

    /// Whether the task on `cpu` should give way now. Also spreads waiting work: idle CPUs get what has waited long enough, and a CPU
    /// without work of its own takes over a task that is far behind the one that it runs.
    pub(crate) fn should_yield(&self, cpu: CpuId, task: &Task, now: u64) -> bool {
        let Some(me) = self.cpus.get(cpu.0) else { return false };
        // The kernel's end may have been decided just now on this CPU; only its loop can follow.
        if self.stopping.load(Ordering::SeqCst) {
            return true;
        }
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let over = now >= me.slice_end_ns.load(Ordering::Relaxed);
        if !over && !me.need_resched.swap(false, Ordering::SeqCst) {
            return false;
        }
        if over {
            me.slice_end_ns.store(now + self.slice_ns(cpu), Ordering::Relaxed);
            self.hand_over(cpu);
        }
        if me.queue.lock().len() > 0 {
            return true;
        }
        over && self.pull(cpu, task)
    }

    /// Moves a task that is far behind `task` from another queue to the one of `cpu`.
    fn pull(&self, cpu: CpuId, task: &Task) -> bool {
        let ran = self.ran_ns(cpu, task);
        let Some(limit) = (task.sched.vruntime.load(Ordering::Relaxed) + ran).checked_sub(IMBALANCE_NS)
        else {
            return false;
        };
        for (_, other) in self.cpus.iter().enumerate().filter(|(i, _)| *i != cpu.0) {
            let taken = other.queue.lock().take_behind(cpu.0, limit);
            if let (Some(taken), Some(me)) = (taken, self.cpus.get(cpu.0)) {
                // It keeps its virtual run time: that it is behind is why it comes.
                taken.sched.cpu.store(cpu.0, Ordering::Relaxed);
                me.queue.lock().push(taken, None);
                return true;
            }
        }
        false
    }

    /// Virtual run time of the present turn, which the task has not been charged for.
    fn ran_ns(&self, cpu: CpuId, task: &Task) -> u64 {
        let since = self.cpus.get(cpu.0).map_or(0, |me| me.since_ns.load(Ordering::Relaxed));
        weighted(task, self.now_ns().saturating_sub(since))
    }
}
