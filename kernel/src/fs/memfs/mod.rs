//! The file system in memory: tmpfs, and the overlay of a host directory.
//!
//! Both are the same code: a [`node::Node`] lives in memory, and may have a *lower* node of the host behind it which it shows until it
//! is changed. So there is one inode per file before and after a change (numbers, open files and hard links stay what they were),
//! renaming a directory of the lower layer moves one reference, and nothing has to be found in two places.
//!
//! * A directory with a lower node is *merged*: names come from its own entries first, which may be whiteouts, then from the host.
//! * A node that was changed is kept by the file system's index under the lower node's device and inode number; an unchanged one lives
//!   only as long as someone uses it.
//! * Content is copied up at the first write, not at open.
//!
//! The lower layer is taken to be unchanging: attributes are read when a node is first looked up, or shortly before ([`super::ahead`]), and again when it is opened. A node that
//! was only looked at may be lost when the host puts another file in its place (`ESTALE`, see [`hal::HostNode::find`]); the walk then looks
//! again. What is open or changed stays. Names are the host's of the moment; a listing is kept only while the directory's times stay as they are ([`listing`]).
//!
//! Lock order: a node's `state`, then a page cache's own; it is never held across host calls or two at a time; `index` is never held with it.
//! Directory changes are serialized by the VFS (a directory's latch), changes of content by the node's own latch.

mod dir;
mod file;
mod listing;
mod node;
mod rename;
mod set;
mod xattr;

pub use node::Node;

use super::{FileSystem, Inode};
use crate::Kernel;
use crate::error::Result;
use crate::mm::{Frames, PageCache, Quota};
use crate::sync::Mutex;
use abi::fs::{Attr, DeviceId, Statfs};
use abi::time::Timespec;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};
use hal::{ClockId, HostNode, Machine, PAGE_SIZE};
use hashbrown::HashMap;

/// `TMPFS_MAGIC`.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// `OVERLAYFS_SUPER_MAGIC`.
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
/// Inode numbers of nodes that are only in memory, in a file system that also shows the host's.
const UPPER_INO: u64 = 1 << 40;

/// How a file system in memory is made.
#[derive(Clone, Debug)]
pub struct MemOptions {
    /// Type in `/proc/mounts`.
    pub fs_type: &'static str,
    /// Permission bits of the root.
    pub mode: u32,
    /// Owner and group of the root.
    pub owner: (u32, u32),
    /// Most bytes of content; 0 for no limit but RAM.
    pub size: u64,
    /// Most inodes; 0 for no limit.
    pub inodes: u64,
}

impl Default for MemOptions {
    fn default() -> MemOptions {
        MemOptions { fs_type: "tmpfs", mode: 0o1777, owner: (0, 0), size: 0, inodes: 0 }
    }
}

/// What a lower inode is known by: device and number, and when it was born, for a number that was given to another inode since.
type Key = (u64, u64, Option<(i64, i64)>);

fn key(attr: &Attr) -> Key {
    (attr.dev.encode(), attr.ino, attr.btime.map(|t| (t.sec, t.nsec)))
}

enum Indexed {
    /// Unchanged: found as long as it is used.
    Clean(Weak<Node>),
    /// Changed: kept.
    Changed(Arc<Node>),
}

/// What all nodes of one instance share.
pub(super) struct Shared {
    dev: DeviceId,
    /// Whether the host's files show through.
    overlay: bool,
    machine: Arc<dyn Machine>,
    frames: Arc<Frames>,
    next_ino: AtomicU64,
    index: Mutex<HashMap<Key, Indexed>>,
    /// Held with no other lock.
    listings: Mutex<listing::Listings>,
    /// Pages of the content.
    quota: Arc<Quota>,
    max_inodes: u64,
    inodes: AtomicU64,
}

impl Shared {
    fn now(&self) -> Timespec {
        Timespec::from_ns(self.machine.clock_ns(ClockId::Realtime))
    }

    /// Content of a file, with no bytes yet.
    fn new_content(&self) -> Arc<PageCache> {
        PageCache::limited(self.machine.clone(), self.frames.clone(), self.quota.clone())
    }

    fn new_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// The node for a host node: the one that is known for the same host inode, else a new one.
    fn adopt(self: &Arc<Shared>, lower: Arc<dyn HostNode>, attr: Attr) -> Arc<Node> {
        let key = key(&attr);
        let mut index = self.index.lock();
        match index.get(&key) {
            Some(Indexed::Changed(node)) => return node.clone(),
            Some(Indexed::Clean(weak)) => {
                if let Some(node) = weak.upgrade() {
                    return node;
                }
            }
            None => {}
        }
        let node = Node::lower(self, lower, attr);
        index.insert(key, Indexed::Clean(Arc::downgrade(&node)));
        node
    }

