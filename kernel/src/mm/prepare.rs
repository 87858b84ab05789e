//! What a new program touches first, made and shown in one batch, instead of by a dozen faults.

use super::batch::Batch;
use super::fault::Patches;
use super::inner::Inner;
use super::space::Mm;
use super::vma::{Object, VmaFlags};
use crate::task::Cx;
use alloc::vec::Vec;
use core::ops::Range;
use hal::PAGE_SIZE;

/// How much of the stack below the first stack pointer exists from the start, in pages.
const STACK_PAGES: u64 = 4;
/// Writable areas of the image up to this size, in pages, exist from the start.
const DATA_PAGES: u64 = 32;

/// What [`Mm::prepare`] has begun to show.
pub(crate) struct Preparation(Batch);

impl Mm {
    /// A program is about to be loaded.
    pub(crate) fn expect_program(&self, cx: &Cx) {
        self.space.expect_program(cx.cpu());
    }

    /// Begins to show a program that was just loaded and begins at `start`: its files, its data, and its stack around `sp`. What does not work out is left to
    /// faults. The caller does what else there is to do before the program runs, and then [`Mm::prepared`].
    pub(crate) fn prepare(&self, cx: &Cx, start: u64, sp: u64) -> Preparation {
        let mut batch = Batch::default();
        if cx.kernel.patches()
            && let Some(first) = self.first_code(cx, start)
        {
            if !self.reuse_first_pages(cx, &first, &mut batch) {
                self.answer_cpuid(cx, &first, &mut batch);
                self.patch_first_calls(cx, &first, &mut batch);
                self.keep_first_pages(cx, &first);
            }
            self.first.call_once(|| first);
        }
        let mut guard = self.inner();
        let inner = &mut *guard;
        let areas: Vec<_> = inner
            .areas
            .iter()
            .filter(|vma| !vma.prot.is_empty() && !vma.is_shared())
            .map(|vma| {
                let stack = vma.flags.contains(VmaFlags::GROWSDOWN);
                let data = vma.can_write() && vma.pages().count() as u64 <= DATA_PAGES;
                let first = (sp / PAGE_SIZE).saturating_sub(STACK_PAGES).max(vma.start / PAGE_SIZE);
                let pages = if stack { first..vma.end / PAGE_SIZE } else { vma.pages() };
                (vma.start, matches!(vma.object, Object::Host(_)), (stack || data).then_some(pages))
            })
            .collect();
        // First all pages, so that they are shown in one piece, and no file where nothing of it is left.
        for pages in areas.iter().filter_map(|(_, _, written)| written.clone()) {
            self.make_all(inner, pages, &mut batch);
        }
        for (start, host, written) in areas {
            if host {
                self.show_file(inner, start, Patches::Shown, &mut batch);
            }
            if let Some(pages) = written {
                self.show(inner, pages, false, &mut batch);
            }
        }
        inner.note_resident();
        // A failure leaves less shown than there could be, which the page table knows.
        let _ = self.begin(cx.cpu(), inner, &mut batch);
        Preparation(batch)
    }

    /// The end of that. Blocks for the host's calls at most.
    pub(crate) fn prepared(&self, cx: &Cx, preparation: &Preparation) {
        let _ = self.finish(cx.cpu(), &mut self.inner(), &preparation.0);
    }

    /// Makes the pages of small writable areas in a range of addresses, of a program that is being loaded, so that they are in one piece of RAM whatever is written first.
    pub(crate) fn make_data(&self, range: Range<u64>) {
        let mut guard = self.inner();
        let inner = &mut *guard;
        let areas = inner.areas.overlapping(range.start, range.end);
        let small = areas.filter(|vma| vma.can_write() && !vma.is_shared());
        let clipped =
            small.map(|vma| vma.start.max(range.start) / PAGE_SIZE..vma.end.min(range.end) / PAGE_SIZE);
        let pages: Vec<_> = clipped.filter(|pages| pages.clone().count() as u64 <= DATA_PAGES).collect();
        for pages in pages {
            self.make_all(inner, pages, &mut Batch::default());
        }
    }

    /// Makes what there is not of these pages of an area.
    fn make_all(&self, inner: &mut Inner, pages: Range<u64>, batch: &mut Batch) {
        let mut page = pages.start;
        while page < pages.end {
            if inner.table.get(page).pfn().is_some() {
                page += 1;
                continue;
            }
            let Ok(made) = self.make(inner, page, true, Some(page..pages.end), batch) else { break };
            page = made.pages.end.max(page + 1);
        }
    }
}
