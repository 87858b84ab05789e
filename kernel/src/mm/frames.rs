//! Frames: the pages of the machine's RAM, with a reference count each.

use crate::error::{Result, err};
use crate::sync::Mutex;
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use hal::{Machine, PAGE_SIZE, PhysAddr};
use zerocopy::FromZeros;

/// A counted reference to one frame. Cloning counts up, dropping counts down and frees.
pub struct Frame {
    frames: Arc<Frames>,
    index: u32,
}

/// All frames of a machine.
pub struct Frames {
    machine: Arc<dyn Machine>,
    counts: Vec<AtomicU32>,
    free: Mutex<Free>,
}

struct Free {
    /// Freed frames: their content is stale.
    dirty: Vec<u32>,
    /// Frames from here on were never used: they are zero.
    fresh: u32,
}

impl Frames {
    /// All of the machine's RAM, free.
    pub fn new(machine: Arc<dyn Machine>) -> Arc<Frames> {
        let count = (machine.ram().size() / PAGE_SIZE) as usize;
        // Zeroed by the allocator: the table takes memory only where RAM is used. Without a table, no RAM.
        let counts = AtomicU32::new_vec_zeroed(count).unwrap_or_default();
        Arc::new(Frames { machine, counts, free: Mutex::new(Free { dirty: Vec::new(), fresh: 0 }) })
    }

    /// A zeroed frame; `ENOMEM` when RAM is full.
    pub fn alloc(self: &Arc<Frames>) -> Result<Frame> {
        let (index, dirty) = {
            let mut free = self.free.lock();
            match free.dirty.pop() {
                Some(index) => (index, true),
                None if (free.fresh as usize) < self.counts.len() => {
                    free.fresh += 1;
                    (free.fresh - 1, false)
                }
                None => return err(Errno::ENOMEM),
            }
        };
        if let Some(count) = self.counts.get(index as usize) {
            count.store(1, Ordering::Release);
        }
        let frame = Frame { frames: self.clone(), index };
        if dirty {
            self.machine.ram().zero(frame.phys(), PAGE_SIZE);
        }
        Ok(frame)
    }

    /// Frames in all.
    pub fn total(&self) -> u64 {
        self.counts.len() as u64
    }

    /// Free frames.
    pub fn available(&self) -> u64 {
        let free = self.free.lock();
        free.dirty.len() as u64 + (self.counts.len() as u64 - u64::from(free.fresh))
    }
}

impl Frame {
    /// Its address.
    pub fn phys(&self) -> PhysAddr {
        PhysAddr(u64::from(self.index) * PAGE_SIZE)
    }

    /// Number of references.
    pub fn count(&self) -> u32 {
        self.frames.counts.get(self.index as usize).map_or(0, |c| c.load(Ordering::Acquire))
    }
}

impl Clone for Frame {
    fn clone(&self) -> Frame {
        if let Some(count) = self.frames.counts.get(self.index as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Frame { frames: self.frames.clone(), index: self.index }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let Some(count) = self.frames.counts.get(self.index as usize) else { return };
        if count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.frames.free.lock().dirty.push(self.index);
        }
    }
}
