//! RAM as lazily allocated chunks, each behind a lock.

use super::lock;
use crate::{HostFile, PAGE_SIZE, PhysAddr, Progress, Ram};
use abi::Errno;
use std::boxed::Box;
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

/// Bytes per chunk.
const CHUNK: u64 = 64 << 10;

/// Memory of a [`super::MockMachine`]; a chunk that was never written takes no host memory.
pub struct MockRam {
    size: u64,
    chunks: Vec<Mutex<Option<Box<[u8]>>>>,
}

impl MockRam {
    pub(super) fn new(size: u64) -> MockRam {
        let size = size.next_multiple_of(PAGE_SIZE);
        MockRam { size, chunks: (0..size.div_ceil(CHUNK)).map(|_| Mutex::new(None)).collect() }
    }

    /// Host memory in use, in bytes: shows whether discarded RAM was given back.
    pub fn resident(&self) -> u64 {
        self.chunks.iter().filter(|c| lock(c).is_some()).count() as u64 * CHUNK
    }

    fn check(&self, at: PhysAddr, len: u64) {
        assert!(
            at.0.checked_add(len).is_some_and(|end| end <= self.size),
            "RAM access at {at:?}+{len:#x} is outside of {:#x} bytes",
            self.size
        );
    }

    /// Calls `f(chunk index, offset in chunk, offset in range, length)` for each piece of the range.
    fn pieces(&self, at: PhysAddr, len: u64, mut f: impl FnMut(usize, usize, usize, usize)) {
        self.check(at, len);
        let mut done = 0;
        while done < len {
            let pos = at.0 + done;
            let piece = (CHUNK - pos % CHUNK).min(len - done);
            f((pos / CHUNK) as usize, (pos % CHUNK) as usize, done as usize, piece as usize);
            done += piece;
        }
    }

    fn word<T>(&self, at: PhysAddr, f: impl FnOnce(&mut [u8; 4]) -> T) -> T {
        self.check(at, 4);
        assert!(at.0.is_multiple_of(4), "unaligned word at {at:?}");
        let mut chunk = lock(&self.chunks[(at.0 / CHUNK) as usize]);
        let bytes = chunk.get_or_insert_with(|| vec![0; CHUNK as usize].into());
        let from = (at.0 % CHUNK) as usize;
        let (words, _) = bytes[from..].as_chunks_mut::<4>();
        f(&mut words[0])
    }
}

impl Ram for MockRam {
    fn size(&self) -> u64 {
        self.size
    }
    fn read(&self, at: PhysAddr, buf: &mut [u8]) {
        self.pieces(at, buf.len() as u64, |chunk, from, done, len| {
            let to = &mut buf[done..done + len];
            match &*lock(&self.chunks[chunk]) {
                Some(bytes) => to.copy_from_slice(&bytes[from..from + len]),
                None => to.fill(0),
            }
        });
    }
    fn write(&self, at: PhysAddr, buf: &[u8]) {
        self.pieces(at, buf.len() as u64, |chunk, from, done, len| {
            let mut chunk = lock(&self.chunks[chunk]);
            let bytes = chunk.get_or_insert_with(|| vec![0; CHUNK as usize].into());
            bytes[from..from + len].copy_from_slice(&buf[done..done + len]);
        });
    }
    fn zero(&self, at: PhysAddr, len: u64) {
        self.pieces(at, len, |chunk, from, _, len| {
            let mut chunk = lock(&self.chunks[chunk]);
            if len as u64 == CHUNK {
                *chunk = None;
            } else if let Some(bytes) = &mut *chunk {
                bytes[from..from + len].fill(0);
            }
        });
    }
    fn copy(&self, from: PhysAddr, to: PhysAddr, len: u64) {
        self.check(from, len);
        self.check(to, len);
        assert!(from.0 + len <= to.0 || to.0 + len <= from.0, "overlapping copy {from:?} to {to:?}");
        let mut buf = vec![0; len as usize];
        self.read(from, &mut buf);
        self.write(to, &buf);
    }
    fn read_file(
        &self,
        file: &dyn HostFile,
        offset: u64,
        to: &[(PhysAddr, usize)],
    ) -> Result<Progress, Errno> {
        let mut bytes = vec![0; to.iter().map(|(_, len)| len).sum()];
        let progress = file.read_now(offset, &mut bytes)?;
        let mut done = &bytes[..progress.done];
        for (at, len) in to {
            let (head, tail) = done.split_at((*len).min(done.len()));
            self.write(*at, head);
            done = tail;
        }
        Ok(progress)
    }
    fn load_u32(&self, at: PhysAddr) -> u32 {
        self.word(at, |w| u32::from_ne_bytes(*w))
    }
    fn compare_exchange_u32(&self, at: PhysAddr, old: u32, new: u32) -> Result<u32, u32> {
        self.word(at, |w| {
            let found = u32::from_ne_bytes(*w);
            if found != old {
                return Err(found);
            }
            *w = new.to_ne_bytes();
            Ok(old)
        })
    }
    fn discard(&self, at: PhysAddr, len: u64) {
        self.zero(at, len);
    }
}
