//! The state that every socket has: options of level `SOL_SOCKET` (`socket(7)`), time-outs, the pending error.
//!
//! Options that have no effect on any family here are kept and given back, as Linux does for families that ignore them.

use super::SocketType;
use crate::error::{Error, Result, err};
use crate::sync::Mutex;
use crate::task::{Cap, Cx, WaitEnd};
use crate::wait::WaitQueue;
use abi::Errno;
use abi::net::{SOL_SOCKET, Ucred};
use abi::time::Timeval;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Default size of both buffers in bytes (`net.core.wmem_default`), and the largest that may be asked for.
const BUFFER_DEFAULT: usize = 212_992;
const SNDBUF_MIN: usize = 4608;
const RCVBUF_MIN: usize = 2304;

/// `SO_*` numbers (`uapi/asm-generic/socket.h`).
mod so {
    pub const DEBUG: i32 = 1;
    pub const TYPE: i32 = 3;
    pub const ERROR: i32 = 4;
    pub const SNDBUF: i32 = 7;
    pub const RCVBUF: i32 = 8;
    pub const PRIORITY: i32 = 12;
    pub const LINGER: i32 = 13;
    pub const BSDCOMPAT: i32 = 14;
    pub const PASSCRED: i32 = 16;
    pub const RCVLOWAT: i32 = 18;
    pub const SNDLOWAT: i32 = 19;
    pub const RCVTIMEO: i32 = 20;
    pub const SNDTIMEO: i32 = 21;
    pub const ACCEPTCONN: i32 = 30;
    pub const SNDBUFFORCE: i32 = 32;
    pub const RCVBUFFORCE: i32 = 33;
    pub const MARK: i32 = 36;
    pub const PROTOCOL: i32 = 38;
    pub const DOMAIN: i32 = 39;
    pub const RCVTIMEO_NEW: i32 = 66;
    pub const SNDTIMEO_NEW: i32 = 67;
    /// Booleans without an effect: REUSEADDR, DONTROUTE, BROADCAST, KEEPALIVE, OOBINLINE, NO_CHECK, REUSEPORT, TIMESTAMP,
    /// PASSSEC, TIMESTAMPNS, RXQ_OVFL, WIFI_STATUS, NOFCS, SELECT_ERR_QUEUE.
    pub const FLAGS: [i32; 14] = [2, 5, 6, 9, 10, 11, 15, 29, 34, 35, 40, 41, 43, 45];
}

/// What `shutdown(2)` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Receiving.
    Read,
    /// Sending.
    Write,
    /// Both.
    Both,
}

/// Common state of a socket.
pub struct Options {
    /// `AF_*`.
    pub family: i32,
    /// `SOCK_*`.
    pub kind: SocketType,
    /// Protocol as it was asked for.
    pub protocol: i32,
    /// Inode number.
    pub ino: u64,
    /// User and group who made it.
    pub owner: (u32, u32),
    /// Size of the send buffer in bytes, as accounted (twice what was asked for).
    pub sndbuf: AtomicUsize,
    /// Size of the receive buffer, likewise.
    pub rcvbuf: AtomicUsize,
    /// `SO_RCVLOWAT` in bytes.
    pub rcvlowat: AtomicI32,
    /// `SO_PASSCRED` as 0 or 1.
    passcred: AtomicU32,
    /// Pending error as an errno number, 0 for none.
    error: AtomicI32,
    /// Time-outs of receiving and sending in nanoseconds, 0 for none.
    timeouts: [AtomicU64; 2],
    /// Bits of options without an effect, by number.
    flags: AtomicU64,
    priority: AtomicI32,
    mark: AtomicI32,
    linger: Mutex<(i32, i32)>,
}

/// How long an operation may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// Not at all.
    No,
    /// Until it happens.
    Forever,
    /// Until this monotonic time in nanoseconds.
    Until(u64),
}

impl Blocking {
    /// Waits on the queues until `ready` gives something: `EAGAIN` when the time is over. A signal restarts the call only if it had no time-out
    /// (`signal(7)`).
    pub fn wait<T>(
        self,
        cx: &Cx,
        queues: &[&WaitQueue],
        mut ready: impl FnMut() -> Option<Result<T>>,
    ) -> Result<T> {
        if let Some(result) = ready() {
            return result;
        }
        let deadline = match self {
            Blocking::No => return err(Errno::EAGAIN),
            Blocking::Forever => None,
            Blocking::Until(ns) => Some(ns),
        };
        match cx.wait_deadline(queues, deadline, ready) {
            Ok(result) => result,
            Err(WaitEnd::TimedOut) => err(Errno::EAGAIN),
            Err(WaitEnd::Interrupted) if deadline.is_some() => err(Errno::EINTR),
            Err(end) => Err(end.into()),
        }
    }
}

