//! Very many threads or processes that only wait.

use crate::MARK;
use crate::sys::{fork, reap};
use std::io::{Error, ErrorKind, PipeReader, Read, Result, pipe};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

/// Makes them, says `ready SECONDS`, waits for the end of standard input, ends them, and says `ended SECONDS`.
pub fn run(kind: &str, count: usize) -> Result<()> {
    match kind {
        "threads" => threads(count),
        "processes" => processes(count),
        _ => Err(Error::new(ErrorKind::InvalidInput, format!("{kind}: neither threads nor processes"))),
    }
}

/// Says that all are there, and returns the time at which they have to go.
fn hold(start: Instant) -> Result<Instant> {
    println!("{MARK}ready {}", start.elapsed().as_secs_f64());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(Instant::now())
}

fn ended(start: Instant) {
    println!("{MARK}ended {}", start.elapsed().as_secs_f64());
}

fn threads(count: usize) -> Result<()> {
    let gate = (Mutex::new(false), Condvar::new());
    let start = Instant::now();
    let leave = std::thread::scope(|scope| {
        let made: Result<()> = (0..count).try_for_each(|n| {
            // Small stacks: the number is what is asked about.
            let thread = std::thread::Builder::new().stack_size(16 << 10).spawn_scoped(scope, || {
                let guard = gate.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                drop(gate.1.wait_while(guard, |open| !*open));
            });
            thread.map(drop).map_err(|e| Error::other(format!("after {n} threads: {e}")))
        });
        let leave = made.and_then(|()| hold(start));
        *gate.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        gate.1.notify_all();
        leave
    })?;
    ended(leave);
    Ok(())
}

fn processes(count: usize) -> Result<()> {
    let (reader, writer) = pipe()?;
    let start = Instant::now();
    let mut children = Vec::new();
    let made: Result<()> = (0..count).try_for_each(|n| {
        let child = fork(|| wait_for_end(&reader, &writer));
        children.push(child.map_err(|e| Error::other(format!("after {n} processes: {e}")))?);
        Ok(())
    });
    let leave = made.and_then(|()| hold(start));
    // The last end for writing: now every child's read ends.
    drop(writer);
    for child in children {
        reap(child)?;
    }
    ended(leave?);
    Ok(())
}

/// A child's life: until nobody can write to the pipe.
fn wait_for_end(mut reader: &PipeReader, writer: &std::io::PipeWriter) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the child's copy of a descriptor that it never uses again; it leaves by `_exit`.
    crate::sys::check(unsafe { libc::close(writer.as_raw_fd()) })?;
    reader.read_to_end(&mut Vec::new()).map(drop)
}
