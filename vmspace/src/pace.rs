//! When the owner of a runner listens: looks for its calls on one host CPU while the runner runs on another, which a virtual CPU that is idle lends. That takes
//! calls that come fast, because moving there and whatever needs both CPUs is dear.

use crate::gate::Heard;
use crate::layout::{call, listening};
use crate::rivals::Rivals;
use crate::runner::{Fatal, Inner, Runner};
use crate::seat::Seat;
use crate::sys;
use crate::tempo::Tempo;
use crate::turns::Turns;
use std::time::{Duration, Instant};

/// How long the owner looks for a call before that costs the session something.
const LISTEN: Duration = Duration::from_micros(100);
/// Who was away from his CPU for so long was so because another task of the host had it.
const AWAY: Duration = Duration::from_micros(400);
/// What it costs, in calls: the time itself is lost only for others, and a session that ends and begins again costs as much as what it saves with dozens of calls. So many calls
/// in a time like that keep a session going, between which the guest computes.
const SILENCE: i32 = 6;
/// Traps that come this fast on average are worth a session, in round trips ([`crate::tempo`]). Others are as well served by turns, with the guest's
/// data still in the caches of its CPU.
const GAP: u32 = 6;
/// A session ends when its calls take longer than that, with what the owner does about them and what the guest computes between; also in round trips.
const SLOW: u32 = 32;
/// A session whose calls come this fast does more than its two host CPUs would do for a task and another one that waits most of the time, with a switch
/// for each call. In round trips.
const DENSE: u32 = 3;
/// After such a pause counting starts anew.
const PAUSE: Duration = Duration::from_millis(1);
/// So many traps are looked at first.
const BURST: u32 = 48;
/// How far the demand on a burst grows when sessions are not worth it.
const MOST_BURST: u32 = 1 << 12;
/// What a disturbance takes away, in calls that a session saves the switches of. Whatever needs both host CPUs costs as much as some dozens of them: waking the
/// runner, and changing what its address space shows while it runs elsewhere.
const DISTURBANCE: i32 = 24;
/// How many calls a session can have to its credit.
const MOST_CREDIT: i32 = 96;
/// After how many calls of a session it is looked whether they came fast.
const SAMPLE: u32 = 64;
/// A session was worth it after so many samples.
const WORTH: u32 = 4;
/// What a session has for a start: as much as the move there and back costs.
const START: i32 = 32;

/// How listening ended.
enum Silence {
    /// Something came.
    Heard(Heard),
    /// The runner is in a notification.
    Notification,
    /// Nothing happened for long.
    Time,
    /// The same, and somebody else has had the owner's CPU.
    Starved,
}

/// How much a virtual CPU wants a session: the history of its traps outside of one, of whatever address space.
#[derive(Debug)]
pub(crate) struct Demand {
    /// Traps that a session would have made cheaper, since the last pause.
    traps: u32,
    /// When the last one came, and the moving average of the time between them.
    last: Instant,
    gap: Duration,
}

impl Default for Demand {
    fn default() -> Demand {
        Demand { traps: 0, last: Instant::now(), gap: PAUSE }
    }
}

impl Demand {
    /// Guest code trapped; whether a session should begin, because there were so many traps, and they came fast for a host where a round trip takes `round`. Then counting starts anew.
    fn trapped(&mut self, now: Instant, wanted: u32, round: Duration) -> bool {
        let gap = now.duration_since(std::mem::replace(&mut self.last, now));
        self.traps = if gap > PAUSE { 0 } else { self.traps.saturating_add(1) };
        self.gap = (self.gap * 15 + gap.min(PAUSE)) / 16;
        let pays = self.gap < round * GAP && self.traps >= wanted;
        if pays {
            self.traps = 0;
        }
        pays
    }
}

