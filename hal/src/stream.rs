//! Byte streams that come from outside: the terminal, or whatever standard input and output are.

use abi::Errno;
use bitflags::bitflags;

bitflags! {
    /// What a stream is ready for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Readiness: u8 {
        /// A read returns data, end of file or an error.
        const READ = 1;
        /// A write makes progress or fails.
        const WRITE = 2;
        /// The other end is gone.
        const HANGUP = 4;
    }
}

/// What kind of thing a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A terminal: the kernel puts its own line discipline on top, and the host's is raw.
    Terminal,
    /// A pipe, a socket or a character device: no position.
    Pipe,
    /// A regular file: always ready, has a position that is shared with the host.
    File,
    /// Closed on the host.
    Closed,
}

/// The size of a terminal window in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct WindowSize {
    pub rows: u16,
    pub cols: u16,
    pub xpixel: u16,
    pub ypixel: u16,
}

/// A stream. Methods are for virtual CPU context and never block.
pub trait Stream: Send + Sync {
    /// What it is; constant.
    fn kind(&self) -> StreamKind;
    /// Reads what is there: `Ok(0)` is end of file, `EAGAIN` nothing yet.
    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno>;
    /// Writes what fits: `EAGAIN` when nothing does, `EPIPE` when nobody reads.
    fn write(&self, buf: &[u8]) -> Result<usize, Errno>;
    /// Moves the position of a file (`whence` as in `lseek(2)`); `ESPIPE` for everything else.
    fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno>;
    /// Sets the size of a file; `EINVAL` for everything else.
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        let _ = size;
        Err(Errno::EINVAL)
    }
    /// What it is ready for now.
    fn readiness(&self) -> Readiness;
    /// Asks for one [`crate::Event::Stream`] when it becomes ready for any of `interest`. Repeatable.
    fn watch(&self, interest: Readiness);
    /// The window size of a terminal.
    fn window_size(&self) -> Option<WindowSize>;
    /// `fstat(2)` of it, where the host can tell.
    fn attr(&self) -> Option<abi::fs::Attr>;
}
