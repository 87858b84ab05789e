//! Areas (VMAs): what an address space has where, split and merged as rights and attributes change.

use super::cache::PageCache;
use super::gaps::Gaps;
use crate::fs::OpenFile;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::ops::Range;
use hal::{HostFile, PAGE_SIZE, Prot};

/// Free space that is kept below a stack that may grow (`stack_guard_gap`): 256 pages.
pub(super) const GUARD_GAP: u64 = 256 * PAGE_SIZE;

/// Private areas up to this size, in pages, come whole: a library's data, a small allocation.
pub(super) const SMALL_AREA: u64 = 16;

bitflags! {
    /// Attributes of an area.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct VmaFlags: u32 {
        /// Stores reach the object.
        const SHARED = 1;
        /// Grows towards lower addresses when touched below its start.
        const GROWSDOWN = 2;
        /// Not counted against memory that exists.
        const NORESERVE = 4;
        /// `mlock(2)`.
        const LOCKED = 8;
        /// `MADV_DONTFORK`.
        const DONTFORK = 16;
        /// `MADV_WIPEONFORK`.
        const WIPEONFORK = 32;
        /// `MADV_DONTDUMP`.
        const DONTDUMP = 64;
        /// `MADV_HUGEPAGE`.
        const HUGEPAGE = 128;
        /// `MADV_NOHUGEPAGE`.
        const NOHUGEPAGE = 256;
        /// `MADV_SEQUENTIAL`.
        const SEQUENTIAL = 512;
        /// `MADV_RANDOM`.
        const RANDOM = 1024;
        /// `MADV_MERGEABLE`.
        const MERGEABLE = 2048;
        /// `mseal(2)`.
        const SEALED = 4096;
        /// `MADV_GUARD_INSTALL`: no page is there or can be made.
        const GUARD = 8192;
        /// The kernel's own in the process: not counted as memory of its, and nothing that it locks.
        const INTERNAL = 16384;
    }
}

/// What an area shows.
#[derive(Clone)]
pub(super) enum Object {
    /// Zeros until written, private.
    Anon,
    /// Pages in RAM that others may share.
    Cache(Arc<PageCache>),
    /// A host file.
    Host(Arc<dyn HostFile>),
}

/// The pages that the last fault made, which says how many the next one makes.
#[derive(Clone, Copy, Default)]
pub(super) struct Window {
    pub(super) start: u64,
    /// Its size in pages before it was cut to the area; 0 before the first.
    pub(super) pages: u32,
    /// Whether the next is expected below.
    pub(super) down: bool,
}

/// An area.
#[derive(Clone)]
pub(super) struct Vma {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) prot: Prot,
    /// What `mprotect` may give at most.
    pub(super) max_prot: Prot,
    pub(super) flags: VmaFlags,
    pub(super) object: Object,
    /// Where `start` is in the object, in bytes.
    pub(super) offset: u64,
    pub(super) file: Option<Arc<OpenFile>>,
    pub(super) name: &'static str,
    /// For host files: the machine shows the file in the whole area, but for pages that are [`super::table::Pte::mapped`].
    pub(super) shown: bool,
    /// For host files: the machine can't show it.
    pub(super) refused: bool,
    pub(super) window: Window,
}

