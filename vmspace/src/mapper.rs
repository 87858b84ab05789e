//! Mappers: the host tasks that change what address spaces show, one for each.
//!
//! A mapper shares the memory of the runners but never runs guest code. It takes its orders from pages that nobody in the address space can write, does
//! them one after the other, and waits for more in a notification of its own, which carries the last result in registers. So a batch costs one
//! hand-over, whatever its length, and there is nothing in it that guest code could change.
//!
//! Beside a session it stands by instead, for a while: it says what it has done by writing to a file that no address space shows, and yields until there are new orders.

use crate::area::Area;
use crate::layout::{self, fd, nr, orders};
use crate::runner::{Fatal, KILLED, receive};
use crate::sys::{self, Notification};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Number of host files that a mapper keeps open for mapping them again.
const FILE_SLOTS: usize = u32::BITS as usize;
/// Where the orders are in the address space's control memory.
const ORDERS_OFFSET: usize = layout::STATE_LEN as usize;

/// A call to make: number and arguments.
pub(crate) type Call = [u64; 7];

/// Has a mapper that stands by go to sleep, or not begin to.
pub(crate) fn send_to_sleep(orders: &Area) {
    orders.store(ORDERS_OFFSET + orders::STANDBY as usize, 0);
}

/// Where a mapper runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Anywhere,
    /// Where the thread that is this virtual CPU runs, which sleeps meanwhile.
    With(usize),
    /// On this host CPU, which the runner in whose session the changes are made leaves to it; the owner goes on looking.
    Beside(usize),
}

/// How long the owner looks for the end of what is done beside him.
const LOOK: Duration = Duration::from_micros(250);
/// How often he looks for it before he looks whether the mapper has gone to sleep.
const LOOKS: u32 = 400;
/// How often a mapper that stands by yields.
const STANDBY: u64 = 64;
/// The same for one that was woken before there is something to do: some hundred microseconds.
const WOKEN_EARLY: u64 = 256;

/// After so many orders in a row, each so soon after the one before, there will be more: they are worth waking it for. That takes as long as ten orders take longer where its owner is.
const ROW: u32 = 32;
/// See [`ROW`].
const CLOSE: Duration = Duration::from_micros(50);

/// A host task that makes calls for the owner.
pub(crate) struct Mapper {
    pub pid: i32,
    listener: OwnedFd,
    area: Arc<Area>,
    /// The notification that it waits in; `None` when it stands by.
    waiting: Option<u64>,
    /// Number of the last batch.
    batch: u64,
    /// Where it says which batch it has done, and that as an offset there.
    status: Arc<Area>,
    word: Option<usize>,
    /// Keys of the files behind descriptors from `fd::FILES` on; 0 is none.
    files: [u64; FILE_SLOTS],
    next_file: usize,
    /// Which of them the next batch uses.
    in_batch: u32,
    /// Where it runs.
    place: Place,
    /// Number of calls that it was given by [`Mapper::start`] and not asked about yet.
    started: usize,
    /// Its report of them, if that has been looked at.
    reported: Option<Notification>,
    /// How fast orders have come.
    rush: Rush,
}

/// How many orders have come in a row, each soon after the one before.
struct Rush {
    last: Instant,
    in_a_row: u32,
}

impl Rush {
    /// Another order; whether there are many.
    fn goes_on(&mut self, now: Instant) -> bool {
        let gap = now.duration_since(std::mem::replace(&mut self.last, now));
        self.in_a_row = if gap < CLOSE { self.in_a_row.saturating_add(1) } else { 0 };
        self.in_a_row >= ROW
    }
}

impl Mapper {
    /// Takes over a new mapper: waits for its first report.
    /// `slot` is its address space's; `status` is that part of the control memory.
    pub(crate) fn adopt(
        listener: OwnedFd,
        area: Arc<Area>,
        status: Arc<Area>,
        slot: u64,
    ) -> io::Result<Mapper> {
        let first = sys::receive(listener.as_fd())?;
        sys::set_sync_wake_up(listener.as_fd());
        if first.nr as u64 != nr::DONE {
            return Err(io::Error::other("a new mapper misbehaved"));
        }
        let word = Some(slot as usize * 8).filter(|at| at + 8 <= layout::STATUS_LEN as usize);
        area.store(ORDERS_OFFSET + orders::SEQUENCE as usize, 0);
        area.store(ORDERS_OFFSET + orders::STATUS as usize, layout::STATUS + slot * 8);
        if let Some(word) = word {
            status.store(word, 0);
        }
        Ok(Mapper {
            pid: first.pid as i32,
            listener,
            area,
            waiting: Some(first.id),
            batch: 0,
            status,
            word,
            files: [0; FILE_SLOTS],
            next_file: 0,
            in_batch: 0,
            place: Place::Anywhere,
            started: 0,
            reported: None,
            rush: Rush { last: Instant::now(), in_a_row: 0 },
        })
    }

