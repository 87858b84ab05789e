//! When the owner of a runner listens: looks for its calls in memory rather than sleeping in a notification.
//!
//! There are two ways. *In turns*: both share a host CPU, and who waits for the other yields. That costs half of what two wake-ups do, as long as nobody else wants
//! the CPU: then each yield can cost a time slice, which is noticed. *Apart*: the runner has a host CPU of its own, lent by a virtual CPU that is idle,
//! and nobody has to switch; that takes calls that come fast, because moving there and whatever needs both CPUs is dear.

use crate::gate::Heard;
use crate::layout::{call, listening};
use crate::runner::{Fatal, Inner, Runner};
use crate::sys;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long the owner looks for a call before he goes to sleep.
const LISTEN: Duration = Duration::from_micros(100);
/// Calls that come this fast on average are worth a session apart.
const GAP: Duration = Duration::from_micros(20);
/// Such a session ends when its calls take longer than that, with what the owner does about them.
const SLOW: Duration = Duration::from_micros(50);
/// After such a pause counting starts anew.
const PAUSE: Duration = Duration::from_millis(1);
/// So many traps in a row are looked at first.
const BURST: i32 = 48;
/// How far the demand on a burst grows when sessions are not worth it.
const MOST_BURST: i32 = 1 << 12;
/// What a disturbance takes away, in calls that a session saves the switches of. Whatever needs both host CPUs costs as much as some dozens of them: waking the
/// runner, and changing what its address space shows while it runs elsewhere.
const DISTURBANCE: i32 = 24;
/// How many calls a session can have to its credit.
const MOST_CREDIT: i32 = 96;
/// After how many calls of a session it is looked whether they came fast.
const SAMPLE: u32 = 64;
/// What a session has for a start: as much as the move there and back costs.
const START: i32 = 32;
/// A turn that takes so long may have gone by way of somebody else: less than a time slice.
const LONG_TURN: Duration = Duration::from_millis(2);
/// It has, when the runner itself used so much less CPU time: more than the switches of [`CHECKED`] turns take.
const LOST: Duration = Duration::from_millis(1);
/// After so many turns it is looked again how much CPU time the runner has used.
const CHECKED: u32 = 256;
/// How many traps are made by notifications after the first such turn, how far that grows, and after how many turns without one it is as at first.
const REST: u32 = 256;
/// See [`REST`].
const MOST_REST: u32 = 1 << 14;
/// How often a runner yields to an owner who is at work on its call before it sleeps.
const TURNS: u64 = 8;

/// How listening ended.
enum Silence {
    /// Something came.
    Heard(Heard),
    /// The runner is in a notification.
    Notification,
    /// Nothing happened for long.
    Time,
}

/// How calls are heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// By notifications.
    Asleep,
    /// In turns on one host CPU.
    InTurns,
    /// In a session on host CPU `host`; `home` is the owner's.
    Apart { home: usize, host: usize },
}

/// When to listen: the history of a runner's calls.
#[derive(Debug)]
pub(crate) struct Pace {
    manner: Manner,
    /// Traps that a session would have made cheaper, or calls that one has, less what would have cost or has cost more.
    credit: i32,
    /// How much of it the next session takes.
    wanted: i32,
    /// Calls of the session since its last sample.
    calls: u32,
    /// When the guest began to run, or the last sample of the session.
    last: Instant,
    /// When the last trap came, and the moving average of the time between traps.
    trap: Instant,
    gap: Duration,
    /// How often the address space has been changed, as far as that is in the credit.
    changes: u32,
    /// Since a while ago, in turns: their number, the time they took, and the CPU time of the runner before, in nanoseconds.
    turns: (u32, Duration, u64),
}

/// What is known of others who want the host CPU of a virtual CPU, to whom a turn can cost a time slice. Only the virtual CPU's own thread uses it.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// How many more traps are made by notifications, and how many it will be next time.
    rest: AtomicU32,
    next: AtomicU32,
    /// Turns since the last that took long.
    calm: AtomicU32,
}

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd { rest: AtomicU32::new(0), next: AtomicU32::new(REST), calm: AtomicU32::new(0) }
    }
}

impl Crowd {
    fn met(&self) {
        let next = self.next.load(Relaxed);
        self.rest.store(next, Relaxed);
        self.next.store((next * 2).min(MOST_REST), Relaxed);
        self.calm.store(0, Relaxed);
    }

    fn not_met(&self) {
        let calm = self.calm.load(Relaxed) + 1;
        self.calm.store(calm % MOST_REST, Relaxed);
        if calm == MOST_REST {
            self.next.store(REST, Relaxed);
        }
    }

