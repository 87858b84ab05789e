//! Very many threads and processes in one kernel.

use super::{Crowd, Plan, Scale};
use crate::bench::interrupt::Interrupt;
use crate::bench::progress::Progress;
use crate::bench::talk::Talk;
use crate::bench::{idle, processes};
use anyhow::Result;
use std::time::Duration;

const CROWDS: [(&str, usize); 2] = [("threads", 10_000), ("processes", 3_000)];
const LIMIT: Duration = Duration::from_secs(300);

/// Adds the crowds, natively and under vkernel.
pub fn measure(plan: &Plan<'_>, scale: &mut Scale, progress: &mut Progress, interrupt: &Interrupt) {
    for (kind, most) in CROWDS {
        let count = if plan.quick { most / 20 } else { most };
        for (launcher, options) in [("native", None), ("vkernel", Some(&[][..]))] {
            if interrupt.is_set() {
                return;
            }
            let what = format!("{count} {kind} ({launcher})");
            progress.at(&what);
            let command = plan.command(options, &["crowd", kind, &count.to_string()]);
            match one(&command, interrupt) {
                Ok((make_s, end_s, pss_bytes)) => {
                    let (kind, launcher) = (kind.into(), launcher.into());
                    scale.crowds.push(Crowd { kind, count, launcher, make_s, end_s, pss_bytes });
                    progress.line(&format!("{what} done"));
                }
                Err(error) => scale.failed(progress, interrupt, &what, &error),
            }
        }
    }
}

fn one(command: &[String], interrupt: &Interrupt) -> Result<(f64, f64, u64)> {
    let mut crowd = Talk::start(command)?;
    let make_s = crowd.expect("ready", LIMIT, interrupt)?.parse()?;
    idle::settle(&mut crowd.running, LIMIT, interrupt)?;
    let pss_bytes = processes::pss_bytes(&processes::descendants(processes::own()));
    crowd.close();
    let end_s = crowd.expect("ended", LIMIT, interrupt)?.parse()?;
    Ok((make_s, end_s, pss_bytes))
}
