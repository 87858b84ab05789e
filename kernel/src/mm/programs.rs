//! What is known of the code that programs begin with: that of the dynamic linker, or of a program without one.
//!
//! It runs once, and only for a while, so that it pays to find out where it can be improved only if that is kept for the next start: where it executes `cpuid` ([`super::cpuid`]), and which of its system
//! calls trap ([`super::first_calls`]).

use super::cpuid::CpuidSites;
use super::first_calls::FirstCalls;
use super::first_pages::FirstPages;
use super::gate::patchable;
use super::space::Mm;
use crate::sync::Mutex;
use crate::task::Cx;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};
use hal::HostFile;

/// Number of programs that are kept.
const PROGRAMS: usize = 8;

/// The programs that were started last.
#[derive(Default)]
pub(crate) struct Programs(Mutex<Vec<Known>>);

struct Known {
    file: Weak<dyn HostFile>,
    /// The piece with the code, in bytes of the file.
    piece: Range<u64>,
    program: Arc<Program>,
}

/// What is known of one.
#[derive(Default)]
pub(super) struct Program {
    starts: AtomicU32,
    pub(super) cpuid: CpuidSites,
    pub(super) calls: FirstCalls,
    pub(super) pages: FirstPages,
}

impl Program {
    /// Whether later starts will find nothing more.
    pub(super) fn is_known(&self) -> bool {
        self.cpuid.are_known() && self.calls.are_known()
    }
}

/// The code that an address space begins with.
pub(super) struct FirstCode {
    pub(super) file: Arc<dyn HostFile>,
    /// Where it is in the file, and in the address space.
    pub(super) piece: Range<u64>,
    pub(super) at: u64,
    pub(super) program: Arc<Program>,
    /// How often it has been started before.
    pub(super) starts: u32,
}

impl Programs {
    fn find(&self, file: &Arc<dyn HostFile>, piece: &Range<u64>) -> Arc<Program> {
        // A file that is referred to weakly keeps its place in memory.
        let same = |known: &&Known| {
            known.piece == *piece && core::ptr::addr_eq(known.file.as_ptr(), Arc::as_ptr(file))
        };
        let mut all = self.0.lock();
        if let Some(known) = all.iter().find(same) {
            return known.program.clone();
        }
        if all.len() >= PROGRAMS {
            all.remove(0);
        }
        let program = Arc::new(Program::default());
        all.push(Known { file: Arc::downgrade(file), piece: piece.clone(), program: program.clone() });
        program
    }
}

impl Mm {
    /// The code at `start`, where a new program is about to begin, if that is a file's that may be patched.
    pub(super) fn first_code(&self, cx: &Cx, start: u64) -> Option<FirstCode> {
        let (file, at, piece) = {
            let inner = self.inner();
            let vma = inner.areas.find(start)?;
            (patchable(vma)?.clone(), vma.start, vma.offset..vma.offset + vma.len())
        };
        let program = cx.kernel.programs.find(&file, &piece);
        let starts = program.starts.fetch_add(1, Ordering::Relaxed);
        Some(FirstCode { file, piece, at, program, starts })
    }
}
