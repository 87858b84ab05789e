//! How a kernel ends: with its program, on SIGTERM, by SIGKILL.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::{Duration, Instant};
use vk_e2e_tests::{guest, patience, same};

/// Starts a shell script as a guest and waits for its first line.
fn start(script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = guest(&[]).args(["bash", "-c", script]).spawn();
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a pipe");
    assert_eq!(line, "ready\n");
    (child, out)
}

fn send(child: &Child, signal: i32) {
    // SAFETY: plain system call; the child has not been waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), signal) }, 0);
}

/// Host processes below one, at any depth.
fn below(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let mut all = Vec::new();
    for task in tasks {
        let path = task.expect("a task").path().join("children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for child in text.split_whitespace().map(|n| n.parse::<u32>().expect("a number")) {
            all.push(child);
            all.extend(std::fs::metadata(format!("/proc/{child}")).map(|_| below(child)).unwrap_or_default());
        }
    }
    all
}

/// Waits until processes have ended; the host takes a moment to reap them.
fn gone(pids: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(20) * patience();
    let alive = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    };
    while pids.iter().any(alive) {
        assert!(Instant::now() < deadline, "still there: {pids:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn statuses_are_the_programs() {
    for code in [0, 1, 77, 255] {
        same(&["sh", "-c", &format!("exit {code}")]).exits(code);
    }
    for signal in ["TERM", "KILL", "SEGV", "ABRT", "USR1", "PIPE"] {
        same(&["sh", "-c", &format!("ulimit -c 0; kill -{signal} $$")]);
    }
    // The kernel ends with its first program, as a container does, whatever else runs.
    guest(&[]).args(["sh", "-c", "sleep 1000 & setsid sleep 1000 & exit 6"]).run().exits(6);
}

#[test]
fn termination_ends_the_guests_in_order() {
    // Every process gets the signal from the kernel, once: the shell does not send it to the other one as well.
    let script = "trap 'echo first; wait; exit 9' TERM; (trap 'echo second; exit' TERM; echo ready; while :; do sleep 0.05; done) & while :; do wait; done";
    let (mut child, mut out) = start(script);
    let parts = below(child.id());
    send(&child, libc::SIGTERM);
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("a pipe");
    assert_eq!(child.wait().expect("our own child").code(), Some(9), "{rest}");
    let mut lines: Vec<&str> = rest.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["first", "second"]);
    gone(&parts);
}

#[test]
fn termination_ends_guests_that_ignore_it() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (mut child, _out) = start("trap '' TERM INT; echo ready; while :; do :; done");
        let parts = below(child.id());
        let begun = Instant::now();
        send(&child, signal);
        let status = child.wait().expect("our own child");
        assert!(begun.elapsed() < Duration::from_secs(60) * patience());
        assert!(!status.success());
        gone(&parts);
    }
}

#[test]
fn a_killed_kernel_leaves_no_process() {
    let (mut child, _out) = start(
        "for i in 1 2 3 4; do sleep 1000 & done; (while :; do :; done) & setsid sleep 1000 & sleep 0.1; echo ready; wait",
    );
    let parts = below(child.id());
    assert!(!parts.is_empty());
    send(&child, libc::SIGKILL);
    assert_eq!(child.wait().expect("our own child").signal(), Some(libc::SIGKILL));
    gone(&parts);
}

#[test]
fn a_crash_of_a_guest_is_its_own() {
    let script = "ulimit -c 0; /usr/bin/python3 -c 'import ctypes; ctypes.string_at(1)'; echo $?; sh -c 'kill -ILL $$'; echo $?; echo alive";
    same(&["sh", "-c", script]).exits(0);
}
