//! Taking turns: owner and runner share a host CPU and leave it to each other with `sched_yield`, so that a call costs two switches of host tasks and neither a
//! wake-up nor a notification. That pays while calls come fast and nobody else wants the CPU: the host's scheduler takes who yields for somebody who has had
//! his slice.

use crate::gate::Heard;
use crate::layout::{call, listening};
use crate::runner::{Inner, Runner};
use crate::sys;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After such a pause counting starts anew.
const PAUSE: Duration = Duration::from_millis(1);
/// An owner who comes so many cycles later, some 100 µs, does because another task of the host has had the CPU.
const LATE: u32 = 1 << 18;
/// So many calls in a row have to come without a pause before turns are taken; how many times as many when another task had the CPU between turns, each time, because that
/// takes a slice of the host's; and at most.
const FEWEST: u32 = 4;
/// See [`FEWEST`].
const LONGER: u32 = 16;
/// See [`FEWEST`].
const MOST: u32 = 1 << 14;
/// After so many turns in a row that were not late fewer calls will do.
const GOOD: u32 = 1 << 10;
/// How many times as many calls a session needs for its beginning after one in which somebody else had one of the CPUs: it can be as long as a slice of the host's before
/// who spins gets it back. Again as many after the next, at most so many, and half as many after such a time.
const STARVED: u32 = 8;
/// See [`STARVED`].
const MOST_STARVED: u32 = 64;
/// See [`STARVED`].
const HALF: Duration = Duration::from_millis(20);
/// How often the owner yields for the next call before he sleeps: other runners may stand in between.
const YIELDS: u32 = 2;

/// How many turns an owner gets for one call before the runner sleeps. Another task may run meanwhile, and the answer come soon;
const MANY: u64 = 16;
/// he answers within the first unless the call has to wait.
const ONE: u64 = 1;
/// How many calls get only one turn after a runner has slept.
const BRIEF: u32 = 256;

/// Who else has wanted the host CPUs of a virtual CPU, as far as its runners have noticed.
#[derive(Debug)]
pub(crate) struct Rivals {
    /// How many calls in a row there have to be.
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
    fn wanted(&self) -> u32 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// One of them has had the CPU for long.
    pub(crate) fn noticed(&self) {
        self.wanted.store((self.wanted() * LONGER).min(MOST), Ordering::Relaxed);
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

    /// None has for a while.
    fn forgotten(&self) {
        self.wanted.store((self.wanted() / 2).max(FEWEST), Ordering::Relaxed);
    }
}

/// When to take turns: the history of a runner's calls outside of sessions.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Whether the runner has been told that they are taken.
    on: bool,
    /// Calls since the last pause or late turn.
    calls: u32,
    /// How many more calls get one turn.
    brief: u32,
}

impl Turns {
    pub(crate) fn new() -> Turns {
        Turns { on: false, calls: 0, brief: 0 }
    }

    /// Whether turns are taken.
    pub(crate) fn are_on(&self) -> bool {
        self.on
    }

    /// A call of a patched site came so long after the last trap; whether turns are worth it, or go on being so.
    fn count(&mut self, gap: Duration, rivals: &Rivals) -> bool {
        self.calls = if gap > PAUSE { 1 } else { self.calls.saturating_add(1) };
        if self.on && self.calls.is_multiple_of(GOOD) {
            rivals.forgotten();
        }
        self.calls >= if self.on { FEWEST } else { rivals.wanted() }
    }

    /// What the runner is told.
    fn word(&self) -> u64 {
        let turns = if self.brief == 0 { MANY } else { ONE };
        if self.on { listening::IN_TURN | turns << 32 } else { listening::NOT }
    }

    /// The runner has slept before it was answered.
    pub(crate) fn has_slept(&mut self) {
        self.brief = BRIEF;
    }

    /// The owner got the CPU late.
    fn late(&mut self, rivals: &Rivals) {
        self.calls = 0;
        rivals.noticed();
    }
}

impl Runner {
    /// A call of a patched site came so long after the last trap, outside of a session: takes turns or not from now on.
    pub(crate) fn consider_turns(&self, inner: &mut Inner, gap: Duration, rivals: &Rivals) {
        let before = inner.turns.word();
        inner.turns.on = inner.turns.count(gap, rivals);
        inner.turns.brief = inner.turns.brief.saturating_sub(1);
        if inner.turns.word() != before {
            self.put(call::LISTENING, inner.turns.word());
        }
    }

    /// No more turns for now: calls come by notifications.
    pub(crate) fn end_turns(&self, inner: &mut Inner) {
        if std::mem::take(&mut inner.turns.on) {
            self.swap(call::LISTENING, listening::NOT);
        }
    }

    /// Leaves the runner the CPU until it makes a call. When none has come, turns have ended, and it says by a notification what it does.
    pub(crate) fn take_turn(&self, inner: &mut Inner, rivals: &Rivals) -> Option<Heard> {
        for _ in 0..YIELDS {
            sys::yield_cpu();
            if let Some(heard) = self.take(&mut inner.call, None) {
                if sys::cycles().wrapping_sub(self.get(call::LEFT) as u32) > LATE {
                    inner.turns.late(rivals);
                    self.end_turns(inner);
                }
                return Some(heard);
            }
        }
        self.end_turns(inner);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(3);

    /// How many calls it takes from here until turns are taken.
    fn calls_until_on(turns: &mut Turns, rivals: &Rivals) -> u32 {
        let calls = (1..=2 * MOST).find(|_| turns.count(SOON, rivals));
        turns.on = true;
        calls.unwrap()
    }

    #[test]
    fn calls_that_come_fast_are_worth_turns_until_a_pause() {
        let (mut turns, rivals) = (Turns::new(), Rivals::default());
        assert_eq!(calls_until_on(&mut turns, &rivals), FEWEST);
        assert!(turns.count(SOON, &rivals));
        assert!(!turns.count(2 * PAUSE, &rivals));
    }

    #[test]
    fn who_competes_for_the_cpu_is_avoided_by_all_runners_and_forgotten() {
        let rivals = Rivals::default();
        let mut last = FEWEST;
        while last < MOST {
            let mut turns = Turns::new();
            assert_eq!(calls_until_on(&mut turns, &rivals), last);
            turns.late(&rivals);
            last = (last * LONGER).min(MOST);
        }
        let mut turns = Turns::new();
        assert_eq!(calls_until_on(&mut turns, &rivals), MOST);
        for _ in 0..16 * GOOD {
            assert!(turns.count(SOON, &rivals));
        }
        assert_eq!(calls_until_on(&mut Turns::new(), &rivals), FEWEST);
    }

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

    #[test]
    fn a_runner_that_sleeps_gives_few_turns_for_a_while() {
        let mut turns = Turns { on: true, ..Turns::new() };
        assert_eq!(turns.word() >> 32, MANY);
        turns.has_slept();
        assert_eq!(turns.word(), listening::IN_TURN | ONE << 32);
        turns.on = false;
        assert_eq!(turns.word(), listening::NOT);
    }
}
