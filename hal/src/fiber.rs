//! Fibers: kernel stacks that are switched in user space.

use crate::CpuId;
use alloc::boxed::Box;
use alloc::string::String;

/// Creates fibers. Called from virtual CPU context; does not block; fails by `None` when no stack can be
/// had. Hosts use a stackful coroutine with a guard page.
pub trait Fibers: Send + Sync {
    /// A fiber that will run `entry` on a stack of its own when it is first resumed.
    fn spawn(&self, entry: FiberEntry) -> Option<Box<dyn Fiber>>;
}

/// What a fiber runs.
pub type FiberEntry = Box<dyn FnOnce(&dyn Suspend) + Send>;

/// A suspended fiber. Dropping one that has not finished unwinds its stack.
pub trait Fiber: Send {
    /// Runs it on the calling virtual CPU `cpu` until it suspends, returns or panics.
    fn resume(&mut self, cpu: CpuId) -> FiberState;
}

/// The inside of a fiber: how its code gives the CPU back.
pub trait Suspend {
    /// Returns to the caller of [`Fiber::resume`]; comes back when the fiber is resumed again, perhaps on
    /// another CPU. Must not be called with a spin lock held.
    fn suspend(&self);
    /// The CPU that the fiber runs on at this moment; stable until the next [`Suspend::suspend`].
    fn cpu(&self) -> CpuId;
}

/// Why [`Fiber::resume`] returned.
#[derive(Debug, PartialEq, Eq)]
pub enum FiberState {
    /// It suspended itself and may be resumed.
    Suspended,
    /// Its entry returned; it must not be resumed.
    Finished,
    /// It panicked with this message and backtrace; it must not be resumed.
    Panicked(String),
}
