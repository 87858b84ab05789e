//! Looking ahead: whoever lists a directory and then looks at one entry after another will look at the next one, too.
//!
//! Where a look takes a call of the host ([`Inode::looks_ahead`]), the kernel makes it while guest code runs on another host CPU
//! ([`hal::VmSpace::run_beside`]). Each task has an [`Ahead`]: the names that it was told last, and how far it has come. What was found is good for
//! [`FRESH_NS`] and only as long as no name of the directory has changed. So a file of the host may be seen as it was that much earlier, but never one that
//! this kernel has removed, moved or hidden since.
//!
//! Only the task itself comes here, so there is no lock.

use super::{Dentry, Inode};
use crate::task::Cx;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// How long a look is good for. Programs do little between two entries.
const FRESH_NS: u64 = 100_000;
/// Most bytes of records that are remembered.
const RECORDS_MAX: usize = 64 << 10;
/// How many names may be passed over without the order being lost.
const PASSED_OVER: usize = 8;
/// Where a `struct linux_dirent64` has its length, and its name.
const LENGTH: usize = 16;
const NAME: usize = 19;

/// What a task has listed, and how far it has looked at that.
#[derive(Default)]
pub(crate) struct Ahead {
    dir: Weak<Dentry>,
    /// `struct linux_dirent64`s.
    records: Vec<u8>,
    /// Where the first is that the task has not looked at.
    at: usize,
    /// Whether it has looked at one since the last look ahead.
    wanted: bool,
    found: Option<Found>,
}

/// What a look ahead has found.
struct Found {
    inode: Arc<dyn Inode>,
    /// Behind the entry's record.
    end: usize,
    /// The state of the directory's names, and the time.
    changes: u64,
    at_ns: u64,
}

/// The name in the record at `at`, and where the next record is.
fn record(records: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let record = records.get(at..)?;
    let len = usize::from(u16::from_ne_bytes([*record.get(LENGTH)?, *record.get(LENGTH + 1)?]));
    let name = record.get(NAME..len)?.split(|b| *b == 0).next()?;
    Some((name, at + len))
}

impl Ahead {
    fn is_of(&self, dir: &Arc<Dentry>) -> bool {
        core::ptr::eq(self.dir.as_ptr(), Arc::as_ptr(dir))
    }

    /// The task was told these entries of a directory, and others before if `more`.
    pub(crate) fn listed(&mut self, dir: &Arc<Dentry>, more: bool, records: Vec<u8>) {
        // Nothing is said at the end of each directory.
        if records.is_empty() || !dir.inode.looks_ahead() {
            return;
        }
        if more && self.is_of(dir) && self.records.len() + records.len() <= RECORDS_MAX {
            self.records.extend_from_slice(&records);
            return;
        }
        *self = Ahead { dir: Arc::downgrade(dir), records, ..Ahead::default() };
        self.records.truncate(RECORDS_MAX);
    }

    /// The task looks at an entry of a directory whose names are in the state `changes`: what is behind it, if that is known already.
    pub(super) fn look(
        &mut self,
        dir: &Arc<Dentry>,
        name: &[u8],
        changes: u64,
        now_ns: impl FnOnce() -> u64,
    ) -> Option<Arc<dyn Inode>> {
        if !self.is_of(dir) {
            return None;
        }
        let mut at = self.at;
        for _ in 0..PASSED_OVER {
            let (next, end) = record(&self.records, at)?;
            at = end;
            if next == name {
                (self.at, self.wanted) = (end, true);
                let found = self.found.take().filter(|found| found.end == end && found.changes == changes)?;
                return (now_ns().saturating_sub(found.at_ns) <= FRESH_NS).then_some(found.inode);
            }
        }
        None
    }

    /// The next entry that the cache does not know: its directory and the state of that, its name and the end of its record.
    fn next(&self) -> Option<(Arc<Dentry>, u64, &[u8], usize)> {
        let dir = self.dir.upgrade()?;
        let mut at = self.at;
        for _ in 0..PASSED_OVER {
            let (name, end) = record(&self.records, at)?;
            at = end;
            if !matches!(name, b"." | b"..")
                && let Some(changes) = dir.changes_unless_known(name)
            {
                return Some((dir, changes, name, end));
            }
        }
        None
    }
}

/// Looks at the entry that the task will look at next, if it has looked at one just now. Guest code may run meanwhile, so it does not suspend.
pub(crate) fn look_ahead(cx: &Cx) {
    if !core::mem::take(&mut cx.ahead.borrow_mut().wanted) {
        return;
    }
    let found = {
        let ahead = cx.ahead.borrow();
        let Some((dir, changes, name, end)) = ahead.next() else { return };
        // An error is for who asks.
        let Ok(inode) = dir.inode.lookup(cx, name) else { return };
        Found { inode, end, changes, at_ns: cx.now_ns() }
    };
    let before = cx.ahead.borrow_mut().found.replace(found);
    drop(before);
}
