//! Open regular files.

use super::node::{Body, Node};
use crate::error::{Result, err};
use crate::fs::{File, Mappable, OpenFile, OpenFlags, host_read};
use crate::mm::PageCache;
use crate::task::Cx;
use crate::user::{Sink, Source};
use abi::Errno;
use abi::fs::Attr;
use alloc::sync::Arc;
use core::any::Any;
use hal::{HostFile, PAGE_SIZE};

/// `FALLOC_FL_*`.
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 16;

enum Content {
    Cache(Arc<PageCache>),
    /// And its size when it was looked at last.
    Lower(Arc<dyn HostFile>, u64),
}

/// An open regular file. What it reads is the inode's content at that moment, also when that was copied up after the open.
pub struct MemFile {
    node: Arc<Node>,
}

pub(super) fn open(node: Arc<Node>, flags: OpenFlags) -> Result<Arc<dyn File>> {
    // The host may refuse the content even to those whom the guest's permissions let in: better now than at the first read.
    if !flags.contains(OpenFlags::TRUNC) {
        node.open_lower()?;
    }
    Ok(Arc::new(MemFile { node }))
}

impl MemFile {
    fn content_now(&self) -> Result<Content> {
        let state = self.node.state.lock();
        match &state.body {
            Body::Cache(cache) => return Ok(Content::Cache(cache.clone())),
            Body::Lower(Some(file)) => return Ok(Content::Lower(file.clone(), state.attr.size)),
            _ => drop(state),
        }
        let file = self.node.lower_file()?;
        let size = self.node.state.lock().attr.size;
        Ok(Content::Lower(file, size))
    }
}

impl File for MemFile {
    fn read(&self, cx: &Cx, of: &OpenFile, pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let n = match self.content_now()? {
            Content::Cache(cache) => {
                let n = cache.read(*pos, sink)?;
                self.node.accessed(of);
                n
            }
            Content::Lower(file, size) => host_read(cx, &*file, *pos, Some(size), sink)?,
        };
        *pos += n as u64;
        Ok(n)
    }

    fn write(&self, cx: &Cx, of: &OpenFile, pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        let _content = self.node.content.lock(cx);
        let cache = self.node.own_content(cx, None)?;
        if of.flags().contains(OpenFlags::APPEND) {
            *pos = cache.size();
        }
        let n = cache.write(*pos, source)?;
        *pos += n as u64;
        if n > 0 {
            self.node.content_changed();
        }
        Ok(n)
    }

    fn lend(&self) -> Option<Attr> {
        self.node.lend()
    }

    fn content(&self) -> Option<Arc<PageCache>> {
        self.node.state.lock().cache().cloned()
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        let content = self.content_now()?;
        let size = match &content {
            Content::Cache(cache) => cache.size(),
            Content::Lower(file, _) if whence >= 2 => file.size()?,
            Content::Lower(..) => 0,
        };
        if whence == 3 || whence == 4 {
            let hole = whence == 4;
            let from = u64::try_from(offset).ok().filter(|&o| o < size).ok_or(Errno::ENXIO)?;
            return match content {
                Content::Lower(file, _) => Ok(file.seek_extent(from, hole)?),
                Content::Cache(cache) => next_extent(&cache, from, size, hole),
            };
        }
        let base = match whence {
            0 => 0,
            1 => of.pos(),
            2 => size,
            _ => return err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|&p| p <= i64::MAX as u64).ok_or(Errno::EINVAL.into())
    }

    fn pollable(&self) -> bool {
        false
    }

    fn mmap(&self, cx: &Cx, of: &OpenFile) -> Result<Mappable> {
        if of.flags().writable() {
            // A shared mapping may be written through without the kernel seeing it.
            let _content = self.node.content.lock(cx);
            return Ok(Mappable::Cache(self.node.own_content(cx, None)?));
        }
        Ok(match self.content_now()? {
            Content::Cache(cache) => Mappable::Cache(cache),
            Content::Lower(file, _) => Mappable::Host(file),
        })
    }

    fn allocate(&self, cx: &Cx, _of: &OpenFile, mode: u32, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|&e| e <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        let _content = self.node.content.lock(cx);
        let cache = self.node.own_content(cx, None)?;
        let grow = mode & KEEP_SIZE == 0 && end > cache.size();
        match mode & !KEEP_SIZE {
            0 => cache.allocate(offset, len)?,
            PUNCH_HOLE if mode & KEEP_SIZE != 0 => cache.punch(cx, offset, len),
            ZERO_RANGE => cache.punch(cx, offset, len),
            _ => return err(Errno::EOPNOTSUPP),
        }
        if grow {
            cache.truncate(cx, end);
        }
        self.node.content_changed();
        Ok(())
    }

    fn sync(&self, _cx: &Cx, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `SEEK_DATA` and `SEEK_HOLE` by the pages that exist.
fn next_extent(cache: &PageCache, from: u64, size: u64, hole: bool) -> Result<u64> {
    let mut at = from;
    while at < size {
        if cache.page_if_present(at / PAGE_SIZE).is_none() == hole {
            return Ok(at);
        }
        at = (at / PAGE_SIZE + 1) * PAGE_SIZE;
    }
    if hole { Ok(size) } else { err(Errno::ENXIO) }
}
