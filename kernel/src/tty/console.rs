//! The outside's terminal: a near end whose other side is the machine's standard streams.
//!
//! The host's own line discipline is raw; everything that a user sees a terminal do happens here. When the line discipline has no room,
//! input stays with the host until a program reads.

use super::terminal::{Far, QUEUE_MAX, Terminal};
use crate::Kernel;
use abi::Errno;
use abi::tty::Winsize;
use alloc::sync::Arc;
use hal::{Readiness, Stream, StreamKind};

/// Bytes read from the host at a time.
const CHUNK: usize = 1024;

/// The streams that are the terminal: where to read and where to write. `None` when none of the three is one.
pub(super) fn streams(kernel: &Kernel) -> Option<(Arc<dyn Stream>, Arc<dyn Stream>)> {
    let terminal = |i: usize| kernel.machine.stream(i).filter(|stream| stream.kind() == StreamKind::Terminal);
    let input = terminal(0).or_else(|| terminal(1)).or_else(|| terminal(2))?;
    let output = terminal(1).or_else(|| terminal(2)).or_else(|| terminal(0))?;
    Some((input, output))
}

/// The window's size as the host says.
fn window(terminal: &Terminal) -> Option<Winsize> {
    let Far::Console { input, output } = &terminal.far else { return None };
    let size = output.window_size().or_else(|| input.window_size())?;
    Some(Winsize { row: size.rows, col: size.cols, xpixel: size.xpixel, ypixel: size.ypixel })
}

/// Looks whether the outside's window has another size than before. What was typed behind that comes after it, as on any terminal, so this is done before input is taken; events
/// of the outside may be served on several CPUs.
pub(super) fn look_at_window(terminal: &Terminal) {
    let Some(size) = window(terminal) else { return };
    let before = terminal.state.lock().outside.replace(size);
    if before != Some(size) {
        terminal.set_window(size);
    }
}

/// Takes what the host has, and gives it what it takes.
pub(super) fn ready(terminal: &Terminal) {
    let mut after = super::terminal::After::default();
    terminal.drain(&mut terminal.state.lock(), &mut after);
    terminal.apply(after);
    pull(terminal);
}

/// A reader has made room: goes on reading if the host was held up.
pub(super) fn refill(terminal: &Terminal) {
    if terminal.is_console() && terminal.state.lock().incoming.is_empty() {
        pull(terminal);
    }
}

fn pull(terminal: &Terminal) {
    let Far::Console { input, .. } = &terminal.far else { return };
    let mut bytes = [0u8; CHUNK];
    loop {
        if terminal.state.lock().incoming.len() + CHUNK > QUEUE_MAX {
            // Held up: the next reader comes back here.
            return;
        }
        match input.read(&mut bytes) {
            Ok(0) => return closed(terminal),
            Ok(n) => {
                look_at_window(terminal);
                terminal.receive(bytes.get(..n).unwrap_or_default());
            }
            Err(Errno::EAGAIN) => {
                input.watch(Readiness::READ);
                return;
            }
            Err(_) => return closed(terminal),
        }
    }
}

/// The outside hung up.
fn closed(terminal: &Terminal) {
    let first = !core::mem::replace(&mut terminal.state.lock().far_closed, true);
    if first {
        terminal.hang_up(true);
    }
}
