//! Tables of System V objects: ids, keys, permissions.

use crate::error::{Result, err};
use crate::sync::Mutex;
use crate::task::{Cap, Cx};
use abi::Errno;
use abi::ipc::IpcPerm;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Ids are a sequence number times this, plus an index (`IPCMNI`).
const INDEX_LIMIT: i32 = 32768;
/// `IPC_PRIVATE`: no key.
const PRIVATE: i32 = 0;

/// The flags of the `*get` calls: creation, and permissions in the low nine bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetFlags(pub u32);

impl GetFlags {
    const CREAT: u32 = 0o1000;
    const EXCL: u32 = 0o2000;
}

/// Owner and mode of an object.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
}

impl Perm {
    /// Whether the task may do what `wanted` (bits as in a mode: 4 read, 2 write) asks for; `EACCES`.
    pub fn check(&self, cx: &Cx, wanted: u32) -> Result<()> {
        let creds = cx.task.creds();
        let shift = if creds.euid == self.uid || creds.euid == self.cuid {
            6
        } else if creds.in_egroup(self.gid) || creds.in_egroup(self.cgid) {
            3
        } else {
            0
        };
        let missing = wanted & !(self.mode >> shift) & 7;
        if missing == 0 || creds.has(Cap::IpcOwner) { Ok(()) } else { err(Errno::EACCES) }
    }

    /// Whether the task owns the object or may act as if; `EPERM`.
    pub fn check_owner(&self, cx: &Cx) -> Result<()> {
        let creds = cx.task.creds();
        let owns = creds.euid == self.uid || creds.euid == self.cuid || creds.has(Cap::SysAdmin);
        if owns { Ok(()) } else { err(Errno::EPERM) }
    }

    /// `IPC_SET`.
    pub fn set(&mut self, new: &IpcPerm) {
        (self.uid, self.gid) = (new.uid, new.gid);
        self.mode = self.mode & !0o777 | new.mode & 0o777;
    }

    /// As the status structures show it.
    pub fn to_raw(self, id: i32) -> IpcPerm {
        IpcPerm {
            key: self.key,
            uid: self.uid,
            gid: self.gid,
            cuid: self.cuid,
            cgid: self.cgid,
            mode: self.mode,
            seq: (id / INDEX_LIMIT) as u16,
            ..IpcPerm::default()
        }
    }
}

struct Inner<T> {
    by_id: BTreeMap<i32, (i32, T)>,
    next_index: i32,
    sequence: i32,
}

/// Objects by id.
pub struct Ids<T> {
    inner: Mutex<Inner<T>>,
}

impl<T> Default for Ids<T> {
    fn default() -> Self {
        Ids { inner: Mutex::new(Inner { by_id: BTreeMap::new(), next_index: 0, sequence: 0 }) }
    }
}

impl<T: Clone> Ids<T> {
    /// The `*get` calls: finds the object with this key or makes one. `check` looks at one that exists; `make` must not block. `limit` is
    /// the most objects there may be: `ENOSPC`.
    pub fn get(
        &self,
        cx: &Cx,
        key: i32,
        flags: GetFlags,
        limit: usize,
        check: impl FnOnce(&T) -> Result<()>,
        make: impl FnOnce(Perm) -> Result<T>,
    ) -> Result<i32> {
        let mut inner = self.inner.lock();
        if key != PRIVATE {
            if let Some((&id, (_, object))) = inner.by_id.iter().find(|(_, (k, _))| *k == key) {
                if flags.0 & (GetFlags::CREAT | GetFlags::EXCL) == GetFlags::CREAT | GetFlags::EXCL {
                    return err(Errno::EEXIST);
                }
                check(object)?;
                return Ok(id);
            }
            if flags.0 & GetFlags::CREAT == 0 {
                return err(Errno::ENOENT);
            }
        }
        if inner.by_id.len() >= limit.min(INDEX_LIMIT as usize) {
            return err(Errno::ENOSPC);
        }
        let creds = cx.task.creds();
        let (uid, gid) = (creds.euid, creds.egid);
        let object = make(Perm { key, uid, gid, cuid: uid, cgid: gid, mode: flags.0 & 0o777 })?;
        // Indices go round, so that an id is not used again soon; a full round is a new sequence number.
        let id = loop {
            let index = inner.next_index;
            inner.next_index = (index + 1) % INDEX_LIMIT;
            let id = inner.sequence * INDEX_LIMIT + index;
            if inner.next_index == 0 {
                inner.sequence = (inner.sequence + 1) % INDEX_LIMIT;
            }
            if !inner.by_id.keys().any(|other| other % INDEX_LIMIT == index) {
                break id;
            }
        };
        inner.by_id.insert(id, (key, object));
        Ok(id)
    }

    /// The object with this id; `EINVAL`.
    pub fn find(&self, id: i32) -> Result<T> {
        let found = self.inner.lock().by_id.get(&id).map(|(_, object)| object.clone());
        found.ok_or(Errno::EINVAL.into())
    }

    /// The object with this index (`*_STAT`): its id too.
    pub fn by_index(&self, index: i32) -> Result<(i32, T)> {
        let inner = self.inner.lock();
        let mut all = inner.by_id.iter();
        let found =
            all.find(|(id, _)| **id % INDEX_LIMIT == index).map(|(id, (_, object))| (*id, object.clone()));
        found.ok_or(Errno::EINVAL.into())
    }

    /// Takes an object out; false when it was gone already.
    pub fn remove(&self, id: i32) -> bool {
        let gone = self.inner.lock().by_id.remove(&id);
        gone.is_some()
    }

    /// Makes an object's key free for others.
    pub fn forget_key(&self, id: i32) {
        if let Some((key, _)) = self.inner.lock().by_id.get_mut(&id) {
            *key = PRIVATE;
        }
    }

    /// All objects in order of their ids.
    pub fn list(&self) -> Vec<(i32, T)> {
        self.inner.lock().by_id.iter().map(|(id, (_, object))| (*id, object.clone())).collect()
    }

    /// The highest index in use, for the `*_INFO` commands; 0 when there is none.
    pub fn highest_index(&self) -> i32 {
        self.inner.lock().by_id.keys().map(|id| id % INDEX_LIMIT).max().unwrap_or(0)
    }
}
