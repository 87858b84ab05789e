//! RAM that is made ahead of need, by a thread of its own.
//!
//! What a new page costs is mostly the host's: finding and clearing memory takes longer than all else that a fault does. Where there is a host CPU with nothing
//! to do, it is done there while the guest works on what it has. The thread is started when the kernel first expects something, never enters
//! the kernel, sleeps when all is made, and holds nothing that anybody else waits for: with the least of all priorities, on a busy host it may not run for a long time.

use crate::cpu::{host_cpus, use_cpus};
use crate::ram::Mapping;
use hal::PAGE_SIZE;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};

/// How much is made by one host call, in bytes: nobody can stop it meanwhile.
const PIECE: u64 = 128 << 10;

/// What the thread and its users share. There is no lock: the host may let the thread wait for long wherever it is.
struct Shared {
    mapping: Arc<Mapping>,
    /// What is still to do.
    work: Work,
    stop: AtomicBool,
    /// Where what was made ends. A hint: what was made and forgotten at the same time may count.
    made: AtomicU64,
    cpus: Vec<usize>,
}

impl Shared {
    /// Makes a piece of what is still to do, of so many bytes at most, if there is something. Whether that worked: the host may have no memory to spare, or not know how.
    fn make(&self, most: u64) -> Option<bool> {
        let (from, len) = self.work.take(most)?;
        let made = self.mapping.populate(from, len);
        if made && Work::start(self.work.0.load(Ordering::SeqCst)) >= from + len {
            self.made.fetch_max(from + len, Ordering::Relaxed);
        }
        Some(made)
    }
}

/// What those who use RAM know of it, and what they can do for it.
#[derive(Clone)]
pub(crate) struct Made(Arc<Shared>);

impl Made {
    /// Where what was made ends, in bytes.
    pub(crate) fn end(&self) -> u64 {
        self.0.made.load(Ordering::Relaxed)
    }

    /// Makes a page of what is still to be made, for whoever waits for something else and has the host CPU for himself. Whether there was one. Takes some microseconds.
    pub(crate) fn make_page(&self) -> bool {
        self.0.make(PAGE_SIZE) == Some(true)
    }
}

/// A piece of RAM: the numbers of its first page and of that behind it, in a half each.
#[derive(Default)]
struct Work(AtomicU64);

impl Work {
    /// The first address that is too far away for it, in bytes.
    const LIMIT: u64 = PAGE_SIZE << 32;

    /// Puts another piece in place of the one that there is. Both in bytes, whole pages, and below the limit.
    fn change(&self, to: impl Fn(u64, u64) -> (u64, u64)) {
        let change = |word| {
            let (from, end) = to(Work::start(word), Work::end(word));
            Some((from / PAGE_SIZE) | (end / PAGE_SIZE) << 32)
        };
        // It always gives a new value.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
    }

    fn start(word: u64) -> u64 {
        (word & u64::from(u32::MAX)) * PAGE_SIZE
    }

    fn end(word: u64) -> u64 {
        (word >> 32) * PAGE_SIZE
    }

    /// Takes at most so many bytes from its start.
    fn take(&self, most: u64) -> Option<(u64, u64)> {
        loop {
            let word = self.0.load(Ordering::SeqCst);
            let (from, end) = (Work::start(word), Work::end(word));
            if from >= end {
                return None;
            }
            let len = most.min(end - from);
            let rest = word + len / PAGE_SIZE;
            if self.0.compare_exchange(word, rest, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return Some((from, len));
            }
        }
    }
}

/// The thread. It may go on for a while when this is dropped.
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    thread: OnceLock<Option<Thread>>,
}

impl Ahead {
    /// For RAM that is mapped like this. Nothing is started.
    pub(crate) fn new(mapping: Arc<Mapping>) -> Ahead {
        let shared = Shared {
            mapping,
            work: Work::default(),
            stop: AtomicBool::new(false),
            made: AtomicU64::new(0),
            cpus: host_cpus(),
        };
        Ahead { shared: Arc::new(shared), thread: OnceLock::new() }
    }