    /// Has it run where the calling thread, which is virtual CPU `cpu`, runs.
    pub(crate) fn follow(&mut self, cpu: usize) {
        if self.place != Place::With(cpu) {
            sys::share_cpus(self.pid);
            self.place = Place::With(cpu);
        }
    }

    /// Whether it has the file that this key stands for.
    pub(crate) fn has_file(&self, key: u64) -> bool {
        key != 0 && self.files.contains(&key)
    }

    /// Has it run on another host CPU than the calling thread.
    pub(crate) fn go_to(&mut self, host: usize) {
        if self.place != Place::Beside(host) {
            sys::bind(self.pid, host);
            self.place = Place::Beside(host);
        }
    }

    /// Has it run on these host CPUs, of which the calling thread's is none, until it is placed again.
    pub(crate) fn leave_for(&mut self, cpus: &[usize]) {
        if !cpus.is_empty() {
            sys::use_cpus(self.pid, cpus.iter().copied());
            self.place = Place::Anywhere;
        }
    }

    /// The descriptor number for a host file in the next batch; `None` when that batch has no room for another file.
    pub(crate) fn install(&mut self, file: BorrowedFd<'_>, key: u64) -> Result<Option<u64>, Fatal> {
        let known = self.files.iter().position(|&k| k == key && key != 0);
        let slot = match known {
            Some(slot) => slot,
            None => {
                let free = |slot: &usize| self.in_batch & 1 << slot == 0;
                let order = (0..FILE_SLOTS).map(|i| (self.next_file + i) % FILE_SLOTS);
                let Some(slot) = order.clone().find(free) else { return Ok(None) };
                self.next_file = (slot + 1) % FILE_SLOTS;
                self.files[slot] = 0;
                loop {
                    let waiting = self.asleep()?;
                    let passed = sys::add_fd(self.listener.as_fd(), waiting, file, fd::FILES + slot as i32);
                    if passed.map_err(|e| format!("can't pass a file: {e}"))? {
                        break;
                    }
                    // Somebody has stopped it: it reports again.
                    self.waiting = Some(receive(self.listener.as_fd(), self.pid)?.id);
                }
                self.files[slot] = key;
                slot
            }
        };
        self.in_batch |= 1 << slot;
        Ok(Some(fd::FILES as u64 + slot as u64))
    }

    /// Makes at most [`layout::MAX_BATCH`] calls in the address space. Stops at the first that fails; its position and errno. Blocks for their time.
    pub(crate) fn make(&mut self, calls: &[Call]) -> Result<Result<(), (usize, i32)>, Fatal> {
        self.start(calls)?;
        self.finish()
    }

    /// The notification that it sleeps in. If it stands by it is sent to sleep, for which the caller must leave it a host CPU.
    fn asleep(&mut self) -> Result<u64, Fatal> {
        match self.waiting {
            Some(id) => Ok(id),
            None => {
                self.order(&[], 0)?;
                let n = self.report()?;
                self.waiting = Some(n.id);
                Ok(n.id)
            }
        }
    }

    /// Has it begin with calls. [`Mapper::finish`] comes before anything else.
    pub(crate) fn start(&mut self, calls: &[Call]) -> Result<(), Fatal> {
        self.begin(calls, STANDBY)
    }

    /// Wakes it where it is, so that it stands by when the first calls come.
    pub(crate) fn wake_early(&mut self) -> Result<(), Fatal> {
        // One that changes nothing.
        self.begin(&[[libc::SYS_getpid as u64, 0, 0, 0, 0, 0, 0]], WOKEN_EARLY)
    }

    /// There is something to do: whether it looks for that anyway, or orders come so fast that it should.
    pub(crate) fn is_worth_waking(&mut self) -> bool {
        let rush = self.rush.goes_on(Instant::now());
        rush || self.waiting.is_none() && !self.speaks()
    }

    fn begin(&mut self, calls: &[Call], standby: u64) -> Result<(), Fatal> {
        self.in_batch = 0;
        self.started = calls.len();
        let beside = matches!(self.place, Place::Beside(_)) && self.word.is_some();
        self.order(calls, if beside { standby } else { 0 })
    }

    /// Waits for the end of what was started and not waited for, if anything was.
    pub(crate) fn settle(&mut self) -> Result<Result<(), (usize, i32)>, Fatal> {
        if self.started > 0 { self.finish() } else { Ok(Ok(())) }
    }

