//! Host directories: every node is an `O_PATH` descriptor or can become one ([`crate::hostnode`]), every step is relative to one and follows
//! nothing.
//!
//! A descriptor opened with `O_PATH` names an inode without access to its content. What the system calls do not
//! offer on such a descriptor goes through `/proc/self/fd/N`, which leads to exactly that inode, whatever
//! happens to names meanwhile. The process's umask is zero (see `start`), so that modes arrive exactly.

use crate::hostfile::LinuxFile;
use crate::hostnode::LinuxNode;
use crate::io::Events;
use crate::transfer::Transfers;
use abi::Errno;
use abi::fs::{Attr, FileType, Statfs};
use hal::{HostDirEntry, HostFile, HostFs, HostNode, NewNode, OpenMode, SetAttr, TimeSet, Transferred};
use rustix::fs::{self as sys, AtFlags, FileType as SysType, Gid, Mode, OFlags, Timestamps, Uid};
use rustix::io::Errno as SysErrno;
use std::any::Any;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// The way into the host's files.
pub struct LinuxFs {
    shared: Arc<Shared>,
}

/// What every node needs.
pub(crate) struct Shared {
    /// `/proc/self/fd` of this process.
    pub(crate) fd_dir: OwnedFd,
    transfers: Arc<Transfers>,
}

pub(crate) fn errno(e: SysErrno) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

/// Descriptors that there is room for from the start: as many as the kernel's cache of names may hold.
const ROOM: i32 = 8192;

impl LinuxFs {
    /// Fails when `/proc` is not mounted. Called before there are other threads.
    pub fn new() -> Result<LinuxFs, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd_dir = sys::open("/proc/self/fd", flags, Mode::empty()).map_err(errno)?;
        // Linux doubles the table of descriptors when it is full and, with several threads, waits for an RCU grace period each time: 10 to
        // 20 ms (`expand_fdtable`). So it grows now; where the limit does not admit it, it grows when it must.
        drop(rustix::io::fcntl_dupfd_cloexec(&fd_dir, ROOM - 1));
        Ok(LinuxFs { shared: Arc::new(Shared { fd_dir, transfers: Arc::new(Transfers::new()) }) })
    }

    /// Where the ends of transfers are told.
    pub(crate) fn tell(&self, events: Arc<Events>) {
        self.shared.transfers.tell(events);
    }
}

impl HostFs for LinuxFs {
    fn transferred(&self, id: u64) -> Option<Transferred> {
        self.shared.transfers.take(id)
    }

    fn open_path(&self, path: &str) -> Result<Arc<dyn HostNode>, Errno> {
        let fd = sys::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        Ok(Arc::new(LinuxNode::new(fd, self.shared.clone())))
    }
}