    /// A trap was made by a notification. Whether the next may be made in turns.
    fn is_over(&self) -> bool {
        let rest = self.rest.load(Relaxed);
        self.rest.store(rest.saturating_sub(1), Relaxed);
        rest <= 1
    }
}

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace {
            manner: Manner::Asleep,
            credit: 0,
            wanted: BURST,
            calls: 0,
            last: Instant::now(),
            trap: Instant::now(),
            gap: GAP,
            changes: 0,
            turns: (0, Duration::ZERO, 0),
        }
    }

    /// Whether the runner has a host CPU of its own.
    pub(crate) fn apart(&self) -> bool {
        self.host().is_some()
    }

    /// That host CPU.
    pub(crate) fn host(&self) -> Option<usize> {
        match self.manner {
            Manner::Apart { host, .. } => Some(host),
            _ => None,
        }
    }

    /// Whether owner and runner take turns.
    pub(crate) fn in_turns(&self) -> bool {
        self.manner == Manner::InTurns
    }

    /// Something was handed over without a switch of tasks.
    fn handed_over(&mut self) {
        self.credit = (self.credit + 1).min(MOST_CREDIT);
        self.calls += 1;
        if self.calls == SAMPLE {
            // On a busy host each side waits for its turn: that is no quicker than switching.
            let now = Instant::now();
            if now.duration_since(self.last) > SLOW * SAMPLE {
                self.credit = 0;
            }
            (self.last, self.calls) = (now, 0);
        }
    }

    /// Something happened that is dearer in a session.
    pub(crate) fn disturbed(&mut self) {
        self.credit -= DISTURBANCE;
        if !self.apart() {
            self.credit = self.credit.max(0);
        }
    }

    /// Before guest code runs: the address space has been changed so many times. What others changed had to be told to the runner's CPU.
    pub(crate) fn changed(&mut self, changes: u32) {
        if self.changes != changes {
            self.changes = changes;
            self.disturbed();
        }
    }

    /// The owner changes the address space because of what the runner did, for the `changes`th time: in a session that is done on its CPU.
    pub(crate) fn has_changed(&mut self, changes: u32) {
        if self.changes == changes.wrapping_sub(1) {
            self.changes = changes;
        }
    }

    /// The guest trapped outside of a session; whether one should begin, if there is a CPU for it.
    fn trapped(&mut self, now: Instant) -> bool {
        let gap = now.duration_since(std::mem::replace(&mut self.trap, now));
        if gap > PAUSE {
            self.credit = 0;
            return false;
        }
        self.gap = (self.gap * 15 + gap) / 16;
        self.credit += 1;
        self.credit >= self.wanted && self.gap < GAP
    }

    /// A turn ended now. Whether somebody else had the CPU meanwhile; `used` is the CPU time of the runner.
    fn lost_turn(&mut self, now: Instant, used: impl Fn() -> u64) -> bool {
        let ran = now.duration_since(self.last);
        self.turns.0 += 1;
        self.turns.1 += ran;
        if ran < LONG_TURN && self.turns.0 < CHECKED {
            return false;
        }
        let used = used();
        let own = Duration::from_nanos(used.saturating_sub(self.turns.2));
        let lost = ran > LONG_TURN && self.turns.1.saturating_sub(own) > LOST;
        self.turns = (0, Duration::ZERO, used);
        lost
    }

    fn begin(&mut self) {
        self.credit = START;
        (self.last, self.calls) = (Instant::now(), 0);
    }

    fn end(&mut self) {
        self.wanted = match self.credit {
            ..MOST_CREDIT => (self.wanted * 2).min(MOST_BURST),
            _ => (self.wanted / 2).max(BURST),
        };
        (self.credit, self.calls) = (0, 0);
    }
}

impl Runner {
    /// Waits until the runner does something.
    pub(crate) fn hear(
        &self,
        inner: &mut Inner,
        spare: &dyn Fn() -> Option<usize>,
        crowd: &Crowd,
    ) -> Result<Heard, Fatal> {
        // Somebody else has work for the CPU that it was moved to.
        if inner.pace.apart() && spare().is_none() {
            self.come_home(inner);
        }
        if !inner.pace.apart() {
            inner.pace.last = Instant::now();
        }
        loop {
            self.reconsider(inner);
            let silence = match inner.pace.manner {
                Manner::Asleep => Silence::Notification,
                Manner::InTurns => self.take_turns(inner, crowd),
                Manner::Apart { .. } => self.listen(inner),
            };
            match silence {
                Silence::Heard(heard) => return Ok(heard),
                Silence::Notification => {}
                Silence::Time => self.come_home(inner),
            }
            // Who is not listened to says it by a notification, and sleeps in it.
            let n = self.receive()?;
            if let Some(heard) = self.classify(inner, &n)? {
                return Ok(heard);
            }
        }
    }

