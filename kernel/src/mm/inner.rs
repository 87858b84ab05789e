//! What an address space's lock protects.

use super::batch::Batch;
use super::constants::Constants;
use super::frames::Frames;
use super::gate::Slots;
use super::heap::Heap;
use super::lend;
use super::stash::Stash;
use super::table::{Pte, Table};
use super::vma::{Areas, Object, Vma, VmaFlags};
use crate::sync::MutexGuard;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use hal::{PAGE_SIZE, Prot, VmSpace};

/// An address space's lock, held. What guest code has taken of its own accord is in the tables then, and what it may not take any more it can't once the lock is free.
pub(super) struct Locked<'a> {
    inner: MutexGuard<'a, Inner>,
    space: &'a dyn VmSpace,
}

impl<'a> Locked<'a> {
    pub(super) fn new(mut inner: MutexGuard<'a, Inner>, space: &'a dyn VmSpace) -> Locked<'a> {
        for stock in lend::ALL {
            inner.note_taken(stock, || space.lent(stock));
        }
        Locked { inner, space }
    }
}

impl Deref for Locked<'_> {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        for stock in lend::ALL {
            if self.inner.stash.is_recalled(stock) {
                self.space.recall(stock);
            }
        }
    }
}

/// Sums over areas, in pages.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) total: u64,
    pub(super) data: u64,
    pub(super) stack: u64,
    pub(super) exec: u64,
    pub(super) locked: u64,
    pub(super) peak_total: u64,
    pub(super) peak_resident: u64,
}

pub(super) struct Inner {
    frames: Arc<Frames>,
    pub(super) areas: Areas,
    pub(super) table: Table,
    pub(super) heap: Heap,
    /// Below here mappings are placed, downwards.
    pub(super) mmap_base: u64,
    pub(super) sums: Sums,
    /// Flags that new areas get (`mlockall(MCL_FUTURE)`).
    pub(super) default_flags: VmaFlags,
    /// `MCL_ONFAULT`: new locked areas are not filled at once.
    pub(super) lock_on_fault: bool,
    /// The last page whose fault found nothing to do; the second time in a row it is mapped anew.
    pub(super) spurious: u64,
    /// Areas with slots of patched code.
    pub(super) slots: Vec<Slots>,
    pub(super) constants: Constants,
    pub(super) stash: Stash,
    /// How many times memory was mapped that guest code could have taken by itself.
    pub(super) takings: u32,
}

impl Inner {
    pub(super) fn new(frames: Arc<Frames>, mmap_base: u64) -> Inner {
        Inner {
            frames,
            areas: Areas::default(),
            table: Table::default(),
            heap: Heap::default(),
            mmap_base,
            sums: Sums::default(),
            default_flags: VmaFlags::empty(),
            lock_on_fault: false,
            spurious: u64::MAX,
            slots: Vec::new(),
            constants: Constants::default(),
            stash: Stash::default(),
            takings: 0,
        }
    }

    fn account(&mut self, vma: &Vma, sign: i64) {
        if vma.flags.contains(VmaFlags::INTERNAL) {
            return;
        }
        let pages = (vma.len() / PAGE_SIZE) as i64 * sign;
        let add = |to: &mut u64, on: bool| *to = to.saturating_add_signed(if on { pages } else { 0 });
        let sums = &mut self.sums;
        add(&mut sums.total, true);
        add(&mut sums.data, vma.is_data());
        add(&mut sums.stack, vma.flags.contains(VmaFlags::GROWSDOWN));
        add(&mut sums.exec, vma.prot.contains(Prot::EXEC) && !vma.can_write());
        add(&mut sums.locked, vma.flags.contains(VmaFlags::LOCKED));
        sums.peak_total = sums.peak_total.max(sums.total);
    }

    /// Adds an area in free space.
    pub(super) fn add(&mut self, vma: Vma) {
        self.account(&vma, 1);
        self.stash.displace(vma.start, vma.end);
        self.areas.insert(vma);
    }

    /// Takes areas out; their pages stay.
    pub(super) fn take(&mut self, start: u64, end: u64) -> Vec<Vma> {
        let taken = self.lift(start, end);
        self.stash.displace(start, end);
        self.areas.freed(end);
        taken
    }

    /// Takes areas out that come back to where they were.
    fn lift(&mut self, start: u64, end: u64) -> Vec<Vma> {
        let taken = self.areas.take(start, end);
        for vma in &taken {
            self.account(vma, -1);
        }
        taken
    }

    /// Changes areas of a range, cut at its ends.
    pub(super) fn change(&mut self, start: u64, end: u64, mut f: impl FnMut(&mut Vma)) {
        for mut vma in self.lift(start, end) {
            f(&mut vma);
            self.add(vma);
        }
    }

    /// Drops the pages of a range; what the machine shows there goes with the batch.
    pub(super) fn drop_pages(&mut self, start: u64, end: u64, batch: &mut Batch) -> Option<(u64, u64)> {
        let mut mapped: Option<(u64, u64)> = None;
        self.table.update(start / PAGE_SIZE..end / PAGE_SIZE, |page, pte| {
            if pte.mapped() {
                let at = page * PAGE_SIZE;
                mapped = Some((mapped.map_or(at, |m| m.0), at + PAGE_SIZE));
            }
            if let Some(pfn) = pte.pfn() {
                batch.put(pfn);
            }
            Pte::NONE
        });
        mapped
    }

    /// Removes everything in a range.
    pub(super) fn remove(&mut self, start: u64, end: u64, batch: &mut Batch) {
        let taken = self.take(start, end);
        if taken.is_empty() {
            return;
        }
        let mut shown = self.drop_pages(start, end, batch);
        for vma in taken.iter().filter(|v| v.shown && matches!(v.object, Object::Host(_))) {
            let (low, high) = shown.unwrap_or((vma.start, vma.end));
            shown = Some((low.min(vma.start), high.max(vma.end)));
        }
        // One change for all: holes are fine.
        if let Some((low, high)) = shown {
            batch.unmap(low, high - low);
        }
        if batch.removed.is_empty() {
            batch.removed = taken;
        } else {
            batch.removed.extend(taken);
        }
    }

    /// Whether an area in the range is sealed against changes (`mseal(2)`).
    pub(super) fn sealed(&self, start: u64, end: u64) -> bool {
        self.areas.overlapping(start, end).any(|v| v.flags.contains(VmaFlags::SEALED))
    }

    /// Notes the resident size for its high-water mark.
    pub(super) fn note_resident(&mut self) {
        self.sums.peak_resident = self.sums.peak_resident.max(self.table.len());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let all = 0..u64::MAX / PAGE_SIZE;
        self.frames.put_all(self.table.range(all).filter_map(|(_, pte)| pte.pfn()));
        self.stash.forget(&self.frames);
    }
}
