//! The command line as the user types it.

use crate::size::Size;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;

/// Run unmodified Linux programs under a kernel of their own that is one ordinary process.
#[derive(Debug, Parser)]
#[command(name = "vkernel", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run a program, and everything that it starts, under a new kernel
    ///
    /// The exit status is the program's; 128+n when signal n ended it; 125 for an error of vkernel itself, 126
    /// when the program cannot be executed, 127 when there is none.
    Run(RunArgs),
    /// Print the system-call table: number, name, support level, note
    #[command(display_name = "vkernel")]
    Syscalls,
}

/// Options of `vkernel run`.
#[derive(Debug, Args)]
#[command(override_usage = "vkernel run [OPTIONS] [--] [CMD [ARGS]...]", display_name = "vkernel")]
pub struct RunArgs {
    /// Host directory to show as the root; writes stay in memory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: String,

    /// Host directory or file to show at a guest path; writes go through unless `ro`
    #[arg(long = "volume", short = 'v', value_name = "HOST:GUEST[:ro]")]
    pub volumes: Vec<String>,

    /// RAM of the kernel, as in 512M or 2G [default: half of what the host has]
    #[arg(long, short = 'm', value_name = "SIZE", allow_negative_numbers = true)]
    pub memory: Option<Size>,

    /// Virtual CPUs [default: as many as vkernel may use]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub cpus: Option<u16>,

    /// Set a variable in the program's environment, which is otherwise inherited
    #[arg(long = "env", short = 'e', value_name = "K=V")]
    pub env: Vec<OsString>,

    /// Working directory [default: the current one where the root is /, else /]
    #[arg(long, short = 'w', value_name = "DIR")]
    pub workdir: Option<OsString>,

    /// User and group to run as, by number or by name in the root [default: the caller's]
    #[arg(long, short = 'u', value_name = "UID[:GID]", allow_negative_numbers = true)]
    pub user: Option<String>,

    /// Host name that the program sees
    #[arg(long, value_name = "NAME", default_value = "vkernel")]
    pub hostname: String,

    /// Refuse writes to the root
    #[arg(long)]
    pub read_only: bool,

    /// Print every system call with its arguments and result to standard error
    #[arg(long)]
    pub strace: bool,

    /// Leave programs' system-call instructions as they are: every call traps
    #[arg(long)]
    pub no_patch: bool,

    /// Least important messages that are printed to standard error
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log: Level,

    /// Program and arguments [default: the user's shell, as a login shell]
    #[arg(value_name = "CMD [ARGS]", trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// Importance of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for hal::LogLevel {
    fn from(level: Level) -> hal::LogLevel {
        match level {
            Level::Error => hal::LogLevel::Error,
            Level::Warn => hal::LogLevel::Warn,
            Level::Info => hal::LogLevel::Info,
            Level::Debug => hal::LogLevel::Debug,
            Level::Trace => hal::LogLevel::Trace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> RunArgs {
        let all = ["vkernel", "run"].iter().chain(args);
        match Cli::try_parse_from(all).unwrap().action {
            Action::Run(args) => args,
            Action::Syscalls => panic!("another command"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let args = run(&["--cpus", "3", "ls", "--root", "-l"]);
        assert_eq!(args.cpus, Some(3));
        assert_eq!(args.command, ["ls", "--root", "-l"]);
        let args = run(&["--strace", "--", "-x", "--", "y"]);
        assert!(args.strace);
        assert_eq!(args.command, ["-x", "--", "y"]);
        assert!(run(&[]).command.is_empty());
    }

    #[test]
    fn wrong_options_are_errors() {
        for bad in [&["--cpus", "0"][..], &["--memory", "1K"], &["--nonsense", "x"], &["--log", "loud"]] {
            let all = ["vkernel", "run"].iter().chain(bad);
            assert!(Cli::try_parse_from(all).is_err(), "{bad:?}");
        }
    }
}