    /// Looks for something to do for a while.
    fn listen(&self, inner: &mut Inner) -> Silence {
        const LOOKS: u32 = 200;
        let mut start = None;
        loop {
            for _ in 0..LOOKS {
                if let Some(heard) = self.take(&mut inner.call, None) {
                    inner.pace.handed_over();
                    return Silence::Heard(heard);
                }
                std::hint::spin_loop();
            }
            if sys::is_ready(self.listener()) {
                return Silence::Notification;
            }
            if start.get_or_insert_with(Instant::now).elapsed() > LISTEN {
                return Silence::Time;
            }
        }
    }

    /// Lets the runner go on, and looks for something to do when it has yielded.
    fn take_turns(&self, inner: &mut Inner, crowd: &Crowd) -> Silence {
        loop {
            sys::yield_cpu();
            if let Some(heard) = self.take(&mut inner.call, None) {
                return Silence::Heard(heard);
            }
            if sys::is_ready(self.listener()) {
                return Silence::Notification;
            }
            let now = Instant::now();
            if now.duration_since(inner.pace.last) > LISTEN {
                self.judge_turn(inner, now, crowd);
                return Silence::Time;
            }
        }
    }

    /// A turn ended now.
    fn judge_turn(&self, inner: &mut Inner, now: Instant, crowd: &Crowd) {
        match inner.pace.lost_turn(now, || sys::cpu_time_ns(self.pid)) {
            true => crowd.met(),
            false => crowd.not_met(),
        }
    }

    /// The runner trapped outside of a session: moves it to a CPU of its own when that pays. `lend` gets one that has nothing to do.
    pub(crate) fn consider_listening(
        &self,
        inner: &mut Inner,
        lend: impl Fn() -> Option<usize>,
        crowd: &Crowd,
    ) {
        if inner.pace.apart() {
            return;
        }
        let now = Instant::now();
        if inner.pace.in_turns() {
            self.judge_turn(inner, now, crowd);
        }
        if inner.pace.trapped(now) {
            match lend() {
                Some(host) => {
                    sys::bind(self.pid, host);
                    self.set_manner(inner, Manner::Apart { home: sys::current_cpu(), host });
                    return inner.pace.begin();
                }
                None => inner.pace.credit = 0,
            }
        }
        match (crowd.is_over(), inner.pace.in_turns()) {
            (true, false) => {
                inner.pace.turns = (0, Duration::ZERO, sys::cpu_time_ns(self.pid));
                self.set_manner(inner, Manner::InTurns);
            }
            (false, true) => self.set_manner(inner, Manner::Asleep),
            _ => {}
        }
    }

    fn set_manner(&self, inner: &mut Inner, manner: Manner) {
        if inner.pace.manner != manner {
            inner.pace.manner = manner;
            let says = match manner {
                Manner::Asleep => listening::NO,
                Manner::InTurns => listening::IN_TURNS,
                Manner::Apart { .. } => listening::APART,
            };
            self.swap(call::LISTENING, says);
        }
    }

    /// Before the runner goes on: how often it yields with the next call.
    pub(crate) fn allow_turns(&self, inner: &Inner) {
        if inner.pace.in_turns() {
            self.put(call::YIELDS, TURNS);
        }
    }

    /// Ends a session that is not worth it.
    pub(crate) fn reconsider(&self, inner: &mut Inner) {
        if inner.pace.apart() && inner.pace.credit <= 0 {
            self.come_home(inner);
        }
    }

    /// Somebody else wants the CPU of the session: ends it if there is one and the runner sleeps. Whether there is none any more.
    pub(crate) fn give_up_cpu(&self) -> bool {
        // Whoever has the lock runs guest code now.
        let Ok(mut inner) = self.inner.try_lock() else { return false };
        let asleep = sys::is_ready(self.listener());
        if inner.pace.apart() && asleep {
            self.come_home(&mut inner);
        }
        !inner.pace.apart()
    }

    /// The owner listens no more; a runner that was moved shares his CPU again.
    pub(crate) fn come_home(&self, inner: &mut Inner) {
        let was = inner.pace.manner;
        self.set_manner(inner, Manner::Asleep);
        if let Manner::Apart { home, .. } = was {
            sys::bind(self.pid, home);
            inner.pace.end();
            inner.pace.last = Instant::now();
        }
    }
}
