//! Copies of address spaces.
//!
//! A fault costs as much as a dozen pages copied or a handful of mappings, so the copy is made ready to run: pages that the parent has written since
//! its last `fork`, if they are few, are copied at once and stay writable on both sides; and what the parent is shown, the child is shown
//! from the start, in one batch. Everything else is copied on write and shown on demand. Patched code is shown when a call is busy in the child, too.

use super::batch::{Batch, What};
use super::fault::Patches;
use super::frames::{Fill, Pfn};
use super::inner::Inner;
use super::space::Mm;
use super::table::Pte;
use super::vma::{Object, VmaFlags};
use crate::error::Result;
use crate::task::Cx;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hal::{PAGE_SIZE, Prot};

/// Most pages of one area that are copied at once: an area where more are written to is copied on write.
const COPY_AREA: usize = 128;
/// Most pages of all areas that are copied at once.
const COPY_ALL: usize = 256;
/// No more areas are shown to the child once there are so many changes.
const SHOW_CHANGES: usize = 48;

impl Mm {
    /// A copy (`fork`). Ours loses write access to pages that are now shared, by one change for each run of them.
    pub fn fork(&self, cx: &Cx) -> Result<Arc<Mm>> {
        let child = Mm::create(&self.machine, &self.frames, self.machine.new_copy(&*self.space))?;
        let mut batch = Batch::default();
        let mut guard = self.inner();
        let inner = &mut *guard;
        let mut copy = child.inner();
        copy.mmap_base = inner.mmap_base;
        copy.heap = inner.heap.clone();
        copy.slots = inner.slots.clone();
        let mut room = if self.frames.available() > 4 * COPY_ALL as u64 { COPY_ALL } else { 0 };
        // Areas of which the parent is shown something; those that are written to first.
        let (mut written, mut others) = (Vec::new(), Vec::new());
        for vma in inner.areas.iter() {
            if vma.flags.contains(VmaFlags::DONTFORK) {
                continue;
            }
            let mut twin = vma.clone();
            twin.shown = false;
            // Locks are not inherited (mlock(2)).
            twin.flags -= VmaFlags::LOCKED;
            if let Object::Cache(cache) = &vma.object {
                cache.add_mapper(&child.me);
            }
            copy.add(twin);
            // Shared pages are found again by faults.
            if vma.flags.intersects(VmaFlags::SHARED | VmaFlags::WIPEONFORK) {
                continue;
            }
            let dirty =
                inner.table.range(vma.pages()).filter(|(_, pte)| pte.writable()).take(COPY_AREA + 1).count();
            let at_once = dirty <= COPY_AREA.min(room);
            room -= if at_once { dirty } else { 0 };
            let prot = vma.host_prot(false);
            // Of files, programs and libraries: with what is executed comes what lies beside it. Others are hardly read before `execve`.
            let mut shown = vma.shown && vma.prot.contains(Prot::EXEC);
            let mut after = None;
            let code = vma.name == super::gate::NAME;
            inner.table.update(vma.pages(), |page, pte| {
                let Some(pfn) = pte.pfn() else { return pte };
                shown |= pte.mapped() && !code;
                // For now the child's entries say what the parent is shown.
                let entry = |pfn| {
                    let entry = if pte.is_patched() { Pte::new(pfn).patched() } else { Pte::new(pfn) };
                    if pte.mapped() && !code { entry.shown(false) } else { entry }
                };
                if at_once
                    && pte.writable()
                    && let Some(twin) = self.twin(pfn, after)
                {
                    after = Some(twin);
                    copy.table.set(page, entry(twin));
                    return pte;
                }
                self.frames.get(pfn);
                copy.table.set(page, entry(pfn));
                // Runs of what the machine shows, with no hole between: see `MapOp::Protect`.
                if pte.writable() {
                    batch.protect(page * PAGE_SIZE, PAGE_SIZE, prot);
                }
                pte.read_only()
            });
            if shown {
                if at_once && dirty > 0 { &mut written } else { &mut others }.push((vma.start, vma.shown));
            }
        }
        inner.confirm_lowered(&mut batch);
        self.commit(cx.cpu(), inner, &mut batch)?;
        drop(guard);
        // Many a child only touches a few pages before it executes another program.
        batch.on_touch = true;
        child.show_copy(&mut copy, written.into_iter().chain(others), &mut batch);
        copy.note_resident();
        child.commit(cx.cpu(), &mut copy, &mut batch)?;
        drop(copy);
        Ok(child)
    }

    /// Has the machine show the areas that start at these addresses: the file, for those with a `true`, and the pages that the page table
    /// says are shown.
    fn show_copy(&self, inner: &mut Inner, areas: impl Iterator<Item = (u64, bool)>, batch: &mut Batch) {
        for (start, file) in areas {
            if file && batch.len() < SHOW_CHANGES {
                self.show_file(inner, start, Patches::WhenBusy, batch);
            }
            let Inner { areas, table, .. } = &mut *inner;
            let Some(vma) = areas.find(start) else { continue };
            // Then the file and all pages, by this area or by a neighbour.
            if vma.shown {
                continue;
            }
            table.update(vma.pages(), |page, pte| {
                let pte_now = pte.hidden();
                match self.wants_showing(vma, pte_now) {
                    Some((pfn, writable)) if !file && pte.mapped() && batch.len() < SHOW_CHANGES => {
                        let prot = vma.host_prot(writable);
                        batch.map(page * PAGE_SIZE, PAGE_SIZE, prot, What::Ram(pfn));
                        pte_now.shown(writable)
                    }
                    _ => pte_now,
                }
            });
        }
    }

    /// A new frame with the same bytes, if there is one; near `after`.
    fn twin(&self, pfn: Pfn, after: Option<Pfn>) -> Option<Pfn> {
        let (new, _) = self.frames.alloc_run(1, after, Fill::Anything)?;
        self.machine.ram().copy(pfn.phys(), new.phys(), PAGE_SIZE);
        Some(new)
    }
}
