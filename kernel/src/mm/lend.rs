//! Memory that lies ready for guest code: `brk` and `mmap` through the machine's gate take it without the kernel.
//!
//! A C library has its heap grow in steps of a few pages and maps larger pieces one by one, each by a call, and by a change of the machine's address space that somebody has to be woken for. So where
//! a process goes on doing so, as much again as it has lies ready behind its heap, and below what was mapped last: mapped, but guarded ([`hal::Populate::Lent`]), so that whoever writes there finds
//! nothing, as ever. The gate takes the guards away as far as the call says, and says so in memory that it shares with us.
//!
//! What it says there is guest memory. It is looked at whenever the address space is locked ([`super::inner::Locked`]), and believed as far as there is something lent: a process that says anything
//! else has more memory. Only a process with one thread is lent something, so that nobody takes of it while the kernel changes what is there; the one exception is a machine whose RAM is full.

use super::batch::Batch;
use super::inner::Inner;
use super::space::{MIN_ADDR, Mm};
use super::stash::{RIGHTS, Run, keeps, pages_of};
use super::vma::{Object, Vma};
use crate::task::{Cx, Resource};
use core::ops::Range;
use hal::{PAGE_SIZE, Stock};

/// All stocks.
pub(super) const ALL: [Stock; 2] = [Stock::Heap, Stock::Maps];
/// How many times a heap grows before it is lent something, half as often once it has shrunk; and how often memory is mapped.
pub(super) const AFTER: u32 = 4;
const AFTER_MAPS: u32 = 8;
/// It counts up to there, and an `munmap` of such memory counts as so many times less: what is mapped again at once is kept for that ([`super::stash`]).
const MOST_MAPS: u32 = 32;
const UNMAPPING: u32 = 4;
/// How many pages are lent, at least and at most: for the heap as many as it has, for mappings this part of all.
const HEAP: (u64, u64) = (64, 512);
/// The most that a heap is lent when it has shrunk, and of how many runs of frames what it gives up may be.
const HEAP_AGAIN: u64 = 2048;
const MOST_RUNS: usize = 16;
const MAPS: (u64, u64) = (64, 1024);
const MAPS_PART: u64 = 4;
/// The largest mapping that may be taken from there, in bytes.
const LARGEST: u64 = MAPS.1 * PAGE_SIZE;
/// Nothing is lent when less than this part of RAM would be left.
const SPARE_PART: u64 = 4;

/// Whether guest code could take such an area by itself, if it may be anywhere.
pub(super) fn could_be_taken(vma: &Vma) -> bool {
    matches!(vma.object, Object::Anon) && (vma.prot, vma.name) == (RIGHTS, "") && vma.len() <= LARGEST
}

impl Inner {
    /// Enters what guest code has taken of what it was lent; `at` is where it says that the rest begins.
    pub(super) fn note_taken(&mut self, stock: Stock, at: impl FnOnce() -> Option<u64>) {
        let Some(lent) = self.stash.lent(stock) else { return };
        let Some(at) = at() else { return };
        let pages = match stock {
            Stock::Heap => {
                let old = self.heap.end;
                if at <= old || at > lent.end * PAGE_SIZE {
                    return;
                }
                self.heap.end = at;
                at.div_ceil(PAGE_SIZE) - old.div_ceil(PAGE_SIZE)
            }
            Stock::Maps if at.is_multiple_of(PAGE_SIZE) && at / PAGE_SIZE >= lent.start => {
                lent.end.saturating_sub(at / PAGE_SIZE)
            }
            Stock::Maps => return,
        };
        let taken = self.stash.take_lent(stock, pages);
        if let Some(pages) = pages_of(&taken) {
            if stock == Stock::Maps {
                self.count_taking();
            }
            let (start, end) = (pages.start * PAGE_SIZE, pages.end * PAGE_SIZE);
            self.add(Vma::anonymous(start, end, RIGHTS, self.default_flags));
            taken.iter().for_each(|run| self.table.put_run(run.page, run.pfn, run.len));
            self.table.update(pages, |_, pte| pte.shown(true));
            self.note_resident();
        }
    }

    fn count_taking(&mut self) {
        self.takings = (self.takings + 1).min(MOST_MAPS);
    }
}

impl Mm {
    /// Adds an area in free space whose first pages, as the stock goes, are those that are lent, and shows these. Which pages are left.
    pub(super) fn add_lent(
        &self,
        inner: &mut Inner,
        stock: Stock,
        vma: Vma,
        batch: &mut Batch,
    ) -> Range<u64> {
        let pages = vma.pages();
        // They are lent no longer when the area comes, which takes the place of what is.
        let taken = inner.stash.take_lent(stock, pages.end - pages.start);
        self.add_with_pages(inner, vma, batch);
        let Some(shown) = pages_of(&taken) else { return pages };
        for run in taken {
            inner.table.put_run(run.page, run.pfn, run.len);
            batch.fresh(run.pfn, run.len);
        }
        self.show(inner, shown.clone(), false, batch);
        match stock {
            Stock::Heap => shown.end..pages.end,
            Stock::Maps => pages.start..shown.start,
        }
    }

    /// Has memory lie ready behind a heap that has just grown up to `end`, if that is worth it. Whether it does so from now on.
    pub(super) fn lend_heap(&self, cx: &Cx, inner: &mut Inner, end: u64, batch: &mut Batch) -> bool {
        let pages = (end - inner.heap.start).div_ceil(PAGE_SIZE).clamp(HEAP.0, HEAP.1);
        // One page stays free in front of the next mapping.
        let free = inner.areas.is_free(end, end.saturating_add((pages + 1) * PAGE_SIZE));
        let may = inner.heap.growths >= AFTER && free && end + pages * PAGE_SIZE <= self.user_limit;
        may && self.lend(cx, inner, Stock::Heap, end / PAGE_SIZE..end / PAGE_SIZE + pages, batch)
    }

