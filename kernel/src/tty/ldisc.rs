//! The line discipline (`termios(3)`, Linux's `n_tty`): what becomes of a byte that is typed, and of one that is printed.
//!
//! Pure state without locks or waits: bytes go in, and out come echo, signals and lines that are ready to be read.
//! [`output`](super::output) has the other direction, [`edit`](super::edit) erasing.
//!
//! Differs from Linux: echo appears at once instead of when the output is idle; `EXTPROC` is stored and has no effect.

use super::output::Column;
use crate::signal::sig;
use abi::tty::{InputFlags, LocalFlags, Termios2, cc};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Most bytes that wait to be read (`N_TTY_BUF_SIZE` less one).
pub const INPUT_MAX: usize = 4095;

/// How a byte in the input ends a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It does not.
    No,
    /// It is the last byte of a line.
    Line,
    /// It is an end-of-file character: ends a line and is not part of it.
    File,
}

/// What happened while bytes came in, for the terminal to act on.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Effects {
    /// Bytes to print.
    pub echo: Vec<u8>,
    /// Signals for the foreground group, in order.
    pub signals: Vec<i32>,
    /// Output was flushed by a signal character.
    pub flush_output: bool,
    /// Input was flushed by a signal character.
    pub flush_input: bool,
    /// Output was stopped (`true`) or started.
    pub flow: Option<bool>,
}

/// The state of a line discipline.
pub struct LineDiscipline {
    pub(super) termios: Termios2,
    /// What is ready to be read.
    pub(super) ready: VecDeque<(u8, End)>,
    /// The line being edited (canonical mode).
    pub(super) line: Vec<u8>,
    /// Where the cursor is.
    pub(super) column: Column,
    /// In the middle of an erase that is shown as `\…/` (`ECHOPRT`).
    pub(super) erasing: bool,
    literal_next: bool,
    /// Output is stopped (`^S`).
    pub(super) stopped: bool,
}

pub(super) fn is_control(c: u8) -> bool {
    c < 32 || c == 127
}

impl LineDiscipline {
    /// With these settings.
    pub fn new(termios: Termios2) -> LineDiscipline {
        LineDiscipline {
            termios,
            ready: VecDeque::new(),
            line: Vec::new(),
            column: Column::default(),
            erasing: false,
            literal_next: false,
            stopped: false,
        }
    }

    /// The settings.
    pub fn termios(&self) -> &Termios2 {
        &self.termios
    }

    pub(super) fn local(&self, flags: LocalFlags) -> bool {
        self.termios.local().contains(flags)
    }

    pub(super) fn input(&self, flags: InputFlags) -> bool {
        self.termios.input().contains(flags)
    }

    /// Whether `c` is this control character; a character of 0 is switched off.
    pub(super) fn is(&self, index: usize, c: u8) -> bool {
        c != 0 && self.termios.cc.get(index) == Some(&c)
    }

    fn canonical(&self) -> bool {
        self.local(LocalFlags::ICANON)
    }

    /// Changes the settings. What was typed stays: a line that was being edited can be read at once when canonical mode ends, and
    /// what waits counts as a line when it begins.
    pub fn set_termios(&mut self, new: Termios2) -> Effects {
        let was = self.canonical();
        let mut effects = Effects::default();
        self.termios = new;
        if was && !self.canonical() {
            for cell in &mut self.ready {
                *cell = (if cell.1 == End::File { 0 } else { cell.0 }, End::No);
            }
            self.ready.extend(self.line.drain(..).map(|c| (c, End::No)));
            self.erasing = false;
            self.literal_next = false;
        } else if !was
            && self.canonical()
            && let Some(last) = self.ready.back_mut()
        {
            last.1 = End::Line;
        }
        // Without flow control nothing could start the output again.
        if !self.input(InputFlags::IXON) && self.stopped {
            self.stopped = false;
            effects.flow = Some(false);
        }
        effects
    }