impl Options {
    /// For a new socket of the current task.
    pub fn new(cx: &Cx, family: i32, kind: SocketType, protocol: i32) -> Options {
        let creds = cx.task.creds();
        Options {
            family,
            kind,
            protocol,
            ino: cx.kernel.next_id(),
            owner: (creds.fsuid, creds.fsgid),
            sndbuf: AtomicUsize::new(BUFFER_DEFAULT),
            rcvbuf: AtomicUsize::new(BUFFER_DEFAULT),
            rcvlowat: AtomicI32::new(1),
            passcred: AtomicU32::new(0),
            error: AtomicI32::new(0),
            timeouts: [AtomicU64::new(0), AtomicU64::new(0)],
            flags: AtomicU64::new(0),
            priority: AtomicI32::new(0),
            mark: AtomicI32::new(0),
            linger: Mutex::new((0, 0)),
        }
    }

    /// Whether received messages carry the sender's credentials.
    pub fn passcred(&self) -> bool {
        self.passcred.load(Ordering::Relaxed) != 0
    }

    /// Sets the pending error.
    pub fn set_error(&self, errno: Errno) {
        self.error.store(errno.raw(), Ordering::SeqCst);
    }

    /// Whether an error is pending.
    pub fn has_error(&self) -> bool {
        self.error.load(Ordering::SeqCst) != 0
    }

    /// Takes the pending error, as its number; 0 for none.
    fn take_error_number(&self) -> i32 {
        self.error.swap(0, Ordering::SeqCst)
    }

    /// Takes the pending error.
    pub fn take_error(&self) -> Option<Error> {
        // Looked at by every call, so the common case does not write.
        if !self.has_error() {
            return None;
        }
        Some(self.take_error_number()).filter(|&n| n != 0).map(|n| Errno::from_raw(n).into())
    }

    /// How long receiving may block.
    pub fn receive_blocking(&self, cx: &Cx, nonblocking: bool) -> Blocking {
        self.blocking(cx, nonblocking, 0)
    }

    /// How long sending and connecting may block.
    pub fn send_blocking(&self, cx: &Cx, nonblocking: bool) -> Blocking {
        self.blocking(cx, nonblocking, 1)
    }

    fn blocking(&self, cx: &Cx, nonblocking: bool, which: usize) -> Blocking {
        let timeout = self.timeouts.get(which).map_or(0, |t| t.load(Ordering::Relaxed));
        match (nonblocking, timeout) {
            (true, _) => Blocking::No,
            (false, 0) => Blocking::Forever,
            (false, ns) => Blocking::Until(cx.now_ns().saturating_add(ns)),
        }
    }

    /// `getsockopt(2)`, level `SOL_SOCKET`: the value, or `None` for what the family has to know.
    pub fn get(&self, listening: bool, name: i32) -> Option<Vec<u8>> {
        let timeout = |which: usize| {
            let ns = self.timeouts.get(which).map_or(0, |t| t.load(Ordering::Relaxed));
            zerocopy::IntoBytes::as_bytes(&Timeval::from_ns(ns)).to_vec()
        };
        let value = match name {
            so::DEBUG | so::BSDCOMPAT => 0,
            so::TYPE => self.kind as i32,
            so::ERROR => self.take_error_number(),
            so::SNDBUF => self.sndbuf.load(Ordering::Relaxed) as i32,
            so::RCVBUF => self.rcvbuf.load(Ordering::Relaxed) as i32,
            so::PRIORITY => self.priority.load(Ordering::Relaxed),
            so::MARK => self.mark.load(Ordering::Relaxed),
            so::LINGER => {
                let (on, seconds) = *self.linger.lock();
                return Some([on.to_ne_bytes(), seconds.to_ne_bytes()].concat());
            }
            so::PASSCRED => self.passcred() as i32,
            so::RCVLOWAT => self.rcvlowat.load(Ordering::Relaxed),
            so::SNDLOWAT => 1,
            so::RCVTIMEO | so::RCVTIMEO_NEW => return Some(timeout(0)),
            so::SNDTIMEO | so::SNDTIMEO_NEW => return Some(timeout(1)),
            so::ACCEPTCONN => i32::from(listening),
            so::PROTOCOL => self.protocol,
            so::DOMAIN => self.family,
            name if so::FLAGS.contains(&name) => {
                i32::from(self.flags.load(Ordering::Relaxed) >> name & 1 != 0)
            }
            _ => return None,
        };
        Some(value.to_ne_bytes().to_vec())
    }

