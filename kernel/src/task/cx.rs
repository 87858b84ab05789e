//! The current task, as the code that runs in its fiber sees it.

use super::{FsContext, Process, Task};
use crate::Kernel;
use crate::error::{Error, Restart, Result};
use crate::fs::{Fd, FdTable, OpenFile, ahead, lend, view};
use crate::ipc::futex;
use crate::mm::Mm;
use crate::sched::RunState;
use crate::time::TimerHook;
use crate::wait::{PollTable, Registration, WaitQueue};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, Ref, RefCell};
use core::sync::atomic::Ordering;
use hal::{ClockId, CpuId, Suspend, UserContext};

/// How a wait without a result ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The deadline passed.
    TimedOut,
    /// A signal came.
    Interrupted,
}

impl From<WaitEnd> for Error {
    /// A time-out becomes `ETIMEDOUT`, a signal an interruption that is restarted if the handler asks for it.
    fn from(end: WaitEnd) -> Error {
        match end {
            WaitEnd::TimedOut => abi::Errno::ETIMEDOUT.into(),
            WaitEnd::Interrupted => Error::Interrupted(Restart::IfAsked),
        }
    }
}

/// The current task. Lives on its fiber's stack and can't leave it.
pub struct Cx<'a> {
    /// The kernel.
    pub kernel: &'a Arc<Kernel>,
    /// The task.
    pub task: &'a Arc<Task>,
    suspend: &'a dyn Suspend,
    /// The guest's registers.
    pub user: RefCell<Box<dyn UserContext>>,
    /// Own copies of what the task record holds behind locks; only the task itself changes these.
    pub(crate) mm: RefCell<Option<Arc<Mm>>>,
    pub(crate) files: RefCell<Arc<FdTable>>,
    /// The last fault (vector, error code, address), for signal frames.
    pub(crate) last_fault: Cell<(u32, u32, u64)>,
    /// The task was off its CPU since its `rseq(2)` area was brought up to date.
    pub(crate) rseq_stale: Cell<bool>,
    /// A copy to or from user memory found RAM full: somebody has to go before guest code runs again.
    pub(crate) ram_full: Cell<bool>,
    /// Whether what [`super::answers`] says has to be said again.
    pub(crate) answers_stale: Cell<bool>,
    /// How many times the task has changed its signal mask, up to what [`crate::signal::lend_mask`] asks for.
    pub(crate) mask_calls: Cell<u8>,
    /// The same for calls about signals' actions ([`crate::signal::lend_actions`]), and what it is lent of them.
    pub(crate) action_calls: Cell<u8>,
    pub(crate) actions_lent: Cell<Option<hal::DefaultActions>>,
    /// Room for a floating-point image on its way between registers and a signal frame.
    pub(crate) fpu_image: Cell<Vec<u8>>,
    /// Room for the record of the task's next wait for a futex.
    pub(crate) futex_waiter: Cell<Option<Arc<futex::Waiter>>>,
    /// A system-call site that is to be patched while guest code runs.
    pub(crate) busy_site: Cell<Option<u64>>,
    /// Where the last call was made: the address of its instruction.
    pub(crate) site: Cell<u64>,
    /// What the task will look at next.
    pub(crate) ahead: RefCell<ahead::Ahead>,
    /// The file that guest code may ask about and close by itself.
    pub(crate) lent: Cell<Option<lend::Lent>>,
    /// Files that guest code reads and writes by itself.
    pub(crate) views: RefCell<view::Views>,
    /// What `restart_syscall(2)` goes on with.
    pub(crate) restart: Cell<Option<RestartState>>,
}

/// What ends a wait besides what it waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Any signal that is not blocked.
    AnySignal,
    /// The task has to end.
    Death,
    /// Nothing.
    Nothing,
}

/// See [`Cx::restart`]. Deadlines are monotonic nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RestartState {
    /// A relative sleep.
    Sleep {
        /// When it ends.
        deadline_ns: u64,
        /// Where the remaining time goes; 0 for nowhere.
        remaining: u64,
    },
    /// `FUTEX_WAIT` with a time-out.
    Futex {
        /// The word.
        at: u64,
        /// Whether it is shared with other processes.
        shared: bool,
        /// The value that it must have.
        expected: u32,
        /// Which wake-ups count.
        bitset: u32,
        /// When it times out.
        deadline_ns: u64,
    },
    /// `poll(2)`.
    Poll {
        /// The array.
        fds: u64,
        /// Its length.
        count: u32,
        /// When it times out.
        deadline_ns: Option<u64>,
    },
}

struct WakeTask(Weak<Task>);

impl TimerHook for WakeTask {
    fn fire(&self, _now_ns: u64) {
        if let Some(task) = self.0.upgrade() {
            task.wake();
        }
    }
}

