//! Terminals.

use crate::Kernel;
use crate::error::{Result, err};
use crate::fs::OpenFile;
use crate::task::{Cx, Session};
use abi::Errno;
use alloc::sync::Arc;

/// The outside's terminal as an open file; becomes the controlling terminal of the caller's session.
pub fn open_console(_cx: &Cx) -> Result<Arc<OpenFile>> {
    err(Errno::ENXIO)
}

/// The terminal's window changed its size.
pub(crate) fn window_changed(_kernel: &Kernel) {}

/// A session's leader has ended: hang up its terminal.
pub(crate) fn session_ended(_kernel: &Kernel, _session: &Arc<Session>) {}
/// All terminals of a kernel.
#[derive(Default)]
pub struct Terminals {}

impl Terminals {
    /// Number of pseudo-terminals.
    pub fn pty_count(&self) -> usize {
        0
    }
}

/// Device number and foreground process group of a session's terminal, as `/proc/PID/stat` shows them.
pub(crate) fn stat_numbers(_session: &Session) -> (i32, i32) {
    (0, -1)
}
