//! The host's side of address spaces: what one user after the other gets.

use crate::area::Area;
use crate::context::{Answers, Offers, Views};
use crate::engine::lock;
use crate::gate::Eager;
use crate::layout::{self, call, listening, orders};
use crate::mapper::Mapper;
use crate::pace::Pace;
use crate::places::Places;
use crate::runner::Runner;
use crate::shown::Shown;
use crate::sys;
use crate::trust::{self, Fresh};
use crate::turns::Turns;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// The host's side of an address space: a mother process, the mapper and the runners that she made, their shared memory.
pub(crate) struct Body {
    pub mother: i32,
    pub slot: u64,
    pub(crate) area: Arc<Area>,
    pub(crate) mapper: Mutex<Mapper>,
    pub(crate) runners: Mutex<Vec<Arc<Runner>>>,
    /// Where the vDSO's `clock_gettime` is.
    clock: Option<u64>,
    /// When [`Body::empty`] began; `None` while it is in use or has to be put off.
    emptied: Option<Instant>,
    /// How far [`Body::cleanse`] has come since.
    cleansing: Cleansing,
    /// How much RAM has been shown since, in bytes.
    pub(crate) ram_shown: AtomicU64,
    /// Where something has been shown since.
    pub(crate) extents: Mutex<Extents>,
    /// Whose copy it is or was: the address space's number, 0 for none.
    pub(crate) copy_of: u64,
    /// What a copy shows, and whether that is what was left by the one before.
    pub(crate) shown: Mutex<Shown>,
    pub(crate) left: AtomicBool,
}

/// What is unmapped at a time of a large address space, in bytes, and about how many pieces at most.
const PIECE: u64 = 1 << 20;
const MOST_PIECES: u64 = 256;
/// How many ranges are told apart. What is in none of them is unmapped in one piece.
const MOST_EXTENTS: usize = 16;

/// How far an address space is from being clean for its next user.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cleansing {
    Due,
    Begun,
    /// Or it is new.
    Done,
}

/// See [`Body::is_large`], in bytes.
const MUCH: u64 = 8 << 20;

/// Where something was mapped: ranges with holes in them, in no order.
#[derive(Default)]
pub(crate) struct Extents(Vec<Range<u64>>);

impl Extents {
    pub(crate) fn add(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len);
        let near = |range: &&mut Range<u64>| {
            range.start <= end.saturating_add(PIECE) && at <= range.end.saturating_add(PIECE)
        };
        if let Some(range) = self.0.iter_mut().find(near) {
            *range = range.start.min(at)..range.end.max(end);
        } else if self.0.len() < MOST_EXTENTS {
            self.0.push(at..end);
        }
    }

    /// All in pieces, so that whoever unmaps one after the other leaves the host CPU to others in between.
    fn pieces(&self) -> Vec<Range<u64>> {
        let all: u64 = self.0.iter().map(|range| range.end - range.start).sum();
        let len = all.div_ceil(MOST_PIECES).next_multiple_of(PIECE).max(PIECE);
        let pieces = |range: &Range<u64>| {
            let end = range.end.min(layout::REGION);
            (range.start..end).step_by(len as usize).map(move |at| at..(at + len).min(end))
        };
        self.0.iter().flat_map(pieces).collect()
    }
}

/// Where an address space is emptied.
pub(crate) enum Site {
    /// Where its mapper is.
    Here,
    /// On a host CPU where a session takes place.
    Seat(usize),
    /// On some of these, if there are any.
    AnyOf(Vec<usize>),
}

impl Body {
    /// Takes over a mother's first task, the mapper.
    pub(crate) fn new(
        mother: i32,
        slot: u64,
        area: Area,
        mapper: OwnedFd,
        status: Arc<Area>,
        clock: Option<u64>,
    ) -> io::Result<Body> {
        let area = Arc::new(area);
        let mapper = Mutex::new(Mapper::adopt(mapper, area.clone(), status, slot)?);
        Ok(Body {
            mother,
            slot,
            area,
            mapper,
            runners: Mutex::new(Vec::new()),
            clock,
            emptied: Some(Instant::now()),
            cleansing: Cleansing::Done,
            ram_shown: AtomicU64::new(0),
            extents: Mutex::default(),
            copy_of: 0,
            shown: Mutex::default(),
            left: AtomicBool::new(false),
        })
    }

    /// Takes over a runner that has just been made.
    pub(crate) fn add_runner(&self, listener: OwnedFd, fresh: &OnceLock<Fresh>) -> io::Result<()> {
        let mut runners = lock(&self.runners);
        let runner = Runner::adopt(listener, self.area.clone(), runners.len(), fresh, self.clock)?;
        runners.push(Arc::new(runner));
        Ok(())
    }

