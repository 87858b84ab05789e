//! `mremap(2)`: areas that grow, shrink and move with their pages.

use super::batch::Batch;
use super::fault::SHOW_CHANGES;
use super::inner::Inner;
use super::map::{may_lock, round_up};
use super::space::{MIN_ADDR, Mm};
use super::table::Pte;
use super::vma::{Object, Vma, VmaFlags};
use crate::error::{Result, err};
use crate::task::Cx;
use abi::Errno;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::ops::Range;
use hal::{PAGE_SIZE, VirtAddr};

/// How many moved pages are shown at their new place at most, and how many at a time.
const SHOW_MOVED: u64 = 1024;
const SHOW_STEP: u64 = 64;

bitflags! {
    /// `MREMAP_*` (`uapi/linux/mman.h`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RemapFlags: u32 {
        /// `MREMAP_MAYMOVE`.
        const MAYMOVE = 1;
        /// `MREMAP_FIXED`.
        const FIXED = 2;
        /// `MREMAP_DONTUNMAP`.
        const DONTUNMAP = 4;
        /// Anything.
        const _ = !0;
    }
}

/// What is to be moved, in whole pages.
#[derive(Clone, Copy)]
struct Old {
    start: u64,
    len: u64,
}

impl Mm {
    /// `mremap(2)`: where the mapping is afterwards. `EINVAL`, `EFAULT`, `ENOMEM`, `EAGAIN` (locked memory), `EPERM` (sealed).
    ///
    /// A range of several areas may only be moved as a whole to a fixed address (Linux 6.17). It is not undone when a part can't be moved.
    pub fn remap(
        &self,
        cx: &Cx,
        start: u64,
        old_len: u64,
        new_len: u64,
        flags: RemapFlags,
        to: u64,
    ) -> Result<VirtAddr> {
        if flags.contains(RemapFlags::FIXED) && old_len == new_len {
            let end = start.saturating_add(round_up(old_len)?);
            let parts = self.parts(start, end);
            if parts.len() > 1 {
                let apart = to >= end || to.saturating_add(end - start) <= start;
                if !apart || parts.first().is_none_or(|part| part.0 != start) {
                    return err(if apart { Errno::EFAULT } else { Errno::EINVAL });
                }
                for (from, until) in parts {
                    let len = until - from;
                    self.remap_one(cx, from, len, len, flags, to.saturating_add(from - start))?;
                }
                return Ok(VirtAddr(to));
            }
        }
        self.remap_one(cx, start, old_len, new_len, flags, to)
    }

    /// The areas within a range, cut to it.
    fn parts(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let inner = self.inner();
        inner.areas.overlapping(start, end).map(|vma| (vma.start.max(start), vma.end.min(end))).collect()
    }

    fn remap_one(
        &self,
        cx: &Cx,
        start: u64,
        old_len: u64,
        new_len: u64,
        flags: RemapFlags,
        to: u64,
    ) -> Result<VirtAddr> {
        use RemapFlags as F;
        let known = F::MAYMOVE | F::FIXED | F::DONTUNMAP;
        let must_move = flags.intersects(F::FIXED | F::DONTUNMAP);
        if !known.contains(flags)
            || must_move && !flags.contains(F::MAYMOVE)
            || !start.is_multiple_of(PAGE_SIZE)
        {
            return err(Errno::EINVAL);
        }
        if flags.contains(F::DONTUNMAP) && old_len != new_len {
            return err(Errno::EINVAL);
        }
        let (old_len, new_len) = (round_up(old_len)?, round_up(new_len)?);
        let old_end = start.checked_add(old_len).filter(|&e| e <= self.user_limit).ok_or(Errno::EINVAL)?;
        if new_len == 0 || new_len > self.user_limit {
            return err(Errno::EINVAL);
        }
        let old = Old { start, len: old_len };
        let mut batch = Batch::default();
        let mut inner = self.inner();
        let inner = &mut *inner;
        if flags.contains(F::FIXED) {
            let new_end = to.checked_add(new_len).filter(|&e| e <= self.user_limit).ok_or(Errno::EINVAL)?;
            if !to.is_multiple_of(PAGE_SIZE) || to < old_end && start < new_end {
                return err(Errno::EINVAL);
            }
            if to < MIN_ADDR {
                return err(Errno::EPERM);
            }
        }
        let vma = inner.areas.find(start).ok_or(Errno::EFAULT)?;
        if vma.flags.contains(VmaFlags::SEALED) {
            return err(Errno::EPERM);
        }
        if !flags.contains(F::FIXED) && !flags.contains(F::DONTUNMAP) && new_len <= old_len && old_len > 0 {
            if new_len < old_len {
                if inner.sealed(start + new_len, old_end) {
                    return err(Errno::EPERM);
                }
                inner.remove(start + new_len, old_end, &mut batch);
            }
            self.commit(cx.cpu(), inner, &mut batch)?;
            return Ok(VirtAddr(start));
        }
        if old_len == 0 && !vma.is_shared() {
            return err(Errno::EINVAL);
        }
        if old_len.min(new_len) > vma.end - start || new_len > old_len && old_len > vma.end - start {
            return err(Errno::EFAULT);
        }
        let vma = vma.clone();
        self.check_growth(cx, inner, &vma, old, new_len, flags)?;

        if !must_move && old_len > 0 && vma.end == old_end {
            let end = start + new_len;
            if end <= self.user_limit && inner.areas.is_free(old_end, end) {
                let mut tail = vma.clone();
                tail.offset = vma.offset_of(old_end);
                (tail.start, tail.end) = (old_end, end);
                inner.add(tail);
                self.fill_locked(cx, inner, &vma, old_end, end);
                return Ok(VirtAddr(start));
            }
        }
        if !flags.contains(F::MAYMOVE) {
            return err(Errno::ENOMEM);
        }
        if inner.areas.count() + 3 > cx.kernel.settings.max_map_count.size() {
            return err(Errno::ENOMEM);
        }
        let to = if flags.contains(F::FIXED) {
            if inner.sealed(to, to + new_len) {
                return err(Errno::EPERM);
            }
            inner.remove(to, to + new_len, &mut batch);
            to
        } else {
            let hint = if to.is_multiple_of(PAGE_SIZE) && to >= MIN_ADDR { to } else { 0 };
            let fits = hint.checked_add(new_len).is_some_and(|end| end <= self.user_limit);
            if hint != 0 && flags.contains(F::DONTUNMAP) && fits && inner.areas.is_free(hint, hint + new_len)
            {
                hint
            } else {
                let below = inner.areas.find_gap_below(new_len, MIN_ADDR, inner.mmap_base);
                let above = || inner.areas.find_gap_above(new_len, inner.mmap_base, self.user_limit);
                below.or_else(above).ok_or(Errno::ENOMEM)?
            }
        };
        move_area(inner, &vma, old, to, new_len, flags, &mut batch);
        self.show_moved(inner, &vma, to..to + old_len.min(new_len), &mut batch);
        self.commit(cx.cpu(), inner, &mut batch)?;
        self.fill_locked(cx, inner, &vma, to + old_len.min(new_len), to + new_len);
        Ok(VirtAddr(to))
    }

