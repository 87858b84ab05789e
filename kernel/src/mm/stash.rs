//! Memory that was unmapped and may be wanted again at once.
//!
//! What the host takes for unmapping and mapping memory it mostly takes for the pages: more than half a microsecond each to take one out, and almost as much to put one in.
//! Programs that free large buffers, and C libraries that give the end of the heap back, do so again and again at the same addresses. So the last
//! private pages that were unmapped stay in the machine's address space, without any rights, and with their frames: taking rights away and giving them back is one
//! change whatever the number of pages. When memory is mapped there again they are zeroed and it has them from the start. Nobody else gets a frame before the
//! machine has stopped showing it.
//!
//! So does memory that lies ready for guest code to take by itself ([`super::lend`]).

use super::batch::Batch;
use super::frames::{Frames, Pfn};
use super::inner::Inner;
use super::space::Mm;
use super::table::Pte;
use super::vma::{Object, Vma, VmaFlags};
use crate::task::Cx;
use alloc::vec::Vec;
use core::mem::take;
use core::ops::Range;
use hal::{PAGE_SIZE, Prot, Stock};

/// The most pages of an address space that are kept, and in how many runs.
const MOST_PAGES: u32 = 64;
/// See [`MOST_PAGES`].
const MOST_RUNS: usize = 8;
/// How many pieces of files, and how many ranges without the right to write.
const MOST_HIDDEN: usize = 8;
const MOST_LOWERED: usize = 16;
/// None are kept when less than this part of RAM is free.
const SPARE_PART: u64 = 8;
/// The rights of memory whose pages are kept.
pub(super) const RIGHTS: Prot = Prot::READ.union(Prot::WRITE);

/// Pages and their frames, both in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) page: u64,
    pub(super) pfn: Pfn,
    pub(super) len: u32,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.page + u64::from(self.len)
    }

    fn frames(self) -> impl Iterator<Item = Pfn> {
        (0..self.len).map(move |i| self.pfn.plus(i))
    }

    /// Grows by one that begins where it ends, in both respects; whether that is one.
    fn join(&mut self, next: Run) -> bool {
        let goes_on = self.end() == next.page && self.pfn.plus(self.len) == next.pfn;
        if goes_on {
            self.len += next.len;
        }
        goes_on
    }
}

/// Which pages runs have that begin where the one before ends.
pub(super) fn pages_of(runs: &[Run]) -> Option<Range<u64>> {
    Some(runs.first()?.page..runs.last()?.end())
}

/// Runs in order, parted: those in front of a page and those from there on.
fn part(mut runs: Vec<Run>, page: u64) -> (Vec<Run>, Vec<Run>) {
    let mut rest = runs.split_off(runs.partition_point(|run| run.end() <= page));
    if let Some(run) = rest.first_mut()
        && let Some(len) = page.checked_sub(run.page).filter(|&len| len > 0)
    {
        let len = len as u32;
        runs.push(Run { len, ..*run });
        *run = Run { page, pfn: run.pfn.plus(len), len: run.len - len };
    }
    (runs, rest)
}

/// What an address space keeps.
#[derive(Default)]
pub(super) struct Stash {
    /// The oldest first.
    runs: Vec<Run>,
    /// What is to be taken out of the machine's address space before that shows anything else.
    displaced: Vec<Run>,
    /// The same of files, which nobody has rights to: where and how long, in bytes.
    hidden: Vec<(u64, u64)>,
    /// Ranges whose rights to write a thread was to give up itself, which nobody has checked.
    lowered: Vec<(u64, u64)>,
    /// What is lent, of each stock: runs that begin where the one before ends.
    lent: [Vec<Run>; 2],
    /// It is lent no longer, and the machine does not know yet.
    recalled: [bool; 2],
}

impl Stash {
    /// What lies in a range, in bytes, is kept no longer.
    pub(super) fn displace(&mut self, start: u64, end: u64) {
        let (first, last) = (start / PAGE_SIZE, end.div_ceil(PAGE_SIZE));
        let overlaps = |run: &mut Run| run.page < last && first < run.end();
        self.displaced.extend(self.runs.extract_if(.., overlaps));
        for (lent, recalled) in self.lent.iter_mut().zip(&mut self.recalled) {
            if lent.iter_mut().any(overlaps) {
                self.displaced.append(lent);
                *recalled = true;
            }
        }
    }

    fn stock(&mut self, stock: Stock) -> (&mut Vec<Run>, &mut bool) {
        let ([heap, maps], [heap_recalled, maps_recalled]) = (&mut self.lent, &mut self.recalled);
        match stock {
            Stock::Heap => (heap, heap_recalled),
            Stock::Maps => (maps, maps_recalled),
        }
    }

