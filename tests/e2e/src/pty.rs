//! A command on a pseudo-terminal of its own, as the leader of a session, driven by what it prints.

use crate::patience;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What came, whether the terminal has hung up, and a bell for both.
type Seen = (Mutex<(Vec<u8>, bool)>, Condvar);

/// The running command and everything it has printed.
pub struct Session {
    child: Child,
    master: File,
    seen: Arc<Seen>,
    /// Up to where `expect` has looked.
    cursor: usize,
    limit: Duration,
}

impl Session {
    /// Starts a command on a terminal of 24 lines and 80 columns.
    ///
    /// # Panics
    /// When the host refuses.
    pub fn start(command: &mut Command) -> Session {
        // Both ends are closed on exec from their first moment: a session that a test beside this one starts must not hold them
        // open, or this terminal never hangs up.
        // SAFETY: calls on descriptors of our own; every result is checked before it is used.
        let (master, slave) = unsafe {
            let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(master >= 0, "posix_openpt: {}", std::io::Error::last_os_error());
            let master = File::from_raw_fd(master);
            assert_eq!(
                libc::unlockpt(master.as_raw_fd()),
                0,
                "unlockpt: {}",
                std::io::Error::last_os_error()
            );
            let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
            let slave = libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags);
            assert!(slave >= 0, "the other end: {}", std::io::Error::last_os_error());
            (master, OwnedFd::from_raw_fd(slave))
        };
        set_size(&master, 24, 80);
        let stream = || Stdio::from(slave.try_clone().expect("a descriptor"));
        command.env("TERM", "xterm").env("LC_ALL", "C").stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: setsid and ioctl are async-signal-safe and touch no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the command starts");
        // The command keeps copies; ours must go, or the terminal never hangs up.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(slave);
        let seen = Arc::new((Mutex::new((Vec::new(), false)), Condvar::new()));
        let (sink, mut source) = (seen.clone(), master.try_clone().expect("a descriptor"));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // EIO is how the master learns that the last holder of the terminal has gone.
                let count = source.read(&mut buffer).unwrap_or(0);
                let mut state = sink.0.lock().expect("no panic in here");
                state.0.extend_from_slice(&buffer[..count]);
                state.1 = count == 0;
                sink.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Session { child, master, seen, cursor: 0, limit: Duration::from_secs(60) * patience() }
    }

    /// Types bytes.
    ///
    /// # Panics
    /// When the terminal has hung up.
    #[track_caller]
    pub fn send(&mut self, bytes: &str) {
        self.master.write_all(bytes.as_bytes()).expect("the terminal is there");
    }

    /// Waits until a text comes after what was expected last, and gives what came up to its end.
    ///
    /// # Panics
    /// When it does not come in time, or the terminal hangs up first; with everything that came.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + self.limit;
        let mut state = self.seen.0.lock().expect("no panic in the reader");
        loop {
            let new = &state.0[self.cursor..];
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                let found = String::from_utf8_lossy(&new[..at + text.len()]).into_owned();
                self.cursor += at + text.len();
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let all = String::from_utf8_lossy(&state.0);
            assert!(!state.1, "hung up before {text:?}; it showed:\n{all}");
            assert!(!left.is_zero(), "no {text:?} in time; it showed:\n{all}");
            state = self.seen.1.wait_timeout(state, left).expect("no panic in the reader").0;
        }
    }

    /// Changes the size of the terminal, as a window does.
    ///
    /// # Panics
    /// When the host refuses.
    pub fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
    }

    /// Waits for the end: exit status, or 128 + n when signal n ended it.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn end(mut self) -> i32 {
        let deadline = Instant::now() + self.limit;
        let mut state = self.seen.0.lock().expect("no panic in the reader");
        while !state.1 {
            let left = deadline.saturating_duration_since(Instant::now());
            let all = String::from_utf8_lossy(&state.0);
            assert!(!left.is_zero(), "no end in time; it showed:\n{all}");
            state = self.seen.1.wait_timeout(state, left).expect("no panic in the reader").0;
        }
        drop(state);
        // Nobody holds the terminal any more, so its leader has ended or is about to.
        let status = self.child.wait().expect("our own child");
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // After a failed test the command may still run. Does nothing when it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(master: &File, rows: u16, columns: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: our own descriptor and a live structure.
    let rc = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    assert_eq!(rc, 0, "the size of the terminal: {}", std::io::Error::last_os_error());
}
