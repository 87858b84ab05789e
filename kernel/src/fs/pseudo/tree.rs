//! A tree of fixed entries that anyone can add to.

use super::{Content, DirSource, Entry, LinkTarget, Meta, Out, PseudoDir, PseudoFile, PseudoLink};
use crate::error::{Result, err};
use crate::fs::Inode;
use crate::sync::{Mutex, Once};
use crate::task::Cx;
use abi::Errno;
use abi::fs::{DeviceId, FileType};
use abi::time::Timespec;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// Something to put into a tree.
pub struct Node {
    mode: u32,
    kind: Kind,
}

enum Kind {
    Dir(Option<Arc<dyn DirSource>>),
    Text(Arc<dyn Content>),
    Link(Arc<dyn LinkTarget>),
}

impl Node {
    /// A file whose text is computed, with mode 0444.
    pub fn text(show: impl Fn(&Cx, &mut Out) -> Result<()> + Send + Sync + 'static) -> Node {
        Node { mode: 0o444, kind: Kind::Text(Arc::new(show)) }
    }
    /// A file that always says the same, with mode 0444.
    pub fn constant(text: impl Into<String>) -> Node {
        let text: String = text.into();
        Node::text(move |_, out| {
            out.text(&text);
            Ok(())
        })
    }
    /// A file with a content of its own, with mode 0444.
    pub fn content(content: impl Content + 'static) -> Node {
        Node { mode: 0o444, kind: Kind::Text(Arc::new(content)) }
    }
    /// A file that can be read and written, with mode 0644.
    pub fn value(
        show: impl Fn(&Cx, &mut Out) -> Result<()> + Send + Sync + 'static,
        store: impl Fn(&Cx, &[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> Node {
        Node { mode: 0o644, kind: Kind::Text(Arc::new(Value { show, store })) }
    }
    /// A symbolic link.
    pub fn link(target: impl LinkTarget + 'static) -> Node {
        Node { mode: 0o777, kind: Kind::Link(Arc::new(target)) }
    }
    /// An empty directory that others can be registered in.
    pub fn dir() -> Node {
        Node { mode: 0o555, kind: Kind::Dir(None) }
    }
    /// A directory with computed entries behind the registered ones.
    pub fn computed_dir(source: Arc<dyn DirSource>) -> Node {
        Node { mode: 0o555, kind: Kind::Dir(Some(source)) }
    }
    /// With other permission bits.
    pub fn mode(mut self, mode: u32) -> Node {
        self.mode = mode;
        self
    }
}

struct Value<S, T> {
    show: S,
    store: T,
}

impl<S, T> Content for Value<S, T>
where
    S: Fn(&Cx, &mut Out) -> Result<()> + Send + Sync,
    T: Fn(&Cx, &[u8]) -> Result<()> + Send + Sync,
{
    fn show(&self, cx: &Cx, out: &mut Out) -> Result<()> {
        (self.show)(cx, out)
    }
    fn store(&self, cx: &Cx, bytes: &[u8]) -> Result<()> {
        (self.store)(cx, bytes)
    }
}

/// Keys of computed entries start here, behind all fixed ones.
const COMPUTED: u64 = 1 << 32;

struct Child {
    key: u64,
    name: Vec<u8>,
    ino: u64,
    file_type: FileType,
    inode: Arc<dyn Inode>,
    /// For directories: their children.
    children: Option<Arc<Children>>,
}

#[derive(Default)]
struct Children {
    /// In the order of registration, which is the order of listing.
    list: Mutex<Vec<Arc<Child>>>,
    computed: Option<Arc<dyn DirSource>>,
}

impl Children {
    fn find(&self, name: &[u8]) -> Option<Arc<Child>> {
        self.list.lock().iter().find(|child| child.name == name).cloned()
    }
}

impl DirSource for Children {
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        match (self.find(name), &self.computed) {
            (Some(child), _) => Ok(child.inode.clone()),
            (None, Some(computed)) => computed.lookup(cx, name),
            (None, None) => err(Errno::ENOENT),
        }
    }

    fn list(&self, cx: &Cx, from: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        let list: Vec<Arc<Child>> = self.list.lock().iter().filter(|c| c.key >= from).cloned().collect();
        for child in list {
            let entry =
                Entry { key: child.key, name: &child.name, ino: child.ino, file_type: child.file_type };
            if !emit(entry) {
                return Ok(());
            }
        }
        match &self.computed {
            Some(computed) => computed.list(cx, from.saturating_sub(COMPUTED), &mut |entry| {
                emit(Entry { key: entry.key.saturating_add(COMPUTED), ..entry })
            }),
            None => Ok(()),
        }
    }

    fn nlink(&self) -> Option<u64> {
        let dirs = self.list.lock().iter().filter(|c| c.file_type == FileType::Directory).count();
        let computed = self.computed.as_ref().and_then(|c| c.nlink()).unwrap_or(0);
        Some(2 + dirs as u64 + computed)
    }
}

/// A tree. Its entries are made when somebody looks for the first time, which many programs never do.
pub struct Tree {
    root: Arc<PseudoDir>,
    top: Arc<Top>,
}

/// The root's entries, which are all others' way in.
struct Top {
    fill: Box<dyn Fn(&Entries) + Send + Sync>,
    /// None until `filled`.
    entries: Entries,
    filled: Once<()>,
}

impl Top {
    fn entries(&self) -> &Entries {
        self.filled.call_once(|| (self.fill)(&self.entries));
        &self.entries
    }

    fn source(&self) -> &Children {
        &self.entries().children
    }
}

impl DirSource for Top {
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.source().lookup(cx, name)
    }
    fn list(&self, cx: &Cx, from: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.source().list(cx, from, emit)
    }
    fn nlink(&self) -> Option<u64> {
        self.source().nlink()
    }
}

impl Tree {
    /// A tree on this device, made at this time, whose root has what `fill` registers, and behind that these computed entries. `fill` may be called
    /// at any later time.
    pub fn new(
        dev: DeviceId,
        time: Timespec,
        computed: Option<Arc<dyn DirSource>>,
        fill: impl Fn(&Entries) + Send + Sync + 'static,
    ) -> Tree {
        let entries = Entries {
            dev,
            time,
            next_ino: AtomicU64::new(0xf000_0000),
            next_key: AtomicU64::new(0),
            children: Arc::new(Children { list: Mutex::default(), computed }),
        };
        let top = Arc::new(Top { fill: Box::new(fill), entries, filled: Once::new() });
        let meta = Meta::new(dev, 1, FileType::Directory, 0o555, time);
        Tree { root: PseudoDir::new(meta, top.clone()), top }
    }

