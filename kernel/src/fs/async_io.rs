//! Signal-driven I/O: `O_ASYNC` with `F_SETOWN` and `F_SETSIG` (`fcntl(2)`).
//!
//! A description with `O_ASYNC` hooks itself into the queues of its file, as an epoll does.

use super::{OpenFile, OpenFlags};
use crate::Kernel;
use crate::error::Result;
use crate::signal::{SigInfo, SigSource, send_to_group, send_to_process, sig};
use crate::task::{Creds, Cx, Process};
use crate::wait::{PollEvents, PollTable, Registration, WaitQueue, WakeHook, Waker};
use abi::fs::FileType;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// `si_code` and `si_band` of what can happen (`sigaction(2)`).
const POLL_IN: (i32, i64) = (1, 0x41);
const POLL_OUT: (i32, i64) = (2, 0x304);
const POLL_HUP: (i32, i64) = (6, 0x18);

struct Hook {
    of: Weak<OpenFile>,
    kernel: Weak<Kernel>,
    /// The descriptor that the signal names.
    fd: i32,
    socket: bool,
    /// Whoever asked for the signals: with its rights they are sent.
    creds: Arc<Creds>,
}

/// A hook and where it is registered.
pub(super) struct AsyncIo {
    _registrations: Vec<Registration>,
    _hook: Arc<Hook>,
}

impl Hook {
    fn may_signal(&self, process: &Process) -> bool {
        let Some(target) = process.threads().first().map(|t| t.creds()) else { return false };
        let mine = [self.creds.uid, self.creds.euid];
        self.creds.euid == 0 || mine.iter().any(|uid| *uid == target.uid || *uid == target.suid)
    }
}

impl WakeHook for Hook {
    fn woken(&self, events: PollEvents, _waker: Waker) -> bool {
        let (Some(of), Some(kernel)) = (self.of.upgrade(), self.kernel.upgrade()) else { return false };
        let (code, band) = match events {
            e if e.contains(PollEvents::HUP) => POLL_HUP,
            e if e.intersects(PollEvents::READABLE) => POLL_IN,
            // A socket tells of room only when there was none; this queue is also woken when there is more than before.
            e if e.intersects(PollEvents::WRITABLE) && !self.socket => POLL_OUT,
            _ => return false,
        };
        let (owner, signo) = *of.owner.lock();
        let info = match signo {
            0 => SigInfo::kernel(sig::IO),
            signo => {
                SigInfo { signo: signo as i32, code, errno: 0, source: SigSource::Poll { band, fd: self.fd } }
            }
        };
        if owner > 0 {
            let task = kernel.pids.task(owner);
            let process = task.map(|t| t.process.clone()).or_else(|| kernel.pids.process(owner));
            if let Some(process) = process.filter(|p| self.may_signal(p)) {
                send_to_process(&process, info);
            }
        } else if owner < 0 && self.creds.euid == 0 {
            send_to_group(&kernel, owner.saturating_neg(), info);
        } else if owner < 0 {
            let group = owner.saturating_neg();
            let members = kernel.pids.processes();
            for process in
                members.iter().filter(|p| p.pgid.load(Ordering::Relaxed) == group && self.may_signal(p))
            {
                send_to_process(process, info);
            }
        }
        false
    }
}

/// Sets or clears `O_ASYNC` of a description, with what it does. `fd` is the descriptor that was named.
pub fn set_async(cx: &Cx, of: &Arc<OpenFile>, fd: i32, on: bool) -> Result<()> {
    let file_type = of.attr()?.file_type();
    // Others take the flag and never send anything.
    let able = matches!(file_type, FileType::Fifo | FileType::Socket | FileType::CharDevice);
    let new = (on && able).then(|| {
        let hook = Arc::new(Hook {
            of: Arc::downgrade(of),
            kernel: Arc::downgrade(cx.kernel),
            fd,
            socket: file_type == FileType::Socket,
            creds: cx.task.creds(),
        });
        let dynamic: Arc<dyn WakeHook> = hook.clone();
        let weak = Arc::downgrade(&dynamic);
        let mut registrations = Vec::new();
        let mut register = |queue: &WaitQueue| registrations.push(queue.register_hook(weak.clone()));
        of.file.poll(cx, of, Some(&mut PollTable::new(&mut register)));
        AsyncIo { _registrations: registrations, _hook: hook }
    });
    let old = core::mem::replace(&mut *of.async_io.lock(), new);
    drop(old);
    let mut flags = of.flags();
    flags.set(OpenFlags::ASYNC, on);
    of.set_status(flags);
    Ok(())
}