    /// Shows pages of RAM that were moved to these addresses: whoever needs more room for something is about to use it. Very many, and scattered ones, are left to faults.
    fn show_moved(&self, inner: &mut Inner, vma: &Vma, range: Range<u64>, batch: &mut Batch) {
        if matches!(vma.object, Object::Host(_)) {
            return;
        }
        let (mut page, end) = (range.start / PAGE_SIZE, range.end / PAGE_SIZE);
        let end = end.min(page + SHOW_MOVED);
        while page < end && batch.len() < SHOW_CHANGES {
            let next = end.min(page + SHOW_STEP);
            self.show(inner, page..next, false, batch);
            page = next;
        }
    }

    fn check_growth(
        &self,
        cx: &Cx,
        inner: &Inner,
        vma: &Vma,
        old: Old,
        new_len: u64,
        flags: RemapFlags,
    ) -> Result<()> {
        // A copy that leaves the old range mapped adds all of it.
        let stays = flags.contains(RemapFlags::DONTUNMAP);
        let grown = if stays { new_len } else { new_len.saturating_sub(old.len) };
        let offset = vma.offset_of(old.start);
        if !matches!(vma.object, Object::Anon)
            && offset.checked_add(new_len).is_none_or(|end| end > i64::MAX as u64)
        {
            return err(Errno::EINVAL);
        }
        if vma.flags.contains(VmaFlags::LOCKED) && !may_lock(cx, inner.sums.locked + grown / PAGE_SIZE) {
            return err(Errno::EAGAIN);
        }
        let unlocked = Vma { flags: vma.flags - VmaFlags::LOCKED, ..vma.clone() };
        self.check_room(cx, inner, &unlocked, grown)
    }

    /// Fills what a locked area gained; what can't be is left to faults.
    fn fill_locked(&self, cx: &Cx, inner: &mut Inner, vma: &Vma, start: u64, end: u64) {
        if vma.flags.contains(VmaFlags::LOCKED) && start < end {
            let write = vma.can_write() && !vma.is_shared();
            let _ = self.populate_locked(cx, inner, start, end, write);
        }
    }
}

/// Moves a part of one area and its pages to free space.
fn move_area(
    inner: &mut Inner,
    vma: &Vma,
    old: Old,
    to: u64,
    new_len: u64,
    flags: RemapFlags,
    batch: &mut Batch,
) {
    let moved = old.len.min(new_len);
    let mut twin = Vma { shown: false, ..vma.clone() };
    twin.offset = vma.offset_of(old.start);
    (twin.start, twin.end) = (to, to + new_len);

    let mut pages: Vec<(u64, Pte)> = Vec::new();
    let mut shown = (vma.shown && old.len > 0).then_some((old.start, old.start + old.len));
    inner.table.update(old.start / PAGE_SIZE..(old.start + moved) / PAGE_SIZE, |page, pte| {
        if pte.mapped() {
            let at = page * PAGE_SIZE;
            shown = Some(shown.map_or((at, at + PAGE_SIZE), |s| (s.0.min(at), s.1.max(at + PAGE_SIZE))));
        }
        pages.push((page, pte.hidden()));
        Pte::NONE
    });
    if let Some((low, high)) = shown {
        batch.unmap(low, high - low);
    }
    if flags.contains(RemapFlags::DONTUNMAP) {
        // The old range stays, empty and unlocked.
        inner.change(old.start, old.start + old.len, |v| {
            v.shown = false;
            v.flags -= VmaFlags::LOCKED;
        });
    } else if old.len > 0 {
        inner.remove(old.start, old.start + old.len, batch);
    }
    inner.add(twin);
    for (page, pte) in pages {
        inner.table.set(page - old.start / PAGE_SIZE + to / PAGE_SIZE, pte);
    }
}
