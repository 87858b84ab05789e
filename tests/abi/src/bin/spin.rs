//! Computes without a system call in the loop: on N threads (1) for S seconds of wall time (for ever).
//! `spin [SECONDS [THREADS]]`. Prints `spun` at the end.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

fn main() {
    let args: Vec<f64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let threads = args.get(1).map_or(1, |n| *n as usize);
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..threads {
        let stop = stop.clone();
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                hint::spin_loop();
            }
        });
    }
    match args.first() {
        Some(seconds) => thread::sleep(Duration::from_secs_f64(*seconds)),
        // The main thread spins, too: nothing here ever enters the kernel again.
        None => loop {
            hint::spin_loop();
        },
    }
    stop.store(true, Ordering::Relaxed);
    println!("spun");
}
