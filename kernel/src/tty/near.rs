//! The program's end of a terminal (`/dev/pts/N`, `/dev/console`, `/dev/tty`) as an open file.

use super::terminal::{After, Terminal};
use super::{ioctl, job};
use crate::error::{Error, Restart, Result, err};
use crate::fs::{File, OpenFile, OpenFlags};
use crate::signal::sig;
use crate::task::{Cap, Cx, WaitEnd};
use crate::user::{Sink, Source};
use crate::wait::{PollEvents, PollTable};
use abi::Errno;
use abi::time::Timespec;
use abi::tty::LocalFlags;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// Bytes that a write hands over at a time.
const CHUNK: usize = 2048;
/// `VTIME`'s unit in nanoseconds.
const TENTH_NS: u64 = 100_000_000;
/// A writer is told that there is room when there is this much, so that it is not woken for single bytes.
const WAKE_ROOM: usize = 256;

/// An open near end.
pub(super) struct NearEnd {
    pub terminal: Arc<Terminal>,
    /// The terminal's hang-up count when it was opened.
    generation: u64,
}

/// Opens the near end: `EIO` while it is locked or when the other end is gone, `EBUSY` when another has it for itself.
pub(super) fn open(cx: &Cx, terminal: &Arc<Terminal>, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let generation = {
        let mut state = terminal.state.lock();
        if state.locked || state.far_closed {
            return err(Errno::EIO);
        }
        if state.exclusive && !cx.task.creds().has(Cap::SysAdmin) {
            return err(Errno::EBUSY);
        }
        state.near_opens += 1;
        state.near_used = true;
        state.generation
    };
    let file = Arc::new(NearEnd { terminal: terminal.clone(), generation });
    if flags.readable() && !flags.contains(OpenFlags::NOCTTY) {
        job::acquire_on_open(cx, terminal);
    }
    Ok(file)
}

impl Drop for NearEnd {
    fn drop(&mut self) {
        let last = {
            let mut state = self.terminal.state.lock();
            state.near_opens = state.near_opens.saturating_sub(1);
            state.near_opens == 0
        };
        if last {
            self.terminal.apply(After { wake_far: true, ..After::default() });
        }
    }
}

/// What a reader finds.
enum Look {
    /// The read is over.
    Done,
    /// Some bytes; more may come within this many nanoseconds, or without limit.
    More(Option<u64>),
    /// Nothing; something may come within this many nanoseconds, or without limit.
    Nothing(Option<u64>),
}

impl NearEnd {
    fn dead(&self) -> bool {
        self.terminal.state.lock().generation != self.generation
    }

    /// Takes what is there (`termios(3)`, "Canonical and noncanonical mode").
    fn look(&self, max: usize, out: &mut Vec<u8>) -> Look {
        let mut after = After::default();
        let look = {
            let mut state = self.terminal.state.lock();
            if state.generation != self.generation {
                return Look::Done;
            }
            let before = out.len();
            let ended = state.ldisc.read(max - before, out);
            if out.len() > before || ended {
                // What was taken makes room for what waits.
                self.terminal.process(&mut state, &mut after);
                after.wake_far = true;
            }
            let timeout = |time: u8| (time > 0).then_some(u64::from(time) * TENTH_NS);
            match state.ldisc.min_time() {
                None if ended || out.len() == max => Look::Done,
                // A part of a line is there only when it did not fit, so there is nothing to wait for.
                None if !out.is_empty() => Look::Done,
                None => Look::Nothing(None),
                Some((min, time)) if out.is_empty() => match timeout(time) {
                    None if min == 0 => Look::Done,
                    timeout => Look::Nothing(if min == 0 { timeout } else { None }),
                },
                Some((min, _)) if out.len() >= min.min(max) => Look::Done,
                Some((_, time)) => Look::More(timeout(time)),
            }
        };
        self.terminal.apply(after);
        super::console::refill(&self.terminal);
        look
    }

    fn fetch(&self, cx: &Cx, of: &OpenFile, max: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut deadline: Option<u64> = None;
        loop {
            let (timeout, restart) = match self.look(max, out) {
                Look::Done => return Ok(()),
                Look::More(timeout) => (timeout, true),
                Look::Nothing(timeout) => (timeout, false),
            };
            if of.nonblocking() {
                return if out.is_empty() { err(Errno::EAGAIN) } else { Ok(()) };
            }
            // The timer between bytes starts again with each; the one of the whole read does not.
            if deadline.is_none() || restart {
                deadline = timeout.map(|ns| cx.now_ns().saturating_add(ns));
            }
            let ready = || (self.dead() || self.terminal.state.lock().ldisc.has_input(1)).then_some(());
            match cx.wait_deadline(&[&self.terminal.readable], deadline, ready) {
                // A read that is under way fails; later ones find the end.
                Ok(()) if out.is_empty() && self.terminal.state.lock().far_closed => return err(Errno::EIO),
                Ok(()) => {}
                Err(WaitEnd::TimedOut) => return Ok(()),
                Err(WaitEnd::Interrupted) if !out.is_empty() => return Ok(()),
                Err(WaitEnd::Interrupted) => return Err(Error::Interrupted(Restart::IfAsked)),
            }
        }
    }

