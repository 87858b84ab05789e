//! Mappings and page faults.

use crate::Context;
use crate::clock::each;
use std::io::{Error, Result};
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

/// Fresh anonymous memory.
struct Map(*mut u8, usize);

impl Map {
    fn new(len: usize) -> Result<Map> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever the kernel puts it.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if at == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(Map(at.cast(), len)) }
    }

    fn touch(&self) {
        for offset in (0..self.1).step_by(PAGE) {
            // SAFETY: within the mapping.
            unsafe { self.0.add(offset).write_volatile(1) };
        }
    }

    fn unmap(self) -> Result<()> {
        // SAFETY: our own mapping, and the value that knows it is gone.
        match unsafe { libc::munmap(self.0.cast(), self.1) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }
}

/// 16 KiB: map, write one byte a page, unmap.
pub fn map_touch_unmap(cx: &Context) -> Result<f64> {
    each(cx.time, || {
        let map = Map::new(4 * PAGE)?;
        map.touch();
        map.unmap()
    })
}

/// The first write to a page, in regions of 32 MiB without huge pages; only the writes are timed.
pub fn page_fault(cx: &Context) -> Result<f64> {
    const REGION: usize = 32 << 20;
    let (mut spent, mut pages) = (Duration::ZERO, 0);
    while spent < cx.time {
        let map = Map::new(REGION)?;
        // SAFETY: advice on our own mapping; a kernel without huge pages refuses it, which is fine.
        unsafe { libc::madvise(map.0.cast(), REGION, libc::MADV_NOHUGEPAGE) };
        let start = Instant::now();
        map.touch();
        spent += start.elapsed();
        pages += REGION / PAGE;
        map.unmap()?;
    }
    Ok(spent.as_nanos() as f64 / pages as f64)
}
