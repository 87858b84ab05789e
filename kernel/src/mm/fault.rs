//! Page faults: make pages, and have the machine show them.
//!
//! A trap costs more than a page, so both steps work on windows: new anonymous memory comes in runs that grow while
//! a program touches it in order, copies after a write are made for a few pages at once, a host file is shown whole and together with
//! its neighbours (the segments of one library).

use super::batch::{Batch, Commit, What};
use super::cache::Full;
use super::frames::{Fill, Pfn};
use super::inner::Inner;
use super::space::{FaultOutcome, MIN_ADDR, Mm};
use super::table::{Pte, Table};
use super::vma::{GUARD_GAP, Object, SMALL_AREA, Vma, VmaFlags, Window};
use crate::task::{Cx, Resource};
use abi::Errno;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use hal::{Fault, HostFile, LogLevel, PAGE_SIZE, Prot, SpaceError};

/// First window of new anonymous memory, in pages, for a process that has few and for one that has many: powers of two.
const ANON_FIRST: (u32, u32) = (8, 64);
/// The largest is so many times as long.
const ANON_GROWS: u32 = 16;
/// It is this part of what the process has.
const ANON_PART: usize = 32;
/// The same for the first thread's stack, and for other stacks: memory that is touched downwards, from its end on.
const STACK_WINDOW: (u32, u32) = (8, 16);
const DOWN_WINDOW: (u32, u32) = (2, 16);
/// Areas up to this size, in pages, are never stacks. A C library has a thread's own data at the end of its stack, up to this far.
const NO_STACK: u64 = 3;
const STACK_END: u64 = 2;
/// The same for copies on write.
const COPY_WINDOW: (u32, u32) = (8, 64);
/// How many pages of a file are read at once.
const COPY_PIECE: u64 = 16;
/// How many pages before and behind the wanted ones are shown, too, when they exist.
const SHOW_AROUND: (u64, u64) = (16, 128);
/// No more pages are shown that nobody has asked for once there are so many changes.
pub(super) const SHOW_CHANGES: usize = 16;
/// How many areas of one host file are shown at once.
const NEIGHBOURS: usize = 8;
/// How far beyond the touched page a stack grows if it may, in bytes.
const STACK_STEP: u64 = 16 * PAGE_SIZE;

const SIGBUS: i32 = 7;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;

/// What is done to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    Write,
    Exec,
}

/// Why an access fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FaultError {
    /// Nothing is mapped there.
    NoArea,
    /// No right to it.
    Denied,
    /// Nothing behind the mapping: beyond the end of the file, or the host failed to read it.
    Bus,
    /// RAM is full.
    NoMemory,
    /// The machine's address space is dead.
    Dead(alloc::string::String),
}

impl From<SpaceError> for FaultError {
    fn from(error: SpaceError) -> FaultError {
        match error {
            SpaceError::NoMemory => FaultError::NoMemory,
            SpaceError::Refused(_) => FaultError::Bus,
            SpaceError::Dead(why) => FaultError::Dead(why),
        }
    }
}

impl Vma {
    /// Checks the right to an access. What may be written or executed may be read, as on x86 without protection keys.
    pub(super) fn allows(&self, access: Access) -> Result<(), FaultError> {
        if self.flags.contains(VmaFlags::GUARD) {
            return Err(FaultError::NoArea);
        }
        let right = match access {
            Access::Read => !self.prot.is_empty(),
            Access::Write => self.can_write(),
            Access::Exec => self.prot.contains(Prot::EXEC),
        };
        if right { Ok(()) } else { Err(FaultError::Denied) }
    }
}

/// Which code is shown where some is patched ([`super::gate`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patches {
    /// The patched.
    Shown,
    /// The file's, until a site there is busy.
    WhenBusy,
}

/// What [`Mm::make`] made.
pub(super) struct Made {
    /// These pages exist now (or are a host file's).
    pub(super) pages: Range<u64>,
    /// The machine shows something else for some of them, so they have to be shown at once.
    pub(super) stale: bool,
}

