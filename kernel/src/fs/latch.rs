//! A lock that sleeps: for sections that may suspend the fiber or make host calls.
//!
//! A [`Latch`] is one byte in the object that it protects; all latches of a kernel share one wait queue, which is looked at only
//! when someone actually waits. Lock order: the rename latch, then inode latches in the order of their addresses, then an open
//! file's position latch is outermost of all (it is taken before the file's methods are called).

use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};
use core::sync::atomic::{AtomicU8, Ordering};

const FREE: u8 = 0;
const HELD: u8 = 1;
const CONTENDED: u8 = 2;

/// A sleeping lock without data.
#[derive(Default)]
pub struct Latch(AtomicU8);

/// Holds a [`Latch`]; dropping it lets the next one in.
pub struct LatchGuard<'a> {
    latch: &'a Latch,
    queue: &'a WaitQueue,
}

impl Latch {
    /// A free latch.
    pub const fn new() -> Latch {
        Latch(AtomicU8::new(FREE))
    }

    /// Takes it; sleeps, not interruptible by signals, while another task holds it. Holders must not wait for anything that may not
    /// happen soon.
    pub fn lock<'a>(&'a self, cx: &'a Cx) -> LatchGuard<'a> {
        let queue = &cx.kernel.vfs.latches;
        if self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // Having waited, the state stays `CONTENDED`: others may wait too.
            cx.wait_uninterruptible(queue, || {
                (self.0.swap(CONTENDED, Ordering::Acquire) == FREE).then_some(())
            });
        }
        LatchGuard { latch: self, queue }
    }
}

impl Drop for LatchGuard<'_> {
    fn drop(&mut self) {
        if self.latch.0.swap(FREE, Ordering::Release) == CONTENDED {
            self.queue.wake_all(PollEvents::empty());
        }
    }
}
