//! How it grows: with CPUs and processes, with many kernels on one host, with many tasks in one kernel.

mod crowd;
mod curve;
mod side_by_side;

use super::interrupt::Interrupt;
use super::progress::Progress;
use super::rows::Unit;
use super::show;
use super::stats::Summary;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    pub curves: Vec<Curve>,
    pub side_by_side: Option<SideBySide>,
    pub crowds: Vec<Crowd>,
    /// What went wrong.
    pub failures: Vec<String>,
}

/// System calls a second over the number of processes that make them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The call that is made.
    pub call: String,
    pub launcher: String,
    pub points: Vec<Point>,
}

/// A number of processes, and what they did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub processes: usize,
    /// Calls a second of all of them; one sample a round.
    pub samples: Vec<f64>,
}

/// Many kernels at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideBySide {
    /// Seconds from the start of each until its program ran, while those before it stayed.
    pub start_s: Vec<f64>,
    /// Proportional memory of all of them together.
    pub pss_bytes: u64,
}

/// Many threads or processes in one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crowd {
    pub kind: String,
    pub count: usize,
    pub launcher: String,
    /// Seconds to make all of them.
    pub make_s: f64,
    /// Seconds to end all of them.
    pub end_s: f64,
    /// Proportional memory of the launcher's processes while all wait.
    pub pss_bytes: u64,
}

/// What to measure.
#[derive(Debug)]
pub struct Plan<'a> {
    pub vkernel: &'a Path,
    pub inside: &'a Path,
    pub host_cpus: usize,
    pub rounds: usize,
    pub quick: bool,
}

impl Plan<'_> {
    /// The measured program natively, or under vkernel with some options.
    fn command(&self, vkernel: Option<&[&str]>, words: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(options) = vkernel {
            all.extend([self.vkernel.display().to_string(), "run".into()]);
            all.extend(options.iter().map(|word| (*word).to_string()));
            all.push("--".into());
        }
        all.push(self.inside.display().to_string());
        all.extend(words.iter().map(|word| (*word).to_string()));
        all
    }
}

/// Measures everything. Broken off, it returns what it has.
pub fn measure(plan: &Plan<'_>, progress: &mut Progress, interrupt: &Interrupt) -> Scale {
    let mut scale = Scale::default();
    curve::measure(plan, &mut scale, progress, interrupt);
    side_by_side::measure(plan, &mut scale, progress, interrupt);
    crowd::measure(plan, &mut scale, progress, interrupt);
    scale
}

impl Scale {
    fn failed(&mut self, progress: &mut Progress, interrupt: &Interrupt, what: &str, error: &anyhow::Error) {
        if !interrupt.is_set() {
            progress.line(&format!("{what} failed: {error:#}"));
            self.failures.push(format!("{what}: {error:#}"));
        }
    }
}

impl SideBySide {
    /// One sentence.
    pub fn text(&self) -> Option<String> {
        let (count, s) = (self.start_s.len(), Summary::of(&self.start_s)?);
        let each = show::figure(Unit::Bytes, self.pss_bytes as f64 / count as f64);
        let [median, min, max] = [s.median, s.min, s.max].map(seconds);
        Some(format!(
            "{count} vkernels side by side: each started in {median} (median; {min} .. {max}) and takes {each} of memory."
        ))
    }
}

impl Crowd {
    /// What [`Crowd::cells`] are.
    pub const HEAD: [&str; 5] = ["tasks that wait", "under", "made in", "ended in", "memory"];

    /// A line of the table.
    pub fn cells(&self) -> [String; 5] {
        let bytes = show::figure(Unit::Bytes, self.pss_bytes as f64);
        let tasks = format!("{} {}", self.count, self.kind);
        [tasks, self.launcher.clone(), seconds(self.make_s), seconds(self.end_s), bytes]
    }
}

fn seconds(value: f64) -> String {
    show::figure(Unit::Nanoseconds, value * 1e9)
}

impl Point {
    /// The median of its samples.
    pub fn median(&self) -> f64 {
        Summary::of(&self.samples).map_or(f64::NAN, |summary| summary.median)
    }
}

/// For a terminal and for Markdown: paragraphs and tables.
pub fn markdown(scale: &Scale) -> String {
    let mut out = String::new();
    for call in calls(scale) {
        let curves: Vec<&Curve> = scale.curves.iter().filter(|curve| curve.call == call).collect();
        let _ = writeln!(out, "Calls of {call} a second by independent processes:\n");
        let _ = write!(out, "| processes |");
        curves.iter().for_each(|curve| out.push_str(&format!(" {} |", curve.launcher)));
        let _ = writeln!(out, "\n|---:|{}", "---:|".repeat(curves.len()));
        let mut numbers: Vec<usize> =
            curves.iter().flat_map(|c| c.points.iter().map(|p| p.processes)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for n in numbers {
            let _ = write!(out, "| {n} |");
            for curve in &curves {
                let point = curve.points.iter().find(|point| point.processes == n);
                let _ = write!(out, " {} |", point.map(|p| thousands(p.median())).unwrap_or_default());
            }
            out.push('\n');
        }
        out.push('\n');
    }
    if let Some(text) = scale.side_by_side.as_ref().and_then(SideBySide::text) {
        let _ = writeln!(out, "{text}\n");
    }
    if !scale.crowds.is_empty() {
        let _ = writeln!(
            out,
            "| tasks that wait | under | made in | ended in | memory |\n|---|---|---:|---:|---:|"
        );
        for crowd in &scale.crowds {
            let _ = writeln!(out, "| {} |", crowd.cells().join(" | "));
        }
        out.push('\n');
    }
    scale.failures.iter().for_each(|failure| out.push_str(&format!("- failed: {failure}\n")));
    out
}

/// The calls that there are curves of.
pub fn calls(scale: &Scale) -> Vec<&str> {
    let mut calls: Vec<&str> = scale.curves.iter().map(|curve| curve.call.as_str()).collect();
    calls.dedup();
    calls
}

/// A rate in thousands.
fn thousands(rate: f64) -> String {
    format!("{} k", show::three_digits(rate / 1000.0))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn scale() -> Scale {
        let curve = |launcher: &str, points: &[(usize, f64)]| Curve {
            call: "getppid".into(),
            launcher: launcher.into(),
            points: points.iter().map(|(n, rate)| Point { processes: *n, samples: vec![*rate] }).collect(),
        };
        Scale {
            curves: vec![curve("native", &[(1, 9e6), (2, 18e6)]), curve("vkernel --cpus 1", &[(1, 3e5)])],
            side_by_side: Some(SideBySide { start_s: vec![0.01, 0.03, 0.02], pss_bytes: 30 << 20 }),
            crowds: vec![Crowd {
                kind: "threads".into(),
                count: 10_000,
                launcher: "vkernel".into(),
                make_s: 1.5,
                end_s: 0.5,
                pss_bytes: 100 << 20,
            }],
            failures: vec!["something".into()],
        }
    }

    #[test]
    fn every_part_is_written() {
        let text = markdown(&scale());
        for line in [
            "| processes | native | vkernel --cpus 1 |",
            "| 1 | 9000 k | 300 k |",
            "| 2 | 18000 k |  |",
            "3 vkernels side by side: each started in 20.0 ms (median; 10.0 ms .. 30.0 ms) and takes 10.0 MiB of memory.",
            "| 10000 threads | vkernel | 1.50 s | 500 ms | 100 MiB |",
            "- failed: something",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} is not in\n{text}");
        }
        assert_eq!(markdown(&Scale::default()), "");
    }
}
