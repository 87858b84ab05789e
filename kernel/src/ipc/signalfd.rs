//! `signalfd(2)`: signals as data. A read takes what is pending for the calling thread or its process, whoever made the descriptor.

use super::anon::anon_attr;
use crate::error::{Result, err};
use crate::fs::{File, OpenFile};
use crate::signal::{SigInfo, SigSet, SigSource, code, take};
use crate::sync::Mutex;
use crate::task::Cx;
use crate::user::Sink;
use crate::wait::{PollEvents, PollTable};
use abi::Errno;
use abi::fs::Attr;
use alloc::format;
use alloc::string::String;
use core::any::Any;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// `struct signalfd_siginfo`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Record {
    signo: u32,
    errno: i32,
    code: i32,
    pid: u32,
    uid: u32,
    fd: i32,
    tid: u32,
    band: u32,
    overrun: u32,
    trapno: u32,
    status: i32,
    int: i32,
    ptr: u64,
    utime: u64,
    stime: u64,
    addr: u64,
    addr_lsb: u16,
    pad: u16,
    syscall: i32,
    call_addr: u64,
    arch: u32,
    pad2: [u8; 28],
}

impl Record {
    fn new(info: &SigInfo) -> Record {
        let mut r = Record::new_zeroed();
        r.signo = info.signo as u32;
        r.errno = info.errno;
        r.code = info.code;
        match info.source {
            SigSource::Process { pid, uid } => (r.pid, r.uid) = (pid as u32, uid),
            SigSource::Queued { pid, uid, value } => {
                (r.pid, r.uid) = (pid as u32, uid);
                (r.ptr, r.int) = (value, value as i32);
            }
            SigSource::Timer { id, overrun, value } => {
                (r.tid, r.overrun) = (id as u32, overrun as u32);
                (r.ptr, r.int) = (value, value as i32);
            }
            SigSource::Child { pid, uid, status, utime, stime } => {
                (r.pid, r.uid, r.status) = (pid as u32, uid, status);
                (r.utime, r.stime) = (utime as u64, stime as u64);
            }
            SigSource::Fault { addr } => r.addr = addr,
            SigSource::Poll { band, fd } => (r.band, r.fd) = (band as u32, fd),
            SigSource::Syscall { addr, nr, arch } => (r.call_addr, r.syscall, r.arch) = (addr, nr, arch),
            SigSource::Raw([ids, value, ..]) => {
                // What `rt_sigqueueinfo(2)` sends is laid out like a queued signal, except when it plays `kill`.
                (r.pid, r.uid) = (ids as u32, (ids >> 32) as u32);
                if info.code != code::USER && info.code != code::TKILL {
                    (r.ptr, r.int) = (value, value as i32);
                }
            }
        }
        r
    }
}

/// A signalfd.
pub struct SignalFd {
    mask: Mutex<SigSet>,
}

impl SignalFd {
    /// For these signals; `SIGKILL` and `SIGSTOP` are ignored.
    pub fn new(mask: SigSet) -> SignalFd {
        SignalFd { mask: Mutex::new(mask.as_mask()) }
    }

    /// Replaces the set.
    pub fn set_mask(&self, cx: &Cx, mask: SigSet) {
        *self.mask.lock() = mask.as_mask();
        cx.process().signals.sent.wake_all(PollEvents::READABLE);
    }

    fn take(&self, cx: &Cx) -> Option<SigInfo> {
        let mask = *self.mask.lock();
        take(cx, mask)
    }
}

impl File for SignalFd {
    fn read(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let size = size_of::<Record>();
        if sink.room() < size {
            return err(Errno::EINVAL);
        }
        let first = cx.wait(&cx.process().signals.sent, || match self.take(cx) {
            Some(info) => Some(Ok(info)),
            None if of.nonblocking() => Some(err(Errno::EAGAIN)),
            None => None,
        })?;
        let mut next = Some(first);
        let mut done = 0;
        while let Some(info) = next {
            match sink.put(Record::new(&info).as_bytes()) {
                Ok(()) => done += size,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
            next = if sink.room() >= size { self.take(cx) } else { None };
        }
        Ok(done)
    }

    fn poll(&self, cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&cx.process().signals.sent);
        }
        let own = cx.task.signals.lock().pending.set();
        let shared = cx.process().signals.shared.lock().set();
        let ready = (own | shared) & *self.mask.lock();
        if ready.is_empty() { PollEvents::empty() } else { PollEvents::IN }
    }

    fn attr(&self) -> Result<Attr> {
        Ok(anon_attr())
    }

    fn describe(&self) -> String {
        String::from("anon_inode:[signalfd]")
    }

    fn fdinfo(&self) -> String {
        format!("sigmask:\t{:016x}\n", self.mask.lock().0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
