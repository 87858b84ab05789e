//! Standard input, output and error.
//!
//! The open file descriptions are shared with whoever started us, so `O_NONBLOCK` must not be set on them.
//! Instead a pipe, a terminal or a device is opened anew through `/proc/self/fd` (a description of our own), a
//! socket is used with `MSG_DONTWAIT`, and a regular file is used as it is, because its position is shared.
//! Where opening anew is refused, readiness is asked first and writes are small.

use crate::hostfs::last_errno;
use crate::hostnode::attr;
use crate::io::{Events, Poller};
use crate::{cpu::lock, stdfds, terminal};
use abi::Errno;
use abi::fs::{Attr, FileType};
use hal::{Event, Readiness, Stream, StreamKind, WindowSize};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

/// How not to block.
#[derive(Debug)]
enum Access {
    /// It never blocks.
    Plain,
    /// With `MSG_DONTWAIT`.
    Socket,
    /// On a description of our own.
    Own(OwnedFd),
    /// Asking first. Somebody else may take the data between; then the virtual CPU waits.
    Ask,
}

/// A pipe takes this much without blocking when it says that it is ready (`PIPE_BUF`).
const SMALL: usize = 4096;

/// A standard stream.
pub struct LinuxStream {
    index: usize,
    fd: RawFd,
    kind: StreamKind,
    is_tty: bool,
    access: Access,
    watched: Mutex<Readiness>,
    poller: Arc<Poller>,
    events: Arc<Events>,
}

impl LinuxStream {
    /// The stream for descriptor `fd`, as number `index`.
    pub(crate) fn new(index: usize, fd: RawFd, poller: Arc<Poller>, events: Arc<Events>) -> LinuxStream {
        let is_tty = terminal::is_terminal(fd);
        let (kind, access) = probe(index, fd, is_tty);
        LinuxStream { index, fd, kind, is_tty, access, watched: Mutex::default(), poller, events }
    }

    /// Shows a terminal as a plain source or sink of bytes, because the terminal is left to others.
    pub(crate) fn treat_as_pipe(&mut self) {
        self.kind = StreamKind::Pipe;
        self.is_tty = false;
    }

    /// The terminal's input belongs to the foreground.
    fn is_background(&self) -> bool {
        self.is_tty && !terminal::is_raw()
    }

    fn used_fd(&self) -> RawFd {
        match &self.access {
            Access::Own(fd) => fd.as_raw_fd(),
            _ => self.fd,
        }
    }

    fn poll(&self, events: i16) -> i16 {
        let mut poll = libc::pollfd { fd: self.used_fd(), events, revents: 0 };
        // SAFETY: one structure; does not wait.
        unsafe { libc::poll(&mut poll, 1, 0) };
        poll.revents
    }

    /// The I/O thread saw it ready.
    pub(crate) fn fired(&self) -> bool {
        if self.is_background() {
            return false;
        }
        *lock(&self.watched) = Readiness::empty();
        true
    }

    /// Watches again what was not watched in the background.
    pub(crate) fn resumed(&self) {
        let watched = *lock(&self.watched);
        if !watched.is_empty() {
            self.watch(watched);
        }
    }
}

fn probe(index: usize, fd: RawFd, is_tty: bool) -> (StreamKind, Access) {
    // SAFETY: the descriptor stays open: 0 to 2 are never closed, and tests keep theirs.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let Ok(attr) = attr(borrowed) else { return (StreamKind::Closed, Access::Plain) };
    if index < 3 && fd == index as RawFd && stdfds::was_closed(index) {
        return (StreamKind::Closed, Access::Plain);
    }
    let kind = if is_tty { StreamKind::Terminal } else { StreamKind::Pipe };
    match attr.file_type() {
        FileType::Regular | FileType::Directory | FileType::BlockDevice => (StreamKind::File, Access::Plain),
        FileType::Socket => (kind, Access::Socket),
        _ => {
            let Ok(flags) = rustix::fs::fcntl_getfl(borrowed) else { return (kind, Access::Ask) };
            let flags = flags & (OFlags::RWMODE | OFlags::APPEND);
            let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            match rustix::fs::open(format!("/proc/self/fd/{fd}"), flags, Mode::empty()) {
                Ok(own) => (kind, Access::Own(own)),
                Err(_) => (kind, Access::Ask),
            }
        }
    }
}

