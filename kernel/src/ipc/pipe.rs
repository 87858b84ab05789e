//! Pipes and the open ends of FIFOs (`pipe(7)`, `fifo(7)`).
//!
//! [`Pipe`] is the shared object, [`PipeEnd`] the [`File`] of one end (of both, for a FIFO opened read-write).
//!
//! Blocked readers and blocked writers are woken one at a time, and whoever leaves passes on what is left, so that many readers of one pipe
//! (a job server's) do not all run for one byte. Pollers have a queue of their own and are all woken.
//!
//! Lock order: the pipe's lock is held while bytes are copied from and to user memory, so the address space's locks come below it; wake-ups
//! happen after it is released.

use super::anon::pipe_attr;
use super::pipe_buf::PipeBuf;
use crate::Kernel;
use crate::error::{Error, Result, err};
use crate::fs::{Fd, File, OpenFile, OpenFlags};
use crate::signal::{SigInfo, code, send_to_task, sig};
use crate::sync::Mutex;
use crate::task::{Cap, Cx};
use crate::user::{Sink, Source, UserPtr};
use crate::wait::{PollEvents, PollTable, WaitQueue, Waker};
use abi::Errno;
use abi::fs::Attr;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

const PAGE: usize = super::pipe_buf::PIPE_BUF;
const F_SETPIPE_SZ: u32 = 1031;
const F_GETPIPE_SZ: u32 = 1032;
const FIONREAD: u32 = 0x541b;

struct State {
    buf: PipeBuf,
    readers: usize,
    writers: usize,
    /// How many read and write ends were ever opened, for the waits of [`super::fifo_open`].
    reads_opened: u64,
    writes_opened: u64,
}

/// A pipe.
pub struct Pipe {
    state: Mutex<State>,
    readers: WaitQueue,
    writers: WaitQueue,
    pollers: WaitQueue,
    pub(super) opened: WaitQueue,
    attr: Attr,
}

/// Who else had a pipe open at the moment when an end was opened, that end included.
pub(super) struct Peers {
    pub(super) readers: usize,
    pub(super) writers: usize,
    /// How many read and write ends were ever opened.
    pub(super) opened: (u64, u64),
}

/// What a write attempt came to.
enum Written {
    All,
    NoReader,
    Failed(Error),
}

impl Pipe {
    /// An empty pipe without ends.
    pub(super) fn new(kernel: &Kernel, owner: (u32, u32)) -> Arc<Pipe> {
        Arc::new(Pipe {
            state: Mutex::new(State {
                buf: PipeBuf::new(kernel.frames.hold()),
                readers: 0,
                writers: 0,
                reads_opened: 0,
                writes_opened: 0,
            }),
            readers: WaitQueue::new(),
            writers: WaitQueue::new(),
            pollers: WaitQueue::new(),
            opened: WaitQueue::new(),
            attr: pipe_attr(kernel, kernel.next_id(), owner),
        })
    }

    /// Opens an end.
    pub(super) fn open(self: &Arc<Pipe>, read: bool, write: bool) -> (PipeEnd, Peers) {
        let mut state = self.state.lock();
        let writes_seen = if state.writers == 0 { state.writes_opened } else { 0 };
        if read {
            state.readers += 1;
            state.reads_opened += 1;
        }
        if write {
            state.writers += 1;
            state.writes_opened += 1;
        }
        let peers = Peers {
            readers: state.readers,
            writers: state.writers,
            opened: (state.reads_opened, state.writes_opened),
        };
        (PipeEnd { pipe: self.clone(), read, write, writes_seen }, peers)
    }

    /// Whether it has a reader.
    pub(super) fn has_reader(&self) -> bool {
        self.state.lock().readers > 0
    }

