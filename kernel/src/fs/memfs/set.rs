//! Attribute changes, copying up, and the space that content takes.

use super::node::{Body, Node, is_stale};
use crate::error::{Result, err};
use crate::fs::{MountFlags, OpenFile, OpenFlags, transfer};
use crate::mm::PageCache;
use crate::task::Cx;
use abi::Errno;
use abi::time::Timespec;
use alloc::sync::Arc;
use alloc::vec;
use hal::{PAGE_SIZE, SetAttr, TimeSet};

/// Bytes that a copy moves before it lets others run.
const CHUNK: usize = 256 << 10;

impl Node {
    pub(super) fn set_attributes(&self, cx: &Cx, set: &SetAttr) -> Result<()> {
        if let Some(size) = set.size {
            self.truncate(cx, size)?;
        }
        // Guest code that writes by itself takes no set-user-ID away.
        if set.mode.is_some()
            && let Some(cache) = self.state.lock().cache()
        {
            cache.recall_view();
        }
        let now = self.shared.now();
        let time = |set: Option<TimeSet>, old: Timespec| match set {
            None => old,
            Some(TimeSet::Now) => now,
            Some(TimeSet::At(time)) => time,
        };
        self.change(|attr| {
            if let Some(mode) = set.mode {
                attr.mode = attr.mode & 0o170000 | mode & 0o7777;
            }
            attr.uid = set.uid.unwrap_or(attr.uid);
            attr.gid = set.gid.unwrap_or(attr.gid);
            attr.atime = time(set.atime, attr.atime);
            attr.mtime = time(set.mtime, attr.mtime);
            attr.ctime = now;
        });
        Ok(())
    }

    fn truncate(&self, cx: &Cx, size: u64) -> Result<()> {
        match &self.state.lock().body {
            Body::Lower(_) | Body::Cache(_) => {}
            Body::Directory(_) => return err(Errno::EISDIR),
            _ => return err(Errno::EINVAL),
        }
        let _content = self.content.lock(cx);
        let cache = self.own_content(cx, Some(size))?;
        cache.truncate(cx, size);
        self.content_changed();
        Ok(())
    }

    /// The access time after a read, as the mount wants it (`mount(8)`). What is only the lower node's keeps its own.
    pub(super) fn accessed(&self, of: &OpenFile) {
        let mount = of.path.as_ref().map_or(MountFlags::empty(), |p| p.mount.flags());
        if of.flags().contains(OpenFlags::NOATIME)
            || mount.intersects(MountFlags::NOATIME | MountFlags::RDONLY)
            || (mount.contains(MountFlags::NODIRATIME) && self.is_directory())
        {
            return;
        }
        let strict = mount.contains(MountFlags::STRICTATIME);
        let now = self.shared.now();
        let mut state = self.state.lock();
        if !state.changed {
            return;
        }
        state.settle();
        let attr = &mut state.attr;
        if strict || is_stale(attr, now) {
            attr.atime = now;
        }
    }

    /// Times after a change of the content.
    pub(super) fn content_changed(&self) {
        let now = self.shared.now();
        self.change(|attr| {
            attr.mtime = now;
            attr.ctime = now;
        });
    }

    /// The content in memory, copied up if it is still the lower node's; at most `limit` bytes of it. The caller holds the latch.
    pub(super) fn own_content(&self, cx: &Cx, limit: Option<u64>) -> Result<Arc<PageCache>> {
        if let Some(cache) = self.state.lock().cache() {
            return Ok(cache.clone());
        }
        let cache = self.shared.new_content();
        if limit != Some(0) {
            self.copy_lower(cx, &cache, limit)?;
        }
        self.state.lock().body = Body::Cache(cache.clone());
        self.change(|_| {});
        Ok(cache)
    }

    fn copy_lower(&self, cx: &Cx, cache: &PageCache, limit: Option<u64>) -> Result<()> {
        let file = self.lower_file()?;
        let size = file.size()?.min(limit.unwrap_or(u64::MAX));
        let mut buf = vec![0u8; CHUNK.min(size as usize + 1)];
        let mut pos = 0u64;
        while pos < size {
            let want = (size - pos).min(buf.len() as u64) as usize;
            let Some(part) = buf.get_mut(..want) else { break };
            let n = transfer::read_at(cx, &*file, pos, Some(size), part)?;
            if n == 0 {
                break;
            }
            let part = part.get(..n).unwrap_or_default();
            // Pages of zeros stay holes.
            for (i, page) in part.chunks(PAGE_SIZE as usize).enumerate() {
                if page.iter().any(|&b| b != 0) {
                    let at = pos + i as u64 * PAGE_SIZE;
                    let mut source = page;
                    let done = cache.write(at, &mut source)?;
                    if done < page.len() {
                        return err(Errno::ENOSPC);
                    }
                }
            }
            pos += n as u64;
            cx.yield_now();
        }
        cache.truncate(cx, pos);
        Ok(())
    }
}
