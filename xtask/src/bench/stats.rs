//! Order statistics of a few samples.

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

/// The samples between which the middle half lies. Unlike quartiles they are samples themselves, so that of three it is all of them.
pub fn middle(samples: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 4], sorted[(last * 3).div_ceil(4)]))
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
    fn the_middle_is_made_of_samples() {
        assert_eq!(middle(&[]), None);
        assert_eq!(middle(&[2.0]), Some((2.0, 2.0)));
        assert_eq!(middle(&[3.0, 1.0, 2.0]), Some((1.0, 3.0)));
        assert_eq!(middle(&[5.0, 4.0, 3.0, 2.0, 1.0]), Some((2.0, 4.0)));
        assert_eq!(middle(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), Some((2.0, 5.0)));
    }

    #[test]
    fn an_even_number_has_its_median_between_two() {
        let s = Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((s.lower_quartile, s.median, s.upper_quartile), (1.75, 2.5, 3.25));
    }
}
