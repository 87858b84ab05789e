//! Regular files of the host, opened for their content.

use crate::hostfs::{errno, last_errno};
use crate::hostnode;
use crate::transfer::Transfers;
use abi::Errno;
use abi::fs::Attr;
use hal::{HostFile, Progress, Transfer};
use rustix::fs::{self as sys, FallocateFlags};
use rustix::io::{Errno as SysErrno, ReadWriteFlags};
use std::any::Any;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// An open regular file.
pub struct LinuxFile {
    fd: Arc<OwnedFd>,
    key: u64,
    transfers: Arc<Transfers>,
    remote: OnceLock<bool>,
    may_execute: OnceLock<bool>,
}

/// Numbers that are given out once. Not state of any machine: only their being different matters.
static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

impl LinuxFile {
    pub(crate) fn new(fd: OwnedFd, transfers: Arc<Transfers>) -> LinuxFile {
        let key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
        LinuxFile { fd: Arc::new(fd), key, transfers, remote: OnceLock::new(), may_execute: OnceLock::new() }
    }
    /// A number that stands for this open file and no other.
    pub fn key(&self) -> u64 {
        self.key
    }
    /// The descriptor, for mapping it into an address space.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// File systems of the host that answer from another process or machine: any transfer may take long. Magic numbers of
/// `statfs(2)`: FUSE, NFS, 9P, CIFS, SMB2, Ceph, AFS.
const REMOTE: [i64; 7] =
    [0x6573_5546, 0x6969, 0x0102_1997, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400, 0x5346_414f];

/// Moves `len` bytes in as many steps as the host needs; less when a step moves nothing, or fails after others. `step` gets how many are done,
/// and where in the file to go on; `beyond` is the error for offsets that there are none of.
fn in_steps(
    len: usize,
    offset: u64,
    beyond: Errno,
    mut step: impl FnMut(usize, u64) -> Result<usize, SysErrno>,
) -> Result<usize, Errno> {
    let mut done = 0;
    while done < len {
        match step(done, offset.checked_add(done as u64).ok_or(beyond)?) {
            Ok(0) => break,
            Ok(moved) => done += moved,
            Err(SysErrno::INTR) => {}
            Err(_) if done > 0 => break,
            Err(e) => return Err(errno(e)),
        }
    }
    Ok(done)
}

/// What a read from `offset` that does not wait comes to. Where pages are cold the host begins to fetch them.
pub(crate) fn now(offset: u64, mut read: impl FnMut(i64) -> Result<usize, Errno>) -> Result<Progress, Errno> {
    // preadv2(2) takes -1 for the descriptor's own position.
    let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    loop {
        match read(offset) {
            Ok(done) => return Ok(Progress { done, blocked: false }),
            Err(Errno::EAGAIN) => return Ok(Progress { done: 0, blocked: true }),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_at(fd: &OwnedFd, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    in_steps(buf.len(), offset, Errno::EINVAL, |done, at| rustix::io::pread(fd, &mut buf[done..], at))
}

/// Writes all of the buffer, less when the disk is full.
pub(crate) fn write_at(fd: &OwnedFd, offset: u64, buf: &[u8]) -> Result<usize, Errno> {
    in_steps(buf.len(), offset, Errno::EFBIG, |done, at| rustix::io::pwrite(fd, &buf[done..], at))
}

/// `fsync(2)` or `fdatasync(2)`.
pub(crate) fn sync(fd: &OwnedFd, data_only: bool) -> Result<(), Errno> {
    if data_only { sys::fdatasync(fd) } else { sys::fsync(fd) }.map_err(errno)
}

impl LinuxFile {
    /// Whether the file system is one of [`REMOTE`]; asked of the host once.
    fn is_remote(&self) -> bool {
        *self.remote.get_or_init(|| {
            // Some architectures have it unsigned or narrower.
            sys::fstatfs(&self.fd).is_ok_and(|s| REMOTE.contains(&i64::from(s.f_type as u32)))
        })
    }
}

impl HostFile for LinuxFile {
    fn may_execute(&self) -> bool {
        *self.may_execute.get_or_init(|| {
            !sys::fstatvfs(&self.fd).is_ok_and(|s| s.f_flag.contains(sys::StatVfsMountFlags::NOEXEC))
        })
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> Result<Progress, Errno> {
        let step = now(offset, |offset| {
            let mut buf = [IoSliceMut::new(buf)];
            rustix::io::preadv2(&self.fd, &mut buf, offset as u64, ReadWriteFlags::NOWAIT).map_err(errno)
        });
        match step {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) if self.is_remote() => {
                Ok(Progress { done: 0, blocked: true })
            }
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                read_at(&self.fd, offset, buf).map(|done| Progress { done, blocked: false })
            }
            step => step,
        }
    }

    // A local file system takes writes into its cache, so there is nothing to wait for but a cache that is full; and few of them can
    // say that.
    fn write_now(&self, offset: u64, buf: &[u8]) -> Result<Progress, Errno> {
        if self.is_remote() {
            return Ok(Progress { done: 0, blocked: true });
        }
        write_at(&self.fd, offset, buf).map(|done| Progress { done, blocked: false })
    }

    fn start(&self, id: u64, transfer: Transfer) -> Result<(), Transfer> {
        self.transfers.start(id, self.fd.clone(), transfer)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        read_at(&self.fd, offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<usize, Errno> {
        write_at(&self.fd, offset, buf)
    }

    fn attr(&self) -> Result<Attr, Errno> {
        hostnode::attr(self.fd.as_fd())
    }

    fn size(&self) -> Result<u64, Errno> {
        let stat = sys::fstat(&self.fd).map_err(errno)?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        sys::fallocate(&self.fd, FallocateFlags::from_bits_retain(mode), offset, len).map_err(errno)
    }

    fn seek_extent(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        let whence = if hole { libc::SEEK_HOLE } else { libc::SEEK_DATA };
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        // SAFETY: plain call on an open descriptor. Its position is used by nothing else.
        let found = unsafe { libc::lseek64(self.fd.as_raw_fd(), offset, whence) };
        u64::try_from(found).map_err(|_| last_errno())
    }

    fn sync(&self, data_only: bool) -> Result<(), Errno> {
        sync(&self.fd, data_only)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
