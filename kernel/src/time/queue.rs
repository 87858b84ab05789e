//! Timers by deadline on the monotonic clock.
//!
//! Timers fire in the loop of whichever CPU looks first, outside of any fiber. Lock order: the queue's lock is a leaf and
//! not held while hooks run.

use crate::sync::Mutex;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// What happens when a timer fires. Must not block.
pub trait TimerHook: Send + Sync {
    /// The deadline has passed; `now_ns` is the monotonic time.
    fn fire(&self, now_ns: u64);
}

/// A timer in a queue, for [`TimerQueue::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId {
    deadline_ns: u64,
    order: u64,
}

#[derive(Default)]
struct Inner {
    timers: BTreeMap<(u64, u64), Arc<dyn TimerHook>>,
    next: u64,
}

/// All timers of a kernel.
pub struct TimerQueue {
    inner: Mutex<Inner>,
    /// The earliest deadline, `u64::MAX` for none: read without the lock on every entry into guest code.
    earliest: AtomicU64,
}

impl Default for TimerQueue {
    fn default() -> TimerQueue {
        TimerQueue { inner: Mutex::new(Inner::default()), earliest: AtomicU64::new(u64::MAX) }
    }
}

impl TimerQueue {
    /// Adds a one-shot timer.
    pub fn add(&self, deadline_ns: u64, hook: Arc<dyn TimerHook>) -> TimerId {
        let mut inner = self.inner.lock();
        let order = inner.next;
        inner.next += 1;
        inner.timers.insert((deadline_ns, order), hook);
        self.publish(&inner);
        TimerId { deadline_ns, order }
    }

    /// Takes a timer out; false when it has fired or is firing.
    pub fn cancel(&self, id: TimerId) -> bool {
        let mut inner = self.inner.lock();
        let found = inner.timers.remove(&(id.deadline_ns, id.order)).is_some();
        self.publish(&inner);
        found
    }

    /// The earliest deadline.
    pub fn earliest(&self) -> Option<u64> {
        Some(self.earliest.load(Ordering::SeqCst)).filter(|&d| d != u64::MAX)
    }

    /// Fires everything that is due.
    pub fn run(&self, now_ns: u64) {
        if self.earliest.load(Ordering::SeqCst) > now_ns {
            return;
        }
        let mut due = Vec::new();
        {
            let mut inner = self.inner.lock();
            while let Some(entry) = inner.timers.first_entry() {
                if entry.key().0 > now_ns {
                    break;
                }
                due.push(entry.remove());
            }
            self.publish(&inner);
        }
        for hook in due {
            hook.fire(now_ns);
        }
    }

    fn publish(&self, inner: &Inner) {
        let earliest = inner.timers.first_key_value().map_or(u64::MAX, |(k, _)| k.0);
        self.earliest.store(earliest, Ordering::SeqCst);
    }
}
