//! Developer commands. `cargo xtask test` is what continuous integration runs; `cargo xtask bench` measures beside the host.

mod bench;
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
    /// Measure natively, under vkernel and under the peers that are installed, in one run, and print ratios.
    Bench(Box<bench::Options>),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Test { tests_only } => test::run(tests_only),
        Command::NoStd => test::no_std(),
        Command::Bench(options) => bench::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
