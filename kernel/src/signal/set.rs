//! Sets of signals.

use super::sig;
use core::ops::{BitAnd, BitOr, Not, Sub};

/// A set of signals as user space passes it: bit `n - 1` is signal `n`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);
    /// Every signal.
    pub const ALL: SigSet = SigSet(!0);
    /// Those that can't be caught, blocked or ignored.
    pub const UNBLOCKABLE: SigSet = SigSet(1 << (sig::KILL - 1) | 1 << (sig::STOP - 1));

    /// Those whose default action is to stop.
    pub const STOPS: SigSet =
        SigSet(1 << (sig::STOP - 1) | 1 << (sig::TSTP - 1) | 1 << (sig::TTIN - 1) | 1 << (sig::TTOU - 1));

    /// One signal; empty for a number that is none.
    pub const fn of(signo: i32) -> SigSet {
        if signo >= 1 && signo <= sig::MAX { SigSet(1 << (signo - 1)) } else { SigSet(0) }
    }
    /// Whether it holds this signal.
    pub const fn has(self, signo: i32) -> bool {
        self.0 & SigSet::of(signo).0 != 0
    }
    /// Adds a signal.
    pub fn add(&mut self, signo: i32) {
        self.0 |= SigSet::of(signo).0;
    }
    /// Takes a signal out.
    pub fn remove(&mut self, signo: i32) {
        self.0 &= !SigSet::of(signo).0;
    }
    /// Whether it holds none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The lowest signal in it.
    pub const fn first(self) -> Option<i32> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() as i32 + 1) }
    }
    /// Its signals from the lowest.
    pub fn iter(self) -> impl Iterator<Item = i32> {
        (1..=sig::MAX).filter(move |&signo| self.has(signo))
    }
    /// Without `SIGKILL` and `SIGSTOP`, as a mask must be.
    pub const fn as_mask(self) -> SigSet {
        SigSet(self.0 & !SigSet::UNBLOCKABLE.0)
    }
}

impl BitOr for SigSet {
    type Output = SigSet;
    fn bitor(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }
}
impl BitAnd for SigSet {
    type Output = SigSet;
    fn bitand(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }
}
impl Sub for SigSet {
    type Output = SigSet;
    fn sub(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }
}
impl Not for SigSet {
    type Output = SigSet;
    fn not(self) -> SigSet {
        SigSet(!self.0)
    }
}

/// The name of a standard signal, `"SIGINT"` and so on; `None` for real-time signals.
pub fn signal_name(signo: i32) -> Option<&'static str> {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    NAMES.get(usize::try_from(signo.checked_sub(1)?).ok()?).copied()
}
