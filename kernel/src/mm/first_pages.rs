//! The pages that a start of a program has shown instead of its first code, for the next start.
//!
//! Copies of the code with other instructions ([`super::cpuid`], [`super::first_calls`]), and the areas that these lead to, are the same for each start, whatever their addresses, while their distances are:
//! all that depends on where they are is relative. So the first start that has all of them keeps the frames, and later ones share those. Whoever writes to such a page gets one of his own, as
//! behind a `fork`.

use super::batch::{Batch, What};
use super::frames::Frame;
use super::gate::{NAME, Slots};
use super::inner::Inner;
use super::programs::FirstCode;
use super::space::Mm;
use super::table::Pte;
use crate::fs::Stamp;
use crate::sync::Mutex;
use crate::task::Cx;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hal::{PAGE_SIZE, Prot};

/// What is kept. Distances are from where the first code is, in bytes.
struct Kept {
    stamp: Stamp,
    /// Start and length of the areas.
    areas: Vec<(i64, u64)>,
    /// Pages of the code, then those of the areas.
    code: Vec<(i64, Frame)>,
    others: Vec<(i64, Frame)>,
    /// The slots in the areas, and where the first code was.
    slots: Vec<Slots>,
    at: u64,
}

/// The pages of a program, once there are some.
#[derive(Default)]
pub(super) struct FirstPages(Mutex<Option<Arc<Kept>>>);

impl Mm {
    /// Before a new program runs, the first time: shows what was kept, if the file is what it was and there is room at the same distances. Blocks for a call of the host's.
    pub(super) fn reuse_first_pages(&self, cx: &Cx, code: &FirstCode, batch: &mut Batch) -> bool {
        let kept = code.program.pages.0.lock().clone();
        kept.is_some_and(|kept| self.show_kept(cx, code, &kept, batch).is_some())
    }

    fn show_kept(&self, cx: &Cx, code: &FirstCode, kept: &Kept, batch: &mut Batch) -> Option<()> {
        if Stamp::of(&code.file.attr().ok()?) != kept.stamp {
            return None;
        }
        let there = |distance: i64| code.at.checked_add_signed(distance);
        let areas: Option<Vec<_>> = kept.areas.iter().map(|&(at, len)| Some((there(at)?, len))).collect();
        let areas = areas?;
        let room = |inner: &Inner, (at, len): (u64, u64)| {
            at.checked_add(len).is_some_and(|end| end <= self.user_limit && inner.areas.is_free(at, end))
        };
        let all_free = areas.iter().all(|&area| room(&self.inner(), area));
        if !all_free || areas.iter().any(|&(at, len)| self.make_area_at(cx, code.at, at, len) != Some(at)) {
            return None;
        }
        let mut inner = self.inner();
        for (distance, frame) in &kept.code {
            self.frames.get(frame.pfn());
            inner.table.set(there(*distance)? / PAGE_SIZE, Pte::new(frame.pfn()).patched());
        }
        for (distance, frame) in &kept.others {
            let at = there(*distance)?;
            self.frames.get(frame.pfn());
            inner.table.set(at / PAGE_SIZE, Pte::new(frame.pfn()).shown(false));
            batch.map(at, PAGE_SIZE, Prot::READ | Prot::EXEC, What::Ram(frame.pfn()));
        }
        inner.slots.extend(kept.slots.iter().map(|slots| slots.moved(code.at.wrapping_sub(kept.at))));
        Some(())
    }

    /// Keeps what this start shows, if no later one will show more.
    pub(super) fn keep_first_pages(&self, cx: &Cx, code: &FirstCode) {
        if !code.program.is_known() {
            return;
        }
        let Ok(attr) = code.file.attr() else { return };
        let stamp = Stamp::of(&attr);
        if !stamp.is_settled((cx.realtime_ns() / 1_000_000_000) as i64) {
            return;
        }
        let inner = self.inner();
        let distance = |at: u64| at.wrapping_sub(code.at).cast_signed();
        let page =
            |(page, pte): (u64, Pte)| Some((distance(page * PAGE_SIZE), self.frames.share(pte.pfn()?)));
        let own = inner.areas.iter().filter(|vma| vma.name == NAME);
        let areas: Vec<_> = own.collect();
        let code_pages = code.at / PAGE_SIZE..(code.at + code.piece.end - code.piece.start) / PAGE_SIZE;
        let kept = Kept {
            stamp,
            areas: areas.iter().map(|vma| (distance(vma.start), vma.len())).collect(),
            code: inner
                .table
                .range(code_pages)
                .filter(|(_, pte)| pte.is_patched())
                .filter_map(page)
                .collect(),
            others: areas.iter().flat_map(|vma| inner.table.range(vma.pages())).filter_map(page).collect(),
            slots: inner.slots.clone(),
            at: code.at,
        };
        drop(inner);
        *code.program.pages.0.lock() = Some(Arc::new(kept));
    }
}
