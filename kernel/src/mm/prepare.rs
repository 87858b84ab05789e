//! What a new program touches first, made and shown in one batch, instead of by a dozen faults.

use super::batch::Batch;
use super::fault::Patches;
use super::space::Mm;
use super::vma::{Object, VmaFlags};
use crate::task::Cx;
use alloc::vec::Vec;
use hal::PAGE_SIZE;

/// How much of the stack below the first stack pointer exists from the start, in pages.
const STACK_PAGES: u64 = 4;
/// Writable areas of the image up to this size, in pages, exist from the start.
const DATA_PAGES: u64 = 32;

impl Mm {
    /// Shows a program that was just loaded and begins at `start`: its files, its data, and its stack around `sp`. What does not work out is left to
    /// faults.
    pub(crate) fn prepare(&self, cx: &Cx, start: u64, sp: u64) {
        let mut batch = Batch::default();
        self.answer_cpuid(cx, start, &mut batch);
        let mut guard = self.inner.lock();
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
        for (start, host, written) in areas {
            // First the pages, so that they are shown with the file.
            if let Some(pages) = &written {
                let mut page = pages.start;
                while page < pages.end {
                    let Ok(made) = self.make(inner, page, true, Some(page..pages.end), &mut batch) else {
                        break;
                    };
                    page = made.pages.end.max(page + 1);
                }
            }
            if host {
                self.show_file(inner, start, Patches::Shown, &mut batch);
            }
            if let Some(pages) = written {
                self.show(inner, pages, false, &mut batch);
            }
        }
        inner.note_resident();
        // A failure leaves less shown than there could be, which the page table knows.
        let _ = self.commit(cx.cpu(), inner, &mut batch);
    }
}
