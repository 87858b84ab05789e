//! Terminals: the line discipline, pseudo-terminals, the outside's terminal, job control.
//!
//! * [`ldisc`], [`edit`], [`output`]: what happens to bytes. Pure, without locks.
//! * [`Terminal`]: a terminal with both its ends; [`near`] is the program's end as a file, [`far`] a pseudo-terminal's master,
//!   [`console`] connects to the machine's streams.
//! * [`job`]: sessions, foreground groups; [`ioctl`]: everything else that `ioctl_tty(2)` has.
//!
//! The outside's terminal is `/dev/pts/0`, as in a container, so that `ttyname(3)` finds it; `/dev/console` leads to it, too.

mod console;
mod edit;
mod far;
mod ioctl;
mod job;
mod ldisc;
mod near;
mod output;
mod packet;
mod terminal;

#[cfg(test)]
mod tests;

pub use ldisc::{Effects, LineDiscipline};
pub use terminal::Terminal;

use crate::Kernel;
use crate::error::{Result, err};
use crate::fs::{File, OpenFile, OpenFlags, Path};
use crate::sync::Mutex;
use crate::task::{Cap, Cx, Session};
use abi::Errno;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hal::LogLevel;
use terminal::Far;

/// Most pseudo-terminals (`/proc/sys/kernel/pty/max`).
pub const PTY_MAX: u32 = 4096;
/// Group and mode of a terminal's node: what `grantpt(3)` expects devpts to have set (`gid=5,mode=620`).
const TTY_GROUP: u32 = 5;
const TTY_MODE: u32 = 0o620;

#[derive(Default)]
struct Inner {
    /// By their number; the console is one of them.
    list: BTreeMap<u32, Arc<Terminal>>,
    console: Option<Arc<Terminal>>,
}

/// All terminals of a kernel.
#[derive(Default)]
pub struct Terminals {
    inner: Mutex<Inner>,
}

impl Terminals {
    /// Number of pseudo-terminals.
    pub fn pty_count(&self) -> usize {
        let inner = self.inner.lock();
        inner.list.len() - usize::from(inner.console.is_some())
    }

    /// The terminal `/dev/pts/INDEX`.
    pub fn get(&self, index: u32) -> Option<Arc<Terminal>> {
        self.inner.lock().list.get(&index).cloned()
    }

    /// All terminals in order of their numbers.
    pub fn list(&self) -> Vec<Arc<Terminal>> {
        self.inner.lock().list.values().cloned().collect()
    }

    /// The outside's terminal, if it was opened.
    pub fn console(&self) -> Option<Arc<Terminal>> {
        self.inner.lock().console.clone()
    }

    /// Gives a number to a new terminal: the lowest free one. `ENOSPC` when there are too many.
    fn add(&self, make: impl FnOnce(u32) -> Arc<Terminal>) -> Result<Arc<Terminal>> {
        let mut inner = self.inner.lock();
        let index = (0..PTY_MAX).find(|index| !inner.list.contains_key(index)).ok_or(Errno::ENOSPC)?;
        let terminal = make(index);
        inner.list.insert(index, terminal.clone());
        Ok(terminal)
    }

    fn forget(&self, index: u32) {
        let gone = self.inner.lock().list.remove(&index);
        drop(gone);
    }
}

impl Terminal {
    /// Owner, group and mode of its node.
    pub fn owner(&self) -> (u32, u32, u32) {
        self.state.lock().owner
    }

    /// Changes owner, group and mode of its node.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>, mode: Option<u32>) {
        let mut state = self.state.lock();
        let (u, g, m) = state.owner;
        state.owner = (uid.unwrap_or(u), gid.unwrap_or(g), mode.unwrap_or(m));
    }

    /// Changes when it was last read and written, as its node shows it.
    pub fn set_times(&self, read: Option<abi::time::Timespec>, written: Option<abi::time::Timespec>) {
        let mut state = self.state.lock();
        let (r, w) = state.times;
        state.times = (read.unwrap_or(r), written.unwrap_or(w));
    }

    /// When it was last read, last written and made.
    pub fn times(&self) -> [abi::time::Timespec; 3] {
        let (read, written) = self.state.lock().times;
        [read, written, self.made]
    }
}

