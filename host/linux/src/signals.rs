//! Signals to the process: all that matter are blocked in every thread and read from a signalfd by the I/O
//! thread, so no handler ever runs in the middle of anything.
//!
//! What is ignored when the process starts (`nohup`, a background job of a plain shell) stays ignored.
//! Crashes are the exception: a handler puts the terminal back and says what happened before the process dies.

use crate::terminal;
use std::io;
use std::mem::{size_of_val, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// Asks for an orderly end.
const TERMINATE: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
/// Concern the terminal.
const TERMINAL: [i32; 3] = [libc::SIGWINCH, libc::SIGTSTP, libc::SIGCONT];
/// A bug in the kernel or in a host part.
const CRASH: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// What a signal means to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// End in order.
    Terminate(i32),
    /// The terminal's window changed.
    WindowSize,
    /// The user wants the process stopped.
    Stop,
    /// It goes on.
    Continue,
}

/// Blocks the signals in the calling thread and in all that it starts, and returns a descriptor to read
/// them from. Call it before any thread is started.
pub(crate) fn take_over() -> io::Result<OwnedFd> {
    // SAFETY: an all-zero set is valid memory for sigemptyset.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: the set lives here.
    unsafe { libc::sigemptyset(&mut set) };
    for signal in TERMINATE.into_iter().chain(TERMINAL) {
        if !is_ignored(signal) {
            // SAFETY: a valid signal number.
            unsafe { libc::sigaddset(&mut set, signal) };
        }
    }
    let mut blocked = set;
    // So that putting the terminal back from the background cannot stop us; never read.
    // SAFETY: a valid signal number.
    unsafe { libc::sigaddset(&mut blocked, libc::SIGTTOU) };
    // SAFETY: valid sets. Writes beyond a limit shall fail, not kill.
    let fd = unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    for signal in CRASH {
        // SAFETY: the handler makes only async-signal-safe calls; it runs on the alternate stack that Rust's
        // runtime gives every thread, so that an overflowed stack is told too.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = crash as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigaction(signal, &action, ptr::null_mut());
        }
    }
    // SAFETY: a descriptor that was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: reads the present action into a zeroed structure.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        libc::sigaction(signal, ptr::null(), &mut action);
        action.sa_sigaction == libc::SIG_IGN
    }
}

/// The next signal that arrived, if any.
pub(crate) fn next(fd: &OwnedFd) -> Option<Signal> {
    loop {
        // SAFETY: plain data.
        let mut info: libc::signalfd_siginfo = unsafe { zeroed() };
        let len = size_of_val(&info);
        // SAFETY: the buffer has the length that is given.
        let got = unsafe { libc::read(fd.as_raw_fd(), ptr::from_mut(&mut info).cast(), len) };
        if got != len as isize {
            return None;
        }
        return Some(match info.ssi_signo as i32 {
            libc::SIGWINCH => Signal::WindowSize,
            libc::SIGTSTP => Signal::Stop,
            libc::SIGCONT => Signal::Continue,
            signal if TERMINATE.contains(&signal) => Signal::Terminate(signal),
            _ => continue,
        });
    }
}

extern "C" fn crash(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    terminal::restore();
    if signal == libc::SIGABRT {
        // Whoever aborts has said why.
        // SAFETY: the action was reset, so that raising it again ends the process.
        unsafe { libc::raise(signal) };
    }
    // SAFETY: the kernel passes a valid siginfo.
    let address = unsafe { (*info).si_addr() } as usize;
    // No formatting machinery: it may be what crashed, or the stack may be short.
    let mut line = *b"vkernel: crashed by signal 00 at 0x0000000000000000 (a bug, or a stack overflow)\n";
    let tens = line.iter().position(|b| *b == b'0').unwrap_or(0);
    line[tens] = b'0' + (signal / 10) as u8;
    line[tens + 1] = b'0' + (signal % 10) as u8;
    for digit in 0..16 {
        line[tens + 8 + digit] = b"0123456789abcdef"[(address >> (60 - 4 * digit)) & 15];
    }
    // SAFETY: writes from a local buffer. The action was reset, so that raising it again ends the process.
    unsafe {
        libc::write(2, line.as_ptr().cast(), line.len());
        libc::raise(signal);
    }
}
