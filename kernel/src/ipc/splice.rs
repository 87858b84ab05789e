//! `splice(2)`, `tee(2)`: moving bytes between a pipe and another file without user memory.
//!
//! Differs from Linux: bytes are copied, pages are never handed over, so `SPLICE_F_MOVE` and `SPLICE_F_GIFT` change nothing.

use super::pipe::{Pipe, PipeEnd};
use crate::error::{Result, err};
use crate::fs::{OpenFile, OpenFlags};
use crate::task::Cx;
use crate::user::{Sink, Source};
use crate::wait::PollEvents;
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes that are on their way at a time.
const CHUNK: usize = 64 << 10;

fn pipe_of(of: &OpenFile) -> Option<&Arc<Pipe>> {
    of.downcast::<PipeEnd>().map(PipeEnd::pipe)
}

/// Whether the file is a pipe or FIFO.
pub fn is_pipe(of: &OpenFile) -> bool {
    pipe_of(of).is_some()
}

/// Where a file is read or written: its own position, or one that the caller keeps.
pub enum Position<'a> {
    /// The open file's.
    Own,
    /// The caller's.
    At(&'a mut u64),
}

impl Position<'_> {
    fn get(&self, of: &OpenFile) -> u64 {
        match self {
            Position::Own => of.pos(),
            Position::At(at) => **at,
        }
    }

    fn set(&mut self, of: &OpenFile, to: u64) {
        match self {
            Position::Own if of.file.seekable() => of.set_pos(to),
            Position::Own => {}
            Position::At(at) => **at = to,
        }
    }
}

/// Moves up to `len` bytes; at least one of the files is a pipe. Positions are for the file that is none. The caller has checked the
/// access modes.
pub fn splice(
    cx: &Cx,
    input: &OpenFile,
    output: &OpenFile,
    position: Position<'_>,
    len: usize,
    nonblocking: bool,
) -> Result<usize> {
    match (pipe_of(input), pipe_of(output)) {
        (Some(from), Some(to)) if Arc::ptr_eq(from, to) => err(Errno::EINVAL),
        (Some(from), Some(to)) => {
            let nonblocking = nonblocking || input.nonblocking() || output.nonblocking();
            between(cx, from, to, len, nonblocking)
        }
        (Some(from), None) => {
            if output.flags().contains(OpenFlags::APPEND) {
                return err(Errno::EINVAL);
            }
            out_of_pipe(cx, from, output, position, len, nonblocking || input.nonblocking())
        }
        (None, Some(to)) => into_pipe(cx, input, to, position, len, nonblocking || output.nonblocking()),
        (None, None) => err(Errno::EINVAL),
    }
}

/// Reads what is in a pipe, without waiting.
fn take(cx: &Cx, pipe: &Pipe, max: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; max.min(CHUNK)];
    let count = match pipe.read(cx, &mut bytes.as_mut_slice(), true) {
        Err(error) if error.errno() == Errno::EAGAIN => 0,
        other => other?,
    };
    bytes.truncate(count);
    Ok(bytes)
}

fn between(cx: &Cx, from: &Pipe, to: &Pipe, len: usize, nonblocking: bool) -> Result<usize> {
    loop {
        if !from.wait_readable(cx, nonblocking)? {
            return Ok(0);
        }
        let room = to.wait_writable(cx, nonblocking)?;
        let bytes = take(cx, from, len.min(room))?;
        // Somebody else was quicker.
        if bytes.is_empty() {
            continue;
        }
        return put(cx, to, &bytes, |rest| from.unread(rest));
    }
}

/// Writes bytes to a pipe that had room a moment ago; what does not go in is given back.
fn put(cx: &Cx, to: &Pipe, bytes: &[u8], give_back: impl FnOnce(&[u8])) -> Result<usize> {
    let mut source = bytes;
    let written = to.write(cx, &mut source, false, true);
    let done = *written.as_ref().unwrap_or(&0);
    if done < bytes.len() {
        give_back(bytes.get(done..).unwrap_or_default());
    }
    written
}

