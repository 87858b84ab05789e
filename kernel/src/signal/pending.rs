//! Pending signals and signal actions.

use super::{SigInfo, SigSet, SigSource, code, sig};
use crate::error::{Error, Result};
use crate::sync::Mutex;
use crate::wait::WaitQueue;
use abi::Errno;
use abi::signal::{SigAltStack, Sigaction};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::AtomicBool;

/// Signals that were sent and not delivered yet: at most one of each standard signal, any number of real-time ones, in order.
#[derive(Default)]
pub struct PendingQueue {
    set: SigSet,
    queue: VecDeque<SigInfo>,
}

impl PendingQueue {
    /// Which signals are pending.
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// Adds a signal; a standard one that is pending already is not queued again. With `limit` signals in the queue `EAGAIN`, as on Linux only
    /// for queued real-time signals; from others one of each number is kept.
    pub fn push(&mut self, info: SigInfo, limit: u64) -> Result<()> {
        let pending = self.set.has(info.signo);
        if info.signo < sig::RTMIN {
            if pending {
                return Ok(());
            }
        } else if self.queue.len() as u64 >= limit {
            if info.code != code::USER && info.code != code::KERNEL {
                return Err(Error::new(Errno::EAGAIN, "RLIMIT_SIGPENDING"));
            }
            if pending {
                return Ok(());
            }
        }
        self.set.add(info.signo);
        self.queue.push_back(info);
        Ok(())
    }

    /// Takes the next signal in `which`: synchronous faults first, then the lowest number, each number in order of sending.
    pub fn pop(&mut self, which: SigSet) -> Option<SigInfo> {
        let ready = self.set & which;
        let faults = SigSet::of(sig::SEGV)
            | SigSet::of(sig::BUS)
            | SigSet::of(sig::ILL)
            | SigSet::of(sig::TRAP)
            | SigSet::of(sig::FPE)
            | SigSet::of(sig::SYS);
        let signo = (ready & faults).first().or_else(|| ready.first())?;
        let at = self.queue.iter().position(|i| i.signo == signo)?;
        let info = self.queue.remove(at);
        if !self.queue.iter().any(|i| i.signo == signo) {
            self.set.remove(signo);
        }
        info
    }

    /// Counts more expirations of a POSIX timer whose signal is pending. Whether it is.
    pub fn add_overruns(&mut self, timer: i32, count: i32) -> bool {
        for info in &mut self.queue {
            if let SigSource::Timer { id, overrun, .. } = &mut info.source {
                if *id == timer {
                    *overrun = overrun.saturating_add(count);
                    return true;
                }
            }
        }
        false
    }

    /// Drops the pending signal of a POSIX timer.
    pub fn discard_timer(&mut self, timer: i32) {
        let queue = core::mem::take(&mut self.queue);
        self.set = SigSet::EMPTY;
        for info in queue {
            if !matches!(info.source, SigSource::Timer { id, .. } if id == timer) {
                self.set.add(info.signo);
                self.queue.push_back(info);
            }
        }
    }

    /// Drops all pending signals in `which`.
    pub fn discard(&mut self, which: SigSet) {
        self.queue.retain(|i| !which.has(i.signo));
        self.set = self.set - which;
    }

    /// Number of queued signals.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none is pending.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl TaskSignals {
    /// Whether the thread can take one of these now, as far as that is known.
    pub(super) fn may_take(&self, set: SigSet) -> bool {
        self.mask_lent || !(set - self.mask).is_empty()
    }
}

/// A thread's signal state.
#[derive(Default)]
pub struct TaskSignals {
    /// Blocked signals.
    pub mask: SigSet,
    /// Guest code runs and may have changed the mask meanwhile: what is sent now has to be looked at with the new one.
    pub mask_lent: bool,
    /// The mask to put back when the present call is over (`sigsuspend`, `ppoll`…).
    pub saved_mask: Option<SigSet>,
    /// Sent to this thread.
    pub pending: PendingQueue,
    /// `sigaltstack(2)`.
    pub altstack: SigAltStack,
    /// What a `sigtimedwait(2)` in progress waits for.
    pub waiting_for: SigSet,
}

/// A process's signal state.
pub struct SharedSignals {
    /// Actions by signal number minus one; shared by what `CLONE_SIGHAND` joined.
    pub actions: Mutex<Arc<Mutex<[Sigaction; 64]>>>,
    /// Sent to the process as a whole.
    pub shared: Mutex<PendingQueue>,
    /// A stop signal was taken out of a queue and has not become a stop yet; `SIGCONT` clears it.
    pub stop_taken: AtomicBool,
    /// Woken when a signal is sent to any thread of the process (`signalfd`, `sigtimedwait`).
    pub sent: WaitQueue,
}

impl SharedSignals {
    /// All actions default, nothing pending.
    pub fn new() -> SharedSignals {
        SharedSignals {
            actions: Mutex::new(Arc::new(Mutex::new([Sigaction::default(); 64]))),
            shared: Mutex::new(PendingQueue::default()),
            stop_taken: AtomicBool::new(false),
            sent: WaitQueue::new(),
        }
    }

    /// Whether anything is pending for the process as a whole.
    pub fn has_shared(&self) -> bool {
        !self.shared.lock().is_empty()
    }

    /// The action of a signal.
    pub fn action(&self, signo: i32) -> Sigaction {
        let action = usize::try_from(signo - 1).ok().and_then(|i| self.actions.lock().lock().get(i).copied());
        action.unwrap_or_default()
    }
}

impl Default for SharedSignals {
    fn default() -> SharedSignals {
        SharedSignals::new()
    }
}