    /// Keeps a changed node, or no longer keeps one that lost its last name.
    fn keep(&self, key: Key, node: &Arc<Node>, keep: bool) {
        let entry = if keep { Indexed::Changed(node.clone()) } else { Indexed::Clean(Arc::downgrade(node)) };
        let before = self.index.lock().insert(key, entry);
        drop(before);
    }

    /// A node with this key is gone.
    fn gone(&self, key: Key) {
        let mut index = self.index.lock();
        if matches!(index.get(&key), Some(Indexed::Clean(weak)) if weak.strong_count() == 0) {
            index.remove(&key);
        }
    }
}

/// A mounted instance.
pub struct MemFs {
    shared: Arc<Shared>,
    root: Arc<Node>,
    fs_type: &'static str,
    lower: Option<Arc<dyn HostNode>>,
    mode: u32,
}

impl MemFs {
    /// An empty one.
    pub fn tmpfs(kernel: &Kernel, options: &MemOptions) -> Arc<MemFs> {
        let shared = Self::shared(kernel, kernel.vfs.new_dev(), options, 1);
        let root = Node::new_root(&shared, options);
        Arc::new(MemFs { shared, root, fs_type: options.fs_type, lower: None, mode: options.mode })
    }

    /// One that shows a host directory, and keeps changes to it in memory.
    pub fn overlay(kernel: &Kernel, lower: Arc<dyn HostNode>) -> Result<Arc<MemFs>> {
        let options = MemOptions { fs_type: "overlay", ..MemOptions::default() };
        let attr = lower.attr()?;
        let shared = Self::shared(kernel, attr.dev, &options, UPPER_INO);
        let root = shared.adopt(lower.clone(), attr);
        Ok(Arc::new(MemFs { shared, root, fs_type: "overlay", lower: Some(lower), mode: 0o755 }))
    }

    fn shared(kernel: &Kernel, dev: DeviceId, options: &MemOptions, first_ino: u64) -> Arc<Shared> {
        let pages = if options.size == 0 { u64::MAX } else { options.size.div_ceil(PAGE_SIZE) };
        Arc::new(Shared {
            dev,
            overlay: first_ino == UPPER_INO,
            machine: kernel.machine.clone(),
            frames: kernel.frames.clone(),
            next_ino: AtomicU64::new(first_ino),
            index: Mutex::default(),
            listings: Mutex::default(),
            quota: Quota::new(pages),
            max_inodes: if options.inodes == 0 { u64::MAX } else { options.inodes },
            inodes: AtomicU64::new(0),
        })
    }

    /// The root with its own type.
    pub fn root_node(&self) -> &Arc<Node> {
        &self.root
    }
}

impl FileSystem for MemFs {
    fn fs_type(&self) -> &'static str {
        self.fs_type
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn statfs(&self) -> Result<Statfs> {
        let free = self.shared.frames.available();
        let (max, used) = (self.shared.quota.max(), self.shared.quota.used());
        let (blocks, bfree) = match max {
            u64::MAX => (self.shared.frames.total(), free),
            max => (max, max.saturating_sub(used).min(free)),
        };
        let inodes = self.shared.inodes.load(Ordering::Relaxed);
        let files = self.shared.max_inodes.min(self.shared.frames.total().max(inodes));
        Ok(Statfs {
            fs_type: if self.lower.is_some() { OVERLAYFS_MAGIC } else { TMPFS_MAGIC },
            bsize: PAGE_SIZE as i64,
            blocks,
            bfree,
            bavail: bfree,
            files,
            ffree: files.saturating_sub(inodes),
            namelen: 255,
            frsize: PAGE_SIZE as i64,
            ..Statfs::default()
        })
    }

    fn options(&self) -> String {
        if self.lower.is_some() {
            return String::from("lowerdir=/");
        }
        let mut text = String::new();
        let pages = self.shared.quota.max();
        if pages != u64::MAX {
            text.push_str(&format!("size={}k", pages * (PAGE_SIZE / 1024)));
        }
        if self.mode != 0o1777 {
            text.push_str(&format!("{}mode={:o}", if text.is_empty() { "" } else { "," }, self.mode));
        }
        text
    }
}

impl Drop for MemFs {
    /// Changed nodes and the index hold each other.
    fn drop(&mut self) {
        let index = core::mem::take(&mut *self.shared.index.lock());
        drop(index);
    }
}
