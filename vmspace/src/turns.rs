//! Taking turns: owner and runner share a host CPU and leave it to each other with `sched_yield`, so that a call costs two switches of host tasks and neither a
//! wake-up nor a notification. That pays while calls come fast and nobody else wants the CPU: the host's scheduler takes who yields for somebody who has had
//! his slice.

use crate::gate::Heard;
use crate::layout::{call, listening};
use crate::rivals::{FEWEST, Rivals};
use crate::runner::{Inner, Runner};
use crate::sys;
use std::time::Duration;

/// After such a pause counting starts anew.
const PAUSE: Duration = Duration::from_millis(1);
/// An owner who comes so many cycles later, some 100 µs, does because another task of the host has had the CPU.
const LATE: u32 = 1 << 18;
/// After so many turns in a row that were not late fewer calls will do.
const GOOD: u32 = 1 << 10;
/// How often the owner yields for the next call before he sleeps: other runners may stand in between.
const YIELDS: u32 = 2;

/// How many turns an owner gets for one call before the runner sleeps. Another task may run meanwhile, and the answer come soon;
const MANY: u64 = 16;
/// he answers within the first unless the call has to wait.
const ONE: u64 = 1;
/// How many calls get only one turn after a runner has slept.
const BRIEF: u32 = 256;

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
    use crate::rivals::{LONGER, MOST};

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
    fn a_runner_that_sleeps_gives_few_turns_for_a_while() {
        let mut turns = Turns { on: true, ..Turns::new() };
        assert_eq!(turns.word() >> 32, MANY);
        turns.has_slept();
        assert_eq!(turns.word(), listening::IN_TURN | ONE << 32);
        turns.on = false;
        assert_eq!(turns.word(), listening::NOT);
    }
}
