//! Files whose text is made when they are read.
//!
//! The text is made by the first read and again by every read at position 0, so a program that keeps a file open and goes back
//! to its start sees news, and one that reads in pieces sees one consistent text (as Linux's `seq_file` does).

use super::{Meta, Out};
use crate::error::{Result, err};
use crate::fs::{File, Inode, OpenFile, OpenFlags, Path};
use crate::sync::Mutex;
use crate::task::Cx;
use crate::user::{Sink, Source};
use crate::wait::{PollEvents, PollTable};
use abi::Errno;
use abi::fs::Attr;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;
use hal::SetAttr;

/// The longest single write that a generated file takes, as procfs limits it.
const WRITE_MAX: usize = 4096;

/// What a generated file says and does.
pub trait Content: Send + Sync {
    /// Checks at `open(2)`, beyond the permission bits.
    fn check_open(&self, _cx: &Cx, _flags: OpenFlags) -> Result<()> {
        Ok(())
    }
    /// The text now.
    fn show(&self, cx: &Cx, out: &mut Out) -> Result<()>;
    /// Takes a write as a whole.
    fn store(&self, _cx: &Cx, _bytes: &[u8]) -> Result<()> {
        err(Errno::EIO)
    }
}

impl<F: Fn(&Cx, &mut Out) -> Result<()> + Send + Sync> Content for F {
    fn show(&self, cx: &Cx, out: &mut Out) -> Result<()> {
        self(cx, out)
    }
}

/// The inode of a generated file.
pub struct PseudoFile {
    meta: Meta,
    content: Arc<dyn Content>,
}

impl PseudoFile {
    /// A file.
    pub fn new(meta: Meta, content: Arc<dyn Content>) -> Arc<PseudoFile> {
        Arc::new(PseudoFile { meta, content })
    }
}

impl Inode for PseudoFile {
    fn attr(&self) -> Result<Attr> {
        Ok(self.meta.attr())
    }
    fn set_attr(&self, _cx: &Cx, set: &SetAttr) -> Result<()> {
        only_truncates(set)
    }
    fn open(&self, cx: &Cx, _path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        self.content.check_open(cx, flags)?;
        Ok(Arc::new(OpenText { content: self.content.clone(), text: Mutex::new(None) }))
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn is_same(&self, other: &dyn Inode) -> bool {
        other.as_any().downcast_ref::<PseudoFile>().is_some_and(|other| self.meta.is_same(&other.meta))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `O_TRUNC` of a generated file does nothing; no other change is possible.
pub(super) fn only_truncates(set: &SetAttr) -> Result<()> {
    if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() { err(Errno::EPERM) } else { Ok(()) }
}

struct OpenText {
    content: Arc<dyn Content>,
    text: Mutex<Option<Arc<Vec<u8>>>>,
}

impl File for OpenText {
    fn read(&self, cx: &Cx, _of: &OpenFile, pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let old = if *pos == 0 { None } else { self.text.lock().clone() };
        let text = match old {
            Some(text) => text,
            None => {
                let mut out = Out::new();
                self.content.show(cx, &mut out)?;
                let text = Arc::new(out.0);
                let previous = self.text.lock().replace(text.clone());
                drop(previous);
                text
            }
        };
        let from = usize::try_from(*pos).unwrap_or(usize::MAX).min(text.len());
        let rest = text.get(from..).unwrap_or_default();
        let len = rest.len().min(sink.room());
        sink.put(rest.get(..len).unwrap_or_default())?;
        *pos += len as u64;
        Ok(len)
    }

    fn write(&self, cx: &Cx, _of: &OpenFile, pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        let len = source.left();
        if len > WRITE_MAX {
            return err(Errno::EINVAL);
        }
        let mut bytes = vec![0; len];
        let taken = source.take(&mut bytes)?;
        bytes.truncate(taken);
        self.content.store(cx, &bytes)?;
        *pos += taken as u64;
        Ok(taken)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, _table: Option<&mut PollTable<'_>>) -> PollEvents {
        PollEvents::READABLE | PollEvents::WRITABLE
    }

    fn pollable(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
