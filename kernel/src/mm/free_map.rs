//! Which frames are free: a bitmap, searched from below.
//!
//! Frames below `fresh` were in use before; those from there on never were, and hold zeros. Low frames go first, so what
//! the host has resident stays a prefix of RAM as far as possible.

use alloc::vec;
use alloc::vec::Vec;

/// How many words with a free frame a search looks at before it takes the best run that it saw.
const SEARCH_WORDS: usize = 64;

/// How many frames are expected to be used next: a part of those that were, but at least 512 KiB and at most 8 MiB; and none before as much was used.
const EXPECT_PART: u32 = 2;
const EXPECT_MOST: u32 = 2048;
const EXPECT_LEAST: u32 = 128;

/// A run of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// The first.
    pub(super) start: u32,
    /// How many.
    pub(super) len: u32,
    /// Whether any of them may hold something other than zeros.
    pub(super) stale: bool,
}

/// Free frames by number.
pub(super) struct FreeMap {
    /// A bit for each free frame below `fresh`.
    free: Vec<u64>,
    /// A bit for each free frame whose content is not zeros.
    stale: Vec<u64>,
    total: u32,
    /// Frames that must stay free, because something outside of RAM is used in their place.
    held: u32,
    fresh: u32,
    /// Frames below here were said to be used soon.
    expected: u32,
    /// What `fresh` was when a CPU was idle last.
    idle_fresh: u32,
    free_count: u32,
    stale_count: u32,
    /// No word before this one has a free bit.
    low: usize,
    least_available: u32,
    /// Nothing is given back before so many are stale: the last search found only short runs.
    next_give_back: u32,
}

fn word_of(index: u32) -> (usize, u64) {
    ((index / 64) as usize, 1 << (index % 64))
}

fn bit(words: &[u64], index: u32) -> bool {
    let (word, mask) = word_of(index);
    words.get(word).is_some_and(|w| w & mask != 0)
}

fn change(words: &mut [u64], index: u32, on: bool) {
    let (word, mask) = word_of(index);
    if let Some(w) = words.get_mut(word) {
        *w = if on { *w | mask } else { *w & !mask };
    }
}

impl FreeMap {
    pub(super) fn new(total: u32) -> FreeMap {
        let words = total.div_ceil(64) as usize;
        FreeMap {
            free: vec![0; words],
            stale: vec![0; words],
            total,
            held: 0,
            fresh: 0,
            expected: 0,
            idle_fresh: 0,
            free_count: 0,
            stale_count: 0,
            low: words,
            least_available: total,
            next_give_back: 0,
        }
    }

    /// Frames that can be taken: those that are free, less what is held.
    pub(super) fn available(&self) -> u32 {
        (self.free_count + (self.total - self.fresh)).saturating_sub(self.held)
    }

    /// Holds some back, if there are so many.
    pub(super) fn hold(&mut self, frames: u32) -> bool {
        let held = frames <= self.available();
        if held {
            self.held += frames;
            self.least_available = self.least_available.min(self.available());
        }
        held
    }

    /// Ends holding some back.
    pub(super) fn release(&mut self, frames: u32) {
        self.held -= frames;
    }

    pub(super) fn high_water(&self) -> u32 {
        self.total - self.least_available
    }

    pub(super) fn stale(&self) -> u32 {
        self.stale_count.saturating_sub(self.next_give_back)
    }

    /// Takes up to `want` neighbouring frames, at `at` if that is free.
    pub(super) fn take(&mut self, want: u32, at: Option<u32>) -> Option<Run> {
        let want = want.max(1).min(self.available());
        if want == 0 {
            return None;
        }
        let run = at.and_then(|at| self.run_at(at, want)).filter(|&(_, len)| len * 4 >= want);
        let run = run.or_else(|| self.best(want)).or_else(|| self.unused(want)).or_else(|| self.any(want));
        let (start, len) = run?;
        let run = self.claim(start, len);
        self.least_available = self.least_available.min(self.available());
        Some(run)
    }

    /// Frames that will be used next if it goes on like this, the first and how many, when half of what was said last is used.
    pub(super) fn expect(&mut self) -> Option<(u32, u32)> {
        let ahead = (self.fresh / EXPECT_PART).clamp(EXPECT_LEAST, EXPECT_MOST).min(self.total - self.fresh);
        if self.fresh < EXPECT_LEAST || ahead < EXPECT_LEAST || self.fresh + ahead / 2 < self.expected {
            return None;
        }
        self.expected = self.fresh + ahead;
        Some((self.fresh, ahead))
    }

    /// Whether frames were said to be used soon that are not yet.
    pub(super) fn expects(&self) -> bool {
        self.expected > self.fresh
    }