    /// For those who use RAM.
    pub(crate) fn made(&self) -> Made {
        Made(self.shared.clone())
    }

    /// Has a piece of RAM made, in bytes and whole pages, if there is more than one host CPU. Does not block.
    pub(crate) fn make(&self, from: u64, to: u64) {
        if self.shared.cpus.len() < 2 || to >= Work::LIMIT {
            return;
        }
        // What is before it is in use by now.
        self.shared.work.change(|start, _| (start.max(from), to));
        let start = || {
            let shared = self.shared.clone();
            let new = thread::Builder::new().name("ahead".to_string()).stack_size(64 << 10);
            new.spawn(move || run(&shared)).ok().map(|handle| handle.thread().clone())
        };
        if let Some(thread) = self.thread.get_or_init(start) {
            thread.unpark();
        }
    }

    /// The kernel has no use for this piece, in bytes. If what was to be made ends with it, that ends where it begins; a host call that has begun goes on. Does not block.
    pub(crate) fn forget(&self, from: u64, to: u64) {
        self.shared.work.change(|start, end| {
            if to < end {
                return (start, end);
            }
            self.shared.made.fetch_min(from, Ordering::Relaxed);
            (start.min(from), end.min(from))
        });
    }
}

fn run(shared: &Shared) {
    use_cpus(&shared.cpus);
    // Others go first. As `SCHED_IDLE` they would at once, but then a process whose threads have to end, which each does itself, waits on a busy
    // host for a tenth of a second until this one's turn comes. A short slice brings that forward.
    vmspace::use_short_slices();
    // SAFETY: plain call; on Linux it concerns the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    while !shared.stop.load(Ordering::SeqCst) {
        match shared.make(PIECE) {
            Some(true) => {}
            Some(false) => return,
            None => thread::park(),
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(Some(thread)) = self.thread.get() {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PIECE, Work};
    use crate::cpu::host_cpus;
    use crate::ram::LinuxRam;
    use hal::{PhysAddr, Ram};
    use std::time::{Duration, Instant};

    #[test]
    fn work_is_taken_in_pieces_and_can_be_changed_meanwhile() {
        let work = Work::default();
        assert_eq!(work.take(PIECE), None);
        work.change(|start, _| (start.max(PIECE), 3 * PIECE + 4096));
        assert_eq!(work.take(PIECE), Some((PIECE, PIECE)));
        work.change(|start, end| (start.min(PIECE + 4096), end));
        assert_eq!(work.take(PIECE), Some((PIECE + 4096, PIECE)));
        assert_eq!(work.take(PIECE), Some((2 * PIECE + 4096, PIECE)));
        assert_eq!(work.take(PIECE), None);
        work.change(|start, end| (start, end + 4096));
        assert_eq!(work.take(PIECE), Some((3 * PIECE + 4096, 4096)));
    }

    #[test]
    fn what_is_expected_is_made_and_what_is_not_wanted_is_forgotten() {
        let ram = LinuxRam::new(8 << 20).unwrap();
        let made = ram.made();
        ram.expect(PhysAddr(1 << 20), 1 << 20);
        if host_cpus().len() < 2 {
            return;
        }
        let begin = Instant::now();
        while made.end() < 2 << 20 {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing is made");
            std::thread::yield_now();
        }
        assert_eq!(ram.resident(), 1 << 20);
        ram.discard(PhysAddr(3 << 19), 1 << 19);
        assert_eq!(made.end(), 3 << 19);
        assert_eq!(ram.resident(), 1 << 19);
        // Others make some of it, too, when they have the time.
        ram.expect(PhysAddr(3 << 19), 1 << 19);
        while made.make_page() {}
        while made.end() < 2 << 20 {
            assert!(begin.elapsed() < Duration::from_secs(60), "not all is made");
            std::thread::yield_now();
        }
        assert_eq!((ram.resident(), made.make_page()), (1 << 20, false));
        // Ends with work left.
        ram.expect(PhysAddr(3 << 19), 6 << 20);
    }
}
