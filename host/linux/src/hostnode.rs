//! Host inodes: how one is held.
//!
//! A node is either an `O_PATH` descriptor, or was *found*: a name in a directory and what it led to when it was looked at. A found node gets its
//! descriptor when something needs one. Most never do: who lists a tree and looks at every file wants attributes only, and one host call
//! gives them. When by then the name leads to something else, the node is lost (`ESTALE`).
//!
//! Lock order: none; a descriptor is set once, and who loses a race for that closes a second one.

use crate::hostfs::{Shared, errno};
use abi::Errno;
use abi::fs::{Attr, FileType};
use abi::time::Timespec;
use rustix::fs::{self as sys, AtFlags, Mode, OFlags, StatxFlags};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// How a node is opened.
const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A host inode.
pub struct LinuxNode {
    fd: OnceLock<OwnedFd>,
    found: Option<Found>,
    /// Asked for when first needed: most nodes are only walked through.
    file_type: OnceLock<FileType>,
    pub(crate) shared: Arc<Shared>,
}

/// Where a node was found, and what it was.
struct Found {
    /// Has a descriptor. `None` only while the node is dropped.
    dir: Option<Arc<LinuxNode>>,
    name: CString,
    identity: Identity,
}

/// What does not change as long as an inode exists. Its number alone may soon be another's.
#[derive(PartialEq, Eq)]
struct Identity {
    device: u64,
    ino: u64,
    kind: Option<FileType>,
    born: Option<Timespec>,
}

impl Identity {
    fn of(attr: &Attr) -> Identity {
        let kind = FileType::from_mode(attr.mode);
        Identity { device: attr.dev.encode(), ino: attr.ino, kind, born: attr.btime }
    }
}

fn time(t: sys::StatxTimestamp) -> Timespec {
    Timespec { sec: t.tv_sec, nsec: i64::from(t.tv_nsec) }
}

/// Attributes of a name in a directory, or of an open descriptor of any kind when the name is empty.
fn attr_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Attr, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let s = sys::statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME).map_err(errno)?;
    Ok(Attr {
        dev: abi::fs::DeviceId::new(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        mode: u32::from(s.stx_mode),
        nlink: u64::from(s.stx_nlink),
        uid: s.stx_uid,
        gid: s.stx_gid,
        rdev: abi::fs::DeviceId::new(s.stx_rdev_major, s.stx_rdev_minor),
        size: s.stx_size,
        blksize: s.stx_blksize,
        blocks: s.stx_blocks,
        atime: time(s.stx_atime),
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
        btime: StatxFlags::from_bits_retain(s.stx_mask)
            .contains(StatxFlags::BTIME)
            .then(|| time(s.stx_btime)),
    })
}

/// Attributes of an open descriptor of any kind.
pub(crate) fn attr(fd: BorrowedFd<'_>) -> Result<Attr, Errno> {
    attr_at(fd, c"")
}

impl LinuxNode {
    /// A node that is open.
    pub(crate) fn new(fd: OwnedFd, shared: Arc<Shared>) -> LinuxNode {
        LinuxNode { fd: OnceLock::from(fd), found: None, file_type: OnceLock::new(), shared }
    }

    /// The node with this name, open. The name was checked.
    pub(crate) fn child(&self, name: &[u8]) -> Result<LinuxNode, Errno> {
        let fd = sys::openat(self.fd()?, name, NODE, Mode::empty()).map_err(errno)?;
        Ok(LinuxNode::new(fd, self.shared.clone()))
    }

    /// The node with this name, found, and its attributes. The name was checked.
    pub(crate) fn found(self: Arc<Self>, name: &[u8]) -> Result<(LinuxNode, Attr), Errno> {
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        let attr = attr_at(self.fd()?, &name)?;
        let shared = self.shared.clone();
        let found = Found { dir: Some(self), name, identity: Identity::of(&attr) };
        let file_type = OnceLock::from(attr.file_type());
        Ok((LinuxNode { fd: OnceLock::new(), found: Some(found), file_type, shared }, attr))
    }

    /// Its descriptor, opened where it was found if there is none yet; `ESTALE` when it is no longer there.
    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd.as_fd());
        }
        let (fd, _) = self.open_found(NODE)?;
        Ok(self.fd.get_or_init(|| fd).as_fd())
    }

    /// A regular file's content by the name that it was found with, and its attributes; nothing when that is no way to get it.
    pub(crate) fn content(&self) -> Option<(OwnedFd, Attr)> {
        if self.fd.get().is_some() || self.file_type.get() != Some(&FileType::Regular) {
            return None;
        }
        // Should the name now be a FIFO's, the open must not wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        self.open_found(flags).ok()
    }

    /// Opens what the name leads to, if that still is the node.
    fn open_found(&self, flags: OFlags) -> Result<(OwnedFd, Attr), Errno> {
        let (dir, found) =
            self.found.as_ref().and_then(|f| Some((f.dir.as_ref()?, f))).ok_or(Errno::ESTALE)?;
        let fd = match sys::openat(dir.fd()?, &found.name, flags, Mode::empty()).map_err(errno) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(Errno::ESTALE),
            Err(e) => return Err(e),
        };
        let attr = attr(fd.as_fd())?;
        if Identity::of(&attr) != found.identity {
            return Err(Errno::ESTALE);
        }
        Ok((fd, attr))
    }

    /// Attributes, read now.
    pub(crate) fn attr_now(&self) -> Result<Attr, Errno> {
        let attr = attr(self.fd()?)?;
        self.file_type.get_or_init(|| attr.file_type());
        Ok(attr)
    }

    /// What kind of file it is.
    pub(crate) fn file_type(&self) -> Result<FileType, Errno> {
        match self.file_type.get() {
            Some(file_type) => Ok(*file_type),
            None => self.attr_now().map(|a| a.file_type()),
        }
    }

    /// The name of this inode below `fd_dir`.
    pub(crate) fn link_name(&self) -> Result<String, Errno> {
        Ok(self.fd()?.as_raw_fd().to_string())
    }

    /// The path that leads to this inode, for calls without a directory argument.
    pub(crate) fn proc_path(&self) -> Result<String, Errno> {
        Ok(format!("/proc/self/fd/{}", self.fd()?.as_raw_fd()))
    }

    /// Opens the inode itself anew.
    pub(crate) fn reopen(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        // Devices and FIFOs must not be opened: that may block or act.
        match self.file_type()? {
            FileType::Regular | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::ELOOP),
            _ => return Err(Errno::ENXIO),
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        sys::openat(&self.shared.fd_dir, self.link_name()?, flags, Mode::empty()).map_err(errno)
    }

    /// Opens a directory for reading its names.
    pub(crate) fn open_dir(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match sys::openat(self.fd()?, c".", flags, Mode::empty()) {
            Ok(fd) => Ok(fd),
            // `.` needs the right to search, which reading does not.
            Err(_) => self.reopen(OFlags::RDONLY | OFlags::DIRECTORY),
        }
    }
}

impl Drop for LinuxNode {
    /// A deep chain must not be dropped by recursion: stacks may be small.
    fn drop(&mut self) {
        let mut dir = self.found.as_mut().and_then(|found| found.dir.take());
        while let Some(node) = dir {
            dir = Arc::into_inner(node).and_then(|mut n| n.found.as_mut().and_then(|found| found.dir.take()));
        }
    }
}