impl Mm {
    /// Serves a page fault. Blocks for the host's calls at most.
    pub fn fault(&self, cx: &Cx, fault: &Fault) -> FaultOutcome {
        let access = match (fault.is_write(), fault.is_exec()) {
            (true, _) => Access::Write,
            (false, true) => Access::Exec,
            (false, false) => Access::Read,
        };
        self.fault_count.fetch_add(1, Ordering::Relaxed);
        if let Some(count) = cx.task.faults.first() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut inner = self.inner();
        let result = self.serve(cx, &mut inner, fault, access);
        inner.note_resident();
        drop(inner);
        match result {
            Ok(()) => FaultOutcome::Handled,
            Err(FaultError::NoArea) => FaultOutcome::Signal { signo: SIGSEGV, code: SEGV_MAPERR },
            Err(FaultError::Denied) => FaultOutcome::Signal { signo: SIGSEGV, code: SEGV_ACCERR },
            Err(FaultError::Bus) => FaultOutcome::Signal { signo: SIGBUS, code: BUS_ADRERR },
            Err(FaultError::NoMemory) => FaultOutcome::OutOfMemory,
            Err(FaultError::Dead(why)) => {
                let pid = cx.process().pid;
                cx.kernel.log(LogLevel::Error, &format!("process {pid}: the address space is dead: {why}"));
                FaultOutcome::Signal { signo: SIGKILL, code: 0 }
            }
        }
    }

    fn serve(&self, cx: &Cx, inner: &mut Inner, fault: &Fault, access: Access) -> Result<(), FaultError> {
        let addr = fault.addr;
        self.area(cx, inner, addr, access)?;
        let vma = inner.areas.find(addr).ok_or(FaultError::NoArea)?;
        let page = addr / PAGE_SIZE;
        let write = access == Access::Write;
        let (shown, shared) = (vma.shown, vma.is_shared());
        let pte = inner.table.get(page);
        let nothing_to_do = match pte.pfn() {
            Some(_) => pte.mapped() && (!write || pte.writable()),
            None => shown && (!write || shared),
        };
        if nothing_to_do {
            // Another CPU was faster, or the host has nothing behind the file's page.
            if fault.signo == SIGBUS {
                return Err(FaultError::Bus);
            }
            if core::mem::replace(&mut inner.spurious, page) != page {
                return Ok(());
            }
            inner.table.update(page..page + 1, |_, pte| pte.hidden());
            if let Some(vma) = inner.areas.find_mut(addr).filter(|_| pte.pfn().is_none()) {
                vma.shown = false;
            }
        }
        inner.spurious = u64::MAX;
        // Once more when the host had no room and everything was thrown away to make some.
        for _ in 0..2 {
            let mut batch = Batch::default();
            let made = self.make(inner, page, write, None, &mut batch);
            if let Ok(made) = &made {
                self.show(inner, made.pages.clone(), true, &mut batch);
            }
            let commit = self.commit(cx.cpu(), inner, &mut batch)?;
            made?;
            if commit == Commit::Done {
                return Ok(());
            }
        }
        Err(FaultError::NoMemory)
    }

    /// Sees to it that there is an area for an access: a stack is grown to the address, and the right is checked.
    pub(super) fn area(
        &self,
        cx: &Cx,
        inner: &mut Inner,
        addr: u64,
        access: Access,
    ) -> Result<(), FaultError> {
        if inner.areas.find(addr).is_none() {
            grow_stack(cx, inner, addr)?;
        }
        inner.areas.find(addr).ok_or(FaultError::NoArea)?.allows(access)
    }

