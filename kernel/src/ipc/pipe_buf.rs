//! The content of a pipe: a queue of pages, as Linux keeps it.
//!
//! Capacity counts pages, not bytes (`pipe(7)`): a page that is not full takes the next small write when that fits as a
//! whole, which is what keeps writes of up to [`PIPE_BUF`] bytes in one piece. Large writes go into pieces of several pages, so that user memory
//! is looked up once for each. Pieces come back through a small store, so that a stream of writes does not allocate. What they take up is held against RAM.

use crate::error::{Result, err};
use crate::mm::Hold;
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
/// Largest piece, in pages; pieces are powers of two.
const MOST_PAGES: usize = 16;
/// Free pages that a pipe keeps.
const SPARE_PAGES: usize = 16;

/// A piece of the content, of one or more pages.
struct Piece {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// One packet (`O_DIRECT`): read as a whole or cut, never merged.
    packet: bool,
    /// Whether later writes may go behind it.
    mergeable: bool,
}

impl Piece {
    /// Pages that hold something of it.
    fn pages(&self) -> usize {
        if self.start == self.end { 0 } else { self.end.div_ceil(PIPE_BUF) - self.start / PIPE_BUF }
    }
}

/// The queue.
pub(super) struct PipeBuf {
    pieces: VecDeque<Piece>,
    max_pages: usize,
    /// Pages in use.
    pages: usize,
    spare: Vec<Box<[u8]>>,
    spare_pages: usize,
    bytes: usize,
    /// For all pieces, in use or not.
    hold: Hold,
}

impl PipeBuf {
    pub(super) fn new(hold: Hold) -> PipeBuf {
        PipeBuf {
            pieces: VecDeque::new(),
            max_pages: DEFAULT_PAGES,
            pages: 0,
            spare: Vec::new(),
            spare_pages: 0,
            bytes: 0,
            hold,
        }
    }
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
    pub(super) fn is_full(&self) -> bool {
        self.pages >= self.max_pages
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
        self.max_pages.saturating_sub(self.pages) * PIPE_BUF
    }
    /// Changes the capacity; `EBUSY` when more is in use.
    pub(super) fn set_pages(&mut self, pages: usize) -> Result<()> {
        if pages < self.pages {
            return err(Errno::EBUSY);
        }
        self.max_pages = pages;
        Ok(())
    }

    fn retire(&mut self, bytes: Box<[u8]>) {
        let pages = bytes.len() / PIPE_BUF;
        if bytes.len() == pages * PIPE_BUF && self.spare_pages + pages <= SPARE_PAGES {
            self.spare_pages += pages;
            self.spare.push(bytes);
        } else {
            self.hold.shrink(bytes.len().div_ceil(PIPE_BUF) as u32);
        }
    }

    /// Room for a piece of so many pages; `ENOMEM` when RAM is full.
    fn room(&mut self, pages: usize) -> Result<Box<[u8]>> {
        Ok(match self.spare.iter().rposition(|bytes| bytes.len() == pages * PIPE_BUF) {
            Some(at) => {
                self.spare_pages -= pages;
                self.spare.swap_remove(at)
            }
            None => {
                self.hold.grow(pages as u32)?;
                vec![0; pages * PIPE_BUF].into_boxed_slice()
            }
        })
    }

    /// Moves bytes out until the sink is full, the pipe is empty or a packet ends.
    pub(super) fn read(&mut self, sink: &mut dyn Sink) -> Result<usize> {
        let mut done = 0;
        while let Some(piece) = self.pieces.front_mut() {
            let room = sink.room();
            if room == 0 {
                break;
            }
            let pages = piece.pages();
            let count = room.min(piece.end - piece.start);
            let bytes = piece.bytes.get(piece.start..piece.start + count).unwrap_or_default();
            let before = room;
            let result = sink.put(bytes);
            // A fault in the middle leaves what was not taken.
            let count = if result.is_ok() { count } else { before - sink.room() };
            piece.start += count;
            done += count;
            self.bytes -= count;
            let packet = piece.packet && result.is_ok();
            if packet {
                self.bytes -= piece.end - piece.start;
                piece.start = piece.end;
            }
            self.pages -= pages - piece.pages();
            if piece.start == piece.end
                && let Some(piece) = self.pieces.pop_front()
            {
                self.retire(piece.bytes);
            }
            match result {
                Ok(()) if packet => break,
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Puts a small rest into the last page if it fits as a whole (the start of a write).
    pub(super) fn merge(&mut self, source: &mut dyn Source) -> Result<usize> {
        let count = source.left() % PIPE_BUF;
        let Some(piece) = self.pieces.back_mut() else { return Ok(0) };
        if count == 0 || !piece.mergeable || piece.end + count > piece.end.next_multiple_of(PIPE_BUF) {
            return Ok(0);
        }
        let Some(space) = piece.bytes.get_mut(piece.end..piece.end + count) else { return Ok(0) };
        let taken = source.take(space)?;
        piece.end += taken;
        self.bytes += taken;
        Ok(taken)
    }

    /// Adds pages until the pipe is full or the source is empty.
    pub(super) fn append(&mut self, source: &mut dyn Source, packet: bool) -> Result<usize> {
        let mut done = 0;
        while !self.is_full() && source.left() > 0 {
            let most = if packet { 1 } else { MOST_PAGES.min(self.max_pages - self.pages) };
            // A power of two: the whole rest, or what fits of it.
            let wanted = source.left().div_ceil(PIPE_BUF).min(most);
            let pages = 1 << wanted.ilog2();
            let count = source.left().min(pages * PIPE_BUF);
            let mut bytes = match self.room(pages) {
                Ok(bytes) => bytes,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
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
            let piece = Piece { bytes, start: 0, end: taken, packet, mergeable: !packet };
            self.pages += piece.pages();
            self.pieces.push_back(piece);
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
            // A full RAM is no reason to lose them.
            let _ = self.hold.grow(1);
            let piece = Piece {
                bytes: Box::from(chunk),
                start: 0,
                end: chunk.len(),
                packet: false,
                mergeable: false,
            };
            self.pages += piece.pages();
            self.pieces.push_front(piece);
            self.bytes += chunk.len();
        }
    }

    /// Copies up to `max` bytes from the front without taking them (`tee(2)`).
    pub(super) fn peek(&self, max: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(max.min(self.bytes));
        for piece in &self.pieces {
            let bytes = piece.bytes.get(piece.start..piece.end).unwrap_or_default();
            let count = bytes.len().min(max - out.len());
            out.extend_from_slice(bytes.get(..count).unwrap_or_default());
            if out.len() >= max {
                break;
            }
        }
        out
    }
}