/// When to listen: the history of a runner's calls.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Whether the runner has not run for this address space yet.
    new: bool,
    /// Where the session takes place; `None` while the runner shares the owner's host CPU.
    session: Option<Moved>,
    /// Calls that the session has made cheaper, less what has cost more.
    credit: i32,
    /// How many traps the next session takes.
    wanted: u32,
    /// Whether somebody else had a CPU of the session, which says nothing about the runner.
    starved: bool,
    /// How long the runner had waited for CPUs when the last session ended in silence, in nanoseconds.
    waited_ns: Option<u64>,
    /// Calls of the session since its last sample, and samples before.
    calls: u32,
    samples: u32,
    /// Whether calls came at the rate of [`DENSE`] when that was looked at last, and whether another runner has had the seat since.
    dense: bool,
    shared: bool,
    /// When the last trap came, or the last sample of the session.
    last: Instant,
    /// What a round trip takes.
    round: Duration,
    /// How often the address space has been changed, as far as that is in the credit.
    changes: u32,
}

/// Where a session takes place, and which host CPU the runner has been moved away from.
#[derive(Clone, Copy, Debug)]
struct Moved {
    home: usize,
    host: usize,
}

impl Pace {
    pub(crate) fn new() -> Pace {
        let round = Tempo::default().round();
        Pace {
            new: true,
            session: None,
            credit: 0,
            wanted: BURST,
            starved: false,
            waited_ns: None,
            calls: 0,
            samples: 0,
            dense: false,
            shared: false,
            last: Instant::now(),
            round,
            changes: 0,
        }
    }

    /// Whether the runner has not run yet; once.
    pub(crate) fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.new)
    }

    /// Whether the owner listens.
    pub(crate) fn in_session(&self) -> bool {
        self.session.is_some()
    }

    /// The host CPU of the session.
    pub(crate) fn host(&self) -> Option<usize> {
        self.session.map(|s| s.host)
    }

    /// Whether there is a session that makes good use of both host CPUs.
    pub(crate) fn is_dense(&self) -> bool {
        self.session.is_some() && self.dense
    }

    /// Whether another runner has had the seat lately: then it is right to sleep.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Another runner has had the seat: the time until the next sample is not only this one's.
    pub(crate) fn has_shared(&mut self) {
        self.shared = true;
    }

    /// Something was handed over without a switch of tasks.
    fn handed_over(&mut self) {
        self.credit = (self.credit + 1).min(MOST_CREDIT);
        self.calls += 1;
        if self.calls == SAMPLE {
            let now = Instant::now();
            let took = now.duration_since(self.last);
            if !std::mem::take(&mut self.shared) {
                // On a busy host each side waits for its turn: that is no quicker than switching.
                if took > self.round * (SLOW * SAMPLE) {
                    self.credit = 0;
                }
                self.dense = took < self.round * (DENSE * SAMPLE);
            }
            (self.last, self.calls) = (now, 0);
            self.samples += 1;
        }
    }

    /// Something happened that is dearer in a session, if there is one.
    pub(crate) fn disturbed(&mut self) {
        if self.in_session() {
            self.credit -= DISTURBANCE;
        }
    }

    /// There has been no call for a while; whether to go on listening.
    fn bears_silence(&mut self) -> bool {
        self.credit -= SILENCE;
        self.credit > 0
    }

    /// Before guest code runs: the address space has been changed so many times. What others changed had to be told to the runner's CPU.
    pub(crate) fn changed(&mut self, changes: u32) {
        if self.changes != changes {
            self.changes = changes;
            self.disturbed();
        }
    }

    /// What a round trip takes on this host.
    fn keeps(&mut self, tempo: &Tempo) {
        self.round = tempo.round();
    }

    /// The owner has changed the address space while guest code ran, and nobody waited for that.
    pub(crate) fn has_seen(&mut self, changes: u32) {
        self.changes = changes;
    }

    /// The owner changes the address space because of what the runner did, for the `changes`th time: in a session that is done on its CPU.
    pub(crate) fn has_changed(&mut self, changes: u32) {
        if self.changes == changes.wrapping_sub(1) {
            self.changes = changes;
        }
    }

    fn begin(&mut self, home: usize, host: usize) {
        self.session = Some(Moved { home, host });
        self.credit = START;
        (self.last, self.calls, self.samples) = (Instant::now(), 0, 0);
        (self.dense, self.shared) = (true, false);
    }

    fn end(&mut self) {
        self.wanted = match self.samples {
            _ if std::mem::take(&mut self.starved) => self.wanted,
            0 => (self.wanted * 2).min(MOST_BURST),
            WORTH.. => (self.wanted / 2).max(BURST),
            _ => self.wanted,
        };
        self.credit = 0;
        self.last = Instant::now();
    }
}