    /// Makes `page` exist, for writing if `write`, and pages near it: those of `want`, or a window of its own choice. The area is there
    /// and the right was checked.
    pub(super) fn make(
        &self,
        inner: &mut Inner,
        page: u64,
        write: bool,
        want: Option<Range<u64>>,
        batch: &mut Batch,
    ) -> Result<Made, FaultError> {
        let Inner { areas, table, .. } = inner;
        let vma = areas.find_mut(page * PAGE_SIZE).ok_or(FaultError::NoArea)?;
        if vma.refused {
            return Err(FaultError::Bus);
        }
        let private_write = write && !vma.is_shared();
        if table.get(page).pfn().is_some() {
            if !private_write {
                return Ok(Made { pages: page..page + 1, stale: false });
            }
            let window = window(vma, table, Pte::writable, page, COPY_WINDOW, want);
            return self.copy_frames(inner, page, window, batch);
        }
        let exists = |_| true;
        match &vma.object {
            Object::Anon => {
                let window = window(vma, table, exists, page, anon_window(table), want);
                self.fill(inner, page, window, batch)
            }
            Object::Host(file) if private_write => {
                let file = file.clone();
                let sizes = copy_window(table.range(vma.pages()).count());
                let window = window(vma, table, exists, page, sizes, want);
                self.copy_file(inner, &*file, page, window)
            }
            Object::Host(_) => {
                // Nothing to make. For a caller that walks a range: the same goes for all up to the next copy.
                let end = want.map_or(page + 1, |w| w.end.min(vma.pages().end).max(page + 1));
                let end = table.range(page..end).next().map_or(end, |(copy, _)| copy);
                Ok(Made { pages: page..end, stale: false })
            }
            Object::Cache(cache) => {
                let cache = cache.clone();
                let sizes = if vma.flags.contains(VmaFlags::RANDOM) { (1, 1) } else { anon_window(table) };
                let window = window(vma, table, exists, page, sizes, want);
                if private_write {
                    // Only this one: others go on to show what is written to the object.
                    self.copy_cache(inner, &cache, page..page + 1)
                } else {
                    self.attach_cache(inner, &cache, page, window)
                }
            }
        }
    }

    /// Makes and shows pages of an area that has just become longer upwards, if all in front of them is in use, back to page `from` or as many as one fault makes: as many as
    /// a fault would make.
    pub(super) fn go_on(&self, inner: &mut Inner, grown: Range<u64>, from: u64, batch: &mut Batch) {
        let (first, most) = anon_window(&inner.table);
        let (first, most) = (u64::from(first), u64::from(most));
        let start = grown.start;
        if grown.is_empty() {
            return;
        }
        let there = start - inner.table.run_before(start, start.saturating_sub(most), Pte::writable);
        if there < first.min(start.saturating_sub(from)) {
            return;
        }
        let end = grown.end.min(start + there.max(first));
        if let Ok(made) = self.make(inner, start, true, Some(start..end), batch) {
            self.show(inner, made.pages, false, batch);
            inner.note_resident();
        }
    }

    /// New zeroed pages in the gap of `window` around `page`.
    fn fill(
        &self,
        inner: &mut Inner,
        page: u64,
        window: Range<u64>,
        batch: &mut Batch,
    ) -> Result<Made, FaultError> {
        let table = &mut inner.table;
        let mut window = gap_around(table, page, window);
        // When RAM is short, the page that is needed comes first.
        if self.frames.available() < 4 * (window.end - window.start) {
            window = page..page + 1;
        }
        let mut after = window.start.checked_sub(1).and_then(|before| table.get(before).pfn());
        let mut at = window.start;
        while at < window.end {
            let Some((pfn, len, fresh)) = self.frames.alloc_zeroed((window.end - at) as u32, after) else {
                break;
            };
            if fresh {
                batch.fresh(pfn, len);
            }
            table.put_run(at, pfn, len);
            at += u64::from(len);
            after = Some(pfn.plus(len - 1));
        }
        if at <= page {
            return Err(FaultError::NoMemory);
        }
        Ok(Made { pages: window.start..at, stale: false })
    }

    /// Makes pages that exist one's own: that of `page`, and those of the window around it as long as there are such. Shared frames are replaced by copies.
    pub(super) fn copy_frames(
        &self,
        inner: &mut Inner,
        page: u64,
        window: Range<u64>,
        batch: &mut Batch,
    ) -> Result<Made, FaultError> {
        // The others may give one up at any time: then it is ours as it is.
        let shared = |pfn: Pfn| self.frames.count(pfn) > 1;
        let foreign = |pte: Pte| !pte.writable() && pte.pfn().is_some();
        let mut first = page;
        while first > window.start && foreign(inner.table.get(first - 1)) {
            first -= 1;
        }
        let mut stale = false;
        let mut at = first;
        let mut after = None;
        while at < window.end {
            let pte = inner.table.get(at);
            let Some(old) = pte.pfn() else { break };
            if shared(old) {
                let Some((new, _)) = self.frames.alloc_run(1, after, Fill::Anything) else { break };
                self.machine.ram().copy(old.phys(), new.phys(), PAGE_SIZE);
                inner.table.set(at, Pte::new(new));
                batch.put(old);
                stale |= pte.mapped();
                after = Some(new);
            } else if at > page && pte.writable() {
                break;
            }
            at += 1;
        }
        // Copies in front of the page have to be shown, even if there was no frame for itself: then it faults again.
        if at == first { Err(FaultError::NoMemory) } else { Ok(Made { pages: first..at, stale }) }
    }