    /// The same below memory that has just been mapped.
    pub(super) fn lend_maps(&self, cx: &Cx, inner: &mut Inner, start: u64, batch: &mut Batch) -> bool {
        inner.count_taking();
        let pages = (inner.table.len() / MAPS_PART).clamp(MAPS.0, MAPS.1);
        let Some(low) = start.checked_sub(pages * PAGE_SIZE).filter(|&low| low >= MIN_ADDR) else {
            return false;
        };
        let may = inner.takings >= AFTER_MAPS && inner.areas.is_free(low, start);
        may && self.lend(cx, inner, Stock::Maps, low / PAGE_SIZE..start / PAGE_SIZE, batch)
    }

    fn lend(&self, cx: &Cx, inner: &mut Inner, stock: Stock, pages: Range<u64>, batch: &mut Batch) -> bool {
        let unlimited = |resource| cx.process().limit(resource) == u64::MAX;
        let wanted = pages.end - pages.start;
        if inner.stash.lent(stock).is_some()
            || !self.space.lends()
            || !cx.kernel.patches()
            || !inner.default_flags.is_empty()
            || !unlimited(Resource::As)
            || !unlimited(Resource::Data)
            || cx.shares_memory()
            || !self.can_spare(wanted)
        {
            return false;
        }
        let after = inner.table.get(pages.start.wrapping_sub(1)).pfn().filter(|_| stock == Stock::Heap);
        let Some((pfn, len)) = self.frames.alloc_ready(wanted as u32, after) else { return false };
        let page = if stock == Stock::Heap { pages.start } else { pages.end - u64::from(len) };
        let run = Run { page, pfn, len };
        // What is kept there is kept no longer.
        inner.stash.displace(page * PAGE_SIZE, run.end() * PAGE_SIZE);
        batch.lend(page * PAGE_SIZE, u64::from(len) * PAGE_SIZE, pfn);
        inner.stash.lend(stock, alloc::vec![run]);
        true
    }

    /// The pages that a heap gives up, from `start` to `end` in bytes, lie ready as those behind them do: most heaps that shrink grow again. Whether it is so once the batch is applied.
    pub(super) fn lend_again(&self, inner: &mut Inner, start: u64, end: u64, batch: &mut Batch) -> bool {
        if inner.stash.lent(Stock::Heap).is_none() || !self.can_spare(0) {
            return false;
        }
        let pages = start / PAGE_SIZE..end / PAGE_SIZE;
        let Some(runs) = inner.own_runs(start, end, &self.frames, u32::MAX, MOST_RUNS) else { return false };
        let there: u64 = runs.iter().map(|run| u64::from(run.len)).sum();
        if there < pages.end - pages.start {
            return false;
        }
        inner.take_out(start, end, batch);
        for run in inner.stash.lend_before(runs, pages.start + HEAP_AGAIN) {
            let len = u64::from(run.len) * PAGE_SIZE;
            self.machine.ram().zero(run.pfn.phys(), len);
            batch.lend(run.page * PAGE_SIZE, len, run.pfn);
        }
        true
    }

    /// Whether RAM is left when so many frames lie ready.
    fn can_spare(&self, frames: u64) -> bool {
        self.frames.available() > self.frames.total() / SPARE_PART + frames
    }

    /// What lies here is unmapped.
    pub(super) fn note_unmapping(&self, inner: &mut Inner, start: u64) {
        if inner.takings > 0 && inner.areas.find(start).is_some_and(keeps) {
            inner.takings = inner.takings.saturating_sub(UNMAPPING);
            if inner.takings < AFTER_MAPS {
                self.end_lending(inner, Stock::Maps);
            }
        }
    }

    /// What is left for mappings was not enough for one, and something lies below it: if it is little, it is lent no longer.
    pub(super) fn leave_rest(&self, inner: &mut Inner) {
        if inner.stash.lent(Stock::Maps).is_some_and(|rest| rest.end - rest.start < MAPS.0) {
            inner.stash.displace_lent(Stock::Maps);
        }
    }

    /// Tells the machine where what is lent begins now, if something is.
    pub(super) fn tell_lent(&self, inner: &Inner, stock: Stock) {
        let Some(pages) = inner.stash.lent(stock) else { return };
        match stock {
            Stock::Heap => self.space.lend(stock, inner.heap.end, pages.end * PAGE_SIZE),
            Stock::Maps => self.space.lend(stock, pages.end * PAGE_SIZE, pages.start * PAGE_SIZE),
        }
    }

    /// Lends nothing of this any more, while guest code may run.
    pub(super) fn end_lending(&self, inner: &mut Inner, stock: Stock) {
        if inner.stash.lent(stock).is_some() {
            let at = self.space.recall(stock);
            inner.note_taken(stock, || at);
            inner.stash.displace_lent(stock);
        }
    }

    /// The same of all.
    pub(super) fn end_all_lending(&self, inner: &mut Inner) {
        ALL.into_iter().for_each(|stock| self.end_lending(inner, stock));
    }

    /// The same for somebody else: before a second thread has the address space, and when a limit of it has changed.
    pub(crate) fn recall_lent(&self) {
        self.end_all_lending(&mut self.inner());
    }
}
