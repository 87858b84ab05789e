//! A pseudo-terminal's master (`pty(7)`) as an open file.

use super::terminal::{After, QUEUE_MAX, Terminal};
use super::{Terminals, ioctl};
use crate::error::{Result, err};
use crate::fs::{File, OpenFile};
use crate::task::Cx;
use crate::user::{Sink, Source};
use crate::wait::{PollEvents, PollTable};
use abi::Errno;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// Bytes that a write hands over at a time.
const CHUNK: usize = 4096;
/// A writer is told that there is room when there is this much.
const WAKE_ROOM: usize = 256;

/// An open master. Its end is the terminal's end.
pub(super) struct FarEnd {
    pub terminal: Arc<Terminal>,
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.terminal.state.lock().far_closed = true;
        self.terminal.hang_up(false);
        if let Some(kernel) = self.terminal.kernel.upgrade() {
            Terminals::forget(&kernel.terminals, self.terminal.index);
        }
    }
}

impl FarEnd {
    /// Takes output of programs: with packet mode a status or data byte first.
    fn take(&self, max: usize) -> Option<Result<Vec<u8>>> {
        let mut after = After::default();
        let result = {
            let mut state = self.terminal.state.lock();
            if state.packet && state.status != 0 {
                return Some(Ok(alloc::vec![core::mem::take(&mut state.status)]));
            }
            let header = usize::from(state.packet);
            let len = state.outgoing.len().min(max.saturating_sub(header));
            if len > 0 {
                let mut bytes = Vec::with_capacity(len + header);
                if state.packet {
                    bytes.push(0);
                }
                bytes.extend(state.outgoing.drain(..len));
                after.wake_writers = Terminal::output_room(&state) > WAKE_ROOM;
                Some(Ok(bytes))
            } else if state.near_used && state.near_opens == 0 {
                Some(err(Errno::EIO))
            } else {
                None
            }
        };
        self.terminal.apply(after);
        result
    }
}

impl File for FarEnd {
    fn read(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let max = sink.room();
        if max == 0 {
            return Ok(0);
        }
        let bytes = match self.take(max) {
            Some(result) => result?,
            None if of.nonblocking() => return err(Errno::EAGAIN),
            None => cx.wait(&self.terminal.far_queue, || self.take(max))?,
        };
        sink.put(&bytes)?;
        Ok(bytes.len())
    }

    fn write(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        let mut written = 0;
        let mut chunk = [0u8; CHUNK];
        while source.left() > 0 {
            let taken = match source.take(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(_) if written > 0 => break,
                Err(e) => return Err(e),
            };
            let mut rest = chunk.get(..taken).unwrap_or_default();
            while !rest.is_empty() {
                let done = self.terminal.receive(rest);
                written += done;
                rest = rest.get(done..).unwrap_or_default();
                if rest.is_empty() {
                    break;
                }
                if of.nonblocking() {
                    return if written > 0 { Ok(written) } else { err(Errno::EAGAIN) };
                }
                let ready = || (self.terminal.state.lock().incoming.len() < QUEUE_MAX).then_some(Ok(()));
                match cx.wait(&self.terminal.far_queue, ready) {
                    Ok(()) => {}
                    Err(_) if written > 0 => return Ok(written),
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(written)
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.terminal.far_queue);
        }
        let state = self.terminal.state.lock();
        let mut events = PollEvents::empty();
        if !state.outgoing.is_empty() {
            events |= PollEvents::READABLE;
        }
        if state.packet && state.status != 0 {
            events |= PollEvents::READABLE | PollEvents::PRI;
        }
        if state.near_used && state.near_opens == 0 {
            events |= PollEvents::HUP;
        }
        if state.incoming.len() + WAKE_ROOM < QUEUE_MAX {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    fn ioctl(&self, cx: &Cx, _of: &OpenFile, cmd: u32, arg: u64) -> Result<u64> {
        ioctl::far(cx, &self.terminal, cmd, arg)
    }

    fn describe(&self) -> String {
        String::from("/dev/ptmx")
    }

    fn fdinfo(&self) -> String {
        alloc::format!("tty-index:\t{}\n", self.terminal.index)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
