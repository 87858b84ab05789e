//! Making, removing and changing mappings: the work of `mmap`, `munmap` and `mprotect`.

use super::batch::Batch;
use super::cache::PageCache;
use super::fault::{Access, FaultError};
use super::frames::Pfn;
use super::inner::Inner;
use super::lend;
use super::space::{MIN_ADDR, MapFlags, MapRequest, Mm};
use super::table::Pte;
use super::vma::{Object, Vma, VmaFlags};
use crate::error::{Error, Result, err};
use crate::fs::Mappable;
use crate::task::{Cx, Resource};
use abi::Errno;
use core::ops::Range;
use hal::{PAGE_SIZE, Prot, Stock, VirtAddr};

/// The end of the space for `MAP_32BIT` mappings.
const LOW_LIMIT: u64 = 1 << 31;
/// `len` rounded up to pages; `ENOMEM` when that overflows.
pub(super) fn round_up(len: u64) -> Result<u64> {
    len.checked_next_multiple_of(PAGE_SIZE).ok_or(Error::from(Errno::ENOMEM))
}

impl Mm {
    /// `mmap(2)`, on this address space, which need not be the caller's. Limits are the caller's. `MAP_FIXED` replaces what is there,
    /// with `NOREPLACE` it is `EEXIST`. `ENOMEM`, `EINVAL`, `EPERM` (below the lowest address), `EOVERFLOW`.
    pub fn map(&self, cx: &Cx, request: MapRequest) -> Result<VirtAddr> {
        let (addr, flags) = (request.addr, request.flags);
        let mut vma = self.new_area(request)?;
        let len = vma.len();

        let mut batch = Batch::default();
        let mut inner = self.inner();
        let inner = &mut *inner;
        if !flags.contains(MapFlags::INTERNAL) {
            vma.flags |= inner.default_flags;
        }
        // Guest code could take it from what lies ready.
        let like_stock = addr == 0 && flags.is_empty() && lend::could_be_taken(&vma);
        let in_stock = if like_stock { self.place_in_stock(inner, len) } else { None };
        if like_stock && in_stock.is_none() {
            self.leave_rest(inner);
        }
        let at = match in_stock {
            Some(at) => at,
            None => self.place(inner, addr, len, flags)?,
        };
        (vma.start, vma.end) = (at, at + len);
        let replaced = if flags.contains(MapFlags::FIXED) { mapped_bytes(inner, at, at + len) } else { 0 };
        self.check_room(cx, inner, &vma, len - replaced)?;
        if inner.areas.count() >= cx.kernel.settings.max_map_count.size() {
            return err(Errno::ENOMEM);
        }
        // Elsewhere it was looked for free space.
        if flags.contains(MapFlags::FIXED) {
            if inner.sealed(at, at + len) {
                return err(Errno::EPERM);
            }
            inner.remove(at, at + len, &mut batch);
        }
        if let Object::Cache(cache) = &vma.object {
            cache.add_mapper(&self.me);
        }
        let fill = flags.contains(MapFlags::POPULATE)
            || vma.flags.contains(VmaFlags::LOCKED) && !inner.lock_on_fault;
        let writable = vma.can_write();
        let small = writable && vma.is_small_heap() && !flags.contains(MapFlags::LATER);
        let missing = if in_stock.is_some() {
            // Guest code would have it whole, had there been enough.
            self.add_lent(inner, Stock::Maps, vma, &mut batch)
        } else {
            let pages = vma.pages();
            self.add_with_pages(inner, vma, &mut batch);
            if small { pages } else { pages.end..pages.end }
        };
        if !missing.is_empty() {
            self.make_at_once(inner, missing, &mut batch);
        }
        if like_stock && self.lend_maps(cx, inner, at, &mut batch) {
            self.hurry_call(cx);
        }
        self.commit(cx.cpu(), inner, &mut batch)?;
        if like_stock {
            self.tell_lent(inner, Stock::Maps);
        }
        if fill {
            // What can't be filled is left to faults, as Linux does.
            let _ = self.populate_locked(cx, inner, at, at + len, writable);
        }
        Ok(VirtAddr(at))
    }

