//! Standard input, output and error when they are not a terminal: files over a [`hal::Stream`].
//!
//! Nothing is buffered here, so what is written through several descriptors keeps its order. A blocked task waits on the stream's queue,
//! which [`super::IpcState::stream_ready`] wakes.

use super::StreamState as State;
use crate::Kernel;
use crate::error::{Result, err};
use crate::fs::{File, OpenFile, OpenFlags};
use crate::sync::Mutex;
use crate::task::Cx;
use crate::user::{Sink, Source, UserPtr};
use crate::wait::{PollEvents, PollTable, WaitQueue};
use abi::Errno;
use abi::fs::{Attr, DeviceId, FileType};
use abi::time::Timespec;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use core::any::Any;
use hal::{ClockId, Readiness, Stream, StreamKind};

/// Bytes moved by one host call at most.
const CHUNK: usize = 64 << 10;
const FIONREAD: u32 = 0x541b;

/// What the kernel keeps of a standard stream: who waits for it.
#[derive(Default)]
pub struct StreamState {
    queue: WaitQueue,
    /// Bytes that the host gave and the reader's memory did not take.
    returned: Mutex<VecDeque<u8>>,
}

impl StreamState {
    /// Wakes everyone who waits for the stream.
    pub fn changed(&self) {
        self.queue.wake_all(PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::HUP);
    }

    /// Woken when the stream may have become ready.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }
}

/// A standard stream as a file.
pub struct HostStream {
    stream: Arc<dyn Stream>,
    index: usize,
    queue: WaitQueue,
    attr: Attr,
    kernel: alloc::sync::Weak<Kernel>,
}

impl HostStream {
    /// The stream with this index; `None` when the machine has none, or it is closed.
    pub fn new(kernel: &Arc<Kernel>, index: usize) -> Option<HostStream> {
        let stream = kernel.machine.stream(index)?;
        if stream.kind() == StreamKind::Closed {
            return None;
        }
        let queue = kernel.ipc.streams.get(index)?.queue.clone();
        let now = Timespec::from_ns(kernel.machine.clock_ns(ClockId::Realtime));
        let file_type = match stream.kind() {
            StreamKind::File => FileType::Regular,
            StreamKind::Terminal => FileType::CharDevice,
            StreamKind::Pipe | StreamKind::Closed => FileType::Fifo,
        };
        let (uid, gid) = (kernel.config.user.0, kernel.config.user.1);
        let attr = Attr {
            dev: DeviceId::new(0, 15),
            ino: kernel.next_id(),
            mode: file_type.mode_bits() | 0o600,
            nlink: 1,
            uid,
            gid,
            rdev: DeviceId::default(),
            size: 0,
            blksize: 4096,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: None,
        };
        Some(HostStream { stream, index, queue, attr, kernel: Arc::downgrade(kernel) })
    }

    fn is_file(&self) -> bool {
        self.stream.kind() == StreamKind::File
    }

    fn returned<T>(&self, f: impl FnOnce(&mut VecDeque<u8>) -> T) -> Option<T> {
        let kernel = self.kernel.upgrade()?;
        let state: &State = kernel.ipc.streams.get(self.index)?;
        let mut returned = state.returned.lock();
        Some(f(&mut returned))
    }

    fn has_returned(&self) -> bool {
        self.returned(|r| !r.is_empty()).unwrap_or(false)
    }

    /// Runs a read or write of a regular file at `pos`. The position that counts is the host's, which other descriptors share; a `pos` that is
    /// not the description's own is a `pread` or `pwrite`, for which the host's is moved and put back.
    fn at(&self, of: &OpenFile, pos: &mut u64, f: impl FnOnce() -> Result<usize>) -> Result<usize> {
        if !self.is_file() {
            return f();
        }
        if *pos == of.pos() {
            let count = f()?;
            *pos = self.stream.seek(0, 1)?;
            return Ok(count);
        }
        let own = self.stream.seek(0, 1)?;
        let to = i64::try_from(*pos).map_err(|_| Errno::EINVAL)?;
        self.stream.seek(to, 0)?;
        let result = f();
        self.stream.seek(own as i64, 0)?;
        let count = result?;
        *pos = pos.saturating_add(count as u64);
        Ok(count)
    }

    /// Reads what is there; `None` when it has to wait.
    fn try_read(&self, buf: &mut [u8], nonblocking: bool) -> Option<Result<usize>> {
        let left = self.returned(|r| {
            let count = r.len().min(buf.len());
            for (to, from) in buf.iter_mut().zip(r.drain(..count)) {
                *to = from;
            }
            count
        });
        if let Some(count @ 1..) = left {
            return Some(Ok(count));
        }
        match self.stream.read(buf) {
            Err(Errno::EAGAIN) if nonblocking => Some(err(Errno::EAGAIN)),
            Err(Errno::EAGAIN) => {
                self.stream.watch(Readiness::READ);
                None
            }
            other => Some(other.map_err(Into::into)),
        }
    }
}

