//! What says that a file or a directory of the host is what it was.

use abi::fs::Attr;
use abi::time::Timespec;

/// For how long one must not have changed, in seconds. The coarsest times of file systems are full two seconds.
const SETTLED_SEC: i64 = 3;

/// When it, and when something about it, was changed last, and its size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    mtime: Timespec,
    ctime: Timespec,
    size: u64,
}

impl Stamp {
    pub(crate) fn of(attr: &Attr) -> Stamp {
        Stamp { mtime: attr.mtime, ctime: attr.ctime, size: attr.size }
    }

    /// Whether another change would show: what has changed just now may change once more without its times showing it.
    pub(crate) fn is_settled(&self, now_sec: i64) -> bool {
        now_sec.saturating_sub(self.mtime.sec.max(self.ctime.sec)) >= SETTLED_SEC
    }
}
