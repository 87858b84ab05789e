//! Page tables: which frame each page of an address space, or of a cache, has.
//!
//! Chunks of 512 entries of four bytes, made where needed. A table does not count references: whoever puts an entry in or
//! takes one out does.

use super::frames::Pfn;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::ops::Range;

const CHUNK: u64 = 512;
const FRAME_BITS: u32 = 28;
/// The most frames that entries can tell apart.
pub(super) const MAX_FRAMES: u64 = (1 << FRAME_BITS) - 1;

/// An entry: a frame, and how the machine's address space shows it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Pte(u32);

impl Pte {
    /// No page.
    pub(super) const NONE: Pte = Pte(0);
    const MAPPED: u32 = 1 << 28;
    const WRITABLE: u32 = 1 << 29;
    const PATCHED: u32 = 1 << 30;

    /// A page that the machine does not show.
    pub(super) fn new(pfn: Pfn) -> Pte {
        Pte((pfn.0 + 1) & MAX_FRAMES as u32)
    }
    /// The frame, if there is a page.
    pub(super) fn pfn(self) -> Option<Pfn> {
        (self.0 & MAX_FRAMES as u32).checked_sub(1).map(Pfn)
    }
    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }
    /// Whether the machine's address space shows the frame.
    pub(super) fn mapped(self) -> bool {
        self.0 & Pte::MAPPED != 0
    }
    /// Whether it shows it with write access.
    pub(super) fn writable(self) -> bool {
        self.0 & Pte::WRITABLE != 0
    }
    /// Whether the page is a copy of a file's for the sake of patched code, see [`super::gate`].
    pub(super) fn is_patched(self) -> bool {
        self.0 & Pte::PATCHED != 0
    }
    /// The same page, as such a copy.
    pub(super) fn patched(self) -> Pte {
        Pte(self.0 | Pte::PATCHED)
    }
    /// The same page, shown.
    pub(super) fn shown(self, writable: bool) -> Pte {
        Pte(self.0 & !Pte::WRITABLE | Pte::MAPPED | if writable { Pte::WRITABLE } else { 0 })
    }
    /// The same page, not shown.
    pub(super) fn hidden(self) -> Pte {
        Pte(self.0 & !(Pte::MAPPED | Pte::WRITABLE))
    }
    /// The same page, shown without write access if it was shown with it.
    pub(super) fn read_only(self) -> Pte {
        Pte(self.0 & !Pte::WRITABLE)
    }
}

struct Chunk {
    used: u16,
    entries: [Pte; CHUNK as usize],
}

/// A table; keys are page numbers.
#[derive(Default)]
pub(super) struct Table {
    chunks: BTreeMap<u64, Box<Chunk>>,
    len: u64,
}

impl Table {
    /// Number of pages.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What the chunks take, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.chunks.len() * size_of::<Chunk>()) as u64
    }

    /// The entry of a page.
    pub(super) fn get(&self, page: u64) -> Pte {
        let chunk = self.chunks.get(&(page / CHUNK));
        chunk.and_then(|c| c.entries.get((page % CHUNK) as usize)).copied().unwrap_or_default()
    }

    /// Replaces an entry; returns the old one.
    pub(super) fn set(&mut self, page: u64, pte: Pte) -> Pte {
        let key = page / CHUNK;
        if pte.is_none() && !self.chunks.contains_key(&key) {
            return Pte::NONE;
        }
        let chunk = self
            .chunks
            .entry(key)
            .or_insert_with(|| Box::new(Chunk { used: 0, entries: [Pte::NONE; CHUNK as usize] }));
        let Some(slot) = chunk.entries.get_mut((page % CHUNK) as usize) else { return Pte::NONE };
        let old = core::mem::replace(slot, pte);
        match (old.is_none(), pte.is_none()) {
            (true, false) => {
                chunk.used += 1;
                self.len += 1;
            }
            (false, true) => {
                chunk.used -= 1;
                self.len -= 1;
            }
            _ => {}
        }
        if chunk.used == 0 {
            self.chunks.remove(&key);
        }
        old
    }

    /// Pages of the range that exist, in order.
    pub(super) fn range(&self, pages: Range<u64>) -> impl Iterator<Item = (u64, Pte)> + '_ {
        let keys = pages.start / CHUNK..pages.end.div_ceil(CHUNK).max(pages.start / CHUNK);
        self.chunks.range(keys).flat_map(move |(&key, chunk)| {
            let first = key * CHUNK;
            let from = pages.start.saturating_sub(first).min(CHUNK) as usize;
            let to = pages.end.saturating_sub(first).min(CHUNK) as usize;
            let entries = chunk.entries.get(from..to.max(from)).unwrap_or_default();
            entries
                .iter()
                .enumerate()
                .filter(|(_, pte)| !pte.is_none())
                .map(move |(i, &pte)| (first + (from + i) as u64, pte))
        })
    }

    /// Replaces every existing entry of the range by what `change` makes of it.
    pub(super) fn update(&mut self, pages: Range<u64>, mut change: impl FnMut(u64, Pte) -> Pte) {
        let keys = pages.start / CHUNK..pages.end.div_ceil(CHUNK).max(pages.start / CHUNK);
        let mut empty = false;
        for (&key, chunk) in self.chunks.range_mut(keys.clone()) {
            let first = key * CHUNK;
            let from = pages.start.saturating_sub(first).min(CHUNK) as usize;
            let to = pages.end.saturating_sub(first).min(CHUNK) as usize;
            let Some(entries) = chunk.entries.get_mut(from..to.max(from)) else { continue };
            for (i, pte) in entries.iter_mut().enumerate() {
                if pte.is_none() {
                    continue;
                }
                *pte = change(first + (from + i) as u64, *pte);
                if pte.is_none() {
                    chunk.used -= 1;
                    self.len -= 1;
                    empty |= chunk.used == 0;
                }
            }
        }
        if empty {
            let gone: alloc::vec::Vec<u64> =
                self.chunks.range(keys).filter(|(_, c)| c.used == 0).map(|(&k, _)| k).collect();
            for key in gone {
                self.chunks.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn entries_are_found_across_chunks() {
        let mut table = Table::default();
        for page in [0, 511, 512, 5000, 1 << 35] {
            assert!(table.set(page, Pte::new(Pfn(page as u32 & 0xffff))).is_none());
        }
        assert_eq!(table.len(), 5);
        assert_eq!(table.get(5000).pfn(), Some(Pfn(5000)));
        assert!(table.get(5001).is_none());
        let pages: Vec<u64> = table.range(1..5001).map(|(p, _)| p).collect();
        assert_eq!(pages, [511, 512, 5000]);
        assert_eq!(table.range(5..5).count(), 0);
        assert_eq!(table.range(512..512).count(), 0);
        table.update(511..513, |_, _| Pte::NONE);
        assert_eq!(table.len(), 3);
        assert_eq!(table.chunks.len(), 3);
        assert_eq!(table.set(0, Pte::NONE).pfn(), Some(Pfn(0)));
        assert_eq!(table.chunks.len(), 2);
    }

    #[test]
    fn flags_do_not_touch_the_frame() {
        let top = Pfn(MAX_FRAMES as u32 - 1);
        let pte = Pte::new(top).shown(true);
        assert!(pte.mapped() && pte.writable() && pte.pfn() == Some(top));
        assert!(!pte.shown(false).writable() && pte.read_only().mapped());
        assert_eq!(pte.hidden(), Pte::new(top));
    }
}
