//! When the owner of a runner listens: looks for its calls on one host CPU while the runner runs on another.

use crate::gate::Heard;
use crate::layout::call;
use crate::runner::{Inner, Runner};
use crate::sys;
use std::time::{Duration, Instant};

/// How long the owner looks for a call before he goes to sleep.
const LISTEN: Duration = Duration::from_micros(100);
/// Traps that come this fast on average are worth a session.
const GAP: Duration = Duration::from_micros(20);
/// After such a pause counting starts anew.
const PAUSE: Duration = Duration::from_millis(1);
/// So many traps are looked at first.
const BURST: u32 = 48;
/// A session goes on when this many calls were handed over before one trapped or had to wait: waking a task on another CPU costs as much as some
/// dozens of them, and so does the move there and back.
const GOOD_SESSION: u32 = 32;
/// How far the demand on a burst grows when sessions are not worth it.
const MOST_BURST: u32 = 1 << 12;

/// How listening ended.
pub(crate) enum Silence {
    /// Something came.
    Heard(Heard),
    /// The runner is in a notification.
    Notification,
    /// Nothing happened for long.
    Time,
}

/// When to listen: the history of a runner's calls.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The host CPU that the runner has been moved away from; `None` while it shares the owner's.
    home: Option<usize>,
    /// Traps since the last pause or session, or calls of the session.
    calls: u32,
    /// How many traps have to come before the next session.
    wanted: u32,
    /// When the last one came, and the moving average of the time between them.
    last: Instant,
    gap: Duration,
}

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace { home: None, calls: 0, wanted: BURST, last: Instant::now(), gap: GAP }
    }

    /// Whether the owner listens.
    pub(crate) fn in_session(&self) -> bool {
        self.home.is_some()
    }

    /// Something was handed over without a switch of tasks.
    pub(crate) fn handed_over(&mut self) {
        self.calls = self.calls.saturating_add(1);
    }

    /// A call trapped; whether to listen from now on, if there is a CPU for it.
    fn trapped(&mut self) -> bool {
        let now = Instant::now();
        let gap = now.duration_since(self.last);
        self.last = now;
        if gap > PAUSE {
            self.calls = 0;
            return false;
        }
        self.gap = (self.gap * 15 + gap) / 16;
        self.calls += 1;
        self.calls >= self.wanted && self.gap < GAP
    }

    fn begin(&mut self, home: usize) {
        self.home = Some(home);
        self.calls = 0;
    }

    fn end(&mut self) {
        self.wanted = match self.calls {
            0..GOOD_SESSION => (self.wanted * 2).min(MOST_BURST),
            _ => (self.wanted / 2).max(BURST),
        };
        self.calls = 0;
        self.last = Instant::now();
    }
}

impl Runner {
    /// Looks for something to do for a while.
    pub(crate) fn listen(&self, take: impl Fn() -> Option<Heard>) -> Silence {
        const LOOKS: u32 = 50;
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if let Some(heard) = take() {
                    return Silence::Heard(heard);
                }
                std::hint::spin_loop();
            }
            if sys::is_ready(self.listener()) {
                return Silence::Notification;
            }
            if start.elapsed() > LISTEN {
                return Silence::Time;
            }
        }
    }

    /// The runner trapped: moves it to a CPU of its own when that pays. `spare` names one that has nothing to do.
    pub(crate) fn consider_listening(&self, inner: &mut Inner, spare: &dyn Fn() -> Option<usize>) {
        if !inner.pace.in_session() && inner.pace.trapped() {
            match spare() {
                Some(cpu) => {
                    sys::bind(self.pid, cpu);
                    inner.pace.begin(sys::current_cpu());
                    self.put(call::LISTENING, 1);
                }
                None => inner.pace.calls = 0,
            }
        }
    }

    /// The session is interrupted by something that was not handed over: it ends unless it has been worth it.
    pub(crate) fn interrupted(&self, inner: &mut Inner) {
        match inner.pace.calls {
            _ if !inner.pace.in_session() => {}
            0..GOOD_SESSION => self.come_home(inner),
            _ => inner.pace.calls = 0,
        }
    }

    /// The end of a session: the runner shares its owner's CPU again.
    pub(crate) fn come_home(&self, inner: &mut Inner) {
        if let Some(home) = inner.pace.home.take() {
            self.swap(call::LISTENING, 0);
            sys::bind(self.pid, home);
            inner.pace.end();
        }
    }
}