impl HostStream {
    fn read_stream(&self, cx: &Cx, of: &OpenFile, sink: &mut dyn Sink) -> Result<usize> {
        let mut buf = vec![0; sink.room().min(CHUNK)];
        if buf.is_empty() {
            return Ok(0);
        }
        let count = cx.wait(&self.queue, || self.try_read(&mut buf, of.nonblocking()))?;
        let bytes = buf.get(..count).unwrap_or_default();
        let result = sink.put(bytes);
        if result.is_err() {
            self.returned(|r| {
                for &byte in bytes.iter().rev() {
                    r.push_front(byte);
                }
            });
        }
        result.map(|()| count)
    }

    fn write_stream(&self, cx: &Cx, of: &OpenFile, source: &mut dyn Source) -> Result<usize> {
        let mut buf = vec![0; source.left().min(CHUNK)];
        let mut done = 0;
        while source.left() > 0 {
            let taken = match source.take(&mut buf) {
                Ok(0) => break,
                Ok(taken) => taken,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            let mut sent = 0;
            while sent < taken {
                let rest = buf.get(sent..taken).unwrap_or_default();
                let step = cx.wait(&self.queue, || match self.stream.write(rest) {
                    Err(Errno::EAGAIN) if of.nonblocking() => Some(err(Errno::EAGAIN)),
                    Err(Errno::EAGAIN) => {
                        self.stream.watch(Readiness::WRITE);
                        None
                    }
                    other => Some(other.map_err(Into::into)),
                });
                match step {
                    Ok(0) => return if done + sent > 0 { Ok(done + sent) } else { err(Errno::EIO) },
                    Ok(count) => sent += count,
                    Err(error) => {
                        if error.errno() == Errno::EPIPE {
                            super::raise_sigpipe(cx);
                        }
                        return if done + sent > 0 { Ok(done + sent) } else { Err(error) };
                    }
                }
            }
            done += sent;
        }
        Ok(done)
    }
}

impl File for HostStream {
    fn read(&self, cx: &Cx, of: &OpenFile, pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        self.at(of, pos, || self.read_stream(cx, of, sink))
    }

    fn write(&self, cx: &Cx, of: &OpenFile, pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        self.at(of, pos, || self.write_stream(cx, of, source))
    }

    fn seekable(&self) -> bool {
        self.is_file()
    }

    fn seek(&self, _cx: &Cx, _of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        // What was given back lies before the host's position.
        let back = self.returned(|r| core::mem::take(r).len()).unwrap_or(0);
        if back > 0 {
            self.stream.seek(-(back as i64), 1)?;
        }
        Ok(self.stream.seek(offset, whence)?)
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.queue);
        }
        let ready = self.stream.readiness();
        let mut events = PollEvents::empty();
        events.set(PollEvents::READABLE, ready.contains(Readiness::READ) || self.has_returned());
        events.set(PollEvents::WRITABLE, ready.contains(Readiness::WRITE));
        if ready.contains(Readiness::HANGUP) {
            // A pipe's reader sees the hang-up, its writer an error.
            let side = if self.index == 0 { PollEvents::HUP } else { PollEvents::ERR };
            events |= side;
        }
        // Asked for whatever is missing, so that whoever waits next is woken.
        let wanted = if self.index == 0 { Readiness::READ } else { Readiness::WRITE };
        if !ready.contains(wanted) {
            self.stream.watch(wanted);
        }
        events
    }

    fn pollable(&self) -> bool {
        !self.is_file()
    }

    fn ioctl(&self, cx: &Cx, _of: &OpenFile, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            FIONREAD => {
                let bytes = self.returned(|r| r.len()).unwrap_or(0) as i32;
                UserPtr::<i32>::new(arg).write(cx, &bytes)?;
                Ok(0)
            }
            _ => err(Errno::ENOTTY),
        }
    }

    fn resize(&self, size: u64) -> Result<()> {
        Ok(self.stream.truncate(size)?)
    }

    fn sync(&self, _cx: &Cx, _data_only: bool) -> Result<()> {
        if self.is_file() { Ok(()) } else { err(Errno::EINVAL) }
    }

    fn attr(&self) -> Result<Attr> {
        Ok(self.stream.attr().unwrap_or(self.attr))
    }

    fn describe(&self) -> String {
        match self.stream.kind() {
            StreamKind::File => format!("/dev/std{}", ["in", "out", "err"].get(self.index).unwrap_or(&"")),
            _ => format!("pipe:[{}]", self.attr.ino),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A standard stream of the outside as an open file; `ENXIO` where there is none. Readable and writable: the outside's own
/// descriptor decides what works.
pub fn open_host_stream(cx: &Cx, index: usize) -> Result<Arc<OpenFile>> {
    let stream = HostStream::new(cx.kernel, index).ok_or(Errno::ENXIO)?;
    let pos = if stream.is_file() { stream.stream.seek(0, 1)? } else { 0 };
    let of = OpenFile::new(cx.kernel, Arc::new(stream), None, None, OpenFlags::RDWR);
    of.set_pos(pos);
    Ok(of)
}
