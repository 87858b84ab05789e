//! What has to pass.

use crate::run::{cargo, step};
use anyhow::{Result, bail};
use std::process::Command;

/// A target that has no standard library.
const BARE: &str = "x86_64-unknown-none";

/// Runs every check, or the tests alone.
pub fn run(tests_only: bool) -> Result<()> {
    if !tests_only {
        step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
        step(
            "lints",
            &mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
        )?;
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
        doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
        step("documentation", &mut doc)?;
        no_std()?;
    }
    // The end-to-end tests run the release build.
    step("the command", &mut cargo(&["build", "--release", "--package", "vkernel"]))?;
    for dir in ["abi", "attack"] {
        step("guest test programs", &mut guest_programs(dir))?;
    }
    step(
        "unit and layer tests",
        &mut cargo(&["test", "--workspace", "--exclude", "vk-e2e-tests", "--features", "vk-hal/mock"]),
    )?;
    step("end-to-end tests", &mut cargo(&["test", "--package", "vk-e2e-tests"]))
}

/// The static programs of a directory of `tests`.
fn guest_programs(dir: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg(format!("tests/{dir}/build")).current_dir(crate::run::workspace());
    command
}

/// Builds the crates that must not need std for a target that has none.
pub fn no_std() -> Result<()> {
    let installed = Command::new("rustup").args(["target", "list", "--installed"]).output();
    if let Ok(output) = installed {
        if !String::from_utf8_lossy(&output.stdout).lines().any(|l| l == BARE) {
            step("target without std", Command::new("rustup").args(["target", "add", BARE]))?;
        }
    } else {
        bail!("rustup is needed to build for {BARE}; without it, install that target's core library by hand");
    }
    step(
        "kernel crates without std",
        &mut cargo(&["build", "-p", "vk-abi", "-p", "vk-hal", "-p", "vk-kernel", "--target", BARE]),
    )
}
