//! A directory or file of the host with writes going through (`--volume`).
//!
//! Attributes are passed through unchanged and asked for each time, for the host may change anything at any moment; names are not cached
//! either. One inode object stands for each host inode as long as it is used, so hard links are one inode here too.
//! The guest's permissions are checked by the VFS first, then the host has its say with the rights of the process that the kernel is.
//! A new file gets the guest's owner where the host allows that, else it keeps the host's.
//! Device nodes and FIFOs are never opened on the host: their numbers lead to this kernel's devices and pipes.
//!
//! Lock order: the inode table's lock is a leaf.

mod file;

use super::{File, FileSystem, Inode, Latch, NewInode, NewKind, OpenFlags, Path, device};
use crate::error::{Result, err};
use crate::sync::Mutex;
use crate::task::Cx;
use abi::Errno;
use abi::fs::{Attr, FileType, Statfs};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use hal::{HostNode, NewNode, OpenMode, SetAttr};
use hashbrown::HashMap;

type Table = Mutex<HashMap<(u64, u64), Weak<HostInode>>>;

/// A mounted volume.
pub struct HostDirFs {
    root: Arc<HostInode>,
}

/// An inode of the host.
pub struct HostInode {
    table: Arc<Table>,
    key: (u64, u64),
    node: Arc<dyn HostNode>,
    /// Held while content grows at its end.
    content: Latch,
}

impl HostDirFs {
    /// A file system that shows `node` and what is below it.
    pub fn new(node: Arc<dyn HostNode>) -> Result<Arc<HostDirFs>> {
        Ok(Arc::new(HostDirFs { root: HostInode::get(&Arc::default(), node)? }))
    }
}

impl FileSystem for HostDirFs {
    fn fs_type(&self) -> &'static str {
        "hostdir"
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<Statfs> {
        Ok(self.root.node.statfs()?)
    }
}

impl HostInode {
    fn get(table: &Arc<Table>, node: Arc<dyn HostNode>) -> Result<Arc<HostInode>> {
        let attr = node.attr()?;
        let key = (attr.dev.encode(), attr.ino);
        let mut inodes = table.lock();
        if let Some(known) = inodes.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let inode = Arc::new(HostInode { table: table.clone(), key, node, content: Latch::new() });
        inodes.insert(key, Arc::downgrade(&inode));
        Ok(inode)
    }

    fn of<'a>(&self, inode: &'a Arc<dyn Inode>) -> Result<&'a HostInode> {
        let other = inode.as_any().downcast_ref::<HostInode>();
        other.filter(|o| Arc::ptr_eq(&o.table, &self.table)).ok_or(Errno::EXDEV.into())
    }

    /// Gives a new node the guest's owner, as far as the host allows.
    fn adopt_owner(&self, node: &dyn HostNode, new: &NewInode<'_>) -> Result<()> {
        let attr = node.attr()?;
        if (attr.uid, attr.gid) == (new.uid, new.gid) {
            return Ok(());
        }
        let owner = SetAttr { uid: Some(new.uid), gid: Some(new.gid), ..SetAttr::default() };
        match node.set_attr(&owner) {
            Err(Errno::EPERM | Errno::EINVAL) => return Ok(()),
            other => other?,
        }
        // A change of owner takes away set-user-ID and set-group-ID.
        if new.mode & 0o6000 != 0 && !matches!(new.kind, NewKind::Symlink(_)) {
            node.set_attr(&SetAttr { mode: Some(new.mode), ..SetAttr::default() })?;
        }
        Ok(())
    }
}

impl Inode for HostInode {
    fn attr(&self) -> Result<Attr> {
        Ok(self.node.attr()?)
    }

    fn set_attr(&self, _cx: &Cx, set: &SetAttr) -> Result<()> {
        Ok(self.node.set_attr(set)?)
    }

    fn lookup(&self, _cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let inode: Arc<dyn Inode> = HostInode::get(&self.table, self.node.lookup(name)?)?;
        Ok(inode)
    }

    fn create(&self, _cx: &Cx, name: &[u8], new: &NewInode<'_>) -> Result<Arc<dyn Inode>> {
        let what = match new.kind {
            NewKind::File => NewNode::File,
            NewKind::Directory => NewNode::Directory,
            NewKind::Symlink(target) => NewNode::Symlink(target),
            NewKind::Special(file_type, device) => NewNode::Special(file_type, device),
        };
        let node = self.node.create(name, what, new.mode)?;
        self.adopt_owner(&*node, new)?;
        let inode: Arc<dyn Inode> = HostInode::get(&self.table, node)?;
        Ok(inode)
    }

    fn link(&self, _cx: &Cx, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        Ok(self.node.link(name, &*self.of(target)?.node)?)
    }

    fn unlink(&self, _cx: &Cx, name: &[u8]) -> Result<()> {
        Ok(self.node.unlink(name, false)?)
    }

    fn rmdir(&self, _cx: &Cx, name: &[u8]) -> Result<()> {
        Ok(self.node.unlink(name, true)?)
    }

    fn rename(&self, _cx: &Cx, name: &[u8], to: &Arc<dyn Inode>, to_name: &[u8], flags: u32) -> Result<()> {
        Ok(self.node.rename(name, &*self.of(to)?.node, to_name, flags)?)
    }

    fn read_link(&self, _cx: &Cx) -> Result<Vec<u8>> {
        Ok(self.node.read_link()?)
    }

    fn open(&self, cx: &Cx, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        match self.attr()?.file_type() {
            FileType::Regular => {}
            FileType::Directory => return Ok(Arc::new(file::HostDirectory::new(self.node.clone()))),
            FileType::Symlink => return err(Errno::ELOOP),
            _ => return device::open_special(cx, path, flags),
        }
        let mode = match (flags.readable(), flags.writable()) {
            (_, false) => OpenMode::Read,
            (false, true) => OpenMode::Write,
            (true, true) => OpenMode::ReadWrite,
        };
        Ok(Arc::new(file::HostRegular::new(self.node.open(mode)?)))
    }

    fn has_acl(&self) -> bool {
        true
    }
    fn get_xattr(&self, _cx: &Cx, name: &[u8]) -> Result<Vec<u8>> {
        Ok(self.node.get_xattr(name)?)
    }
    fn set_xattr(&self, _cx: &Cx, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        Ok(self.node.set_xattr(name, value, flags)?)
    }
    fn list_xattr(&self, _cx: &Cx) -> Result<Vec<Vec<u8>>> {
        Ok(self.node.list_xattr()?)
    }
    fn remove_xattr(&self, _cx: &Cx, name: &[u8]) -> Result<()> {
        Ok(self.node.remove_xattr(name)?)
    }

    fn cacheable(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for HostInode {
    fn drop(&mut self) {
        let mut inodes = self.table.lock();
        if inodes.get(&self.key).is_some_and(|weak| weak.strong_count() == 0) {
            inodes.remove(&self.key);
        }
    }
}
