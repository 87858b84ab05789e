//! System-call tests: what Linux answers, case by case.
//!
//! One static program. It must pass on the host's own kernel, for root and for an ordinary user; then it
//! runs under vkernel and must say the same. See `--help`.

#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "an argument is the address or the value: not the same"
)]

#[macro_use]
mod kit;
mod cases;
mod helper;
mod runner;

use kit::{Case, Stop};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
usage: abi-tests [--list] [--filter SUBSTR]... [--jobs N] [--json] [--timeout SECONDS] [--expected FILE]
  --list           name the cases and leave
  --filter SUBSTR  only cases whose name holds it; several: any of them
  --jobs N         so many cases at a time (1)
  --json           one JSON object per line
  --timeout S      a case that takes longer is killed and counts as hung (30)
  --expected FILE  cases that must fail, each with a reason; one that passes is a failure";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut filters: Vec<String> = Vec::new();
    let mut options =
        runner::Options { jobs: 1, json: false, limit: Duration::from_secs(30), expected: BTreeMap::new() };
    let mut list = false;
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        let taken = match arg.as_str() {
            "--helper" => return helper::run(&args.collect::<Vec<_>>()),
            "--list" => {
                list = true;
                Ok(())
            }
            "--json" => {
                options.json = true;
                Ok(())
            }
            "--filter" => value().map(|v| filters.push(v)),
            "--jobs" => number(value()).map(|n| options.jobs = n.max(1) as usize),
            "--timeout" => number(value()).map(|n| options.limit = Duration::from_secs(n)),
            "--expected" => value().and_then(|v| differences(&v)).map(|m| options.expected = m),
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => Err(format!("unknown argument {arg}\n{USAGE}")),
        };
        if let Err(why) = taken {
            eprintln!("abi-tests: {why}");
            return ExitCode::from(2);
        }
    }
    kit::proc::exe();
    let chosen: Vec<&'static Case> = cases::all()
        .filter(|c| {
            let name = format!("{}::{}", c.family, c.name);
            filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()))
        })
        .collect();
    if list {
        for case in chosen {
            println!("{}::{}", case.family, case.name);
        }
        return ExitCode::SUCCESS;
    }
    match runner::run(&chosen, &options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Stop::Fail(why) | Stop::Skip(why)) => {
            eprintln!("abi-tests: {why}");
            ExitCode::from(2)
        }
    }
}

fn number(value: Result<String, String>) -> Result<u64, String> {
    let value = value?;
    value.parse().map_err(|_| format!("not a number: {value}"))
}

/// Reads `"name" = "reason"` lines; the file is TOML, of which this is all that it needs.
fn differences(path: &str) -> Result<BTreeMap<String, String>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', '[']));
    lines
        .map(|line| {
            let strip = |s: &str| s.trim().strip_prefix('"')?.strip_suffix('"').map(String::from);
            let pair = line.split_once('=').and_then(|(k, v)| Some((strip(k)?, strip(v)?)));
            pair.ok_or(format!("{path}: not understood: {line}"))
        })
        .collect()
}
