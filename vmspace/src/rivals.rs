//! Who else wants the host CPUs of a virtual CPU: other tasks of the host, which owners and runners notice by being late. Turns ([`crate::turns`]) and sessions
//! ([`crate::pace`]) take more calls to begin after that. It is known by virtual CPU, because it says nothing about the runner that noticed it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many calls in a row have to come without a pause before turns are taken; how many times as many when another task had the CPU between turns, each time, because that
/// takes a slice of the host's; and at most.
pub(crate) const FEWEST: u32 = 4;
/// See [`FEWEST`].
pub(crate) const LONGER: u32 = 16;
/// See [`FEWEST`].
pub(crate) const MOST: u32 = 1 << 14;
/// How many times as many calls a session needs for its beginning after one in which somebody else had one of the CPUs: it can be as long as a slice of the host's before
/// who spins gets it back. Again as many after the next, at most so many, and half as many after such a time.
const STARVED: u32 = 8;
/// See [`STARVED`].
const MOST_STARVED: u32 = 64;
/// See [`STARVED`].
const HALF: Duration = Duration::from_millis(20);

/// Who else has wanted the host CPUs of a virtual CPU, as far as its runners have noticed.
#[derive(Debug)]
pub(crate) struct Rivals {
    /// How many calls in a row there have to be before turns are taken.
    wanted: AtomicU32,
    /// How many times as many as usual a session needs, and since when, in nanoseconds from the start.
    starved: AtomicU32,
    since_ns: AtomicU64,
    start: Instant,
}

impl Default for Rivals {
    fn default() -> Rivals {
        let (wanted, starved) = (AtomicU32::new(FEWEST), AtomicU32::new(1));
        Rivals { wanted, starved, since_ns: AtomicU64::new(0), start: Instant::now() }
    }
}

impl Rivals {
    /// How many calls in a row there have to be before turns are taken.
    pub(crate) fn wanted(&self) -> u32 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// One of them has had the CPU for long.
    pub(crate) fn noticed(&self) {
        self.wanted.store((self.wanted() * LONGER).min(MOST), Ordering::Relaxed);
    }

    /// None has for a while.
    pub(crate) fn forgotten(&self) {
        self.wanted.store((self.wanted() / 2).max(FEWEST), Ordering::Relaxed);
    }

    /// One of them has had a CPU of a session.
    pub(crate) fn starved(&self, now: Instant) {
        let factor = (self.session_factor(now) * STARVED).min(MOST_STARVED);
        self.starved.store(factor, Ordering::Relaxed);
        self.since_ns.store(now.duration_since(self.start).as_nanos() as u64, Ordering::Relaxed);
    }

    /// How many times as many calls as usual a session needs.
    pub(crate) fn session_factor(&self, now: Instant) -> u32 {
        let factor = self.starved.load(Ordering::Relaxed);
        if factor == 1 {
            return 1;
        }
        let since = Duration::from_nanos(self.since_ns.load(Ordering::Relaxed));
        let halves = now.duration_since(self.start).saturating_sub(since).as_nanos() / HALF.as_nanos();
        factor.checked_shr(halves as u32).unwrap_or(0).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_competes_for_a_session_is_forgotten_with_time() {
        let rivals = Rivals::default();
        let at = |halves: u32| rivals.start + HALF * halves;
        assert_eq!(rivals.session_factor(at(9)), 1);
        rivals.starved(at(10));
        assert_eq!(rivals.session_factor(at(10)), STARVED);
        assert_eq!(rivals.session_factor(at(11)), STARVED / 2);
        rivals.starved(at(11));
        rivals.starved(at(11));
        assert_eq!(rivals.session_factor(at(11)), MOST_STARVED);
        assert_eq!(rivals.session_factor(at(100)), 1);
    }
}
