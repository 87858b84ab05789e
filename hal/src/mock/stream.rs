//! Streams with scripted input and captured output.

use super::{MockCpu, lock};
use crate::{Cpu, CpuId, Event, Readiness, Stream, StreamKind, WindowSize};
use abi::Errno;
use abi::fs::Attr;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

struct State {
    kind: StreamKind,
    input: Vec<u8>,
    /// Position in `input`.
    pos: usize,
    input_ended: bool,
    output: Vec<u8>,
    /// How many more bytes can be written before `EAGAIN`.
    room: usize,
    reader_gone: bool,
    fail_read: Option<Errno>,
    fail_write: Option<Errno>,
    window: Option<WindowSize>,
    watched: Readiness,
}

/// A standard stream of a [`super::MockMachine`]: at first a pipe whose writer is alive and has written
/// nothing.
pub struct MockStream {
    index: usize,
    state: Mutex<State>,
    events: Arc<Mutex<VecDeque<Event>>>,
    cpu: Arc<MockCpu>,
}

impl MockStream {
    pub(super) fn new(index: usize, events: Arc<Mutex<VecDeque<Event>>>, cpu: Arc<MockCpu>) -> MockStream {
        let state = State {
            kind: StreamKind::Pipe,
            input: Vec::new(),
            pos: 0,
            input_ended: false,
            output: Vec::new(),
            room: usize::MAX,
            reader_gone: false,
            fail_read: None,
            fail_write: None,
            window: None,
            watched: Readiness::empty(),
        };
        MockStream { index, state: Mutex::new(state), events, cpu }
    }

    /// Changes what it is.
    pub fn set_kind(&self, kind: StreamKind) {
        self.change(|s| s.kind = kind);
    }
    /// Adds input.
    pub fn feed(&self, bytes: &[u8]) {
        self.change(|s| s.input.extend_from_slice(bytes));
    }
    /// Ends the input: end of file after what is there.
    pub fn end_input(&self) {
        self.change(|s| s.input_ended = true);
    }
    /// Lets only this many more bytes be written.
    pub fn limit_output(&self, bytes: usize) {
        self.change(|s| s.room = bytes);
    }
    /// Takes the reader of the output away.
    pub fn close_reader(&self) {
        self.change(|s| s.reader_gone = true);
    }
    /// Makes the next read fail.
    pub fn fail_next_read(&self, errno: Errno) {
        self.change(|s| s.fail_read = Some(errno));
    }
    /// Makes the next write fail.
    pub fn fail_next_write(&self, errno: Errno) {
        self.change(|s| s.fail_write = Some(errno));
    }
    /// Sets a terminal's window size and raises [`Event::WindowSize`].
    pub fn resize(&self, size: WindowSize) {
        self.change(|s| s.window = Some(size));
        lock(&self.events).push_back(Event::WindowSize);
        self.cpu.interrupt(CpuId(0));
    }
    /// What was written so far. Emptied.
    pub fn take_output(&self) -> Vec<u8> {
        core::mem::take(&mut lock(&self.state).output)
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        f(&mut state);
        self.fire(state);
    }

    /// Serves the watch if it can be served.
    fn fire(&self, mut state: std::sync::MutexGuard<'_, State>) {
        if (state.readiness() & (state.watched | Readiness::HANGUP)).is_empty() || state.watched.is_empty() {
            return;
        }
        state.watched = Readiness::empty();
        drop(state);
        lock(&self.events).push_back(Event::Stream(self.index));
        self.cpu.interrupt(CpuId(0));
    }
}

impl State {
    fn readiness(&self) -> Readiness {
        let mut ready = Readiness::empty();
        let file = self.kind == StreamKind::File;
        let closed = self.kind == StreamKind::Closed;
        let something = self.pos < self.input.len() || self.input_ended || self.fail_read.is_some();
        ready.set(Readiness::READ, file || closed || something);
        ready.set(Readiness::WRITE, file || closed || self.room > 0 || self.reader_gone);
        ready.set(Readiness::HANGUP, self.reader_gone || (self.input_ended && !file));
        ready
    }
}

impl Stream for MockStream {
    fn kind(&self) -> StreamKind {
        lock(&self.state).kind
    }
    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut s = lock(&self.state);
        if s.kind == StreamKind::Closed {
            return Err(Errno::EBADF);
        }
        if let Some(errno) = s.fail_read.take() {
            return Err(errno);
        }
        let rest = s.input.get(s.pos..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        if len == 0 && !buf.is_empty() && !s.input_ended && s.kind != StreamKind::File {
            return Err(Errno::EAGAIN);
        }
        s.pos += len;
        Ok(len)
    }
    fn write(&self, buf: &[u8]) -> Result<usize, Errno> {
        let mut s = lock(&self.state);
        if s.kind == StreamKind::Closed {
            return Err(Errno::EBADF);
        }
        if let Some(errno) = s.fail_write.take() {
            return Err(errno);
        }
        if s.reader_gone {
            return Err(Errno::EPIPE);
        }
        let len = buf.len().min(s.room);
        if len == 0 && !buf.is_empty() {
            return Err(Errno::EAGAIN);
        }
        s.output.extend_from_slice(&buf[..len]);
        s.room -= len;
        Ok(len)
    }
    fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        let mut s = lock(&self.state);
        if s.kind != StreamKind::File {
            return Err(Errno::ESPIPE);
        }
        let base = match whence {
            0 => 0,
            1 => s.pos as i64,
            2 => s.input.len() as i64,
            _ => return Err(Errno::EINVAL),
        };
        let to = base.checked_add(offset).and_then(|to| usize::try_from(to).ok()).ok_or(Errno::EINVAL)?;
        s.pos = to;
        Ok(to as u64)
    }
    fn readiness(&self) -> Readiness {
        lock(&self.state).readiness()
    }
    fn watch(&self, interest: Readiness) {
        let mut s = lock(&self.state);
        s.watched |= interest;
        self.fire(s);
    }
    fn window_size(&self) -> Option<WindowSize> {
        lock(&self.state).window
    }
    fn attr(&self) -> Option<Attr> {
        None
    }
}
