//! Open files and directories of a volume.

use super::HostInode;
use crate::error::{Result, err};
use crate::fs::{DirEntry, File, Mappable, OpenFile, OpenFlags, dotdot_ino, host_read, host_write, transfer};
use crate::sync::Mutex;
use crate::task::Cx;
use crate::user::{Sink, Source};
use abi::Errno;
use abi::fs::FileType;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use hal::{HostDirEntry, HostFile, HostNode, PAGE_SIZE};

/// An open regular file of the host.
pub(super) struct HostRegular {
    file: Arc<dyn HostFile>,
}

impl HostRegular {
    pub(super) fn new(file: Arc<dyn HostFile>) -> HostRegular {
        HostRegular { file }
    }
}

impl File for HostRegular {
    fn read(&self, cx: &Cx, _of: &OpenFile, pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let size = if sink.room() > PAGE_SIZE as usize { Some(self.file.size()?) } else { None };
        let n = host_read(cx, &*self.file, *pos, size, sink)?;
        *pos += n as u64;
        Ok(n)
    }

    fn write(&self, cx: &Cx, of: &OpenFile, pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        let inode = of.inode.as_ref().and_then(|i| i.as_any().downcast_ref::<HostInode>());
        // Where to append to is asked of the host, and guests must not come between the question and the write.
        let _content = match inode {
            Some(inode) if of.flags().contains(OpenFlags::APPEND) => {
                let guard = inode.content.lock(cx);
                *pos = self.file.size()?;
                Some(guard)
            }
            _ => None,
        };
        let n = host_write(cx, &*self.file, *pos, source)?;
        *pos += n as u64;
        Ok(n)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        let base = match whence {
            0 => 0,
            1 => of.pos(),
            2 => self.file.size()?,
            3 | 4 => {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                return Ok(self.file.seek_extent(from, whence == 4)?);
            }
            _ => return err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|&p| p <= i64::MAX as u64).ok_or(Errno::EINVAL.into())
    }

    fn pollable(&self) -> bool {
        false
    }

    fn mmap(&self, _cx: &Cx, _of: &OpenFile) -> Result<Mappable> {
        Ok(Mappable::Host(self.file.clone()))
    }

    fn allocate(&self, _cx: &Cx, _of: &OpenFile, mode: u32, offset: u64, len: u64) -> Result<()> {
        Ok(self.file.allocate(mode, offset, len)?)
    }

    fn sync(&self, cx: &Cx, data_only: bool) -> Result<()> {
        transfer::sync(cx, &*self.file, data_only)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory of the host, listed as it was when the listing began.
pub(super) struct HostDirectory {
    node: Arc<dyn HostNode>,
    listing: Mutex<Option<Arc<Vec<HostDirEntry>>>>,
}

impl HostDirectory {
    pub(super) fn new(node: Arc<dyn HostNode>) -> HostDirectory {
        HostDirectory { node, listing: Mutex::new(None) }
    }

    fn listing(&self, again: bool) -> Result<Arc<Vec<HostDirEntry>>> {
        let known = self.listing.lock().clone();
        if let (false, Some(listing)) = (again, known) {
            return Ok(listing);
        }
        let listing = Arc::new(self.node.read_dir()?);
        *self.listing.lock() = Some(listing.clone());
        Ok(listing)
    }
}

impl File for HostDirectory {
    fn read(&self, _cx: &Cx, _of: &OpenFile, _pos: &mut u64, _sink: &mut dyn Sink) -> Result<usize> {
        err(Errno::EISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn read_dir(
        &self,
        _cx: &Cx,
        of: &OpenFile,
        pos: u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let mut emit = |name: &[u8], ino, file_type, next| emit(DirEntry { name, ino, file_type, next });
        let own = self.node.attr()?.ino;
        if pos == 0 && !emit(b".", own, FileType::Directory, 1) {
            return Ok(());
        }
        if pos <= 1 && !emit(b"..", dotdot_ino(of).unwrap_or(own), FileType::Directory, 2) {
            return Ok(());
        }
        let listing = self.listing(pos == 0)?;
        for (i, entry) in listing.iter().enumerate().skip(pos.saturating_sub(2) as usize) {
            if !emit(&entry.name, entry.ino, entry.file_type, i as u64 + 3) {
                break;
            }
        }
        Ok(())
    }

    fn seek(&self, _cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        let base = match whence {
            0 => 0,
            1 => of.pos(),
            // Where the end is differs between the host's file systems; this is ext4's answer.
            2 => i64::MAX as u64,
            _ => return err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|&p| p <= i64::MAX as u64).ok_or(Errno::EINVAL.into())
    }

    fn pollable(&self) -> bool {
        false
    }

    fn sync(&self, _cx: &Cx, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
