//! What a run found: all samples, and what is needed to judge them. This is the JSON file.

use super::rows::{ROWS, Row, Unit};
use super::scale::Scale;
use super::stats::Summary;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The format's number; a change that older readers misread raises it.
pub const FORMAT: u32 = 1;
/// The launchers that ratios are to; the better one of a row counts.
pub const NATIVE: [&str; 2] = ["native", "native-1cpu"];
/// The launcher that is judged.
pub const OURS: &str = "vkernel";

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: u32,
    /// When it began, RFC 3339, UTC.
    pub date: String,
    /// The commit that was measured; `-dirty` with changes, empty where git does not say.
    pub commit: String,
    pub host: Host,
    /// Rounds that were asked for; fewer samples mean that it was broken off.
    pub rounds: usize,
    /// Milliseconds that a row of short operations is given.
    pub ms: u64,
    pub launchers: Vec<Launched>,
    pub rows: Vec<Measured>,
    /// Rows that were not measured, and why.
    pub left_out: Vec<LeftOut>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub cpu_model: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    /// Release and version of the host's kernel.
    pub kernel: String,
    /// Load average over one minute, before the start.
    pub load: f64,
}

/// A way to run a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launched {
    pub name: String,
    pub prefix: Vec<String>,
}

/// The samples of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub id: String,
    pub title: String,
    pub group: String,
    pub unit: Unit,
    /// By launcher, in the order in which they were taken: sample n of each launcher is of round n.
    pub samples: BTreeMap<String, Vec<Option<f64>>>,
    /// By launcher: what went wrong.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, Vec<String>>,
}

/// A row that was not measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    pub title: String,
    pub why: String,
}

impl Measured {
    /// Where a launcher's samples lie.
    pub fn summary(&self, launcher: &str) -> Option<Summary> {
        let samples: Vec<f64> = self.samples.get(launcher)?.iter().flatten().copied().collect();
        Summary::of(&samples)
    }

    /// The better of the native launchers and its median.
    pub fn reference(&self) -> Option<(&'static str, f64)> {
        let medians = NATIVE.iter().filter_map(|name| Some((*name, self.summary(name)?.median)));
        medians.min_by(|a, b| f64::total_cmp(&self.cost(a.1), &self.cost(b.1)))
    }

    /// A figure so that less is better.
    fn cost(&self, value: f64) -> f64 {
        if self.unit == Unit::BytesPerSecond { 1.0 / value } else { value }
    }

    /// How many times worse than the reference's median a figure is.
    pub fn times(&self, value: f64) -> Option<f64> {
        Some(self.cost(value) / self.cost(self.reference()?.1))
    }

    /// How many times worse than the better native median a launcher's median is.
    pub fn ratio(&self, launcher: &str) -> Option<f64> {
        self.times(self.summary(launcher)?.median)
    }

    /// Round by round, how many times worse than the reference a launcher was. What disturbs a whole round cancels out.
    pub fn paired(&self, launcher: &str) -> Vec<f64> {
        let Some((reference, _)) = self.reference() else { return Vec::new() };
        let (Some(ours), Some(theirs)) = (self.samples.get(launcher), self.samples.get(reference)) else {
            return Vec::new();
        };
        ours.iter().zip(theirs).filter_map(|(a, b)| Some(self.cost((*a)?) / self.cost((*b)?))).collect()
    }

    /// A launcher's samples so that less is better.
    pub fn costs(&self, launcher: &str) -> Vec<f64> {
        self.samples.get(launcher).into_iter().flatten().flatten().map(|v| self.cost(*v)).collect()
    }

    /// The row of today's table that it belongs to.
    pub fn row(&self) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.id == self.id)
    }
}

