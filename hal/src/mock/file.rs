//! Content of the regular files of [`super::MockFs`].

use super::HostOp;
use super::node::{Inode, Kind};
use crate::{HostFile, Progress, Transfer, Transferred};
use abi::Errno;
use abi::fs::Attr;
use core::any::Any;
use core::fmt;
use std::sync::Arc;
use std::vec::Vec;

/// An open file of the mock; two are equal when they are the same inode.
#[derive(Clone)]
pub struct MockFile {
    inode: Arc<Inode>,
}

impl MockFile {
    pub(super) fn new(inode: Arc<Inode>) -> MockFile {
        MockFile { inode }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut data = self.inode.data();
        let Kind::File(content) = &mut data.kind else { unreachable!("only regular files are opened") };
        let result = f(content);
        data.fix_size();
        result
    }

    /// A load through a mapping: zeros behind the end.
    pub(super) fn mapped_read(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        self.with(|content| copy_out(content, offset, buf));
    }

    /// A store through a shared mapping: lost behind the end.
    pub(super) fn mapped_write(&self, offset: u64, buf: &[u8]) {
        self.with(|content| {
            for (i, byte) in buf.iter().enumerate() {
                if let Some(to) = content.get_mut(offset as usize + i) {
                    *to = *byte;
                }
            }
        });
    }
}

fn copy_out(content: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    let len = (content.len() - from).min(buf.len());
    buf[..len].copy_from_slice(&content[from..from + len]);
    len
}

impl PartialEq for MockFile {
    fn eq(&self, other: &MockFile) -> bool {
        Arc::ptr_eq(&self.inode, &other.inode)
    }
}

impl Eq for MockFile {}

impl fmt::Debug for MockFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MockFile(ino {})", self.inode.data().attr.ino)
    }
}

impl MockFile {
    /// Does what an I/O thread would do.
    pub(super) fn perform(&self, transfer: Transfer) -> Transferred {
        match transfer {
            Transfer::Read(offset, mut buf) => Transferred { result: self.read_at(offset, &mut buf), buf },
            Transfer::Write(offset, buf) => Transferred { result: self.write_at(offset, &buf), buf },
            Transfer::Sync(data_only) => {
                Transferred { result: self.sync(data_only).map(|()| 0), buf: Vec::new() }
            }
        }
    }
}

impl HostFile for MockFile {
    fn read_now(&self, offset: u64, buf: &mut [u8]) -> Result<Progress, Errno> {
        if self.inode.fs().is_some_and(|fs| fs.is_slow()) {
            return Ok(Progress { done: 0, blocked: true });
        }
        self.read_at(offset, buf).map(|done| Progress { done, blocked: false })
    }
    fn write_now(&self, offset: u64, buf: &[u8]) -> Result<Progress, Errno> {
        if self.inode.fs().is_some_and(|fs| fs.is_slow()) {
            return Ok(Progress { done: 0, blocked: true });
        }
        self.write_at(offset, buf).map(|done| Progress { done, blocked: false })
    }
    fn start(&self, id: u64, transfer: Transfer) -> Result<(), Transfer> {
        match self.inode.fs() {
            Some(fs) => fs.begin(id, self.clone(), transfer),
            None => Err(transfer),
        }
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        self.inode.enter(HostOp::ReadAt)?;
        Ok(self.with(|content| copy_out(content, offset, buf)))
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<usize, Errno> {
        let fs = self.inode.enter(HostOp::WriteAt)?;
        let from = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let end = from.checked_add(buf.len()).filter(|end| *end < 1 << 32).ok_or(Errno::EFBIG)?;
        self.with(|content| {
            if content.len() < end && !buf.is_empty() {
                content.resize(end, 0);
            }
            content[from.min(end)..end].copy_from_slice(buf);
        });
        self.inode.data().attr.mtime = fs.now();
        Ok(buf.len())
    }
    fn attr(&self) -> Result<Attr, Errno> {
        self.inode.enter(HostOp::Attr)?;
        Ok(self.inode.data().attr)
    }
    fn size(&self) -> Result<u64, Errno> {
        self.inode.enter(HostOp::Attr)?;
        Ok(self.with(|content| content.len() as u64))
    }
    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        const KEEP_SIZE: u32 = 1;
        const PUNCH_HOLE: u32 = 2;
        self.inode.enter(HostOp::Allocate)?;
        let end = offset.checked_add(len).filter(|end| *end < 1 << 32).ok_or(Errno::EFBIG)? as usize;
        let start = offset as usize;
        self.with(|content| {
            match mode {
                0 if content.len() < end => content.resize(end, 0),
                0 | KEEP_SIZE => {}
                m if m == PUNCH_HOLE | KEEP_SIZE => {
                    let end = end.min(content.len());
                    content[start.min(end)..end].fill(0);
                }
                _ => return Err(Errno::EOPNOTSUPP),
            }
            Ok(())
        })
    }
    fn seek_extent(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        let size = self.size()?;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        Ok(if hole { size } else { offset })
    }
    fn sync(&self, _data_only: bool) -> Result<(), Errno> {
        self.inode.enter(HostOp::Sync)?;
        Ok(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
