//! Memory shared with processes that run hostile code: a mapping of a piece of the control file.
//!
//! Whatever is read here may change between two reads; callers copy once and check the copy.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// A shared mapping of `len` bytes at a page-aligned offset.
pub struct Area {
    at: *mut u8,
    len: usize,
}

// SAFETY: all access goes through methods that use atomic words or raw copies; nobody gets a reference into the mapping.
unsafe impl Send for Area {}
// SAFETY: see above.
unsafe impl Sync for Area {}

impl Area {
    /// Maps a piece of a file.
    pub fn map(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Area> {
        // SAFETY: a fresh mapping at an address that the host chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Area { at: at.cast(), len }) }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0 && offset + 8 <= self.len, "word at {offset:#x} outside of the area");
        // SAFETY: aligned and inside of the mapping, which lives as long as `self`; the other side's accesses are those of another process.
        unsafe { &*self.at.add(offset).cast::<AtomicU64>() }
    }

    /// Reads a word, before everything that follows.
    pub fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Writes a word, after everything that came before.
    pub fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// Writes a word and orders it before everything that follows; returns the old one.
    pub fn swap(&self, offset: usize, value: u64) -> u64 {
        self.word(offset).swap(value, Ordering::SeqCst)
    }

    /// Counts a word up.
    pub fn add(&self, offset: usize) {
        self.word(offset).fetch_add(1, Ordering::SeqCst);
    }

    /// Replaces a word if it has this value; whether it had.
    pub fn exchange(&self, offset: usize, from: u64, to: u64) -> bool {
        self.word(offset).compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Copies out.
    pub fn read(&self, offset: usize, buf: &mut [u8]) {
        assert!(offset.checked_add(buf.len()).is_some_and(|end| end <= self.len), "read outside of the area");
        // SAFETY: inside of the mapping; a concurrent change by the other process tears the copy, which callers expect.
        unsafe { std::ptr::copy_nonoverlapping(self.at.add(offset), buf.as_mut_ptr(), buf.len()) }
    }

    /// Fills a piece with zeros.
    pub fn clear(&self, from: usize, to: usize) {
        assert!(from <= to && to <= self.len, "clearing outside of the area");
        // SAFETY: inside of the mapping, see above.
        unsafe { std::ptr::write_bytes(self.at.add(from), 0, to - from) };
    }

    /// Copies in.
    pub fn write(&self, offset: usize, buf: &[u8]) {
        assert!(
            offset.checked_add(buf.len()).is_some_and(|end| end <= self.len),
            "write outside of the area"
        );
        // SAFETY: inside of the mapping, see above.
        unsafe { std::ptr::copy_nonoverlapping(buf.as_ptr(), self.at.add(offset), buf.len()) }
    }

    /// Copies in what is different: a cache line that stays as it is need not travel to this CPU and back.
    pub fn write_changes(&self, offset: usize, buf: &[u8]) {
        const LINE: usize = 64;
        let mut there = [0; LINE];
        for (at, line) in (offset..).step_by(LINE).zip(buf.chunks(LINE)) {
            let there = &mut there[..line.len()];
            self.read(at, there);
            if there != line {
                self.write(at, line);
            }
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody refers to it any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_different_is_written() {
        let file = std::fs::File::from(sys::memory_file(c"area").unwrap());
        file.set_len(4096).unwrap();
        let area = Area::map(file.as_fd(), 0, 4096).unwrap();
        let mut image: Vec<u8> = (0..=255).cycle().take(200).collect();
        area.write_changes(8, &image);
        for changed in [0, 63, 64, 199] {
            image[changed] ^= 1;
            area.write_changes(8, &image);
        }
        let mut there = vec![0; 216];
        area.read(0, &mut there);
        assert_eq!(there[8..208], image);
        assert!(there[..8].iter().chain(&there[208..]).all(|&byte| byte == 0), "nothing beside it");
    }
}
