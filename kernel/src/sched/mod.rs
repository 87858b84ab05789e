//! The scheduler: run queues of the virtual CPUs, and the loop that each of them runs.
//!
//! A task is in one of the states of [`RunState`]. Wake-ups are run-queue operations; another CPU is interrupted only when it
//! is idle and there is more work here than one CPU does. Where a woken task goes, and when it is handed to an idle CPU, is in [`place`].
//!
//! Policy: the task with the least virtual run time goes first (weights from the nice value, `sched(7)`). A running task is preempted at the
//! tick when another one is runnable. Differs from Linux: real-time policies are accepted and recorded, and run with the highest weight.
//!
//! Lock order: a run queue's lock is a leaf.

mod account;
mod cpu_loop;
mod place;
mod run_queue;
#[cfg(test)]
mod tests;
mod weight;

use crate::sync::Mutex;
use crate::task::Task;
use crate::time::TimerQueue;
use crate::wait::Waker;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use hal::{ClockId, CpuId, Machine};
use run_queue::RunQueue;

pub(crate) use cpu_loop::run_cpu;
pub use weight::{WEIGHT_0, nice_weight};

/// How long a task runs before another runnable one gets its turn, in nanoseconds.
pub const TICK_NS: u64 = 4_000_000;

/// What a task is doing, for the scheduler.
///
/// A task announces a sleep (`Preparing*`) before it looks at what it waits for once more; a wake-up that comes between the
/// announcement and the moment when its CPU has left the fiber turns it back to `OnCpu`, and the CPU queues it again. So a
/// task is never in a queue while its fiber is still in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RunState {
    /// On a CPU.
    OnCpu = 0,
    /// In a run queue.
    Queued = 1,
    /// On a CPU, about to sleep; a signal may end the wait.
    PreparingSleep = 2,
    /// On a CPU, about to sleep; only what it waits for ends the wait.
    PreparingBlock = 3,
    /// Waiting; a signal may end the wait.
    Sleeping = 4,
    /// Waiting; only what it waits for ends it.
    Blocked = 5,
    /// On a CPU, about to go to the end of the queue.
    Yielding = 6,
    /// Its fiber has finished.
    Dead = 7,
}

const STATES: [RunState; 8] = [
    RunState::OnCpu,
    RunState::Queued,
    RunState::PreparingSleep,
    RunState::PreparingBlock,
    RunState::Sleeping,
    RunState::Blocked,
    RunState::Yielding,
    RunState::Dead,
];

/// What the waker of a task must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Woken {
    /// It was not waiting, or not for this kind of wake-up.
    No,
    /// It was about to wait and goes on by itself.
    StillOnCpu,
    /// It was waiting: put it into a queue.
    MustQueue,
}

/// The scheduler's part of a task.
pub struct Entity {
    state: AtomicU8,
    /// Virtual run time in nanoseconds at weight 1024.
    pub(crate) vruntime: AtomicU64,
    /// Load weight; 1024 is nice 0.
    pub(crate) weight: AtomicU64,
    /// The CPU where it ran last.
    pub(crate) cpu: AtomicUsize,
    /// CPUs that it may run on, as a bit mask over ids 0..64.
    pub(crate) allowed: AtomicU64,
    /// Time on a CPU in nanoseconds.
    pub(crate) run_ns: AtomicU64,
    /// Number of voluntary and involuntary switches.
    pub(crate) switches: [AtomicU64; 2],
}

