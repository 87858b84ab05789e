//! Advice and questions about ranges: the work of `madvise`, `mincore` and `msync`.

use super::batch::{Batch, What};
use super::cache::PageCache;
use super::fault::FaultError;
use super::inner::Inner;
use super::space::Mm;
use super::table::Pte;
use super::vma::{Object, Vma, VmaFlags};
use crate::error::{Result, err};
use crate::task::Cx;
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hal::{HostFile, PAGE_SIZE, Prot};

/// What `madvise(2)` can ask for, as far as it does anything here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// Sets and clears attributes of areas.
    Flags {
        /// To set.
        set: VmaFlags,
        /// To clear.
        clear: VmaFlags,
    },
    /// Nothing to do, but the range is checked.
    Hint,
    /// `MADV_COLD`, `MADV_PAGEOUT`: nothing to do, but not for locked memory.
    Reclaim,
    /// `MADV_DONTNEED`; locked memory, too, for `MADV_DONTNEED_LOCKED`.
    DontNeed {
        /// Whether locked memory is dropped, too.
        locked: bool,
    },
    /// `MADV_FREE`: done at once.
    Free,
    /// `MADV_REMOVE`.
    Remove,
    /// `MADV_GUARD_INSTALL`: like `MADV_DONTNEED`, and an access is `SIGSEGV` from then on. Differs from Linux: guarded parts are
    /// areas of their own, and not for mappings of host files.
    Guard,
    /// `MADV_WIPEONFORK`.
    WipeOnFork,
    /// `MADV_POPULATE_READ`, `MADV_POPULATE_WRITE`.
    Populate {
        /// Whether the pages are made for writing.
        write: bool,
    },
}

impl Mm {
    /// `madvise(2)` on whole pages. Holes are skipped and then it is `ENOMEM`. `EINVAL`, `EACCES`, `EPERM`, `EFAULT`.
    pub fn advise(&self, cx: &Cx, start: u64, end: u64, advice: Advice) -> Result<()> {
        if let Advice::Populate { write } = advice {
            return self.advise_populate(cx, start, end, write);
        }
        let mut holes: Vec<(Arc<PageCache>, u64, u64)> = Vec::new();
        let result = {
            let mut batch = Batch::default();
            let mut inner = self.inner();
            let inner = &mut *inner;
            let result = advise_areas(inner, start, end, advice, &mut batch, &mut holes);
            self.commit(cx.cpu(), inner, &mut batch)?;
            result
        };
        // Not with our lock held: every address space that shows the object is locked in turn.
        for (cache, from, len) in holes {
            cache.punch(cx, from, len);
        }
        result
    }

    fn advise_populate(&self, cx: &Cx, start: u64, end: u64, write: bool) -> Result<()> {
        let mut inner = self.inner();
        match self.populate_pages(cx, &mut inner, start, end, write) {
            Ok(()) => Ok(()),
            Err(FaultError::NoArea) => err(Errno::ENOMEM),
            Err(FaultError::Denied) => err(Errno::EINVAL),
            Err(FaultError::Bus) => err(Errno::EFAULT),
            Err(FaultError::NoMemory) => err(Errno::ENOMEM),
            Err(FaultError::Dead(_)) => err(Errno::EFAULT),
        }
    }

    /// `mincore(2)`: calls `each` with one value per page. `ENOMEM` when part of the range is not mapped.
    pub fn resident(&self, start: u64, end: u64, mut each: impl FnMut(bool)) -> Result<()> {
        let inner = self.inner();
        if !inner.areas.covers(start, end) {
            return err(Errno::ENOMEM);
        }
        let mut at = start;
        while let Some(vma) = inner.areas.find(at).filter(|_| at < end) {
            let to = vma.end.min(end);
            for page in at / PAGE_SIZE..to / PAGE_SIZE {
                let here = !inner.table.get(page).is_none();
                each(match &vma.object {
                    Object::Anon => here,
                    // The host's page cache is as good as memory.
                    Object::Host(_) => true,
                    Object::Cache(cache) => {
                        here || cache.has_page(vma.offset_of(page * PAGE_SIZE) / PAGE_SIZE)
                    }
                });
            }
            at = to;
        }
        Ok(())
    }

    /// Host files that are mapped shared in the range, for `msync(2)`; and whether it has holes, and locked areas.
    pub fn shared_files(&self, start: u64, end: u64) -> (Vec<Arc<dyn HostFile>>, bool, bool) {
        let inner = self.inner();
        let mut files = Vec::new();
        let mut locked = false;
        for vma in inner.areas.overlapping(start, end) {
            locked |= vma.flags.contains(VmaFlags::LOCKED);
            if let Object::Host(file) = &vma.object
                && vma.is_shared()
            {
                files.push(file.clone());
            }
        }
        (files, !inner.areas.covers(start, end), locked)
    }

