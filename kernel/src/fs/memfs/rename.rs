//! Renaming within one file system in memory.

use super::node::Node;
use crate::error::{Result, err};
use crate::fs::{NewInode, NewKind};
use abi::Errno;
use abi::fs::{DeviceId, FileType};
use alloc::sync::Arc;

/// `RENAME_NOREPLACE`.
pub const NOREPLACE: u32 = 1;
/// `RENAME_EXCHANGE`.
pub const EXCHANGE: u32 = 2;
/// `RENAME_WHITEOUT`.
pub const WHITEOUT: u32 = 4;

impl Node {
    /// The VFS has locked both directories and made sure that no directory is moved into itself.
    pub(super) fn rename_entry(&self, name: &[u8], to: &Arc<Node>, to_name: &[u8], flags: u32) -> Result<()> {
        let (source, source_lower) = self.find(name)?;
        let target = match to.find(to_name) {
            Ok(found) => Some(found),
            Err(e) if e.errno() == Errno::ENOENT => None,
            Err(e) => return Err(e),
        };
        if to.directory(|d| d.dead)? {
            return err(Errno::ENOENT);
        }
        match &target {
            Some(_) if flags & NOREPLACE != 0 => return err(Errno::EEXIST),
            None if flags & EXCHANGE != 0 => return err(Errno::ENOENT),
            Some((target, _)) if Arc::ptr_eq(target, &source) => return Ok(()),
            _ => {}
        }
        if flags & EXCHANGE != 0 {
            if let Some((target, target_lower)) = target {
                self.exchange((name, source, source_lower), to, (to_name, target, target_lower))?;
            }
            return Ok(());
        }
        let source_is_directory = source.is_directory();
        let now = self.shared.now();
        let to_lower = match &target {
            Some((target, target_lower)) => {
                match (source_is_directory, target.is_directory()) {
                    (true, false) => return err(Errno::ENOTDIR),
                    (false, true) => return err(Errno::EISDIR),
                    (true, true) => target.die_if_empty()?,
                    (false, false) => target.unlinked(now),
                }
                to.take_name(to_name, *target_lower, source_is_directory, now)?;
                *target_lower
            }
            None => to.directory(|d| d.entries.get(to_name).is_some_and(|e| e.hides_lower))?,
        };
        self.take_name(name, source_lower, source_is_directory, now)?;
        to.insert(to_name, &source, to_lower, now)?;
        if flags & WHITEOUT != 0 {
            let kind = NewKind::Special(FileType::CharDevice, DeviceId::default());
            self.add_new(name, &NewInode { kind, mode: 0, uid: 0, gid: 0 })?;
        }
        source.change(|attr| attr.ctime = now);
        Ok(())
    }

    fn exchange(
        &self,
        (name, source, source_lower): (&[u8], Arc<Node>, bool),
        to: &Arc<Node>,
        (to_name, target, target_lower): (&[u8], Arc<Node>, bool),
    ) -> Result<()> {
        let now = self.shared.now();
        self.take_name(name, source_lower, source.is_directory(), now)?;
        to.take_name(to_name, target_lower, target.is_directory(), now)?;
        self.insert(name, &target, source_lower, now)?;
        to.insert(to_name, &source, target_lower, now)?;
        source.change(|attr| attr.ctime = now);
        target.change(|attr| attr.ctime = now);
        Ok(())
    }
}
