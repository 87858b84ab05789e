//! The command from outside: exit statuses, streams, signals, files, and that nothing stays behind.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

fn vkernel(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vkernel"));
    command.args(["run", "--memory", "128M", "--log", "error"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit status, standard output and standard error.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let out = vkernel(args).output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// Starts a shell script and waits until it has printed a line.
fn start(script: &str) -> Child {
    let mut child = vkernel(&["--", "/bin/sh", "-c", script]).spawn().expect("the binary runs");
    let mut byte = [0];
    let stdout = child.stdout.as_mut().expect("a pipe");
    while stdout.read_exact(&mut byte).is_ok() && byte != *b"\n" {}
    child
}

fn kill(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
    assert!(status.success());
}

/// The host processes that a running command consists of, besides itself.
fn helpers(child: &Child) -> Vec<String> {
    let path = format!("/proc/{0}/task/{0}/children", child.id());
    let text = std::fs::read_to_string(path).expect("the command runs");
    text.split_whitespace().map(str::to_string).collect()
}

#[test]
fn the_exit_status_is_the_programs() {
    assert_eq!(run(&["true"]).0, Some(0));
    assert_eq!(run(&["--", "sh", "-c", "exit 77"]).0, Some(77));
    assert_eq!(run(&["--", "sh", "-c", "kill -9 $$"]).0, Some(137));
    for (program, code) in
        [("/no/such/program", 127), ("no-such-program", 127), ("/etc/passwd", 126), ("/", 126)]
    {
        let (status, _, err) = run(&[program]);
        assert_eq!(status, Some(code), "{program}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.starts_with("vkernel: ") && err.contains(program), "{err}");
    }
}

#[test]
fn streams_pass_bytes_exactly() {
    let mut child = vkernel(&["cat"]).stdin(Stdio::piped()).spawn().expect("the binary runs");
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut stdin = child.stdin.take().expect("a pipe");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let out = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("all is read");
    assert!(out.status.success());
    assert!(out.stdout == bytes, "{} bytes of {}", out.stdout.len(), bytes.len());
}

#[test]
fn a_closed_reader_ends_the_writer() {
    let mut child = vkernel(&["--", "sh", "-c", "yes; echo $? >&2"]).spawn().expect("the binary runs");
    drop(child.stdout.take());
    let out = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&out.stderr).lines().last(), Some("141"));
}

#[test]
fn closed_standard_descriptors_are_closed_in_the_guest() {
    let script = format!(
        "exec '{}' run --memory 128M --log error -- sh -c 'for fd in 0 1 2; do [ -e /proc/self/fd/$fd ]; done; echo x' <&- 2>&-",
        env!("CARGO_BIN_EXE_vkernel")
    );
    let out = Command::new("/bin/sh").args(["-c", &script]).output().expect("sh runs");
    assert!(out.status.success());
    assert_eq!(out.stdout, b"x\n");
}

#[test]
fn an_orderly_end_on_termination() {
    let mut child = start("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    kill(&child, "-TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(9));
    let mut child = start("echo ready; while :; do :; done");
    kill(&child, "-HUP");
    assert_eq!(child.wait().expect("it ends").code(), Some(129));
}

#[test]
fn nothing_is_left_behind_when_killed() {
    let mut child = start("echo ready; sleep 1000 & while :; do :; done");
    let helpers = helpers(&child);
    assert!(!helpers.is_empty());
    kill(&child, "-KILL");
    assert_eq!(child.wait().expect("it ends").signal(), Some(9));
    let is_alive = |pid: &String| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie that its new parent has not reaped yet is dead.
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    };
    // The host kills them as the last thread of the command ends; that takes a moment, but not a second.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while helpers.iter().any(is_alive) {
        assert!(std::time::Instant::now() < deadline, "still alive: {helpers:?}");
        std::thread::yield_now();
    }
}

