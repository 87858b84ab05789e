//! Arguments as an attacker would choose them.

use crate::rng::Rng;
use crate::stub::Hidden;
use crate::sys;

/// Where arguments can point to: memory that may be overwritten, and the rest.
pub struct Values {
    buffer: u64,
    hidden: Vec<u64>,
}

/// Bytes of the buffer.
const BUFFER: u64 = 1 << 16;

impl Values {
    /// With memory for it, partly filled with paths and structures of small numbers.
    pub fn new(hidden: &Hidden) -> Values {
        let at = sys::pages(BUFFER as usize, false);
        for (i, text) in
            ["/tmp/attack", "/proc/self/mem", "/", "/dev/null", "/proc/1/maps", "/etc/passwd", "."]
                .iter()
                .enumerate()
        {
            unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), at.add(i * 256), text.len()) };
        }
        for i in 0..2048 {
            // Words that can be a length, a pointer into the buffer, a descriptor.
            let word = match i % 4 {
                0 => at as u64 + i * 16,
                1 => i % 64,
                2 => 1 << (i % 32),
                _ => 0,
            };
            unsafe { at.add(4096).cast::<u64>().add(i as usize).write(word) };
        }
        let hidden = hidden.pages.iter().map(|page| page.at).collect();
        Values { buffer: at as u64, hidden }
    }

    /// One.
    pub fn value(&self, rng: &mut Rng) -> u64 {
        let low = rng.below(4096);
        match rng.below(20) {
            0 => 0,
            1 => 1,
            2 => u64::MAX - rng.below(130),
            3 => rng.below(21),
            4 => 1 << rng.below(64),
            5 => rng.next(),
            6 => rng.next() >> rng.below(64),
            7 => rng
                .pick(&[4096, 8192, 65536, 1 << 21, i64::MAX as u64, i32::MAX as u64])
                .wrapping_add(low % 3),
            8 => rng.pick(&[1, 2, 3, std::process::id() as u64, 0u64.wrapping_sub(1)]).to_owned(),
            9 if !self.hidden.is_empty() => rng.pick(&self.hidden) + (low & !7),
            10 => 0x7fff_ffff_f000 - 8 * rng.below(4),
            11 => *rng.pick(&[0xffff_8000_0000_0000, 0xffff_ffff_8100_0000, 1 << 63, 0xffff_ffff_ff60_0000]),
            12 => self.buffer & !4095 | low,
            13 => self.buffer + 256 * rng.below(7),
            _ => self.buffer + rng.below(BUFFER - 4096) / 8 * 8,
        }
    }

    /// Memory of one's own that may be overwritten.
    pub fn pointer(&self, rng: &mut Rng) -> u64 {
        self.buffer + 8192 + rng.below(BUFFER / 2) / 16 * 16
    }
}
