//! What the end-to-end tests share: the command under test, bounded runs, pictures of host trees, terminals.
//!
//! The tests are in `tests/programs` (what programs see; run side by side), `tests/attack` (hostile programs, see the
//! crate `vk-attack`) and `tests/leftovers` (what stays behind on the host); these two run alone, because they look at
//! the whole machine. Every one runs the
//! same command on the host and compares, or says what it normalises and why. A program that is missing on
//! the host is a failure that names its Debian package.
//!
//! Environment: `VKERNEL` names the command under test (otherwise the release build in the target directory,
//! otherwise the development build, which is made when there is none); `VKERNEL_PATIENCE` multiplies every
//! time limit, for slow machines and builds.

mod bounded;
mod command;
mod pty;
mod tree;

pub use bounded::{Outcome, Run, patience};
pub use command::{
    abi_program, attack_program, guest, host, need, same, same_in, same_with, vkernel, workspace,
};
pub use pty::Session;
pub use tree::Picture;

/// A new temporary directory that everybody may enter and read.
///
/// # Panics
/// When the host refuses.
pub fn temp() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new().prefix("vk-e2e-").tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("our own directory");
    dir
}

/// Copies a program. A process of its own does it: as long as anybody has the copy open for writing nobody can run it (`ETXTBSY`), and what this
/// process has open is inherited by the children of tests that run beside.
///
/// # Panics
/// When that fails.
pub fn copy_program(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("--").args([from, to]).status();
    assert!(status.expect("cp is there").success(), "can't copy {}", from.display());
}

/// Whether the tests run as the superuser.
pub fn is_root() -> bool {
    // SAFETY: takes no argument and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
