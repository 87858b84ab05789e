//! Regular files of the host, opened for their content.

use crate::hostfs::{errno, last_errno};
use abi::Errno;
use hal::HostFile;
use rustix::fs::{self as sys, FallocateFlags};
use rustix::io::Errno as SysErrno;
use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// An open regular file.
pub struct LinuxFile {
    fd: OwnedFd,
    key: u64,
}

/// Numbers that are given out once. Not state of any machine: only their being different matters.
static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

impl LinuxFile {
    pub(crate) fn new(fd: OwnedFd) -> LinuxFile {
        LinuxFile { fd, key: NEXT_KEY.fetch_add(1, Ordering::Relaxed) }
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

impl HostFile for LinuxFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
            match rustix::io::pread(&self.fd, &mut buf[done..], at) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(SysErrno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(errno(e)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset.checked_add(done as u64).ok_or(Errno::EFBIG)?;
            match rustix::io::pwrite(&self.fd, &buf[done..], at) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(SysErrno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(errno(e)),
            }
        }
        Ok(done)
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
        if data_only { sys::fdatasync(&self.fd) } else { sys::fsync(&self.fd) }.map_err(errno)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