impl Stream for LinuxStream {
    fn kind(&self) -> StreamKind {
        self.kind
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        if self.kind == StreamKind::Closed {
            return Err(Errno::EBADF);
        }
        if self.is_background() {
            return Err(Errno::EAGAIN);
        }
        let (to, len) = (buf.as_mut_ptr().cast(), buf.len());
        // SAFETY: the buffer has the length that is given, in all three calls.
        let got = unsafe {
            match &self.access {
                Access::Plain => libc::read(self.fd, to, len),
                Access::Own(own) => libc::read(own.as_raw_fd(), to, len),
                Access::Socket => libc::recv(self.fd, to, len, libc::MSG_DONTWAIT),
                Access::Ask if self.poll(libc::POLLIN) == 0 => return Err(Errno::EAGAIN),
                Access::Ask => libc::read(self.fd, to, len),
            }
        };
        usize::try_from(got).map_err(|_| last_errno())
    }

    fn write(&self, buf: &[u8]) -> Result<usize, Errno> {
        if self.kind == StreamKind::Closed {
            return Err(Errno::EBADF);
        }
        let (from, len) = (buf.as_ptr().cast(), buf.len());
        // SAFETY: the buffer has at least the length that is given, in all calls.
        let put = unsafe {
            match &self.access {
                Access::Plain => libc::write(self.fd, from, len),
                Access::Own(own) => libc::write(own.as_raw_fd(), from, len),
                Access::Socket => libc::send(self.fd, from, len, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL),
                Access::Ask if self.poll(libc::POLLOUT) == 0 => return Err(Errno::EAGAIN),
                Access::Ask => libc::write(self.fd, from, len.min(SMALL)),
            }
        };
        usize::try_from(put).map_err(|_| last_errno())
    }

    fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        if self.kind != StreamKind::File {
            return Err(Errno::ESPIPE);
        }
        let whence = i32::try_from(whence).map_err(|_| Errno::EINVAL)?;
        // SAFETY: plain call.
        let at = unsafe { libc::lseek64(self.fd, offset, whence) };
        u64::try_from(at).map_err(|_| last_errno())
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
        // SAFETY: plain call.
        match unsafe { libc::ftruncate64(self.fd, size) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }

    fn readiness(&self) -> Readiness {
        if matches!(self.kind, StreamKind::File | StreamKind::Closed) {
            return Readiness::READ | Readiness::WRITE;
        }
        let found = self.poll(libc::POLLIN | libc::POLLOUT);
        let any = |bits: i16| found & bits != 0;
        let mut ready = Readiness::empty();
        let read = any(libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL);
        ready.set(Readiness::READ, read && !self.is_background());
        ready.set(Readiness::WRITE, any(libc::POLLOUT | libc::POLLERR | libc::POLLNVAL));
        ready.set(Readiness::HANGUP, any(libc::POLLHUP | libc::POLLERR));
        ready
    }

    fn watch(&self, interest: Readiness) {
        let wanted = {
            let mut watched = lock(&self.watched);
            *watched |= interest;
            *watched
        };
        let mut events = 0;
        if wanted.contains(Readiness::READ) && !self.is_background() {
            events |= libc::EPOLLIN;
        }
        if wanted.contains(Readiness::WRITE) {
            events |= libc::EPOLLOUT;
        }
        if matches!(self.kind, StreamKind::File | StreamKind::Closed) {
            *lock(&self.watched) = Readiness::empty();
            self.events.push(Event::Stream(self.index));
        } else if (events != 0 || wanted == Readiness::HANGUP)
            && self.poller.once(self.used_fd(), events, self.index as u64).is_err()
        {
            // EPERM: always ready, as /dev/null is.
            *lock(&self.watched) = Readiness::empty();
            self.events.push(Event::Stream(self.index));
        }
    }

    fn window_size(&self) -> Option<WindowSize> {
        if self.is_tty { terminal::window_size(self.fd) } else { None }
    }

    fn attr(&self) -> Option<Attr> {
        if self.kind == StreamKind::Closed {
            return None;
        }
        // SAFETY: as in `probe`.
        attr(unsafe { BorrowedFd::borrow_raw(self.fd) }).ok()
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
