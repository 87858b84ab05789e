//! Wait queues: how tasks sleep until something happens.
//!
//! A [`WaitQueue`] is a cheap handle that both the waiting and the waking side hold. A waiter is a task or a hook
//! (epoll registers hooks). Waking a task is a run-queue operation; nothing here touches the host.
//!
//! Lock order: a queue's lock is a leaf below everything except the run queues.

use crate::sync::Mutex;
use crate::task::Task;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bitflags::bitflags;

bitflags! {
    /// Readiness of a file, with the values of `POLLIN` and its kin (`poll(2)`, the same as `EPOLL*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PollEvents: u32 {
        /// Data to read.
        const IN = 0x001;
        /// Urgent data.
        const PRI = 0x002;
        /// Room to write.
        const OUT = 0x004;
        /// An error condition.
        const ERR = 0x008;
        /// Hung up.
        const HUP = 0x010;
        /// Not an open descriptor (`poll` only).
        const NVAL = 0x020;
        /// The same as `IN` for most files.
        const RDNORM = 0x040;
        /// Priority band data.
        const RDBAND = 0x080;
        /// The same as `OUT` for most files.
        const WRNORM = 0x100;
        /// Priority data may be written.
        const WRBAND = 0x200;
        /// The peer shut down its writing half.
        const RDHUP = 0x2000;
    }
}

impl PollEvents {
    /// Readable, as most files say it.
    pub const READABLE: PollEvents = PollEvents::IN.union(PollEvents::RDNORM);
    /// Writable, as most files say it.
    pub const WRITABLE: PollEvents = PollEvents::OUT.union(PollEvents::WRNORM);
}

/// What a waker is going to do next, as far as it is known: a hint where the woken task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waker {
    /// It goes on with its own work.
    GoesOn,
    /// It is likely to wait soon, as one who writes a request and then reads the answer (`WF_SYNC` in Linux).
    WaitsSoon,
}

/// Something other than a task that wants to hear of a wake-up. Called with no lock of the queue held; must not block.
pub trait WakeHook: Send + Sync {
    /// The queue was woken for these events (empty: anything may have changed). True when that has woken a task.
    fn woken(&self, events: PollEvents, waker: Waker) -> bool;
}

enum Waiter {
    Task(Arc<Task>),
    Hook(Weak<dyn WakeHook>),
    /// One of those of which only the first that wakes somebody hears of a wake-up (`EPOLLEXCLUSIVE`).
    ExclusiveHook(Weak<dyn WakeHook>),
}

struct Entry {
    id: u64,
    waiter: Waiter,
}

#[derive(Default)]
struct Inner {
    next_id: u64,
    entries: Vec<Entry>,
}

/// A queue of waiters. Clones are the same queue.
#[derive(Clone, Default)]
pub struct WaitQueue {
    inner: Arc<Mutex<Inner>>,
}

/// A registration in a queue; dropping it takes the waiter out.
pub struct Registration {
    queue: WaitQueue,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut inner = self.queue.inner.lock();
        if let Some(at) = inner.entries.iter().position(|e| e.id == self.id) {
            inner.entries.remove(at);
        }
    }
}

impl WaitQueue {
    /// An empty queue.
    pub fn new() -> WaitQueue {
        WaitQueue::default()
    }

    fn register(&self, waiter: Waiter) -> Registration {
        let mut inner = self.inner.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        inner.entries.push(Entry { id, waiter });
        Registration { queue: self.clone(), id }
    }

    /// Registers a task; [`crate::task::Cx::wait`] is what callers want.
    pub fn register_task(&self, task: &Arc<Task>) -> Registration {
        self.register(Waiter::Task(task.clone()))
    }

    /// Registers a hook.
    pub fn register_hook(&self, hook: Weak<dyn WakeHook>) -> Registration {
        self.register(Waiter::Hook(hook))
    }

    /// Registers a hook that needs not hear of a wake-up when another such hook of the queue has woken a task for it.
    pub fn register_exclusive_hook(&self, hook: Weak<dyn WakeHook>) -> Registration {
        self.register(Waiter::ExclusiveHook(hook))
    }

    /// Wakes every waiter. Does not block; any virtual CPU context.
    pub fn wake_all(&self, events: PollEvents) {
        self.wake(usize::MAX, events, Waker::GoesOn);
    }

    /// Wakes every waiter, as one who waits soon. Does not block; any virtual CPU context.
    pub fn wake_all_sync(&self, events: PollEvents) {
        self.wake(usize::MAX, events, Waker::WaitsSoon);
    }

    /// Wakes at most `count` tasks, in the order in which they came, and the hooks. Returns the number of tasks.
    ///
    /// A task that was chosen and leaves for another reason looks at its condition once more after it has left the queue ([`crate::task::Cx`]), so
    /// no wake-up is spent on one that does not want it.
    pub fn wake(&self, count: usize, events: PollEvents, waker: Waker) -> usize {
        let mut hooks: Vec<Arc<dyn WakeHook>> = Vec::new();
        let mut exclusive: Vec<Arc<dyn WakeHook>> = Vec::new();
        let mut left = count;
        {
            let inner = self.inner.lock();
            for entry in &inner.entries {
                match &entry.waiter {
                    Waiter::Task(task) => {
                        if left > 0 && task.wake_by(waker) {
                            left -= 1;
                        }
                    }
                    Waiter::Hook(hook) => hooks.extend(hook.upgrade()),
                    Waiter::ExclusiveHook(hook) => exclusive.extend(hook.upgrade()),
                }
            }
        }
        for hook in hooks {
            hook.woken(events, waker);
        }
        // An end concerns everybody.
        let all = events.is_empty() || events.intersects(PollEvents::HUP | PollEvents::ERR);
        for hook in exclusive {
            if hook.woken(events, waker) && !all {
                break;
            }
        }
        count - left
    }

    /// Whether anyone waits.
    pub fn has_waiters(&self) -> bool {
        !self.inner.lock().entries.is_empty()
    }
}

/// Collects the queues that a poll must wait on. Files add theirs in [`crate::fs::File::poll`].
pub struct PollTable<'a> {
    add: &'a mut dyn FnMut(&WaitQueue),
}

impl<'a> PollTable<'a> {
    /// A table that hands each queue to `add`.
    pub fn new(add: &'a mut dyn FnMut(&WaitQueue)) -> PollTable<'a> {
        PollTable { add }
    }

    /// Adds a queue that is woken when the polled file's readiness may have changed.
    pub fn add(&mut self, queue: &WaitQueue) {
        (self.add)(queue)
    }
}