impl Entity {
    /// A new entity that is not in any queue yet.
    pub fn new(cpu: CpuId, weight: u64, allowed: u64) -> Entity {
        Entity {
            state: AtomicU8::new(RunState::Blocked as u8),
            vruntime: AtomicU64::new(0),
            weight: AtomicU64::new(weight.max(1)),
            cpu: AtomicUsize::new(cpu.0),
            allowed: AtomicU64::new(allowed),
            run_ns: AtomicU64::new(0),
            switches: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    /// The state now.
    pub fn state(&self) -> RunState {
        STATES[usize::from(self.state.load(Ordering::SeqCst)) & 7]
    }

    pub(crate) fn set_state(&self, state: RunState) {
        self.state.store(state as u8, Ordering::SeqCst);
    }

    pub(crate) fn change(&self, from: RunState, to: RunState) -> bool {
        self.state.compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// A wake-up. `by_signal`: the wake-up is a signal's, which only ends interruptible waits.
    pub(crate) fn wake(&self, by_signal: bool) -> Woken {
        loop {
            let state = self.state();
            let (to, outcome) = match state {
                RunState::PreparingSleep => (RunState::OnCpu, Woken::StillOnCpu),
                RunState::PreparingBlock if !by_signal => (RunState::OnCpu, Woken::StillOnCpu),
                RunState::Sleeping => (RunState::Queued, Woken::MustQueue),
                RunState::Blocked if !by_signal => (RunState::Queued, Woken::MustQueue),
                _ => return Woken::No,
            };
            if self.change(state, to) {
                return outcome;
            }
        }
    }
}

/// The CPU is in the kernel.
const NOT_IN_GUEST: u8 = 0;
/// Guest code runs with nobody waiting: nothing ends its slice.
const GUEST_WITHOUT_TICK: u8 = 1;
/// Guest code runs until its slice ends.
const GUEST_WITH_TICK: u8 = 2;

/// Apart from its neighbours: nearly every trap writes to it. Hosts fetch two lines of 64 bytes at a time.
#[repr(align(128))]
pub(crate) struct PerCpu {
    pub(crate) queue: Mutex<RunQueue>,
    pub(crate) idle: AtomicBool,
    pub(crate) need_resched: AtomicBool,
    /// When the current task got the CPU, in monotonic nanoseconds.
    pub(crate) since_ns: AtomicU64,
    /// When the current task's slice ends.
    pub(crate) slice_end_ns: AtomicU64,
    /// Whether guest code runs, and whether an alarm ends its slice: one of `NOT_IN_GUEST` and so on.
    pub(crate) slice: AtomicU8,
    /// Whether a task is on the CPU.
    pub(crate) busy: AtomicBool,
    /// Odd while guest code runs; counts entries and exits.
    pub(crate) guest: AtomicU64,
    /// Time with a task on it, in nanoseconds, without the present one.
    pub(crate) busy_ns: AtomicU64,
    /// Time of that in guest code.
    pub(crate) user_ns: AtomicU64,
    /// Virtual run time and weight of the current task at the start of its turn.
    pub(crate) current: [AtomicU64; 2],
    /// When the first task of the queue may be given to another CPU, in monotonic nanoseconds.
    pub(crate) hand_over_ns: AtomicU64,
    /// How many times in a row a waiting task got this CPU before that.
    pub(crate) streak: AtomicU64,
    /// The CPU serves timers and events: who is woken now does not wait for the task that runs here.
    pub(crate) in_events: AtomicBool,
}

impl PerCpu {
    fn new() -> PerCpu {
        PerCpu {
            queue: Mutex::new(RunQueue::default()),
            idle: AtomicBool::new(false),
            need_resched: AtomicBool::new(false),
            since_ns: AtomicU64::new(0),
            slice_end_ns: AtomicU64::new(0),
            slice: AtomicU8::new(NOT_IN_GUEST),
            busy: AtomicBool::new(false),
            guest: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            user_ns: AtomicU64::new(0),
            current: [AtomicU64::new(0), AtomicU64::new(0)],
            hand_over_ns: AtomicU64::new(u64::MAX),
            streak: AtomicU64::new(0),
            in_events: AtomicBool::new(false),
        }
    }
}

/// Run queues and timers of one kernel.
pub struct Scheduler {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) cpus: Vec<PerCpu>,
    pub(crate) timers: TimerQueue,
    pub(crate) stopping: AtomicBool,
    /// Runnable tasks in all queues, without those on a CPU.
    pub(crate) waiting: AtomicUsize,
    pub(crate) switches: AtomicU64,
    pub(crate) load: account::Load,
}

impl Scheduler {
    /// Run queues for every CPU of the machine.
    pub fn new(machine: Arc<dyn Machine>) -> Arc<Scheduler> {
        let cpus = (0..machine.cpu().count()).map(|_| PerCpu::new()).collect();
        Arc::new(Scheduler {
            machine,
            cpus,
            timers: TimerQueue::default(),
            stopping: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            switches: AtomicU64::new(0),
            load: account::Load::default(),
        })
    }

    /// Monotonic time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.machine.clock_ns(ClockId::Monotonic)
    }

    /// Puts a runnable task into a queue. It must not be in one already.
    pub(crate) fn enqueue(&self, task: Arc<Task>, waker: Waker) {
        let cpu = self.place(&task, waker);
        self.push(cpu, task);
    }

    /// Puts a task that was on a CPU back into the queue there.
    pub(crate) fn requeue(&self, task: Arc<Task>) {
        let cpu = self.last_cpu(&task);
        self.push(cpu, task);
    }

    fn push(&self, cpu: CpuId, task: Arc<Task>) {
        let Some(per_cpu) = self.cpus.get(cpu.0) else { return };
        let now = self.now_ns();
        task.sched.cpu.store(cpu.0, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        {
            let mut queue = per_cpu.queue.lock();
            per_cpu.starts_waiting(now, queue.len() == 0);
            queue.push(task, per_cpu.running_vruntime(now));
        }
        // The flag and the interrupt are ordered after the push: an idle CPU looks at its queue once more
        // before it sleeps.
        if per_cpu.idle.swap(false, Ordering::SeqCst) {
            self.machine.cpu().interrupt(cpu);
            return;
        }
        // Guest code that runs without an end to its slice has to get one.
        if per_cpu.slice.load(Ordering::SeqCst) == GUEST_WITHOUT_TICK {
            self.machine.cpu().interrupt(cpu);
        }
    }

    /// Guest code is about to run on `cpu`, or has stopped.
    pub(crate) fn guest_switch(&self, cpu: CpuId) {
        if let Some(per_cpu) = self.cpus.get(cpu.0) {
            // Only the CPU itself counts. Guest code runs after whoever lets it do so has read this from it.
            per_cpu.guest.store(per_cpu.guest.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        }
    }

    /// Returns when every other CPU that runs guest code now has left it at least once (`membarrier(2)`). Spins for as long
    /// as an interrupt takes.
    pub(crate) fn interrupt_guests(&self, own: CpuId) {
        let others = || self.cpus.iter().enumerate().filter(|(i, _)| *i != own.0);
        let before: Vec<u64> = others().map(|(_, c)| c.guest.load(Ordering::SeqCst)).collect();
        for ((i, _), _) in others().zip(&before).filter(|(_, count)| **count % 2 == 1) {
            self.machine.cpu().interrupt(CpuId(i));
        }
        for ((_, per_cpu), count) in others().zip(before).filter(|(_, count)| count % 2 == 1) {
            while per_cpu.guest.load(Ordering::SeqCst) == count {
                core::hint::spin_loop();
            }
        }
    }

    /// Asks a CPU to look at its queue and at its task's signals soon.
    pub fn kick(&self, cpu: CpuId) {
        if let Some(per_cpu) = self.cpus.get(cpu.0) {
            per_cpu.need_resched.store(true, Ordering::SeqCst);
            self.machine.cpu().interrupt(cpu);
        }
    }

    /// The task on `cpu`, which calls this, gives way before it runs guest code again, if another one waits there.
    pub(crate) fn resched(&self, cpu: CpuId) {
        if let Some(per_cpu) = self.cpus.get(cpu.0) {
            per_cpu.need_resched.store(true, Ordering::SeqCst);
        }
    }

    /// Number of tasks that are runnable or running.
    pub fn runnable(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
            + self.cpus.iter().filter(|c| c.busy.load(Ordering::Relaxed)).count()
    }

    /// Takes every task out of the queues.
    pub(crate) fn drain(&self) -> Vec<Arc<Task>> {
        let mut all = Vec::new();
        for per_cpu in &self.cpus {
            let mut queue = per_cpu.queue.lock();
            while let Some(task) = queue.pop() {
                all.push(task);
            }
        }
        all
    }

    /// Ends every CPU's loop.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for i in 0..self.cpus.len() {
            self.machine.cpu().interrupt(CpuId(i));
        }
    }
}
