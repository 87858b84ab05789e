//! Inodes of [`super::MockFs`].

use super::{HostOp, MockFile, MockFs, lock};
use crate::{HostDirEntry, HostFile, HostNode, NewNode, OpenMode, SetAttr, TimeSet};
use abi::Errno;
use abi::fs::{Attr, DeviceId, FileType, Statfs};
use abi::time::Timespec;
use core::any::Any;
use std::collections::BTreeMap;
use std::string::String;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::vec::Vec;

/// What an inode is.
pub(super) enum Kind {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Arc<Inode>>),
    Symlink(Vec<u8>),
    Special(DeviceId),
}

pub(super) struct Data {
    pub(super) attr: Attr,
    pub(super) kind: Kind,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(super) struct Inode {
    data: Mutex<Data>,
    fs: Mutex<Weak<MockFs>>,
}

impl Inode {
    pub(super) fn new(ino: u64, mode: u32, kind: Kind, time: Timespec) -> Arc<Inode> {
        let attr = Attr {
            dev: DeviceId::new(0, 77),
            ino,
            mode,
            nlink: if matches!(kind, Kind::Directory(_)) { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: if let Kind::Special(device) = kind { device } else { DeviceId::default() },
            size: if let Kind::Symlink(target) = &kind { target.len() as u64 } else { 0 },
            blksize: 4096,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: Some(time),
        };
        Arc::new(Inode {
            data: Mutex::new(Data { attr, kind, xattrs: BTreeMap::new() }),
            fs: Mutex::default(),
        })
    }
    pub(super) fn set_fs(&self, fs: Weak<MockFs>) {
        *lock(&self.fs) = fs;
    }
    pub(super) fn data(&self) -> MutexGuard<'_, Data> {
        lock(&self.data)
    }
    pub(super) fn fs(&self) -> Option<Arc<MockFs>> {
        lock(&self.fs).upgrade()
    }
    /// Counts a host call; `EIO` when the machine is gone.
    pub(super) fn enter(&self, op: HostOp) -> Result<Arc<MockFs>, Errno> {
        let fs = lock(&self.fs).upgrade().ok_or(Errno::EIO)?;
        fs.enter(op)?;
        Ok(fs)
    }
    pub(super) fn child(&self, name: &[u8]) -> Option<Arc<Inode>> {
        match &self.data().kind {
            Kind::Directory(entries) => entries.get(name).cloned(),
            _ => None,
        }
    }
    pub(super) fn insert_entry(&self, name: &[u8], inode: Arc<Inode>) {
        self.names_change();
        if let Kind::Directory(entries) = &mut self.data().kind {
            entries.insert(name.to_vec(), inode);
        }
    }
    pub(super) fn remove_entry(&self, name: &[u8]) -> Option<Arc<Inode>> {
        self.names_change();
        match &mut self.data().kind {
            Kind::Directory(entries) => entries.remove(name),
            _ => None,
        }
    }
    /// The times of a directory say that its names change.
    fn names_change(&self) {
        if let Some(now) = self.fs().map(|fs| fs.now()) {
            let attr = &mut self.data().attr;
            (attr.mtime, attr.ctime) = (now, now);
        }
    }
    pub(super) fn link_target(&self) -> Option<Vec<u8>> {
        match &self.data().kind {
            Kind::Symlink(target) => Some(target.clone()),
            _ => None,
        }
    }
    pub(super) fn content(&self) -> Option<Vec<u8>> {
        match &self.data().kind {
            Kind::File(content) => Some(content.clone()),
            _ => None,
        }
    }
    pub(super) fn set_content(&self, bytes: &[u8]) {
        let mut data = self.data();
        if let Kind::File(content) = &mut data.kind {
            *content = bytes.to_vec();
        }
        data.fix_size();
    }
    fn is_empty_dir(&self) -> bool {
        matches!(&self.data().kind, Kind::Directory(entries) if entries.is_empty())
    }
    fn is_dir(&self) -> bool {
        matches!(self.data().kind, Kind::Directory(_))
    }
}

impl Data {
    pub(super) fn fix_size(&mut self) {
        if let Kind::File(content) = &self.kind {
            self.attr.size = content.len() as u64;
            self.attr.blocks = self.attr.size.div_ceil(512);
        }
    }
}

/// An inode of the mock, as the kernel holds it.
#[derive(Clone)]
pub struct MockNode {
    inode: Arc<Inode>,
    path: Vec<u8>,
}

impl MockNode {
    pub(super) fn new(inode: Arc<Inode>, path: Vec<u8>) -> MockNode {
        MockNode { inode, path }
    }
    pub(super) fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }
    /// Its inode number.
    pub fn ino(&self) -> u64 {
        self.inode.data().attr.ino
    }
    /// Sets owner and group.
    pub fn chown(self, uid: u32, gid: u32) -> MockNode {
        {
            let attr = &mut self.inode.data().attr;
            (attr.uid, attr.gid) = (uid, gid);
        }
        self
    }
    fn below(&self, name: &[u8], inode: Arc<Inode>) -> MockNode {
        let mut path = self.path.clone();
        path.push(b'/');
        path.extend_from_slice(name);
        MockNode { inode, path }
    }
    /// The inode under a valid name.
    fn entry(&self, name: &[u8]) -> Result<Arc<Inode>, Errno> {
        if !self.inode.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        self.inode.child(name).ok_or(Errno::ENOENT)
    }
    fn of(node: &dyn HostNode) -> Result<&MockNode, Errno> {
        node.as_any().downcast_ref().ok_or(Errno::EXDEV)
    }
}

