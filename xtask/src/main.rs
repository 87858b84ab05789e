//! Developer commands. `cargo xtask test` is what continuous integration runs; `cargo xtask bench` measures beside the host.

mod bench;
mod micro;
mod run;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Developer commands of vkernel.
#[derive(Parser)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that has to pass: format, lints, documentation, the kernel without std, all tests.
    Test {
        /// Leave out format, lints, documentation and the build without std.
        #[arg(long)]
        tests_only: bool,
    },
    /// Build abi, hal and kernel for a target that has no standard library.
    NoStd,
    /// Measure beside the host, in one run, and print ratios.
    Bench {
        /// Interleaved repeats; the median counts.
        #[arg(short, default_value_t = 5)]
        n: usize,
    },
    /// The guest side of `bench`: prints one `name nanoseconds` line a row.
    #[command(hide = true)]
    Micro {
        /// Milliseconds for each row.
        #[arg(long, default_value_t = 100)]
        ms: u64,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Test { tests_only } => test::run(tests_only),
        Command::NoStd => test::no_std(),
        Command::Bench { n } => bench::run(n),
        Command::Micro { ms } => {
            micro::run(ms);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
