//! The measured program: `vk-bench row ID MS WORK INPUT`, and the few others that [`main`] names.

use std::io::{Error, ErrorKind, Read, Result};
use std::process::ExitCode;
use std::time::Duration;
use vk_bench::{Context, MARK, crowd, init, rows, storm};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let result = match words[..] {
        // What the rows start that measure a start.
        ["exit"] => Ok(()),
        ["row", id, ms, work, input] => row(id, ms, work, input),
        ["storm", call, processes, ms, work] => storm(call, processes, ms, work),
        ["crowd", kind, count] => number(count).and_then(|n| crowd::run(kind, n)),
        ["ready"] => ready(),
        ["init", ref command @ ..] => init::run(command),
        _ => Err(Error::new(ErrorKind::InvalidInput, "for `cargo xtask bench`; see bench/src/main.rs")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{MARK}fail {error}");
            ExitCode::FAILURE
        }
    }
}

fn row(id: &str, ms: &str, work: &str, input: &str) -> Result<()> {
    let context =
        Context { time: Duration::from_millis(number(ms)? as u64), work: work.into(), input: input.into() };
    println!("{MARK}value {}", rows::run(id, &context)?);
    Ok(())
}

fn storm(call: &str, processes: &str, ms: &str, work: &str) -> Result<()> {
    let time = Duration::from_millis(number(ms)? as u64);
    println!("{MARK}value {}", storm::run(call, number(processes)?, time, work.as_ref())?);
    Ok(())
}

/// Says that it runs, and stays until its input ends.
fn ready() -> Result<()> {
    println!("{MARK}ready");
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn number(text: &str) -> Result<usize> {
    text.parse().map_err(|_| Error::new(ErrorKind::InvalidInput, format!("{text}: not a number")))
}