impl Report {
    /// Reads a saved run.
    pub fn read(path: &Path) -> Result<Report> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Report::parse(&text).with_context(|| path.display().to_string())
    }

    /// From JSON; another format is refused before its fields are looked at.
    pub fn parse(text: &str) -> Result<Report> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_str(text).context("not a saved run")?;
        if head.format != FORMAT {
            bail!("format {}, this program reads {FORMAT}", head.format);
        }
        Ok(serde_json::from_str(text)?)
    }

    /// As JSON.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Names of the launchers that have a sample or a failure in any row.
    pub fn columns(&self) -> Vec<&str> {
        let used = |name: &str| {
            self.rows.iter().any(|row| row.summary(name).is_some() || row.failures.contains_key(name))
        };
        self.launchers.iter().map(|launcher| launcher.name.as_str()).filter(|name| used(name)).collect()
    }

    /// A host CPU is spare when the host has more than one and the launcher isn't bound to one.
    pub fn spare_cpu(&self, launcher: &str) -> bool {
        self.host.cpus > 1 && !launcher.ends_with("-1cpu")
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A run with one row: launchers and their samples.
    pub fn report(id: &str, samples: &[(&str, &[f64])]) -> Report {
        let row = ROWS.iter().find(|row| row.id == id).unwrap();
        let measured = Measured {
            id: id.into(),
            title: row.title.into(),
            group: row.group.into(),
            unit: row.unit,
            samples: samples
                .iter()
                .map(|(name, values)| ((*name).into(), values.iter().copied().map(Some).collect()))
                .collect(),
            failures: BTreeMap::new(),
        };
        let launcher = |(name, _): &(&str, &[f64])| Launched { name: (*name).into(), prefix: vec![] };
        Report {
            format: FORMAT,
            date: "2030-01-02T03:04:05Z".into(),
            commit: "abc".into(),
            host: Host {
                name: "host <1>".into(),
                cpu_model: "CPU & co".into(),
                cpus: 2,
                memory_bytes: 8 << 30,
                kernel: "6.1".into(),
                load: 0.25,
            },
            rounds: 3,
            ms: 100,
            launchers: samples.iter().map(launcher).collect(),
            rows: vec![measured],
            left_out: vec![LeftOut { title: "tar".into(), why: "no tar".into() }],
            scale: None,
        }
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let mut before = report("getppid", &[("native", &[1.0, 2.5]), ("vkernel", &[10.0])]);
        before.rows[0].samples.get_mut("vkernel").unwrap().push(None);
        before.rows[0].failures.insert("vkernel".into(), vec!["time is up".into()]);
        before.scale = Some(Scale::default());
        assert_eq!(Report::parse(&before.to_json().unwrap()).unwrap(), before);
    }

    #[test]
    fn what_is_no_saved_run_is_refused() {
        let other = r#"{"format": 2, "something": "else"}"#;
        assert!(Report::parse(other).unwrap_err().to_string().contains("format 2"));
        assert!(Report::parse("{}").is_err());
        assert!(Report::parse("not JSON").is_err());
    }

    #[test]
    fn the_ratio_is_to_the_better_native_median() {
        let report = report(
            "getppid",
            &[
                ("native", &[30.0, 20.0, 25.0]),
                ("native-1cpu", &[10.0, 11.0, 90.0]),
                ("vkernel", &[55.0, 44.0, 66.0]),
            ],
        );
        assert_eq!(report.rows[0].reference(), Some(("native-1cpu", 11.0)));
        assert_eq!(report.rows[0].ratio("vkernel"), Some(5.0));
        assert_eq!(report.rows[0].ratio("uml"), None);
    }

    #[test]
    fn more_bytes_a_second_are_better() {
        let report = report(
            "pipe_bandwidth",
            &[("native", &[100.0]), ("native-1cpu", &[400.0]), ("vkernel", &[200.0])],
        );
        assert_eq!(report.rows[0].reference(), Some(("native-1cpu", 400.0)));
        assert_eq!(report.rows[0].ratio("vkernel"), Some(2.0));
    }

    #[test]
    fn pairs_are_of_one_round() {
        let mut report = report("getppid", &[("native", &[1.0, 2.0, 4.0]), ("vkernel", &[3.0, 9.0, 12.0])]);
        assert_eq!(report.rows[0].paired("vkernel"), [3.0, 4.5, 3.0]);
        report.rows[0].samples.get_mut("native").unwrap()[0] = None;
        assert_eq!(report.rows[0].paired("vkernel"), [4.5, 3.0]);
    }

    #[test]
    fn a_column_is_a_launcher_with_a_result() {
        let mut report = report("getppid", &[("native", &[1.0]), ("vkernel", &[]), ("uml", &[])]);
        report.rows[0].failures.insert("uml".into(), vec!["no".into()]);
        assert_eq!(report.columns(), ["native", "uml"]);
    }
}
