//! How fast the host changes from one task to another, which is what a session saves: hosts differ by a factor of three, so what is worth a session is counted in this.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is believed before anything was measured, and at least and at most.
const USUAL: Duration = Duration::from_nanos(4_000);
/// See [`USUAL`].
const LEAST: Duration = Duration::from_nanos(3_000);
/// See [`USUAL`].
const MOST: Duration = Duration::from_nanos(10_000);

/// The fastest round trip so far between two tasks that share a host CPU, by a notification, with one host call in it: a change of an address space. In nanoseconds; 0 before
/// the first. Slower ones did more or were disturbed.
#[derive(Debug, Default)]
pub(crate) struct Tempo(AtomicU64);

impl Tempo {
    /// One took so long.
    pub(crate) fn note(&self, took: Duration) {
        let took = took.as_nanos() as u64;
        let best = self.0.load(Ordering::Relaxed);
        if best == 0 || took < best {
            self.0.store(took, Ordering::Relaxed);
        }
    }

    /// What a round trip takes.
    pub(crate) fn round(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => USUAL,
            ns => Duration::from_nanos(ns).clamp(LEAST, MOST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_round_trip_counts_within_limits() {
        let tempo = Tempo::default();
        assert_eq!(tempo.round(), USUAL);
        for (took, round) in [(90_000, 10_000), (6_500, 6_500), (7_000, 6_500), (1_000, 3_000)] {
            tempo.note(Duration::from_nanos(took));
            assert_eq!(tempo.round(), Duration::from_nanos(round));
        }
    }
}
