//! The measuring loop.

use std::io::Result;
use std::time::{Duration, Instant};

/// Nanoseconds that one call of `body` takes, over as many calls as fill the time. The clock is read before and after the calls,
/// never between them: where reading it is dear, that would be what is measured.
pub fn each(time: Duration, mut body: impl FnMut() -> Result<()>) -> Result<f64> {
    body()?;
    let mut count = 1u64;
    loop {
        let start = Instant::now();
        for _ in 0..count {
            body()?;
        }
        let took = start.elapsed();
        if took >= time.mul_f64(0.6) {
            return Ok(took.as_nanos() as f64 / count as f64);
        }
        count = grown(count, took, time);
    }
}

/// Nanoseconds of one run, for what is too long to repeat.
pub fn once(body: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    body()?;
    Ok(start.elapsed().as_nanos() as f64)
}

/// How many calls to try next: at least twice as many, at most a hundred times.
fn grown(count: u64, took: Duration, time: Duration) -> u64 {
    let factor = time.as_secs_f64() / took.as_secs_f64().max(1e-9);
    (count as f64 * factor.clamp(2.0, 100.0)).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_count_fills_the_time_but_grows_within_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(grown(10, ms(10), ms(100)), 100);
        assert_eq!(grown(10, ms(99), ms(100)), 20);
        assert_eq!(grown(1, Duration::ZERO, ms(100)), 100);
    }

    #[test]
    fn an_error_ends_the_loop() {
        let mut calls = 0;
        let result = each(Duration::from_secs(3600), || {
            calls += 1;
            if calls == 3 { Err(std::io::Error::other("no more")) } else { Ok(()) }
        });
        assert_eq!((result.unwrap_err().to_string().as_str(), calls), ("no more", 3));
    }
}
