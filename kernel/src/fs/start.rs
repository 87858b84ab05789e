//! Placeholders until the VFS is in.

use super::{Fd, OpenFile, OpenFlags};
use crate::config::StartError;
use crate::error::{Result, err};
use crate::task::Cx;
use abi::Errno;
use alloc::sync::Arc;

/// `AT_FDCWD`.
pub const AT_FDCWD: Fd = Fd(-100);

/// Opens a file by path for the kernel itself, with the task's rights.
pub fn open_path(_cx: &Cx, _dir: Fd, _path: &[u8], _flags: OpenFlags, _mode: u32) -> Result<Arc<OpenFile>> {
    err(Errno::ENOENT)
}

bitflags::bitflags! {
    /// How to walk.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Lookup: u32 {
        /// A symbolic link in the last place is the result (`AT_SYMLINK_NOFOLLOW`, `O_NOFOLLOW`).
        const NOFOLLOW = 1;
        /// The empty path names the descriptor itself (`AT_EMPTY_PATH`).
        const EMPTY_PATH = 2;
    }
}

/// Opens a program for execution: a regular file with execute permission on a mount that allows it, else `EACCES`. Read permission is
/// not needed.
pub fn open_exec(_cx: &Cx, _dir: Fd, _path: &[u8], _lookup: Lookup) -> Result<Arc<OpenFile>> {
    err(Errno::ENOENT)
}

/// Mounts everything that the configuration asks for and sets the task's root and working directory.
pub fn mount_root(_cx: &Cx) -> Result<(), StartError> {
    Ok(())
}

/// `chdir(2)`.
pub fn change_directory(_cx: &Cx, _path: &[u8]) -> Result<()> {
    err(Errno::ENOENT)
}
