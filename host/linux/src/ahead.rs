//! RAM that is made ahead of need, by a thread of its own.
//!
//! What a new page costs is mostly the host's: finding and clearing memory takes longer than all else that a fault does. Where there is a host CPU with nothing
//! to do, it is done there while the guest works on what it has. The thread is started when the kernel first expects something, never enters
//! the kernel, and sleeps when all is made.

use crate::cpu::{host_cpus, lock, use_cpus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How much is made by one host call, in bytes: nobody can stop it meanwhile.
const PIECE: u64 = 128 << 10;

#[derive(Default)]
struct Work {
    /// What is still to do.
    from: u64,
    to: u64,
    stop: bool,
}

struct Shared {
    /// Where RAM is mapped.
    base: usize,
    work: Mutex<Work>,
    wanted: Condvar,
    /// Where what was made ends.
    made: Arc<AtomicU64>,
    cpus: Vec<usize>,
}

/// The thread. Dropping it waits for its end.
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Ahead {
    /// For RAM that is mapped at `base` as long as this exists. Nothing is started.
    pub(crate) fn new(base: *mut u8) -> Ahead {
        let shared = Shared {
            base: base as usize,
            work: Mutex::default(),
            wanted: Condvar::new(),
            made: Arc::default(),
            cpus: host_cpus(),
        };
        Ahead { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Where what was made ends, in bytes.
    pub(crate) fn made(&self) -> Arc<AtomicU64> {
        self.shared.made.clone()
    }

    /// Has a piece of RAM made, if there is more than one host CPU.
    pub(crate) fn make(&self, from: u64, to: u64) {
        if self.shared.cpus.len() < 2 {
            return;
        }
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let shared = self.shared.clone();
            let new = std::thread::Builder::new().name("ahead".to_string()).stack_size(64 << 10);
            let Ok(new) = new.spawn(move || run(&shared)) else { return };
            *thread = Some(new);
        }
        drop(thread);
        let mut work = lock(&self.shared.work);
        // What is before it is in use by now.
        work.from = work.from.max(from);
        work.to = to;
        drop(work);
        self.shared.wanted.notify_one();
    }

    /// The kernel has no use for this piece. If what was to be made ends with it, that ends where it begins; a host call that has begun goes on.
    pub(crate) fn forget(&self, from: u64, to: u64) {
        let mut work = lock(&self.shared.work);
        if to >= work.to {
            work.from = work.from.min(from);
            work.to = work.to.min(from);
            self.shared.made.fetch_min(from, Ordering::Relaxed);
        }
    }
}

fn run(shared: &Shared) {
    use_cpus(&shared.cpus);
    // Others go first, at once: a runner that wakes up where this thread runs must not wait for the end of its slice.
    // SAFETY: all zeros is a valid parameter, and it changes this thread only.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &std::mem::zeroed()) };
    loop {
        let mut work = lock(&shared.work);
        while !work.stop && work.from >= work.to {
            work = shared.wanted.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        if work.stop {
            return;
        }
        let from = work.from;
        let len = PIECE.min(work.to - from);
        work.from += len;
        drop(work);
        // SAFETY: the range lies in the mapping of RAM, which is there until this thread has ended. Its content does not change.
        let made = unsafe {
            libc::madvise((shared.base + from as usize) as *mut _, len as usize, libc::MADV_POPULATE_WRITE)
        };
        if made != 0 {
            // The host has no memory to spare, or does not know how.
            lock(&shared.work).stop = true;
            return;
        }
        let work = lock(&shared.work);
        if work.from >= from + len {
            shared.made.fetch_max(from + len, Ordering::Relaxed);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        lock(&self.shared.work).stop = true;
        self.shared.wanted.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cpu::host_cpus;
    use crate::ram::LinuxRam;
    use hal::{PhysAddr, Ram};
    use std::sync::atomic::Ordering;
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_expected_is_made_and_what_is_not_wanted_is_forgotten() {
        let ram = LinuxRam::new(8 << 20).unwrap();
        let made = ram.made();
        ram.expect(PhysAddr(1 << 20), 1 << 20);
        if host_cpus().len() < 2 {
            return;
        }
        let begin = Instant::now();
        while made.load(Ordering::Relaxed) < 2 << 20 {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing is made");
            std::thread::yield_now();
        }
        assert_eq!(ram.resident(), 1 << 20);
        ram.discard(PhysAddr(3 << 19), 1 << 19);
        assert_eq!(made.load(Ordering::Relaxed), 3 << 19);
        assert_eq!(ram.resident(), 1 << 19);
        // Ends with work left.
        ram.expect(PhysAddr(3 << 19), 6 << 20);
    }
}
