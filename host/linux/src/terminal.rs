//! The terminal: raw while the machine runs in its foreground, put back on every way out.
//!
//! The kernel has a line discipline of its own, so the host's must pass everything. There is one terminal per
//! process, hence a static: the crash handler and the panic hook must find it.
//!
//! Not raw when standard output is a pipe: whoever reads it (a pager, say) may use the same terminal.

use hal::WindowSize;
use std::mem::zeroed;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, Once};

/// Whether the terminal is raw now.
static RAW: AtomicBool = AtomicBool::new(false);
/// The descriptor of the terminal that was made raw; -1 for none.
static FD: AtomicI32 = AtomicI32::new(-1);
/// Its settings before.
static SAVED: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Whether a descriptor is a terminal.
pub(crate) fn is_terminal(fd: i32) -> bool {
    // SAFETY: plain call.
    unsafe { libc::isatty(fd) == 1 }
}

/// Whether this process may use the terminal: it is in the foreground, or the terminal is not its
/// controlling one, where job control does not apply.
pub(crate) fn in_foreground(fd: i32) -> bool {
    // SAFETY: plain calls.
    unsafe {
        let group = libc::tcgetpgrp(fd);
        group < 0 || group == libc::getpgrp()
    }
}

/// Whether the terminal is raw, that is, ours.
pub(crate) fn is_raw() -> bool {
    RAW.load(Ordering::SeqCst)
}

/// Makes the terminal behind `fd` raw if we are in the foreground. Repeatable. Says whether it is raw now.
pub(crate) fn enter_raw(fd: i32) -> bool {
    static HOOK: Once = Once::new();
    if is_raw() || !in_foreground(fd) {
        return is_raw();
    }
    // SAFETY: plain data.
    let mut settings: libc::termios = unsafe { zeroed() };
    // SAFETY: fills the structure.
    if unsafe { libc::tcgetattr(fd, &mut settings) } != 0 {
        return false;
    }
    if let Ok(mut saved) = SAVED.lock() {
        *saved = Some(settings);
    }
    FD.store(fd, Ordering::SeqCst);
    // SAFETY: changes only the structure.
    unsafe { libc::cfmakeraw(&mut settings) };
    RAW.store(true, Ordering::SeqCst);
    // SAFETY: a valid structure.
    if unsafe { libc::tcsetattr(fd, libc::TCSADRAIN, &settings) } != 0 {
        RAW.store(false, Ordering::SeqCst);
    }
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A panic in a fiber is an oops of one task, and the machine goes on.
            if !crate::fiber::in_fiber() {
                restore();
            }
            before(info);
        }));
    });
    is_raw()
}

/// Puts the terminal's settings back. Repeatable; safe in a signal handler. Does nothing when somebody else
/// has the terminal meanwhile: a shell that took it over has set it as it likes.
pub(crate) fn restore() {
    if !RAW.swap(false, Ordering::SeqCst) {
        return;
    }
    let fd = FD.load(Ordering::SeqCst);
    // Not held when a signal comes, except within `enter_raw`, before anything was changed.
    if let Ok(saved) = SAVED.try_lock()
        && let Some(settings) = &*saved
        && in_foreground(fd)
    {
        // SAFETY: a valid structure; async-signal-safe.
        unsafe { libc::tcsetattr(fd, libc::TCSANOW, settings) };
    }
}

/// The size of a terminal's window.
pub(crate) fn window_size(fd: i32) -> Option<WindowSize> {
    // SAFETY: plain data.
    let mut size: libc::winsize = unsafe { zeroed() };
    // SAFETY: fills the structure.
    if unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &mut size) } != 0 {
        return None;
    }
    Some(WindowSize { rows: size.ws_row, cols: size.ws_col, xpixel: size.ws_xpixel, ypixel: size.ws_ypixel })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    fn settings(fd: i32) -> (u32, u32, u32) {
        // SAFETY: plain data that the call fills.
        let settings = unsafe {
            let mut settings: libc::termios = zeroed();
            assert_eq!(libc::tcgetattr(fd, &mut settings), 0);
            settings
        };
        (settings.c_iflag, settings.c_oflag, settings.c_lflag)
    }

    #[test]
    fn raw_and_back() {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: 7, ws_col: 33, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: out-parameters live here.
        let made = unsafe { libc::openpty(&mut master, &mut slave, ptr::null_mut(), ptr::null(), &size) };
        assert_eq!(made, 0);
        let before = settings(slave);
        assert!(is_terminal(slave) && !is_raw());
        assert!(enter_raw(slave) && enter_raw(slave) && is_raw());
        let raw = settings(slave);
        assert_eq!(raw.2 & (libc::ICANON | libc::ECHO | libc::ISIG), 0);
        assert_eq!(raw.1 & libc::OPOST, 0);
        restore();
        restore();
        assert_eq!(settings(slave), before);
        assert!(!is_raw());
        assert_eq!(window_size(slave).map(|w| (w.rows, w.cols)), Some((7, 33)));
        assert_eq!(window_size(-1), None);
        // SAFETY: our own descriptors, not used after.
        unsafe {
            libc::close(master);
            libc::close(slave);
        }
    }
}
