//! `cargo xtask bench`: rows and scale, natively, under vkernel and under the peers that are installed.
//!
//! [`rows`] says what is measured and what must come out, `measure` and `scale` run it (the program that runs inside is the crate
//! `vk-bench`), [`report`] is what they find and the JSON file; `table`, `html` and `compare` only read a report.

mod child;
mod compare;
mod host;
mod html;
mod idle;
mod input;
mod interrupt;
mod launcher;
mod measure;
mod options;
mod plot;
mod processes;
mod progress;
mod report;
mod rows;
mod scale;
mod show;
mod stats;
mod table;
mod talk;
mod verdict;

pub use options::Options;

use crate::run::{cargo, step, workspace};
use anyhow::{Context, Result, bail};
use interrupt::Interrupt;
use launcher::{Launcher, Programs};
use progress::Progress;
use report::{FORMAT, LeftOut, Report};
use rows::{ROWS, Row};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Measures or reads a report, and writes it as the options say.
pub fn run(options: &Options) -> Result<()> {
    if options.list {
        ROWS.iter().for_each(|row| println!("{:<22}{}", row.id, row.title));
        return Ok(());
    }
    // Before minutes of measuring, not after.
    let against = options.against.as_deref().map(Report::read).transpose()?;
    let interrupt = Interrupt::listen()?;
    let report = match &options.from {
        Some(file) => Report::read(file)?,
        None => measured(options, &interrupt)?,
    };
    output(options, &report, against.as_ref())?;
    if interrupt.is_set() { bail!("interrupted: this is what there was until then") } else { Ok(()) }
}

fn measured(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    let (chosen, left_out) = choose(options)?;
    let host = host::host();
    let vkernel = match &options.vkernel {
        Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
        None => {
            step("build", &mut cargo(&["build", "--release", "--package", "vkernel"]))?;
            target().join("release/vkernel")
        }
    };
    let inside = build_inside()?;
    let input = input::prepare(&target())?;
    processes::adopt_orphans().context("PR_SET_CHILD_SUBREAPER")?;
    let mut report = Report {
        format: FORMAT,
        date: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        commit: host::commit(),
        rounds: options.rounds(),
        ms: options.ms(),
        launchers: Vec::new(),
        rows: Vec::new(),
        left_out,
        scale: None,
        host,
    };
    let mut progress = Progress::new();
    if !chosen.is_empty() {
        let (runsc, uml) = (options.runsc.clone(), options.uml.clone());
        let programs =
            Programs { vkernel: &vkernel, runsc, uml, inside: &inside, cpu: launcher::first_cpu() };
        let root = rustix::process::geteuid().is_root();
        let launchers = launcher::launchers(&programs, options.pinned, root);
        report.launchers = launchers.iter().map(Launcher::launched).collect();
        let plan = measure::Plan {
            launchers: &launchers,
            rows: &chosen,
            rounds: options.rounds(),
            ms: options.ms(),
            inside: &inside,
            input,
            starts: if options.quick { 1 } else { 5 },
        };
        report.rows = measure::measure(&plan, &mut progress, interrupt);
    }
    if options.scale && !interrupt.is_set() {
        let plan = scale::Plan {
            vkernel: &vkernel,
            inside: &inside,
            host_cpus: report.host.cpus,
            rounds: options.rounds(),
            quick: options.quick,
        };
        report.scale = Some(scale::measure(&plan, &mut progress, interrupt));
    }
    progress.at("");
    Ok(report)
}

/// The rows that are asked for and can be run, and the others that are asked for.
fn choose(options: &Options) -> Result<(Vec<&'static Row>, Vec<LeftOut>)> {
    let asked = |row: &&Row| match options.row.as_slice() {
        [] => !options.scale,
        patterns => patterns.iter().any(|pattern| row.matches(pattern)),
    };
    let rows: Vec<&'static Row> = ROWS.iter().filter(asked).collect();
    if rows.is_empty() && !options.scale {
        bail!("no row is called like {:?}; --list shows them", options.row);
    }
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    for row in rows {
        match row.needs.iter().find(|name| launcher::find(name).is_none()) {
            Some(name) => left_out
                .push(LeftOut { title: row.title.into(), why: format!("no {name} in {}", vk_bench::PATH) }),
            None => chosen.push(row),
        }
    }
    Ok((chosen, left_out))
}

/// Cargo's target directory.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// Builds the measured program, and returns where it is.
fn build_inside() -> Result<PathBuf> {
    let mut build = Command::new("sh");
    build.arg("bench/build").env("CARGO_TARGET_DIR", target()).current_dir(workspace());
    let output = build.stderr(Stdio::inherit()).output().context("bench/build")?;
    if !output.status.success() {
        bail!("bench/build ended with {}", output.status);
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

fn output(options: &Options, report: &Report, against: Option<&Report>) -> Result<()> {
    println!("{}\n", table::about(report));
    if !report.rows.is_empty() {
        print!("{}", table::text(report));
    }
    if let Some(scale) = &report.scale {
        print!("\n{}", scale::markdown(scale));
    }
    let compared = against.map(|old| compare::compare(old, report));
    if let Some((old, compared)) = against.zip(compared.as_deref()) {
        print!("\n{}", compare::text(old, report, compared));
    }
    let write = |file: &Option<PathBuf>, text: &dyn Fn() -> Result<String>| -> Result<()> {
        let Some(file) = file else { return Ok(()) };
        std::fs::write(file, text()?).with_context(|| file.display().to_string())?;
        eprintln!("wrote {}", file.display());
        Ok(())
    };
    write(&options.json, &|| report.to_json())?;
    write(&options.html, &|| Ok(html::page(report, against.zip(compared.as_deref()))))?;
    write(&options.markdown, &|| Ok(markdown(report)))?;
    if options.fail_on_regression && compared.as_deref().is_some_and(compare::regressed) {
        bail!("there are regressions");
    }
    Ok(())
}

fn markdown(report: &Report) -> String {
    let rows =
        if report.rows.is_empty() { format!("{}\n", table::about(report)) } else { table::markdown(report) };
    match &report.scale {
        Some(scale) => format!("{rows}\n{}", scale::markdown(scale)),
        None => rows,
    }
}
