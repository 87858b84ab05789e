//! The kernel's error type. Every conversion into it stands in this file.

use abi::Errno;
use core::fmt;

/// Why an operation did not give a result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// It failed with this errno; the text, where there is one, is for the log and for strace.
    Errno {
        /// What user space sees.
        errno: Errno,
        /// A few words on the reason, or empty.
        why: &'static str,
    },
    /// A signal ended a wait. Not an errno: the signal code decides what becomes of the call.
    Interrupted(Restart),
}

/// What becomes of an interrupted system call (`signal(7)`, "Interruption of system calls").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// Restarted when there is no handler or the handler has `SA_RESTART`, else `EINTR`.
    IfAsked,
    /// Restarted when no handler runs, else `EINTR`, whatever its flags (`poll`, `pause`, `sigsuspend`…).
    UnlessHandled,
    /// Like `UnlessHandled`, but resumed by `restart_syscall(2)` with the task's restart state (relative sleeps).
    Resume,
}

/// Result of kernel operations.
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl Error {
    /// An errno with a reason.
    pub const fn new(errno: Errno, why: &'static str) -> Error {
        Error::Errno { errno, why }
    }

    /// The errno; an interruption counts as `EINTR`.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Errno { errno, .. } => *errno,
            Error::Interrupted(_) => Errno::EINTR,
        }
    }

    /// The same error, but an interruption is treated as `restart`.
    pub fn with_restart(self, restart: Restart) -> Error {
        match self {
            Error::Interrupted(_) => Error::Interrupted(restart),
            other => other,
        }
    }

    /// The same error, but an interruption is a plain `EINTR` that is never restarted.
    pub fn no_restart(self) -> Error {
        match self {
            Error::Interrupted(_) => Errno::EINTR.into(),
            other => other,
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::Errno { errno, why: "" }
    }
}

impl From<hal::SpaceError> for Error {
    fn from(error: hal::SpaceError) -> Error {
        match error {
            hal::SpaceError::NoMemory => Error::new(Errno::ENOMEM, "the host has no room for the mapping"),
            hal::SpaceError::Refused(_) => Error::new(Errno::EPERM, "the host does not map the file"),
            hal::SpaceError::Dead(_) => Error::new(Errno::ENOMEM, "the address space is dead"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Errno { errno, why: "" } => write!(f, "{errno:?}"),
            Error::Errno { errno, why } => write!(f, "{errno:?} ({why})"),
            Error::Interrupted(restart) => write!(f, "interrupted ({restart:?})"),
        }
    }
}

/// An errno as `Err`, for `return err(EINVAL)`.
pub fn err<T>(errno: Errno) -> Result<T> {
    Err(errno.into())
}
