//! What a run says while it goes: one line that changes on a terminal, and lines that stay.

use std::io::{IsTerminal, Write};

/// Where progress is shown: standard error.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    silent: bool,
}

impl Progress {
    /// On standard error.
    pub fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), silent: false }
    }

    /// Says nothing.
    #[cfg(test)]
    pub fn silent() -> Progress {
        Progress { terminal: false, silent: true }
    }

    /// What is under way; only a terminal shows it.
    pub fn at(&mut self, what: &str) {
        if self.terminal && !self.silent {
            // Back to the start of the line, and erase it (ECMA-48 EL).
            eprint!("\r\x1b[K{what}");
            let _ = std::io::stderr().flush();
        }
    }

    /// A line that stays.
    pub fn line(&mut self, text: &str) {
        self.at("");
        if !self.silent {
            eprintln!("{text}");
        }
    }
}
