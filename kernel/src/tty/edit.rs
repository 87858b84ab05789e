//! Erasing in canonical mode: one character, a word, the line.

use super::ldisc::{Effects, LineDiscipline, is_control};
use abi::tty::{InputFlags, LocalFlags, cc};

#[derive(PartialEq, Eq, Clone, Copy)]
enum Kill {
    Character,
    Word,
    Line,
}

/// Letters and digits as Linux counts them: ASCII, and Latin-1's upper half.
fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || (c >= 0xc0 && c != 0xd7 && c != 0xf7)
}

impl LineDiscipline {
    /// Whether `c` continues a UTF-8 character.
    pub(super) fn continues(&self, c: u8) -> bool {
        self.input(InputFlags::IUTF8) && c & 0xc0 == 0x80
    }

    /// Serves `VERASE`, `VWERASE` or `VKILL`.
    pub(super) fn erase(&mut self, c: u8, effects: &mut Effects) {
        if self.line.is_empty() {
            return;
        }
        let echo = self.local(LocalFlags::ECHO);
        let kill = if self.is(cc::VERASE, c) {
            Kill::Character
        } else if self.is(cc::VWERASE, c) {
            Kill::Word
        } else {
            if !echo {
                self.line.clear();
                return;
            }
            if !self.local(LocalFlags::ECHOK | LocalFlags::ECHOKE | LocalFlags::ECHOE) {
                self.line.clear();
                self.finish_erasing(effects);
                self.echo(c, effects);
                if self.local(LocalFlags::ECHOK) {
                    self.echo_raw(b"\n", effects);
                }
                return;
            }
            Kill::Line
        };
        let mut in_word = false;
        while !self.line.is_empty() {
            let mut start = self.line.len() - 1;
            let byte = |line: &LineDiscipline, i: usize| line.line.get(i).copied().unwrap_or_default();
            while start > 0 && self.continues(byte(self, start)) {
                start -= 1;
            }
            let first = byte(self, start);
            // Never a part of a character.
            if self.continues(first) {
                break;
            }
            if kill == Kill::Word {
                if is_word(first) {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            let gone = self.line.split_off(start);
            if echo {
                self.show_erased(kill == Kill::Character, first, &gone, c, effects);
            }
            if kill == Kill::Character {
                break;
            }
        }
        if self.line.is_empty() && echo {
            self.finish_erasing(effects);
        }
    }

    fn show_erased(&mut self, single: bool, first: u8, gone: &[u8], erase_char: u8, effects: &mut Effects) {
        if self.local(LocalFlags::ECHOPRT) {
            if !self.erasing {
                self.echo_raw(b"\\", effects);
                self.erasing = true;
            }
            self.echo(first, effects);
            self.echo_raw(gone.get(1..).unwrap_or_default(), effects);
        } else if single && !self.local(LocalFlags::ECHOE) {
            self.echo(erase_char, effects);
        } else if first == b'\t' {
            self.erase_tab(effects);
        } else {
            let control = is_control(first);
            let shown_as_two = control && self.local(LocalFlags::ECHOCTL);
            if shown_as_two {
                self.echo_raw(b"\x08 \x08", effects);
            }
            if !control || shown_as_two {
                self.echo_raw(b"\x08 \x08", effects);
            }
        }
    }

    /// Moves back over a tab: as far as the text before it, in columns, does not fill.
    fn erase_tab(&mut self, effects: &mut Effects) {
        let mut columns = 0;
        let mut after_tab = false;
        for &c in self.line.iter().rev() {
            if c == b'\t' {
                after_tab = true;
                break;
            }
            if is_control(c) {
                if self.local(LocalFlags::ECHOCTL) {
                    columns += 2;
                }
            } else if !self.continues(c) {
                columns += 1;
            }
        }
        if !after_tab {
            columns += self.column.line_start();
        }
        for _ in 0..8 - columns % 8 {
            self.echo_raw(b"\x08", effects);
        }
    }
}