impl Vma {
    /// Private memory without a name.
    pub(super) fn anonymous(start: u64, end: u64, prot: Prot, flags: VmaFlags) -> Vma {
        Vma {
            start,
            end,
            prot,
            max_prot: Prot::all(),
            flags,
            object: Object::Anon,
            offset: 0,
            file: None,
            name: "",
            shown: false,
            refused: false,
            window: Window::default(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }
    /// Where the free space below it ends: a growing stack keeps a gap.
    fn floor(&self) -> u64 {
        let gap = if self.flags.contains(VmaFlags::GROWSDOWN) { GUARD_GAP } else { 0 };
        self.start.saturating_sub(gap)
    }
    /// Its page numbers.
    pub(super) fn pages(&self) -> Range<u64> {
        self.start / PAGE_SIZE..self.end / PAGE_SIZE
    }
    pub(super) fn is_shared(&self) -> bool {
        self.flags.contains(VmaFlags::SHARED)
    }
    pub(super) fn can_write(&self) -> bool {
        self.prot.contains(Prot::WRITE)
    }
    /// Where this address is in the object, in bytes.
    pub(super) fn offset_of(&self, addr: u64) -> u64 {
        self.offset + (addr - self.start)
    }
    /// The rights that the machine is told: on x86 what may be written may be read.
    pub(super) fn host_prot(&self, writable: bool) -> Prot {
        match (self.can_write(), writable) {
            (true, true) => self.prot | Prot::READ,
            (true, false) => (self.prot | Prot::READ) - Prot::WRITE,
            (false, _) => self.prot,
        }
    }
    /// Whether it is private memory of few pages, which is worth making whole at once: a fault takes longer.
    pub(super) fn is_small_heap(&self) -> bool {
        matches!(self.object, Object::Anon)
            && !self.flags.contains(VmaFlags::GROWSDOWN)
            && self.len() <= SMALL_AREA * PAGE_SIZE
    }
    /// Whether the kernel counts it as data (`RLIMIT_DATA`).
    pub(super) fn is_data(&self) -> bool {
        self.can_write() && !self.is_shared() && !self.flags.contains(VmaFlags::GROWSDOWN)
    }

    /// Whether `next` can become part of this one.
    fn continues(&self, next: &Vma) -> bool {
        let same_object = match (&self.object, &next.object) {
            (Object::Anon, Object::Anon) => true,
            (Object::Cache(a), Object::Cache(b)) => {
                Arc::ptr_eq(a, b) && self.offset_of(self.end) == next.offset
            }
            (Object::Host(a), Object::Host(b)) => {
                Arc::ptr_eq(a, b)
                    && self.offset_of(self.end) == next.offset
                    && (self.shown, self.refused) == (next.shown, next.refused)
            }
            _ => false,
        };
        let same_file = match (&self.file, &next.file) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        self.end == next.start
            && self.prot == next.prot
            && self.max_prot == next.max_prot
            && self.flags == next.flags
            && self.name == next.name
            && same_object
            && same_file
    }
}

/// All areas of an address space, by start; they do not overlap.
#[derive(Default)]
pub(super) struct Areas {
    map: BTreeMap<u64, Vma>,
    gaps: Gaps,
}

impl Areas {
    /// Number of areas.
    pub(super) fn count(&self) -> usize {
        self.map.len()
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Vma> {
        self.map.values()
    }

    /// All, in order, to change attributes that are not addresses.
    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Vma> {
        self.map.values_mut()
    }

    /// The area that holds an address.
    pub(super) fn find(&self, addr: u64) -> Option<&Vma> {
        self.map.range(..=addr).next_back().map(|(_, v)| v).filter(|v| addr < v.end)
    }

    /// The area that holds an address, to change.
    pub(super) fn find_mut(&mut self, addr: u64) -> Option<&mut Vma> {
        self.map.range_mut(..=addr).next_back().map(|(_, v)| v).filter(|v| addr < v.end)
    }

    /// The first area that ends behind an address.
    pub(super) fn find_from(&self, addr: u64) -> Option<&Vma> {
        self.find(addr).or_else(|| self.map.range(addr..).next().map(|(_, v)| v))
    }

    /// The last area that ends at or before an address.
    pub(super) fn find_before(&self, addr: u64) -> Option<&Vma> {
        self.map.range(..addr).next_back().map(|(_, v)| v).filter(|v| v.end <= addr)
    }

    /// Areas that overlap a range, in order.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Vma> {
        let first = self.find(start).map_or(start, |v| v.start);
        self.map.range(first..end.max(first)).map(|(_, v)| v)
    }

    /// Whether areas cover the whole range.
    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for vma in self.overlapping(start, end) {
            if vma.start > at {
                return false;
            }
            at = vma.end;
        }
        at >= end
    }

    /// Cuts the area that goes across `at` into two.
    pub(super) fn split(&mut self, at: u64) {
        let Some(vma) = self.find_mut(at).filter(|v| v.start < at) else { return };
        let mut tail = vma.clone();
        tail.offset = vma.offset_of(at);
        tail.start = at;
        vma.end = at;
        self.map.insert(at, tail);
    }

    /// Takes out everything in the range, cutting areas at its ends.
    pub(super) fn take(&mut self, start: u64, end: u64) -> Vec<Vma> {
        if self.map.get(&start).is_some_and(|vma| vma.end == end) {
            return self.map.remove(&start).into_iter().collect();
        }
        self.split(start);
        self.split(end);
        let keys: Vec<u64> = self.map.range(start..end.max(start)).map(|(&k, _)| k).collect();
        keys.iter().filter_map(|k| self.map.remove(k)).collect()
    }

    /// Puts an area into free space, joined with its neighbours where they fit.
    pub(super) fn insert(&mut self, mut vma: Vma) {
        // In the guard gap of a stack it ends that gap, so that there is more room below.
        let above = self.map.range(vma.end..).next();
        if above.is_some_and(|(_, above)| above.floor() < vma.end) {
            self.gaps.freed(vma.start);
        }
        let joined =
            self.map.get(&vma.end).filter(|next| vma.continues(next)).map(|next| (next.start, next.end));
        if let Some((start, end)) = joined {
            self.map.remove(&start);
            vma.end = end;
        }
        if let Some(before) = self.find_mut(vma.start.wrapping_sub(1)).filter(|b| b.continues(&vma)) {
            before.end = vma.end;
            return;
        }
        self.map.insert(vma.start, vma);
    }

    /// Tells that a range has become free.
    pub(super) fn freed(&mut self, end: u64) {
        let next = self.map.range(end..).next().map_or(u64::MAX, |(&start, _)| start);
        self.gaps.freed(next);
    }

    /// Free space of `len` bytes in `low..high`, as high as possible. The guard gap of a growing stack stays free, if nothing is in it yet.
    pub(super) fn find_gap_below(&mut self, len: u64, low: u64, high: u64) -> Option<u64> {
        let from = self.gaps.top(len, high);
        let mut top = from;
        // What ends the gap may have grown or come since then.
        if let Some(above) = self.map.range(from..high).next().map(|(_, v)| v) {
            top = above.floor();
        }
        for vma in self.map.range(..from).rev().map(|(_, v)| v) {
            if vma.end <= top && top - vma.end >= len {
                break;
            }
            top = vma.floor();
        }
        self.gaps.found(len, top);
        // A stack just above the window keeps its gap, too.
        top.checked_sub(len).filter(|&at| at >= low)
    }

    /// Free space of `len` bytes in `low..high`, as low as possible.
    pub(super) fn find_gap_above(&self, len: u64, low: u64, high: u64) -> Option<u64> {
        let mut at = low;
        for vma in self.overlapping(low, high) {
            let gap = if vma.flags.contains(VmaFlags::GROWSDOWN) { GUARD_GAP } else { 0 };
            if vma.start.saturating_sub(gap) >= at.checked_add(len)? {
                return Some(at);
            }
            at = at.max(vma.end);
        }
        (at.checked_add(len)? <= high).then_some(at)
    }

    /// Whether `start..end` is free, with the guard gap of a growing stack above it.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        match self.find_from(start) {
            None => true,
            Some(vma) => {
                let gap = if vma.flags.contains(VmaFlags::GROWSDOWN) { GUARD_GAP } else { 0 };
                vma.start.saturating_sub(gap) >= end
            }
        }
    }
}
