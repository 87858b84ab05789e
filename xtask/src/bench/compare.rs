//! A run beside a saved one.
//!
//! What is compared is how many times the host a row takes, because then a slower machine is in both parts; where the mark is a figure
//! or there is none natively, the figures themselves. A row has changed when the median has moved by more than [`TOLERANCE`] and nearly
//! every new sample lies on the same side of nearly every old one ([`OUT_OF_ORDER`]): with a few samples, anything finer is noise. For a
//! ratio the samples are the ratios round by round, in which what disturbs a round cancels out, or our own figures, which the host's
//! noise does not widen; one of the two is enough.

use super::report::{Measured, OURS, Report};
use super::rows::AtMost;
use super::stats::Summary;
use super::{show, stats, table};
use std::fmt::Write;

/// How far a median may move, as a part of the old one.
pub const TOLERANCE: f64 = 0.10;

/// The part of the pairs of an old and a new sample that may be in the other order: one of the 25 of two runs with five rounds, which by
/// chance happens in fewer than one of a hundred comparisons; none of two runs with three.
const OUT_OF_ORDER: f64 = 0.04;

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
    let (old, new) = (before.costs(launcher), now.costs(launcher));
    let median = |costs: &[f64]| Summary::of(costs).map(|summary| summary.median);
    let figures = (median(&old)?, median(&new).unwrap_or(f64::NAN));
    // A launcher that this run was not asked for is no loss.
    if new.is_empty() && !now.failures.contains_key(launcher) {
        return None;
    }
    let absolute = now.row().is_some_and(|row| matches!(row.at_most, AtMost::Absolute(_)));
    let ratios = before.ratio(launcher).zip(now.ratio(launcher)).filter(|_| !absolute);
    let by_ourselves = moved(figures).filter(|change| apart(&old, &new) == Some(*change));
    let change = match ratios {
        _ if new.is_empty() => Change::Lost,
        None => by_ourselves.unwrap_or(Change::Same),
        Some(ratios) => {
            let by_round = apart(&before.paired(launcher), &now.paired(launcher));
            let shown = |change: &Change| by_round == Some(*change) || by_ourselves == Some(*change);
            moved(ratios).filter(shown).unwrap_or(Change::Same)
        }
    };
    let (title, launcher) = (now.title.clone(), launcher.into());
    let (before, now) = ratios.unwrap_or(figures);
    Some(Compared { title, launcher, before, now, is_ratio: ratios.is_some(), change })
}

/// Which way a median has moved, if it has.
fn moved((old, new): (f64, f64)) -> Option<Change> {
    let limit = 1.0 + TOLERANCE;
    if new > old * limit {
        Some(Change::Worse)
    } else if new * limit < old {
        Some(Change::Better)
    } else {
        None
    }
}

/// Which way the samples lie apart, if they do.
fn apart(old: &[f64], new: &[f64]) -> Option<Change> {
    match stats::larger(old, new)? {
        part if part >= 1.0 - OUT_OF_ORDER => Some(Change::Worse),
        part if part <= OUT_OF_ORDER => Some(Change::Better),
        _ => None,
    }
}

/// Whether something got worse.
pub fn regressed(all: &[Compared]) -> bool {
    all.iter().any(|row| matches!(row.change, Change::Worse | Change::Lost))
}

/// What changed, in words.
pub fn text(old: &Report, new: &Report, all: &[Compared]) -> String {
    let mut out = format!("against {}\n", table::about(old));
    for (run, name) in [(old, "the saved run"), (new, "this run")] {
        // Half of the CPUs with other work is too much for the rows that need two.
        if run.host.load > run.host.cpus as f64 / 2.0 {
            let _ = writeln!(
                out,
                "{name} began at a load of {}: differences may be the machine's",
                run.host.load
            );
        }
    }
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
    fn one_sample_of_five_may_be_out_of_line_and_of_three_none() {
        let host = [10.0; 5];
        let old = run(&host, &[100.0, 101.0, 102.0, 103.0, 104.0]);
        assert_eq!(changes(&old, &run(&host, &[150.0, 151.0, 152.0, 153.0, 103.5])), [Change::Worse]);
        assert_eq!(changes(&old, &run(&host, &[150.0, 151.0, 152.0, 153.0, 99.0])), [Change::Same]);
        let old = run(&host[..3], &[100.0, 101.0, 102.0]);
        assert_eq!(changes(&old, &run(&host[..3], &[150.0, 151.0, 101.5])), [Change::Same]);
    }

    #[test]
    fn a_busy_machine_is_mentioned() {
        let (quiet, mut busy) = (run(&[1.0], &[2.0]), run(&[1.0], &[2.0]));
        busy.host.load = 1.5;
        assert!(!text(&quiet, &quiet, &[]).contains("load of"));
        assert!(text(&quiet, &busy, &[]).contains("this run began at a load of 1.5"));
    }

    #[test]
    fn noise_of_the_host_hides_no_regression_of_ours() {
        let old = run(&[10.0, 18.0, 12.0], &[100.0, 101.0, 102.0]);
        let new = run(&[11.0, 10.0, 19.0], &[200.0, 202.0, 204.0]);
        assert_eq!(changes(&old, &new), [Change::Worse]);
        let wide = run(&[11.0, 10.0, 19.0], &[110.0, 100.0, 190.0]);
        assert_eq!(changes(&old, &wide), [Change::Same]);
    }

    #[test]
    fn what_grows_with_a_busy_host_is_seen_round_by_round() {
        // Ours spreads as the host does, but is always twice what it was.
        let old = run(&[10.0, 20.0, 40.0], &[100.0, 200.0, 400.0]);
        let new = run(&[10.0, 20.0, 40.0], &[200.0, 400.0, 800.0]);
        assert_eq!(changes(&old, &new), [Change::Worse]);
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
        assert!(text(&old, &new, &compare(&old, &new)).contains("LOST: getppid (vkernel): no figure now"));
    }
}
