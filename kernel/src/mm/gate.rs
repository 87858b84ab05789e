//! Patches the system-call sites that a program uses most, so that they go through the machine's gate instead of trapping.
//!
//! What is replaced, and why that is safe, says [`super::site`]. Here: which sites, and where the pages are. Only pages of private, executable and
//! unwritable mappings of host files are patched, each by showing a copy in place of it in one step, so that every thread finds either the old
//! or the new code. The file stays as it is for whoever reads it. A patched page is an entry of the page table like a page that was copied on
//! write, and goes when the mapping is made writable or goes itself. The slots lie in areas of their own, which are sealed (`mseal(2)`).

use super::advise::discard;
use super::batch::{Batch, What};
use super::fault::read_file;
use super::frames::{Fill, Pfn};
use super::inner::Inner;
use super::site::{self, Plan, SLOT_LEN};
use super::space::{MIN_ADDR, MapFlags, MapRequest, Mm};
use super::table::Pte;
use super::vma::{Object, Vma};
use crate::task::Cx;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use hal::{HostFile, PAGE_SIZE, Prot};

/// Name of the areas with slots in `/proc/PID/maps`.
pub(super) const NAME: &str = "[gates]";
/// Size of such an area in bytes.
const AREA_LEN: u64 = 4 * PAGE_SIZE;
/// How many times a site traps before it is patched.
const TRAPS: u64 = 24;
/// Instead of a number for a site that need not be counted any more.
const DONE: u64 = 0xff;
/// How many times a trap counts where guest code has a host CPU of its own: its other calls come fast, and patching takes place while it goes on.
const IN_SESSION: u64 = 3;
/// Sites whose traps are counted: so many sets of places, which a site's address chooses from.
const SETS: usize = 64;
const WAYS: usize = 4;
/// How far below and above code its slots are if they can be, in bytes.
const BELOW: u64 = 1 << 22;
const CLOSE_BELOW: u64 = 1 << 16;
const ABOVE: u64 = 1 << 30;
/// How far a jump reaches, less what areas and pages take.
const REACH: u64 = (1 << 31) - (1 << 24);

/// Counts traps of sites: the address in the upper bits, the number in the lower eight.
pub(super) struct Traps([[AtomicU64; WAYS]; SETS]);

impl Traps {
    pub(super) fn new() -> Traps {
        Traps([const { [const { AtomicU64::new(0) }; WAYS] }; SETS])
    }

    /// Counts one, `weight` times; `None` when the site is [`done`](Traps::done), else how many there were. Where more sites meet than there are places, those with the fewest traps push
    /// each other out, which only costs time.
    pub(super) fn count(&self, site: u64, weight: impl Fn() -> u64) -> Option<u64> {
        // Fibonacci hashing: functions lie at multiples of something, and their calls at the same place in each.
        let set = (site.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize;
        let places = self.0.get(set)?;
        let word = |place: &&AtomicU64| place.load(Ordering::Relaxed);
        let known = places.iter().find(|place| word(place) >> 8 == site);
        let place = known.or_else(|| places.iter().min_by_key(|place| word(place) & 0xff))?;
        let old = word(&place);
        let before = if old >> 8 == site { old & 0xff } else { 0 };
        if before == DONE {
            return None;
        }
        let traps = (before + weight()).min(DONE - 1);
        place.store(site << 8 | traps, Ordering::Relaxed);
        Some(traps)
    }

    /// The site has been patched, or can't be.
    fn done(&self, site: u64) {
        let places = self.0.iter().flatten();
        let known = |place: &&AtomicU64| place.load(Ordering::Relaxed) >> 8 == site;
        places.filter(known).for_each(|place| place.store(site << 8 | DONE, Ordering::Relaxed));
    }
}

/// An area with slots: where it starts, and for which sites the first ones are.
#[derive(Clone)]
pub(super) struct Slots {
    start: u64,
    sites: Vec<Site>,
}

/// A patched site.
#[derive(Clone, Copy)]
struct Site {
    /// Where the instruction was that moved to the slot, or the first of them.
    moved: u64,
    /// Its `syscall` instruction, behind the last of them.
    at: u64,
}

impl Slots {
    /// The first slot that is not taken.
    fn next(&self) -> u64 {
        self.start + (self.sites.len() * SLOT_LEN) as u64
    }

