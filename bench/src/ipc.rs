//! Two tasks that talk.

use crate::Context;
use crate::clock::each;
use crate::sys::{check, exactly, fork, pin, reap};
use std::io::{Error, ErrorKind, PipeReader, PipeWriter, Read, Result, Write, pipe};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

/// Sends a byte and waits for it to come back.
fn round_trips(cx: &Context, mut to: impl Write, mut from: impl Read) -> Result<f64> {
    let mut byte = [1];
    each(cx.time, || {
        to.write_all(&byte)?;
        from.read_exact(&mut byte)
    })
}

/// Sends every byte back until there are no more.
fn echo(mut from: impl Read, mut to: impl Write) -> Result<()> {
    let mut byte = [0];
    loop {
        match from.read(&mut byte)? {
            0 => return Ok(()),
            _ => to.write_all(&byte)?,
        }
    }
}

/// A round trip over two pipes between two processes. `bind` runs in both before they start.
fn over_pipes(cx: &Context, bind: fn() -> Result<()>) -> Result<f64> {
    let (their_in, our_out) = pipe()?;
    let (our_in, their_out) = pipe()?;
    let ours: (PipeReader, PipeWriter) = (our_in, our_out);
    bind()?;
    let ends = (their_in, their_out);
    let child = fork(|| {
        drop(ours_in_child(&ours));
        echo(&ends.0, &ends.1)
    })?;
    drop(ends);
    let ns = round_trips(cx, &ours.1, &ours.0);
    drop(ours);
    reap(child)?;
    ns
}

/// Closes the parent's ends in the child, which else would never see the end of its input.
fn ours_in_child(ours: &(PipeReader, PipeWriter)) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the child's copies of two descriptors that it does not use again: it leaves by `_exit`, so their owners in its copy
    // of memory are never dropped.
    unsafe {
        check(libc::close(ours.0.as_raw_fd()))?;
        check(libc::close(ours.1.as_raw_fd())).map(drop)
    }
}

pub fn pipe_pingpong(cx: &Context) -> Result<f64> {
    over_pipes(cx, || Ok(()))
}

/// Half a round trip on one CPU: a write, a read and one switch.
pub fn context_switch(cx: &Context) -> Result<f64> {
    Ok(over_pipes(cx, pin)? / 2.0)
}

pub fn unix_pingpong(cx: &Context) -> Result<f64> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = fork(|| {
        ours.shutdown_in_child()?;
        echo(&theirs, &theirs)
    })?;
    drop(theirs);
    let ns = round_trips(cx, &ours, &ours);
    drop(ours);
    reap(child)?;
    ns
}

trait CloseInChild {
    fn shutdown_in_child(&self) -> Result<()>;
}

impl CloseInChild for UnixStream {
    fn shutdown_in_child(&self) -> Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: as in `ours_in_child`.
        check(unsafe { libc::close(self.as_raw_fd()) }).map(drop)
    }
}

/// Whose turn it is between two threads.
struct Turn {
    turn: AtomicU32,
    done: AtomicBool,
}

impl Turn {
    /// Sleeps until it is `own`'s turn; false when the game is over.
    fn wait(&self, own: u32) -> Result<bool> {
        loop {
            let now = self.turn.load(Ordering::Acquire);
            if self.done.load(Ordering::Acquire) {
                return Ok(false);
            }
            if now == own {
                return Ok(true);
            }
            let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
            let none = std::ptr::null::<libc::timespec>();
            // SAFETY: the word is live.
            let answer = unsafe { libc::syscall(libc::SYS_futex, self.turn.as_ptr(), op, now, none) };
            match check(answer) {
                Err(e) if ![ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&e.kind()) => {
                    return Err(e);
                }
                _ => {}
            }
        }
    }

    fn give(&self, other: u32) -> Result<()> {
        self.turn.store(other, Ordering::Release);
        let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word is live.
        check(unsafe { libc::syscall(libc::SYS_futex, self.turn.as_ptr(), op, 1) }).map(drop)
    }
}

pub fn futex_pingpong(cx: &Context) -> Result<f64> {
    let game = Turn { turn: AtomicU32::new(0), done: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<()> {
            while game.wait(1)? {
                game.give(0)?;
            }
            Ok(())
        });
        let ns = each(cx.time, || {
            game.give(1)?;
            game.wait(0).map(drop)
        });
        game.done.store(true, Ordering::Release);
        game.give(1)?;
        other.join().unwrap_or_else(|_| Err(Error::other("the other thread panicked")))?;
        ns
    })
}

/// Bytes a second through a pipe between two processes, in pieces of 64 KiB, from the first byte to the last.
pub fn pipe_bandwidth(cx: &Context) -> Result<f64> {
    const PIECE: usize = 64 << 10;
    let (mut reader, mut writer) = pipe()?;
    let mut buffer = vec![7u8; PIECE];
    let child = fork(|| {
        use std::os::fd::AsRawFd;
        // SAFETY: as in `ours_in_child`.
        check(unsafe { libc::close(reader.as_raw_fd()) })?;
        // The reader goes away when it has seen enough; Rust programs ignore SIGPIPE.
        while writer.write_all(&buffer).is_ok() {}
        Ok(())
    })?;
    drop(writer);
    exactly(reader.read(&mut buffer[..1])? as isize, 1)?;
    let (start, mut bytes) = (Instant::now(), 0);
    let rate = loop {
        match reader.read(&mut buffer)? {
            0 => return Err(Error::other("the writer ended")),
            got => bytes += got,
        }
        let took = start.elapsed();
        if took >= cx.time {
            break bytes as f64 / took.as_secs_f64();
        }
    };
    drop(reader);
    reap(child)?;
    Ok(rate)
}