impl Runner {
    /// Waits until the runner does something.
    pub(crate) fn hear(
        &self,
        inner: &mut Inner,
        spare: &dyn Fn() -> Option<usize>,
        rivals: &Rivals,
        meanwhile: &mut dyn FnMut() -> bool,
    ) -> Result<Heard, Fatal> {
        // Somebody else has work for the CPU that it was moved to.
        if inner.pace.in_session() && spare().is_none() {
            self.come_home(inner);
        }
        loop {
            self.reconsider(inner);
            if inner.pace.in_session() {
                match self.listen(inner, meanwhile) {
                    Silence::Heard(heard) => return Ok(heard),
                    Silence::Notification => {}
                    // Where somebody else had a CPU a while ago it is he again.
                    Silence::Time
                        if inner.pace.bears_silence()
                            && rivals.session_factor(Instant::now()) == 1
                            && spare().is_some() =>
                    {
                        continue;
                    }
                    Silence::Time => {
                        inner.pace.waited_ns = Some(sys::waited_for_cpu_ns(self.pid));
                        self.come_home(inner);
                    }
                    Silence::Starved => {
                        inner.pace.starved = true;
                        rivals.starved(Instant::now());
                        self.come_home(inner);
                    }
                }
            }
            if inner.turns.are_on()
                && let Some(heard) = self.take_turn(inner, rivals)
            {
                return Ok(heard);
            }
            // Who is not listened to says it by a notification, and sleeps in it.
            let n = self.receive_new()?;
            if let Some(heard) = self.classify(inner, &n)? {
                return Ok(heard);
            }
        }
    }

    /// Looks for something to do for a while, and does `meanwhile` after some microseconds without, for as long as that is true.
    fn listen(&self, inner: &mut Inner, meanwhile: &mut dyn FnMut() -> bool) -> Silence {
        const LOOKS: u32 = 200;
        const LOOKS_BETWEEN: u32 = 8;
        let mut start = None;
        let mut looks = LOOKS;
        loop {
            for _ in 0..looks {
                if let Some(heard) = self.take(&mut inner.call, None) {
                    inner.pace.handed_over();
                    return Silence::Heard(heard);
                }
                std::hint::spin_loop();
            }
            if sys::is_ready(self.listener()) {
                return Silence::Notification;
            }
            let silent = start.get_or_insert_with(Instant::now).elapsed();
            if silent > LISTEN {
                return if silent < AWAY { Silence::Time } else { Silence::Starved };
            }
            looks = if meanwhile() { LOOKS_BETWEEN } else { LOOKS };
        }
    }

    /// The runner trapped outside of a session: moves it to a CPU of its own when that pays, or where the session of another runner of the virtual CPU goes on, which
    /// is `joined`. `lend` gets one that has nothing to do.
    pub(crate) fn consider_listening(
        &self,
        inner: &mut Inner,
        by_gate: bool,
        joined: bool,
        lend: impl Fn() -> Option<usize>,
        seat: &Seat,
        tempo: &Tempo,
    ) {
        if inner.pace.in_session() {
            return;
        }
        inner.pace.keeps(tempo);
        let (now, rivals) = (Instant::now(), &seat.rivals);
        // Now it is known whether it was silent because it had no CPU.
        if let Some(before) = inner.pace.waited_ns.take()
            && sys::waited_for_cpu_ns(self.pid).saturating_sub(before) > AWAY.as_nanos() as u64
        {
            rivals.starved(now);
        }
        let gap = now.duration_since(std::mem::replace(&mut inner.pace.last, now));
        let factor = rivals.session_factor(now);
        let pays = seat.demand().trapped(now, inner.pace.wanted.saturating_mul(factor), inner.pace.round);
        if (pays || joined && factor == 1) && self.begin_session(inner, lend) {
            return;
        }
        if by_gate {
            self.consider_turns(inner, gap, rivals);
        }
    }

