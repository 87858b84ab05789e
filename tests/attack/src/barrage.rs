//! Many small tries, each of which may end its process: several processes work through them, and are replaced when they end or get stuck.

use crate::rng::Rng;
use crate::sys;
use crate::warden::{End, Warden, next_child};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many processes at once: those that sleep in a call cost nothing.
const WORKERS: usize = 4;
/// A worker that has not begun another try for so long is stuck.
const STUCK: Duration = Duration::from_millis(250);
/// The warden looks at the workers this often, and sees whether others are well in between.
const LOOK: Duration = Duration::from_millis(20);
const CHECK: Duration = Duration::from_millis(150);

/// What the workers share. They may destroy it, as everything that they can write to.
struct Shared {
    next: &'static AtomicU64,
    /// The last try that a worker has begun, plus one.
    begun: &'static [AtomicU64; WORKERS],
}

/// Tries that are numbered.
pub struct Barrage {
    /// How many there are.
    pub tries: u64,
    /// Whether their order is that of the numbers. Otherwise it follows from the seed, so that an attack that has not the time for all makes
    /// others with another seed.
    pub in_order: bool,
}

#[derive(Clone, Copy)]
struct Worker {
    pid: i32,
    seen: u64,
    since: Instant,
}

impl Barrage {
    /// Makes them: `prepare` once in each process, its result goes to each try.
    pub fn run<T>(
        &self,
        warden: &mut Warden,
        prepare: impl Fn() -> T,
        attempt: impl Fn(&T, u64, &mut Rng),
    ) -> Result<(), String> {
        let page = sys::pages(4096, true);
        let shared = Shared { next: unsafe { &*page.cast() }, begun: unsafe { &*page.add(64).cast() } };
        let (seed, tries, only) = (warden.options.seed, self.tries.max(1), warden.options.only);
        let stride = if self.in_order { 1 } else { coprime(tries, seed) };
        let (first, last) = only.map_or((0, tries), |n| (n, n + 1));
        shared.next.store(first, Ordering::SeqCst);
        let work = |slot: usize| {
            let prepared = prepare();
            loop {
                let n = shared.next.fetch_add(1, Ordering::SeqCst);
                if n >= last {
                    return 0;
                }
                shared.begun[slot].store(n + 1, Ordering::SeqCst);
                let which = (u128::from(n) * u128::from(stride) % u128::from(tries)) as u64;
                attempt(&prepared, which, &mut Rng::new(seed, which));
            }
        };
        let mut workers: [Option<Worker>; WORKERS] = [None; WORKERS];
        let (mut floor, mut checked, user) = (first, Instant::now(), warden.users(WORKERS as u32));
        loop {
            // Whoever wrote nonsense over the counter does not end the attack.
            let next = shared.next.load(Ordering::SeqCst);
            if next < floor || next > floor + (1 << 20) {
                shared.next.store(floor + 1, Ordering::SeqCst);
            }
            floor = shared.next.load(Ordering::SeqCst).max(floor);
            let over = floor >= last || warden.elapsed() > warden.time();
            for (slot, place) in workers.iter_mut().enumerate() {
                if let Some(worker) = place {
                    let begun = shared.begun[slot].load(Ordering::SeqCst);
                    if begun != worker.seen {
                        (worker.seen, worker.since) = (begun, Instant::now());
                    }
                    let stuck = over || worker.since.elapsed() > STUCK;
                    let end = match warden.poll(worker.pid) {
                        None if stuck => {
                            warden
                                .kill(worker.pid)
                                .map_err(|why| format!("{why} (try {})", begun.wrapping_sub(1)))?;
                            Some(End::TimeUp)
                        }
                        end => end,
                    };
                    if let Some(end) = end {
                        warden.note(end);
                        *place = None;
                        // What it has started must not be in its successor's way.
                        warden.sweep(user + slot as u32)?;
                    }
                }
                if place.is_none() && !over {
                    let pid = warden.start_as(user + slot as u32, || work(slot))?;
                    *place = Some(Worker { pid, seen: 0, since: Instant::now() });
                }
            }
            if over && workers.iter().all(Option::is_none) {
                break;
            }
            // Who comes after an attacker gets what he left.
            if checked.elapsed() > CHECK {
                warden.innocents(2)?;
                checked = Instant::now();
            }
            next_child(LOOK);
        }
        println!("  {} of {tries} tries", floor.min(last) - first);
        unsafe { libc::munmap(page.cast(), 4096) };
        Ok(())
    }
}

/// A number that walks through all below `count`.
fn coprime(count: u64, seed: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let mut rng = Rng::new(seed, count);
    (0..1000).map(|_| rng.below(count) | 1).find(|n| gcd(*n, count) == 1).unwrap_or(1)
}