    /// Which pages are lent, if any are.
    pub(super) fn lent(&self, stock: Stock) -> Option<Range<u64>> {
        let [heap, maps] = &self.lent;
        pages_of(if stock == Stock::Heap { heap } else { maps })
    }

    /// This is lent from now on: runs that begin where the one before ends.
    pub(super) fn lend(&mut self, stock: Stock, mut runs: Vec<Run>) {
        runs.dedup_by(|next, run| run.join(*next));
        let (lent, recalled) = self.stock(stock);
        (*lent, *recalled) = (runs, false);
    }

    /// As many of so many of the next pages of that as there are, in order: they are lent no longer but in use.
    pub(super) fn take_lent(&mut self, stock: Stock, pages: u64) -> Vec<Run> {
        let Some(range) = self.lent(stock) else { return Vec::new() };
        let (lent, recalled) = self.stock(stock);
        let runs = take(lent);
        let taken;
        match stock {
            Stock::Heap => (taken, *lent) = part(runs, range.start.saturating_add(pages)),
            Stock::Maps => (*lent, taken) = part(runs, range.end.saturating_sub(pages)),
        }
        *recalled |= lent.is_empty();
        taken
    }

    /// What is lent is to be taken out.
    pub(super) fn displace_lent(&mut self, stock: Stock) {
        let (lent, recalled) = self.stock(stock);
        *recalled |= !lent.is_empty();
        let runs = take(lent);
        self.displaced.extend(runs);
    }

    /// Pages that are in use no longer lie ready in front of the heap's others, as far as `limit`; which of them do. What is beyond is to be taken out.
    pub(super) fn lend_before(&mut self, runs: Vec<Run>, limit: u64) -> Vec<Run> {
        let (ready, beyond) = part(runs, limit);
        let (others, more) = part(take(self.stock(Stock::Heap).0), limit);
        self.displaced.extend(beyond.into_iter().chain(more));
        self.lend(Stock::Heap, ready.iter().copied().chain(others).collect());
        ready
    }

    /// Whether the machine has to be told that nothing is lent any more. Then it has.
    pub(super) fn is_recalled(&mut self, stock: Stock) -> bool {
        take(self.stock(stock).1)
    }

    /// Makes room for so many pages and runs.
    fn make_room(&mut self, pages: u32, runs: usize) {
        while self.runs.len() + runs > MOST_RUNS
            || self.runs.iter().map(|run| run.len).sum::<u32>() + pages > MOST_PAGES
        {
            self.displaced.push(self.runs.remove(0));
        }
    }

    /// Whether nothing has to be taken out but pieces of files, and not too many.
    pub(super) fn has_room(&self) -> bool {
        self.displaced.is_empty() && self.hidden.len() < MOST_HIDDEN
    }

    /// A file was unmapped that the machine shows there without any rights.
    pub(super) fn leave_hidden(&mut self, at: u64, len: u64) {
        self.hidden.push((at, len));
    }

    /// Whether a thread may be told to give up the right to write to one more range.
    pub(super) fn may_lower(&self) -> bool {
        self.lowered.len() < MOST_LOWERED
    }

    /// It was told so.
    pub(super) fn lower(&mut self, at: u64, len: u64) {
        self.lowered.push((at, len));
    }

    /// To be called before a batch is applied: what was displaced goes with it.
    pub(super) fn leave(&mut self, batch: &mut Batch) {
        for (at, len) in self.hidden.drain(..) {
            batch.unmap_first(at, len);
        }
        for run in self.displaced.drain(..) {
            batch.unmap_first(run.page * PAGE_SIZE, u64::from(run.len) * PAGE_SIZE);
            run.frames().for_each(|pfn| batch.put(pfn));
        }
    }

    /// The machine shows nothing any more: gives all frames up.
    pub(super) fn forget(&mut self, frames: &Frames) {
        self.hidden.clear();
        self.lowered.clear();
        for (lent, recalled) in self.lent.iter().zip(&mut self.recalled) {
            *recalled |= !lent.is_empty();
        }
        let lent = take(&mut self.lent).into_iter().flatten();
        let all = take(&mut self.runs).into_iter().chain(take(&mut self.displaced)).chain(lent);
        frames.put_all(all.flat_map(Run::frames));
    }
}

impl Inner {
    /// Has the host take the right to write from pages that threads were to give it up for. A thread that has not would go on writing to what a copy of the process shares.
    pub(super) fn confirm_lowered(&mut self, batch: &mut Batch) {
        for (at, len) in take(&mut self.stash.lowered) {
            for (page, pte) in self.table.range(at / PAGE_SIZE..(at + len) / PAGE_SIZE) {
                let vma = self.areas.find(page * PAGE_SIZE);
                if let Some(vma) = vma.filter(|_| pte.mapped() && !pte.writable()) {
                    batch.protect(page * PAGE_SIZE, PAGE_SIZE, vma.host_prot(false));
                }
            }
        }
    }

