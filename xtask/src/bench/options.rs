//! The command line.

use clap::Args;
use std::path::PathBuf;

/// Options of `bench`.
#[derive(Args, Debug, Default)]
pub struct Options {
    /// Interleaved rounds; the median counts [default: 5, with --quick 2]
    #[arg(short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    n: Option<u16>,

    /// Few and short rounds, to see that everything works
    #[arg(long)]
    pub quick: bool,

    /// Only rows with this in their name, title or group; can be given several times
    #[arg(long, value_name = "PATTERN")]
    pub row: Vec<String>,

    /// Print the names of the rows and end
    #[arg(long)]
    pub list: bool,

    /// How it grows with CPUs, kernels and tasks, instead of the rows (`--row ''` gives both)
    #[arg(long)]
    pub scale: bool,

    /// Each sandbox also bound to one CPU
    #[arg(long)]
    pub pinned: bool,

    /// Milliseconds for each row of short operations [default: 100, with --quick 20]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    ms: Option<u64>,

    /// vkernel to measure, instead of one built from this source
    #[arg(long, value_name = "FILE")]
    pub vkernel: Option<PathBuf>,

    /// gVisor to measure beside [default: runsc in PATH, if there is one]
    #[arg(long, value_name = "FILE")]
    pub runsc: Option<PathBuf>,

    /// User-mode Linux to measure beside [default: linux.uml in PATH, if there is one]
    #[arg(long, value_name = "FILE")]
    pub uml: Option<PathBuf>,

    /// Measure nothing: show a saved run
    #[arg(long, value_name = "FILE", conflicts_with_all = ["n", "quick", "row", "scale", "pinned", "ms", "vkernel", "runsc", "uml"])]
    pub from: Option<PathBuf>,

    /// Save all samples
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write the table
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,

    /// Compare with a saved run
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,

    /// Exit with 1 when a row is worse than in the saved run, beyond the noise
    #[arg(long, requires = "against")]
    pub fail_on_regression: bool,
}

impl Options {
    /// Rounds to run.
    pub fn rounds(&self) -> usize {
        self.n.map_or(if self.quick { 2 } else { 5 }, usize::from)
    }

    /// Milliseconds for a row of short operations.
    pub fn ms(&self) -> u64 {
        self.ms.unwrap_or(if self.quick { 20 } else { 100 })
    }
}
