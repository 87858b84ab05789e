//! Page tables: which frame each page of an address space, or of a cache, has.
//!
//! Chunks of up to 512 entries of four bytes, made where needed; one is as long as its last page asks for, so that a small file has a small table. A table does not count references: whoever puts an entry in or
//! takes one out does.

use super::frames::Pfn;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
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

/// Entries of a chunk at least.
const SMALL: usize = 8;

#[derive(Default)]
struct Chunk {
    used: u16,
    /// Those behind the end are [`Pte::NONE`].
    entries: Vec<Pte>,
}

impl Chunk {
    /// The entry with this index, which is below [`CHUNK`].
    fn entry(&mut self, index: usize) -> Option<&mut Pte> {
        if index >= self.entries.len() {
            let len = (index + 1).next_power_of_two().max(SMALL);
            self.entries.reserve_exact(len - self.entries.len());
            self.entries.resize(len, Pte::NONE);
        }
        self.entries.get_mut(index)
    }

    /// Where pages of a range lie in the chunk whose first page is `first`.
    fn part(&self, first: u64, pages: &Range<u64>) -> Range<usize> {
        let len = self.entries.len();
        let index = |page: u64| (page.saturating_sub(first).min(CHUNK) as usize).min(len);
        index(pages.start)..index(pages.end).max(index(pages.start))
    }
}

/// A table; keys are page numbers.
#[derive(Default)]
pub(super) struct Table {
    chunks: BTreeMap<u64, Chunk>,
    len: u64,
    /// The chunk that became empty last. It stays: where memory comes and goes, the next comes to the same place.
    vacant: Option<u64>,
}

impl Table {
    /// Number of pages.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What the chunks take, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.chunks.values().map(|c| (size_of::<Chunk>() + c.entries.len() * size_of::<Pte>()) as u64).sum()
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
        let chunk = self.chunks.entry(key).or_default();
        let Some(slot) = chunk.entry((page % CHUNK) as usize) else { return Pte::NONE };
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
            self.vacate(key);
        }
        old
    }

    /// Puts in pages from `first` on that did not exist, with `count` frames from `pfn` on.
    pub(super) fn put_run(&mut self, first: u64, pfn: Pfn, count: u32) {
        let end = first + u64::from(count);
        let mut page = first;
        while page < end {
            let to = end.min((page / CHUNK + 1) * CHUNK);
            let chunk = self.chunks.entry(page / CHUNK).or_default();
            // The last one first, so that the chunk grows once.
            chunk.entry(((to - 1) % CHUNK) as usize);
            let slots = chunk.entries.get_mut((page % CHUNK) as usize..).unwrap_or_default();
            let mut new = 0;
            for (slot, page) in slots.iter_mut().zip(page..to) {
                new += u16::from(slot.is_none());
                *slot = Pte::new(pfn.plus((page - first) as u32));
            }
            chunk.used += new;
            self.len += u64::from(new);
            page = to;
        }
    }

    /// A chunk has no entries any more.
    fn vacate(&mut self, key: u64) {
        let before = self.vacant.replace(key).filter(|before| *before != key);
        if let Some(before) = before
            && self.chunks.get(&before).is_some_and(|chunk| chunk.used == 0)
        {
            self.chunks.remove(&before);
        }
    }

    /// Pages of the range that exist, in order.
    pub(super) fn range(&self, pages: Range<u64>) -> impl DoubleEndedIterator<Item = (u64, Pte)> + '_ {
        let keys = pages.start / CHUNK..pages.end.div_ceil(CHUNK).max(pages.start / CHUNK);
        self.chunks.range(keys).flat_map(move |(&key, chunk)| {
            let first = key * CHUNK;
            let part = chunk.part(first, &pages);
            let from = part.start;
            let entries = chunk.entries.get(part).unwrap_or_default();
            entries
                .iter()
                .enumerate()
                .filter(|(_, pte)| !pte.is_none())
                .map(move |(i, &pte)| (first + (from + i) as u64, pte))
        })
    }

    /// Where the run of pages begins, at `limit` at the earliest, that ends in front of `page` and that this is true of.
    pub(super) fn run_before(&self, page: u64, limit: u64, like: impl Fn(Pte) -> bool) -> u64 {
        let mut start = page;
        for (at, pte) in self.range(limit..page).rev() {
            if at + 1 != start || !like(pte) {
                break;
            }
            start = at;
        }
        start
    }

    /// Where the run of pages ends, at `limit` at the latest, that begins with `page` and that this is true of.
    pub(super) fn run_from(&self, page: u64, limit: u64, like: impl Fn(Pte) -> bool) -> u64 {
        let mut end = page;
        for (at, pte) in self.range(page..limit) {
            if at != end || !like(pte) {
                break;
            }
            end = at + 1;
        }
        end
    }

    /// Replaces every existing entry of the range by what `change` makes of it.
    pub(super) fn update(&mut self, pages: Range<u64>, mut change: impl FnMut(u64, Pte) -> Pte) {
        let keys = pages.start / CHUNK..pages.end.div_ceil(CHUNK).max(pages.start / CHUNK);
        let mut empty = 0;
        let mut last = 0;
        for (&key, chunk) in self.chunks.range_mut(keys.clone()) {
            let first = key * CHUNK;
            let part = chunk.part(first, &pages);
            let from = part.start;
            let Some(entries) = chunk.entries.get_mut(part) else { continue };
            for (i, pte) in entries.iter_mut().enumerate() {
                if pte.is_none() {
                    continue;
                }
                *pte = change(first + (from + i) as u64, *pte);
                if pte.is_none() {
                    chunk.used -= 1;
                    self.len -= 1;
                    if chunk.used == 0 {
                        (empty, last) = (empty + 1, key);
                    }
                }
            }
        }
        if empty > 0 {
            self.vacate(last);
        }
        if empty > 1 {
            let gone = self.chunks.range(keys).filter(|(key, c)| c.used == 0 && **key != last);
            let gone: Vec<u64> = gone.map(|(&key, _)| key).collect();
            for key in gone {
                self.chunks.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        // The last one that became empty stays.
        assert_eq!(table.chunks.len(), 4);
        assert_eq!(table.set(0, Pte::NONE).pfn(), Some(Pfn(0)));
        assert_eq!(table.chunks.len(), 3);
        table.update(0..1 << 36, |_, _| Pte::NONE);
        assert_eq!((table.len(), table.chunks.len()), (0, 1));
        assert_eq!(table.range(0..1 << 36).count(), 0);
    }

    #[test]
    fn runs_go_across_chunks() {
        let mut table = Table::default();
        table.put_run(510, Pfn(7), 1030);
        assert_eq!((table.len(), table.chunks.len()), (1030, 4));
        assert_eq!(table.get(1539).pfn(), Some(Pfn(7 + 1029)));
        assert_eq!(table.range(500..2000).map(|(page, _)| page).next_back(), Some(1539));
        assert!(table.get(509).is_none() && table.get(1540).is_none());
        table.update(510..1540, |_, _| Pte::NONE);
        assert_eq!((table.len(), table.chunks.len()), (0, 1));
    }

    #[test]
    fn a_small_table_takes_little() {
        let mut table = Table::default();
        table.set(3, Pte::new(Pfn(1)));
        assert!(table.bytes() < 100, "{}", table.bytes());
        assert!(table.get(300).is_none());
        assert!(table.set(300, Pte::NONE).is_none());
        table.set(300, Pte::new(Pfn(2)));
        assert_eq!(table.range(0..512).map(|(page, _)| page).collect::<Vec<_>>(), [3, 300]);
        assert_eq!(table.range(301..600).count(), 0);
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