/// Refuses whatever is not a plain name, so that no host call can leave the directory.
fn check(name: &[u8]) -> Result<(), Errno> {
    match name {
        b"" | b"." | b".." => Err(Errno::EINVAL),
        _ if name.contains(&b'/') || name.contains(&0) => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

impl LinuxNode {
    fn of(node: &dyn HostNode) -> Result<&LinuxNode, Errno> {
        node.as_any().downcast_ref().ok_or(Errno::EXDEV)
    }

    fn create_file(&self, name: &[u8], mode: Mode) -> Result<LinuxNode, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = sys::openat(self.fd()?, name, flags, mode).map_err(errno)?;
        // By descriptor, not by name: somebody else may have replaced the entry already.
        let link = file.as_raw_fd().to_string();
        let fd = sys::openat(&self.shared.fd_dir, link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(errno)?;
        Ok(LinuxNode::new(fd, self.shared.clone()))
    }

    fn set_times(&self, set: &SetAttr) -> Result<(), Errno> {
        let one = |t: Option<TimeSet>| match t {
            None => sys::Timespec { tv_sec: 0, tv_nsec: sys::UTIME_OMIT },
            Some(TimeSet::Now) => sys::Timespec { tv_sec: 0, tv_nsec: sys::UTIME_NOW },
            Some(TimeSet::At(t)) => sys::Timespec { tv_sec: t.sec, tv_nsec: t.nsec },
        };
        let times = Timestamps { last_access: one(set.atime), last_modification: one(set.mtime) };
        // Through the link rather than AT_EMPTY_PATH, which utimensat(2) knows only since Linux 5.8; the link leads
        // to a symbolic link's own inode, too.
        sys::utimensat(&self.shared.fd_dir, self.link_name()?, &times, AtFlags::empty()).map_err(errno)
    }
}

impl HostNode for LinuxNode {
    fn attr(&self) -> Result<Attr, Errno> {
        self.attr_now()
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn HostNode>, Errno> {
        check(name)?;
        Ok(Arc::new(self.child(name)?))
    }

    fn find(self: Arc<Self>, name: &[u8]) -> Result<(Arc<dyn HostNode>, Attr), Errno> {
        check(name)?;
        let (node, attr) = self.found(name)?;
        Ok((Arc::new(node), attr))
    }

    fn hold(&self) -> Result<(), Errno> {
        self.fd().map(drop)
    }

    fn read_dir(&self) -> Result<Vec<HostDirEntry>, Errno> {
        if self.file_type()? != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let dir = self.open_dir()?;
        let mut out = Vec::new();
        let mut buf = Vec::with_capacity(32 << 10);
        let mut iter = sys::RawDir::new(&dir, buf.spare_capacity_mut());
        while let Some(entry) = iter.next() {
            let entry = entry.map_err(errno)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let file_type = match file_type(entry.file_type()) {
                Some(t) => t,
                // Some file systems do not say it. An entry that is gone by now is left out.
                None => match self.child(name) {
                    Ok(node) => node.file_type()?,
                    Err(Errno::ENOENT) => continue,
                    Err(e) => return Err(e),
                },
            };
            out.push(HostDirEntry { name: name.to_vec(), ino: entry.ino(), file_type });
        }
        Ok(out)
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        if self.file_type()? != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        sys::readlinkat(self.fd()?, c"", Vec::new()).map(CString::into_bytes).map_err(errno)
    }

    fn open(&self, mode: OpenMode) -> Result<Arc<dyn HostFile>, Errno> {
        if self.file_type()? == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        let flags = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::Write => OFlags::WRONLY,
            OpenMode::ReadWrite => OFlags::RDWR,
        };
        Ok(Arc::new(LinuxFile::new(self.reopen(flags)?, self.shared.transfers.clone())))
    }

    fn open_read(&self) -> Result<(Arc<dyn HostFile>, Attr), Errno> {
        let Some((fd, attr)) = self.content() else { return Ok((self.open(OpenMode::Read)?, self.attr()?)) };
        Ok((Arc::new(LinuxFile::new(fd, self.shared.transfers.clone())), attr))
    }

    fn create(&self, name: &[u8], what: NewNode<'_>, mode: u32) -> Result<Arc<dyn HostNode>, Errno> {
        check(name)?;
        let bits = Mode::from_raw_mode(mode & 0o7777);
        let node = match what {
            NewNode::File => self.create_file(name, bits)?,
            NewNode::Directory => {
                sys::mkdirat(self.fd()?, name, bits).map_err(errno)?;
                let node = self.child(name)?;
                if mode & 0o6000 != 0 && node.file_type()? == FileType::Directory {
                    // mkdir(2) ignores these two bits.
                    node.set_attr(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
                }
                node
            }
            NewNode::Symlink(target) => {
                sys::symlinkat(target, self.fd()?, name).map_err(errno)?;
                self.child(name)?
            }
            NewNode::Special(kind, dev) => {
                let kind = match kind {
                    FileType::Fifo => SysType::Fifo,
                    FileType::Socket => SysType::Socket,
                    FileType::CharDevice => SysType::CharacterDevice,
                    FileType::BlockDevice => SysType::BlockDevice,
                    FileType::Regular | FileType::Directory | FileType::Symlink => return Err(Errno::EINVAL),
                };
                sys::mknodat(self.fd()?, name, kind, bits, dev.encode()).map_err(errno)?;
                self.child(name)?
            }
        };
        Ok(Arc::new(node))
    }

    fn link(&self, name: &[u8], target: &dyn HostNode) -> Result<(), Errno> {
        check(name)?;
        let target = LinuxNode::of(target)?;
        // AT_EMPTY_PATH needs a capability; the link leads to the inode itself, symbolic links included.
        sys::linkat(&target.shared.fd_dir, target.link_name()?, self.fd()?, name, AtFlags::SYMLINK_FOLLOW)
            .map_err(errno)
    }

    fn unlink(&self, name: &[u8], directory: bool) -> Result<(), Errno> {
        check(name)?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        sys::unlinkat(self.fd()?, name, flags).map_err(errno)
    }

    fn rename(&self, name: &[u8], to: &dyn HostNode, to_name: &[u8], flags: u32) -> Result<(), Errno> {
        check(name)?;
        check(to_name)?;
        let flags = sys::RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        sys::renameat_with(self.fd()?, name, LinuxNode::of(to)?.fd()?, to_name, flags).map_err(errno)
    }

    fn set_attr(&self, set: &SetAttr) -> Result<(), Errno> {
        if let Some(size) = set.size {
            match self.file_type()? {
                FileType::Regular => {}
                FileType::Directory => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
            sys::ftruncate(self.reopen(OFlags::WRONLY)?, size).map_err(errno)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
            sys::chownat(self.fd()?, c"", uid, gid, flags).map_err(errno)?;
        }
        // After the owner, whose change clears the set-id bits.
        if let Some(mode) = set.mode {
            if self.file_type()? == FileType::Symlink {
                return Err(Errno::EOPNOTSUPP);
            }
            let mode = Mode::from_raw_mode(mode & 0o7777);
            sys::chmodat(&self.shared.fd_dir, self.link_name()?, mode, AtFlags::empty()).map_err(errno)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            self.set_times(set)?;
        }
        Ok(())
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; 256];
        loop {
            match sys::getxattr(self.proc_path()?, name, &mut value[..]) {
                Ok(len) => {
                    value.truncate(len);
                    return Ok(value);
                }
                Err(SysErrno::RANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
                Err(e) => return Err(errno(e)),
            }
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        let flags = sys::XattrFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        sys::setxattr(self.proc_path()?, name, value, flags).map_err(errno)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>, Errno> {
        // The kernel's limit for the whole list is 64 KiB.
        let mut names = vec![0; 1 << 16];
        let len = sys::listxattr(self.proc_path()?, &mut names[..]).map_err(errno)?;
        let names = names.get(..len).unwrap_or_default();
        Ok(names.split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        sys::removexattr(self.proc_path()?, name).map_err(errno)
    }

    fn statfs(&self) -> Result<Statfs, Errno> {
        let fd = self.fd()?;
        // SAFETY: an all-zero value is valid.
        let mut s: libc::statfs64 = unsafe { std::mem::zeroed() };
        // SAFETY: fills the structure; the descriptor is open. fsid has no accessor, hence not by rustix.
        if unsafe { libc::fstatfs64(fd.as_raw_fd(), &mut s) } != 0 {
            return Err(last_errno());
        }
        // SAFETY: fsid_t is two 32-bit integers.
        let fsid: [i32; 2] = unsafe { std::mem::transmute(s.f_fsid) };
        Ok(Statfs {
            fs_type: s.f_type,
            bsize: s.f_bsize,
            blocks: s.f_blocks,
            bfree: s.f_bfree,
            bavail: s.f_bavail,
            files: s.f_files,
            ffree: s.f_ffree,
            fsid,
            namelen: s.f_namelen,
            frsize: s.f_frsize,
            flags: s.f_flags,
            ..Statfs::default()
        })
    }

    fn describe(&self) -> String {
        let path = self
            .link_name()
            .and_then(|link| sys::readlinkat(&self.shared.fd_dir, link, Vec::new()).map_err(errno));
        path.map_or_else(|_| "?".to_string(), |p| p.to_string_lossy().into_owned())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The errno of the libc call that just failed.
pub(crate) fn last_errno() -> Errno {
    Errno::from_raw(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn file_type(t: SysType) -> Option<FileType> {
    Some(match t {
        SysType::RegularFile => FileType::Regular,
        SysType::Directory => FileType::Directory,
        SysType::Symlink => FileType::Symlink,
        SysType::Fifo => FileType::Fifo,
        SysType::Socket => FileType::Socket,
        SysType::CharacterDevice => FileType::CharDevice,
        SysType::BlockDevice => FileType::BlockDevice,
        SysType::Unknown => return None,
    })
}

#[cfg(test)]
#[path = "hostfs_tests.rs"]
mod tests;
