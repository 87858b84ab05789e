//! The host's files as a tree in memory, filled by the test, with errors on demand.

use super::node::{Inode, Kind, MockNode};
use super::{MockCpu, MockFile, lock};
use crate::{Cpu, CpuId, Event, HostFs, HostNode, Transfer, Transferred};
use abi::Errno;
use abi::fs::{DeviceId, FileType};
use abi::time::Timespec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::collections::VecDeque;
use std::string::String;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// A host call that can be told to fail; named as the methods of [`HostNode`] and [`crate::HostFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HostOp {
    OpenPath,
    Attr,
    Lookup,
    ReadDir,
    ReadLink,
    Open,
    Create,
    Link,
    Unlink,
    Rename,
    SetAttr,
    Xattr,
    Statfs,
    ReadAt,
    WriteAt,
    Allocate,
    Sync,
}

/// The host's files of a [`super::MockMachine`]. The root exists and is empty at first.
pub struct MockFs {
    root: Arc<Inode>,
    next_ino: AtomicU64,
    failures: Mutex<Vec<(HostOp, usize, Errno)>>,
    calls: AtomicU64,
    time: Mutex<Timespec>,
    /// Whether every transfer waits for [`MockFs::finish_transfers`].
    slow: AtomicBool,
    pending: Mutex<Vec<(u64, MockFile, Transfer)>>,
    ended: Mutex<Vec<(u64, Transferred)>>,
    outside: Outside,
}

/// Where the file system tells that transfers have ended.
pub(super) struct Outside {
    pub(super) events: Arc<Mutex<VecDeque<Event>>>,
    pub(super) cpu: Arc<MockCpu>,
}

impl MockFs {
    pub(super) fn new(outside: Outside) -> Arc<MockFs> {
        let time = Timespec { sec: 1_600_000_000, nsec: 0 };
        let root = Inode::new(2, 0o040755, Kind::Directory(Default::default()), time);
        Arc::new_cyclic(|fs| {
            root.set_fs(fs.clone());
            MockFs {
                root,
                next_ino: AtomicU64::new(3),
                failures: Mutex::default(),
                calls: AtomicU64::new(0),
                time: Mutex::new(time),
                slow: AtomicBool::new(false),
                pending: Mutex::default(),
                ended: Mutex::default(),
                outside,
            }
        })
    }

