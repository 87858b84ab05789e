//! What becomes of bytes that are printed (`c_oflag`).

use super::ldisc::{LineDiscipline, is_control};
use abi::tty::OutputFlags;
use alloc::vec::Vec;

/// The cursor's column, for tabs.
#[derive(Default)]
pub(super) struct Column {
    now: usize,
    line_start: usize,
}

impl Column {
    pub(super) fn start_line(&mut self) {
        self.line_start = self.now;
    }
    pub(super) fn line_start(&self) -> usize {
        self.line_start
    }
}

impl LineDiscipline {
    /// Prints a byte to `out` as `OPOST` and its kin say.
    pub fn print(&mut self, c: u8, out: &mut Vec<u8>) {
        let flags = self.termios.output();
        let post = flags.contains(OutputFlags::OPOST);
        if !post {
            out.push(c);
            return;
        }
        let mut c = c;
        match c {
            b'\n' => {
                if flags.contains(OutputFlags::ONLRET) {
                    self.column.now = 0;
                }
                if flags.contains(OutputFlags::ONLCR) {
                    self.column = Column::default();
                    out.push(b'\r');
                } else {
                    self.column.line_start = self.column.now;
                }
            }
            b'\r' => {
                if flags.contains(OutputFlags::ONOCR) && self.column.now == 0 {
                    return;
                }
                if flags.contains(OutputFlags::OCRNL) {
                    c = b'\n';
                    if flags.contains(OutputFlags::ONLRET) {
                        self.column = Column::default();
                    }
                } else {
                    self.column = Column::default();
                }
            }
            b'\t' => {
                let spaces = 8 - self.column.now % 8;
                self.column.now += spaces;
                if flags.contains(OutputFlags::TAB3) {
                    out.extend(core::iter::repeat_n(b' ', spaces));
                    return;
                }
            }
            8 => self.column.now = self.column.now.saturating_sub(1),
            _ if !is_control(c) => {
                if flags.contains(OutputFlags::OLCUC) {
                    c = c.to_ascii_uppercase();
                }
                if !self.continues(c) {
                    self.column.now += 1;
                }
            }
            _ => {}
        }
        out.push(c);
    }
}
