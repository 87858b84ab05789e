//! Builds the static guest programs of this package for whoever wants to run them.
//!
//! The programs themselves are the binaries beside this file: `abi-tests`, the
//! system-call tests, and the small loads in `src/bin`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{io, str};

/// Builds every guest program as a static executable (cargo decides what is stale)
/// and returns the directory that holds them. Blocks for as long as cargo takes;
/// fails with cargo's messages on stderr.
pub fn build() -> io::Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build");
    let output = Command::new(script).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("tests/abi/build: {}", output.status)));
    }
    let path = str::from_utf8(&output.stdout).map_err(io::Error::other)?;
    Ok(PathBuf::from(path.trim_end()))
}

/// The list of differences that are expected under vkernel, for `abi-tests --expected`.
pub fn expected() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("expected.toml")
}
