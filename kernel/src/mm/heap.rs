//! The heap: the work of `brk`.
//!
//! C libraries give back the end of the heap as soon as much of it is free, and many programs ask for it again at once: for each file that they
//! compress, say. So what was there when the heap shrank is made and shown when it grows again, by one change instead of a trap for each window.
//! Others ask for more in steps that are shorter than a window could be by then. So the step that follows memory which is in use comes at once, too; and the first pages of a
//! heap, which are asked for because somebody is about to write there.

use super::batch::Batch;
use super::inner::Inner;
use super::lend;
use super::space::Mm;
use super::vma::{Vma, VmaFlags};
use crate::task::Cx;
use core::ops::Range;
use hal::{PAGE_SIZE, Prot, Stock};

/// How many pages are made again at once, from the lowest on: the guest may not touch them this time.
const AGAIN: u64 = 64;

/// Where the heap is.
#[derive(Clone, Default)]
pub(super) struct Heap {
    pub(super) start: u64,
    /// In bytes, as the guest said it.
    pub(super) end: u64,
    /// From the first to the last page that was there behind the end, before that came down.
    left: Range<u64>,
    /// How often it has grown; up to [`lend::AFTER`] / 2 before it shrank last.
    pub(super) growths: u32,
}

impl Heap {
    /// Notes that the heap shrinks by pages of which these, in order, were there.
    fn shrunk(&mut self, mut there: impl DoubleEndedIterator<Item = u64>) {
        let Some(first) = there.next() else { return };
        // It shrinks in steps, each below the one before.
        let high = if self.left.is_empty() { there.next_back().unwrap_or(first) + 1 } else { self.left.end };
        self.left = first..high;
    }

    /// Which pages to make now that the heap reaches up to page `end`.
    fn grown(&mut self, end: u64) -> Range<u64> {
        let again = self.left.start..self.left.end.min(end).min(self.left.start + AGAIN);
        self.left.start = self.left.start.max(end);
        again
    }
}

impl Mm {
    /// Sets where the heap starts (`execve`); it is empty.
    pub fn set_brk_start(&self, start: u64) {
        self.inner().heap = Heap { start, end: start, ..Heap::default() };
    }

    /// Where the heap starts and ends.
    pub fn heap(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.heap.start, inner.heap.end)
    }

    /// `brk(2)`: the end of the heap afterwards, unchanged when it can't be there.
    pub fn brk(&self, cx: &Cx, to: u64) -> u64 {
        // Before the lock: what it removes is dropped after it.
        let mut batch = Batch::default();
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Heap { start, end, .. } = inner.heap;
        if to < start || to > self.user_limit {
            return end;
        }
        let (Some(old), Some(new)) =
            (end.checked_next_multiple_of(PAGE_SIZE), to.checked_next_multiple_of(PAGE_SIZE))
        else {
            return end;
        };
        let done = match new {
            _ if new < old => self.shrink_heap(cx, inner, new, old, &mut batch),
            _ if new > old => self.grow_heap(cx, inner, old, new),
            _ => true,
        };
        if !done {
            return end;
        }
        inner.heap.end = to;
        self.tell_lent(inner, Stock::Heap);
        to
    }

    fn shrink_heap(&self, cx: &Cx, inner: &mut Inner, new: u64, old: u64, batch: &mut Batch) -> bool {
        if inner.sealed(new, old) {
            return false;
        }
        if !self.lend_again(inner, new, old, batch) {
            let there = inner.table.range(new / PAGE_SIZE..old / PAGE_SIZE).map(|(page, _)| page);
            inner.heap.shrunk(there);
            self.end_lending(inner, Stock::Heap);
            inner.heap.growths = inner.heap.growths.min(lend::AFTER / 2);
            inner.put_away(new, old, &self.frames, batch);
        }
        self.commit_freed(cx, inner, batch).is_ok()
    }

    fn grow_heap(&self, cx: &Cx, inner: &mut Inner, old: u64, new: u64) -> bool {
        let vma = Vma::anonymous(old, new, Prot::READ | Prot::WRITE, inner.default_flags);
        // One page stays free in front of the next mapping.
        if !inner.areas.is_free(old, new.saturating_add(PAGE_SIZE))
            || self.check_room(cx, inner, &vma, new - old).is_err()
        {
            return false;
        }
        let mut batch = Batch::default();
        let rest = self.add_lent(inner, Stock::Heap, vma, &mut batch);
        let again = inner.heap.grown(new / PAGE_SIZE);
        // Whatever can't be made now is made when it is touched.
        let locked = inner.default_flags.contains(VmaFlags::LOCKED);
        if locked {
            // Below.
        } else if again.is_empty() {
            let first = inner.heap.start.div_ceil(PAGE_SIZE);
            self.go_on(inner, rest, first, &mut batch);
        } else if self.frames.available() > 4 * AGAIN {
            self.make_again(inner, again, &mut batch);
        }
        inner.heap.growths = inner.heap.growths.saturating_add(1);
        if self.lend_heap(cx, inner, new, &mut batch) {
            self.hurry_call(cx);
        }
        let _ = self.commit(cx.cpu(), inner, &mut batch);
        if locked && !inner.lock_on_fault {
            let _ = self.populate_locked(cx, inner, old, new, true);
        }
        true
    }

    /// Makes and shows those of these pages that do not exist.
    fn make_again(&self, inner: &mut Inner, pages: Range<u64>, batch: &mut Batch) {
        let mut page = pages.start;
        while let Some(missing) = (page..pages.end).find(|&page| inner.table.get(page).is_none()) {
            let Ok(made) = self.make(inner, missing, true, Some(missing..pages.end), batch) else { break };
            page = made.pages.end.max(missing + 1);
            self.show(inner, made.pages, false, batch);
        }
        inner.note_resident();
    }
}
