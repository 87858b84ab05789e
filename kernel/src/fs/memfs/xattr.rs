//! Extended attributes. Those of a lower node are copied when the first one changes.

use super::node::Node;
use crate::error::{Result, err};
use abi::Errno;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// `XATTR_CREATE`.
const CREATE: u32 = 1;
/// `XATTR_REPLACE`.
const REPLACE: u32 = 2;
/// Most bytes of names and values of one inode.
const LIMIT: usize = 256 << 10;

impl Node {
    pub(super) fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        if let Some(xattrs) = &self.state.lock().xattrs {
            return xattrs.get(name).cloned().ok_or(Errno::ENODATA.into());
        }
        match &self.lower {
            Some(lower) => Ok(lower.get_xattr(name)?),
            None => err(Errno::ENODATA),
        }
    }

    pub(super) fn xattr_names(&self) -> Result<Vec<Vec<u8>>> {
        if let Some(xattrs) = &self.state.lock().xattrs {
            return Ok(xattrs.keys().cloned().collect());
        }
        match &self.lower {
            Some(lower) => Ok(lower.list_xattr()?),
            None => Ok(Vec::new()),
        }
    }

    fn change_xattrs(&self, f: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()>) -> Result<()> {
        let mut copy = BTreeMap::new();
        let first = self.state.lock().xattrs.is_none();
        if let (true, Some(lower)) = (first, &self.lower) {
            for name in lower.list_xattr()? {
                let value = lower.get_xattr(&name)?;
                copy.insert(name, value);
            }
        }
        f(self.state.lock().xattrs.get_or_insert(copy))?;
        let now = self.shared.now();
        self.change(|attr| attr.ctime = now);
        Ok(())
    }

    pub(super) fn put_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.change_xattrs(|xattrs| {
            match (xattrs.contains_key(name), flags) {
                (true, CREATE) => return err(Errno::EEXIST),
                (false, REPLACE) => return err(Errno::ENODATA),
                _ => {}
            }
            let used: usize = xattrs.iter().map(|(n, v)| n.len() + v.len()).sum();
            if used + name.len() + value.len() > LIMIT {
                return err(Errno::ENOSPC);
            }
            xattrs.insert(name.to_vec(), value.to_vec());
            Ok(())
        })
    }

    pub(super) fn drop_xattr(&self, name: &[u8]) -> Result<()> {
        self.change_xattrs(|xattrs| match xattrs.remove(name) {
            Some(_) => Ok(()),
            None => err(Errno::ENODATA),
        })
    }
}