    /// Copies a host file's pages into RAM, in the gap of `window` around `page`.
    fn copy_file(
        &self,
        inner: &mut Inner,
        file: &dyn HostFile,
        page: u64,
        window: Range<u64>,
    ) -> Result<Made, FaultError> {
        let mut pages = gap_around(&inner.table, page, window);
        // When RAM is short, the page that is needed comes first.
        if self.frames.available() < 4 * (pages.end - pages.start) {
            pages = page..page + 1;
        }
        let vma = inner.areas.find(pages.start * PAGE_SIZE).ok_or(FaultError::NoArea)?;
        let (offset, shown) = (vma.offset_of(pages.start * PAGE_SIZE), vma.shown);
        let mut bytes = vec![0; ((pages.end - pages.start).min(COPY_PIECE) * PAGE_SIZE) as usize];
        let mut at = pages.start;
        let mut after = inner.table.get(pages.start.wrapping_sub(1)).pfn();
        while at < pages.end {
            let want = (pages.end - at).min(COPY_PIECE) as u32;
            let Some((pfn, n)) = self.frames.alloc_run(want, after, Fill::Anything) else { break };
            let piece = bytes.get_mut(..n as usize * PAGE_SIZE as usize).unwrap_or_default();
            let len = read_file(file, offset + (at - pages.start) * PAGE_SIZE, piece);
            let read = len.map_or(0, |len| len.div_ceil(PAGE_SIZE as usize) as u32);
            let (piece, _) = piece.split_at(read as usize * PAGE_SIZE as usize);
            self.machine.ram().write(pfn.phys(), piece);
            for i in 0..read {
                inner.table.set(at + u64::from(i), Pte::new(pfn.plus(i)));
            }
            at += u64::from(read);
            after = read.checked_sub(1).map(|last| pfn.plus(last));
            if read < n {
                // The end of the file, or it can't be read.
                self.frames.put_all((read..n).map(|i| pfn.plus(i)));
                if at <= page {
                    return Err(FaultError::Bus);
                }
                break;
            }
        }
        if at <= page { Err(FaultError::NoMemory) } else { Ok(Made { pages: pages.start..at, stale: shown }) }
    }

    /// Copies a cache's pages for a private mapping, from the first page on.
    fn copy_cache(
        &self,
        inner: &mut Inner,
        cache: &Arc<super::PageCache>,
        pages: Range<u64>,
    ) -> Result<Made, FaultError> {
        let pages = gap_around(&inner.table, pages.start, pages);
        let vma = inner.areas.find(pages.start * PAGE_SIZE).ok_or(FaultError::NoArea)?;
        let index = vma.offset_of(pages.start * PAGE_SIZE) / PAGE_SIZE;
        let end = pages.end.min(pages.start + cache.page_count().saturating_sub(index));
        if end == pages.start {
            return Err(FaultError::Bus);
        }
        let mut at = pages.start;
        let mut after = None;
        while at < end {
            let source = cache.page_if_present(index + (at - pages.start));
            let fill = if source.is_some() { Fill::Anything } else { Fill::Zero };
            let Some((pfn, _)) = self.frames.alloc_run(1, after, fill) else { break };
            if let Some(source) = source {
                self.machine.ram().copy(source.phys(), pfn.phys(), PAGE_SIZE);
            }
            inner.table.set(at, Pte::new(pfn));
            after = Some(pfn);
            at += 1;
        }
        if at == pages.start {
            Err(FaultError::NoMemory)
        } else {
            Ok(Made { pages: pages.start..at, stale: false })
        }
    }

