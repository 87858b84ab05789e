//! `vkernel syscalls`.

use kernel::syscall::{Support, entries};
use std::io::{self, Write};

/// Prints the table. A reader that stops reading is no error.
pub fn print() -> io::Result<()> {
    let mut out = String::new();
    for entry in entries() {
        let support = match entry.support {
            Support::Full => "full",
            Support::Partial => "partial",
            Support::None => "none",
        };
        let line = format!("{:<4} {:<24} {:<8} {}", entry.nr, entry.name, support, entry.note);
        out.push_str(line.trim_end());
        out.push('\n');
    }
    match io::stdout().write_all(out.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