    /// Has it begin to unmap some ranges, leaving its host CPU to others after each, and then all below an address, and sleep then.
    pub(crate) fn start_unmapping(&mut self, ranges: &[Range<u64>], end: u64) -> Result<(), Fatal> {
        // What has not worked out is unmapped, too.
        let _ = self.settle()?;
        if self.waiting.is_none() && self.speaks() {
            // It has gone to sleep, which nobody has heard of yet.
            self.waiting = Some(receive(self.listener.as_fd(), self.pid)?.id);
        }
        let unmap = |start, end| [libc::SYS_munmap as u64, start, end - start, 0, 0, 0, 0];
        let to_others = [libc::SYS_sched_yield as u64, 0, 0, 0, 0, 0, 0];
        let pieces = ranges.iter().flat_map(|range| [unmap(range.start, range.end), to_others]);
        let calls: Vec<Call> = pieces.chain([unmap(0, end)]).collect();
        self.in_batch = 0;
        self.started = calls.len();
        self.order(&calls, 0)
    }

    fn order(&mut self, calls: &[Call], standby: u64) -> Result<(), Fatal> {
        let header = |word: u64| ORDERS_OFFSET + word as usize;
        let words = calls.iter().flatten();
        for (word, offset) in words.zip((header(orders::LEN)..).step_by(8)) {
            self.area.store(offset, *word);
        }
        self.area.store(header(orders::COUNT), calls.len() as u64);
        self.area.store(header(orders::STANDBY), standby);
        self.batch += 1;
        self.area.store(header(orders::SEQUENCE), self.batch);
        self.waiting.take().map_or(Ok(()), |id| self.wake(id))
    }

    fn wake(&self, id: u64) -> Result<(), Fatal> {
        // If it is not there, somebody has stopped it, and it will report the same again.
        sys::answer(self.listener.as_fd(), id, 0).map(drop).map_err(|_| KILLED.into())
    }

    /// The next notification, if it is the report of the last batch. If it is an older one, it went to sleep just before it was told more.
    fn next_report(&self) -> Result<Option<Notification>, Fatal> {
        let n = receive(self.listener.as_fd(), self.pid)?;
        if n.args[2] == self.batch {
            return Ok(Some(n));
        }
        self.wake(n.id).map(|()| None)
    }

    /// Its report of the last batch.
    fn report(&self) -> Result<Notification, Fatal> {
        loop {
            if let Some(n) = self.next_report()? {
                return Ok(n);
            }
        }
    }

    /// Waits until what was started last is done; the result is that of [`Mapper::make`].
    pub(crate) fn finish(&mut self) -> Result<Result<(), (usize, i32)>, Fatal> {
        let calls = std::mem::take(&mut self.started);
        let done = match (self.reported.take(), self.place) {
            (Some(report), _) => Some(report),
            (None, Place::Beside(_)) => self.look()?,
            (None, _) => Some(self.report()?),
        };
        let Some(done) = done else { return Ok(Ok(())) };
        self.waiting = Some(done.id);
        match (done.args[1] as usize).min(calls) {
            0 => Ok(Ok(())),
            left => Ok(Err((calls - left, -(done.args[0] as i64) as i32))),
        }
    }

    /// Looks whether it says that the last batch is done, or reports by a notification; after a while waits for that.
    fn look(&self) -> Result<Option<Notification>, Fatal> {
        let start = Instant::now();
        while let Some(word) = self.word
            && start.elapsed() < LOOK
        {
            for _ in 0..LOOKS {
                if self.status.load(word) == self.batch {
                    return Ok(None);
                }
                std::hint::spin_loop();
            }
            if self.speaks()
                && let Some(report) = self.next_report()?
            {
                return Ok(Some(report));
            }
        }
        send_to_sleep(&self.area);
        self.report().map(Some)
    }

    /// What tells it to sleep.
    pub(crate) fn orders(&self) -> &Arc<Area> {
        &self.area
    }

    /// Whether it has something to say, which may be that it went to sleep some time ago.
    fn speaks(&self) -> bool {
        sys::is_ready(self.listener.as_fd())
    }

    /// Whether [`Mapper::finish`] would not block. Who went to sleep just before he was told to begin goes on.
    pub(crate) fn has_finished(&mut self) -> bool {
        if self.reported.is_none() && self.speaks() {
            match self.next_report() {
                Ok(report) => self.reported = report,
                // Who waits for it hears why.
                Err(_) => return true,
            }
        }
        self.reported.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_orders_that_go_on_coming_fast_are_a_rush() {
        let mut now = Instant::now();
        let mut rush = Rush { last: now, in_a_row: 0 };
        let mut order = |gap: Duration| {
            now += gap;
            rush.goes_on(now)
        };
        // As a program's start makes them.
        let few = (1..ROW).any(|_| order(CLOSE / 2));
        assert!(!few && !order(CLOSE * 2));
        assert_eq!((1..=2 * ROW).find(|_| order(CLOSE / 2)), Some(ROW));
        assert!(!order(CLOSE));
    }
}
