//! Bad input: a clear error of one line, the right status, no panic.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use vk_e2e_tests::{Run, guest, host, need, temp, vkernel};

fn raw(args: &[&str]) -> Run {
    Run::new(vkernel()).arg("run").args(args)
}

#[track_caller]
fn refused(args: &[&str], code: i32, says: &str) {
    let out = raw(args).run();
    assert_eq!((out.code, out.text()), (code, ""), "{args:?}: {}", out.stderr);
    assert_eq!(out.stderr.lines().count(), 1, "{args:?}: {}", out.stderr);
    assert!(out.stderr.starts_with("vkernel: ") && out.stderr.contains(says), "{args:?}: {}", out.stderr);
}

#[test]
fn roots_and_memory_and_volumes() {
    let dir = temp();
    let d = dir.path().to_str().expect("UTF-8");
    refused(&["--root", "/no/such/root", "true"], 125, "/no/such/root");
    refused(&["--root", "/etc/passwd", "true"], 125, "/etc/passwd");
    refused(&["--root", d, "/bin/true"], 127, "/bin/true");
    for size in ["1K", "0", "-1", "", "x", "99999999999999999999G", "1000000T"] {
        refused(&[&format!("--memory={size}"), "true"], 125, "memory");
    }
    for volume in [
        "",
        ":",
        "/tmp",
        "/tmp:",
        ":/mnt",
        "/no/such:/mnt",
        "/tmp:relative",
        "/tmp:/mnt:xx",
        "/etc/passwd:/etc",
    ] {
        refused(&["--volume", volume, "true"], 125, "");
    }
    refused(&["--workdir", "/no/such/dir", "true"], 125, "/no/such/dir");
    refused(&["--workdir", "/etc/passwd", "true"], 125, "/etc/passwd");
    refused(&["--user", "nobody-of-that-name", "true"], 125, "nobody-of-that-name");
    refused(&["--cpus", "99999", "true"], 125, "cpus");
}

#[test]
fn programs_that_cannot_run() {
    let dir = temp();
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_string();
    for (name, bytes, mode) in [
        ("plain", &b"echo plain\n"[..], 0o644),
        ("empty", b"", 0o755),
        ("nowhere", b"#!/no/such/interpreter\n", 0o755),
        ("half", b"\x7fELF\x02\x01\x01", 0o755),
        ("garbage", &[0xff; 4096], 0o755),
        ("self", b"#!./self\n", 0o755),
        ("sub", b"", 0o644),
    ] {
        fs::write(dir.path().join(name), bytes).expect("our own directory");
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode))
            .expect("our own directory");
    }
    for (name, code) in [
        ("plain", 126),
        ("nowhere", 127),
        ("half", 126),
        ("garbage", 126),
        ("empty", 126),
        ("none", 127),
        ("sub/x", 126),
    ] {
        refused(&["--", &path(name)], code, name);
    }
    refused(&["--", dir.path().to_str().expect("UTF-8")], 126, "");
    refused(&["--", "no-such-program-anywhere"], 127, "no-such-program-anywhere");
    // And as seen by a guest's shell, beside the host's.
    let script = "for p in plain nowhere half garbage none sub/x; do ./$p; echo $?; done";
    let ours = guest(&[]).args(["bash", "-c", script]).dir(dir.path()).run().ok();
    let theirs = host("bash").args(["-c", script]).dir(dir.path()).run().ok();
    assert_eq!(ours.text(), theirs.text());
    assert_eq!(ours.stderr.replace("bash: line 1: ", ""), theirs.stderr.replace("bash: line 1: ", ""));
}

#[test]
fn very_many_and_very_long_arguments() {
    let long = "x".repeat(100_000);
    let out =
        guest(&[]).args(["sh", "-c", "echo $# ${#1}", "sh"]).args(std::iter::repeat_n(&long, 10)).run().ok();
    assert_eq!(out.text(), "10 100000\n");
    let script = "import os\nfor a in ([b'x' * (1 << 17)], [b'x'] * 300000, [b'x' * 131071]):\n  try: os.posix_spawn('/bin/true', a, {}); print('ran')\n  except OSError as e: print(e.errno)\n";
    vk_e2e_tests::same(&["/usr/bin/python3", "-c", script]).exits(0);
}

#[test]
fn closed_streams() {
    let vk = vkernel().display();
    // Writing to a closed standard output is the guest's error as it is on the host.
    for redirection in
        ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-", ">/dev/full", "</dev/null >/dev/null"]
    {
        let inner = "cat; echo out; echo $? >&2";
        let ours = host("sh")
            .args(["-c", &format!("'{vk}' run --log error -- sh -c '{inner}' {redirection}")])
            .stdin("in\n")
            .run();
        let theirs = host("sh").args(["-c", &format!("sh -c '{inner}' {redirection}")]).stdin("in\n").run();
        assert_eq!(
            (ours.code, ours.text(), &ours.stderr),
            (theirs.code, theirs.text(), &theirs.stderr),
            "{redirection}"
        );
    }
    need("head");
    let out = host("bash")
        .args(["-c", &format!("'{vk}' run --log error -- yes | head -2; echo ${{PIPESTATUS[0]}}")])
        .run()
        .ok();
    assert_eq!(out.text(), "y\ny\n141\n");
}

#[test]
fn too_little_memory_for_the_program() {
    // The guest that asks for too much dies, or is refused; the kernel and its other guests go on.
    let script = "/usr/bin/python3 -c 'x = bytearray(300 << 20); print(len(x))' 2>/dev/null; echo status $?; echo alive";
    let out = guest(&["--memory", "64M"]).args(["sh", "-c", script]).run().ok();
    assert!(
        out.text() == "status 137\nalive\n" || out.text() == "status 1\nalive\n",
        "{}\n{}",
        out.text(),
        out.stderr
    );
    let out = guest(&["--memory", "64M"])
        .args([
            "sh",
            "-c",
            "dd if=/dev/zero of=/tmp/big bs=1M count=200 2>/dev/null; rm -f /tmp/big; echo alive",
        ])
        .run()
        .ok();
    assert_eq!(out.text(), "alive\n", "{}", out.stderr);
    let out = raw(&["--memory", "16M", "--", "/bin/true"]).run();
    assert!(!out.stderr.contains("panic"), "{}", out.stderr);
}
