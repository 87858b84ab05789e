//! The command under test, and the same program on the host and as a guest.

use crate::{Outcome, Run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The workspace that the tests belong to.
///
/// # Panics
/// Never: the crate is two levels below.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels up").to_path_buf()
}

/// The command under test; built at most once when there is none.
///
/// # Panics
/// When it can neither be found nor built.
pub fn vkernel() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(named) = std::env::var_os("VKERNEL") {
            return std::fs::canonicalize(named).expect("VKERNEL names the command under test");
        }
        // target/PROFILE/deps/TEST: the tests' own target directory, wherever it is.
        let me = std::env::current_exe().expect("/proc is mounted");
        let target = me.ancestors().nth(3).expect("a target directory");
        if let Some(found) =
            ["release", "debug"].map(|p| target.join(p).join("vkernel")).into_iter().find(|p| p.exists())
        {
            return found;
        }
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "vkernel", "--target-dir"])
            .arg(target)
            .current_dir(workspace())
            .status();
        assert!(status.expect("cargo runs").success(), "vkernel does not build");
        target.join("debug/vkernel")
    })
}

/// A static program of the ABI tests, built once.
///
/// # Panics
/// When they do not build.
pub fn abi_program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let out = Command::new(workspace().join("tests/abi/build")).output().expect("the script runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        PathBuf::from(String::from_utf8(out.stdout).expect("a path").trim_end())
    });
    dir.join(name)
}

/// The attacking program, built once.
///
/// # Panics
/// When it does not build.
pub fn attack_program() -> PathBuf {
    let out = Command::new(workspace().join("tests/attack/build")).output().expect("the script runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    PathBuf::from(String::from_utf8(out.stdout).expect("a path").trim_end())
}

/// `vkernel run OPTIONS --`: add the program and its arguments.
pub fn guest(options: &[&str]) -> Run {
    Run::new(vkernel()).args(["run", "--log", "error"]).args(options).arg("--")
}

/// A program on the host, which must be there.
///
/// # Panics
/// When it is not; the message names the package.
pub fn host(program: &str) -> Run {
    need(program);
    Run::new(program)
}

/// Asserts that the host has a program.
///
/// # Panics
/// When it does not; the message names the Debian package.
#[track_caller]
pub fn need(program: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let package = match program {
        "busybox" => "busybox-static",
        "ps" | "top" | "free" => "procps",
        "awk" => "mawk",
        "xz" => "xz-utils",
        "vi" => "vim-tiny",
        "stty" | "df" | "id" | "stat" | "sha256sum" => "coreutils",
        other => other,
    };
    assert!(found, "{program} is missing: apt-get install {package}");
}

/// Asserts that a program and its arguments give the same bytes and status as a guest and on the host.
///
/// # Panics
/// When they do not.
#[track_caller]
pub fn same(argv: &[&str]) -> Outcome {
    same_in(Path::new("/"), argv)
}

/// [`same`] in a directory. The guest runs first: what it writes stays in its layer, so the host's run then
/// starts from the same state.
///
/// # Panics
/// When they differ.
#[track_caller]
pub fn same_in(dir: &Path, argv: &[&str]) -> Outcome {
    same_with(dir, argv, |bytes| bytes)
}

/// [`same_in`] after a normalisation of both outputs.
///
/// # Panics
/// When they differ.
#[track_caller]
pub fn same_with(dir: &Path, argv: &[&str], normal: fn(Vec<u8>) -> Vec<u8>) -> Outcome {
    if !argv[0].contains('/') {
        need(argv[0]);
    }
    let mut ours = guest(&[]).args(argv).dir(dir).run();
    let mut theirs = Run::new(argv[0]).args(&argv[1..]).dir(dir).run();
    ours.stdout = normal(ours.stdout);
    theirs.stdout = normal(theirs.stdout);
    assert_eq!(ours.code, theirs.code, "{argv:?}\nguest: {}\nhost: {}", tail(&ours), tail(&theirs));
    if ours.stdout != theirs.stdout {
        let at = ours.stdout.iter().zip(&theirs.stdout).take_while(|(a, b)| a == b).count();
        let near = |bytes: &[u8]| {
            let from = at.saturating_sub(200).min(bytes.len());
            String::from_utf8_lossy(&bytes[from..bytes.len().min(at + 400)]).into_owned()
        };
        let (a, b) = (near(&ours.stdout), near(&theirs.stdout));
        panic!("{argv:?} differs from byte {at} on\nguest: {a}\nhost: {b}\nguest's stderr: {}", ours.stderr);
    }
    ours
}

fn tail(outcome: &Outcome) -> String {
    let from = outcome.stdout.len().saturating_sub(2000);
    format!("{}\n{}", String::from_utf8_lossy(&outcome.stdout[from..]), outcome.stderr)
}
