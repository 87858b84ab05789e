//! The table, for a terminal and as Markdown: one set of cells, two ways to write it.

use super::report::{Measured, OURS, Report};
use super::{show, verdict};
use std::fmt::Write;
use unicode_width::UnicodeWidthStr;

/// Head and rows; the first column is text, the others are figures.
struct Cells {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn cells(report: &Report) -> Cells {
    let columns = report.columns();
    let mut head = vec!["row".to_string()];
    for name in &columns {
        head.push((*name).to_string());
        if is_sandbox(name) {
            head.push("times".into());
        }
        if name.starts_with(OURS) {
            head.extend(["quartiles".into(), "at most".into(), String::new()]);
        }
    }
    let row = |measured: &Measured| {
        let mut row = vec![measured.title.clone()];
        for name in &columns {
            let summary = measured.summary(name);
            row.push(match summary {
                Some(summary) => show::figure(measured.unit, summary.median),
                None if measured.failures.contains_key(*name) => "failed".into(),
                None => String::new(),
            });
            if is_sandbox(name) {
                row.push(measured.ratio(name).map(show::times).unwrap_or_default());
            }
            if name.starts_with(OURS) {
                row.push(summary.map(|s| quartiles(measured, &s)).unwrap_or_default());
                row.push(measured.row().map(|r| verdict::mark(report, r, name)).unwrap_or_default());
                row.push(verdict::of(report, measured, name).sign().into());
            }
        }
        row
    };
    Cells { head, rows: report.rows.iter().map(row).collect() }
}

/// Whether a launcher is something else than the host itself.
pub fn is_sandbox(name: &str) -> bool {
    !super::report::NATIVE.contains(&name)
}

/// Where the middle half of the samples lies.
pub fn quartiles(measured: &Measured, summary: &super::stats::Summary) -> String {
    let (low, high) = (summary.lower_quartile, summary.upper_quartile);
    format!("{} .. {}", show::figure(measured.unit, low), show::figure(measured.unit, high))
}

/// For a terminal.
pub fn text(report: &Report) -> String {
    let cells = cells(report);
    let width = |column: usize| {
        let all = std::iter::once(&cells.head).chain(&cells.rows);
        all.filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..cells.head.len()).map(width).collect();
    let mut out = String::new();
    for row in std::iter::once(&cells.head).chain(&cells.rows) {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let blank = " ".repeat(width - cell.width());
            let _ = if n == 0 { write!(line, "{cell}{blank}") } else { write!(line, "  {blank}{cell}") };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out + &notes(report)
}

/// As Markdown: what the run was, and the table.
pub fn markdown(report: &Report) -> String {
    let cells = cells(report);
    let mut out = format!("{}\n\n", about(report));
    let mut line = |row: &[String]| {
        let _ = writeln!(
            out,
            "| {} |",
            row.iter().map(|c| c.replace('|', "\\|")).collect::<Vec<_>>().join(" | ")
        );
    };
    line(&cells.head);
    let rule = |n: usize| if n == 0 { "---".to_string() } else { "---:".to_string() };
    line(&(0..cells.head.len()).map(rule).collect::<Vec<_>>());
    cells.rows.iter().for_each(|row| line(row));
    let notes = notes(report);
    if notes.is_empty() {
        out
    } else {
        format!("{out}\n{}", notes.lines().map(|l| format!("- {l}\n")).collect::<String>())
    }
}

/// One sentence on the run.
pub fn about(report: &Report) -> String {
    let host = &report.host;
    let memory = show::figure(super::rows::Unit::Bytes, host.memory_bytes as f64);
    let done =
        report.rows.iter().flat_map(|row| row.samples.values().map(Vec::len)).max().unwrap_or(report.rounds);
    let rounds = if done < report.rounds { format!("{done} of {}", report.rounds) } else { done.to_string() };
    format!(
        "{}, commit {}: medians of {rounds} interleaved rounds on {} ({} CPUs, {memory}), Linux {}, load {} at the start.",
        report.date,
        if report.commit.is_empty() { "unknown" } else { &report.commit },
        host.cpu_model,
        host.cpus,
        host.kernel.split(' ').next().unwrap_or_default(),
        host.load
    )
}

/// What the table can't say: failures and rows that are not there.
fn notes(report: &Report) -> String {
    let mut out = String::new();
    for row in &report.rows {
        for (launcher, reasons) in &row.failures {
            let why = reasons.last().map_or("", String::as_str);
            let _ = writeln!(out, "{} failed under {launcher} ({} times): {why}", row.title, reasons.len());
        }
    }
    for row in &report.left_out {
        let _ = writeln!(out, "left out: {}: {}", row.title, row.why);
    }
    for line in verdict::below_floor(report) {
        let _ = writeln!(out, "{line}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_row_shows_medians_ratio_spread_and_mark() {
        let report = report(
            "getppid",
            &[
                ("native", &[100.0, 120.0, 110.0]),
                ("native-1cpu", &[100.0]),
                ("vkernel", &[3000.0, 2000.0, 2500.0]),
            ],
        );
        let text = text(&report);
        let row = text.lines().find(|line| line.starts_with("getppid")).unwrap();
        let cells: Vec<&str> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            ["getppid", "110 ns", "100 ns", "2.50 µs", "25.0×", "2.25 µs .. 2.75 µs", "8×", "missed"]
        );
        assert!(text.contains("left out: tar: no tar"), "{text}");
    }

    #[test]
    fn a_failure_is_shown_with_its_reason() {
        let mut report = report("getppid", &[("native", &[100.0]), ("vkernel", &[])]);
        report.rows[0].failures.insert("vkernel".into(), vec!["time is up".into(), "status 1".into()]);
        let text = text(&report);
        assert!(text.contains("failed"), "{text}");
        assert!(text.contains("getppid failed under vkernel (2 times): status 1"), "{text}");
    }

    #[test]
    fn markdown_has_as_many_cells_in_every_line() {
        let mut report = report("getppid", &[("native", &[100.0]), ("vkernel", &[300.0]), ("uml", &[900.0])]);
        report.rows[0].title = "a | b".into();
        let text = markdown(&report);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(lines.len(), 3, "{text}");
        let count = |line: &str| line.replace("\\|", "").matches('|').count();
        assert!(lines.iter().all(|line| count(line) == count(lines[0])), "{text}");
        assert!(lines[2].contains("a \\| b") && lines[2].contains("9.00×"), "{text}");
        assert!(
            text.starts_with("2030-01-02T03:04:05Z, commit abc: medians of 1 of 3 interleaved"),
            "{text}"
        );
    }

    #[test]
    fn a_run_that_was_broken_off_says_so() {
        let mut report = report("getppid", &[("native", &[1.0, 1.0, 1.0]), ("vkernel", &[1.0, 1.0])]);
        assert!(about(&report).contains("medians of 3 interleaved"), "{}", about(&report));
        report.rounds = 5;
        assert!(about(&report).contains("medians of 3 of 5 interleaved"), "{}", about(&report));
    }

    #[test]
    fn the_columns_of_a_terminal_are_aligned_with_wide_signs() {
        let report = report("getppid", &[("native", &[1500.0]), ("vkernel", &[2500.0])]);
        let text = text(&report);
        let column = |line: &str, word: &str| {
            line.find(word).map(|at| line[..at].chars().count() + word.chars().count())
        };
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(column(lines[0], "native"), column(lines[1], "1.50 µs"));
    }
}