    /// Removes everything in a range, as [`Inner::remove`] does, but keeps its pages if they are worth it.
    pub(super) fn put_away(&mut self, start: u64, end: u64, frames: &Frames, batch: &mut Batch) {
        let Some((runs, pages)) = self.worth_keeping(start, end, frames) else {
            return self.remove(start, end, batch);
        };
        self.take_out(start, end, batch);
        self.stash.make_room(pages, runs.len());
        for run in &runs {
            batch.protect(run.page * PAGE_SIZE, u64::from(run.len) * PAGE_SIZE, Prot::empty());
        }
        self.stash.runs.extend(runs);
    }

    /// Removes everything in a range, in bytes, but leaves its frames to the caller.
    pub(super) fn take_out(&mut self, start: u64, end: u64, batch: &mut Batch) {
        batch.removed = self.take(start, end);
        self.table.update(start / PAGE_SIZE..end / PAGE_SIZE, |_, _| Pte::NONE);
    }

    /// The pages of a part of one area that nobody else has, if there are such and not too many.
    fn worth_keeping(&self, start: u64, end: u64, frames: &Frames) -> Option<(Vec<Run>, u32)> {
        let runs = self.own_runs(start, end, frames, MOST_PAGES, MOST_RUNS)?;
        let pages = runs.iter().map(|run| run.len).sum();
        (pages > 0 && frames.available() > frames.total() / SPARE_PART).then_some((runs, pages))
    }

    /// The pages of a range, in bytes, if it is part of one area whose pages are kept, nobody else has any of them, and there are not too many.
    pub(super) fn own_runs(
        &self,
        start: u64,
        end: u64,
        frames: &Frames,
        most_pages: u32,
        most_runs: usize,
    ) -> Option<Vec<Run>> {
        if !self.areas.find(start).is_some_and(|vma| vma.end >= end && keeps(vma)) {
            return None;
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut pages = 0;
        for (page, pte) in self.table.range(start / PAGE_SIZE..end / PAGE_SIZE) {
            let pfn = pte.pfn().filter(|&pfn| pte.writable() && frames.count(pfn) == 1)?;
            let run = Run { page, pfn, len: 1 };
            if !runs.last_mut().is_some_and(|last| last.join(run)) {
                runs.push(run);
            }
            pages += 1;
            if pages > most_pages || runs.len() > most_runs {
                return None;
            }
        }
        Some(runs)
    }
}

/// Whether pages of such an area are kept, and an area like it gets them back.
pub(super) fn keeps(vma: &Vma) -> bool {
    const NOT: VmaFlags = VmaFlags::GROWSDOWN.union(VmaFlags::LOCKED).union(VmaFlags::SHARED);
    matches!(vma.object, Object::Anon)
        && vma.file.is_none()
        && vma.prot == RIGHTS
        && vma.max_prot.contains(RIGHTS)
        && !vma.flags.intersects(NOT)
}

impl Mm {
    /// Adds an area in free space. It gets the pages that were kept there.
    pub(super) fn add_with_pages(&self, inner: &mut Inner, vma: Vma, batch: &mut Batch) {
        let pages = vma.pages();
        let inside = |run: &mut Run| pages.start <= run.page && run.end() <= pages.end;
        let mut kept: Vec<Run> = match keeps(&vma) {
            true => inner.stash.runs.extract_if(.., inside).collect(),
            false => Vec::new(),
        };
        // In order, so that changes of what meets are one.
        kept.sort_unstable_by_key(|run| run.page);
        inner.add(vma);
        for run in kept {
            let bytes = u64::from(run.len) * PAGE_SIZE;
            self.machine.ram().zero(run.pfn.phys(), bytes);
            inner.table.put_run(run.page, run.pfn, run.len);
            inner.table.update(run.page..run.end(), |_, pte| pte.shown(true));
            batch.protect(run.page * PAGE_SIZE, bytes, RIGHTS);
        }
    }

    /// Gives up what it keeps; the number of frames. For when RAM is full.
    pub(super) fn empty_stash(&self, cx: &Cx) -> u64 {
        let mut batch = Batch::default();
        let mut inner = self.inner();
        let inner = &mut *inner;
        self.end_all_lending(inner);
        inner.stash.displace(0, u64::MAX);
        let frames = inner.stash.displaced.iter().map(|run| u64::from(run.len)).sum();
        // What can't be taken out because the host is dead harms nobody.
        let _ = self.commit(cx.cpu(), inner, &mut batch);
        frames
    }
}