fn check(name: &[u8]) -> Result<(), Errno> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(Errno::EINVAL);
    }
    if name.len() > 255 { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}

impl HostNode for MockNode {
    fn attr(&self) -> Result<Attr, Errno> {
        self.inode.enter(HostOp::Attr)?;
        Ok(self.inode.data().attr)
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn HostNode>, Errno> {
        self.inode.enter(HostOp::Lookup)?;
        check(name)?;
        let inode = self.entry(name)?;
        Ok(Arc::new(self.below(name, inode)))
    }
    fn read_dir(&self) -> Result<Vec<HostDirEntry>, Errno> {
        self.inode.enter(HostOp::ReadDir)?;
        let entries: Vec<_> = match &self.inode.data().kind {
            Kind::Directory(entries) => entries.iter().map(|(n, i)| (n.clone(), i.clone())).collect(),
            _ => return Err(Errno::ENOTDIR),
        };
        let entry = |(name, inode): (Vec<u8>, Arc<Inode>)| {
            let attr = inode.data().attr;
            HostDirEntry { name, ino: attr.ino, file_type: attr.file_type() }
        };
        Ok(entries.into_iter().map(entry).collect())
    }
    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        self.inode.enter(HostOp::ReadLink)?;
        self.inode.link_target().ok_or(Errno::EINVAL)
    }
    fn open(&self, _mode: OpenMode) -> Result<Arc<dyn HostFile>, Errno> {
        self.inode.enter(HostOp::Open)?;
        match self.inode.data().kind {
            Kind::File(_) => {}
            Kind::Directory(_) => return Err(Errno::EISDIR),
            Kind::Symlink(_) => return Err(Errno::ELOOP),
            Kind::Special(_) => return Err(Errno::ENXIO),
        }
        Ok(Arc::new(MockFile::new(self.inode.clone())))
    }
    fn create(&self, name: &[u8], what: NewNode<'_>, mode: u32) -> Result<Arc<dyn HostNode>, Errno> {
        let fs = self.inode.enter(HostOp::Create)?;
        check(name)?;
        match self.entry(name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let mode = mode & 0o7777;
        let (mode, kind) = match what {
            NewNode::File => (0o100000 | mode, Kind::File(Vec::new())),
            NewNode::Directory => (0o040000 | mode, Kind::Directory(BTreeMap::new())),
            NewNode::Symlink(target) => (0o120777, Kind::Symlink(target.to_vec())),
            NewNode::Special(FileType::Directory | FileType::Regular | FileType::Symlink, _) => {
                return Err(Errno::EINVAL);
            }
            NewNode::Special(file_type, device) => (file_type.mode_bits() | mode, Kind::Special(device)),
        };
        let inode = Inode::new(fs.new_ino(), mode, kind, fs.now());
        inode.set_fs(Arc::downgrade(&fs));
        self.inode.insert_entry(name, inode.clone());
        self.inode.data().attr.mtime = fs.now();
        Ok(Arc::new(self.below(name, inode)))
    }
    fn link(&self, name: &[u8], target: &dyn HostNode) -> Result<(), Errno> {
        self.inode.enter(HostOp::Link)?;
        check(name)?;
        let target = Self::of(target)?.inode.clone();
        if target.is_dir() {
            return Err(Errno::EPERM);
        }
        match self.entry(name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        target.data().attr.nlink += 1;
        self.inode.insert_entry(name, target);
        Ok(())
    }
    fn unlink(&self, name: &[u8], directory: bool) -> Result<(), Errno> {
        self.inode.enter(HostOp::Unlink)?;
        check(name)?;
        let inode = self.entry(name)?;
        match (directory, inode.is_dir()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) if !inode.is_empty_dir() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        self.inode.remove_entry(name);
        let nlink = &mut inode.data().attr.nlink;
        *nlink = if directory { 0 } else { nlink.saturating_sub(1) };
        Ok(())
    }
    fn rename(&self, name: &[u8], to: &dyn HostNode, to_name: &[u8], flags: u32) -> Result<(), Errno> {
        const NOREPLACE: u32 = 1;
        const EXCHANGE: u32 = 2;
        self.inode.enter(HostOp::Rename)?;
        check(name)?;
        check(to_name)?;
        let to = &Self::of(to)?.inode;
        let source = self.entry(name)?;
        let target = to.child(to_name);
        match (flags, &target) {
            (0, None) | (NOREPLACE, None) => {}
            (NOREPLACE, Some(_)) => return Err(Errno::EEXIST),
            (EXCHANGE, None) => return Err(Errno::ENOENT),
            (EXCHANGE, Some(target)) => {
                self.inode.insert_entry(name, target.clone());
                to.insert_entry(to_name, source);
                return Ok(());
            }
            (0, Some(target)) if Arc::ptr_eq(target, &source) => return Ok(()),
            (0, Some(target)) => match (source.is_dir(), target.is_dir()) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !target.is_empty_dir() => return Err(Errno::ENOTEMPTY),
                _ => {
                    let nlink = &mut target.data().attr.nlink;
                    *nlink = nlink.saturating_sub(1);
                }
            },
            _ => return Err(Errno::EINVAL),
        }
        self.inode.remove_entry(name);
        to.insert_entry(to_name, source);
        Ok(())
    }
    fn set_attr(&self, set: &SetAttr) -> Result<(), Errno> {
        let fs = self.inode.enter(HostOp::SetAttr)?;
        let mut data = self.inode.data();
        if let Some(size) = set.size {
            let size = usize::try_from(size).map_err(|_| Errno::EFBIG)?;
            match &mut data.kind {
                Kind::File(content) => content.resize(size, 0),
                Kind::Directory(_) => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
            data.fix_size();
            data.attr.mtime = fs.now();
        }
        if set.mode.is_some() && matches!(data.kind, Kind::Symlink(_)) {
            return Err(Errno::EOPNOTSUPP);
        }
        let attr = &mut data.attr;
        if let Some(mode) = set.mode {
            attr.mode = attr.mode & 0o170000 | mode & 0o7777;
        }
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        let time = |set: Option<TimeSet>, old| match set {
            None => old,
            Some(TimeSet::Now) => fs.now(),
            Some(TimeSet::At(time)) => time,
        };
        attr.atime = time(set.atime, attr.atime);
        attr.mtime = time(set.mtime, attr.mtime);
        attr.ctime = fs.now();
        Ok(())
    }
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.inode.enter(HostOp::Xattr)?;
        self.inode.data().xattrs.get(name).cloned().ok_or(Errno::ENODATA)
    }
    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        self.inode.enter(HostOp::Xattr)?;
        let xattrs = &mut self.inode.data().xattrs;
        match (flags, xattrs.contains_key(name)) {
            (1, true) => return Err(Errno::EEXIST),
            (2, false) => return Err(Errno::ENODATA),
            (0..=2, _) => {}
            _ => return Err(Errno::EINVAL),
        }
        xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>, Errno> {
        self.inode.enter(HostOp::Xattr)?;
        Ok(self.inode.data().xattrs.keys().cloned().collect())
    }
    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.inode.enter(HostOp::Xattr)?;
        self.inode.data().xattrs.remove(name).map(drop).ok_or(Errno::ENODATA)
    }
    fn statfs(&self) -> Result<Statfs, Errno> {
        self.inode.enter(HostOp::Statfs)?;
        Ok(Statfs {
            fs_type: 0xef53,
            bsize: 4096,
            blocks: 1 << 20,
            bfree: 1 << 19,
            bavail: 1 << 19,
            files: 1 << 20,
            ffree: 1 << 19,
            namelen: 255,
            frsize: 4096,
            ..Statfs::default()
        })
    }
    fn describe(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
