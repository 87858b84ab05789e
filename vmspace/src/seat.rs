//! Seats: the host CPUs that sessions take place on.
//!
//! Each virtual CPU has a seat, which may have been lent a host CPU that has nothing else to do. All runners of the virtual CPU that are in a session share it, and one of them
//! at a time is told to go on. The others stand aside: they are runnable and yield, so that going from one to the other takes a switch of host tasks
//! on that CPU and no call of the owner's; who has stood aside for long goes to sleep.

use crate::area::Area;
use crate::engine::lock;
use crate::layout::{MAX_RUNNERS, call, order, trap};
use crate::mapper::{Mapper, send_to_sleep};
use crate::pace::{Demand, Pace};
use crate::rivals::Rivals;
use crate::runner::{Inner, Mode, Runner};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// How often a runner yields before it sleeps. Each time is a turn of another one, or a fraction of a microsecond when there is none.
const YIELDS: u64 = 16;

/// A session is over when runners without one have had its virtual CPU for so long. Until then who makes calls there joins it, and whose session it is goes on soon.
const AWAY: Duration = Duration::from_millis(1);

/// The seat of a virtual CPU. Only its own thread takes it; others may take the host CPU from it.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Seat {
    /// The host CPU plus one; 0 is none.
    host: AtomicUsize,
    /// The session that goes on: its host CPU plus one, and whether it is a dense one in the lowest bit; 0 is none.
    session: AtomicUsize,
    /// When a runner without a session first ran since, in nanoseconds from the start; 0 is never.
    left_ns: AtomicU64,
    /// Address of the runner that has been told to go on last, and the runner: while it is there the address is nobody else's.
    address: AtomicUsize,
    runner: Mutex<Weak<Runner>>,
    /// Who competes with its runners.
    pub(crate) rivals: Rivals,
    demand: Mutex<Demand>,
    /// Of the mapper that stands by there.
    mapper: Mutex<Weak<Area>>,
}

impl Seat {
    fn last(&self) -> Option<Arc<Runner>> {
        lock(&self.runner).upgrade()
    }

    /// How much the virtual CPU wants a session.
    pub(crate) fn demand(&self) -> MutexGuard<'_, Demand> {
        lock(&self.demand)
    }
}

/// The seats of all virtual CPUs.
pub(crate) struct Seats {
    seats: Box<[Seat]>,
    /// Whoever lends a host CPU.
    lending: Mutex<()>,
    start: Instant,
}

impl Seats {
    pub(crate) fn new() -> Seats {
        Seats {
            seats: (0..MAX_RUNNERS).map(|_| Seat::default()).collect(),
            lending: Mutex::new(()),
            start: Instant::now(),
        }
    }

    /// The seat of virtual CPU `cpu`, which there is.
    pub(crate) fn of(&self, cpu: usize) -> &Seat {
        &self.seats[cpu]
    }

    /// Asks for a host CPU for the sessions of virtual CPU `cpu`: whoever has it and sleeps gives it up.
    pub(crate) fn lend(&self, cpu: usize, host: usize) -> bool {
        let Some(seat) = self.seats.get(cpu) else { return false };
        if seat.host.load(Ordering::Acquire) == host + 1 {
            return true;
        }
        let _lending = lock(&self.lending);
        // Not this seat, as was just seen.
        let holder = self.seats.iter().find(|other| other.host.load(Ordering::Acquire) == host + 1);
        if let Some(holder) = holder {
            if holder.last().is_some_and(|runner| !runner.give_up_cpu()) {
                return false;
            }
            holder.host.store(0, Ordering::Release);
        }
        seat.host.store(host + 1, Ordering::Release);
        true
    }

    /// The runner has run on virtual CPU `cpu`.
    pub(crate) fn note(&self, cpu: usize, pace: &Pace) {
        let Some(seat) = self.seats.get(cpu) else { return };
        let before = seat.session.load(Ordering::Relaxed);
        let Some(host) = pace.host() else {
            if before == 0 {
                return;
            }
            let (left, now) = (seat.left_ns.load(Ordering::Relaxed), self.start.elapsed().as_nanos() as u64);
            if left == 0 {
                seat.left_ns.store(now, Ordering::Relaxed);
            } else if now - left > AWAY.as_nanos() as u64 {
                seat.session.store(0, Ordering::Relaxed);
            }
            return;
        };
        let session = (host + 1) << 1 | usize::from(pace.is_dense());
        if before != session {
            seat.session.store(session, Ordering::Relaxed);
        }
        if seat.left_ns.load(Ordering::Relaxed) != 0 {
            seat.left_ns.store(0, Ordering::Relaxed);
        }
    }

    /// The session of virtual CPU `cpu` that goes on, as the seat has it; 0 is none.
    fn session(&self, cpu: usize) -> usize {
        self.seats.get(cpu).map_or(0, |seat| seat.session.load(Ordering::Relaxed))
    }

    /// The host CPU that such a session makes good use of: it is a dense one.
    pub(crate) fn borrowed(&self, cpu: usize) -> Option<usize> {
        let session = self.session(cpu);
        (session & 1 != 0).then(|| (session >> 1) - 1)
    }

