//! Figures for people.

use super::rows::Unit;

/// A figure with its unit, in three digits.
pub fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Nanoseconds => scaled(value, &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")]),
        Unit::BytesPerSecond => scaled(value, &[(1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")]),
        Unit::Bytes => {
            scaled(value, &[(1073741824.0, "GiB"), (1048576.0, "MiB"), (1024.0, "KiB"), (1.0, "B")])
        }
    }
}

fn scaled(value: f64, scales: &[(f64, &str)]) -> String {
    // A little early, so that 999.7 is 1 of the next and not 1000.
    let fits = scales.iter().find(|(scale, _)| value.abs() >= scale * 0.9995);
    let (scale, name) = fits.or(scales.last()).copied().unwrap_or((1.0, ""));
    format!("{} {name}", three_digits(value / scale))
}

/// A ratio.
pub fn times(ratio: f64) -> String {
    format!("{}×", three_digits(ratio))
}

/// Three digits, more before the point.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v.is_finite() => format!("{value:.2}"),
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_the_unit_that_fits() {
        let ns = |value| figure(Unit::Nanoseconds, value);
        assert_eq!([ns(0.5), ns(12.34), ns(999.7), ns(1234.0)], ["0.50 ns", "12.3 ns", "1.00 µs", "1.23 µs"]);
        assert_eq!([ns(45_678.0), ns(2.5e8), ns(3e9)], ["45.7 µs", "250 ms", "3.00 s"]);
        assert_eq!(figure(Unit::BytesPerSecond, 4.956e9), "4.96 GB/s");
        assert_eq!(figure(Unit::Bytes, 6.0 * 1048576.0), "6.00 MiB");
        assert_eq!(figure(Unit::Bytes, 0.0), "0 B");
        assert_eq!(times(f64::NAN), "?×");
    }
}
