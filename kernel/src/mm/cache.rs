//! The pages of one file-like object in RAM: tmpfs files, memfds, shared anonymous memory.
//!
//! Lock order: below every [`super::Mm`], above the frames. No lock is held while bytes go to or come from a [`Sink`] or
//! [`Source`], because those may be user memory that shows this very object. Address spaces that map the object are known
//! weakly, so that pages that go away leave them, too.

use super::frames::{Fill, Pfn};
use super::space::Mm;
use super::table::{Pte, Table};
use super::view::{Shown, Times};
use super::{Frame, Frames};
use crate::error::{Error, Result, err};
use crate::sync::{Mutex, MutexGuard};
use crate::task::Cx;
use crate::user::{Sink, Source};
use abi::Errno;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use hal::{Machine, PAGE_SIZE, PhysAddr};

/// The most pages of an object: its size is at most what `off_t` holds.
const MAX_PAGES: u64 = i64::MAX as u64 / PAGE_SIZE;

/// How many pages the objects of one file system may have together, and how many they have.
pub struct Quota {
    max: u64,
    used: AtomicU64,
}

impl Quota {
    /// At most this many pages; `u64::MAX` for no limit but RAM.
    pub fn new(max: u64) -> Arc<Quota> {
        Arc::new(Quota { max, used: AtomicU64::new(0) })
    }

    /// The limit; `u64::MAX` for none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Pages that exist now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts one page in, if there is room for it.
    fn charge(&self) -> bool {
        let more = |used: u64| if used < self.max { used.checked_add(1) } else { None };
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn release(&self, pages: u64) {
        self.used.fetch_sub(pages, Ordering::Relaxed);
    }
}

/// Why a page cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    /// The object's file system has reached its limit.
    Quota,
    /// RAM is full.
    Ram,
}

impl From<Full> for Error {
    /// Out of RAM is out of space, for a file.
    fn from(_: Full) -> Error {
        Errno::ENOSPC.into()
    }
}

/// An object's pages, by page index; holes read as zeros.
pub struct PageCache {
    pub(super) machine: Arc<dyn Machine>,
    frames: Arc<Frames>,
    id: u64,
    quota: Option<Arc<Quota>>,
    pub(super) inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pages: Table,
    pub(super) size: u64,
    mappers: Vec<Weak<Mm>>,
    /// Guest code that reads and writes without the kernel.
    pub(super) view: Option<Shown>,
    /// When it has done so, and nobody has asked yet.
    pub(super) times: Times,
    /// Writes under way: what they have put behind the end is there before the size says so.
    writing: usize,
    /// What is behind the end is to go when there are none.
    to_trim: bool,
}

impl Inner {
    /// There is something up to `end` now.
    fn grow(&mut self, machine: &dyn Machine, end: u64) {
        if end > self.size {
            self.size = end;
            if let Some(view) = &self.view {
                view.set_size(machine, end);
            }
        }
    }

    /// Pages that there are, but for those that a view has made ahead of need.
    fn page_count(&self) -> u64 {
        let ahead = match self.view {
            Some(_) => self.pages.range(self.size.div_ceil(PAGE_SIZE)..MAX_PAGES).count() as u64,
            None => 0,
        };
        self.pages.len() - ahead
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        let pages = &self.inner.get_mut().pages;
        if let Some(quota) = &self.quota {
            quota.release(pages.len());
        }
        self.frames.put_all(pages.range(0..MAX_PAGES).filter_map(|(_, pte)| pte.pfn()));
    }
}

impl PageCache {
    /// An empty object of this size in bytes.
    pub fn new(machine: Arc<dyn Machine>, frames: Arc<Frames>, size: u64) -> Arc<PageCache> {
        Self::build(machine, frames, size, None)
    }

    /// An empty file whose pages count against its file system's limit, whoever makes them.
    pub fn limited(machine: Arc<dyn Machine>, frames: Arc<Frames>, quota: Arc<Quota>) -> Arc<PageCache> {
        Self::build(machine, frames, 0, Some(quota))
    }

