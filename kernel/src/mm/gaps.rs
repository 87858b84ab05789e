//! Where a search for free address space can begin.
//!
//! Mappings are placed in the highest gap that is large enough, so a program with thousands of areas (one or two for each thread) would
//! have all of them looked at for each new one. Remembered is, for a few lengths, below which address the first such gap can be:
//! placing only makes gaps smaller, so this holds until something is freed above. The answer of a search is the same with and without it.

use alloc::vec::Vec;

/// How many lengths are remembered: programs use few (stacks, signal stacks, arenas).
const LENGTHS: usize = 8;

/// No gap of `len` bytes or more ends above `top`.
#[derive(Clone, Copy)]
struct Known {
    len: u64,
    top: u64,
}

/// What is known of the space below `high`.
#[derive(Default)]
pub(super) struct Gaps {
    high: u64,
    known: Vec<Known>,
}

impl Gaps {
    /// Where a search below `high` for `len` bytes can begin.
    pub(super) fn top(&mut self, len: u64, high: u64) -> u64 {
        if self.high != high {
            self.high = high;
            self.known.clear();
        }
        self.known.iter().filter(|k| k.len <= len).map(|k| k.top).min().unwrap_or(high).min(high)
    }

    /// A search for `len` bytes found that no gap above `top` is long enough.
    pub(super) fn found(&mut self, len: u64, top: u64) {
        if self.known.iter().any(|k| k.len <= len && k.top <= top) {
            return;
        }
        // What says less than this.
        self.known.retain(|k| k.len < len || k.top < top);
        if self.known.len() == LENGTHS {
            let highest = self.known.iter().enumerate().max_by_key(|(_, k)| k.top).map(|(n, _)| n);
            highest.map(|n| self.known.swap_remove(n));
        }
        self.known.push(Known { len, top });
    }

    /// Space became free in a gap that ends at `end`.
    pub(super) fn freed(&mut self, end: u64) {
        self.known.iter_mut().for_each(|k| k.top = k.top.max(end));
    }
}

#[cfg(test)]
mod tests {
    use super::super::vma::{Areas, GUARD_GAP, Vma, VmaFlags};
    use super::*;
    use hal::{PAGE_SIZE, Prot};

    const HIGH: u64 = 1024 * PAGE_SIZE;

    fn area(start: u64, len: u64, flags: VmaFlags) -> Vma {
        Vma::anonymous(start, start + len, Prot::READ, flags)
    }

    /// The highest gap, looked for page by page.
    fn plainly(areas: &Areas, len: u64) -> Option<u64> {
        (1..=(HIGH - len) / PAGE_SIZE).rev().map(|page| page * PAGE_SIZE).find(|&at| {
            let free = areas.iter().all(|v| at + len <= v.start || at >= v.end);
            let guard =
                areas.iter().find(|v| v.start >= at).filter(|v| v.flags.contains(VmaFlags::GROWSDOWN));
            free && guard.is_none_or(|v| at + len <= v.start.saturating_sub(GUARD_GAP))
        })
    }

    #[test]
    fn what_is_remembered_changes_no_answer() {
        let mut areas = Areas::default();
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for step in 0..1500 {
            let len = (1 + random(20)) * PAGE_SIZE;
            let found = areas.find_gap_below(len, PAGE_SIZE, HIGH);
            assert_eq!(found, plainly(&areas, len), "step {step}, {} pages", len / PAGE_SIZE);
            match (random(5), found) {
                (0..=2, Some(at)) => {
                    let kind = if random(9) == 0 { VmaFlags::GROWSDOWN } else { VmaFlags::empty() };
                    areas.insert(area(at, len, kind));
                }
                (3, _) => {
                    // Where it may be in the gap of a stack.
                    let start = random((HIGH - len) / PAGE_SIZE) * PAGE_SIZE;
                    if areas.overlapping(start, start + len).next().is_none() {
                        areas.insert(area(start, len, VmaFlags::empty()));
                    }
                }
                _ => {
                    let start = random(HIGH / PAGE_SIZE) * PAGE_SIZE;
                    areas.take(start, start + len);
                    areas.freed(start + len);
                }
            }
        }
    }

    #[test]
    fn a_search_begins_where_the_last_one_ended() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.top(4, 1000), 1000);
        gaps.found(4, 500);
        assert_eq!((gaps.top(4, 1000), gaps.top(9, 1000), gaps.top(3, 1000)), (500, 500, 1000));
        gaps.found(2, 400);
        assert_eq!(gaps.known.len(), 1, "the new one says more");
        gaps.freed(700);
        assert_eq!(gaps.top(4, 1000), 700);
        gaps.freed(u64::MAX);
        assert_eq!(gaps.top(4, 1000), 1000);
        gaps.found(4, 500);
        assert_eq!(gaps.top(4, 2000), 2000, "another window");
    }

    #[test]
    fn few_lengths_are_remembered() {
        let mut gaps = Gaps::default();
        for len in 1..100 {
            gaps.top(len, 1000);
            gaps.found(len, 1000 - len);
        }
        assert_eq!(gaps.known.len(), LENGTHS);
        assert_eq!(gaps.top(99, 1000), 901);
    }
}
