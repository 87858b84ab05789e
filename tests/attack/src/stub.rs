//! What is in the address space that `/proc/self/maps` does not show, found by looking.

use crate::{jump, sys};

/// The end of what a process of this architecture can have mapped.
pub const END: u64 = 1 << 47;
/// How far below it things are looked for, page by page.
const DEPTH: u64 = 32 << 20;
/// Size of a page.
pub const PAGE: u64 = 4096;

/// A page that can be read though nobody says that it is there.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Its address.
    pub at: u64,
    /// Whether it can be written.
    pub writable: bool,
}

/// All of them.
#[derive(Clone, Default, Debug)]
pub struct Hidden {
    /// In order of their addresses.
    pub pages: Vec<Page>,
}

impl Hidden {
    /// Looks for them. [`jump::catch`] has been called.
    pub fn find() -> Hidden {
        let known = sys::maps();
        let shown = |at: u64| known.iter().any(|a| (a.start..a.end).contains(&at));
        let candidates = (END - DEPTH..END - PAGE).step_by(PAGE as usize).filter(|at| !shown(*at));
        let readable = candidates.filter(|at| jump::peek(*at).is_some());
        Hidden { pages: readable.map(|at| Page { at, writable: jump::can_write(at) }).collect() }
    }

    /// Those that can't be written: code and constants.
    pub fn constant(&self) -> Vec<u64> {
        self.pages.iter().filter(|p| !p.writable).map(|p| p.at).collect()
    }

    /// Those that can be written.
    pub fn writable(&self) -> Vec<u64> {
        self.pages.iter().filter(|p| p.writable).map(|p| p.at).collect()
    }

    /// The part of the constant pages that is code, as far as can be told: pages with a system call in them.
    pub fn text(&self) -> Vec<u64> {
        self.constant().into_iter().filter(|at| !sites_in(*at, PAGE).is_empty()).collect()
    }
}

/// Every place of a readable range where bytes of a system-call instruction are, instruction or not.
pub fn sites_in(start: u64, len: u64) -> Vec<u64> {
    let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, len as usize) };
    let is_call = |pair: &[u8]| matches!(pair, [0x0f, 0x05] | [0x0f, 0x34] | [0xcd, 0x80]);
    let found = bytes.windows(2).enumerate().filter(|(_, pair)| is_call(pair));
    found.map(|(i, _)| start + i as u64).collect()
}

/// Places of a byte sequence in the hidden pages that can't be written.
pub fn places(hidden: &Hidden, bytes: &[u8]) -> Vec<u64> {
    let in_page = |at: &u64| {
        let page = unsafe { std::slice::from_raw_parts(*at as *const u8, PAGE as usize) };
        let found = page.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
        found.map(|(i, _)| at + i as u64).collect::<Vec<_>>()
    };
    hidden.constant().iter().flat_map(in_page).collect()
}
