//! What a signal carries (`sigaction(2)`, "The siginfo_t argument").

use abi::signal::RawSiginfo;

/// Where a signal comes from, which decides how `siginfo_t` is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigSource {
    /// `kill(2)` and the kernel: sender's pid and real uid.
    Process {
        /// Sender, 0 for the kernel.
        pid: i32,
        /// Its real user id.
        uid: u32,
    },
    /// `sigqueue(3)` and message queues: the same with a value.
    Queued {
        /// Sender.
        pid: i32,
        /// Its real user id.
        uid: u32,
        /// `si_value`.
        value: u64,
    },
    /// A POSIX timer.
    Timer {
        /// Its id.
        id: i32,
        /// Overruns.
        overrun: i32,
        /// `si_value`.
        value: u64,
    },
    /// A child changed state.
    Child {
        /// The child.
        pid: i32,
        /// Its real user id.
        uid: u32,
        /// Exit status or signal.
        status: i32,
        /// User time in clock ticks (1/100 s).
        utime: i64,
        /// System time in clock ticks.
        stime: i64,
    },
    /// A fault.
    Fault {
        /// The address.
        addr: u64,
    },
    /// I/O became possible.
    Poll {
        /// Band event.
        band: i64,
        /// Descriptor.
        fd: i32,
    },
    /// A system call that was refused.
    Syscall {
        /// Address of the call.
        addr: u64,
        /// Number.
        nr: i32,
        /// Architecture.
        arch: u32,
    },
    /// As a guest filled it in (`rt_sigqueueinfo(2)`).
    Raw([u64; 14]),
}

/// `si_code` values (`uapi/asm-generic/siginfo.h`).
#[allow(missing_docs)]
pub mod code {
    pub const USER: i32 = 0;
    pub const KERNEL: i32 = 0x80;
    pub const QUEUE: i32 = -1;
    pub const TIMER: i32 = -2;
    pub const TKILL: i32 = -6;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
}

/// A signal with its information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfo {
    /// The signal.
    pub signo: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_errno`.
    pub errno: i32,
    /// The rest.
    pub source: SigSource,
}

impl SigInfo {
    /// From the kernel itself (`SI_KERNEL`).
    pub const fn kernel(signo: i32) -> SigInfo {
        SigInfo { signo, code: code::KERNEL, errno: 0, source: SigSource::Process { pid: 0, uid: 0 } }
    }

    /// From a process with `kill(2)` or `tgkill(2)`.
    pub const fn user(signo: i32, code: i32, pid: i32, uid: u32) -> SigInfo {
        SigInfo { signo, code, errno: 0, source: SigSource::Process { pid, uid } }
    }

    /// A fault.
    pub const fn fault(signo: i32, code: i32, addr: u64) -> SigInfo {
        SigInfo { signo, code, errno: 0, source: SigSource::Fault { addr } }
    }

    /// As user space sees it.
    pub fn to_raw(&self) -> RawSiginfo {
        let low_high = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let mut fields = [0u64; 14];
        match self.source {
            SigSource::Process { pid, uid } => fields[0] = low_high(pid as u32, uid),
            SigSource::Queued { pid, uid, value } => {
                fields[0] = low_high(pid as u32, uid);
                fields[1] = value;
            }
            SigSource::Timer { id, overrun, value } => {
                fields[0] = low_high(id as u32, overrun as u32);
                fields[1] = value;
            }
            SigSource::Child { pid, uid, status, utime, stime } => {
                fields[0] = low_high(pid as u32, uid);
                fields[1] = u64::from(status as u32);
                fields[2] = utime as u64;
                fields[3] = stime as u64;
            }
            SigSource::Fault { addr } => fields[0] = addr,
            SigSource::Poll { band, fd } => {
                fields[0] = band as u64;
                fields[1] = u64::from(fd as u32);
            }
            SigSource::Syscall { addr, nr, arch } => {
                fields[0] = addr;
                fields[1] = low_high(nr as u32, arch);
            }
            SigSource::Raw(raw) => fields = raw,
        }
        RawSiginfo { signo: self.signo, errno: self.errno, code: self.code, pad: 0, fields }
    }

    /// From what a guest passed to `rt_sigqueueinfo(2)`.
    pub fn from_raw(signo: i32, raw: &RawSiginfo) -> SigInfo {
        SigInfo { signo, code: raw.code, errno: raw.errno, source: SigSource::Raw(raw.fields) }
    }
}
