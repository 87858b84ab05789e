//! The system calls of a starting program go through the gate from the first one on, where it is known which they are.
//!
//! A site is patched when it has trapped often enough ([`super::gate`]), but a program that starts makes few calls from many sites, and then ends or goes on elsewhere: `/bin/true` makes 33, of which 24 are in
//! one page of the dynamic linker. So the traps of the first starts are counted by page, and from then on a page with enough of them is shown patched when a program begins.

use super::batch::Batch;
use super::fault::read_file;
use super::programs::FirstCode;
use super::site::{self, Plan};
use super::space::Mm;
use crate::sync::{Mutex, Once};
use crate::task::Cx;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use hal::PAGE_SIZE;

/// In how many starts traps are counted.
const STARTS: u32 = 4;
/// How many traps of a start a page has to have: to show a copy of it takes as long as some traps do more than calls through the gate.
const WORTH: u32 = 4;
/// Most sites that are counted.
const SITES: usize = 256;
/// Most pages that are shown patched.
const PAGES: usize = 4;

/// What is known of the calls of a program's first code.
#[derive(Default)]
pub(super) struct FirstCalls {
    /// How often sites have trapped, by where they are in the file.
    traps: Mutex<BTreeMap<u64, u32>>,
    /// What to show instead of which pages, once that is known.
    pages: Once<Vec<PatchedPage>>,
}

/// A page of a file with calls that are worth it.
pub(super) struct PatchedPage {
    /// Where it is in the file, and what it was.
    offset: u64,
    bytes: Vec<u8>,
    /// Where its sites are in it, and what to do about them.
    sites: Vec<(u64, Plan)>,
}

impl FirstCalls {
    /// Whether they have been counted.
    pub(super) fn are_known(&self) -> bool {
        self.pages.is_completed()
    }

    /// A call of the site there has trapped.
    pub(super) fn note(&self, offset: u64) {
        if self.are_known() {
            return;
        }
        let mut traps = self.traps.lock();
        if traps.len() < SITES || traps.contains_key(&offset) {
            *traps.entry(offset).or_default() += 1;
        }
    }

    /// What to show patched in a program that begins, the first time after some starts. Blocks for the host's reads.
    fn pages(&self, code: &FirstCode) -> &[PatchedPage] {
        if let Some(pages) = self.pages.get() {
            return pages;
        }
        if code.starts < STARTS {
            return &[];
        }
        let traps = self.traps.lock().clone();
        let mut found = Vec::new();
        let sites: Vec<(u64, u32)> = traps.into_iter().collect();
        for sites in sites.chunk_by(|a, b| a.0 / PAGE_SIZE == b.0 / PAGE_SIZE) {
            let all: u32 = sites.iter().map(|(_, traps)| traps).sum();
            if all >= WORTH * code.starts && found.len() < PAGES {
                found.extend(PatchedPage::plan(code, sites));
            }
        }
        self.pages.call_once(|| found)
    }
}

impl PatchedPage {
    fn plan(code: &FirstCode, sites: &[(u64, u32)]) -> Option<PatchedPage> {
        let offset = sites.first()?.0 & !(PAGE_SIZE - 1);
        let bytes = page_of(code, offset)?;
        let plan = |(site, _): &(u64, u32)| {
            let place = site - offset;
            Some((place, site::plan(&*code.file, offset, &bytes, place).ok()?))
        };
        let sites: Vec<_> = sites.iter().filter_map(plan).collect();
        (!sites.is_empty()).then_some(PatchedPage { offset, bytes, sites })
    }
}

fn page_of(code: &FirstCode, offset: u64) -> Option<Vec<u8>> {
    let mut bytes = alloc::vec![0; PAGE_SIZE as usize];
    (read_file(&*code.file, offset, &mut bytes).ok()? == bytes.len()).then_some(bytes)
}

impl Mm {
    /// Before a new program runs, the first time: shows the pages patched whose calls are known. What does not work out is left alone.
    pub(super) fn patch_first_calls(&self, cx: &Cx, code: &FirstCode, batch: &mut Batch) {
        let Some(gate) = self.gate else { return };
        for page in code.program.calls.pages(code) {
            // The file may have been changed since.
            if code.piece.contains(&page.offset) && page_of(code, page.offset).as_ref() == Some(&page.bytes) {
                let at = code.at + (page.offset - code.piece.start);
                let _ = self.patch_page(cx, at, &page.bytes, &page.sites, gate, batch);
            }
        }
    }

    /// A call has trapped whose instruction is there.
    pub(super) fn note_first_call(&self, site: u64) {
        if let Some(code) = self.first.get()
            && let Some(distance) = site.checked_sub(code.at)
            && distance < code.piece.end - code.piece.start
        {
            code.program.calls.note(code.piece.start + distance);
        }
    }
}
