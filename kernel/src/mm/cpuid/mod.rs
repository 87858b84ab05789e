//! `cpuid` without leaving the virtual machine.
//!
//! On a host that is itself a virtual machine every `cpuid` instruction goes to its hypervisor and takes longer than a system call. C libraries
//! execute dozens of them when a program starts, and their answers are always the same. So a new program's first code, that is the
//! interpreter's or that of a program without one, is shown with other instructions in their place, which look the answer up in a table
//! ([`code`]); [`site`] says what can be replaced. What is not in the table is asked of the CPU: the machine leaves out whatever depends
//! on the CPU that is asked.
//!
//! As with patched calls ([`super::gate`]), the file stays as it is, and the pages are such copies. Table and replacements lie in a sealed area. Different
//! from the instruction is that the arithmetic flags are lost, which nothing behind a replaced one reads, and that a signal handler may find
//! itself called from that area.

mod code;
mod site;
mod switch;
#[cfg(test)]
mod tests;

use self::site::Site;
use super::batch::Batch;
use super::fault::read_file;
use super::frames::{Fill, Pfn};
use super::inner::Inner;
use super::programs::FirstCode;
use super::space::Mm;
use super::table::Pte;
use crate::sync::Once;
use crate::task::Cx;
use alloc::vec::Vec;
use hal::PAGE_SIZE;

/// How often a program's instructions are left to the CPU: finding them, and making the table, takes longer than executing them in one start.
const FIRST_STARTS: u32 = 1;

/// The sites of a program's first code, once they have been looked for.
#[derive(Default)]
pub(super) struct CpuidSites(Once<Vec<Site>>);

impl CpuidSites {
    /// Whether they have been looked for.
    pub(super) fn are_known(&self) -> bool {
        self.0.is_completed()
    }

    /// A program is about to begin: where it has such instructions, if that happens often. Blocks for the host's reads.
    fn of(&self, code: &FirstCode) -> &[Site] {
        match self.0.get() {
            Some(sites) => sites,
            None if code.starts < FIRST_STARTS => &[],
            None => {
                let found = site::find(&*code.file, code.piece.clone());
                self.0.call_once(|| found)
            }
        }
    }
}

impl Mm {
    /// Before a new program runs, the first time: replaces what can be replaced in its first code. What does not work out is left alone.
    pub(super) fn answer_cpuid(&self, cx: &Cx, first: &FirstCode, batch: &mut Batch) {
        let _ = self.try_answer_cpuid(cx, first, batch);
    }

    fn try_answer_cpuid(&self, cx: &Cx, first: &FirstCode, batch: &mut Batch) -> Option<()> {
        let FirstCode { file, piece, at, program, .. } = first;
        let sites = program.cpuid.of(first);
        let answers = self.machine.cpuid();
        if sites.is_empty() || answers.is_empty() {
            return None;
        }
        let area_len = code::len(answers, sites).next_multiple_of(PAGE_SIZE);
        let area = self.make_area(cx, *at, area_len)?;
        let mut code = code::Area::new(answers, area);
        let mut inner = self.inner();
        // The sites are in order.
        for sites in sites.chunk_by(|a, b| a.page() == b.page()) {
            let offset = sites.first()?.page();
            let mut bytes = alloc::vec![0; PAGE_SIZE as usize];
            read_file(&**file, offset, &mut bytes).ok()?;
            let page = at + (offset - piece.start);
            let mut replaced = false;
            for site in sites {
                replaced |= code.replace(site, page, &mut bytes).is_some();
            }
            if replaced {
                self.put_page(&mut inner, page, &bytes, Pte::patched)?;
            }
        }
        for (i, bytes) in code.bytes().chunks(PAGE_SIZE as usize).enumerate() {
            self.put_page(&mut inner, area + i as u64 * PAGE_SIZE, bytes, |pte| pte)?;
        }
        let pages = area / PAGE_SIZE..(area + area_len) / PAGE_SIZE;
        self.show(&mut inner, pages, false, batch);
        Some(())
    }

    /// Makes a page of a space that nothing has run in, with this at its start.
    pub(super) fn put_page(
        &self,
        inner: &mut Inner,
        at: u64,
        bytes: &[u8],
        kind: impl Fn(Pte) -> Pte,
    ) -> Option<()> {
        let near = inner.table.get((at / PAGE_SIZE).wrapping_sub(1)).pfn();
        let fill = if bytes.len() < PAGE_SIZE as usize { Fill::Zero } else { Fill::Anything };
        let pfn: Pfn = self.frames.alloc_run(1, near, fill)?.0;
        self.machine.ram().write(pfn.phys(), bytes);
        inner.table.set(at / PAGE_SIZE, kind(Pte::new(pfn)));
        Some(())
    }
}
