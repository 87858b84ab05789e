//! Memory behind the heap, lent to guest code: `brk` through the machine's gate takes it without the kernel.
//!
//! A C library has its heap grow in steps of a few pages, each a call, and a change of the machine's address space by somebody who has to be woken for it. So when a heap
//! goes on growing, as much again as it has lies ready behind its end: mapped, but guarded ([`hal::Populate::Lent`]), so that whoever writes beyond the end finds nothing there, as ever. The gate
//! takes the guards away as far as the call says, and moves the end in memory that it shares with us.
//!
//! What it says there is guest memory. It is looked at whenever the address space is locked ([`super::inner::Locked`]), and believed as far as there is something lent: a process that says anything
//! else has a larger heap. Only a process with one thread is lent something, so that nobody moves the end while the kernel changes what is behind it; the one exception is a machine whose RAM is full.

use super::batch::Batch;
use super::inner::Inner;
use super::space::Mm;
use super::stash::{RIGHTS, Run};
use super::vma::Vma;
use crate::task::{Cx, Resource};
use core::ops::Range;
use hal::PAGE_SIZE;

/// How many times a heap grows before it is lent something; half as often once it has shrunk.
pub(super) const AFTER: u32 = 4;
/// How many pages are lent, at least and at most: as many as the heap has.
const LENT: (u64, u64) = (64, 256);
/// Nothing is lent when less than this part of RAM would be left.
const SPARE_PART: u64 = 4;

impl Inner {
    /// Enters what guest code has taken of what it was lent; `end` is where it says that the heap ends.
    pub(super) fn note_growth(&mut self, end: impl FnOnce() -> Option<u64>) {
        let Some(lent) = self.stash.lent() else { return };
        let old = self.heap.end;
        let Some(end) = end().filter(|&end| old < end && end <= lent.end() * PAGE_SIZE) else { return };
        self.heap.end = end;
        let pages = end.div_ceil(PAGE_SIZE) - old.div_ceil(PAGE_SIZE);
        if let Some(taken) = self.stash.take_lent(pages) {
            self.add(Vma::anonymous(
                taken.page * PAGE_SIZE,
                taken.end() * PAGE_SIZE,
                RIGHTS,
                self.default_flags,
            ));
            self.table.put_run(taken.page, taken.pfn, taken.len);
            self.table.update(taken.page..taken.end(), |_, pte| pte.shown(true));
            self.note_resident();
        }
    }
}

impl Mm {
    /// The heap grows by these pages, and they are in an area: those that are lent come first. Where the others begin.
    pub(super) fn grow_into_lent(&self, inner: &mut Inner, grown: &Range<u64>, batch: &mut Batch) -> u64 {
        let Some(taken) = inner.stash.take_lent(grown.end - grown.start) else { return grown.start };
        inner.table.put_run(taken.page, taken.pfn, taken.len);
        batch.fresh(taken.pfn, taken.len);
        self.show(inner, taken.page..taken.end(), false, batch);
        taken.end()
    }

    /// Has memory lie ready behind a heap that has just grown up to `end`, if that is worth it.
    pub(super) fn lend(&self, cx: &Cx, inner: &mut Inner, end: u64, batch: &mut Batch) {
        let unlimited = |resource| cx.process().limit(resource) == u64::MAX;
        if inner.heap.growths < AFTER
            || inner.stash.lent().is_some()
            || !self.space.lends_heaps()
            || !cx.kernel.patches()
            || !inner.default_flags.is_empty()
            || !unlimited(Resource::As)
            || !unlimited(Resource::Data)
            || cx.shares_memory()
        {
            return;
        }
        let pages = (end - inner.heap.start).div_ceil(PAGE_SIZE).clamp(LENT.0, LENT.1);
        let len = pages * PAGE_SIZE;
        // One page stays free in front of the next mapping.
        let free = inner.areas.is_free(end, end.saturating_add(len + PAGE_SIZE));
        let room = self.frames.available() > self.frames.total() / SPARE_PART + pages;
        if !free || !room || end + len > self.user_limit {
            return;
        }
        let last = inner.table.get(end / PAGE_SIZE - 1).pfn();
        let Some((pfn, len, _)) = self.frames.alloc_zeroed(pages as u32, last) else { return };
        batch.lend(end, u64::from(len) * PAGE_SIZE, pfn);
        inner.stash.lend(Run { page: end / PAGE_SIZE, pfn, len });
    }

    /// Whether guest code takes memory for its heap by itself.
    pub(crate) fn lends(&self) -> bool {
        self.inner().stash.lent().is_some()
    }

    /// Tells the machine where the heap ends now, if something is lent behind it.
    pub(super) fn tell_lent(&self, inner: &Inner) {
        if let Some(lent) = inner.stash.lent() {
            self.space.lend_heap(inner.heap.end, lent.end() * PAGE_SIZE);
        }
    }

    /// Lends nothing any more, while guest code may run.
    pub(super) fn end_lending(&self, inner: &mut Inner) {
        if let Some(lent) = inner.stash.lent() {
            let end = self.space.recall_heap();
            inner.note_growth(|| end);
            inner.stash.displace(lent.page * PAGE_SIZE, lent.end() * PAGE_SIZE);
        }
    }

    /// The same for somebody else: before a second thread has the address space, and when a limit of it has changed.
    pub(crate) fn recall_heap(&self) {
        self.end_lending(&mut self.inner());
    }
}
