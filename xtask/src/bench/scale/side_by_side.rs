//! Many vkernels on one host: how long each takes to start, and how much memory each takes.

use super::{Plan, Scale, SideBySide};
use crate::bench::interrupt::Interrupt;
use crate::bench::progress::Progress;
use crate::bench::talk::Talk;
use crate::bench::{idle, processes};
use anyhow::Result;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// Starts them one after the other, and lets all stay until the memory is measured.
pub fn measure(plan: &Plan<'_>, scale: &mut Scale, progress: &mut Progress, interrupt: &Interrupt) {
    let count = if plan.quick { 10 } else { 100 };
    let mut found = SideBySide { start_s: Vec::new(), pss_bytes: 0 };
    let result = run(plan, count, &mut found, progress, interrupt);
    if let Err(error) = result {
        let what = format!("{count} vkernels side by side, after {}", found.start_s.len());
        scale.failed(progress, interrupt, &what, &error);
    }
    if found.pss_bytes > 0 {
        scale.side_by_side = Some(found);
    }
    if !interrupt.is_set() {
        progress.line(&format!("{count} vkernels side by side done"));
    }
}

fn run(
    plan: &Plan<'_>,
    count: usize,
    found: &mut SideBySide,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut all = Vec::new();
    for n in 0..count {
        progress.at(&format!("vkernels side by side: {n} of {count}"));
        let start = Instant::now();
        let mut one = Talk::start(&plan.command(Some(&[]), &["ready"]))?;
        one.expect("ready", LIMIT, interrupt)?;
        found.start_s.push(start.elapsed().as_secs_f64());
        all.push(one);
    }
    if let Some(last) = all.last_mut() {
        idle::settle(&mut last.running, LIMIT, interrupt)?;
    }
    found.pss_bytes = processes::pss_bytes(&processes::descendants(processes::own()));
    Ok(())
}