    /// How many read and write ends were ever opened.
    pub(super) fn opened_counts(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.reads_opened, state.writes_opened)
    }

    fn try_read(&self, sink: &mut dyn Sink, nonblocking: bool) -> Option<Result<usize>> {
        let (result, freed) = {
            let mut state = self.state.lock();
            if state.buf.is_empty() {
                return match () {
                    () if state.writers == 0 => Some(Ok(0)),
                    () if nonblocking => Some(err(Errno::EAGAIN)),
                    () => None,
                };
            }
            let was_full = state.buf.is_full();
            let result = state.buf.read(sink);
            (result, was_full && !state.buf.is_full())
        };
        if freed {
            self.writers.wake(1, PollEvents::WRITABLE, Waker::WaitsSoon);
            self.pollers.wake_all_sync(PollEvents::WRITABLE);
        }
        Some(result)
    }

    /// Reads; waits for the first byte or for the last writer to go.
    pub(super) fn read(&self, cx: &Cx, sink: &mut dyn Sink, nonblocking: bool) -> Result<usize> {
        if sink.room() == 0 {
            return Ok(0);
        }
        if let Some(result) = self.try_read(sink, nonblocking) {
            return result;
        }
        let result = cx.wait_longer(&self.readers, || self.try_read(sink, nonblocking));
        // It may have been the one that was woken: what is left is the next one's, also when a signal took this one away meanwhile. Not earlier:
        // as long as this task is in the queue the wake-up could go to itself.
        if !self.state.lock().buf.is_empty() {
            self.readers.wake(1, PollEvents::READABLE, Waker::WaitsSoon);
        }
        result
    }

    /// One attempt of a write; `None` when it has to wait for room.
    fn try_write(
        &self,
        source: &mut dyn Source,
        written: &mut usize,
        packet: bool,
        nonblocking: bool,
    ) -> Option<Written> {
        let before = *written;
        let (outcome, was_empty) = {
            let mut state = self.state.lock();
            if state.readers == 0 {
                return Some(Written::NoReader);
            }
            let was_empty = state.buf.is_empty();
            let merged = if before == 0 && !packet { state.buf.merge(source) } else { Ok(0) };
            let step = merged.and_then(|merged| match state.buf.append(source, packet) {
                Ok(added) => Ok(merged + added),
                Err(_) if merged > 0 => Ok(merged),
                Err(error) => Err(error),
            });
            let full = state.buf.is_full();
            let outcome = match step {
                Err(error) => Some(Written::Failed(error)),
                Ok(count) => {
                    *written += count;
                    if source.left() == 0 {
                        Some(Written::All)
                    } else if !full {
                        // The source gave less than it said: its memory ends here.
                        Some(if *written > 0 { Written::All } else { Written::Failed(Errno::EFAULT.into()) })
                    } else if nonblocking {
                        Some(Written::Failed(Errno::EAGAIN.into()))
                    } else {
                        None
                    }
                }
            };
            (outcome, was_empty)
        };
        if *written > before {
            if was_empty {
                self.readers.wake(1, PollEvents::READABLE, Waker::WaitsSoon);
            }
            self.pollers.wake_all_sync(PollEvents::READABLE);
        }
        outcome
    }

    /// Writes all of it, waiting for room as often as needed.
    pub(super) fn write(
        &self,
        cx: &Cx,
        source: &mut dyn Source,
        packet: bool,
        nonblocking: bool,
    ) -> Result<usize> {
        if source.left() == 0 {
            return Ok(0);
        }
        let mut written = 0;
        let outcome = match self.try_write(source, &mut written, packet, nonblocking) {
            Some(outcome) => Ok(outcome),
            None => {
                let again = || self.try_write(source, &mut written, packet, nonblocking).map(Ok);
                let outcome = cx.wait_longer(&self.writers, again);
                // As in `read`: room that is left is the next one's.
                if !self.state.lock().buf.is_full() {
                    self.writers.wake(1, PollEvents::WRITABLE, Waker::WaitsSoon);
                }
                outcome
            }
        };
        match outcome {
            Ok(Written::All) => Ok(written),
            Ok(Written::NoReader) => {
                raise_sigpipe(cx);
                if written > 0 { Ok(written) } else { err(Errno::EPIPE) }
            }
            Ok(Written::Failed(error)) | Err(error) => {
                if written > 0 {
                    Ok(written)
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Waits until something can be read; false when nothing ever will.
    pub(super) fn wait_readable(&self, cx: &Cx, nonblocking: bool) -> Result<bool> {
        let result = cx.wait(&self.readers, || {
            let state = self.state.lock();
            match (state.buf.is_empty(), state.writers) {
                (false, _) => Some(Ok(true)),
                (true, 0) => Some(Ok(false)),
                (true, _) if nonblocking => Some(err(Errno::EAGAIN)),
                (true, _) => None,
            }
        });
        // The caller may leave some of it, or all.
        if matches!(result, Ok(true)) {
            self.readers.wake(1, PollEvents::READABLE, Waker::GoesOn);
        }
        result
    }

    /// Waits until a page can be written; the bytes that there is room for. `EPIPE` with its signal when nobody reads.
    pub(super) fn wait_writable(&self, cx: &Cx, nonblocking: bool) -> Result<usize> {
        let room = cx.wait(&self.writers, || {
            let state = self.state.lock();
            match (state.buf.free(), state.readers) {
                (_, 0) => Some(err(Errno::EPIPE)),
                (0, _) if nonblocking => Some(err(Errno::EAGAIN)),
                (0, _) => None,
                (room, _) => Some(Ok(room)),
            }
        });
        if room.is_ok() {
            self.writers.wake(1, PollEvents::WRITABLE, Waker::GoesOn);
        }
        if room.as_ref().is_err_and(|error| error.errno() == Errno::EPIPE) {
            raise_sigpipe(cx);
        }
        room
    }

    /// Puts bytes back that were read and could not be handed on.
    pub(super) fn unread(&self, bytes: &[u8]) {
        self.state.lock().buf.unread(bytes);
        self.readers.wake(1, PollEvents::READABLE, Waker::WaitsSoon);
        self.pollers.wake_all_sync(PollEvents::READABLE);
    }

    /// A copy of up to `max` bytes from the front.
    pub(super) fn peek(&self, max: usize) -> Vec<u8> {
        self.state.lock().buf.peek(max)
    }

    fn set_size(&self, cx: &Cx, size: u64) -> Result<u64> {
        let size = usize::try_from(size as u32).unwrap_or(usize::MAX);
        if size > 1 << 31 {
            return err(Errno::EINVAL);
        }
        let pages = size.max(PAGE).next_power_of_two() / PAGE;
        let mut state = self.state.lock();
        let grows = pages * PAGE > state.buf.capacity();
        let most = cx.kernel.settings.pipe_max_size.size();
        if grows && pages * PAGE > most && !cx.task.creds().has(Cap::SysResource) {
            return err(Errno::EPERM);
        }
        state.buf.set_pages(pages)?;
        let capacity = state.buf.capacity();
        drop(state);
        self.writers.wake(1, PollEvents::WRITABLE, Waker::WaitsSoon);
        self.pollers.wake_all_sync(PollEvents::WRITABLE);
        Ok(capacity as u64)
    }
}

/// Sends `SIGPIPE` to the calling thread, as a write without a reader does.
pub(crate) fn raise_sigpipe(cx: &Cx) {
    let info = SigInfo::user(sig::PIPE, code::USER, cx.process().pid, cx.task.creds().uid);
    send_to_task(cx.task, info);
}

/// One open end of a pipe.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    read: bool,
    write: bool,
    /// The writers that had come and gone when it was opened: a FIFO's reader sees no hang-up before its first writer.
    writes_seen: u64,
}

impl PipeEnd {
    /// The pipe.
    pub(super) fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// Whether it is a read end, a write end.
    pub(super) fn directions(&self) -> (bool, bool) {
        (self.read, self.write)
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let (no_reader, no_writer) = {
            let mut state = self.pipe.state.lock();
            state.readers -= usize::from(self.read);
            state.writers -= usize::from(self.write);
            (self.read && state.readers == 0, self.write && state.writers == 0)
        };
        if no_reader {
            self.pipe.writers.wake_all(PollEvents::ERR | PollEvents::WRITABLE);
        }
        if no_writer {
            self.pipe.readers.wake_all(PollEvents::HUP | PollEvents::READABLE);
        }
        if no_reader || no_writer {
            let events = PollEvents::HUP | PollEvents::ERR | PollEvents::READABLE | PollEvents::WRITABLE;
            self.pipe.pollers.wake_all(events);
        }
    }
}

impl File for PipeEnd {
    fn read(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        if !self.read {
            return err(Errno::EBADF);
        }
        self.pipe.read(cx, sink, of.nonblocking())
    }

    fn write(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        if !self.write {
            return err(Errno::EBADF);
        }
        self.pipe.write(cx, source, of.flags().contains(OpenFlags::DIRECT), of.nonblocking())
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.pipe.pollers);
        }
        let state = self.pipe.state.lock();
        let mut events = PollEvents::empty();
        if self.read {
            events.set(PollEvents::READABLE, !state.buf.is_empty());
            events.set(PollEvents::HUP, state.writers == 0 && state.writes_opened != self.writes_seen);
        }
        if self.write {
            events.set(PollEvents::WRITABLE, !state.buf.is_full());
            events.set(PollEvents::ERR, state.readers == 0);
        }
        events
    }

    fn ioctl(&self, cx: &Cx, _of: &OpenFile, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            FIONREAD => {
                let bytes = i32::try_from(self.pipe.state.lock().buf.len()).unwrap_or(i32::MAX);
                UserPtr::<i32>::new(arg).write(cx, &bytes)?;
                Ok(0)
            }
            _ => err(Errno::ENOTTY),
        }
    }

    fn fcntl(&self, cx: &Cx, _of: &OpenFile, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            F_GETPIPE_SZ => Ok(self.pipe.state.lock().buf.capacity() as u64),
            F_SETPIPE_SZ => self.pipe.set_size(cx, arg),
            _ => err(Errno::EINVAL),
        }
    }

    fn attr(&self) -> Result<Attr> {
        Ok(self.pipe.attr)
    }

    /// A pipe without a name waits for nobody, and its reader sees at once that every writer has gone.
    fn reopen(&self, _cx: &Cx, flags: OpenFlags) -> Option<Result<Arc<dyn File>>> {
        let (mut end, _) = self.pipe.open(flags.readable(), flags.writable());
        end.writes_seen = 0;
        self.pipe.opened.wake_all(PollEvents::empty());
        Some(Ok(Arc::new(end)))
    }

    fn describe(&self) -> String {
        format!("pipe:[{}]", self.pipe.attr.ino)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new pipe as two open files: read end, write end. `flags` may hold `NONBLOCK` and `DIRECT`.
pub fn pipe_new(cx: &Cx, flags: OpenFlags) -> (Arc<OpenFile>, Arc<OpenFile>) {
    let creds = cx.task.creds();
    let pipe = Pipe::new(cx.kernel, (creds.fsuid, creds.fsgid));
    let (read, _) = pipe.open(true, false);
    let (write, _) = pipe.open(false, true);
    (
        OpenFile::new(cx.kernel, Arc::new(read), None, None, flags),
        OpenFile::new(cx.kernel, Arc::new(write), None, None, flags | OpenFlags::WRONLY),
    )
}

/// Makes a pipe and opens two descriptors for it: read end, write end.
pub fn pipe_install(cx: &Cx, flags: OpenFlags) -> Result<[Fd; 2]> {
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    let (read, write) = pipe_new(cx, flags);
    let read = cx.install(read, cloexec)?;
    match cx.install(write, cloexec) {
        Ok(write) => Ok([read, write]),
        Err(error) => {
            drop(cx.files().remove(read));
            Err(error)
        }
    }
}