    /// Takes out frames that were said to be used soon, when none was used since this was called last.
    pub(super) fn take_unused(&mut self) -> Option<Run> {
        let goes_on = core::mem::replace(&mut self.idle_fresh, self.fresh) != self.fresh;
        if goes_on || !self.expects() {
            return None;
        }
        Some(self.claim(self.fresh, self.expected - self.fresh))
    }

    /// The free run that starts exactly here.
    fn run_at(&self, at: u32, want: u32) -> Option<(u32, u32)> {
        if at == self.fresh {
            return self.unused(want);
        }
        let len = (0..want).take_while(|&i| bit(&self.free, at.wrapping_add(i))).count() as u32;
        (len > 0).then_some((at, len))
    }

    /// Frames that were never used.
    fn unused(&self, want: u32) -> Option<(u32, u32)> {
        let len = want.min(self.total - self.fresh);
        (len > 0).then_some((self.fresh, len))
    }

    /// A run of freed frames that is long enough to be worth it.
    fn best(&mut self, want: u32) -> Option<(u32, u32)> {
        let found = self.search(want, SEARCH_WORDS)?;
        (found.1 * 2 >= want).then_some(found)
    }

    /// Whatever is left.
    fn any(&mut self, want: u32) -> Option<(u32, u32)> {
        self.search(want, usize::MAX)
    }

    /// The longest run up to `want` in the first words that have any.
    fn search(&mut self, want: u32, mut words: usize) -> Option<(u32, u32)> {
        if self.free_count == 0 {
            return None;
        }
        while self.free.get(self.low) == Some(&0) {
            self.low += 1;
        }
        let mut best = None;
        let mut at = self.low as u32 * 64;
        while words > 0 && at < self.fresh {
            let Some(word) = self.free.get((at / 64) as usize) else { break };
            let rest = word >> (at % 64);
            if rest == 0 {
                at = (at / 64 + 1) * 64;
                continue;
            }
            at += rest.trailing_zeros();
            let mut len = 0;
            while len < want && bit(&self.free, at + len) {
                len += 1;
            }
            if best.is_none_or(|(_, l)| len > l) {
                best = Some((at, len));
            }
            if len >= want {
                break;
            }
            if (at + len) / 64 != at / 64 || (at + len).is_multiple_of(64) {
                words -= 1;
            }
            at += len;
            // A word with many short runs counts once for each, roughly: this is a bound, not a measure.
            words = words.saturating_sub(1);
        }
        best
    }

    fn claim(&mut self, start: u32, len: u32) -> Run {
        let mut stale = false;
        for index in start..start + len {
            if index == self.fresh {
                self.fresh += 1;
                continue;
            }
            change(&mut self.free, index, false);
            self.free_count -= 1;
            if bit(&self.stale, index) {
                change(&mut self.stale, index, false);
                self.stale_count -= 1;
                stale = true;
            }
        }
        Run { start, len, stale }
    }

    /// A frame that was in use becomes free.
    pub(super) fn put(&mut self, index: u32) {
        if index >= self.fresh || bit(&self.free, index) {
            return;
        }
        change(&mut self.free, index, true);
        change(&mut self.stale, index, true);
        self.free_count += 1;
        self.stale_count += 1;
        self.low = self.low.min((index / 64) as usize);
    }

    /// A run from [`FreeMap::take_stale_runs`] comes back, holding zeros.
    pub(super) fn put_zeroed(&mut self, start: u32, len: u32) {
        for index in start..start + len {
            change(&mut self.free, index, true);
        }
        self.free_count += len;
        self.low = self.low.min((start / 64) as usize);
    }

    /// Takes out free runs of at least `min` stale frames, the highest first, until no more than `keep` are stale.
    pub(super) fn take_stale_runs(&mut self, min: u32, keep: u32) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut word = self.fresh.div_ceil(64) as usize;
        while word > 0 && self.stale_count > keep {
            let end = word as u32 * 64;
            let most = self.stale_count - keep;
            while word > 0 && self.stale.get(word - 1) == Some(&u64::MAX) && end - (word as u32 * 64) < most {
                word -= 1;
            }
            let start = word as u32 * 64;
            if end - start >= min {
                runs.push(self.claim(start, end - start));
            }
            word = word.saturating_sub(1);
        }
        self.next_give_back = if self.stale_count > keep { self.stale_count } else { 0 };
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_says_how_much_is_expected() {
        let mut map = FreeMap::new(1 << 16);
        let mut said = Vec::new();
        for _ in 0..100 {
            map.take(100, None).unwrap();
            said.extend(map.expect());
        }
        assert_eq!(said.first(), Some(&(200, 128)), "from 512 KiB on");
        assert!(said.contains(&(600, 300)), "half");
        assert_eq!(said.last().map(|(_, len)| *len), Some(EXPECT_MOST));
        assert!(said.len() < 20, "{said:?}");
        let mut end = 0;
        for (start, len) in said {
            assert!(start + len > end && (end == 0 || start <= end), "{start}+{len} behind {end}");
            end = start + len;
        }
        // Never more than there is.
        let mut small = FreeMap::new(1000);
        small.take(900, None).unwrap();
        assert_eq!(small.expect(), None);
    }

