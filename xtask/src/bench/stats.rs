//! Order statistics of a few samples.

use std::cmp::Ordering;

/// Where the samples of a row lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub min: f64,
    pub lower_quartile: f64,
    pub median: f64,
    pub upper_quartile: f64,
    pub max: f64,
}

impl Summary {
    /// None without samples.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let at = |part| quantile(&sorted, part);
        Some(Summary { min, lower_quartile: at(0.25), median: at(0.5), upper_quartile: at(0.75), max })
    }
}

/// The part of all pairs of one sample of each set in which the second is the larger; of a tie it is half (the Mann-Whitney statistic
/// over the number of pairs). None without samples.
pub fn larger(first: &[f64], second: &[f64]) -> Option<f64> {
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| (a, b)));
    let score = |(a, b): (&f64, &f64)| match b.total_cmp(a) {
        Ordering::Greater => 1.0,
        Ordering::Equal => 0.5,
        Ordering::Less => 0.0,
    };
    let count = first.len() * second.len();
    (count > 0).then(|| pairs.map(score).sum::<f64>() / count as f64)
}

/// The value below which a part of sorted samples lies, between neighbours in proportion.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_samples_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn one_sample_is_everything() {
        let s = Summary::of(&[3.0]).unwrap();
        assert_eq!((s.min, s.lower_quartile, s.median, s.upper_quartile, s.max), (3.0, 3.0, 3.0, 3.0, 3.0));
    }

    #[test]
    fn samples_are_sorted_as_numbers() {
        let s = Summary::of(&[10.0, 9.0, 100.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            (s.min, s.lower_quartile, s.median, s.upper_quartile, s.max),
            (1.0, 2.0, 9.0, 10.0, 100.0)
        );
    }

    #[test]
    fn pairs_are_counted() {
        assert_eq!(larger(&[1.0, 2.0], &[3.0, 4.0]), Some(1.0));
        assert_eq!(larger(&[3.0, 4.0], &[1.0, 2.0]), Some(0.0));
        assert_eq!(larger(&[1.0, 3.0], &[2.0, 4.0]), Some(0.75));
        assert_eq!(larger(&[1.0], &[1.0]), Some(0.5));
        assert_eq!(larger(&[], &[1.0]), None);
    }

    #[test]
    fn an_even_number_has_its_median_between_two() {
        let s = Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((s.lower_quartile, s.median, s.upper_quartile), (1.75, 2.5, 3.25));
    }
}