    /// The same slots where everything is this much further up.
    pub(super) fn moved(&self, by: u64) -> Slots {
        let site = |site: &Site| Site { moved: site.moved.wrapping_add(by), at: site.at.wrapping_add(by) };
        Slots { start: self.start.wrapping_add(by), sites: self.sites.iter().map(site).collect() }
    }
}

/// A page that shall be patched, as it is now.
struct Page {
    /// Its number.
    number: u64,
    file: Arc<dyn HostFile>,
    /// Where it is in the file.
    offset: u64,
    /// Its entry: none, or patched before.
    pte: Pte,
    bytes: Vec<u8>,
}

impl Mm {
    /// A system call trapped; `ip` is behind its instruction. Patches the site when it has done so often enough: at once, or, where guest code has a host CPU of its
    /// own, while that wakes up ([`Mm::patch_busy_site`]). Blocks for the time of the host's calls.
    pub(crate) fn note_call(&self, cx: &Cx, ip: u64) {
        let site = ip.wrapping_sub(2);
        cx.site.set(site);
        let beside = || self.space.runs_beside(cx.cpu());
        let weight = || if beside() { IN_SESSION } else { 1 };
        let Some(traps) = self.gate.and_then(|_| self.traps.count(site, weight)) else { return };
        self.note_first_call(site);
        if traps >= TRAPS {
            cx.busy_site.set(Some(site));
            // Who does not come back from a call does not get to it later.
            if !beside() || traps >= 2 * TRAPS {
                self.patch_busy_site(cx);
            }
        }
    }

    /// The call that the task makes could be answered by the gate from now on: its site is patched next.
    pub(super) fn hurry_call(&self, cx: &Cx) {
        let site = cx.site.get();
        if self.gate.is_some() && self.traps.count(site, || TRAPS).is_some() {
            cx.busy_site.set(Some(site));
        }
    }

    /// Patches the site that was noted last, if that has not been done. Guest code may run meanwhile. Whether there was one. Blocks as [`Mm::note_call`].
    pub(crate) fn patch_busy_site(&self, cx: &Cx) -> bool {
        let site = cx.busy_site.take();
        if let (Some(site), Some(gate)) = (site, self.gate) {
            // What can't be patched goes on trapping.
            let _ = self.patch(cx, site, gate);
            self.traps.done(site);
        }
        site.is_some()
    }

    /// Where a thread believes to be that is at `ip`: outside of the slots. What a slot does behind the moved instruction changes only what the call
    /// destroys anyway.
    pub(crate) fn outside_slots(&self, ip: u64) -> u64 {
        if self.gate.is_none() {
            return ip;
        }
        let inner = self.inner();
        let found = inner.slots.iter().find_map(|slots| {
            let distance = ip.checked_sub(slots.start)?;
            let site = slots.sites.get(usize::try_from(distance).ok()? / SLOT_LEN)?;
            Some(site.at.min(site.moved + distance % SLOT_LEN as u64))
        });
        found.unwrap_or(ip)
    }

    fn patch(&self, cx: &Cx, site: u64, gate: u64) -> Option<()> {
        if self.show_patched(cx, &mut self.inner(), site)? {
            return Some(());
        }
        let page = self.page_to_patch(&self.inner(), site / PAGE_SIZE);
        let mut page = page?;
        let at = page.number * PAGE_SIZE;
        let plan = site::plan(&*page.file, page.offset, &page.bytes, site - at).ok()?;
        let slot = self.room_near(cx, at)?;
        let code = plan.slot(&page.bytes, at, slot, gate)?;
        plan.apply(&mut page.bytes, at, slot)?;

        let mut guard = self.inner();
        let inner = &mut *guard;
        // Another thread may have changed everything meanwhile.
        if self.slot_near(inner, at) != Some(slot) || !unchanged(inner, &page) {
            return None;
        }
        let mut batch = Batch::default();
        let copy = self.frames.alloc_run(1, None, Fill::Anything)?.0;
        let site = Site { moved: plan.moved(at).start, at: site };
        if self.write_slot(inner, slot, site, &code, &mut batch).is_none() {
            self.frames.put_all([copy]);
            return None;
        }
        self.machine.ram().write(copy.phys(), &page.bytes);
        let prot = inner.areas.find(at)?.host_prot(false);
        batch.map(at, PAGE_SIZE, prot, What::Ram(copy));
        let old = inner.table.set(page.number, Pte::new(copy).patched().shown(false));
        old.pfn().into_iter().for_each(|pfn| batch.put(pfn));
        self.commit(cx.cpu(), inner, &mut batch).ok().map(drop)
    }