    /// How many more bytes can come in before the sender has to wait. Canonical mode without a complete line always takes more: what is too
    /// long is cut.
    pub fn room(&self) -> usize {
        let room = INPUT_MAX.saturating_sub(self.ready.len() + self.line.len());
        if room == 0 && self.canonical() && self.ready.is_empty() { 1 } else { room }
    }

    /// Takes a byte that was typed.
    pub fn receive(&mut self, c: u8, effects: &mut Effects) {
        let mut c = c;
        if self.input(InputFlags::ISTRIP) {
            c &= 0x7f;
        }
        if self.input(InputFlags::IUCLC) && self.local(LocalFlags::IEXTEN) {
            c = c.to_ascii_lowercase();
        }
        if core::mem::take(&mut self.literal_next) {
            return self.ordinary(c, effects);
        }
        if self.input(InputFlags::IXON) {
            if self.is(cc::VSTART, c) && (!self.is(cc::VSTOP, c) || self.stopped) {
                return self.flow(false, effects);
            }
            if self.is(cc::VSTOP, c) {
                return self.flow(true, effects);
            }
        }
        if self.local(LocalFlags::ISIG) {
            for (index, signo) in [(cc::VINTR, sig::INT), (cc::VQUIT, sig::QUIT), (cc::VSUSP, sig::TSTP)] {
                if self.is(index, c) {
                    return self.signal(c, signo, effects);
                }
            }
        }
        if self.stopped && self.input(InputFlags::IXON | InputFlags::IXANY) {
            self.flow(false, effects);
        }
        match c {
            b'\r' if self.input(InputFlags::IGNCR) => return,
            b'\r' if self.input(InputFlags::ICRNL) => c = b'\n',
            b'\n' if self.input(InputFlags::INLCR) => c = b'\r',
            _ => {}
        }
        if !(self.canonical() && self.editing(c, effects)) {
            self.ordinary(c, effects);
        }
    }

    fn flow(&mut self, stop: bool, effects: &mut Effects) {
        if self.stopped != stop {
            self.stopped = stop;
            effects.flow = Some(stop);
        }
    }

    fn signal(&mut self, c: u8, signo: i32, effects: &mut Effects) {
        effects.signals.push(signo);
        if !self.local(LocalFlags::NOFLSH) {
            self.flush_input();
            effects.flush_input = true;
            effects.flush_output = true;
            effects.echo.clear();
        }
        if self.input(InputFlags::IXON) {
            self.flow(false, effects);
        }
        if self.local(LocalFlags::ECHO) {
            self.echo(c, effects);
        }
    }

    /// What canonical mode makes of a character; false when it is an ordinary one.
    fn editing(&mut self, c: u8, effects: &mut Effects) -> bool {
        let extended = self.local(LocalFlags::IEXTEN);
        let echo = self.local(LocalFlags::ECHO);
        if self.is(cc::VERASE, c) || self.is(cc::VKILL, c) || (extended && self.is(cc::VWERASE, c)) {
            self.erase(c, effects);
            return true;
        }
        if extended && self.is(cc::VLNEXT, c) {
            self.literal_next = true;
            if echo {
                self.finish_erasing(effects);
                if self.local(LocalFlags::ECHOCTL) {
                    self.echo_raw(b"^\x08", effects);
                }
            }
            return true;
        }
        if extended && echo && self.is(cc::VREPRINT, c) {
            self.finish_erasing(effects);
            self.echo(c, effects);
            self.echo_raw(b"\n", effects);
            for i in 0..self.line.len() {
                let typed = self.line.get(i).copied().unwrap_or_default();
                self.echo(typed, effects);
            }
            return true;
        }
        if c == b'\n' {
            if echo || self.local(LocalFlags::ECHONL) {
                self.echo_raw(b"\n", effects);
            }
            self.end_line(c, End::Line);
            return true;
        }
        if self.is(cc::VEOF, c) {
            self.end_line(c, End::File);
            return true;
        }
        if self.is(cc::VEOL, c) || (extended && self.is(cc::VEOL2, c)) {
            if echo {
                self.start_line_column();
                self.echo(c, effects);
            }
            self.end_line(c, End::Line);
            return true;
        }
        false
    }

