//! The text that a generated file is made of.

use alloc::vec::Vec;
use core::fmt;

/// Bytes with `write!`; not a `String`, because names and arguments of processes need not be UTF-8.
#[derive(Default)]
pub struct Out(pub Vec<u8>);

impl Out {
    /// Nothing yet.
    pub fn new() -> Out {
        Out::default()
    }
    /// Adds bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    /// Adds a text.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }
    /// Adds bytes in which those of `special` and the backslash are written as octal escapes, as `/proc/mounts` does.
    pub fn escaped(&mut self, bytes: &[u8], special: &[u8]) {
        for &b in bytes {
            if b == b'\\' || special.contains(&b) {
                self.bytes(&[b'\\', b'0' + (b >> 6), b'0' + ((b >> 3) & 7), b'0' + (b & 7)]);
            } else {
                self.0.push(b);
            }
        }
    }
    /// Pads with spaces up to this length of the line that began at `start`.
    pub fn pad_to(&mut self, start: usize, width: usize) {
        while self.0.len() < start + width {
            self.0.push(b' ');
        }
    }
}

impl fmt::Write for Out {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.text(s);
        Ok(())
    }
}

/// `write!` into an [`Out`], which can't fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {{
        use core::fmt::Write as _;
        let _ = write!($out, $($arg)*);
    }};
}
pub(crate) use put;