fn out_of_pipe(
    cx: &Cx,
    from: &Pipe,
    output: &OpenFile,
    mut position: Position<'_>,
    len: usize,
    nonblocking: bool,
) -> Result<usize> {
    if !from.wait_readable(cx, nonblocking)? {
        return Ok(0);
    }
    let mut done = 0;
    while done < len {
        let bytes = take(cx, from, len - done)?;
        if bytes.is_empty() {
            break;
        }
        let mut at = position.get(output);
        let written = output.file.write(cx, output, &mut at, &mut bytes.as_slice());
        let count = *written.as_ref().unwrap_or(&0);
        position.set(output, at);
        done += count;
        if count < bytes.len() {
            from.unread(bytes.get(count..).unwrap_or_default());
            return if done > 0 { Ok(done) } else { written };
        }
    }
    Ok(done)
}

fn into_pipe(
    cx: &Cx,
    input: &OpenFile,
    to: &Pipe,
    mut position: Position<'_>,
    len: usize,
    nonblocking: bool,
) -> Result<usize> {
    let room = to.wait_writable(cx, nonblocking)?;
    if nonblocking && input.file.pollable() {
        // The file's own mode may be blocking; the caller does not want to wait.
        let ready = input.file.poll(cx, input, None);
        if !ready.intersects(PollEvents::READABLE | PollEvents::HUP | PollEvents::ERR) {
            return err(Errno::EAGAIN);
        }
    }
    let mut bytes = vec![0; len.min(room).min(CHUNK)];
    let mut at = position.get(input);
    let before = at;
    let count = input.file.read(cx, input, &mut at, &mut bytes.as_mut_slice())?;
    bytes.truncate(count);
    if bytes.is_empty() {
        return Ok(0);
    }
    if input.file.seekable() {
        // Read again next time if it does not go in.
        let written = put(cx, to, &bytes, |_| {})?;
        position.set(input, before.saturating_add(written as u64));
        return Ok(written);
    }
    // A stream can't take anything back: wait until all of it is in.
    to.write(cx, &mut bytes.as_slice(), false, false)
}

/// `tee(2)`: copies up to `len` bytes from one pipe to another and leaves them where they are.
pub fn tee(cx: &Cx, input: &OpenFile, output: &OpenFile, len: usize, nonblocking: bool) -> Result<usize> {
    let (Some(from), Some(to)) = (pipe_of(input), pipe_of(output)) else { return err(Errno::EINVAL) };
    if Arc::ptr_eq(from, to) {
        return err(Errno::EINVAL);
    }
    let nonblocking = nonblocking || input.nonblocking() || output.nonblocking();
    loop {
        if !from.wait_readable(cx, nonblocking)? {
            return Ok(0);
        }
        let room = to.wait_writable(cx, nonblocking)?;
        let bytes = from.peek(len.min(room).min(CHUNK));
        if !bytes.is_empty() {
            return put(cx, to, &bytes, |_| {});
        }
    }
}

/// Whether a file can be read from, written to, as `splice(2)` sees it: by access mode, and by which end of a pipe it is.
pub fn can(of: &OpenFile) -> (bool, bool) {
    let flags = of.flags();
    let (read, write) = of.downcast::<PipeEnd>().map_or((true, true), PipeEnd::directions);
    (flags.readable() && read, flags.writable() && write)
}

/// `write(2)` to a pipe, not waiting if so asked.
pub fn write_pipe(cx: &Cx, of: &OpenFile, source: &mut dyn Source, nonblocking: bool) -> Result<usize> {
    let pipe = pipe_of(of).ok_or(Errno::EBADF)?;
    pipe.write(cx, source, false, nonblocking || of.nonblocking())
}

/// `read(2)` from a pipe, not waiting if so asked.
pub fn read_pipe(cx: &Cx, of: &OpenFile, sink: &mut dyn Sink, nonblocking: bool) -> Result<usize> {
    let pipe = pipe_of(of).ok_or(Errno::EBADF)?;
    pipe.read(cx, sink, nonblocking || of.nonblocking())
}