#[test]
fn writes_stay_in_the_layer_and_go_through_volumes() {
    let dir: PathBuf = std::env::temp_dir().join(format!("vkernel-run-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).expect("a directory");
    let path = dir.to_str().expect("UTF-8");
    let script = format!("echo data > {path}/layer && cat {path}/layer");
    let (status, out, err) = run(&["--", "sh", "-c", &script]);
    assert_eq!((status, out.as_str()), (Some(0), "data\n"), "{err}");
    assert!(!dir.join("layer").exists());
    let volume = format!("{path}:/mnt");
    let (status, _, err) = run(&["--volume", &volume, "--", "sh", "-c", "echo data > /mnt/through"]);
    assert_eq!(status, Some(0), "{err}");
    assert_eq!(std::fs::read(dir.join("through")).expect("it is there"), b"data\n");
    let volume = format!("{path}:/mnt:ro");
    let (status, _, err) = run(&["--volume", &volume, "--", "sh", "-c", "echo data > /mnt/refused"]);
    assert_ne!(status, Some(0));
    assert!(err.contains("Read-only"), "{err}");
    let (status, _, err) = run(&["--read-only", "--", "touch", "/tmp/refused"]);
    assert_eq!(status, Some(1));
    assert!(err.contains("Read-only"), "{err}");
    std::fs::remove_dir_all(&dir).expect("only what was written is there");
}

#[test]
fn environment_user_directory_and_host_name() {
    let show = "echo $A $HOME; id -u; id -g; pwd; hostname || uname -n";
    let options = ["--env", "A=b=c", "--user", "12:34", "--workdir", "/usr", "--hostname", "box"];
    let args: Vec<&str> = options.iter().copied().chain(["--", "sh", "-c", show]).collect();
    let (status, out, err) = run(&args);
    assert_eq!(status, Some(0), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("b=c "), "{out}");
    assert_eq!(lines[1..], ["12", "34", "/usr", "box"], "{out}");
}

#[test]
fn a_trace_names_what_is_called_with_what() {
    let script = "cat /etc/hostname >/dev/null; cd /no/such/dir; ( exit 3 )";
    let (status, _, err) = run(&["--strace", "--", "bash", "-c", script]);
    assert_eq!(status, Some(3));
    for part in [
        r#"execve("/usr/bin/cat", ["cat", "/etc/hostname"], 0x"#,
        r#"openat(AT_FDCWD, "/etc/hostname", O_RDONLY) = "#,
        r#"openat(AT_FDCWD, "/dev/null", O_WRONLY|O_CREAT|O_TRUNC, 0666) = "#,
        r#"newfstatat(3, "", {st_mode=S_IFREG|0"#,
        r#"read(3, "\x7fELF"#,
        r#"chdir("/no/such/dir") = -1 ENOENT (No such file or directory)"#,
        "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x",
        // With WNOHANG if the signal of the child's end was faster.
        "wait4(-1, [{WIFEXITED(s) && WEXITSTATUS(s) == 3}], ",
        "sa_flags=SA_RESTORER|SA_RESTART}",
        "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD",
        "exit_group(3) = ?",
    ] {
        assert!(err.contains(part), "{part}\n{err}");
    }
}

#[test]
fn a_file_on_standard_output_can_be_truncated_and_named() {
    let path = std::env::temp_dir().join(format!("vkernel-stdout-{}", std::process::id()));
    let text = |script: &str| {
        std::fs::write(&path, "before\n").expect("a temporary file");
        let file = std::fs::OpenOptions::new().append(true).open(&path).expect("it is there");
        let out = vkernel(&["--", "sh", "-c", script]).stdout(file).output().expect("the binary runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        std::fs::read_to_string(&path).expect("it is there")
    };
    assert_eq!(text("echo one >>/dev/stdout; echo two"), "before\none\ntwo\n");
    assert_eq!(text("echo one; echo two >/dev/stdout"), "two\n");
    assert_eq!(text("truncate -s 3 /dev/stdout"), "bef");
    std::fs::remove_file(&path).expect("it is there");
}
