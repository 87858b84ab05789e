//! Copies of address spaces.

use super::batch::Batch;
use super::space::Mm;
use super::vma::{Object, VmaFlags};
use crate::error::Result;
use crate::task::Cx;
use alloc::sync::Arc;
use hal::PAGE_SIZE;

impl Mm {
    /// A copy-on-write copy (`fork`). The copy shows nothing yet: its first faults map windows. Ours loses write access to
    /// pages that are now shared, by one change for each run of them.
    pub fn fork(&self, cx: &Cx) -> Result<Arc<Mm>> {
        let child = Mm::create(&self.machine, &self.frames)?;
        let mut batch = Batch::default();
        let mut inner = self.inner.lock();
        let mut copy = child.inner.lock();
        copy.mmap_base = inner.mmap_base;
        copy.brk = inner.brk;
        let inner = &mut *inner;
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
            let prot = vma.host_prot(false);
            inner.table.update(vma.pages(), |page, pte| {
                if let Some(pfn) = pte.pfn() {
                    self.frames.get(pfn);
                    copy.table.set(page, pte.hidden());
                }
                // Runs of what the machine shows, with no hole between: see `MapOp::Protect`.
                if pte.writable() {
                    batch.protect(page * PAGE_SIZE, PAGE_SIZE, prot);
                }
                pte.read_only()
            });
        }
        copy.note_resident();
        drop(copy);
        self.commit(cx.cpu(), inner, &mut batch)?;
        Ok(child)
    }
}
