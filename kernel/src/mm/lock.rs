//! `mlock(2)` and its kin. There is no swap: locking fills a range and keeps `MADV_DONTNEED` away from it.

use super::map::may_lock;
use super::space::Mm;
use super::vma::VmaFlags;
use crate::error::{Result, err};
use crate::task::{Cap, Cx, Resource};
use abi::Errno;
use hal::PAGE_SIZE;

/// Which memory `mlockall(2)` locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockAll {
    /// What is mapped now.
    pub current: bool,
    /// What will be mapped.
    pub future: bool,
    /// Pages are filled when they are touched, not now.
    pub on_fault: bool,
}

impl Mm {
    /// `mlock2(2)` on whole pages. `ENOMEM` for holes and the limit, `EPERM` when nothing may be locked, `EAGAIN` when RAM is full.
    pub fn lock(&self, cx: &Cx, start: u64, end: u64, on_fault: bool) -> Result<()> {
        may_lock_at_all(cx)?;
        let mut inner = self.inner();
        let inner = &mut *inner;
        let already: u64 = inner
            .areas
            .overlapping(start, end)
            .filter(|v| v.flags.contains(VmaFlags::LOCKED))
            .map(|v| v.end.min(end) - v.start.max(start))
            .sum();
        let new = (end - start - already) / PAGE_SIZE;
        if !may_lock(cx, inner.sums.locked + new) {
            return err(Errno::ENOMEM);
        }
        let whole = inner.areas.covers(start, end);
        inner.change(start, end, |vma| vma.flags |= VmaFlags::LOCKED);
        if !whole {
            return err(Errno::ENOMEM);
        }
        if on_fault { Ok(()) } else { self.fill_areas(cx, inner, start, end) }
    }

    /// Fills locked areas of a range, with the errors that POSIX has `mlock` give.
    fn fill_areas(&self, cx: &Cx, inner: &mut super::inner::Inner, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end
            && let Some(vma) = inner.areas.find_from(at).filter(|v| v.start < end)
        {
            let (from, to) = (vma.start.max(at), vma.end.min(end));
            let write = vma.can_write() && !vma.is_shared();
            if vma.flags.contains(VmaFlags::LOCKED) {
                self.populate_locked(cx, inner, from, to, write).map_err(|e| match e.errno() {
                    Errno::ENOMEM => Errno::EAGAIN,
                    _ => Errno::ENOMEM,
                })?;
            }
            at = to;
        }
        Ok(())
    }

    /// `munlock(2)` on whole pages; `ENOMEM` for holes.
    pub fn unlock(&self, start: u64, end: u64) -> Result<()> {
        let mut inner = self.inner();
        let whole = inner.areas.covers(start, end);
        inner.change(start, end, |vma| vma.flags -= VmaFlags::LOCKED);
        if whole { Ok(()) } else { err(Errno::ENOMEM) }
    }

    /// `mlockall(2)`.
    pub fn lock_all(&self, cx: &Cx, what: LockAll) -> Result<()> {
        may_lock_at_all(cx)?;
        let mut inner = self.inner();
        let inner = &mut *inner;
        if what.current && !may_lock(cx, inner.sums.total) {
            return err(Errno::ENOMEM);
        }
        inner.default_flags = if what.future { VmaFlags::LOCKED } else { VmaFlags::empty() };
        if what.future {
            self.end_all_lending(inner);
        }
        inner.lock_on_fault = what.on_fault;
        if !what.current {
            return Ok(());
        }
        inner.change(0, self.user_limit, |vma| {
            vma.flags.set(VmaFlags::LOCKED, !vma.flags.contains(VmaFlags::INTERNAL))
        });
        if !what.on_fault {
            // Areas that can't be filled don't make it fail.
            let ranges: alloc::vec::Vec<(u64, u64)> =
                inner.areas.iter().filter(|v| v.fills()).map(|v| (v.start, v.end)).collect();
            for (start, end) in ranges {
                let _ = self.fill_areas(cx, inner, start, end);
            }
        }
        Ok(())
    }

    /// `munlockall(2)`.
    pub fn unlock_all(&self) {
        let mut inner = self.inner();
        inner.default_flags = VmaFlags::empty();
        inner.change(0, self.user_limit, |vma| vma.flags -= VmaFlags::LOCKED);
    }
}

fn may_lock_at_all(cx: &Cx) -> Result<()> {
    if cx.process().limit(Resource::Memlock) == 0 && !cx.task.creds().has(Cap::IpcLock) {
        return err(Errno::EPERM);
    }
    Ok(())
}
