//! Permission checks on inodes (`path_resolution(7)`, `capabilities(7)`).
//!
//! Differs from Linux: POSIX ACLs are carried as extended attributes but not evaluated.

use crate::error::{Result, err};
use crate::task::{Cap, Creds};
use abi::Errno;
use abi::fs::{Attr, FileType};
use bitflags::bitflags;

bitflags! {
    /// What is asked for, with the values of `access(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u32 {
        /// Execute a file, search a directory.
        const EXEC = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

/// `S_ISUID`.
pub const S_ISUID: u32 = 0o4000;
/// `S_ISGID`.
pub const S_ISGID: u32 = 0o2000;
/// `S_ISVTX`.
pub const S_ISVTX: u32 = 0o1000;

/// What of an inode's attributes a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Rights {
    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        FileType::from_mode(self.mode) == Some(FileType::Regular)
    }
}

impl From<&Attr> for Rights {
    fn from(attr: &Attr) -> Rights {
        Rights { mode: attr.mode, uid: attr.uid, gid: attr.gid }
    }
}

/// Whether an inode with these attributes lets this identity do it; `EACCES`.
pub fn check(creds: &Creds, attr: impl Into<Rights>, access: Access) -> Result<()> {
    let attr = attr.into();
    let shift = if creds.fsuid == attr.uid {
        6
    } else if creds.in_group(attr.gid) {
        3
    } else {
        0
    };
    let wanted = access.bits();
    if (attr.mode >> shift) & wanted == wanted {
        return Ok(());
    }
    let overridden = if FileType::from_mode(attr.mode) == Some(FileType::Directory) {
        creds.has(Cap::DacOverride) || (!access.contains(Access::WRITE) && creds.has(Cap::DacReadSearch))
    } else {
        let executable = attr.mode & 0o111 != 0;
        (creds.has(Cap::DacOverride) && (executable || !access.contains(Access::EXEC)))
            || (access == Access::READ && creds.has(Cap::DacReadSearch))
    };
    if overridden { Ok(()) } else { err(Errno::EACCES) }
}

/// Whether everybody may look names up in a directory with this mode.
pub fn all_may_search(mode: u32) -> bool {
    mode & 0o111 == 0o111
}

/// Whether this identity owns the inode or may act as if; `EPERM`.
pub fn check_owner(creds: &Creds, attr: impl Into<Rights>) -> Result<()> {
    if creds.fsuid == attr.into().uid || creds.has(Cap::Fowner) { Ok(()) } else { err(Errno::EPERM) }
}

/// Whether the entry `victim` may be taken out of `dir`: write access, and in a sticky directory one must own either.
pub fn check_delete(creds: &Creds, dir: &Attr, victim: &Attr) -> Result<()> {
    check(creds, dir, Access::WRITE | Access::EXEC)?;
    let sticky = dir.mode & S_ISVTX != 0;
    if sticky && creds.fsuid != victim.uid && creds.fsuid != dir.uid && !creds.has(Cap::Fowner) {
        return err(Errno::EPERM);
    }
    Ok(())
}

/// Mode and group of a new entry in `dir`: a set-group-ID directory hands down its group, and to directories the bit too.
pub fn inherit(creds: &Creds, dir: &Attr, mode: u32, directory: bool) -> (u32, u32) {
    if dir.mode & S_ISGID == 0 {
        return (mode, creds.fsgid);
    }
    if directory {
        return (mode | S_ISGID, dir.gid);
    }
    let strip =
        mode & (S_ISGID | 0o010) == S_ISGID | 0o010 && !creds.in_group(dir.gid) && !creds.has(Cap::Fsetid);
    (if strip { mode & !S_ISGID } else { mode }, dir.gid)
}
