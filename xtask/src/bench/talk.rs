//! A running program that says when it is ready, and ends when its input does.

use super::child::Running;
use super::interrupt::Interrupt;
use anyhow::{Result, bail};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use vk_bench::MARK;

/// The program, and what it says.
pub struct Talk {
    pub running: Running,
    lines: Receiver<String>,
}

impl Talk {
    pub fn start(words: &[String]) -> Result<Talk> {
        let mut running = Running::start(words, Stdio::piped())?;
        let (sender, lines) = channel();
        if let Some(stdout) = running.child().stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Talk { running, lines })
    }

    /// Waits for the marked line that starts with a word, and returns the rest of it.
    pub fn expect(&mut self, word: &str, limit: Duration, interrupt: &Interrupt) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    let Some(said) = line.trim_end().strip_prefix(MARK) else { continue };
                    match said.strip_prefix(word) {
                        Some(rest) => return Ok(rest.trim().to_string()),
                        None => bail!("{said}"),
                    }
                }
                Err(RecvTimeoutError::Disconnected) => bail!("it ended{}", self.running.tail()),
                Err(RecvTimeoutError::Timeout) if interrupt.is_set() => bail!("interrupted"),
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    bail!("time is up ({} s){}", limit.as_secs(), self.running.tail())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Ends its input.
    pub fn close(&mut self) {
        drop(self.running.child().stdin.take());
    }
}
