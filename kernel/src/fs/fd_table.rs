//! Descriptors of a process.

use super::{OpenFile, OpenFlags};
use crate::error::{Result, err};
use crate::sync::Mutex;
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A file descriptor as passed by a guest; may be negative or not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fd(pub i32);

impl Fd {
    /// `AT_FDCWD`: the working directory, where a directory's descriptor is asked for.
    pub const CWD: Fd = Fd(-100);
}

#[derive(Clone)]
struct Slot {
    file: Arc<OpenFile>,
    cloexec: bool,
}

#[derive(Clone, Default)]
struct Inner {
    slots: Vec<Option<Slot>>,
    /// No descriptor below this one is free.
    first_free: usize,
}

/// A table of descriptors, shared by the tasks that `CLONE_FILES` joined. The lock is a leaf; closed files are dropped outside of it.
#[derive(Default)]
pub struct FdTable {
    inner: Mutex<Inner>,
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Arc<FdTable> {
        Arc::new(FdTable::default())
    }

    /// A copy (`fork`).
    pub fn duplicate(&self) -> Arc<FdTable> {
        Arc::new(FdTable { inner: Mutex::new(self.inner.lock().clone()) })
    }

    /// The open file of a descriptor; `EBADF`.
    pub fn get(&self, fd: Fd) -> Result<Arc<OpenFile>> {
        let index = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        match self.inner.lock().slots.get(index) {
            Some(Some(slot)) => Ok(slot.file.clone()),
            _ => err(Errno::EBADF),
        }
    }

    /// What is to be known of the description `id` if this is a descriptor of it.
    fn description<T>(&self, fd: Fd, id: u64, ask: impl FnOnce(&Arc<OpenFile>) -> T) -> Option<T> {
        let at = usize::try_from(fd.0).ok()?;
        let inner = self.inner.lock();
        let slot = inner.slots.get(at)?.as_ref().filter(|slot| slot.file.id == id)?;
        Some(ask(&slot.file))
    }

    /// How many references there are to it, 0 if it is none.
    pub(super) fn references(&self, fd: Fd, id: u64) -> usize {
        self.description(fd, id, Arc::strong_count).unwrap_or(0)
    }

    /// Its flags.
    pub(super) fn flags(&self, fd: Fd, id: u64) -> Option<OpenFlags> {
        self.description(fd, id, |file| file.flags())
    }

    /// The lowest free descriptor at or above `from`, now in use; `EMFILE` at `limit` (`RLIMIT_NOFILE`).
    pub fn insert(&self, from: usize, limit: u64, file: Arc<OpenFile>, cloexec: bool) -> Result<Fd> {
        let mut inner = self.inner.lock();
        let mut at = from.max(inner.first_free);
        while inner.slots.get(at).is_some_and(Option::is_some) {
            at += 1;
        }
        if at as u64 >= limit || at > i32::MAX as usize {
            return err(Errno::EMFILE);
        }
        if inner.slots.len() <= at {
            inner.slots.resize(at + 1, None);
        }
        if let Some(slot) = inner.slots.get_mut(at) {
            *slot = Some(Slot { file, cloexec });
        }
        if from <= inner.first_free {
            inner.first_free = at + 1;
        }
        Ok(Fd(at as i32))
    }

    /// Puts a file at this descriptor (`dup2`); returns what was there. `EBADF` at or above `limit`.
    pub fn replace(
        &self,
        fd: Fd,
        limit: u64,
        file: Arc<OpenFile>,
        cloexec: bool,
    ) -> Result<Option<Arc<OpenFile>>> {
        let at = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        if at as u64 >= limit {
            return err(Errno::EBADF);
        }
        let mut inner = self.inner.lock();
        if inner.slots.len() <= at {
            inner.slots.resize(at + 1, None);
        }
        let old = inner.slots.get_mut(at).and_then(|slot| slot.replace(Slot { file, cloexec }));
        Ok(old.map(|slot| slot.file))
    }

    /// Takes a descriptor out; `EBADF`.
    pub fn remove(&self, fd: Fd) -> Result<Arc<OpenFile>> {
        let at = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        let mut inner = self.inner.lock();
        let slot = inner.slots.get_mut(at).and_then(Option::take);
        let Some(slot) = slot else { return err(Errno::EBADF) };
        inner.first_free = inner.first_free.min(at);
        Ok(slot.file)
    }

    /// `FD_CLOEXEC` of a descriptor.
    pub fn cloexec(&self, fd: Fd) -> Result<bool> {
        let at = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        match self.inner.lock().slots.get(at) {
            Some(Some(slot)) => Ok(slot.cloexec),
            _ => err(Errno::EBADF),
        }
    }

    /// Sets `FD_CLOEXEC`.
    pub fn set_cloexec(&self, fd: Fd, cloexec: bool) -> Result<()> {
        let at = usize::try_from(fd.0).map_err(|_| Errno::EBADF)?;
        match self.inner.lock().slots.get_mut(at) {
            Some(Some(slot)) => {
                slot.cloexec = cloexec;
                Ok(())
            }
            _ => err(Errno::EBADF),
        }
    }

    /// Open descriptors in ascending order.
    pub fn list(&self) -> Vec<(Fd, Arc<OpenFile>)> {
        let inner = self.inner.lock();
        let slots = inner.slots.iter().enumerate();
        slots.filter_map(|(i, s)| s.as_ref().map(|s| (Fd(i as i32), s.file.clone()))).collect()
    }

    /// Takes out every descriptor in `first..=last` for which `pick(cloexec)` holds, and returns the files for dropping.
    pub fn remove_range(&self, first: usize, last: usize, pick: impl Fn(bool) -> bool) -> Vec<Arc<OpenFile>> {
        let mut inner = self.inner.lock();
        let mut out = Vec::new();
        for (i, slot) in inner.slots.iter_mut().enumerate().skip(first) {
            if i > last {
                break;
            }
            if slot.as_ref().is_some_and(|s| pick(s.cloexec)) {
                out.extend(slot.take().map(|s| s.file));
            }
        }
        inner.first_free = inner.first_free.min(first);
        out
    }

    /// Sets `FD_CLOEXEC` on a range (`close_range(2)` with `CLOSE_RANGE_CLOEXEC`).
    pub fn set_cloexec_range(&self, first: usize, last: usize) {
        let mut inner = self.inner.lock();
        for slot in
            inner.slots.iter_mut().skip(first).take(last.saturating_sub(first).saturating_add(1)).flatten()
        {
            slot.cloexec = true;
        }
    }
}