    #[test]
    fn what_was_expected_in_vain_is_free_as_before() {
        let mut map = FreeMap::new(1 << 16);
        map.take(4096, None).unwrap();
        let available = map.available();
        assert_eq!(map.expect(), Some((4096, 2048)));
        assert_eq!(map.take_unused(), None, "some were used since the last time");
        let run = map.take_unused().unwrap();
        assert_eq!((run.start, run.len, run.stale), (4096, 2048, false));
        assert!(!map.expects() && map.take_unused().is_none());
        assert_eq!(map.take(1, None).unwrap().start, 6144, "nobody gets them meanwhile");
        map.put_zeroed(run.start, run.len);
        assert_eq!(map.available(), available - 1);
        let run = map.take(2048, None).unwrap();
        assert_eq!((run.start, run.len, run.stale), (4096, 2048, false));
    }

    #[test]
    fn fresh_frames_come_in_order_and_zeroed() {
        let mut map = FreeMap::new(100);
        assert_eq!(map.take(16, None), Some(Run { start: 0, len: 16, stale: false }));
        assert_eq!(map.take(16, None), Some(Run { start: 16, len: 16, stale: false }));
        assert_eq!(map.available(), 68);
        assert_eq!(map.high_water(), 32);
    }

    #[test]
    fn freed_frames_go_first_and_are_stale() {
        let mut map = FreeMap::new(100);
        map.take(32, None);
        (4..12).for_each(|i| map.put(i));
        assert_eq!(map.take(8, None), Some(Run { start: 4, len: 8, stale: true }));
        assert_eq!(map.take(1, None), Some(Run { start: 32, len: 1, stale: false }));
        assert_eq!(map.high_water(), 33);
    }

    #[test]
    fn a_short_freed_run_is_not_taken_for_a_long_wish_while_there_is_unused_ram() {
        let mut map = FreeMap::new(64);
        map.take(32, None);
        map.put(3);
        assert_eq!(map.take(16, None).map(|r| (r.start, r.len)), Some((32, 16)));
        assert_eq!(map.take(16, None).map(|r| (r.start, r.len)), Some((48, 16)));
        assert_eq!(map.take(16, None).map(|r| (r.start, r.len)), Some((3, 1)), "all that is left");
        assert_eq!(map.take(1, None), None);
        assert_eq!(map.available(), 0);
    }

    #[test]
    fn the_run_that_follows_is_preferred() {
        let mut map = FreeMap::new(1000);
        map.take(100, None);
        (0..20).for_each(|i| map.put(i));
        (50..60).for_each(|i| map.put(i));
        assert_eq!(map.take(8, Some(50)).map(|r| (r.start, r.len)), Some((50, 8)));
        assert_eq!(map.take(8, Some(100)).map(|r| (r.start, r.len)), Some((100, 8)));
        assert_eq!(map.take(8, Some(70)).map(|r| (r.start, r.len)), Some((0, 8)), "70 is in use");
    }

    #[test]
    fn long_stale_runs_are_given_back_from_the_top() {
        let mut map = FreeMap::new(1000);
        map.take(640, None);
        (0..640).for_each(|i| map.put(i));
        let some = map.take_stale_runs(64, 540);
        assert!(
            matches!(some[..], [Run { start: 512, len: 128, .. }]),
            "no more than is asked for: {some:?}"
        );
        map.put_zeroed(512, 128);
        let runs = map.take_stale_runs(64, 100);
        let taken: u32 = runs.iter().map(|r| r.len).sum();
        assert!(map.stale_count <= 100 && taken >= 412, "{runs:?}");
        assert_eq!(map.available(), 1000 - taken);
        for run in runs {
            map.put_zeroed(run.start, run.len);
        }
        assert_eq!(map.available(), 1000);
        let run = map.take(64, Some(320)).unwrap();
        assert_eq!((run.start, run.stale), (320, false), "given back, so zeros");
    }

    #[test]
    fn a_double_free_is_ignored() {
        let mut map = FreeMap::new(10);
        map.take(2, None);
        map.put(1);
        map.put(1);
        map.put(9);
        assert_eq!(map.available(), 9);
    }
}