    /// Its host CPU.
    pub(crate) fn host(&self, cpu: usize) -> Option<usize> {
        (self.session(cpu) >> 1).checked_sub(1)
    }

    /// Whether a session goes on anywhere.
    pub(crate) fn any(&self) -> bool {
        self.seats.iter().any(|seat| seat.session.load(Ordering::Relaxed) != 0)
    }

    /// Whether a session goes on at virtual CPU `cpu`.
    pub(crate) fn goes_on(&self, cpu: usize) -> bool {
        self.session(cpu) != 0
    }

    /// Whether the session of another runner goes on at virtual CPU `cpu`.
    pub(crate) fn is_joined_by(&self, cpu: usize, runner: &Arc<Runner>) -> bool {
        let other = |seat: &Seat| seat.address.load(Ordering::Relaxed) != Arc::as_ptr(runner) as usize;
        self.goes_on(cpu) && self.seats.get(cpu).is_some_and(other)
    }

    /// The host CPU where the session of virtual CPU `cpu` goes on, whose runner leaves it to others for a while.
    pub(crate) fn clear(&self, cpu: usize) -> Option<usize> {
        let host = self.host(cpu)?;
        if let Some(runner) = self.last(cpu) {
            runner.stand_aside(host);
        }
        Some(host)
    }

    /// A mapper is about to stand by at the seat of virtual CPU `cpu`: another one sleeps from now on.
    pub(crate) fn stands_by(&self, cpu: usize, mapper: &Mapper) {
        let Some(seat) = self.seats.get(cpu) else { return };
        let mut last = lock(&seat.mapper);
        if last.as_ptr() != Arc::as_ptr(mapper.orders()) {
            let before = std::mem::replace(&mut *last, Arc::downgrade(mapper.orders()));
            if let Some(before) = before.upgrade() {
                send_to_sleep(&before);
            }
        }
    }

    /// The runner that ran last on virtual CPU `cpu` in a session.
    pub(crate) fn last(&self, cpu: usize) -> Option<Arc<Runner>> {
        self.seats.get(cpu).filter(|_| self.goes_on(cpu))?.last()
    }

    /// Whether the runner that ran last on virtual CPU `cpu` is in a session.
    pub(crate) fn is_taken(&self, cpu: usize) -> bool {
        let none_left = |seat: &Seat| seat.left_ns.load(Ordering::Relaxed) == 0;
        self.goes_on(cpu) && self.seats.get(cpu).is_some_and(none_left)
    }

    /// The runner has been told to go on, and is in a session: whoever was before it stands aside. A runner whose session is on a host CPU that has been lent to
    /// somebody else since ends it.
    pub(crate) fn take(&self, cpu: usize, runner: &Arc<Runner>, inner: &mut Inner) {
        let (Some(seat), Some(host)) = (self.seats.get(cpu), inner.pace.host()) else { return };
        if seat.host.load(Ordering::Acquire) != host + 1 {
            return runner.come_home(inner);
        }
        let address = Arc::as_ptr(runner) as usize;
        if seat.address.load(Ordering::Relaxed) == address {
            return;
        }
        inner.pace.has_shared();
        let before = std::mem::replace(&mut *lock(&seat.runner), Arc::downgrade(runner));
        seat.address.store(address, Ordering::Relaxed);
        if let Some(before) = before.upgrade().filter(|before| !Arc::ptr_eq(before, runner)) {
            before.stand_aside(host);
        }
    }
}

impl Runner {
    /// Lets another runner have the CPU of the session on `host`, if this one is awake there without having to.
    fn stand_aside(&self, host: usize) {
        // Whoever has the lock uses it for something else.
        let Ok(inner) = self.inner.try_lock() else { return };
        if inner.pace.host() == Some(host) {
            self.step_aside(&inner);
        }
    }

    /// The host CPU where the runner waits for orders, awake as far as is known without asking the host.
    pub(crate) fn waits_on(&self, inner: &Inner) -> Option<usize> {
        let awake = matches!(
            inner.mode,
            Mode::Taken { id: None, .. } | Mode::Free { id: None } | Mode::Handler { id: None }
        );
        inner.pace.host().filter(|_| awake)
    }

    /// Has a runner that waits for orders leave its CPU to others meanwhile.
    pub(crate) fn step_aside(&self, inner: &Inner) {
        match inner.mode {
            Mode::Taken { id: None, .. } | Mode::Free { id: None } => {
                self.put(call::YIELDS, YIELDS);
                self.put(call::ORDER, u64::from(inner.call.wrapping_add(order::ASIDE)));
            }
            Mode::Handler { id: None } => {
                self.put(call::YIELDS, YIELDS);
                self.put(call::TRAP, trap::ASIDE);
            }
            _ => {}
        }
    }

    /// The end of that.
    pub(crate) fn step_back(&self, inner: &Inner) {
        match inner.mode {
            Mode::Taken { id: None, .. } | Mode::Free { id: None } => {
                self.put(call::ORDER, u64::from(inner.call))
            }
            Mode::Handler { id: None } => self.put(call::TRAP, trap::TAKEN),
            _ => {}
        }
    }
}