    fn ordinary(&mut self, c: u8, effects: &mut Effects) {
        if self.local(LocalFlags::ECHO) {
            self.finish_erasing(effects);
            if c == b'\n' {
                self.echo_raw(b"\n", effects);
            } else {
                self.start_line_column();
                self.echo(c, effects);
            }
        }
        // `PARMRK` tells 0xff from the mark of an error by doubling it.
        let twice = c == 0xff && self.input(InputFlags::PARMRK) && !self.input(InputFlags::ISTRIP);
        for _ in 0..1 + u8::from(twice) {
            if self.canonical() {
                // A line that is too long keeps room for its end: what comes after that replaces the last byte.
                if self.ready.len() + self.line.len() >= INPUT_MAX {
                    self.line.pop();
                }
                self.line.push(c);
            } else {
                self.ready.push_back((c, End::No));
            }
        }
    }

    fn end_line(&mut self, c: u8, end: End) {
        if self.ready.len() + self.line.len() > INPUT_MAX {
            self.line.pop();
        }
        self.ready.extend(self.line.drain(..).map(|c| (c, End::No)));
        self.ready.push_back((c, end));
        self.erasing = false;
    }

    /// Remembers where the line begins, when this is its first character.
    fn start_line_column(&mut self) {
        if self.line.is_empty() {
            self.column.start_line();
        }
    }

    pub(super) fn finish_erasing(&mut self, effects: &mut Effects) {
        if core::mem::take(&mut self.erasing) {
            self.echo_raw(b"/", effects);
        }
    }

    /// Echoes a character: control characters as `^X` if wanted.
    pub(super) fn echo(&mut self, c: u8, effects: &mut Effects) {
        if self.local(LocalFlags::ECHOCTL) && is_control(c) && c != b'\t' {
            self.echo_raw(&[b'^', c ^ 0o100], effects);
        } else {
            self.echo_raw(&[c], effects);
        }
    }

    /// Echoes bytes as they are, but for what `OPOST` makes of them.
    pub(super) fn echo_raw(&mut self, bytes: &[u8], effects: &mut Effects) {
        for &c in bytes {
            self.print(c, &mut effects.echo);
        }
    }

    /// Throws away what was typed and not read.
    pub fn flush_input(&mut self) {
        self.ready.clear();
        self.line.clear();
        self.erasing = false;
        self.literal_next = false;
    }

    /// How many bytes a `read(2)` could return now at most; for `FIONREAD`.
    pub fn readable_bytes(&self) -> usize {
        self.ready.iter().filter(|cell| cell.1 != End::File).count()
    }

    /// Whether a read finds something; in raw mode, at least `min` bytes.
    pub fn has_input(&self, min: usize) -> bool {
        if self.canonical() { !self.ready.is_empty() } else { self.ready.len() >= min.max(1) }
    }

    /// `VMIN` and `VTIME` when they count: `None` in canonical mode.
    pub fn min_time(&self) -> Option<(usize, u8)> {
        if self.canonical() {
            return None;
        }
        let get = |i: usize| self.termios.cc.get(i).copied().unwrap_or(0);
        Some((usize::from(get(cc::VMIN)), get(cc::VTIME)))
    }

    /// Takes up to `max` bytes to `out`: in canonical mode at most one line. True when a line ended, also an empty one by end of file.
    pub fn read(&mut self, max: usize, out: &mut Vec<u8>) -> bool {
        let canonical = self.canonical();
        let mut left = max;
        while let Some(&(c, end)) = self.ready.front() {
            if canonical && end == End::File {
                // The end of file is taken with the bytes before it, even when they fill the buffer exactly.
                self.ready.pop_front();
                return true;
            }
            if left == 0 {
                break;
            }
            self.ready.pop_front();
            out.push(c);
            left -= 1;
            if canonical && end == End::Line {
                return true;
            }
        }
        false
    }
}
