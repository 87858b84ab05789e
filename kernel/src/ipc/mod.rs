//! Inter-process communication: pipes, FIFOs, eventfd, epoll, futexes and their kin.

mod anon;
mod epoll;
mod eventfd;
mod fifo;
pub mod futex;
pub mod futex_pi;
mod host_stream;
mod inotify;
pub mod memfd;
pub mod mqueue;
mod pidfd;
mod pipe;
mod pipe_buf;
pub mod poll;
mod signalfd;
pub mod splice;
pub mod sysv;

pub(crate) use anon::anon_attr;
pub use epoll::{Epoll, EpollEvent, EpollOp};
pub use eventfd::EventFd;
pub use fifo::fifo_open;
pub use host_stream::{HostStream, StreamState, open_host_stream};
pub(crate) use inotify::InotifyFile;
pub use inotify::{Inotify, Watches, flag as inotify_flag};
pub use pidfd::{PidFd, PidTarget, pidfd_for, pidfd_new};
pub(crate) use pipe::raise_sigpipe;
pub use pipe::{Pipe, PipeEnd, pipe_install, pipe_new};
pub use signalfd::SignalFd;

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

#[cfg(test)]
mod tests;
