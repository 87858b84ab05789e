//! Mounting and unmounting.

use crate::error::{Result, err};
use crate::fs::walk::{self, Lookup};
use crate::fs::{Fd, MountFlags};
use crate::task::{Cap, Cx};
use crate::user::{UserCStr, UserPtr};
use abi::Errno;
use abi::fs::FileType;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
const MS_REC: u64 = 16384;
/// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`.
const MS_PROPAGATION: u64 = 0xf << 17;
/// The magic number that old programs put into the upper half.
const MS_MGC_VAL: u64 = 0xc0ed_0000;
const MS_MGC_MSK: u64 = 0xffff_0000;
/// Longest text of options.
const OPTIONS_MAX: usize = 4096;

fn text(cx: &Cx, at: UserCStr) -> Result<String> {
    if at.is_null() {
        return Ok(String::new());
    }
    String::from_utf8(at.read_path(cx)?).map_err(|_| Errno::EINVAL.into())
}

pub(super) fn mount(
    cx: &Cx,
    source: UserCStr,
    target: UserCStr,
    fs_type: UserCStr,
    flags: u64,
    data: UserCStr,
) -> Result<()> {
    let (name, options) = (text(cx, fs_type)?, options(cx, data)?);
    let what = if source.is_null() { Vec::new() } else { source.read_path(cx)? };
    let target = target.read_path(cx)?;
    let at = walk::resolve(cx, Fd::CWD, &target, Lookup::empty())?;
    if !cx.task.creds().has(Cap::SysAdmin) {
        return err(Errno::EPERM);
    }
    let flags = if flags & MS_MGC_MSK == MS_MGC_VAL { flags & !MS_MGC_MSK } else { flags };
    let mut own = MountFlags::from_bits_truncate(flags as u32);
    if !own.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME) {
        own |= MountFlags::RELATIME;
    }
    let ns = &cx.kernel.vfs.ns;
    if flags & MS_REMOUNT != 0 {
        if !Arc::ptr_eq(&at.dentry, &at.mount.root) {
            return err(Errno::EINVAL);
        }
        at.mount.set_flags(own);
        return Ok(());
    }
    if flags & MS_PROPAGATION != 0 {
        // All mounts are private; nothing propagates anyway.
        return if Arc::ptr_eq(&at.dentry, &at.mount.root) { Ok(()) } else { err(Errno::EINVAL) };
    }
    if flags & MS_MOVE != 0 {
        return err(Errno::EINVAL);
    }
    if flags & MS_BIND != 0 {
        let from = walk::resolve(cx, Fd::CWD, &what, Lookup::empty())?;
        same_kind(&from, &at)?;
        let below = if flags & MS_REC != 0 { ns.below(&from) } else { Vec::new() };
        let bound = ns.bind(&from, &at, from.mount.flags())?;
        for (mount, names) in below {
            // The same names lead to the same places below the new mount.
            let mut point = bound.root_path();
            for name in &names {
                point.dentry = point.dentry.child(cx, name)?;
                point = ns.top(point);
            }
            ns.bind(&mount.root_path(), &point, mount.flags())?;
        }
        return Ok(());
    }
    let source = String::from_utf8_lossy(&what).into_owned();
    let fs = cx.kernel.vfs.types.get(&name)?.mount(cx, &source, &options)?;
    let directory = at.dentry.inode.attr()?.file_type() == FileType::Directory;
    if !directory {
        return err(Errno::ENOTDIR);
    }
    let source = if source.is_empty() { "none" } else { &source };
    ns.mount(fs, source, Some(&at), own).map(drop)
}

fn options(cx: &Cx, data: UserCStr) -> Result<String> {
    if data.is_null() {
        return Ok(String::new());
    }
    let bytes = data.read(cx, OPTIONS_MAX)?.ok_or(Errno::EINVAL)?;
    String::from_utf8(bytes).map_err(|_| Errno::EINVAL.into())
}

/// A directory is mounted on a directory, everything else on something else.
fn same_kind(from: &crate::fs::Path, at: &crate::fs::Path) -> Result<()> {
    let directory = |p: &crate::fs::Path| Ok(p.dentry.inode.attr()?.file_type() == FileType::Directory);
    let same: Result<bool> = directory(from).and_then(|a| Ok(a == directory(at)?));
    if same? { Ok(()) } else { err(Errno::ENOTDIR) }
}

const MNT_DETACH: u32 = 2;
const MNT_EXPIRE: u32 = 4;
const UMOUNT_NOFOLLOW: u32 = 8;

pub(super) fn umount2(cx: &Cx, target: UserCStr, flags: u32) -> Result<()> {
    if flags & !0xf != 0 {
        return err(Errno::EINVAL);
    }
    let mut lookup = Lookup::empty();
    lookup.set(Lookup::NOFOLLOW, flags & UMOUNT_NOFOLLOW != 0);
    let at = walk::resolve(cx, Fd::CWD, &target.read_path(cx)?, lookup)?;
    if !cx.task.creds().has(Cap::SysAdmin) {
        return err(Errno::EPERM);
    }
    if flags & MNT_EXPIRE != 0 {
        return err(Errno::EAGAIN);
    }
    let detach = flags & MNT_DETACH != 0;
    // The name space and `at` hold it; whoever else does uses it.
    if !detach && Arc::strong_count(&at.mount) > 2 && Arc::ptr_eq(&at.dentry, &at.mount.root) {
        return err(Errno::EBUSY);
    }
    cx.kernel.vfs.ns.unmount(&at, detach)
}

pub(super) fn pivot_root(cx: &Cx, new: UserPtr<u8>, old: UserPtr<u8>) -> Result<()> {
    let _ = (new, old);
    if cx.task.creds().has(Cap::SysAdmin) { err(Errno::EINVAL) } else { err(Errno::EPERM) }
}
