//! A command with a time limit, in a process group of its own; only that group is killed when time is up.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// The factor on every time limit.
pub fn patience() -> u32 {
    std::env::var("VKERNEL_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A command to run.
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
    limit: Duration,
    shown: String,
}

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status, or 128 + n when signal n ended it.
    pub code: i32,
    /// Signal that ended it, 0 for none.
    pub signal: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, for people.
    pub stderr: String,
    shown: String,
}

impl Run {
    /// A command with an empty standard input, the C locale and 120 seconds of time.
    pub fn new(program: impl AsRef<OsStr>) -> Run {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command.process_group(0);
        command.env("LC_ALL", "C").env("TZ", "UTC").env("TERM", "xterm").env_remove("RUST_BACKTRACE");
        let shown = program.to_string_lossy().into_owned();
        Run { command, stdin: Vec::new(), limit: Duration::from_secs(120), shown }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Run {
        args.into_iter().fold(self, Run::arg)
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Run {
        self.command.current_dir(dir);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// Bytes to send to standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.stdin = bytes.into();
        self
    }

    /// Changes the time limit, in seconds before patience.
    pub fn limit(mut self, seconds: u64) -> Run {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Runs as another user without supplementary groups; for the superuser only.
    pub fn user(mut self, uid: u32) -> Run {
        self.command.uid(uid).gid(uid);
        self
    }

    /// Starts it with the streams as pipes, for tests that talk to it. The caller ends it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(mut self) -> Child {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.shown))
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or its time is up; what it wrote is in the message.
    pub fn run(self) -> Outcome {
        let (shown, stdin, limit) = (self.shown.clone(), self.stdin.clone(), self.limit * patience());
        let mut child = self.spawn();
        let mut pipe = child.stdin.take().expect("a pipe");
        // A command need not read its input: EPIPE is no failure.
        let writer = thread::spawn(move || drop(pipe.write_all(&stdin)));
        let out = collect(child.stdout.take().expect("a pipe"));
        let err = collect(child.stderr.take().expect("a pipe"));
        let group = child.id().cast_signed();
        let (sender, ended) = channel();
        // The streams end after the last process that holds them; that is within the limit, too.
        let waiter = thread::spawn(move || {
            let status = child.wait().expect("our own child");
            let streams = (out.join().expect("a reader"), err.join().expect("a reader"));
            let _ = sender.send(());
            (status, streams)
        });
        let in_time = ended.recv_timeout(limit).is_ok();
        if !in_time {
            // SAFETY: plain system call; the group is that of our own child, of which at least the leader or
            // a member that holds a stream is still there.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let (status, (stdout, stderr)) = waiter.join().expect("a waiter");
        writer.join().expect("a writer");
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        let end =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned();
        assert!(in_time, "time is up ({limit:?}): {shown}\nstdout: {}\nstderr: {stderr}", end(&stdout));
        Outcome { code: code(status), signal: status.signal().unwrap_or(0), stdout, stderr, shown }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe");
        bytes
    })
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

impl Outcome {
    /// Standard output as text.
    ///
    /// # Panics
    /// When it is none.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("UTF-8")
    }

    /// Asserts that the exit status is 0, and passes itself on.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn ok(self) -> Outcome {
        self.exits(0)
    }

    /// Asserts the exit status, and passes itself on.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Outcome {
        let out = String::from_utf8_lossy(&self.stdout);
        assert_eq!(self.code, code, "{}\nstdout: {out}\nstderr: {}", self.shown, self.stderr);
        self
    }
}
