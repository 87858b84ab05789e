//! A command with a time limit, and the end of everything that it has started.

use super::interrupt::Interrupt;
use super::processes;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running command. Dropping it ends it, with all its descendants.
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    stderr: Option<JoinHandle<String>>,
    shown: String,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// From before its start until its end was seen.
    pub took: Duration,
    pub stdout: String,
    pub stderr: String,
}

impl Running {
    /// Starts it in a process group of its own, so that Ctrl-C reaches us alone. Its output can be taken from the child.
    pub fn start(words: &[String], stdin: Stdio) -> Result<Running> {
        let (program, args) = words.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(args).process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Cargo's, for what it runs: every program would look for its libraries in four more directories.
        command.env_remove("LD_LIBRARY_PATH");
        let shown = words.join(" ");
        let mut child = command.spawn().with_context(|| shown.clone())?;
        let pid = Pid::from_child(&child);
        let stderr = child.stderr.take().map(collect);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
        Ok(Running { child, pidfd, stderr, shown })
    }

    /// The process that was started.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration, interrupt: &Interrupt) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let slice = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(100));
            if readable(self.pidfd.as_fd(), slice)? {
                return Ok(self.child.wait()?);
            }
            if interrupt.is_set() {
                bail!("interrupted");
            }
            if Instant::now() >= deadline {
                let said = self.tail();
                bail!("time is up ({} s): {}{said}", limit.as_secs(), self.shown);
            }
        }
    }

    /// Ends what is left, and returns the end of what it said on standard error, for a message.
    pub fn tail(&mut self) -> String {
        self.end();
        let said = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        let text = said.trim();
        let start = text.char_indices().rev().nth(400).map_or(0, |(at, _)| at);
        if text.is_empty() { String::new() } else { format!(": {}", &text[start..]) }
    }

    /// Kills it and every descendant, until there are none.
    fn end(&mut self) {
        let own = processes::own();
        // New ones can appear between looking and killing, so look again; the bound is for ones that don't die.
        for _ in 0..500 {
            let left: Vec<u32> = processes::descendants(own);
            // Also those that ended by themselves.
            processes::reap_all();
            if left.is_empty() {
                return;
            }
            for pid in left {
                if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a command to its end.
pub fn run(words: &[String], limit: Duration, interrupt: &Interrupt) -> Result<Ended> {
    let start = Instant::now();
    let mut running = Running::start(words, Stdio::null())?;
    let stdout = running.child().stdout.take().map(collect);
    let status = running.wait(limit, interrupt)?;
    let took = start.elapsed();
    // Nobody may hold the pipes open any more.
    running.end();
    let join = |reader: Option<JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    Ok(Ended { status, took, stdout: join(stdout), stderr: join(running.stderr.take()) })
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Whether a descriptor becomes readable in time.
pub fn readable(fd: std::os::fd::BorrowedFd<'_>, time: Duration) -> Result<bool> {
    let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(String::from).into()
    }

    // One test: ending a command ends every descendant of this process, so two at a time would end each other's.
    #[test]
    fn a_command_ends_with_all_that_it_started() {
        processes::adopt_orphans().unwrap();
        let (second, never) = (Duration::from_secs(60), Interrupt::default());

        let ended = run(&sh("echo out; echo err >&2; exit 3"), second, &never).unwrap();
        assert_eq!(
            (ended.status.code(), ended.stdout.as_str(), ended.stderr.as_str()),
            (Some(3), "out\n", "err\n")
        );

        // What a command leaves behind in the background, in a session of its own, holds none of our pipes up.
        let ended = run(&sh("setsid sleep 1000 & echo $!"), second, &never).unwrap();
        let pid: u32 = ended.stdout.trim().parse().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        let late =
            run(&sh("echo why >&2; sleep 1000"), Duration::from_millis(300), &never).unwrap_err().to_string();
        assert!(late.starts_with("time is up") && late.ends_with(": why"), "{late}");

        let stop = Interrupt::default();
        stop.set();
        assert_eq!(run(&sh("sleep 1000"), second, &stop).unwrap_err().to_string(), "interrupted");
        assert!(run(&["/no/such/program".into()], second, &never).is_err());
        assert!(processes::descendants(processes::own()).is_empty());
    }
}