    /// The area that is asked for, at address 0.
    fn new_area(&self, request: MapRequest) -> Result<Vma> {
        let flags = request.flags;
        if request.len == 0 || !request.offset.is_multiple_of(PAGE_SIZE) {
            return err(Errno::EINVAL);
        }
        let len = round_up(request.len)?;
        if len > self.user_limit - MIN_ADDR {
            return err(Errno::ENOMEM);
        }
        if request.offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return err(Errno::EOVERFLOW);
        }
        let shared = flags.contains(MapFlags::SHARED);
        let object = match request.object {
            None | Some(Mappable::Zero) if !shared => Object::Anon,
            None | Some(Mappable::Zero) => {
                Object::Cache(PageCache::new(self.machine.clone(), self.frames.clone(), len))
            }
            Some(Mappable::Cache(cache)) => Object::Cache(cache),
            Some(Mappable::Host(file)) => Object::Host(file),
        };
        let mut vma_flags = VmaFlags::empty();
        vma_flags.set(VmaFlags::SHARED, shared);
        vma_flags.set(VmaFlags::GROWSDOWN, flags.contains(MapFlags::GROWSDOWN));
        vma_flags.set(VmaFlags::NORESERVE, flags.contains(MapFlags::NORESERVE));
        vma_flags.set(VmaFlags::LOCKED, flags.contains(MapFlags::LOCKED));
        if flags.contains(MapFlags::INTERNAL) {
            vma_flags |= VmaFlags::INTERNAL | VmaFlags::SEALED | VmaFlags::DONTFORK;
        }
        // A shared mapping of a file that is not open for writing never gets write access.
        let read_only =
            shared && request.file.as_ref().is_some_and(|f| !f.flags().writable() || f.file.write_sealed());
        let mut max_prot = match read_only {
            // What the process gets without asking it never gets more of.
            _ if flags.contains(MapFlags::INTERNAL) => request.prot,
            true => Prot::READ | Prot::EXEC,
            false => Prot::all(),
        };
        if matches!(&object, Object::Host(file) if !file.may_execute()) {
            max_prot -= Prot::EXEC;
            if request.prot.contains(Prot::EXEC) {
                return err(Errno::EPERM);
            }
        }
        // Anonymous areas that meet can be joined whatever their offsets.
        let joined = matches!(object, Object::Anon) && request.file.is_none();
        Ok(Vma {
            max_prot,
            object,
            offset: if joined { 0 } else { request.offset },
            file: request.file,
            name: request.name,
            ..Vma::anonymous(0, len, request.prot, vma_flags)
        })
    }

    /// Makes pages of a new area and shows them. What can't be is left to faults.
    fn make_at_once(&self, inner: &mut Inner, pages: Range<u64>, batch: &mut Batch) {
        if let Ok(made) = self.make(inner, pages.start, true, Some(pages), batch) {
            self.show(inner, made.pages, false, batch);
        }
    }

    /// Where memory goes that guest code would take from what lies ready, if there were enough.
    fn place_in_stock(&self, inner: &Inner, len: u64) -> Option<u64> {
        let end = inner.stash.lent(Stock::Maps)?.end * PAGE_SIZE;
        let at = end.checked_sub(len).filter(|&at| at >= MIN_ADDR)?;
        inner.areas.is_free(at, end).then_some(at)
    }

    /// Chooses the address.
    fn place(&self, inner: &mut Inner, addr: u64, len: u64, flags: MapFlags) -> Result<u64> {
        let limit = self.user_limit;
        if flags.contains(MapFlags::FIXED) {
            if !addr.is_multiple_of(PAGE_SIZE) {
                return err(Errno::EINVAL);
            }
            let end = addr.checked_add(len).filter(|&end| end <= limit).ok_or(Errno::ENOMEM)?;
            if addr < MIN_ADDR {
                return err(Errno::EPERM);
            }
            if flags.contains(MapFlags::NOREPLACE) && mapped_bytes(inner, addr, end) > 0 {
                return err(Errno::EEXIST);
            }
            return Ok(addr);
        }
        let hint = addr & !(PAGE_SIZE - 1);
        let high = if flags.contains(MapFlags::LOW) { LOW_LIMIT } else { limit };
        if hint >= MIN_ADDR
            && hint.checked_add(len).is_some_and(|end| end <= high && inner.areas.is_free(hint, end))
        {
            return Ok(hint);
        }
        let found = if flags.contains(MapFlags::LOW) {
            inner.areas.find_gap_above(len, 0x4000_0000, LOW_LIMIT)
        } else {
            // Above the base only when everything below is full, as Linux falls back to searching upwards.
            // And not where memory lies ready.
            let lent = inner.stash.lent(Stock::Maps);
            let mut below = inner.areas.find_gap_below(len, MIN_ADDR, inner.mmap_base);
            if let (Some(at), Some(lent)) = (below, lent)
                && at < lent.end * PAGE_SIZE
                && lent.start * PAGE_SIZE < at + len
            {
                below = inner.areas.find_gap_below(len, MIN_ADDR, lent.start * PAGE_SIZE).or(below);
            }
            below.or_else(|| inner.areas.find_gap_above(len, inner.mmap_base, limit))
        };
        found.ok_or(Errno::ENOMEM.into())
    }

    /// Limits and the overcommit heuristic for a new area that adds `len` bytes.
    pub(super) fn check_room(&self, cx: &Cx, inner: &Inner, vma: &Vma, len: u64) -> Result<()> {
        let pages = len / PAGE_SIZE;
        let limit = |resource| cx.process().limit(resource) / PAGE_SIZE;
        if inner.sums.total + pages > limit(Resource::As) {
            return err(Errno::ENOMEM);
        }
        if vma.is_data() && inner.sums.data + pages > limit(Resource::Data) {
            return err(Errno::ENOMEM);
        }
        if vma.flags.contains(VmaFlags::LOCKED) && !may_lock(cx, inner.sums.locked + pages) {
            return err(Errno::EAGAIN);
        }
        // The heuristic of vm.overcommit_memory=0: what can't ever fit is refused.
        let counted = match vma.object {
            Object::Anon => vma.can_write(),
            Object::Cache(_) => vma.file.is_none(),
            Object::Host(_) => vma.can_write() && !vma.is_shared(),
        };
        let unchecked =
            vma.flags.contains(VmaFlags::NORESERVE) || cx.kernel.settings.overcommit_memory.get() == 1;
        if counted && !unchecked && pages > self.frames.total() {
            return Err(Error::new(Errno::ENOMEM, "larger than all of RAM"));
        }
        Ok(())
    }

    /// `munmap(2)`.
    pub fn unmap(&self, cx: &Cx, start: u64, len: u64) -> Result<()> {
        let end = self.range(start, len)?;
        if start == end {
            return err(Errno::EINVAL);
        }
        let mut batch = Batch::default();
        let mut inner = self.inner();
        let inner = &mut *inner;
        let splits = inner.areas.find(start).is_some_and(|v| v.start < start && v.end > end);
        if splits && inner.areas.count() >= cx.kernel.settings.max_map_count.size() {
            return err(Errno::ENOMEM);
        }
        if inner.sealed(start, end) {
            return err(Errno::EPERM);
        }
        self.note_unmapping(inner, start);
        inner.put_away(start, end, &self.frames, &mut batch);
        // What can't be taken out because the host is dead harms nobody.
        self.commit_freed(cx, inner, &mut batch)?;
        Ok(())
    }

    /// The end of a page range given as `start` and `len`; `EINVAL` when it is not one.
    pub(super) fn range(&self, start: u64, len: u64) -> Result<u64> {
        if !start.is_multiple_of(PAGE_SIZE) {
            return err(Errno::EINVAL);
        }
        let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
        start.checked_add(len).filter(|&end| end <= self.user_limit).ok_or(Errno::EINVAL.into())
    }

    /// `mprotect(2)`. Where the range has holes, what lies before them is changed, and then it is `ENOMEM`.
    pub fn protect(&self, cx: &Cx, start: u64, len: u64, prot: Prot) -> Result<()> {
        if !start.is_multiple_of(PAGE_SIZE) {
            return err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let len = round_up(len)?;
        // What lies before the first hole is changed, however far the range goes.
        let end = start.checked_add(len).ok_or(Errno::ENOMEM)?;
        let mut inner = self.inner();
        let inner = &mut *inner;
        if inner.sealed(start, end) {
            return err(Errno::EPERM);
        }
        let mut batch = Batch::default();
        let mut at = start;
        let mut result = Ok(());
        while at < end {
            let Some(vma) = inner.areas.find(at) else {
                result = err(Errno::ENOMEM);
                break;
            };
            if !vma.max_prot.contains(prot) {
                result = err(Errno::EACCES);
                break;
            }
            let becomes_data = prot.contains(Prot::WRITE) && !vma.can_write() && !vma.is_shared();
            let to = vma.end.min(end);
            let data = inner.sums.data + (to - at) / PAGE_SIZE;
            if becomes_data && data > cx.process().limit(Resource::Data) / PAGE_SIZE {
                result = err(Errno::ENOMEM);
                break;
            }
            if vma.prot != prot {
                protect_area(inner, at, to, prot, &mut batch);
            }
            at = to;
        }
        self.commit_freed(cx, inner, &mut batch)?;
        result
    }

    /// The start of the area that holds an address, if it is one that grows downwards.
    pub fn stack_start(&self, addr: u64) -> Option<u64> {
        let inner = self.inner();
        inner.areas.find(addr).filter(|v| v.flags.contains(VmaFlags::GROWSDOWN)).map(|v| v.start)
    }

    /// Makes the pages of a range exist and shows them; `EFAULT` or `ENOMEM` at the first that can't be.
    pub fn populate(&self, cx: &Cx, start: u64, end: u64, write: bool) -> Result<()> {
        self.populate_locked(cx, &mut self.inner(), start, end, write)
    }

    /// The same with the lock held.
    pub(super) fn populate_locked(
        &self,
        cx: &Cx,
        inner: &mut Inner,
        start: u64,
        end: u64,
        write: bool,
    ) -> Result<()> {
        Ok(self.populate_pages(cx, inner, start, end, write)?)
    }

    /// The same, with the reason.
    pub(super) fn populate_pages(
        &self,
        cx: &Cx,
        inner: &mut Inner,
        start: u64,
        end: u64,
        write: bool,
    ) -> Result<(), FaultError> {
        const STEP: u64 = 512;
        let mut page = start / PAGE_SIZE;
        let last = end.div_ceil(PAGE_SIZE);
        let mut batch = Batch::default();
        let mut result = Ok(());
        while page < last {
            let access = if write { Access::Write } else { Access::Read };
            let made = self
                .area(cx, inner, page * PAGE_SIZE, access)
                .and_then(|()| self.make(inner, page, write, Some(page..last.min(page + STEP)), &mut batch));
            match made {
                Ok(made) => {
                    let next = made.pages.end.max(page + 1);
                    self.show(inner, page.min(made.pages.start)..next, false, &mut batch);
                    page = next;
                }
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        inner.note_resident();
        self.commit(cx.cpu(), inner, &mut batch)?;
        result
    }

    /// Takes out pages that a cache has given up: all in this range of it, or only those frames of it.
    pub(super) fn forget_cache_pages(
        &self,
        cx: &Cx,
        cache: &PageCache,
        pages: &Range<u64>,
        only: Option<&[(u64, Pfn)]>,
    ) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut batch = Batch::default();
        let Inner { areas, table, .. } = inner;
        for vma in areas.iter() {
            let Object::Cache(object) = &vma.object else { continue };
            if !core::ptr::eq(&**object, cache) {
                continue;
            }
            let first = vma.offset / PAGE_SIZE;
            let own = vma.pages();
            let low = own.start + pages.start.saturating_sub(first);
            let high = own.end.min(own.start.saturating_add(pages.end.saturating_sub(first)));
            table.update(low..high.max(low), |page, pte| {
                let index = first + (page - own.start);
                let Some(pfn) = pte.pfn() else { return pte };
                if only.is_some_and(|only| only.binary_search(&(index, pfn)).is_err()) {
                    return pte;
                }
                if pte.mapped() {
                    batch.unmap(page * PAGE_SIZE, PAGE_SIZE);
                }
                batch.put(pfn);
                Pte::NONE
            });
        }
        // A dead address space shows nothing to anybody.
        let _ = self.commit(cx.cpu(), inner, &mut batch);
    }
}

/// Whether so many pages may be locked.
pub(super) fn may_lock(cx: &Cx, pages: u64) -> bool {
    pages <= cx.process().limit(Resource::Memlock) / PAGE_SIZE
        || cx.task.creds().has(crate::task::Cap::IpcLock)
}

/// How much of a range is mapped, in bytes.
fn mapped_bytes(inner: &Inner, start: u64, end: u64) -> u64 {
    inner.areas.overlapping(start, end).map(|v| v.end.min(end) - v.start.max(start)).sum()
}

/// Changes the rights of a part of one area. Rights that only grow by write access are left to the next fault.
fn protect_area(inner: &mut Inner, start: u64, end: u64, prot: Prot, batch: &mut Batch) {
    if prot.contains(Prot::WRITE) {
        super::gate::restore(inner, start, end, batch);
    }
    let Some(old) = inner.areas.find(start) else { return };
    let (old_prot, old_host, shown) = (old.prot, old.host_prot(false), old.shown);
    let shared = old.is_shared();
    inner.change(start, end, |vma| vma.prot = prot);
    let Some(vma) = inner.areas.find(start) else { return };
    let host = vma.host_prot(shown && shared);
    let pages = start / PAGE_SIZE..end / PAGE_SIZE;
    let mut mapped = shown.then_some((start, end));
    let mut was_writable = shown && shared && old_prot.contains(Prot::WRITE);
    for (page, pte) in inner.table.range(pages.clone()).filter(|(_, pte)| pte.mapped()) {
        let at = page * PAGE_SIZE;
        mapped = Some(mapped.map_or((at, at + PAGE_SIZE), |m| (m.0.min(at), m.1.max(at + PAGE_SIZE))));
        was_writable |= pte.writable();
    }
    let Some((low, high)) = mapped else { return };
    if prot.is_empty() {
        // Nothing is shown without rights; the pages stay.
        batch.unmap(low, high - low);
        inner.table.update(pages, |_, pte| pte.hidden());
        inner.change(start, end, |vma| vma.shown = false);
        return;
    }
    let now_writable = prot.contains(Prot::WRITE);
    let same_but_write = host - Prot::WRITE == old_host - Prot::WRITE;
    if same_but_write && (!was_writable || now_writable) && !(shown && shared) {
        return;
    }
    if same_but_write && was_writable == now_writable {
        return;
    }
    if shown {
        batch.protect(low, high - low, host);
    }
    inner.table.update(pages, |page, pte| {
        // Runs of what the machine shows, with no hole between: a file is shown whole, memory page by page.
        if !shown && pte.mapped() {
            batch.protect(page * PAGE_SIZE, PAGE_SIZE, host);
        }
        pte.read_only()
    });
}
