//! Status bits of packet mode (`TIOCPKT`, `ioctl_tty(2)`).

/// Input was flushed.
pub(super) const FLUSH_READ: u8 = 1;
/// Output was flushed.
pub(super) const FLUSH_WRITE: u8 = 2;
/// Output was stopped.
pub(super) const STOP: u8 = 4;
/// Output was started.
pub(super) const START: u8 = 8;
/// The start and stop characters are not `^Q` and `^S`, or flow control is off.
pub(super) const NO_STOP: u8 = 16;
/// They are.
pub(super) const DO_STOP: u8 = 32;
/// Settings changed with `EXTPROC` on.
pub(super) const IOCTL: u8 = 64;