    /// Begins a session on a host CPU that `lend` gets; whether there is one.
    pub(crate) fn begin_session(&self, inner: &mut Inner, lend: impl Fn() -> Option<usize>) -> bool {
        let Some(host) = lend() else { return false };
        self.bind(host);
        inner.pace.begin(sys::current_cpu(), host);
        inner.turns = Turns::new();
        self.put(call::LISTENING, listening::ON_ANOTHER_CPU);
        true
    }

    /// Ends a session that is not worth it.
    pub(crate) fn reconsider(&self, inner: &mut Inner) {
        if inner.pace.in_session() && inner.pace.credit <= 0 {
            self.come_home(inner);
        }
    }

    /// Somebody else wants the CPU of the session: ends it if there is one and the runner sleeps. Whether there is none any more.
    pub(crate) fn give_up_cpu(&self) -> bool {
        // Whoever has the lock runs guest code now.
        let Ok(mut inner) = self.inner.try_lock() else { return false };
        let asleep = sys::is_ready(self.listener());
        if inner.pace.in_session() && asleep {
            self.come_home(&mut inner);
        }
        !inner.pace.in_session()
    }

    /// The end of a session: the runner shares its owner's CPU again. Also of turns.
    pub(crate) fn come_home(&self, inner: &mut Inner) {
        if let Some(home) = self.end_session(inner) {
            self.bind(home);
        }
    }

    /// The same for a runner that may stay where it is; where it was before the session.
    pub(crate) fn end_session(&self, inner: &mut Inner) -> Option<usize> {
        self.end_turns(inner);
        let session = inner.pace.session.take();
        if session.is_some() {
            self.swap(call::LISTENING, listening::NOT);
            inner.pace.end();
        }
        session.map(|moved| moved.home)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a burst has to be after a session of so many samples, in which somebody may have had one of its CPUs.
    fn after(pace: &mut Pace, samples: u32, starved: bool) -> u32 {
        (pace.samples, pace.starved) = (samples, starved);
        pace.end();
        pace.wanted
    }

    /// Whether calls that come so fast begin a session where a round trip takes as long, and how many it takes.
    fn begins(gap: Duration, round: Duration) -> Option<u32> {
        let mut demand = Demand::default();
        let mut now = demand.last;
        (1..8 * BURST).find(|_| {
            now += gap;
            demand.trapped(now, BURST, round)
        })
    }

    #[test]
    fn the_slower_the_host_changes_tasks_the_sooner_a_session_pays() {
        let micros = Duration::from_micros;
        assert_eq!(begins(micros(30), micros(4)), None);
        assert!(begins(micros(30), micros(7)).is_some());
        assert!(begins(micros(5), micros(4)).is_some_and(|calls| calls >= BURST));
        assert_eq!(begins(2 * PAUSE, PAUSE), None);
    }

    #[test]
    fn sessions_that_are_disturbed_become_rare_and_good_ones_frequent() {
        let mut pace = Pace::new();
        assert_eq!(after(&mut pace, 0, false), BURST * 2);
        assert_eq!(after(&mut pace, WORTH, false), BURST);
        for _ in 0..9 {
            after(&mut pace, 0, false);
        }
        assert_eq!(pace.wanted, MOST_BURST);
        assert_eq!(after(&mut pace, WORTH, false), MOST_BURST / 2);
        assert_eq!(after(&mut pace, 0, true), MOST_BURST / 2);
    }
}
