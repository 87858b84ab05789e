//! Symbolic links with a computed target, and magic links that lead to an object.

use super::Meta;
use crate::error::{Result, err};
use crate::fs::{File, Inode, OpenFile, OpenFlags, Path};
use crate::task::Cx;
use abi::Errno;
use abi::fs::Attr;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// Where a link leads.
pub trait LinkTarget: Send + Sync {
    /// What `readlink(2)` shows.
    fn text(&self, cx: &Cx) -> Result<Vec<u8>>;
    /// See [`Inode::follow`].
    fn follow(&self, _cx: &Cx) -> Option<Result<Path>> {
        None
    }
    /// See [`Inode::follow_file`].
    fn follow_file(&self, _cx: &Cx) -> Option<Result<Arc<OpenFile>>> {
        None
    }
}

/// A link that always says the same.
impl LinkTarget for &'static str {
    fn text(&self, _cx: &Cx) -> Result<Vec<u8>> {
        Ok(self.as_bytes().to_vec())
    }
}

/// A link whose text is computed.
impl<F: Fn(&Cx) -> Result<Vec<u8>> + Send + Sync> LinkTarget for F {
    fn text(&self, cx: &Cx) -> Result<Vec<u8>> {
        self(cx)
    }
}

/// The inode of a generated link.
pub struct PseudoLink {
    meta: Meta,
    target: Arc<dyn LinkTarget>,
}

impl PseudoLink {
    /// A link.
    pub fn new(meta: Meta, target: Arc<dyn LinkTarget>) -> Arc<PseudoLink> {
        Arc::new(PseudoLink { meta, target })
    }
}

impl Inode for PseudoLink {
    fn attr(&self) -> Result<Attr> {
        Ok(self.meta.attr())
    }
    fn read_link(&self, cx: &Cx) -> Result<Vec<u8>> {
        self.target.text(cx)
    }
    fn follow(&self, cx: &Cx) -> Option<Result<Path>> {
        self.target.follow(cx)
    }
    fn follow_file(&self, cx: &Cx) -> Option<Result<Arc<OpenFile>>> {
        self.target.follow_file(cx)
    }
    fn open(&self, _cx: &Cx, _path: &Path, _flags: OpenFlags) -> Result<Arc<dyn File>> {
        err(Errno::ELOOP)
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn is_same(&self, other: &dyn Inode) -> bool {
        other.as_any().downcast_ref::<PseudoLink>().is_some_and(|other| self.meta.is_same(&other.meta))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
