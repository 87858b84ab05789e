//! Socket files: making them, and finding the socket behind one.
//!
//! A socket file of the host leads to no socket here: its listener lives in the host's name space, which guests can't reach.

use super::InodeKey;
use crate::error::{Error, Result, err};
use crate::fs::perm::{self, Access};
use crate::fs::{Fd, Lookup, Path, ops, walk};
use crate::task::Cx;
use abi::Errno;
use abi::fs::{DeviceId, FileType};

fn key(path: &Path) -> Result<InodeKey> {
    let attr = path.dentry.inode.attr()?;
    Ok((attr.dev.encode(), attr.ino))
}

/// Makes the file of a socket that is being bound: `EADDRINUSE` when the name exists. The path keeps the inode and so its number.
pub(super) fn make(cx: &Cx, path: &[u8]) -> Result<(Path, InodeKey)> {
    let made = ops::mknod(cx, Fd::CWD, path, FileType::Socket, 0o777, DeviceId::default());
    let path = made.map_err(|e| match e.errno() {
        Errno::EEXIST => Error::from(Errno::EADDRINUSE),
        _ => e,
    })?;
    let key = key(&path)?;
    Ok((path, key))
}

/// The inode of a socket file that the current task may write to: `ECONNREFUSED` when it is something else.
pub(super) fn find(cx: &Cx, path: &[u8]) -> Result<InodeKey> {
    let path = walk::resolve(cx, Fd::CWD, path, Lookup::empty())?;
    let attr = path.dentry.inode.attr()?;
    perm::check(&cx.task.creds(), &attr, Access::WRITE)?;
    if attr.file_type() != FileType::Socket {
        return err(Errno::ECONNREFUSED);
    }
    Ok((attr.dev.encode(), attr.ino))
}
