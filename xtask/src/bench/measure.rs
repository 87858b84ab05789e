//! The rounds: every row under every launcher, one after the other, so that what disturbs the machine disturbs all of them.

use super::interrupt::Interrupt;
use super::launcher::Launcher;
use super::progress::Progress;
use super::report::Measured;
use super::rows::{Method, Row};
use super::{child, idle, stats};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vk_bench::MARK;

/// A directory on a memory-backed file system, by this name under every launcher.
pub const WORK: &str = "/dev/shm";
/// How long one run of one row may take.
const LIMIT: Duration = Duration::from_secs(90);

/// What to measure.
#[derive(Debug)]
pub struct Plan<'a> {
    pub launchers: &'a [Launcher],
    pub rows: &'a [&'static Row],
    pub rounds: usize,
    pub ms: u64,
    /// The measured program.
    pub inside: &'a Path,
    pub input: PathBuf,
    /// Starts that make one sample of a cold start.
    pub starts: usize,
}

/// Runs the plan. Broken off, it returns what it has.
pub fn measure(plan: &Plan<'_>, progress: &mut Progress, interrupt: &Interrupt) -> Vec<Measured> {
    let mut measured: Vec<Measured> = plan.rows.iter().map(|row| empty(row)).collect();
    for round in 0..plan.rounds {
        for (n, row) in plan.rows.iter().enumerate() {
            // Nobody is always first.
            for k in 0..plan.launchers.len() {
                let launcher = &plan.launchers[(k + round + n) % plan.launchers.len()];
                if interrupt.is_set() {
                    return measured;
                }
                progress.at(&format!(
                    "round {} of {}: {} ({})",
                    round + 1,
                    plan.rounds,
                    row.title,
                    launcher.name
                ));
                let result = sample(plan, row, launcher, interrupt);
                if interrupt.is_set() {
                    return measured;
                }
                record(&mut measured[n], &launcher.name, round, result, progress);
            }
        }
        progress.line(&format!("round {} of {} done", round + 1, plan.rounds));
    }
    measured
}

fn empty(row: &Row) -> Measured {
    Measured {
        id: row.id.into(),
        title: row.title.into(),
        group: row.group.into(),
        unit: row.unit,
        samples: BTreeMap::new(),
        failures: BTreeMap::new(),
    }
}

fn record(
    measured: &mut Measured,
    launcher: &str,
    round: usize,
    result: Result<f64>,
    progress: &mut Progress,
) {
    let samples = measured.samples.entry(launcher.into()).or_default();
    samples.resize(round, None);
    match result {
        Ok(value) => samples.push(Some(value)),
        Err(error) => {
            samples.push(None);
            progress.line(&format!("{} failed under {launcher}: {error:#}", measured.title));
            measured.failures.entry(launcher.into()).or_default().push(format!("{error:#}"));
        }
    }
}

/// One sample.
fn sample(plan: &Plan<'_>, row: &Row, launcher: &Launcher, interrupt: &Interrupt) -> Result<f64> {
    match row.method {
        Method::Inside => {
            let (inside, input) = (plan.inside.display().to_string(), plan.input.display().to_string());
            let words = launcher.command(&[&inside, "row", row.id, &plan.ms.to_string(), WORK, &input]);
            let ended = child::run(&words, LIMIT, interrupt)?;
            value(&ended.stdout).map_err(|error| match ended.stderr.trim() {
                "" => error.context(ended.status),
                said => error.context(format!("{}: {said}", ended.status)),
            })
        }
        Method::ColdStart => {
            let mut starts = Vec::new();
            for _ in 0..plan.starts {
                let ended = child::run(&launcher.command(&["/bin/true"]), LIMIT, interrupt)?;
                if !ended.status.success() {
                    bail!("{}: {}", ended.status, ended.stderr.trim());
                }
                starts.push(ended.took.as_nanos() as f64);
            }
            Ok(stats::Summary::of(&starts).map_or(f64::NAN, |summary| summary.median))
        }
        Method::Idle => idle::pss(launcher, LIMIT, interrupt),
    }
}

/// The figure among the lines that the program inside printed.
pub fn value(stdout: &str) -> Result<f64> {
    // A console may end its lines with a carriage return.
    let mut marked = stdout.lines().filter_map(|line| line.trim_end().strip_prefix(MARK));
    match marked.find_map(|line| line.split_once(' ')) {
        Some(("value", number)) => match number.parse::<f64>()? {
            number if number.is_finite() && number > 0.0 => Ok(number),
            number => bail!("it measured {number}"),
        },
        Some((_, why)) => bail!("{why}"),
        None => bail!("it measured nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_found_among_other_lines() {
        assert_eq!(value("booting\r\nvk-bench: value 12.5\r\nbye\r\n").unwrap(), 12.5);
        assert_eq!(value("vk-bench: fail no such file\n").unwrap_err().to_string(), "no such file");
        assert_eq!(value("booting\n").unwrap_err().to_string(), "it measured nothing");
        assert!(value("vk-bench: value NaN\n").is_err());
        assert!(value("vk-bench: value 0\n").is_err());
    }

    #[test]
    fn sample_n_is_of_round_n_whatever_failed() {
        let mut measured = empty(&super::super::rows::ROWS[1]);
        let mut progress = Progress::silent();
        record(&mut measured, "native", 0, Ok(1.0), &mut progress);
        record(&mut measured, "native", 1, Err(anyhow::anyhow!("no")), &mut progress);
        record(&mut measured, "native", 2, Ok(3.0), &mut progress);
        record(&mut measured, "late", 2, Ok(4.0), &mut progress);
        assert_eq!(measured.samples["native"], [Some(1.0), None, Some(3.0)]);
        assert_eq!(measured.samples["late"], [None, None, Some(4.0)]);
        assert_eq!(measured.failures["native"], ["no"]);
    }

    #[test]
    fn a_run_that_is_broken_off_returns_what_it_has() {
        let rows: Vec<&Row> = super::super::rows::ROWS.iter().collect();
        let launchers = [Launcher { name: "none".into(), prefix: vec!["/no/such/program".into()] }];
        let plan = Plan {
            launchers: &launchers,
            rows: &rows,
            rounds: 2,
            ms: 1,
            inside: "/x".as_ref(),
            input: "/y".into(),
            starts: 1,
        };
        let interrupt = Interrupt::default();
        interrupt.set();
        let measured = measure(&plan, &mut Progress::silent(), &interrupt);
        assert_eq!(measured.len(), rows.len());
        assert!(measured.iter().all(|row| row.samples.is_empty() && row.failures.is_empty()));
    }
}