    /// `setsockopt(2)`, level `SOL_SOCKET`: `None` for what the family has to know.
    pub fn set(&self, cx: &Cx, name: i32, bytes: &[u8]) -> Option<Result<()>> {
        let int = bytes.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b));
        let Some(value) = int else { return Some(err(Errno::EINVAL)) };
        let admin = || cx.task.creds().has(Cap::NetAdmin);
        match name {
            so::DEBUG if value != 0 && !admin() => return Some(err(Errno::EACCES)),
            so::DEBUG | so::BSDCOMPAT => {}
            so::SNDBUFFORCE | so::RCVBUFFORCE if !admin() => return Some(err(Errno::EPERM)),
            so::SNDBUF | so::SNDBUFFORCE => {
                let most = cx.kernel.settings.wmem_max.size();
                let most = if name == so::SNDBUFFORCE { i32::MAX as usize / 2 } else { most };
                self.sndbuf.store(buffer_size(value, SNDBUF_MIN, most), Ordering::Relaxed);
            }
            so::RCVBUF | so::RCVBUFFORCE => {
                let most = cx.kernel.settings.rmem_max.size();
                let most = if name == so::RCVBUFFORCE { i32::MAX as usize / 2 } else { most };
                self.rcvbuf.store(buffer_size(value, RCVBUF_MIN, most), Ordering::Relaxed);
            }
            so::PRIORITY if !(0..=6).contains(&value) && !admin() => return Some(err(Errno::EPERM)),
            so::PRIORITY => self.priority.store(value, Ordering::Relaxed),
            so::MARK if !admin() => return Some(err(Errno::EPERM)),
            so::MARK => self.mark.store(value, Ordering::Relaxed),
            so::LINGER => return Some(self.set_linger(bytes)),
            so::PASSCRED => self.passcred.store(u32::from(value != 0), Ordering::Relaxed),
            so::RCVLOWAT => {
                let low = if value < 0 { i32::MAX } else { value.max(1) };
                self.rcvlowat.store(low, Ordering::Relaxed);
            }
            so::RCVTIMEO | so::RCVTIMEO_NEW => return Some(self.set_timeout(0, bytes)),
            so::SNDTIMEO | so::SNDTIMEO_NEW => return Some(self.set_timeout(1, bytes)),
            so::TYPE | so::ERROR | so::ACCEPTCONN | so::PROTOCOL | so::DOMAIN | so::SNDLOWAT => {
                return Some(err(Errno::ENOPROTOOPT));
            }
            name if so::FLAGS.contains(&name) => {
                let bit = 1u64 << name;
                if value != 0 {
                    self.flags.fetch_or(bit, Ordering::Relaxed);
                } else {
                    self.flags.fetch_and(!bit, Ordering::Relaxed);
                }
            }
            _ => return None,
        }
        Some(Ok(()))
    }

    fn set_linger(&self, bytes: &[u8]) -> Result<()> {
        let (Some(on), Some(seconds)) = (int_at(bytes, 0), int_at(bytes, 4)) else {
            return err(Errno::EINVAL);
        };
        *self.linger.lock() = if on == 0 { (0, 0) } else { (1, seconds) };
        Ok(())
    }

    fn set_timeout(&self, which: usize, bytes: &[u8]) -> Result<()> {
        let (time, _) = zerocopy::FromBytes::read_from_prefix(bytes).map_err(|_| Errno::EINVAL)?;
        let Timeval { sec, usec } = time;
        if !(0..1_000_000).contains(&usec) {
            return err(Errno::EDOM);
        }
        // A negative time-out is over at once; the smallest non-zero one says so.
        let ns = if sec < 0 { 1 } else { time.to_ns().unwrap_or(0) };
        if let Some(timeout) = self.timeouts.get(which) {
            timeout.store(ns, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes over what an accepted socket inherits from its listener.
    pub fn inherit(&self, from: &Options) {
        self.sndbuf.store(from.sndbuf.load(Ordering::Relaxed), Ordering::Relaxed);
        self.rcvbuf.store(from.rcvbuf.load(Ordering::Relaxed), Ordering::Relaxed);
        self.passcred.store(from.passcred.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn int_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b))
}

/// What a request for a buffer size gives: bounded, and doubled for the overhead.
fn buffer_size(asked: i32, least: usize, most: usize) -> usize {
    // A negative size is a huge unsigned one.
    let asked = usize::try_from(asked).unwrap_or(most).min(most);
    (asked * 2).max(least)
}

/// `level` is `SOL_SOCKET`.
pub(super) fn is_socket_level(level: i32) -> bool {
    level == SOL_SOCKET
}

/// Who the current task is, for `SO_PEERCRED` and `SCM_CREDENTIALS`.
pub(super) fn own_ucred(cx: &Cx) -> Ucred {
    let creds = cx.task.creds();
    Ucred { pid: cx.process().pid, uid: creds.euid, gid: creds.egid }
}
