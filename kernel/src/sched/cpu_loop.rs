//! What a virtual CPU does: pick a task, resume its fiber, look at events and timers, idle.

use super::{RunState, Scheduler, TICK_NS};
use crate::Kernel;
use crate::task::Task;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use hal::{CpuId, FiberState};

/// Runs the scheduler loop on `cpu` until the kernel stops.
pub(crate) fn run_cpu(kernel: &Arc<Kernel>, cpu: CpuId) {
    let sched = &kernel.sched;
    let Some(me) = sched.cpus.get(cpu.0) else { return };
    while !sched.stopping.load(Ordering::SeqCst) {
        kernel.poll_machine();
        let next = {
            let own = me.queue.lock().pop();
            own.or_else(|| steal(sched, cpu))
        };
        match next {
            Some(task) => {
                sched.waiting.fetch_sub(1, Ordering::SeqCst);
                run_task(kernel, cpu, task);
            }
            None => idle(sched, cpu),
        }
    }
}

/// Takes a task from the longest other queue.
fn steal(sched: &Scheduler, cpu: CpuId) -> Option<Arc<Task>> {
    if sched.waiting.load(Ordering::SeqCst) == 0 {
        return None;
    }
    let longest =
        (0..sched.cpus.len()).filter(|&i| i != cpu.0).max_by_key(|&i| sched.cpus[i].queue.lock().len())?;
    let task = sched.cpus.get(longest)?.queue.lock().steal(cpu.0)?;
    task.sched.cpu.store(cpu.0, Ordering::Relaxed);
    Some(task)
}

fn run_task(kernel: &Arc<Kernel>, cpu: CpuId, task: Arc<Task>) {
    let sched = &kernel.sched;
    let Some(me) = sched.cpus.get(cpu.0) else { return };
    me.need_resched.store(false, Ordering::SeqCst);
    me.busy.store(true, Ordering::SeqCst);
    task.sched.cpu.store(cpu.0, Ordering::Relaxed);
    let start = sched.now_ns();
    me.since_ns.store(start, Ordering::Relaxed);
    sched.switches.fetch_add(1, Ordering::Relaxed);

    let user_before = task.user_ns.load(Ordering::Relaxed);
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
    let ran = sched.now_ns().saturating_sub(start);
    task.sched.run_ns.fetch_add(ran, Ordering::Relaxed);
    me.busy_ns.fetch_add(ran, Ordering::Relaxed);
    let user = task.user_ns.load(Ordering::Relaxed).saturating_sub(user_before);
    me.user_ns.fetch_add(user, Ordering::Relaxed);
    me.busy.store(false, Ordering::SeqCst);
    sched.load.sample(sched.now_ns(), || sched.runnable());
    match state {
        FiberState::Suspended => settle(sched, task),
        FiberState::Finished => task.sched.set_state(RunState::Dead),
        FiberState::Panicked(message) => {
            task.sched.set_state(RunState::Dead);
            kernel.oops(&task, &message);
        }
    }
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
    sched.enqueue(task);
}

fn idle(sched: &Scheduler, cpu: CpuId) {
    let Some(me) = sched.cpus.get(cpu.0) else { return };
    me.idle.store(true, Ordering::SeqCst);
    // Whoever enqueues after this line sees the flag and interrupts; whoever did before is seen here.
    if me.queue.lock().len() == 0 && !sched.stopping.load(Ordering::SeqCst) {
        sched.machine.cpu().idle(cpu, sched.timers.earliest());
    }
    me.idle.store(false, Ordering::SeqCst);
}

impl Scheduler {
    /// To be called by the user loop before guest code runs: arms the alarm for the next timer or, when others wait
    /// for this CPU, for the end of the time slice.
    pub(crate) fn arm(&self, cpu: CpuId) {
        let Some(me) = self.cpus.get(cpu.0) else { return };
        let mut deadline = self.timers.earliest();
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let slice_end = me.since_ns.load(Ordering::Relaxed) + TICK_NS;
            deadline = Some(deadline.map_or(slice_end, |d| d.min(slice_end)));
        }
        self.machine.cpu().set_alarm(cpu, deadline);
    }

    /// Whether the task on `cpu` should give way now. Also spreads waiting work to idle CPUs.
    pub(crate) fn should_yield(&self, cpu: CpuId) -> bool {
        let Some(me) = self.cpus.get(cpu.0) else { return false };
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let over = self.now_ns() >= me.since_ns.load(Ordering::Relaxed) + TICK_NS;
        if !over && !me.need_resched.swap(false, Ordering::SeqCst) {
            return false;
        }
        if over {
            self.wake_idle();
        }
        me.queue.lock().len() > 0
    }

    /// Adds what the running task used since it got the CPU to its virtual run time.
    pub(crate) fn charge(&self, cpu: CpuId, task: &Task) {
        let Some(me) = self.cpus.get(cpu.0) else { return };
        let now = self.now_ns();
        let ran = now.saturating_sub(me.since_ns.load(Ordering::Relaxed));
        let weight = task.sched.weight.load(Ordering::Relaxed).max(1);
        task.sched.vruntime.fetch_add(ran.saturating_mul(1024) / weight, Ordering::Relaxed);
    }
}
