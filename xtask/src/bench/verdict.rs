//! Figures beside their marks.

use super::report::{Measured, OURS, Report};
use super::rows::{AtMost, Row};
use super::show;

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within the mark.
    Reached,
    /// Beyond the mark.
    Missed,
    /// Beyond the floor.
    BelowFloor,
    /// No mark, or nothing to hold against it.
    None,
}

impl Verdict {
    /// A sign for it.
    pub fn sign(self) -> &'static str {
        match self {
            Verdict::Reached => "ok",
            Verdict::Missed => "missed",
            Verdict::BelowFloor => "BELOW FLOOR",
            Verdict::None => "",
        }
    }
}

/// A launcher's row against its mark.
pub fn of(report: &Report, measured: &Measured, launcher: &str) -> Verdict {
    let Some(row) = measured.row() else { return Verdict::None };
    let value = match row.at_most {
        AtMost::Absolute(_) => measured.summary(launcher).map(|summary| summary.median),
        _ => measured.ratio(launcher),
    };
    let mark = match row.at_most {
        AtMost::Absolute(mark) => Some(mark),
        other => other.times(report.spare_cpu(launcher)),
    };
    judge(value, mark, row.floor)
}

fn judge(value: Option<f64>, mark: Option<f64>, floor: Option<f64>) -> Verdict {
    match (value, mark, floor) {
        (Some(value), _, Some(floor)) if value > floor => Verdict::BelowFloor,
        // Half a unit of the last digit that is shown: what reads as the mark has reached it.
        (Some(value), Some(mark), _) if value <= mark * 1.005 => Verdict::Reached,
        (Some(_), Some(_), _) => Verdict::Missed,
        _ => Verdict::None,
    }
}

/// The mark in words.
pub fn mark(report: &Report, row: &Row, launcher: &str) -> String {
    match row.at_most {
        AtMost::Absolute(value) => show::figure(row.unit, value),
        other => other.times(report.spare_cpu(launcher)).map(|times| format!("{times}×")).unwrap_or_default(),
    }
}

/// Sentences on our rows that are beyond their floor.
pub fn below_floor(report: &Report) -> Vec<String> {
    let ours = |name: &str| name.starts_with(OURS);
    let mut lines = Vec::new();
    for row in &report.rows {
        for launcher in report.columns().into_iter().filter(|name| ours(name)) {
            if of(report, row, launcher) == Verdict::BelowFloor {
                lines.push(format!(
                    "{} ({launcher}) is beyond its floor{}",
                    row.title,
                    distance(row, launcher)
                ));
            }
        }
    }
    lines
}

/// The figure and the floor.
fn distance(measured: &Measured, launcher: &str) -> String {
    let Some((row, floor)) = measured.row().and_then(|row| Some((row, row.floor?))) else {
        return String::new();
    };
    let (value, floor) = match row.at_most {
        AtMost::Absolute(_) => (
            measured.summary(launcher).map(|summary| show::figure(row.unit, summary.median)),
            show::figure(row.unit, floor),
        ),
        _ => (measured.ratio(launcher).map(show::times), show::times(floor)),
    };
    format!(": {}, not {floor}", value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_figure_is_judged_by_mark_and_floor() {
        assert_eq!(judge(Some(2.0), Some(2.0), Some(4.0)), Verdict::Reached);
        assert_eq!(judge(Some(3.0), Some(2.0), Some(4.0)), Verdict::Missed);
        assert_eq!(judge(Some(5.0), Some(2.0), Some(4.0)), Verdict::BelowFloor);
        assert_eq!(judge(Some(5.0), None, None), Verdict::None);
        assert_eq!(judge(None, Some(2.0), Some(4.0)), Verdict::None);
    }

    #[test]
    fn ratios_and_figures_have_their_own_marks() {
        let calls =
            report("getppid", &[("native", &[100.0]), ("vkernel", &[2000.0]), ("vkernel-1cpu", &[2000.0])]);
        assert_eq!(of(&calls, &calls.rows[0], "vkernel"), Verdict::Missed);
        assert_eq!(of(&calls, &calls.rows[0], "vkernel-1cpu"), Verdict::Reached);
        let start = report("cold_start", &[("native", &[1e6]), ("vkernel", &[11e6])]);
        assert_eq!(of(&start, &start.rows[0], "vkernel"), Verdict::Reached);
        let slow = report("cold_start", &[("native", &[1e6]), ("vkernel", &[61e6])]);
        let said = ["cold start of /bin/true (vkernel) is beyond its floor: 61.0 ms, not 60.0 ms"];
        assert_eq!(below_floor(&slow), said);
    }
}