    /// Lets the mother make another runner when she goes on.
    pub(crate) fn want_runner(&self) {
        // And the mapper.
        let tasks = lock(&self.runners).len() as u64 + 2;
        self.area.store((layout::STATE_LEN + orders::TASKS) as usize, tasks);
    }

    /// Takes all runners out of guest code; none runs until [`Body::cleanse`], so nobody sees what is left, or what others have instead by then. False when that did not work and the processes
    /// have to go. [`Body::empty`] comes next, some time.
    pub(crate) fn vacate(&mut self) -> bool {
        (self.emptied, self.cleansing) = (None, Cleansing::Due);
        lock(&self.runners).iter().all(|runner| {
            let mut inner = lock(&runner.inner);
            // A thread that has left the address space (execve) still wants its registers.
            runner.clear_places(&mut inner);
            // While somebody listens to it, it saves them without sleeping first.
            let evicted = runner.evict(&mut inner);
            runner.end_session(&mut inner);
            evicted.and_then(|()| runner.stop(&mut inner)).is_ok()
        })
    }

    /// Whether that takes long: to unmap as much takes longer than to wake another host CPU for it.
    pub(crate) fn is_large(&self) -> bool {
        self.ram_shown.load(Ordering::Relaxed) > MUCH
    }

    /// Whether that is so and it has yet to be emptied.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.is_emptied() && !self.is_left() && self.is_large()
    }

    /// Begins to unmap everything of the guest's, there; [`Body::cleanse`] waits for the end. What does not work is heard of then.
    pub(crate) fn empty(&mut self, site: &Site) {
        let large = self.is_large();
        self.emptied = Some(Instant::now());
        (self.copy_of, self.cleansing) = (0, Cleansing::Due);
        *lock(&self.shown) = Shown::default();
        self.left.store(false, Ordering::Relaxed);
        self.ram_shown.store(0, Ordering::Relaxed);
        let mut mapper = lock(&self.mapper);
        match site {
            Site::Here => {}
            Site::Seat(host) => mapper.go_to(*host),
            Site::AnyOf(cpus) => mapper.leave_for(cpus),
        }
        let extents = std::mem::take(&mut *lock(&self.extents));
        let pieces = if large { extents.pieces() } else { Vec::new() };
        let _ = mapper.start_unmapping(&pieces, layout::REGION);
    }

    /// Whether that has begun.
    pub(crate) fn is_emptied(&self) -> bool {
        self.emptied.is_some()
    }

    /// Whether that began less than so long ago.
    pub(crate) fn is_empty_within(&self, time: Duration) -> bool {
        self.emptied.is_some_and(|emptied| emptied.elapsed() < time)
    }

    /// Whether everything is unmapped by now.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_emptied() && (self.is_clean() || lock(&self.mapper).has_finished())
    }

    /// It becomes a copy of this address space.
    pub(crate) fn becomes_copy(&mut self, of: u64) {
        self.copy_of = of;
    }

    /// Whether it is left as it is for the next copy of the same address space: it is one, and what it shows is certain.
    pub(crate) fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// The same for a copy of this one.
    pub(crate) fn is_left_by_copy(&self, of: u64) -> bool {
        self.is_left() && self.copy_of == of
    }

    /// Leaves it like that, if it may be.
    pub(crate) fn leave(&mut self) -> bool {
        let mut shown = lock(&self.shown);
        let left = self.copy_of != 0 && shown.is_certain();
        if left {
            shown.is_left();
            self.ram_shown.store(shown.ram(), Ordering::Relaxed);
            self.left.store(true, Ordering::Relaxed);
        }
        left
    }

    /// It is not, and has to be emptied.
    pub(crate) fn is_not_left(&self) {
        self.left.store(false, Ordering::Relaxed);
    }

    /// Whether [`Body::cleanse`] has been done, or at least begun.
    pub(crate) fn is_clean(&self) -> bool {
        self.cleansing != Cleansing::Due
    }

    /// Whether that is so and there is nothing in it.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_clean() && self.is_emptied()
    }

    /// Waits for the end of [`Body::empty`], and begins to leave no trace of the guest in memory that the next one can read or in the host tasks: its first runner works on that on `host`,
    /// if there is one, or where the calling thread is. False when that did not work and the processes have to go. `control` is the control memory, in which this space's starts at `offset`.
    pub(crate) fn begin_cleansing(&mut self, control: &OwnedFd, offset: u64, host: Option<usize>) -> bool {
        if self.cleansing != Cleansing::Due {
            return true;
        }
        let runners = lock(&self.runners);
        if !matches!(lock(&self.mapper).settle(), Ok(Ok(()))) {
            return false;
        }
        trust::clear_areas(control, &self.area, offset, runners.len());
        for (i, runner) in runners.iter().enumerate() {
            let mut inner = lock(&runner.inner);
            runner.clear_gate(self.clock);
            (inner.places, inner.eager) = (Places::default(), Eager::default());
            inner.call = 0;
            (inner.answers, inner.offers) = (Answers::default(), Offers::default());
            (inner.withdrawn, inner.undone, inner.stat) = (None, None, None);
            inner.views = Views::default();
            runner.kicked.store(false, Ordering::SeqCst);
            if runner.go_to_handler(&mut inner).is_err() {
                return false;
            }
            match host.filter(|_| i == 0) {
                Some(host) => runner.bind(host),
                None => runner.stay_here(),
            }
            if runner.begin_cleansing(&mut inner).is_err() {
                return false;
            }
        }
        self.cleansing = Cleansing::Begun;
        true
    }

    /// The same to the end.
    pub(crate) fn cleanse(&mut self, control: &OwnedFd, offset: u64) -> bool {
        if self.cleansing == Cleansing::Done {
            return true;
        }
        let begun = self.begin_cleansing(control, offset, None);
        let done = begun
            && lock(&self.runners).iter().all(|runner| {
                let mut inner = lock(&runner.inner);
                let cleansed = runner.finish_cleansing(&mut inner).is_ok();
                // The next guest's calls come as they come.
                (inner.pace, inner.turns) = (Pace::new(), Turns::new());
                cleansed
            });
        if done {
            self.cleansing = Cleansing::Done;
        }
        done
    }

    /// Whether the gate of its runners can switch threads.
    pub(crate) fn has_gate(&self) -> bool {
        lock(&self.runners).first().is_some_and(|r| r.components() != 0)
    }

    fn pids(&self) -> Vec<i32> {
        let mapper = lock(&self.mapper).pid;
        lock(&self.runners).iter().map(|r| r.pid).chain([mapper, self.mother]).collect()
    }

    /// Has all its processes end.
    pub(crate) fn begin_to_end(&self) {
        // Whoever gets the areas next begins without.
        lock(&self.runners).iter().for_each(|r| r.put(call::LISTENING, listening::NOT));
        self.pids().into_iter().for_each(|pid| sys::kill(pid, libc::SIGKILL));
    }

    /// Ends all its processes.
    pub(crate) fn kill(self) {
        lock(&self.runners).iter().for_each(|runner| runner.clear_places(&mut lock(&runner.inner)));
        self.begin_to_end();
        self.pids().into_iter().for_each(sys::reap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_what_was_mapped_and_are_not_too_many() {
        const MIB: u64 = 1 << 20;
        for scale in [1, 16] {
            let mut extents = Extents::default();
            // A heap that grows, files far apart, a stack; and one in between, where two of them meet.
            let heap = (0..100).map(|i| (MIB * (64 + i * scale / 2), MIB * scale / 2));
            let files = (0..10).map(|i| ((1 << 46) - i * 512 * MIB * scale, 4096 * scale));
            let all: Vec<_> = heap.chain(files).chain([(1 << 45, MIB), ((1 << 45) + 3 * MIB, MIB)]).collect();
            all.iter().for_each(|&(at, len)| extents.add(at, len));
            extents.add((1 << 45) + MIB, 2 * MIB);
            let pieces = extents.pieces();
            assert!(pieces.len() as u64 <= MOST_PIECES + MOST_EXTENTS as u64, "{}", pieces.len());
            for (at, len) in all {
                let covered: u64 = pieces
                    .iter()
                    .map(|piece| piece.end.min(at + len).saturating_sub(piece.start.max(at)))
                    .sum();
                assert!(covered >= len, "{at:#x} and {len:#x} bytes: {covered:#x}");
            }
            assert!(pieces.iter().all(|piece| piece.end > piece.start && piece.end <= layout::REGION));
        }
        assert_eq!(Extents::default().pieces(), []);
        // No more ranges are told apart than that.
        let mut extents = Extents::default();
        (0..2 * MOST_EXTENTS as u64).for_each(|i| extents.add(i << 30, 4096));
        assert_eq!(extents.pieces().len(), MOST_EXTENTS);
    }
}