    /// Patches these sites in a page of a file that is not shown yet, of a space that nothing has run in.
    pub(super) fn patch_page(
        &self,
        cx: &Cx,
        at: u64,
        original: &[u8],
        sites: &[(u64, Plan)],
        gate: u64,
        batch: &mut Batch,
    ) -> Option<()> {
        self.room_near(cx, at)?;
        let mut guard = self.inner();
        let inner = &mut *guard;
        let before = inner.table.get(at / PAGE_SIZE);
        let mut bytes = original.to_vec();
        if let Some(pfn) = before.pfn() {
            self.machine.ram().read(pfn.phys(), &mut bytes);
        }
        for (place, plan) in sites {
            if !plan.has_same(&bytes, original) {
                continue;
            }
            let slot = self.slot_near(inner, at)?;
            let code = plan.slot(&bytes, at, slot, gate)?;
            plan.apply(&mut bytes, at, slot)?;
            self.write_slot(inner, slot, Site { moved: plan.moved(at).start, at: at + place }, &code, batch)?;
        }
        match before.pfn() {
            Some(pfn) => self.machine.ram().write(pfn.phys(), &bytes),
            None => self.put_page(inner, at, &bytes, Pte::patched)?,
        }
        Some(())
    }

    /// Shows the patched pages of an area where the machine shows the file instead, as it does after a `fork`. Whether the site is among what is
    /// patched.
    fn show_patched(&self, cx: &Cx, inner: &mut Inner, site: u64) -> Option<bool> {
        let pages = inner.areas.find(site)?.pages();
        let hidden = |(page, pte): (u64, Pte)| (pte.is_patched() && !pte.mapped()).then_some(page);
        let hidden: Vec<u64> = inner.table.range(pages).filter_map(hidden).collect();
        let mut batch = Batch::default();
        for page in hidden {
            self.show(inner, page..page + 1, false, &mut batch);
        }
        self.commit(cx.cpu(), inner, &mut batch).ok()?;
        Some(inner.slots.iter().any(|slots| slots.sites.iter().any(|known| known.at == site)))
    }

    fn page_to_patch(&self, inner: &Inner, number: u64) -> Option<Page> {
        let vma = inner.areas.find(number * PAGE_SIZE)?;
        let file = patchable(vma)?.clone();
        let offset = vma.offset_of(number * PAGE_SIZE);
        let pte = inner.table.get(number);
        let mut bytes = alloc::vec![0; PAGE_SIZE as usize];
        match pte.pfn() {
            // The guest's own copy: a breakpoint, a relocation.
            Some(_) if !pte.is_patched() => return None,
            Some(pfn) => self.machine.ram().read(pfn.phys(), &mut bytes),
            None if vma.shown => {
                let read = read_file(&*file, offset, &mut bytes).ok()?;
                bytes.truncate(read);
            }
            None => return None,
        }
        (bytes.len() == PAGE_SIZE as usize).then_some(Page { number, file, offset, pte, bytes })
    }

    /// The next free slot that a jump from `at` reaches.
    fn slot_near(&self, inner: &Inner, at: u64) -> Option<u64> {
        let near = |slots: &&Slots| {
            slots.start.abs_diff(at) < REACH && slots.next() + SLOT_LEN as u64 <= slots.start + AREA_LEN
        };
        inner.slots.iter().find(near).map(Slots::next)
    }

    /// The same, in a new area if there is none.
    fn room_near(&self, cx: &Cx, at: u64) -> Option<u64> {
        let near = || self.slot_near(&self.inner(), at);
        if let Some(slot) = near() {
            return Some(slot);
        }
        let start = self.make_area(cx, at, AREA_LEN)?;
        self.inner().slots.push(Slots { start, sites: Vec::new() });
        near()
    }

