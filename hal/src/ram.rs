//! RAM: one run of bytes that the kernel divides into frames.

use crate::{HostFile, PhysAddr, Progress};
use abi::Errno;

/// The machine's memory. All methods may be called from any virtual CPU at any time and never block; a
/// range outside RAM is a kernel bug and panics (an oops of the task that did it).
///
/// Guest code may write the same bytes at the same time: what is read is a snapshot with no more atomicity
/// than the access size of [`Ram::load_u32`] and its kin promise. A Linux process implements it as a mapping
/// of one memfd.
pub trait Ram: Send + Sync {
    /// Size in bytes, a multiple of the page size.
    fn size(&self) -> u64;
    /// Copies out of RAM.
    fn read(&self, at: PhysAddr, buf: &mut [u8]);
    /// Copies into RAM.
    fn write(&self, at: PhysAddr, buf: &[u8]);
    /// Fills with zeros.
    fn zero(&self, at: PhysAddr, len: u64);
    /// Copies within RAM; the ranges must not overlap.
    fn copy(&self, from: PhysAddr, to: PhysAddr, len: u64);
    /// Reads an aligned 32-bit word atomically.
    fn load_u32(&self, at: PhysAddr) -> u32;
    /// Compare-and-swap of an aligned 32-bit word: `Ok(old)` when it was swapped, `Err(found)` when not.
    fn compare_exchange_u32(&self, at: PhysAddr, old: u32, new: u32) -> Result<u32, u32>;
    /// Has the host read a file straight into these ranges, one after the other, as [`HostFile::read_now`]. `EOPNOTSUPP` where that is not possible.
    fn read_file(
        &self,
        file: &dyn HostFile,
        offset: u64,
        to: &[(PhysAddr, usize)],
    ) -> Result<Progress, Errno>;
    /// Says that these bytes, which nobody has touched yet, will be used soon: a machine may do now, beside what else goes on, what it has to do for them some time.
    /// Returns at once.
    fn expect(&self, _at: PhysAddr, _len: u64) {}
    /// Tells the host that the content is no longer needed; it reads as zeros afterwards. Costs a host
    /// call, so it is for large runs.
    fn discard(&self, at: PhysAddr, len: u64);
}