    /// Prints all of `bytes`; how many were printed before it could not go on, and why.
    fn print(&self, cx: &Cx, of: &OpenFile, bytes: &[u8]) -> (usize, Result<()>) {
        let mut done = 0;
        loop {
            let mut after = After::default();
            let step = {
                let mut state = self.terminal.state.lock();
                if state.generation != self.generation || state.far_closed {
                    Some(err(Errno::EIO))
                } else {
                    let mut text = Vec::new();
                    let room = Terminal::output_room(&state);
                    while !state.ldisc.stopped && text.len() < room {
                        let Some(&c) = bytes.get(done) else { break };
                        state.ldisc.print(c, &mut text);
                        done += 1;
                    }
                    state.outgoing.extend(text);
                    self.terminal.drain(&mut state, &mut after);
                    (done == bytes.len()).then_some(Ok(()))
                }
            };
            after.wake_writers = false;
            self.terminal.apply(after);
            if let Some(result) = step {
                return (done, result);
            }
            if of.nonblocking() {
                return (done, err(Errno::EAGAIN));
            }
            let ready = || {
                let state = self.terminal.state.lock();
                let goes_on = !state.ldisc.stopped && Terminal::output_room(&state) > 0;
                (goes_on || state.generation != self.generation || state.far_closed).then_some(Ok(()))
            };
            if let Err(e) = cx.wait(&self.terminal.writable, ready) {
                return (done, Err(e));
            }
        }
    }
}

impl File for NearEnd {
    fn read(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        if self.dead() {
            return Ok(0);
        }
        job::check_foreground(cx, &self.terminal, sig::TTIN)?;
        let max = sink.room();
        if max == 0 {
            return Ok(0);
        }
        let mut out = Vec::new();
        self.fetch(cx, of, max, &mut out)?;
        if !out.is_empty() {
            self.terminal.state.lock().times.0 = coarse(cx);
        }
        sink.put(&out)?;
        Ok(out.len())
    }

    fn write(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        if self.dead() {
            return err(Errno::EIO);
        }
        if self.terminal.state.lock().ldisc.local(LocalFlags::TOSTOP) {
            job::check_foreground(cx, &self.terminal, sig::TTOU)?;
        }
        let mut written = 0;
        let mut chunk = [0u8; CHUNK];
        while source.left() > 0 {
            let taken = match source.take(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(_) if written > 0 => break,
                Err(e) => return Err(e),
            };
            let (done, result) = self.print(cx, of, chunk.get(..taken).unwrap_or_default());
            written += done;
            match result {
                Ok(()) => {}
                Err(_) if written > 0 => break,
                Err(e) => return Err(e),
            }
        }
        if written > 0 {
            self.terminal.state.lock().times.1 = coarse(cx);
        }
        Ok(written)
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.terminal.readable);
            table.add(&self.terminal.writable);
        }
        let state = self.terminal.state.lock();
        if state.generation != self.generation {
            return PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::ERR | PollEvents::HUP;
        }
        let mut events = PollEvents::empty();
        let min = state.ldisc.min_time().map_or(1, |(min, time)| if time == 0 { min } else { 1 });
        if state.ldisc.has_input(min) {
            events |= PollEvents::READABLE;
        }
        if state.far_closed {
            events |= PollEvents::HUP;
        }
        if !state.ldisc.stopped && Terminal::output_room(&state) > WAKE_ROOM {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    fn ioctl(&self, cx: &Cx, of: &OpenFile, cmd: u32, arg: u64) -> Result<u64> {
        if self.dead() {
            return err(if cmd == ioctl::TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        ioctl::near(cx, of, &self.terminal, cmd, arg)
    }

    fn describe(&self) -> String {
        format!("/dev/pts/{}", self.terminal.index)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The time as a terminal's node shows it: in steps of eight seconds, so that the rhythm of typing does not show (as Linux does).
fn coarse(cx: &Cx) -> Timespec {
    let seconds = (cx.realtime_ns() / 1_000_000_000) & !7;
    Timespec { sec: seconds as i64, nsec: 0 }
}
