//! A lock that sleeps, for the reading side of a stream: it is held across copies to user memory.

use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};
use core::sync::atomic::{AtomicBool, Ordering};

/// A sleeping lock. Whoever holds it does not wait for other tasks, so waiting for it ends soon and no signal ends it.
#[derive(Default)]
pub(crate) struct IoLock {
    held: AtomicBool,
    queue: WaitQueue,
}

/// Holds the lock.
pub(crate) struct IoGuard<'a>(&'a IoLock);

impl IoLock {
    /// Takes the lock. May suspend.
    pub(crate) fn lock<'a>(&'a self, cx: &Cx) -> IoGuard<'a> {
        let take = || (!self.held.swap(true, Ordering::SeqCst)).then_some(());
        if take().is_none() {
            cx.wait_uninterruptible(&self.queue, take);
        }
        IoGuard(self)
    }
}

impl Drop for IoGuard<'_> {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::SeqCst);
        if self.0.queue.has_waiters() {
            self.0.queue.wake(1, PollEvents::empty());
        }
    }
}
