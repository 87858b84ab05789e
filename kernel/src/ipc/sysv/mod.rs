//! System V IPC (`sysvipc(7)`): shared memory, semaphores, message queues.
//!
//! The three have the same shape: a table of objects by id, found by key, with an owner and a mode ([`Ids`], [`Perm`]).
//! Lock order: a table's lock, then an object's.

mod ids;
pub mod msg;
pub mod sem;
pub mod shm;
#[cfg(test)]
mod tests;

pub use ids::{GetFlags, Ids, Perm};

use crate::task::Cx;
use alloc::sync::Arc;

/// All System V objects of a kernel.
#[derive(Default)]
pub struct SysV {
    /// Shared memory segments.
    pub shm: Ids<Arc<shm::Segment>>,
    /// Semaphore sets.
    pub sem: Ids<Arc<sem::SemSet>>,
    /// Message queues.
    pub msg: Ids<Arc<msg::Queue>>,
    /// What is undone when a process ends.
    pub(crate) undo: sem::UndoTable,
}

/// Seconds since the Epoch, for the times in the status structures.
fn now(cx: &Cx) -> i64 {
    (cx.realtime_ns() / 1_000_000_000) as i64
}

/// The current process ends: applies its `SEM_UNDO` adjustments.
pub(crate) fn exit_process(cx: &Cx) {
    sem::undo(cx);
}
