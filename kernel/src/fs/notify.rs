//! Where the VFS tells what happened to files, for inotify.

use super::{Inode, OpenFile, Path};
use crate::task::Cx;
use alloc::sync::Arc;

/// `IN_ACCESS`.
pub const ACCESS: u32 = 0x1;
/// `IN_MODIFY`.
pub const MODIFY: u32 = 0x2;
/// `IN_ATTRIB`.
pub const ATTRIB: u32 = 0x4;
/// `IN_CLOSE_WRITE`.
pub const CLOSE_WRITE: u32 = 0x8;
/// `IN_CLOSE_NOWRITE`.
pub const CLOSE_NOWRITE: u32 = 0x10;
/// `IN_OPEN`.
pub const OPEN: u32 = 0x20;
/// `IN_MOVED_FROM`.
pub const MOVED_FROM: u32 = 0x40;
/// `IN_MOVED_TO`.
pub const MOVED_TO: u32 = 0x80;
/// `IN_CREATE`.
pub const CREATE: u32 = 0x100;
/// `IN_DELETE`.
pub const DELETE: u32 = 0x200;
/// `IN_DELETE_SELF`.
pub const DELETE_SELF: u32 = 0x400;
/// `IN_MOVE_SELF`.
pub const MOVE_SELF: u32 = 0x800;
/// `IN_ISDIR`, added to the others when the subject is a directory.
pub const ISDIR: u32 = 0x4000_0000;

/// Something happened to `inode`, or, with a name, to that entry of the directory `inode`. `cookie` joins the two halves of a move.
pub fn event(cx: &Cx, inode: &Arc<dyn Inode>, mask: u32, name: &[u8], cookie: u32) {
    cx.kernel.watches.event(inode, mask, name, cookie);
}

/// Something happened to what a path names: told to watchers of the inode and of its directory.
pub fn path(cx: &Cx, path: &Path, mask: u32) {
    if cx.kernel.watches.is_empty() {
        return;
    }
    if let Some(parent) = path.dentry.parent().filter(|_| !path.dentry.is_deleted()) {
        event(cx, &parent.inode, mask, &path.dentry.name(), 0);
    }
    event(cx, &path.dentry.inode, mask, b"", 0);
}

/// Something happened to an open file.
pub fn file(cx: &Cx, of: &OpenFile, mask: u32) {
    if let Some(at) = &of.path {
        path(cx, at, mask);
    }
}
