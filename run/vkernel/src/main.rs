//! The `vkernel` command.

mod cli;
mod listing;
mod run;
mod size;
mod user;
mod volume;

use clap::Parser;
use cli::{Action, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NoCommand;
            // Help and version are no errors; everything else is ours, as Docker counts, and one line.
            if !error.use_stderr() || error.kind() == NoCommand {
                let _ = error.print();
                return ExitCode::from(if error.use_stderr() { run::OWN_ERROR } else { 0 });
            }
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            run::complain(line.strip_prefix("error: ").unwrap_or(line));
            return ExitCode::from(run::OWN_ERROR);
        }
    };
    match cli.action {
        Action::Run(args) => ExitCode::from(run::run(&args)),
        Action::Syscalls => match listing::print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                run::complain(&format!("cannot print: {error}"));
                ExitCode::from(run::OWN_ERROR)
            }
        },
    }
}
