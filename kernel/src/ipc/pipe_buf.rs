//! The content of a pipe: a queue of pages, as Linux keeps it.
//!
//! Capacity counts pages, not bytes (`pipe(7)`): a page that is not full takes the next small write when that fits as a
//! whole, which is what keeps writes of up to [`PIPE_BUF`] bytes in one piece. Pages come back through a small store, so
//! that a stream of small writes does not allocate.

use crate::error::{Result, err};
use crate::user::{Sink, Source};
use abi::Errno;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

/// Writes of up to this many bytes are not mixed with others (`PIPE_BUF`).
pub(super) const PIPE_BUF: usize = 4096;
/// Pages of a new pipe: 64 KiB.
pub(super) const DEFAULT_PAGES: usize = 16;
/// Free pages that a pipe keeps.
const SPARE_PAGES: usize = 4;

struct Page {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// One packet (`O_DIRECT`): read as a whole or cut, never merged.
    packet: bool,
    /// Whether later writes may go behind it.
    mergeable: bool,
}

/// The queue.
pub(super) struct PipeBuf {
    pages: VecDeque<Page>,
    max_pages: usize,
    spare: Vec<Box<[u8]>>,
    bytes: usize,
}

impl PipeBuf {
    pub(super) fn new() -> PipeBuf {
        PipeBuf { pages: VecDeque::new(), max_pages: DEFAULT_PAGES, spare: Vec::new(), bytes: 0 }
    }
    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
    pub(super) fn is_full(&self) -> bool {
        self.pages.len() >= self.max_pages
    }
    /// Bytes in it.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }
    /// Capacity in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.max_pages * PIPE_BUF
    }
    /// Bytes that a write is sure to find room for.
    pub(super) fn free(&self) -> usize {
        self.max_pages.saturating_sub(self.pages.len()) * PIPE_BUF
    }
    /// Changes the capacity; `EBUSY` when more is in use.
    pub(super) fn set_pages(&mut self, pages: usize) -> Result<()> {
        if pages < self.pages.len() {
            return err(Errno::EBUSY);
        }
        self.max_pages = pages;
        Ok(())
    }

    fn retire(&mut self, bytes: Box<[u8]>) {
        if self.spare.len() < SPARE_PAGES && bytes.len() == PIPE_BUF {
            self.spare.push(bytes);
        }
    }

    /// Moves bytes out until the sink is full, the pipe is empty or a packet ends.
    pub(super) fn read(&mut self, sink: &mut dyn Sink) -> Result<usize> {
        let mut done = 0;
        while let Some(page) = self.pages.front_mut() {
            let room = sink.room();
            if room == 0 {
                break;
            }
            let count = room.min(page.end - page.start);
            let bytes = page.bytes.get(page.start..page.start + count).unwrap_or_default();
            match sink.put(bytes) {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
            page.start += count;
            done += count;
            self.bytes -= count;
            let packet = page.packet;
            if packet {
                self.bytes -= page.end - page.start;
                page.start = page.end;
            }
            if page.start == page.end
                && let Some(page) = self.pages.pop_front()
            {
                self.retire(page.bytes);
            }
            if packet {
                break;
            }
        }
        Ok(done)
    }

    /// Puts a small rest into the last page if it fits as a whole (the start of a write).
    pub(super) fn merge(&mut self, source: &mut dyn Source) -> Result<usize> {
        let count = source.left() % PIPE_BUF;
        let Some(page) = self.pages.back_mut() else { return Ok(0) };
        if count == 0 || !page.mergeable || page.end + count > PIPE_BUF {
            return Ok(0);
        }
        let Some(space) = page.bytes.get_mut(page.end..page.end + count) else { return Ok(0) };
        let taken = source.take(space)?;
        page.end += taken;
        self.bytes += taken;
        Ok(taken)
    }

    /// Adds pages until the pipe is full or the source is empty.
    pub(super) fn append(&mut self, source: &mut dyn Source, packet: bool) -> Result<usize> {
        let mut done = 0;
        while !self.is_full() && source.left() > 0 {
            let count = source.left().min(PIPE_BUF);
            let mut bytes = self.spare.pop().unwrap_or_else(|| vec![0; PIPE_BUF].into_boxed_slice());
            let taken = match bytes.get_mut(..count).map_or(Ok(0), |space| source.take(space)) {
                Ok(taken) => taken,
                Err(error) => {
                    self.retire(bytes);
                    if done > 0 {
                        break;
                    }
                    return Err(error);
                }
            };
            if taken == 0 {
                self.retire(bytes);
                break;
            }
            self.pages.push_back(Page { bytes, start: 0, end: taken, packet, mergeable: !packet });
            self.bytes += taken;
            done += taken;
            if taken < count {
                break;
            }
        }
        Ok(done)
    }

    /// Puts bytes back to the front, also into a full pipe.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        for chunk in bytes.rchunks(PIPE_BUF) {
            let page =
                Page { bytes: Box::from(chunk), start: 0, end: chunk.len(), packet: false, mergeable: false };
            self.pages.push_front(page);
            self.bytes += chunk.len();
        }
    }

    /// Copies up to `max` bytes from the front without taking them (`tee(2)`).
    pub(super) fn peek(&self, max: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(max.min(self.bytes));
        for page in &self.pages {
            let bytes = page.bytes.get(page.start..page.end).unwrap_or_default();
            let count = bytes.len().min(max - out.len());
            out.extend_from_slice(bytes.get(..count).unwrap_or_default());
            if out.len() >= max {
                break;
            }
        }
        out
    }
}
