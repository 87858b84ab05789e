//! What the cases are written with: results, checks, system calls, children, signals.
//!
//! A case is a function that returns [`R`]. It fails by returning an error, which `?` makes
//! of a failed system call and the checking macros make of a wrong answer; both keep the
//! source line. It says that it cannot run here with `skip!`.

#[macro_use]
mod macros;
pub mod proc;
pub mod pty;
pub mod sig;
pub mod sys;

/// What a file of cases needs: all of libc's names, hidden where the kit has a better one.
pub mod prelude {
    pub use super::proc::{
        self, Argv, Gate, Status, asleep, captured, child, cstring, exe, exec_helper, execve, exit, fork,
        wait4,
    };
    pub use super::pty::Pty;
    pub use super::sys::{
        self, BAD, MS, at, cell, close, drain, fcntl, fstat, get, getpid, gettid, ioctl, kill, lseek, lstat,
        map, mkdir, mkfifo, mmap, munmap, now, open, peek, pipe, poke, poll1, put, read, read_some, root, rw,
        shared, stat, symlink, text, ts, unlink, write, zeroed,
    };
    pub use super::{E, Numbers, R, sig};
    pub use libc::*;
}

use std::fmt;
use std::panic::Location;

/// Numbers that look random and are the same each time.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one, below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end
    }
}

/// The outcome of a case, and of the parts that it is made of.
pub type R<T = ()> = Result<T, Stop>;

/// One case: `family::name`, as listed and filtered.
pub struct Case {
    pub family: &'static str,
    pub name: &'static str,
    pub run: fn() -> R,
}

/// Why a case ended early.
#[derive(Debug)]
pub enum Stop {
    /// The kernel answered wrongly.
    Fail(String),
    /// A privilege or a feature is missing here; nothing was shown.
    Skip(String),
}

/// An errno. Shown by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct E(pub i32);

impl From<E> for Stop {
    #[track_caller]
    fn from(e: E) -> Self {
        let at = Location::caller();
        Stop::Fail(format!("{}:{}: {e}", at.file(), at.line()))
    }
}

impl From<std::io::Error> for Stop {
    #[track_caller]
    fn from(e: std::io::Error) -> Self {
        let at = Location::caller();
        Stop::Fail(format!("{}:{}: {e}", at.file(), at.line()))
    }
}

impl fmt::Display for E {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(n, _)| *n == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for E {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! names { ($($n:ident)*) => { &[$((libc::$n, stringify!($n))),*] } }
const NAMES: &[(i32, &str)] = names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK
    EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ENODATA ETIME EPROTO
    EBADMSG EOVERFLOW EILSEQ EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT
    ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH
    ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED EALREADY EINPROGRESS
    ESTALE ECANCELED EOWNERDEAD ENOTRECOVERABLE
};