    /// The root directory.
    pub fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    /// What is in it.
    pub fn entries(&self) -> &Entries {
        self.top.entries()
    }
}

/// The fixed entries of a tree.
pub struct Entries {
    dev: DeviceId,
    time: Timespec,
    next_ino: AtomicU64,
    next_key: AtomicU64,
    children: Arc<Children>,
}

impl Entries {
    /// Adds a node at a path without a leading slash; missing directories are made. `EEXIST`, `ENOTDIR`.
    pub fn register(&self, path: &str, node: Node) -> Result<()> {
        let mut at = self.children.clone();
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            match at.find(part.as_bytes()) {
                Some(_) if last => return err(Errno::EEXIST),
                Some(child) => at = child.children.clone().ok_or(Errno::ENOTDIR)?,
                None if last => {
                    self.add(&at, part, node);
                    return Ok(());
                }
                None => at = self.add(&at, part, Node::dir()).ok_or(Errno::ENOTDIR)?,
            }
        }
        err(Errno::EEXIST)
    }

    /// Takes a node out; open files of it stay usable. `ENOENT`.
    pub fn unregister(&self, path: &str) -> Result<()> {
        let mut at = self.children.clone();
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            let child = at.find(part.as_bytes()).ok_or(Errno::ENOENT)?;
            if parts.peek().is_none() {
                at.list.lock().retain(|c| c.key != child.key);
                return Ok(());
            }
            at = child.children.clone().ok_or(Errno::ENOTDIR)?;
        }
        err(Errno::ENOENT)
    }

    fn add(&self, at: &Children, name: &str, node: Node) -> Option<Arc<Children>> {
        let ino = self.next_ino.fetch_add(1, Ordering::Relaxed);
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let file_type = match node.kind {
            Kind::Dir(_) => FileType::Directory,
            Kind::Text(_) => FileType::Regular,
            Kind::Link(_) => FileType::Symlink,
        };
        let meta = Meta::new(self.dev, ino, file_type, node.mode, self.time);
        let mut children = None;
        let inode: Arc<dyn Inode> = match node.kind {
            Kind::Dir(computed) => {
                let own = Arc::new(Children { list: Mutex::default(), computed });
                children = Some(own.clone());
                PseudoDir::new(meta, own)
            }
            Kind::Text(content) => PseudoFile::new(meta, content),
            Kind::Link(target) => PseudoLink::new(meta, target),
        };
        let name = name.as_bytes().to_vec();
        let child = Child { key, name, ino, file_type, inode, children: children.clone() };
        at.list.lock().push(Arc::new(child));
        children
    }
}
