//! Extended attributes with the rules of their name spaces (`xattr(7)`).

use super::perm::{self, Access};
use super::{Inode, Path, notify};
use crate::error::{Result, err};
use crate::task::{Cap, Cx};
use abi::Errno;
use abi::fs::FileType;
use alloc::vec::Vec;

/// Most bytes of a value (`XATTR_SIZE_MAX`).
pub const VALUE_MAX: usize = 65536;

/// Checks that the task may read or write this attribute.
fn check(cx: &Cx, inode: &dyn Inode, name: &[u8], write: bool) -> Result<()> {
    let creds = cx.task.creds();
    let attr = &inode.attr()?;
    let access = if write { Access::WRITE } else { Access::READ };
    let denied = if write { Errno::EPERM } else { Errno::ENODATA };
    if name.starts_with(b"security.") {
        let cap = if name == b"security.capability" { Cap::Setfcap } else { Cap::SysAdmin };
        return if write && !creds.has(cap) { err(Errno::EPERM) } else { Ok(()) };
    }
    if name.starts_with(b"trusted.") {
        return if creds.has(Cap::SysAdmin) { Ok(()) } else { err(denied) };
    }
    // Differs from Linux: the lists are the host's to keep; access is decided by the permission bits, which have the list's mask.
    if matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default") {
        if !inode.has_acl() || attr.file_type() == FileType::Symlink {
            return err(Errno::EOPNOTSUPP);
        }
        return if write { perm::check_owner(&creds, attr) } else { Ok(()) };
    }
    let Some(rest) = name.strip_prefix(b"user.") else { return err(Errno::EOPNOTSUPP) };
    if !matches!(attr.file_type(), FileType::Regular | FileType::Directory) {
        return err(denied);
    }
    let sticky = attr.file_type() == FileType::Directory && attr.mode & perm::S_ISVTX != 0;
    if write && sticky {
        perm::check_owner(&creds, attr)?;
    }
    perm::check(&creds, attr, access)?;
    if rest.is_empty() { err(Errno::EINVAL) } else { Ok(()) }
}

/// `getxattr(2)`.
pub fn get(cx: &Cx, at: &Path, name: &[u8]) -> Result<Vec<u8>> {
    let inode = &at.dentry.inode;
    check(cx, &**inode, name, false)?;
    inode.get_xattr(cx, name)
}

/// `setxattr(2)`.
pub fn set(cx: &Cx, at: &Path, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
    at.want_write()?;
    let inode = &at.dentry.inode;
    check(cx, &**inode, name, true)?;
    inode.set_xattr(cx, name, value, flags)?;
    notify::path(cx, at, notify::ATTRIB);
    Ok(())
}

/// `removexattr(2)`.
pub fn remove(cx: &Cx, at: &Path, name: &[u8]) -> Result<()> {
    at.want_write()?;
    let inode = &at.dentry.inode;
    check(cx, &**inode, name, true)?;
    inode.remove_xattr(cx, name)?;
    notify::path(cx, at, notify::ATTRIB);
    Ok(())
}

/// `listxattr(2)`: the names that the task may know of, each with its terminator.
pub fn list(cx: &Cx, at: &Path) -> Result<Vec<u8>> {
    let admin = cx.task.creds().has(Cap::SysAdmin);
    let mut out = Vec::new();
    for name in at.dentry.inode.list_xattr(cx)? {
        if admin || !name.starts_with(b"trusted.") {
            out.extend_from_slice(&name);
            out.push(0);
        }
    }
    Ok(out)
}