    /// Enters a cache's frames into the page table: the wanted one is made, others of the window only where they exist, or for
    /// anonymous memory.
    fn attach_cache(
        &self,
        inner: &mut Inner,
        cache: &Arc<super::PageCache>,
        page: u64,
        window: Range<u64>,
    ) -> Result<Made, FaultError> {
        let window = gap_around(&inner.table, page, window);
        let vma = inner.areas.find(page * PAGE_SIZE).ok_or(FaultError::NoArea)?;
        let index = |page: u64| vma.offset_of(page * PAGE_SIZE) / PAGE_SIZE;
        let count = cache.page_count();
        if index(page) >= count {
            return Err(FaultError::Bus);
        }
        let window = window.start..window.end.min(page + (count - index(page)));
        let make_all = vma.file.is_none() && !cache.is_limited() && self.frames.available() > 64;
        let first = index(window.start);
        let mut low = window.end;
        let mut high = window.start;
        let table = &mut inner.table;
        cache
            .attach(
                first..first + (window.end - window.start),
                |i| make_all || i == first + (page - window.start),
                |i, pfn: Pfn| {
                    let at = window.start + (i - first);
                    table.set(at, Pte::new(pfn));
                    low = low.min(at);
                    high = high.max(at + 1);
                },
            )
            .map_err(|full| match full {
                Full::Quota => FaultError::Bus,
                Full::Ram => FaultError::NoMemory,
            })?;
        Ok(Made { pages: low..high, stale: false })
    }

    /// Has the machine show these pages, and existing ones near them that it does not show if `around`. They are all in one area. (A right to write is not given
    /// to those near: what is writable counts as written when the next `fork` asks what to copy.)
    pub(super) fn show(&self, inner: &mut Inner, pages: Range<u64>, around: bool, batch: &mut Batch) {
        let Some(vma) = inner.areas.find(pages.start * PAGE_SIZE) else { return };
        if vma.prot.is_empty() {
            return;
        }
        if matches!(vma.object, Object::Host(_)) && !vma.shown {
            let start = vma.start;
            self.show_file(inner, start, Patches::Shown, batch);
        }
        let Inner { areas, table, .. } = inner;
        let Some(vma) = areas.find(pages.start * PAGE_SIZE) else { return };
        let bounds = vma.pages();
        let mut low = pages.start;
        let hidden = |pte: Pte| self.wants_showing(vma, pte).filter(|_| !pte.mapped());
        if around {
            let limit = bounds.start.max(low.saturating_sub(SHOW_AROUND.0));
            while low > limit && hidden(table.get(low - 1)).is_some() {
                low -= 1;
            }
        }
        let show = |batch: &mut Batch, at: u64, pte: Pte, (pfn, writable): (Pfn, bool)| {
            let prot = vma.host_prot(writable);
            if pte.mapped() {
                batch.protect(at * PAGE_SIZE, PAGE_SIZE, prot);
            } else {
                batch.map(at * PAGE_SIZE, PAGE_SIZE, prot, What::Ram(pfn));
            }
            pte.shown(writable)
        };
        table.update(low..pages.end, |at, pte| match self.wants_showing(vma, pte) {
            Some(how) => show(batch, at, pte, how),
            None => pte,
        });
        let limit = if around { bounds.end.min(pages.end + SHOW_AROUND.1) } else { pages.end };
        for at in pages.end..limit {
            let pte = table.get(at);
            match hidden(pte) {
                Some(how) if batch.len() < SHOW_CHANGES => table.set(at, show(batch, at, pte, how)),
                _ => break,
            };
        }
    }

    /// The frame, and whether it may be shown writable, unless it is shown like that already.
    pub(super) fn wants_showing(&self, vma: &Vma, pte: Pte) -> Option<(Pfn, bool)> {
        let pfn = pte.pfn()?;
        let writable = vma.can_write() && (vma.is_shared() || self.frames.count(pfn) == 1);
        (!pte.mapped() || (writable && !pte.writable())).then_some((pfn, writable))
    }

