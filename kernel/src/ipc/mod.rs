//! Inter-process communication: pipes, FIFOs, eventfd, epoll, futexes and their kin.

mod anon;
mod fifo;
mod host_stream;
mod pipe;
mod pipe_buf;
pub mod poll;

pub use fifo::fifo_open;
pub use host_stream::{HostStream, StreamState};
pub(crate) use pipe::raise_sigpipe;
pub use pipe::{PIPE_MAX_SIZE, Pipe, PipeEnd, pipe_install, pipe_new};

/// What IPC keeps per kernel.
#[derive(Default)]
pub struct IpcState {
    /// FIFOs that are open.
    pub(crate) fifos: fifo::Fifos,
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