    fn build(
        machine: Arc<dyn Machine>,
        frames: Arc<Frames>,
        size: u64,
        quota: Option<Arc<Quota>>,
    ) -> Arc<PageCache> {
        let id = frames.next_id();
        let inner = Inner {
            pages: Table::default(),
            size,
            mappers: Vec::new(),
            view: None,
            times: Times::default(),
            writing: 0,
            to_trim: false,
        };
        Arc::new(PageCache { machine, frames, id, quota, inner: Mutex::new(inner) })
    }

    /// The lock, with what guest code has done taken over.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock();
        if let Some(view) = &inner.view {
            inner.size = inner.size.max(view.size(&*self.machine));
        }
        inner
    }

    /// A number that no other object or address space of the kernel has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the pages count against a file system's limit, so that none should be made ahead of need.
    pub(super) fn is_limited(&self) -> bool {
        self.quota.is_some()
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.lock().size
    }

    /// [`PageCache::size`] and [`PageCache::resident_pages`] of one moment.
    pub fn usage(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.size, inner.page_count())
    }

    /// Size in pages, rounded up.
    pub(super) fn page_count(&self) -> u64 {
        self.size().div_ceil(PAGE_SIZE)
    }

    /// Number of pages that exist.
    pub fn resident_pages(&self) -> u64 {
        self.lock().page_count()
    }

    /// The first byte offset at or behind `from` that lies in a page that exists, or in a hole if `hole`; `None` when
    /// there is none before the end of the object. For `SEEK_DATA` and `SEEK_HOLE`.
    pub fn seek_extent(&self, from: u64, hole: bool) -> Option<u64> {
        let inner = self.lock();
        if from >= inner.size {
            return None;
        }
        let first = from / PAGE_SIZE;
        let end = inner.size.div_ceil(PAGE_SIZE);
        let found = if hole {
            let mut next = first;
            for (page, _) in inner.pages.range(first..end) {
                if page != next {
                    break;
                }
                next += 1;
            }
            // The end of the object counts as a hole.
            return Some((next * PAGE_SIZE).max(from).min(inner.size));
        } else {
            inner.pages.range(first..end).next().map(|(page, _)| page)
        };
        found.map(|page| (page * PAGE_SIZE).max(from))
    }

    /// The page with this index, made if it does not exist. The caller has checked the size. `ENOSPC` when RAM or the file system is
    /// full.
    pub fn page(&self, index: u64) -> Result<Frame> {
        let mut inner = self.lock();
        let pfn = self.make(&mut inner, index)?;
        Ok(self.frames.share(pfn))
    }

    /// The page with this index, if it exists.
    pub fn page_if_present(&self, index: u64) -> Option<Frame> {
        let inner = self.lock();
        inner.pages.get(index).pfn().map(|pfn| self.frames.share(pfn))
    }

    /// Whether a page exists.
    pub(super) fn has_page(&self, index: u64) -> bool {
        !self.lock().pages.get(index).is_none()
    }

    fn make(&self, inner: &mut Inner, index: u64) -> Result<Pfn, Full> {
        if let Some(pfn) = inner.pages.get(index).pfn() {
            return Ok(pfn);
        }
        self.charge()?;
        let after = index.checked_sub(1).and_then(|before| inner.pages.get(before).pfn());
        let Some((pfn, _)) = self.frames.alloc_run(1, after, Fill::Zero) else {
            self.uncharge(1);
            return Err(Full::Ram);
        };
        inner.pages.set(index, Pte::new(pfn));
        Ok(pfn)
    }

    /// Makes what there is not of these pages, in as few runs as there are, as far as there is room.
    pub(super) fn make_all(&self, pages: Range<u64>) {
        let mut inner = self.lock();
        let mut at = pages.start;
        while at < pages.end {
            if !inner.pages.get(at).is_none() {
                at += 1;
                continue;
            }
            let missing = (at..pages.end).take_while(|&index| inner.pages.get(index).is_none());
            let room = missing.take_while(|_| self.charge().is_ok()).count();
            let after = at.checked_sub(1).and_then(|before| inner.pages.get(before).pfn());
            let run = self.frames.alloc_run(room as u32, after, Fill::Zero).filter(|_| room > 0);
            let count = run.map_or(0, |(_, count)| count);
            self.uncharge(room - count as usize);
            let Some((first, _)) = run else { break };
            inner.pages.put_run(at, first, count);
            at += u64::from(count);
        }
    }

    /// Whether so many pages are little of what there is room for.
    pub(super) fn has_plenty_for(&self, pages: u64) -> bool {
        let room = self.quota.as_ref().map_or(u64::MAX, |quota| quota.max.saturating_sub(quota.used()));
        room.min(self.frames.available()) > pages.saturating_mul(8)
    }

    /// Whether all pages up to the end are there, none behind it, and in no more than this many runs of RAM.
    pub(super) fn is_whole(&self, runs: usize) -> bool {
        let inner = self.lock();
        let count = inner.size.div_ceil(PAGE_SIZE);
        let (mut present, mut found, mut next) = (0, 0, None);
        for (_, pte) in inner.pages.range(0..count) {
            present += 1;
            found += usize::from(pte.pfn() != next);
            next = pte.pfn().map(|pfn| pfn.plus(1));
        }
        (present, inner.pages.len()) == (count, count) && found <= runs
    }

    /// One more page.
    fn charge(&self) -> Result<(), Full> {
        match &self.quota {
            Some(quota) if !quota.charge() => Err(Full::Quota),
            _ => Ok(()),
        }
    }

    /// Pages are gone from the object.
    fn uncharge(&self, pages: usize) {
        if let Some(quota) = &self.quota {
            quota.release(pages as u64);
        }
    }

    /// Calls `each` with the pages of a range, counted once more each: those that exist, and those that `wanted` has made.
    pub(super) fn attach(
        &self,
        pages: Range<u64>,
        wanted: impl Fn(u64) -> bool,
        mut each: impl FnMut(u64, Pfn),
    ) -> Result<(), Full> {
        let mut inner = self.lock();
        for index in pages {
            let pfn = match inner.pages.get(index).pfn() {
                Some(pfn) => pfn,
                None if wanted(index) => self.make(&mut inner, index)?,
                None => continue,
            };
            self.frames.get(pfn);
            each(index, pfn);
        }
        Ok(())
    }

    /// Remembers an address space that maps the object.
    pub(super) fn add_mapper(&self, mm: &Weak<Mm>) {
        let mut inner = self.lock();
        if !inner.mappers.iter().any(|m| m.ptr_eq(mm)) {
            inner.mappers.retain(|m| m.strong_count() > 0);
            inner.mappers.push(mm.clone());
        }
    }

    /// Reads from `pos` up to the end; returns the bytes read.
    pub fn read(&self, pos: u64, sink: &mut dyn Sink) -> Result<usize> {
        let mut done = 0usize;
        let mut zeros = None;
        while sink.room() > 0 {
            let Some(at) = pos.checked_add(done as u64) else { break };
            let (size, frame) = {
                let inner = self.lock();
                (inner.size, inner.pages.get(at / PAGE_SIZE).pfn().map(|pfn| self.frames.share(pfn)))
            };
            if at >= size {
                break;
            }
            let offset = at % PAGE_SIZE;
            let len = (PAGE_SIZE - offset).min(size - at).min(sink.room() as u64) as usize;
            let room = sink.room();
            let step = match frame {
                Some(frame) => sink.put_ram(self.machine.ram(), PhysAddr(frame.phys().0 + offset), len),
                None => {
                    let zeros = zeros.get_or_insert_with(|| alloc::vec![0u8; PAGE_SIZE as usize]);
                    sink.put(zeros.get(..len).unwrap_or_default())
                }
            };
            done += room - sink.room();
            match step {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Writes at `pos`, growing the object; returns the bytes written, short when RAM is full or the source faults.
    pub fn write(&self, pos: u64, source: &mut dyn Source) -> Result<usize> {
        self.inner.lock().writing += 1;
        let done = self.write_all(pos, source);
        let mut inner = self.lock();
        inner.writing -= 1;
        if inner.to_trim {
            self.trim(&mut inner);
        }
        done
    }

    fn write_all(&self, pos: u64, source: &mut dyn Source) -> Result<usize> {
        let mut done = 0usize;
        while source.left() > 0 {
            let Some(at) = pos.checked_add(done as u64).filter(|&at| at < i64::MAX as u64) else {
                if done > 0 {
                    break;
                }
                return err(Errno::EFBIG);
            };
            let offset = at % PAGE_SIZE;
            let len = (PAGE_SIZE - offset).min(source.left() as u64) as usize;
            let index = at / PAGE_SIZE;
            let step = if len as u64 == PAGE_SIZE && !self.has_page(index) {
                self.write_new(index, source)
            } else {
                self.write_part(index, offset, len, source)
            };
            match step {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_part(&self, index: u64, offset: u64, len: usize, source: &mut dyn Source) -> Result<usize> {
        let frame = self.page(index)?;
        let n = source.take_ram(self.machine.ram(), PhysAddr(frame.phys().0 + offset), len)?;
        self.lock().grow(&*self.machine, index * PAGE_SIZE + offset + n as u64);
        Ok(n)
    }

    /// Writes a whole page that does not exist, into a frame that is not zeroed and that nobody sees before it is full.
    fn write_new(&self, index: u64, source: &mut dyn Source) -> Result<usize> {
        let ram = self.machine.ram();
        self.charge()?;
        let after = index.checked_sub(1).and_then(|before| self.lock().pages.get(before).pfn());
        let Some((pfn, _)) = self.frames.alloc_run(1, after, Fill::Anything) else {
            self.uncharge(1);
            return Err(Full::Ram.into());
        };
        let taken = source.take_ram(ram, pfn.phys(), PAGE_SIZE as usize);
        let n = *taken.as_ref().unwrap_or(&0);
        if n > 0 {
            if (n as u64) < PAGE_SIZE {
                ram.zero(PhysAddr(pfn.phys().0 + n as u64), PAGE_SIZE - n as u64);
            }
            let mut inner = self.lock();
            inner.grow(&*self.machine, index * PAGE_SIZE + n as u64);
            match inner.pages.get(index).pfn() {
                None => {
                    inner.pages.set(index, Pte::new(pfn));
                    return taken;
                }
                // Somebody else has made it meanwhile.
                Some(other) => ram.copy(pfn.phys(), other.phys(), n as u64),
            }
        }
        self.uncharge(1);
        self.frames.put_all([pfn]);
        taken
    }

    /// Makes the pages of a byte range exist (`fallocate(2)`); `ENOSPC` when RAM or the file system is full, and
    /// then none is made. The size stays.
    pub fn allocate(&self, from: u64, len: u64) -> Result<()> {
        let end = from.checked_add(len).ok_or(Errno::EFBIG)?.div_ceil(PAGE_SIZE);
        let first = from / PAGE_SIZE;
        if end - first > self.frames.total() {
            return err(Errno::ENOSPC);
        }
        let mut inner = self.lock();
        let mut made = Vec::new();
        for index in first..end {
            let existed = !inner.pages.get(index).is_none();
            match self.make(&mut inner, index) {
                Ok(_) if existed => {}
                Ok(_) => made.push(index),
                Err(e) => {
                    // All or nothing, as shmem does it.
                    self.uncharge(made.len());
                    let undo = made.into_iter().filter_map(|i| inner.pages.set(i, Pte::NONE).pfn());
                    self.frames.put_all(undo.collect::<Vec<_>>());
                    return Err(e.into());
                }
            }
        }
        Ok(())
    }

    /// Sets the size: pages beyond it go away and leave every address space that maps them; the rest of the last page is zeroed.
    /// Not to be called with a lock held that a page fault could want.
    pub fn truncate(&self, cx: &Cx, size: u64) {
        let first_gone = size.div_ceil(PAGE_SIZE);
        let shrinks = {
            let mut inner = self.lock();
            let shrinks = size < inner.size;
            if shrinks {
                if inner.view.is_some() {
                    inner.note_times(&*self.machine);
                    inner.view = None;
                    self.machine.recall_offers();
                }
                self.zero_part(&inner, size, first_gone * PAGE_SIZE);
                inner.size = size;
            } else {
                inner.grow(&*self.machine, size);
            }
            shrinks
        };
        if shrinks {
            self.remove(cx, first_gone..MAX_PAGES, true);
        }
    }

    /// Makes a hole: whole pages go away, partial ones are zeroed. The size stays. Not to be called with a lock held that a page
    /// fault could want.
    pub fn punch(&self, cx: &Cx, from: u64, len: u64) {
        let end = from.saturating_add(len);
        let (first, last) = (from.div_ceil(PAGE_SIZE), end / PAGE_SIZE);
        {
            let inner = self.lock();
            if first > last {
                self.zero_part(&inner, from, end);
            } else {
                self.zero_part(&inner, from, first * PAGE_SIZE);
                self.zero_part(&inner, last * PAGE_SIZE, end);
            }
        }
        if first < last {
            self.remove(cx, first..last.min(MAX_PAGES), false);
        }
    }

    /// Takes out pages behind the end, which nobody shows any more, and zeros what is behind it in the last one: after the writes that are under way.
    pub(super) fn trim(&self, inner: &mut Inner) {
        inner.to_trim = inner.writing > 0;
        // The end of a view that has begun meanwhile will do.
        if inner.to_trim || inner.view.is_some() {
            return;
        }
        let end = inner.size.div_ceil(PAGE_SIZE);
        self.zero_part(inner, inner.size, end * PAGE_SIZE);
        let gone = self.take_out(inner, end..MAX_PAGES);
        self.frames.put_all(gone.into_iter().map(|(_, pfn)| pfn));
    }

    /// Takes pages out of the object; the caller gives them up.
    fn take_out(&self, inner: &mut Inner, pages: Range<u64>) -> Vec<(u64, Pfn)> {
        let mut gone = Vec::new();
        inner.pages.update(pages, |index, pte| {
            gone.extend(pte.pfn().map(|pfn| (index, pfn)));
            Pte::NONE
        });
        self.uncharge(gone.len());
        gone
    }

    /// Zeros bytes within one page.
    fn zero_part(&self, inner: &Inner, from: u64, to: u64) {
        if let Some(pfn) = inner.pages.get(from / PAGE_SIZE).pfn().filter(|_| from < to) {
            self.machine.ram().zero(PhysAddr(pfn.phys().0 + from % PAGE_SIZE), to - from);
        }
    }

    /// Takes pages out, first of the object, then of the address spaces. Private copies go, too, if `copies`.
    fn remove(&self, cx: &Cx, pages: Range<u64>, copies: bool) {
        let (gone, mappers) = {
            let mut inner = self.lock();
            let gone = self.take_out(&mut inner, pages.clone());
            inner.mappers.retain(|m| m.strong_count() > 0);
            let mappers: Vec<Arc<Mm>> = inner.mappers.iter().filter_map(Weak::upgrade).collect();
            (gone, mappers)
        };
        for mm in mappers {
            mm.forget_cache_pages(cx, self, &pages, if copies { None } else { Some(&gone) });
        }
        self.frames.put_all(gone.into_iter().map(|(_, pfn)| pfn));
    }
}