    /// `mseal(2)`; `ENOMEM` when part of the range is not mapped.
    pub fn seal(&self, start: u64, end: u64) -> Result<()> {
        let mut inner = self.inner();
        if !inner.areas.covers(start, end) {
            return err(Errno::ENOMEM);
        }
        inner.change(start, end, |vma| vma.flags |= VmaFlags::SEALED);
        Ok(())
    }
}

fn advise_areas(
    inner: &mut Inner,
    start: u64,
    end: u64,
    advice: Advice,
    batch: &mut Batch,
    holes: &mut Vec<(Arc<PageCache>, u64, u64)>,
) -> Result<()> {
    let mut at = start;
    let mut hole = false;
    while at < end {
        let Some(vma) = inner.areas.find_from(at).filter(|v| v.start < end) else {
            hole = true;
            break;
        };
        hole |= vma.start > at;
        let (from, to) = (vma.start.max(at), vma.end.min(end));
        let locked = vma.flags.contains(VmaFlags::LOCKED);
        let private_anonymous = matches!(vma.object, Object::Anon);
        match advice {
            Advice::Flags { set, clear } => {
                let flags = (vma.flags - clear) | set;
                if flags != vma.flags {
                    inner.change(from, to, |v| v.flags = flags);
                }
            }
            Advice::WipeOnFork if !private_anonymous => return err(Errno::EINVAL),
            Advice::WipeOnFork => inner.change(from, to, |v| v.flags |= VmaFlags::WIPEONFORK),
            Advice::Hint => {}
            Advice::Guard if locked || matches!(vma.object, Object::Host(_)) => return err(Errno::EINVAL),
            Advice::Guard => {
                discard(inner, from, to, batch);
                inner.change(from, to, |v| v.flags |= VmaFlags::GUARD);
            }
            Advice::Reclaim if locked => return err(Errno::EINVAL),
            Advice::Reclaim => {}
            Advice::DontNeed { locked: false } if locked => return err(Errno::EINVAL),
            Advice::Free if !private_anonymous => return err(Errno::EINVAL),
            Advice::DontNeed { .. } | Advice::Free => {
                // Dropping what could not be written is a change, too (mseal(2)).
                if vma.flags.contains(VmaFlags::SEALED) && !vma.is_shared() && !vma.can_write() {
                    return err(Errno::EPERM);
                }
                discard(inner, from, to, batch);
            }
            Advice::Remove => match &vma.object {
                _ if locked => return err(Errno::EINVAL),
                Object::Cache(_) | Object::Host(_)
                    if !vma.is_shared() || !vma.max_prot.contains(Prot::WRITE) =>
                {
                    return err(Errno::EACCES);
                }
                Object::Cache(cache) => holes.push((cache.clone(), vma.offset_of(from), to - from)),
                Object::Host(_) => return err(Errno::EOPNOTSUPP),
                Object::Anon => return err(Errno::EINVAL),
            },
            Advice::Populate { .. } => {}
        }
        at = to;
    }
    if hole { err(Errno::ENOMEM) } else { Ok(()) }
}

/// Drops the pages of a part of one area; they come back as the object has them.
pub(super) fn discard(inner: &mut Inner, start: u64, end: u64, batch: &mut Batch) {
    let Some(vma) = inner.areas.find(start) else { return };
    let file = match &vma.object {
        Object::Host(file) if vma.shown => Some((file.clone(), vma.clone())),
        _ => None,
    };
    let Some((file, vma)) = file else {
        if let Some((low, high)) = inner.drop_pages(start, end, batch) {
            batch.unmap(low, high - low);
        }
        return;
    };
    // The file shows again where copies of its pages were.
    let remap = |from: u64, to: u64, batch: &mut Batch| {
        let shared = vma.is_shared();
        let what = What::File { file: file.clone(), offset: vma.offset_of(from), shared };
        batch.map(from, to - from, vma.host_prot(shared), what);
    };
    let mut run: Option<(u64, u64)> = None;
    inner.table.update(start / PAGE_SIZE..end / PAGE_SIZE, |page, pte| {
        let at = page * PAGE_SIZE;
        if pte.mapped() {
            match &mut run {
                Some((_, to)) if *to == at => *to += PAGE_SIZE,
                other => {
                    if let Some((from, to)) = other.replace((at, at + PAGE_SIZE)) {
                        remap(from, to, batch);
                    }
                }
            }
        }
        if let Some(pfn) = pte.pfn() {
            batch.put(pfn);
        }
        Pte::NONE
    });
    if let Some((from, to)) = run {
        remap(from, to, batch);
    }
}

impl Vma {
    /// Whether `mlock` has anything to fill here.
    pub(super) fn fills(&self) -> bool {
        !self.prot.is_empty()
    }
}