impl<'a> Cx<'a> {
    /// For the entry of a task's fiber.
    pub(crate) fn new(
        kernel: &'a Arc<Kernel>,
        task: &'a Arc<Task>,
        suspend: &'a dyn Suspend,
        user: Box<dyn UserContext>,
    ) -> Cx<'a> {
        let mm = task.mm.lock().clone();
        let files = task.files.lock().clone();
        Cx {
            kernel,
            task,
            suspend,
            user: RefCell::new(user),
            mm: RefCell::new(mm),
            files: RefCell::new(files),
            last_fault: Cell::new((0, 0, 0)),
            rseq_stale: Cell::new(true),
            ram_full: Cell::new(false),
            answers_stale: Cell::new(true),
            mask_calls: Cell::new(0),
            action_calls: Cell::new(0),
            actions_lent: Cell::new(None),
            fpu_image: Cell::new(Vec::new()),
            futex_waiter: Cell::new(None),
            busy_site: Cell::new(None),
            site: Cell::new(0),
            ahead: RefCell::default(),
            lent: Cell::new(None),
            views: RefCell::default(),
            restart: Cell::new(None),
        }
    }

    /// The CPU that runs this code now; stable until the next wait.
    pub fn cpu(&self) -> CpuId {
        self.suspend.cpu()
    }
    /// The process.
    pub fn process(&self) -> &'a Arc<Process> {
        &self.task.process
    }
    /// The address space. Nobody else can replace it, so it is not counted: system calls look at it more than once. Not to be kept across
    /// [`Cx::set_mm`].
    pub fn mm(&self) -> Ref<'_, Arc<Mm>> {
        // Every task that has a fiber has an address space until the last step of its exit.
        Ref::map(self.mm.borrow(), |mm| mm.as_ref().expect("address space used after exit"))
    }
    /// Replaces the address space (`execve`).
    pub(crate) fn set_mm(&self, mm: Arc<Mm>) {
        let old = self.task.mm.lock().replace(mm.clone());
        drop(old);
        let old = self.mm.borrow_mut().replace(mm);
        drop(old);
    }
    /// The descriptor table.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.borrow().clone()
    }
    /// Whether nobody shares the descriptor table: one reference is the task's record's, one is here.
    pub(crate) fn owns_files(&self) -> bool {
        Arc::strong_count(&self.files.borrow()) == 2
    }
    /// Whether somebody else has the address space, too.
    pub(crate) fn shares_memory(&self) -> bool {
        self.mm.borrow().as_ref().is_some_and(|mm| Arc::strong_count(mm) > 2)
    }
    /// Replaces the descriptor table (`execve`, `unshare`).
    pub(crate) fn set_files(&self, files: Arc<FdTable>) {
        // Dropped outside of the lock: closing files may wake others.
        let old = core::mem::replace(&mut *self.task.files.lock(), files.clone());
        drop(old);
        let old = self.files.replace(files);
        drop(old);
    }
    /// Directories and umask.
    pub fn fs(&self) -> Arc<FsContext> {
        self.task.fs.lock().clone()
    }
    /// The open file of a descriptor; `EBADF`.
    pub fn file(&self, fd: Fd) -> Result<Arc<OpenFile>> {
        self.files.borrow().get(fd)
    }
    /// Opens a descriptor for a file: the lowest free one; `EMFILE`, and `ENFILE` beyond `fs.file-max`.
    pub fn install(&self, file: Arc<OpenFile>, cloexec: bool) -> Result<Fd> {
        let open = self.kernel.open_files.load(Ordering::Relaxed);
        let most = self.kernel.settings.file_max.size() as u64;
        if open > most && !self.task.creds().has(super::Cap::SysAdmin) {
            return Err(abi::Errno::ENFILE.into());
        }
        let limit = self.process().limit(super::Resource::Nofile);
        self.files.borrow().insert(0, limit, file, cloexec)
    }
    /// Monotonic time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.kernel.machine.clock_ns(ClockId::Monotonic)
    }
    /// Time since the Epoch in nanoseconds.
    pub fn realtime_ns(&self) -> u64 {
        self.kernel.machine.clock_ns(ClockId::Realtime)
    }

    fn suspend(&self) {
        let cpu = self.cpu();
        self.suspend.suspend();
        // Critical sections make no system calls (`rseq(2)`): one who waits in a call is in none.
        let in_call = self.task.in_syscall.load(Ordering::Relaxed) != u64::MAX;
        if !in_call || self.cpu() != cpu {
            self.rseq_stale.set(true);
        }
    }

    /// Gives the CPU to another runnable task, if there is one.
    pub fn yield_now(&self) {
        self.task.sched.set_state(RunState::Yielding);
        self.suspend();
    }

    /// For long loops in the kernel: serves events, and gives the CPU away when the task's time is over.
    pub fn give_way(&self) {
        let now = self.now_ns();
        self.kernel.poll_machine(now);
        if self.kernel.sched.should_yield(self.cpu(), self.task, now) {
            self.yield_now();
        }
    }

    /// Waits on a queue until `ready` gives something; a signal interrupts. `ready` is called again after every wake-up, may take spin
    /// locks and must not suspend.
    pub fn wait<T>(&self, queue: &WaitQueue, mut ready: impl FnMut() -> Option<Result<T>>) -> Result<T> {
        // The common case needs no registration.
        if let Some(result) = ready() {
            return result;
        }
        self.wait_longer(queue, ready)
    }

    /// [`Cx::wait`] for who has looked already.
    pub fn wait_longer<T>(&self, queue: &WaitQueue, ready: impl FnMut() -> Option<Result<T>>) -> Result<T> {
        self.wait_deadline(&[queue], None, ready)?
    }

    /// Like [`Cx::wait`], on several queues and with a deadline on the monotonic clock.
    pub fn wait_deadline<T>(
        &self,
        queues: &[&WaitQueue],
        deadline_ns: Option<u64>,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitEnd> {
        let mut sleep = || self.sleep_until(deadline_ns, Ends::AnySignal, &mut ready);
        let result = match queues {
            // The rule, without a list.
            [queue] => {
                let _registration = queue.register_task(self.task);
                sleep()
            }
            queues => {
                let _all: Vec<Registration> = queues.iter().map(|q| q.register_task(self.task)).collect();
                sleep()
            }
        };
        // A wake-up that chose this task as the only one must not be lost, so it looks once more now that none can come.
        result.or_else(|end| ready().ok_or(end))
    }

    /// Waits for a poll: `look` checks readiness; it is called once with a table to add its queues to, and then again after every
    /// wake-up without one.
    pub fn wait_poll<T>(
        &self,
        deadline_ns: Option<u64>,
        mut look: impl FnMut(Option<&mut PollTable<'_>>) -> Option<T>,
    ) -> Result<T, WaitEnd> {
        let mut registrations: Vec<Registration> = Vec::new();
        let mut add = |queue: &WaitQueue| registrations.push(queue.register_task(self.task));
        if let Some(result) = look(Some(&mut PollTable::new(&mut add))) {
            return Ok(result);
        }
        let result = self.sleep_until(deadline_ns, Ends::AnySignal, &mut || look(None));
        drop(registrations);
        result.or_else(|end| look(None).ok_or(end))
    }

    /// Like [`Cx::wait_deadline`], but no signal ends it, not even a fatal one. Only for what is sure to happen soon.
    pub fn wait_uninterruptible<T>(&self, queue: &WaitQueue, mut ready: impl FnMut() -> Option<T>) -> T {
        let _registration = queue.register_task(self.task);
        loop {
            if let Ok(result) = self.sleep_until(None, Ends::Nothing, &mut ready) {
                return result;
            }
        }
    }

    /// Like [`Cx::wait_deadline`], but only the task's own end cuts it short (`None`).
    pub fn wait_killable<T>(&self, queue: &WaitQueue, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        let registration = queue.register_task(self.task);
        let result = self.sleep_until(None, Ends::Death, &mut ready);
        drop(registration);
        result.ok().or_else(ready)
    }

    /// Sleeps until the deadline or a signal.
    pub fn sleep(&self, deadline_ns: Option<u64>) -> WaitEnd {
        match self.sleep_until(deadline_ns, Ends::AnySignal, &mut || None::<()>) {
            Ok(()) => WaitEnd::Interrupted,
            Err(end) => end,
        }
    }

    fn sleep_until<T>(
        &self,
        deadline_ns: Option<u64>,
        ends: Ends,
        ready: &mut dyn FnMut() -> Option<T>,
    ) -> Result<T, WaitEnd> {
        let sched = &self.kernel.sched;
        let entity = &self.task.sched;
        let mut timer = None;
        let result = loop {
            // Announce first, look second: a wake-up after this line is not lost.
            let blocked = ends == Ends::Nothing;
            entity.set_state(if blocked { RunState::PreparingBlock } else { RunState::PreparingSleep });
            if let Some(result) = ready() {
                break Ok(result);
            }
            let ended = self.task.has_signal()
                && match ends {
                    Ends::AnySignal => crate::signal::interrupts_wait(self.task),
                    Ends::Death => super::exit::must_end(self.task),
                    Ends::Nothing => false,
                };
            if ended {
                break Err(WaitEnd::Interrupted);
            }
            if let Some(deadline) = deadline_ns {
                if self.now_ns() >= deadline {
                    break Err(WaitEnd::TimedOut);
                }
                if timer.is_none() {
                    timer = Some(sched.timers.add(deadline, Arc::new(WakeTask(Arc::downgrade(self.task)))));
                }
            }
            entity.switches[0].fetch_add(1, Ordering::Relaxed);
            self.suspend();
        };
        entity.set_state(RunState::OnCpu);
        if let Some(timer) = timer {
            sched.timers.cancel(timer);
        }
        result
    }
}
