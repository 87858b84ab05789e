//! Writing over every byte of stub memory that can be written, from the thread that makes calls and from one beside it.

use super::calls::some_call;
use crate::rng::Rng;
use crate::stub::PAGE;
use crate::sys;
use crate::warden::{End, Warden};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long an attacker scribbles.
const TIME: Duration = Duration::from_millis(60);
/// Pages at the start of the writable ones: those that are in use on a machine with some CPUs.
const USED: usize = 16;

/// Writes in one way of several.
fn scribble(pages: &[u64], rng: &mut Rng, how: u64) {
    let used = &pages[..pages.len().min(USED)];
    let page = if rng.once_in(8) { *rng.pick(pages) } else { *rng.pick(used) };
    let put = |at: u64, value: u64| unsafe { (at as *mut u64).write_volatile(value) };
    match how % 6 {
        // Words that small states would be in.
        0 => put(page + rng.below(PAGE / 8) * 8, rng.below(16)),
        // The words of the call that is being made: they follow the answers.
        1 => put(
            page + 0x840 + rng.below(72) * 8,
            *rng.pick(&[0, 1, 2, 3, 8, 9, 10, u64::MAX, 1 << 63, 39, 231, 60]),
        ),
        // Single bytes.
        2 => unsafe { ((page + rng.below(PAGE)) as *mut u8).write_volatile(rng.next() as u8) },
        // Everything.
        3 => (0..PAGE / 8).for_each(|i| put(page + i * 8, rng.next())),
        // Zeros and ones.
        4 => {
            let value = if rng.once_in(2) { 0 } else { u64::MAX };
            (0..PAGE / 8).for_each(|i| put(page + i * 8, value));
        }
        // Addresses: of the areas, of the end, of nothing.
        _ => {
            let value =
                *rng.pick(&[page, page + PAGE, 1 << 47, 1 << 63, 0xffff_8000_0000_0000, 8, page - (1 << 21)]);
            put(page + rng.below(PAGE / 8) * 8, value + rng.below(64));
        }
    }
}

fn attacker(pages: &[u64], seed: u64, how: u64) -> i32 {
    let mut rng = Rng::new(seed, 0);
    match how / 6 % 3 {
        // By itself, between calls.
        0 => {
            let start = std::time::Instant::now();
            while start.elapsed() < TIME {
                scribble(pages, &mut rng, how);
                some_call(&mut rng);
            }
        }
        // From beside.
        which => {
            let others: Vec<u64> = (1..=which).collect();
            let writers: Vec<_> = others
                .iter()
                .map(|n| {
                    move |over: &std::sync::atomic::AtomicBool| {
                        let mut rng = Rng::new(seed, *n);
                        while !over.load(Ordering::Relaxed) {
                            (0..50).for_each(|_| scribble(pages, &mut rng, how));
                        }
                    }
                })
                .collect();
            let threads: Vec<&(dyn Fn(&std::sync::atomic::AtomicBool) + Sync)> =
                writers.iter().map(|w| w as &(dyn Fn(&std::sync::atomic::AtomicBool) + Sync)).collect();
            sys::beside(&threads, TIME, || some_call(&mut rng));
        }
    }
    0
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    let pages = warden.hidden.writable();
    println!("  {} pages", pages.len());
    if pages.is_empty() {
        return Ok(());
    }
    let (first, last) = warden.options.only.map_or((0, u64::MAX), |n| (n, n + 1));
    for n in first..last {
        // Every way at least once, however long it takes.
        if n >= 18 && warden.elapsed() > warden.time() {
            break;
        }
        let seed = Rng::new(warden.options.seed, n).next();
        let end = warden
            .attack(TIME * 5, || attacker(&pages, seed, n))
            .map_err(|why| format!("{why} (try {n})"))?;
        if end != End::Exited(0) || n % 6 == 0 {
            warden.innocents(1).map_err(|why| format!("{why} (try {n})"))?;
        }
    }
    Ok(())
}
