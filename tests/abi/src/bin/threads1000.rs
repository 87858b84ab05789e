//! Starts many threads (1000, or the number given), has them all alive at once, and joins them.
//! Prints `N threads` and exits 0.

use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1000usize);
    let all_here = Arc::new(Barrier::new(wanted + 1));
    let mut threads = Vec::new();
    for n in 0..wanted {
        let barrier = all_here.clone();
        let spawned = thread::Builder::new().stack_size(32 << 10).spawn(move || {
            barrier.wait();
            n
        });
        match spawned {
            Ok(t) => threads.push(t),
            Err(e) => {
                // The others wait for a barrier that will not open: leave at once.
                eprintln!("threads1000: thread {n}: {e}");
                std::process::exit(1);
            }
        }
    }
    all_here.wait();
    let sum: usize = threads.into_iter().filter_map(|t| t.join().ok()).sum();
    if sum != wanted * wanted.saturating_sub(1) / 2 {
        eprintln!("threads1000: wrong sum {sum}");
        return ExitCode::FAILURE;
    }
    println!("{wanted} threads");
    ExitCode::SUCCESS
}