    /// Makes an area for code in place of other code: a little below that, or, where a program begins too low for that, well above it. Not in the way of its heap.
    pub(super) fn make_area(&self, cx: &Cx, near: u64, len: u64) -> Option<u64> {
        let below = |distance| near.checked_sub(distance).filter(|&at| at >= MIN_ADDR);
        let places = [below(BELOW), below(CLOSE_BELOW), near.checked_add(ABOVE)];
        places.into_iter().flatten().find_map(|at| self.make_area_at(cx, near, at, len))
    }

    pub(super) fn make_area_at(&self, cx: &Cx, near: u64, addr: u64, len: u64) -> Option<u64> {
        let request = MapRequest {
            addr,
            len,
            prot: Prot::READ | Prot::EXEC,
            flags: MapFlags::NORESERVE,
            object: None,
            file: None,
            offset: 0,
            name: NAME,
        };
        let start = self.map(cx, request).ok()?.0;
        if start.abs_diff(near) >= REACH {
            self.unmap(cx, start, len).ok()?;
            return None;
        }
        self.seal(start, start + len).ok()?;
        Some(start)
    }

    /// Takes the slot for a site and fills it in.
    fn write_slot(
        &self,
        inner: &mut Inner,
        slot: u64,
        site: Site,
        code: &[u8],
        batch: &mut Batch,
    ) -> Option<()> {
        let mut done = 0;
        while done < code.len() {
            let at = slot + done as u64;
            let (page, offset) = (at / PAGE_SIZE, at % PAGE_SIZE);
            let pfn = self.slot_frame(inner, page, batch)?;
            let len = (code.len() - done).min((PAGE_SIZE - offset) as usize);
            self.machine.ram().write(hal::PhysAddr(pfn.phys().0 + offset), code.get(done..done + len)?);
            done += len;
        }
        inner.slots.iter_mut().find(|slots| slots.next() == slot)?.sites.push(site);
        Some(())
    }

    /// The frame of a page of slots, for writing: made if there is none, copied if another address space has it, too.
    fn slot_frame(&self, inner: &mut Inner, page: u64, batch: &mut Batch) -> Option<Pfn> {
        let pte = inner.table.get(page);
        let old = pte.pfn();
        if let Some(pfn) = old.filter(|&pfn| self.frames.count(pfn) == 1 && pte.mapped()) {
            return Some(pfn);
        }
        let fill = if old.is_some() { Fill::Anything } else { Fill::Zero };
        let (new, _) = self.frames.alloc_run(1, None, fill)?;
        if let Some(old) = old {
            self.machine.ram().copy(old.phys(), new.phys(), PAGE_SIZE);
            batch.put(old);
        }
        inner.table.set(page, Pte::new(new).shown(false));
        batch.map(page * PAGE_SIZE, PAGE_SIZE, Prot::READ | Prot::EXEC, What::Ram(new));
        Some(new)
    }
}

/// The file, if an area shows one that may be patched.
pub(super) fn patchable(vma: &Vma) -> Option<&Arc<dyn HostFile>> {
    match &vma.object {
        Object::Host(file) if !vma.is_shared() && vma.prot.contains(Prot::EXEC) && !vma.can_write() => {
            Some(file)
        }
        _ => None,
    }
}

fn unchanged(inner: &Inner, page: &Page) -> bool {
    let vma = inner.areas.find(page.number * PAGE_SIZE);
    let same = vma.and_then(patchable).is_some_and(|file| Arc::ptr_eq(file, &page.file));
    same && inner.table.get(page.number) == page.pte
}

/// Shows the file again in place of what was patched in a range, which is about to become writable.
pub(super) fn restore(inner: &mut Inner, start: u64, end: u64, batch: &mut Batch) {
    let pages = inner.table.range(start / PAGE_SIZE..end / PAGE_SIZE);
    let patched: Vec<u64> =
        pages.filter(|(_, pte)| pte.is_patched()).map(|(page, _)| page * PAGE_SIZE).collect();
    for at in patched {
        discard(inner, at, at + PAGE_SIZE, batch);
    }
}
