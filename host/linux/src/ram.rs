//! RAM: one memfd, mapped once; a frame is an offset in it.
//!
//! The mapping is shared with the stubs' address spaces, so guest code may write the same bytes at any time:
//! all access goes through raw pointers, never through references. When the host cannot give a page on first
//! touch (memory cgroup or tmpfs limit) it kills the process or raises SIGBUS; that is the host's decision
//! about the whole machine and is not caught here.

use crate::ahead::{Ahead, Made};
use crate::hostfile::{LinuxFile, now};
use crate::hostfs::last_errno;
use abi::Errno;
use hal::{HostFile, PAGE_SIZE, PhysAddr, Progress, Ram};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ranges that one read of a file fills; what there are more of is left out.
const IOV: usize = 16;

/// The machine's memory.
pub struct LinuxRam {
    fd: OwnedFd,
    mapping: Arc<Mapping>,
    ahead: Ahead,
}

/// RAM in the host's address space; goes with the last who has this.
pub(crate) struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: `base` points to a shared mapping that lives as long as the value; every access is a copy or an
// atomic operation on it, from whichever thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; there is no state besides the mapping.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The address of a range that lies inside.
    fn at(&self, from: u64, len: u64) -> Option<*mut u8> {
        from.checked_add(len).filter(|&end| end <= self.len as u64)?;
        // SAFETY: the offset is within the mapping, checked above.
        Some(unsafe { self.base.add(from as usize) })
    }

    /// Has the host make a piece, in bytes, that lies inside. False where it can't. Blocks for the host's work.
    pub(crate) fn populate(&self, from: u64, len: u64) -> bool {
        // SAFETY: the range lies in the mapping. Its content does not change.
        let made = |at: *mut u8| unsafe { libc::madvise(at.cast(), len as usize, libc::MADV_POPULATE_WRITE) };
        self.at(from, len).is_some_and(|at| made(at) == 0)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `LinuxRam::new`; nothing refers to it any more.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

impl LinuxRam {
    /// RAM of `size` bytes, a multiple of the page size. Takes host memory only as it is touched.
    pub fn new(size: u64) -> io::Result<LinuxRam> {
        let fd = memfd()?;
        let len = usize::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        File::from(fd.try_clone()?).set_len(size)?;
        // SAFETY: a new mapping at an address of the host's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Core dumps of the kernel must not hold the guests' memory.
        // SAFETY: advice on our own mapping.
        unsafe { libc::madvise(base, len, libc::MADV_DONTDUMP) };
        let mapping = Arc::new(Mapping { base: base.cast(), len });
        Ok(LinuxRam { fd, ahead: Ahead::new(mapping.clone()), mapping })
    }

    /// The memfd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What was made ahead of need.
    pub(crate) fn made(&self) -> Made {
        self.ahead.made()
    }

    /// How much the host has made of it, in bytes.
    #[cfg(test)]
    pub(crate) fn resident(&self) -> u64 {
        let file = File::from(self.fd.try_clone().unwrap());
        std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512
    }

    /// The address of a range that lies inside; panics when it does not.
    fn at(&self, at: PhysAddr, len: u64) -> *mut u8 {
        let found = self.mapping.at(at.0, len);
        found
            .unwrap_or_else(|| panic!("RAM access at {at:?}+{len:#x} is outside of {:#x} bytes", self.size()))
    }

    fn word(&self, at: PhysAddr) -> &AtomicU32 {
        let word = self.at(at, 4);
        assert!(at.0.is_multiple_of(4), "unaligned word at {at:?}");
        // SAFETY: in bounds and aligned (the base is page-aligned); the mapping outlives the borrow of self.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }
}

/// `MFD_EXEC` says that guests execute from it (needed where `vm.memfd_noexec` is 1); kernels before 6.3 do
/// not know it, and `vm.memfd_noexec=2` refuses it, but mapping stays possible with the seal: the seal is
/// about `execve`.
fn memfd() -> io::Result<OwnedFd> {
    for flags in [libc::MFD_EXEC, 0, libc::MFD_NOEXEC_SEAL] {
        // SAFETY: a valid name; the result is checked.
        let fd = unsafe { libc::memfd_create(c"vkernel-ram".as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd >= 0 {
            // SAFETY: a descriptor that was just made and belongs to nobody else.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(io::Error::last_os_error())
}

impl Ram for LinuxRam {
    fn size(&self) -> u64 {
        self.mapping.len as u64
    }
    fn read(&self, at: PhysAddr, buf: &mut [u8]) {
        let from = self.at(at, buf.len() as u64);
        // SAFETY: both sides are valid for the length and do not overlap (a Rust buffer never lies in RAM).
        // Guests may write meanwhile; bytes have no invalid values.
        unsafe { ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
    }
    fn write(&self, at: PhysAddr, buf: &[u8]) {
        let to = self.at(at, buf.len() as u64);
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(buf.as_ptr(), to, buf.len()) };
    }
    fn zero(&self, at: PhysAddr, len: u64) {
        let to = self.at(at, len);
        // SAFETY: in bounds.
        unsafe { ptr::write_bytes(to, 0, len as usize) };
    }
    fn copy(&self, from: PhysAddr, to: PhysAddr, len: u64) {
        let (source, target) = (self.at(from, len), self.at(to, len));
        assert!(from.0 + len <= to.0 || to.0 + len <= from.0, "overlapping copy {from:?} to {to:?}");
        // SAFETY: in bounds and not overlapping.
        unsafe { ptr::copy_nonoverlapping(source, target, len as usize) };
    }
    fn read_file(
        &self,
        file: &dyn HostFile,
        offset: u64,
        to: &[(PhysAddr, usize)],
    ) -> Result<Progress, Errno> {
        let file: &LinuxFile = file.as_any().downcast_ref().ok_or(Errno::EOPNOTSUPP)?;
        let mut iov = [const { libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 } }; IOV];
        let count = to.len().min(IOV);
        for (iov, &(at, len)) in iov.iter_mut().zip(to) {
            *iov = libc::iovec { iov_base: self.at(at, len as u64).cast(), iov_len: len };
        }
        now(offset, |offset| {
            // SAFETY: the host writes into ranges of the mapping, checked by `at`; there are no references to it.
            let done = unsafe {
                libc::preadv2(file.fd().as_raw_fd(), iov.as_ptr(), count as i32, offset, libc::RWF_NOWAIT)
            };
            usize::try_from(done).map_err(|_| last_errno())
        })
    }
    fn load_u32(&self, at: PhysAddr) -> u32 {
        self.word(at).load(Ordering::SeqCst)
    }
    fn compare_exchange_u32(&self, at: PhysAddr, old: u32, new: u32) -> Result<u32, u32> {
        self.word(at).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
    }
    fn expect(&self, at: PhysAddr, len: u64) {
        self.at(at, len);
        self.ahead.make(at.0, at.0 + len);
    }
    fn discard(&self, at: PhysAddr, len: u64) {
        self.at(at, len);
        assert!(
            at.0.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE),
            "unaligned discard at {at:?}"
        );
        if len == 0 {
            return;
        }
        self.ahead.forget(at.0, at.0 + len);
        // SAFETY: a hole in our own file; the mapping then shows zeros.
        let done = unsafe {
            libc::fallocate(
                self.fd.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                at.0 as i64,
                len as i64,
            )
        };
        if done != 0 {
            self.zero(at, len);
        }
    }
}

/// What to tell the user when RAM cannot be had.
pub(crate) fn explain(error: &io::Error, size: u64) -> String {
    let size = size >> 20;
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOMEM) => {
            format!("no address space for {size} MiB of RAM: use a smaller --memory, or raise ulimit -v")
        }
        Some(Errno::EFBIG) => {
            format!(
                "{size} MiB of RAM are more than a file may have: use a smaller --memory, or raise ulimit -f"
            )
        }
        Some(Errno::EINVAL) => {
            format!("{size} MiB of RAM are more than the host allows: use a smaller --memory")
        }
        _ => format!("cannot make {size} MiB of RAM: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_discards() {
        let ram = LinuxRam::new(1 << 20).unwrap();
        ram.write(PhysAddr(4094), b"hello");
        let mut buf = [1; 5];
        ram.read(PhysAddr(4094), &mut buf);
        assert_eq!(&buf, b"hello");
        ram.copy(PhysAddr(4094), PhysAddr(100), 5);
        ram.discard(PhysAddr(4096), 4096);
        ram.read(PhysAddr(4094), &mut buf);
        assert_eq!(&buf, b"he\0\0\0");
        ram.read(PhysAddr(100), &mut buf);
        assert_eq!(&buf, b"hello");
        ram.zero(PhysAddr(100), 5);
        ram.read(PhysAddr(100), &mut buf);
        assert_eq!(&buf, b"\0\0\0\0\0");
    }

    #[test]
    fn words_swap_only_when_equal() {
        let ram = LinuxRam::new(4096).unwrap();
        assert_eq!(ram.compare_exchange_u32(PhysAddr(4092), 0, 5), Ok(0));
        assert_eq!(ram.compare_exchange_u32(PhysAddr(4092), 0, 6), Err(5));
        assert_eq!(ram.load_u32(PhysAddr(4092)), 5);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn refuses_what_is_outside() {
        LinuxRam::new(4096).unwrap().write(PhysAddr(u64::MAX - 1), b"abc");
    }

    #[test]
    fn can_be_mapped_executable() {
        let ram = LinuxRam::new(4096).unwrap();
        // SAFETY: a new mapping of our own file.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_SHARED,
                ram.fd().as_raw_fd(),
                0,
            )
        };
        assert_ne!(map, libc::MAP_FAILED);
        // SAFETY: the mapping made above.
        unsafe { libc::munmap(map, 4096) };
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        let error = LinuxRam::new(1 << 50).err().unwrap();
        assert!(explain(&error, 1 << 50).contains("--memory"));
    }
}
