//! File system types by name, for `mount(2)` and `/proc/filesystems`.

use super::{FileSystem, MemFs, MemOptions, procfs};
use crate::error::{Result, err};
use crate::sync::Mutex;
use crate::task::Cx;
use abi::Errno;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A type of file system. What registers one may be anywhere: the traits are public.
pub trait FsType: Send + Sync {
    /// A new instance, or the one that there is, for a mount with this source and these options (comma-separated, without the flags
    /// that are the mount's own).
    fn mount(&self, cx: &Cx, source: &str, options: &str) -> Result<Arc<dyn FileSystem>>;
}

impl<F: Fn(&Cx, &str, &str) -> Result<Arc<dyn FileSystem>> + Send + Sync> FsType for F {
    fn mount(&self, cx: &Cx, source: &str, options: &str) -> Result<Arc<dyn FileSystem>> {
        self(cx, source, options)
    }
}

/// All types that a kernel knows.
pub struct FsTypes {
    types: Mutex<BTreeMap<String, Arc<dyn FsType>>>,
}

impl Default for FsTypes {
    fn default() -> FsTypes {
        let types = FsTypes { types: Mutex::default() };
        types.register("tmpfs", Arc::new(tmpfs));
        types.register("ramfs", Arc::new(tmpfs));
        types.register("devtmpfs", Arc::new(devtmpfs));
        types.register("devpts", Arc::new(devpts));
        types.register("proc", Arc::new(proc));
        types.register("sysfs", Arc::new(sysfs));
        types
    }
}

impl FsTypes {
    /// Adds a type, or replaces it.
    pub fn register(&self, name: &str, fs_type: Arc<dyn FsType>) {
        let before = self.types.lock().insert(name.into(), fs_type);
        drop(before);
    }

    /// The type with this name; `ENODEV`.
    pub fn get(&self, name: &str) -> Result<Arc<dyn FsType>> {
        self.types.lock().get(name).cloned().ok_or(Errno::ENODEV.into())
    }

    /// All names.
    pub fn names(&self) -> Vec<String> {
        self.types.lock().keys().cloned().collect()
    }
}

fn proc(cx: &Cx, _source: &str, _options: &str) -> Result<Arc<dyn FileSystem>> {
    Ok(procfs::new(cx.kernel))
}

fn sysfs(cx: &Cx, _source: &str, _options: &str) -> Result<Arc<dyn FileSystem>> {
    Ok(super::sysfs::new(cx.kernel))
}

fn devpts(cx: &Cx, _source: &str, _options: &str) -> Result<Arc<dyn FileSystem>> {
    Ok(super::devpts::new(cx.kernel))
}

/// A new one with the usual nodes each time, where Linux has one for all.
fn devtmpfs(cx: &Cx, _source: &str, _options: &str) -> Result<Arc<dyn FileSystem>> {
    let fs =
        MemFs::tmpfs(cx.kernel, &MemOptions { fs_type: "devtmpfs", mode: 0o755, ..MemOptions::default() });
    super::devfs::populate(cx, &fs.root())?;
    Ok(fs)
}

fn tmpfs(cx: &Cx, _source: &str, options: &str) -> Result<Arc<dyn FileSystem>> {
    let total = cx.kernel.frames.total() * hal::PAGE_SIZE;
    let creds = cx.task.creds();
    // As on Linux, half of RAM if not said otherwise.
    let mut out = MemOptions { size: total / 2, owner: (creds.fsuid, creds.fsgid), ..MemOptions::default() };
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "size" => {
                out.size = match value.strip_suffix('%') {
                    Some(percent) => total / 100 * number(percent)?,
                    None => number(value)?,
                }
            }
            "nr_blocks" => out.size = number(value)?.checked_mul(hal::PAGE_SIZE).ok_or(Errno::EINVAL)?,
            "nr_inodes" => out.inodes = number(value)?,
            "mode" => out.mode = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
            "uid" => out.owner.0 = number(value)? as u32,
            "gid" => out.owner.1 = number(value)? as u32,
            "huge" | "mpol" | "inode32" | "inode64" | "noswap" => {}
            _ => return err(Errno::EINVAL),
        }
    }
    Ok(MemFs::tmpfs(cx.kernel, &out))
}

/// A number with an optional suffix (`memparse`).
fn number(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1).unwrap_or_default(), 10),
        Some(b'm' | b'M') => (text.get(..text.len() - 1).unwrap_or_default(), 20),
        Some(b'g' | b'G') => (text.get(..text.len() - 1).unwrap_or_default(), 30),
        _ => (text, 0),
    };
    let n: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    n.checked_mul(1 << shift).ok_or(Errno::EINVAL.into())
}
