//! A run beside a saved one.
//!
//! What is compared is how many times the host a row takes, round by round, because then a slower machine or a busy round is in both
//! parts; where there is no native figure, the figures themselves. A row has changed when its median has moved by more than
//! [`TOLERANCE`] and the middle halves of the two sets of samples do not touch: with a few samples, anything finer is noise.

use super::report::{Measured, OURS, Report};
use super::rows::AtMost;
use super::stats::Summary;
use super::{show, stats, table};
use std::fmt::Write;

/// How far a median may move, as a part of the old one.
pub const TOLERANCE: f64 = 0.10;

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Worse,
    Better,
    Same,
    /// It gave a figure before and gives none now.
    Lost,
}

/// One row of one launcher in both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    pub title: String,
    pub launcher: String,
    pub before: f64,
    /// NaN where it is lost.
    pub now: f64,
    /// The figures are ratios.
    pub is_ratio: bool,
    pub change: Change,
}

/// Every row of ours that both runs were asked for.
pub fn compare(old: &Report, new: &Report) -> Vec<Compared> {
    let mut all = Vec::new();
    for now in &new.rows {
        let Some(before) = old.rows.iter().find(|row| row.id == now.id) else { continue };
        for launcher in old.columns().into_iter().filter(|name| name.starts_with(OURS)) {
            all.extend(row(before, now, launcher));
        }
    }
    all
}

fn row(before: &Measured, now: &Measured, launcher: &str) -> Option<Compared> {
    let absolute = now.row().is_some_and(|row| matches!(row.at_most, AtMost::Absolute(_)));
    let (old_pairs, new_pairs) = (before.paired(launcher), now.paired(launcher));
    let is_ratio =
        !absolute && !old_pairs.is_empty() && (!new_pairs.is_empty() || now.summary(launcher).is_none());
    let (a, b) =
        if is_ratio { (old_pairs, new_pairs) } else { (before.costs(launcher), now.costs(launcher)) };
    let (old, new) = (Place::of(&a)?, Place::of(&b));
    // A launcher that this run was not asked for is no loss.
    if new.is_none() && !now.failures.contains_key(launcher) {
        return None;
    }
    Some(Compared {
        title: now.title.clone(),
        launcher: launcher.into(),
        before: old.median,
        now: new.map_or(f64::NAN, |place| place.median),
        is_ratio,
        change: new.map_or(Change::Lost, |new| change(old, new)),
    })
}

/// Where samples lie.
#[derive(Clone, Copy)]
struct Place {
    low: f64,
    median: f64,
    high: f64,
}

impl Place {
    fn of(samples: &[f64]) -> Option<Place> {
        let (low, high) = stats::middle(samples)?;
        Some(Place { low, median: Summary::of(samples)?.median, high })
    }
}

fn change(old: Place, new: Place) -> Change {
    if new.median > old.median * (1.0 + TOLERANCE) && new.low > old.high {
        Change::Worse
    } else if new.median * (1.0 + TOLERANCE) < old.median && new.high < old.low {
        Change::Better
    } else {
        Change::Same
    }
}

/// Whether something got worse.
pub fn regressed(all: &[Compared]) -> bool {
    all.iter().any(|row| matches!(row.change, Change::Worse | Change::Lost))
}

/// What changed, in words.
pub fn text(old: &Report, all: &[Compared]) -> String {
    let mut out = format!("against {}\n", table::about(old));
    for (change, name) in [(Change::Lost, "LOST"), (Change::Worse, "WORSE"), (Change::Better, "better")] {
        for row in all.iter().filter(|row| row.change == change) {
            let _ = write!(out, "{name}: {} ({})", row.title, row.launcher);
            let _ = match change {
                Change::Lost => writeln!(out, ": no figure now"),
                _ if row.is_ratio => writeln!(
                    out,
                    ": {} before, {} now, {:+.0} %",
                    show::times(row.before),
                    show::times(row.now),
                    (row.now / row.before - 1.0) * 100.0
                ),
                _ => writeln!(out, ": {:+.0} %", (row.now / row.before - 1.0) * 100.0),
            };
        }
    }
    let same = all.iter().filter(|row| row.change == Change::Same).count();
    let _ = writeln!(out, "{same} of {} rows have not moved beyond the noise", all.len());
    out
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    fn run(native: &[f64], ours: &[f64]) -> Report {
        report("getppid", &[("native", native), ("vkernel", ours)])
    }

    fn changes(old: &Report, new: &Report) -> Vec<Change> {
        compare(old, new).into_iter().map(|row| row.change).collect()
    }

    #[test]
    fn a_move_beyond_the_noise_is_seen_both_ways() {
        let (slow, fast) = (run(&[10.0; 3], &[100.0, 101.0, 102.0]), run(&[10.0; 3], &[80.0, 81.0, 82.0]));
        assert_eq!(changes(&fast, &slow), [Change::Worse]);
        assert_eq!(changes(&slow, &fast), [Change::Better]);
        assert_eq!(changes(&slow, &slow), [Change::Same]);
        assert!(regressed(&compare(&fast, &slow)) && !regressed(&compare(&slow, &fast)));
    }

    #[test]
    fn a_small_move_and_a_wide_spread_are_noise() {
        let old = run(&[10.0; 3], &[100.0, 101.0, 102.0]);
        assert_eq!(changes(&old, &run(&[10.0; 3], &[105.0, 106.0, 107.0])), [Change::Same]);
        assert_eq!(changes(&old, &run(&[10.0; 3], &[90.0, 150.0, 220.0])), [Change::Same]);
    }

    #[test]
    fn a_machine_that_is_twice_as_slow_is_no_regression() {
        let old = run(&[10.0, 10.0, 10.0], &[100.0, 101.0, 102.0]);
        let new = run(&[20.0, 21.0, 20.0], &[200.0, 212.0, 204.0]);
        assert_eq!(changes(&old, &new), [Change::Same]);
    }

    #[test]
    fn absolute_rows_compare_their_figures() {
        let old = report("cold_start", &[("native", &[1e6]), ("vkernel", &[8e6])]);
        let new = report("cold_start", &[("native", &[2e6]), ("vkernel", &[16e6])]);
        assert_eq!(changes(&old, &new), [Change::Worse]);
    }

    #[test]
    fn less_bandwidth_is_worse() {
        let old = report("pipe_bandwidth", &[("native", &[4e9]), ("vkernel", &[2e9])]);
        let new = report("pipe_bandwidth", &[("native", &[4e9]), ("vkernel", &[1e9])]);
        assert_eq!(changes(&old, &new), [Change::Worse]);
    }

    #[test]
    fn a_row_that_fails_now_is_lost_and_one_that_was_not_run_is_not() {
        let old = run(&[10.0], &[100.0]);
        let mut new = run(&[10.0], &[]);
        assert_eq!(changes(&old, &new), []);
        new.rows[0].failures.insert("vkernel".into(), vec!["time is up".into()]);
        assert_eq!(changes(&old, &new), [Change::Lost]);
        assert!(text(&old, &compare(&old, &new)).contains("LOST: getppid (vkernel): no figure now"));
    }
}
