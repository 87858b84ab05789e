//! Address spaces.

use crate::Kernel;
use crate::error::{Result, err};
use crate::fs::{Mappable, OpenFile};
use crate::task::Cx;
use abi::Errno;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use hal::{Fault, Prot, VirtAddr, VmSpace};

bitflags! {
    /// How to map.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[allow(missing_docs)]
    pub struct MapFlags: u32 {
        const SHARED = 1;
        const FIXED = 2;
        const NOREPLACE = 4;
        const GROWSDOWN = 8;
        const POPULATE = 16;
        const LOCKED = 32;
        const NORESERVE = 64;
    }
}

/// A mapping to make.
pub struct MapRequest {
    /// Where, or a hint; zero for anywhere.
    pub addr: u64,
    /// Length in bytes; rounded up to pages.
    pub len: u64,
    /// Rights.
    pub prot: Prot,
    /// How.
    pub flags: MapFlags,
    /// What it shows; `None` is anonymous memory.
    pub object: Option<Mappable>,
    /// The open file, for `/proc/PID/maps` and for the right to write.
    pub file: Option<Arc<OpenFile>>,
    /// Offset in the object, in bytes.
    pub offset: u64,
    /// A name for `/proc/PID/maps`, such as `[stack]`.
    pub name: &'static str,
}

/// What became of a page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// The access may be tried again.
    Handled,
    /// The guest gets this signal.
    Signal {
        /// `SIGSEGV` or `SIGBUS`.
        signo: i32,
        /// `si_code`.
        code: i32,
    },
    /// No memory: the OOM killer has to act.
    OutOfMemory,
}

/// What a futex word is identified by: the address space and address, or the object and offset when shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FutexKey {
    /// Address space or object, by number.
    pub object: u64,
    /// Address or offset in bytes.
    pub offset: u64,
}

/// One area, as `/proc/PID/maps` shows it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct VmaInfo {
    pub start: u64,
    pub end: u64,
    pub prot: Prot,
    pub shared: bool,
    pub offset: u64,
    pub file: Option<Arc<OpenFileRef>>,
    pub name: String,
    pub resident_pages: u64,
}

/// The file of an area.
pub type OpenFileRef = ();

/// An address space: areas, pages, and the machine's vmspace that shows them.
pub struct Mm {
    space: Arc<dyn VmSpace>,
}

impl Mm {
    /// An empty address space.
    pub fn new(kernel: &Arc<Kernel>) -> Result<Arc<Mm>> {
        Ok(Arc::new(Mm { space: kernel.machine.new_space()? }))
    }

    /// The machine's side of it.
    pub fn space(&self) -> &Arc<dyn VmSpace> {
        &self.space
    }

    /// A copy-on-write copy (`fork`).
    pub fn fork(&self, _cx: &Cx) -> Result<Arc<Mm>> {
        err(Errno::ENOSYS)
    }

    /// `mmap(2)`.
    pub fn map(&self, _cx: &Cx, _request: MapRequest) -> Result<VirtAddr> {
        err(Errno::ENOSYS)
    }

    /// Serves a page fault.
    pub fn fault(&self, _cx: &Cx, _fault: &Fault) -> FaultOutcome {
        FaultOutcome::OutOfMemory
    }

    /// Copies in; `EFAULT`.
    pub fn read_bytes(&self, _cx: &Cx, _at: VirtAddr, _buf: &mut [u8]) -> Result<()> {
        err(Errno::EFAULT)
    }

    /// Copies out; `EFAULT`.
    pub fn write_bytes(&self, _cx: &Cx, _at: VirtAddr, _buf: &[u8]) -> Result<()> {
        err(Errno::EFAULT)
    }

    /// Compare-and-swap of an aligned word; `EFAULT`.
    pub fn compare_exchange_u32(
        &self,
        _cx: &Cx,
        _at: VirtAddr,
        _old: u32,
        _new: u32,
    ) -> Result<Result<u32, u32>> {
        err(Errno::EFAULT)
    }

    /// Reads an aligned word atomically; `EFAULT`.
    pub fn load_u32(&self, _cx: &Cx, _at: VirtAddr) -> Result<u32> {
        err(Errno::EFAULT)
    }

    /// Identifies a futex word; `shared` when the caller did not say `FUTEX_PRIVATE_FLAG`. `EFAULT`.
    pub fn futex_key(&self, _cx: &Cx, _at: VirtAddr, _shared: bool) -> Result<FutexKey> {
        err(Errno::EFAULT)
    }

    /// Most pages that were resident at once.
    pub fn peak_rss_pages(&self) -> u64 {
        0
    }

    /// Where the program break starts (`execve`).
    pub fn set_brk_start(&self, _addr: u64) {}

    /// Areas in ascending order.
    pub fn vmas(&self) -> Vec<VmaInfo> {
        Vec::new()
    }
}

/// Who is to be killed when RAM is full.
pub fn oom_victim(_kernel: &Kernel) -> Option<Arc<crate::task::Process>> {
    None
}
