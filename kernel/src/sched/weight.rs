//! Nice values and weights (`sched(7)`): one step of nice is a factor of 1.25 in CPU time.

/// The weight of nice 0.
pub const WEIGHT_0: u64 = 1024;

/// The weight of a nice value in -20..=19; values beyond count as the nearest.
pub fn nice_weight(nice: i32) -> u64 {
    // A fixed point of 16 bits keeps the rounding of the steps out of the result.
    let mut weight = WEIGHT_0 << 16;
    for _ in 0..nice.clamp(-20, 19).unsigned_abs() {
        weight = if nice < 0 { weight * 5 / 4 } else { weight * 4 / 5 };
    }
    (weight >> 16).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_factor_of_five_quarters() {
        assert_eq!(nice_weight(0), 1024);
        assert_eq!(nice_weight(-20), 88817);
        assert_eq!(nice_weight(19), 14);
        assert_eq!(nice_weight(100), nice_weight(19));
        for nice in -20..15 {
            let ratio = nice_weight(nice) * 100 / nice_weight(nice + 1);
            assert!((120..=130).contains(&ratio), "{nice}: {ratio}");
        }
    }
}
