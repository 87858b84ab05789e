//! System calls a second over the number of processes, natively and for numbers of virtual CPUs.

use super::{Curve, Plan, Point, Scale};
use crate::bench::child;
use crate::bench::interrupt::Interrupt;
use crate::bench::measure::{WORK, value};
use crate::bench::progress::Progress;
use anyhow::Result;
use std::time::Duration;

const CALLS: [&str; 2] = ["getppid", "stat"];
const LIMIT: Duration = Duration::from_secs(60);

/// Adds the curves: native, and `--cpus` 1, 2, 4 and so on up to the host's.
pub fn measure(plan: &Plan<'_>, scale: &mut Scale, progress: &mut Progress, interrupt: &Interrupt) {
    let ms = if plan.quick { 100 } else { 1000 };
    let cpus = cpu_counts(plan.host_cpus);
    for call in CALLS {
        let first = scale.curves.len();
        let launchers = std::iter::once(None).chain(cpus.iter().copied().map(Some));
        let empty = |cpus: Option<usize>| Curve {
            call: call.into(),
            launcher: cpus.map_or("native".into(), |n| format!("vkernel --cpus {n}")),
            points: (1..=2 * plan.host_cpus).map(|processes| Point { processes, samples: vec![] }).collect(),
        };
        scale.curves.extend(launchers.clone().map(empty));
        for round in 0..plan.rounds {
            for processes in 1..=2 * plan.host_cpus {
                for (n, cpus) in launchers.clone().enumerate() {
                    if interrupt.is_set() {
                        return;
                    }
                    let what =
                        format!("{processes} processes of {call} ({})", scale.curves[first + n].launcher);
                    progress.at(&format!("round {} of {}: {what}", round + 1, plan.rounds));
                    match point(plan, call, cpus, processes, ms, interrupt) {
                        Ok(rate) => scale.curves[first + n].points[processes - 1].samples.push(rate),
                        Err(error) => scale.failed(progress, interrupt, &what, &error),
                    }
                }
            }
        }
        progress.line(&format!("curve of {call} done"));
    }
}

/// Powers of two up to the host's number, and that number.
fn cpu_counts(host: usize) -> Vec<usize> {
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < host).collect();
    counts.push(host);
    counts
}

fn point(
    plan: &Plan<'_>,
    call: &str,
    cpus: Option<usize>,
    processes: usize,
    ms: u64,
    interrupt: &Interrupt,
) -> Result<f64> {
    let words = ["storm", call, &processes.to_string(), &ms.to_string(), WORK];
    let number = cpus.map(|n| n.to_string());
    let options = number.as_deref().map(|n| ["--cpus", n]);
    let command = plan.command(options.as_ref().map(|o| o.as_slice()), &words);
    let ended = child::run(&command, LIMIT, interrupt)?;
    value(&ended.stdout).map_err(|error| error.context(ended.stderr.trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_cpus_double_up_to_the_hosts() {
        assert_eq!(cpu_counts(1), [1]);
        assert_eq!(cpu_counts(2), [1, 2]);
        assert_eq!(cpu_counts(6), [1, 2, 4, 6]);
    }
}