    /// Has the machine show a host file in an area and in the areas beside it that show the same file.
    pub(super) fn show_file(&self, inner: &mut Inner, start: u64, patches: Patches, batch: &mut Batch) {
        let same = |a: &Vma, b: &Vma| match (&a.object, &b.object) {
            (Object::Host(a), Object::Host(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let Inner { areas, table, .. } = inner;
        let Some(mut first) = areas.find(start) else { return };
        for _ in 0..NEIGHBOURS {
            match areas.find_before(first.start) {
                Some(before) if before.end == first.start && same(before, first) => first = before,
                _ => break,
            }
        }
        let mut at = first.start;
        for _ in 0..2 * NEIGHBOURS {
            let Some(vma) = areas.find_mut(at) else { break };
            let Object::Host(file) = &vma.object else { break };
            let file = file.clone();
            if !vma.shown && !vma.refused && !vma.prot.is_empty() {
                let shared = vma.is_shared();
                // Not where copies are at its ends: they are shown anyway.
                let bounds = vma.pages();
                let gap = |page: &u64| {
                    let pte = table.get(*page);
                    pte.is_none() || patches == Patches::WhenBusy && pte.is_patched()
                };
                let first = bounds.clone().find(gap).unwrap_or(bounds.end);
                let end = bounds.rev().find(gap).map_or(first, |last| last + 1);
                if first < end {
                    let at = first * PAGE_SIZE;
                    let what = What::File { file: file.clone(), offset: vma.offset_of(at), shared };
                    batch.map(at, (end - first) * PAGE_SIZE, vma.host_prot(shared), what);
                }
                vma.shown = true;
                // Copies that the machine does not show yet would be hidden by the file.
                for (page, pte) in table.range(vma.pages()).collect::<vec::Vec<_>>() {
                    let Some(pfn) = pte.pfn() else { continue };
                    if patches == Patches::WhenBusy && pte.is_patched() {
                        table.set(page, pte.hidden());
                        continue;
                    }
                    let writable = vma.can_write() && self.frames.count(pfn) == 1;
                    batch.map(page * PAGE_SIZE, PAGE_SIZE, vma.host_prot(writable), What::Ram(pfn));
                    table.set(page, pte.shown(writable));
                }
            }
            at = vma.end;
            let next_is_same =
                areas.find(at).is_some_and(|v| matches!(&v.object, Object::Host(f) if Arc::ptr_eq(f, &file)));
            if !next_is_same {
                break;
            }
        }
    }
}

/// The window of a fault, within the area. With `want` exactly that. Small areas come whole, but not those that are touched at their end
/// first: the stacks of threads, of which there may be very many. Otherwise it goes on where pages end that were `made` like these, in either direction, and
/// is as long as their run: so who touches memory in order has few faults.
fn window(
    vma: &mut Vma,
    table: &Table,
    made: impl Fn(Pte) -> bool,
    page: u64,
    (first, most): (u32, u32),
    want: Option<Range<u64>>,
) -> Range<u64> {
    let bounds = vma.pages();
    if let Some(want) = want {
        return want.start.max(bounds.start).min(page)..want.end.min(bounds.end).max(page + 1);
    }
    let last = vma.window;
    let new = last.pages == 0;
    let at_end = if new { page + STACK_END >= bounds.end } else { last.down && page + 1 == last.start };
    let seems_stack = at_end && matches!(vma.object, Object::Anon) && bounds.end - bounds.start > NO_STACK;
    let down = seems_stack || vma.flags.contains(VmaFlags::GROWSDOWN);
    if bounds.end - bounds.start <= SMALL_AREA && !vma.is_shared() && !down {
        return bounds;
    }
    if vma.flags.contains(VmaFlags::RANDOM) {
        return page..page + 1;
    }
    if down {
        let grows = vma.flags.contains(VmaFlags::GROWSDOWN);
        let (first, most) = if grows { STACK_WINDOW } else { DOWN_WINDOW };
        // A call whose frame is large leaves some out, which the next ones use.
        let gap = last.start.checked_sub(page + 1).filter(|&gap| !new && gap <= u64::from(last.pages));
        let pages = if gap.is_some() { (last.pages * 2).min(most) } else { first };
        let start = bounds.start.max((page + 1).saturating_sub(u64::from(pages)));
        vma.window = Window { start, pages, down };
        return start..if new && seems_stack {
            bounds.end
        } else {
            bounds.end.min(page + 1 + gap.unwrap_or(0))
        };
    }
    vma.window = Window { start: page, pages: first, down };
    let (first, most) = (u64::from(first), u64::from(most));
    // The ends of what was made, as far as they are near, and how much that is.
    let low = table.range(page.saturating_sub(first)..page).rev().find(|(_, pte)| made(*pte));
    let low = low.map(|(at, _)| at + 1).filter(|&low| low > bounds.start);
    let high = table.range(page + 1..page + first).find(|(_, pte)| made(*pte));
    let high = high.map(|(at, _)| at).filter(|&high| high < bounds.end);
    let below =
        low.map_or(0, |low| low - table.run_before(low, bounds.start.max(low.saturating_sub(most)), &made));
    let above = high.map_or(0, |high| table.run_from(high, bounds.end.min(high + most), &made) - high);
    let range = match (low, high) {
        (Some(low), _) if below >= above => low..(low + below.max(first)) & !(first - 1),
        (_, Some(high)) => high.saturating_sub(above.max(first)).next_multiple_of(first)..high,
        _ => {
            let block = page & !(first - 1);
            // Not only its end, where the area begins.
            let more = if block + first / 2 < bounds.start { first } else { 0 };
            block..block + first + more
        }
    };
    range.start.max(bounds.start).min(page)..range.end.min(bounds.end).max(page + 1)
}

/// First and largest window of new anonymous memory in an address space. A program that has much soon wants more; what a small one does not touch is waste.
fn anon_window(table: &Table) -> (u32, u32) {
    let (least, most) = ANON_FIRST;
    let first = power_of_two(table.len() as usize / ANON_PART, least, most);
    (first, first * ANON_GROWS)
}

/// First and largest window for copies of a file's pages in an area that has some already: up to half of them more. A program that writes all over its data is
/// soon done.
fn copy_window(there: usize) -> (u32, u32) {
    let (first, most) = COPY_WINDOW;
    (power_of_two(there / 2, first, most), most)
}

/// The largest power of two that is not above a number of pages, but at least and at most so many.
fn power_of_two(pages: usize, least: u32, most: u32) -> u32 {
    let bits = pages.checked_ilog2();
    bits.map_or(0, |bits| 1u32.checked_shl(bits).unwrap_or(most)).clamp(least, most)
}

/// The part of `window` around `page` that has no pages.
fn gap_around(table: &Table, page: u64, window: Range<u64>) -> Range<u64> {
    let low =
        table.range(window.start..page).next_back().map_or(window.start.min(page), |(last, _)| last + 1);
    let high = table.range(page + 1..window.end).next().map_or(window.end.max(page + 1), |(next, _)| next);
    low..high
}

/// Reads until the buffer is full or the file ends; what is left of the buffer is zeroed.
pub(super) fn read_file(file: &dyn HostFile, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(offset + done as u64, rest)? {
            0 => break,
            n => done += n,
        }
    }
    buf.get_mut(done..).unwrap_or_default().fill(0);
    Ok(done)
}

/// Lets the stack above an address grow down to it, if there is one and it may.
fn grow_stack(cx: &Cx, inner: &mut Inner, addr: u64) -> Result<(), FaultError> {
    let vma = inner.areas.find_from(addr).ok_or(FaultError::NoArea)?;
    if !vma.flags.contains(VmaFlags::GROWSDOWN) {
        return Err(FaultError::NoArea);
    }
    let (start, end) = (vma.start, vma.end);
    let page = addr & !(PAGE_SIZE - 1);
    let limit = cx.process().limit(Resource::Stack);
    let mut floor = MIN_ADDR.max(end.saturating_sub(limit));
    if let Some(before) = inner.areas.find_before(start) {
        let gap =
            if before.flags.contains(VmaFlags::GROWSDOWN) || before.prot.is_empty() { 0 } else { GUARD_GAP };
        floor = floor.max(before.end + gap);
    }
    let space = cx.process().limit(Resource::As) / PAGE_SIZE;
    let room = space.saturating_sub(inner.sums.total).saturating_mul(PAGE_SIZE);
    floor = floor.max(start.saturating_sub(room)).next_multiple_of(PAGE_SIZE);
    if page < floor {
        return Err(FaultError::NoArea);
    }
    let to = floor.max((page + PAGE_SIZE).saturating_sub(STACK_STEP));
    for mut vma in inner.take(start, end) {
        vma.offset = vma.offset.wrapping_sub(start - to);
        vma.start = to;
        inner.add(vma);
    }
    Ok(())
}
