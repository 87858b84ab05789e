//! Errors of the command itself: one clear line on standard error, exit status 125, nothing on standard output.

use std::process::{Command, Output};

fn vkernel(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vkernel")).args(args).output().expect("the binary runs")
}

#[test]
fn wrong_options_are_one_line_and_125() {
    let dir = std::env::temp_dir();
    let dir = dir.to_str().expect("a UTF-8 path");
    let here = format!("{dir}:relative");
    let mode = format!("{dir}:/mnt:rx");
    for (args, expect) in [
        (&["run", "--memory", "1K", "true"][..], "16M"),
        (&["run", "--memory", "100000T", "true"], "64T"),
        (&["run", "--memory", "60T", "true"], "sixteen times"),
        (&["run", "--memory", "lots", "true"], "512M"),
        (&["run", "--memory", "-1", "true"], "--memory"),
        (&["run", "--cpus", "0", "true"], "--cpus"),
        (&["run", "--cpus", "-1", "true"], "--cpus"),
        (&["run", "--cpus", "65", "true"], "at most --cpus 64"),
        (&["run", "--user", "-1", "true"], "--user"),
        (&["run", "-5"], "-5"),
        (&["run", "--root", "/does/not/exist", "true"], "/does/not/exist"),
        (&["run", "--root", "/dev/null", "true"], "not a directory"),
        (&["run", "--volume", "/does/not/exist:/mnt", "true"], "/does/not/exist"),
        (&["run", "--volume", &here, "true"], "absolute"),
        (&["run", "--volume", &mode, "true"], "ro or rw"),
        (&["run", "--user", "no-such-user", "true"], "no-such-user"),
        (&["run", "--env", "NAME", "true"], "NAME=VALUE"),
        (&["run", "--workdir", "relative", "true"], "absolute"),
        (&["run", "--hostname", "", "true"], "--hostname"),
        (&["run", "--log", "loud", "true"], "loud"),
        (&["run", "--no-such-option", "true"], "--no-such-option"),
        (&["run", ""], "empty"),
        (&["no-such-command"], "no-such-command"),
    ] {
        let out = vkernel(args);
        let err = String::from_utf8(out.stderr).expect("UTF-8");
        assert_eq!(out.status.code(), Some(125), "{args:?}: {err}");
        assert!(out.stdout.is_empty(), "{args:?}");
        assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
        assert!(err.starts_with("vkernel: ") && err.contains(expect), "{args:?}: {err}");
    }
}

#[test]
fn help_version_and_listing_go_to_standard_output() {
    for (args, expect) in [
        (&["--version"][..], env!("CARGO_PKG_VERSION")),
        (&["run", "--version"], env!("CARGO_PKG_VERSION")),
        (&["--help"], "syscalls"),
        (&["run", "--help"], "--read-only"),
        (&["syscalls"], "openat"),
    ] {
        let out = vkernel(args);
        assert!(out.status.success() && out.stderr.is_empty(), "{args:?}");
        assert!(String::from_utf8_lossy(&out.stdout).contains(expect), "{args:?}");
    }
}