/// Opens `/dev/ptmx`: a new pseudo-terminal's master.
pub fn open_master(cx: &Cx) -> Result<Arc<dyn File>> {
    let uid = cx.task.creds().fsuid;
    let terminal = cx
        .kernel
        .terminals
        .add(|index| Terminal::new(cx.kernel, index, Far::Master, (uid, TTY_GROUP, TTY_MODE)))?;
    Ok(Arc::new(far::FarEnd { terminal }))
}

/// Opens `/dev/pts/INDEX`.
pub fn open_terminal(cx: &Cx, terminal: &Arc<Terminal>, flags: OpenFlags) -> Result<Arc<dyn File>> {
    near::open(cx, terminal, flags)
}

/// Opens `/dev/tty`: the caller's controlling terminal; `ENXIO` when there is none.
pub fn open_controlling(cx: &Cx, flags: OpenFlags) -> Result<Arc<dyn File>> {
    match job::of_caller(cx) {
        Some(terminal) => near::open(cx, &terminal, flags),
        None => err(Errno::ENXIO),
    }
}

/// Opens `/dev/console`: the outside's terminal, without taking control of it; `EIO` when there is none.
pub fn open_console_device(cx: &Cx, flags: OpenFlags) -> Result<Arc<dyn File>> {
    match cx.kernel.terminals.console() {
        Some(terminal) => near::open(cx, &terminal, flags | OpenFlags::NOCTTY),
        None => err(Errno::EIO),
    }
}

/// The place that an absolute name leads to, if there is one.
fn place_of(cx: &Cx, name: &[u8]) -> Option<Path> {
    let open = crate::fs::open_path(cx, crate::fs::AT_FDCWD, name, OpenFlags::PATH, 0).ok()?;
    open.path.clone()
}

/// The outside's terminal as an open file; becomes the controlling terminal of the caller's session.
pub fn open_console(cx: &Cx) -> Result<Arc<OpenFile>> {
    let terminals = &cx.kernel.terminals;
    let terminal = match terminals.console() {
        Some(terminal) => terminal,
        None => {
            let Some((input, output)) = console::streams(cx.kernel) else { return err(Errno::ENXIO) };
            let owner = (cx.kernel.config.user.0, TTY_GROUP, TTY_MODE);
            let far = Far::Console { input, output };
            let terminal = terminals.add(|index| Terminal::new(cx.kernel, index, far, owner))?;
            terminals.inner.lock().console = Some(terminal.clone());
            console::look_at_window(&terminal);
            console::ready(&terminal);
            terminal
        }
    };
    let flags = OpenFlags::RDWR;
    let file = near::open(cx, &terminal, flags)?;
    let path = place_of(cx, format!("/dev/pts/{}", terminal.index).as_bytes());
    if path.is_none() {
        cx.kernel.log(LogLevel::Debug, "the terminal has no name: /dev/pts is not there");
    }
    let inode = path.as_ref().map(|path| path.dentry.inode.clone());
    Ok(OpenFile::new(cx.kernel, file, inode, path, flags))
}

/// A standard stream has become ready: moves bytes if it is the terminal.
pub(crate) fn console_ready(kernel: &Kernel) {
    if let Some(terminal) = kernel.terminals.console() {
        console::ready(&terminal);
    }
}

/// The terminal's window changed its size.
pub(crate) fn window_changed(kernel: &Kernel) {
    if let Some(terminal) = kernel.terminals.console() {
        console::look_at_window(&terminal);
    }
}

/// A session's leader has ended: the session loses its terminal, and the foreground group gets `SIGHUP`.
pub(crate) fn session_ended(kernel: &Kernel, session: &Arc<Session>) {
    job::leave(kernel, session, false);
}

/// `vhangup(2)`: hangs up the caller's terminal. `EPERM` without `CAP_SYS_TTY_CONFIG`.
pub fn vhangup(cx: &Cx) -> Result<()> {
    if !cx.task.creds().has(Cap::SysTtyConfig) {
        return err(Errno::EPERM);
    }
    if let Some(terminal) = job::of_caller(cx) {
        terminal.hang_up(true);
    }
    Ok(())
}

/// Device number and foreground process group of a session's terminal, as `/proc/PID/stat` shows them.
pub(crate) fn stat_numbers(session: &Session) -> (i32, i32) {
    match job::of_session(session) {
        Some(terminal) => {
            let foreground = terminal.state.lock().foreground;
            let device = terminal.device();
            let number = device.minor & 0xff | device.major << 8 | (device.minor & !0xff) << 12;
            (number as i32, if foreground > 0 { foreground } else { -1 })
        }
        None => (0, -1),
    }
}
