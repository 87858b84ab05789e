//! Waiting for many files: the common part of `poll(2)` and `select(2)`.

use crate::fs::OpenFile;
use crate::task::{Cx, WaitEnd};
use crate::wait::{PollEvents, PollTable};
use alloc::sync::Arc;

/// One file to wait for.
pub struct PollItem {
    /// The file; `None` for a descriptor that is not open, which is ready with `NVAL`, or one to skip.
    pub file: Option<Arc<OpenFile>>,
    /// What is asked for. `ERR`, `HUP` and `NVAL` need not be.
    pub wanted: PollEvents,
    /// What it is ready for; only what is wanted.
    pub ready: PollEvents,
}

impl PollItem {
    /// A file to wait for.
    pub fn new(file: Option<Arc<OpenFile>>, wanted: PollEvents) -> PollItem {
        PollItem { file, wanted, ready: PollEvents::empty() }
    }
}

/// Waits until one of the items is ready or the deadline on the monotonic clock has passed, and returns how many are: zero after a
/// time-out. Items that are ready on entry (`NVAL`) count. A signal interrupts.
pub fn poll_items(cx: &Cx, items: &mut [PollItem], deadline_ns: Option<u64>) -> Result<usize, WaitEnd> {
    let look = |mut table: Option<&mut PollTable<'_>>| {
        let mut count = 0;
        for item in items.iter_mut() {
            if let Some(of) = &item.file {
                // Once one is ready the task will not sleep, so the others need not wake it.
                let table = if count == 0 { table.as_deref_mut() } else { None };
                item.ready = of.file.poll(cx, of, table) & item.wanted;
            }
            count += usize::from(!item.ready.is_empty());
        }
        (count > 0).then_some(count)
    };
    match cx.wait_poll(deadline_ns, look) {
        Err(WaitEnd::TimedOut) => Ok(0),
        other => other,
    }
}