    /// Makes nothing readable or writable at once: transfers wait for [`MockFs::finish_transfers`].
    pub fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::SeqCst);
    }
    pub(super) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::SeqCst)
    }
    /// Number of transfers that have not ended.
    pub fn pending_transfers(&self) -> usize {
        lock(&self.pending).len()
    }
    pub(super) fn begin(&self, id: u64, file: MockFile, transfer: Transfer) -> Result<(), Transfer> {
        if !self.is_slow() {
            self.end(id, file.perform(transfer));
            return Ok(());
        }
        lock(&self.pending).push((id, file, transfer));
        Ok(())
    }
    /// Ends every transfer that has begun.
    pub fn finish_transfers(&self) {
        let pending = core::mem::take(&mut *lock(&self.pending));
        for (id, file, transfer) in pending {
            self.end(id, file.perform(transfer));
        }
    }
    fn end(&self, id: u64, done: Transferred) {
        lock(&self.ended).push((id, done));
        lock(&self.outside.events).push_back(Event::Transferred(id));
        self.outside.cpu.interrupt(CpuId(0));
    }

    /// Adds a regular file (parents are made as needed) or replaces the content of one.
    pub fn add_file(self: &Arc<Self>, path: &str, mode: u32, content: &[u8]) -> MockNode {
        let node = self.add(path, 0o100000 | mode, Kind::File(Vec::new()));
        node.inode().set_content(content);
        node
    }
    /// Adds a directory; parents are made as needed.
    pub fn add_dir(self: &Arc<Self>, path: &str, mode: u32) -> MockNode {
        self.add(path, 0o040000 | mode, Kind::Directory(Default::default()))
    }
    /// Adds a symbolic link; parents are made as needed.
    pub fn add_symlink(self: &Arc<Self>, path: &str, target: &str) -> MockNode {
        self.add(path, 0o120777, Kind::Symlink(target.as_bytes().to_vec()))
    }
    /// Adds a FIFO, socket or device; parents are made as needed.
    pub fn add_special(
        self: &Arc<Self>,
        path: &str,
        kind: FileType,
        mode: u32,
        device: DeviceId,
    ) -> MockNode {
        self.add(path, kind.mode_bits() | mode, Kind::Special(device))
    }
    /// The content of a regular file; panics when there is none.
    pub fn content(self: &Arc<Self>, path: &str) -> Vec<u8> {
        self.walk(path).ok().and_then(|n| n.content()).expect("a regular file at this path")
    }
    /// Whether something is at this path, a dangling symbolic link included.
    pub fn exists(self: &Arc<Self>, path: &str) -> bool {
        self.walk(path).is_ok()
    }
    /// Lets a file disappear or a directory with all that it holds, behind the kernel's back.
    pub fn remove(self: &Arc<Self>, path: &str) {
        let (dir, name) = split(path);
        self.walk(dir).expect("the parent directory").remove_entry(name.as_bytes());
    }
    /// The file at a path with its own type.
    pub fn file(self: &Arc<Self>, path: &str) -> MockFile {
        MockFile::new(self.walk(path).expect("a file at this path"))
    }
    /// Makes the call `op` fail once, after letting it pass `skip` times.
    pub fn fail(&self, op: HostOp, skip: usize, errno: Errno) {
        lock(&self.failures).push((op, skip, errno));
    }
    /// How many host calls were made: shows whether the kernel caches.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
    /// The host's present time for time stamps; it stands still until set.
    pub fn set_time(&self, time: Timespec) {
        *lock(&self.time) = time;
    }

    pub(super) fn now(&self) -> Timespec {
        *lock(&self.time)
    }
    pub(super) fn new_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::SeqCst)
    }
    /// Counts a call, and fails it when that was asked for.
    pub(super) fn enter(&self, op: HostOp) -> Result<(), Errno> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut failures = lock(&self.failures);
        let Some(i) = failures.iter().position(|(o, ..)| *o == op) else { return Ok(()) };
        if failures[i].1 > 0 {
            failures[i].1 -= 1;
            return Ok(());
        }
        Err(failures.remove(i).2)
    }

    fn add(self: &Arc<Self>, path: &str, mode: u32, kind: Kind) -> MockNode {
        let (dir, name) = split(path);
        let dir = if dir.is_empty() { self.root.clone() } else { self.add_dirs(dir) };
        let inode = dir.child(name.as_bytes()).unwrap_or_else(|| {
            let inode = Inode::new(self.new_ino(), mode, kind, self.now());
            inode.set_fs(Arc::downgrade(self));
            dir.insert_entry(name.as_bytes(), inode.clone());
            inode
        });
        MockNode::new(inode, path.as_bytes().to_vec())
    }

    fn add_dirs(self: &Arc<Self>, path: &str) -> Arc<Inode> {
        match self.walk(path) {
            Ok(inode) => inode,
            Err(_) => self.add_dir(path, 0o755).inode().clone(),
        }
    }

    /// Follows no symbolic link.
    fn walk(&self, path: &str) -> Result<Arc<Inode>, Errno> {
        let mut at = self.root.clone();
        for name in path.split('/').filter(|n| !n.is_empty()) {
            at = at.child(name.as_bytes()).ok_or(Errno::ENOENT)?;
        }
        Ok(at)
    }

    fn resolve(&self, path: &str, depth: usize) -> Result<Arc<Inode>, Errno> {
        if depth > 40 {
            return Err(Errno::ELOOP);
        }
        let (mut at, mut dir) = (self.root.clone(), String::new());
        for name in path.split('/').filter(|n| !n.is_empty()) {
            let next = at.child(name.as_bytes()).ok_or(Errno::ENOENT)?;
            at = match next.link_target() {
                Some(target) => {
                    let target = String::from_utf8(target).map_err(|_| Errno::EINVAL)?;
                    let full = if target.starts_with('/') { target } else { std::format!("{dir}/{target}") };
                    self.resolve(&full, depth + 1)?
                }
                None => next,
            };
            dir.push('/');
            dir.push_str(name);
        }
        Ok(at)
    }
}

impl HostFs for MockFs {
    fn open_path(&self, path: &str) -> Result<Arc<dyn HostNode>, Errno> {
        self.enter(HostOp::OpenPath)?;
        let inode = self.resolve(path, 0)?;
        Ok(Arc::new(MockNode::new(inode, path.as_bytes().to_vec())))
    }
    fn transferred(&self, id: u64) -> Option<Transferred> {
        let mut ended = lock(&self.ended);
        let at = ended.iter().position(|(other, _)| *other == id)?;
        Some(ended.swap_remove(at).1)
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
