//! Inter-process communication: pipes, FIFOs, eventfd, epoll, futexes and their kin.

mod anon;
mod epoll;
mod eventfd;
mod fifo;
pub mod futex;
mod host_stream;
mod pipe;
mod pipe_buf;
pub mod poll;

pub use epoll::{Epoll, EpollEvent, EpollOp};
pub use eventfd::EventFd;
pub use fifo::fifo_open;
pub use host_stream::{HostStream, StreamState};
pub(crate) use pipe::raise_sigpipe;
pub use pipe::{PIPE_MAX_SIZE, Pipe, PipeEnd, pipe_install, pipe_new};

use crate::sync::Mutex;

/// What IPC keeps per kernel.
#[derive(Default)]
pub struct IpcState {
    /// FIFOs that are open.
    pub(crate) fifos: fifo::Fifos,
    /// Held while an epoll is registered with another: what makes sure that there is no cycle.
    pub(crate) epoll_nesting: Mutex<()>,
    /// Standard input, output and error.
    pub streams: [StreamState; 3],
}

impl IpcState {
    /// The stream with this index became ready for what was asked (`hal::Event::Stream`).
    pub fn stream_ready(&self, index: usize) {
        if let Some(stream) = self.streams.get(index) {
            stream.changed();
        }
    }
}

/// A descriptor for a process (`pidfd_open(2)`).
pub fn pidfd_new(
    _cx: &crate::task::Cx,
    _process: &alloc::sync::Arc<crate::task::Process>,
    _flags: crate::fs::OpenFlags,
) -> alloc::sync::Arc<crate::fs::OpenFile> {
    unreachable!("placeholder")
}

/// A standard stream of the outside as an open file; `ENXIO` where there is none. Readable and writable: the outside's own
/// descriptor decides what works.
pub fn open_host_stream(
    cx: &crate::task::Cx,
    index: usize,
) -> crate::error::Result<alloc::sync::Arc<crate::fs::OpenFile>> {
    let stream = HostStream::new(cx.kernel, index).ok_or(abi::Errno::ENXIO)?;
    let file = alloc::sync::Arc::new(stream);
    Ok(crate::fs::OpenFile::new(cx.kernel, file, None, None, crate::fs::OpenFlags::RDWR))
}
#[cfg(test)]
mod tests;
