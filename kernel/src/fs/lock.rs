//! File locks.

use crate::task::Cx;

/// Releases the record locks of the current process, which ends.
pub(crate) fn release_process(_cx: &Cx) {}
