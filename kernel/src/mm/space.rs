//! Address spaces.
//!
//! An [`Mm`] is areas ([`super::vma`]), a page table of our own ([`super::table`]), and the machine's vmspace, which is a cache of the
//! two: it shows a part of what the page table says, and faults add to it. Nothing here suspends a task.
//!
//! Lock order: an `Mm` before a `PageCache` before the frames. Two `Mm`s are locked at once only by `fork`, the parent
//! first; nobody else has the child yet. The machine's address space is changed with the lock held.
#![allow(missing_docs, reason = "flags carry the names of the uapi headers")]

use super::frames::Frames;
use super::gate::Traps;
use super::inner::{Inner, Locked};
use super::programs::FirstCode;
use super::vma::{GUARD_GAP, VmaFlags};
use crate::Kernel;
use crate::error::{Error, Result};
use crate::fs::{Mappable, OpenFile};
use crate::sync::{Mutex, Once};
use abi::Errno;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hal::{Machine, PAGE_SIZE, Prot, SpaceError, VmSpace};

/// The lowest address of mappings (`vm.mmap_min_addr`).
pub const MIN_ADDR: u64 = 65536;

bitflags! {
    /// How to map (`mmap(2)`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MapFlags: u32 {
        /// Stores reach the object.
        const SHARED = 1;
        /// At this address, in place of what is there.
        const FIXED = 2;
        /// With `FIXED`: not if something is there.
        const NOREPLACE = 4;
        /// A stack.
        const GROWSDOWN = 8;
        /// Filled at once.
        const POPULATE = 16;
        /// Locked and filled at once.
        const LOCKED = 32;
        /// Not held against the size of RAM.
        const NORESERVE = 64;
        /// Below 2 GiB (`MAP_32BIT`).
        const LOW = 128;
        /// Small memory is not made whole at once: it may never be touched (`MAP_STACK`), or is shown with everything else later (`execve`).
        const LATER = 256;
        /// The kernel's own: sealed, not for copies of the process, and not counted as its memory.
        const INTERNAL = 512;
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
    /// The guest gets this signal. `SIGKILL` when its address space is dead.
    Signal {
        /// `SIGSEGV`, `SIGBUS` or `SIGKILL`.
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

/// One area, as `/proc/PID/maps` and `smaps` show it.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct VmaInfo {
    pub start: u64,
    pub end: u64,
    pub prot: Prot,
    pub shared: bool,
    pub offset: u64,
    /// Path, device and inode come from here.
    pub file: Option<Arc<OpenFile>>,
    /// `[heap]`, `[stack]` and the like; empty for none.
    pub name: String,
    pub flags: VmaFlags,
    /// Pages in RAM.
    pub resident_pages: u64,
    /// Of these, pages that belong to this address space alone.
    pub private_pages: u64,
}

/// Sizes in pages, for `/proc/PID/status`, `statm` and `stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmStats {
    /// All areas (`VmSize`), and the most there were (`VmPeak`).
    pub size: u64,
    /// See [`MmStats::size`].
    pub peak_size: u64,
    /// Pages in RAM (`VmRSS`), and the most there were (`VmHWM`). Host files that are shown as they are do not count.
    pub resident: u64,
    /// See [`MmStats::resident`].
    pub peak_resident: u64,
    /// Resident pages of shared mappings (`RssShmem`).
    pub resident_shared: u64,
    /// Private writable areas (`VmData`).
    pub data: u64,
    /// Stacks (`VmStk`).
    pub stack: u64,
    /// Executable areas (`VmExe` and `VmLib` together).
    pub exec: u64,
    /// Locked areas (`VmLck`).
    pub locked: u64,
    /// The entries of our page table take this many bytes (`VmPTE`).
    pub table_bytes: u64,
    /// Page faults that were served.
    pub faults: u64,
}

/// An address space: areas, pages, and the machine's vmspace that shows them.
pub struct Mm {
    /// Dropped before the pages, so that no frame is free while a guest could still use it.
    pub(super) space: Arc<dyn VmSpace>,
    inner: Mutex<Inner>,
    pub(super) frames: Arc<Frames>,
    pub(super) machine: Arc<dyn Machine>,
    pub(super) me: Weak<Mm>,
    pub(super) id: u64,
    pub(super) user_limit: u64,
    pub(super) fault_count: AtomicU64,
    /// Where patched system calls go, if the machine has a gate.
    pub(super) gate: Option<u64>,
    pub(super) traps: Traps,
    /// The code that its program began with.
    pub(super) first: Once<FirstCode>,
    /// What `membarrier(2)` was told to register.
    membarrier: AtomicU32,
}

impl Mm {
    /// An empty address space, its layout as for a stack limit of 8 MiB; see [`Mm::set_layout`].
    pub fn new(kernel: &Arc<Kernel>) -> Result<Arc<Mm>> {
        let mm = Mm::create(&kernel.machine, &kernel.frames, kernel.machine.new_space())?;
        mm.set_layout(8 << 20, true);
        Ok(mm)
    }

    /// The same, shown by a space that the machine has just made.
    pub(super) fn create(
        machine: &Arc<dyn Machine>,
        frames: &Arc<Frames>,
        space: Result<Arc<dyn VmSpace>, SpaceError>,
    ) -> Result<Arc<Mm>> {
        let space = space.map_err(|error| match error {
            // Of processes, not of memory (fork(2), EAGAIN).
            SpaceError::NoMemory => {
                Error::new(Errno::EAGAIN, "the host has no room for another address space")
            }
            dead => dead.into(),
        })?;
        Ok(Arc::new_cyclic(|me| Mm {
            space,
            inner: Mutex::new(Inner::new(frames.clone(), machine.user_limit())),
            frames: frames.clone(),
            machine: machine.clone(),
            me: me.clone(),
            id: frames.next_id(),
            user_limit: machine.user_limit(),
            fault_count: AtomicU64::new(0),
            gate: machine.gate(),
            traps: Traps::new(),
            first: Once::new(),
            membarrier: AtomicU32::new(0),
        }))
    }

    /// Chooses where mappings go, for a process with this stack limit in bytes: downwards from below the space that the stack
    /// may take, by a random distance if `randomize`. To be called before anything is mapped.
    pub fn set_layout(&self, stack_limit: u64, randomize: bool) {
        // As Linux does it (arch/x86/mm/mmap.c): the gap is at least 128 MiB and at most 5/6 of everything.
        const STACK_RANDOM: u64 = 0x3f_ffff << 12;
        const MMAP_RANDOM_BITS: u32 = 28;
        let gap = stack_limit.saturating_add(STACK_RANDOM + GUARD_GAP);
        let gap = gap.clamp(128 << 20, self.user_limit / 6 * 5);
        let random = if randomize { self.random() & ((1 << MMAP_RANDOM_BITS) - 1) } else { 0 };
        let base = self.user_limit.saturating_sub(gap).saturating_sub(random * PAGE_SIZE);
        self.inner().mmap_base = base & !(PAGE_SIZE - 1);
    }

    /// Locks what is in it, as guest code has left it.
    pub(super) fn inner(&self) -> Locked<'_> {
        Locked::new(self.inner.lock(), &*self.space)
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        self.machine.entropy(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    /// The machine's side of it.
    pub fn space(&self) -> &Arc<dyn VmSpace> {
        &self.space
    }

    /// A number that no other address space or page cache of the kernel has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Registers for a kind of `membarrier(2)`, by the bit of its registering command.
    pub fn membarrier_register(&self, bit: u32) {
        self.membarrier.fetch_or(bit, Ordering::SeqCst);
    }

    /// Bits of [`Mm::membarrier_register`].
    pub fn membarrier_registered(&self) -> u32 {
        self.membarrier.load(Ordering::SeqCst)
    }

    /// Sizes.
    pub fn stats(&self) -> MmStats {
        let inner = self.inner();
        let shared = inner.areas.iter().filter(|v| v.is_shared());
        let resident_shared = shared.map(|v| inner.table.range(v.pages()).count() as u64).sum();
        MmStats {
            size: inner.sums.total,
            peak_size: inner.sums.peak_total,
            resident: inner.table.len(),
            peak_resident: inner.sums.peak_resident.max(inner.table.len()),
            resident_shared,
            data: inner.sums.data,
            stack: inner.sums.stack,
            exec: inner.sums.exec,
            locked: inner.sums.locked,
            table_bytes: inner.table.bytes(),
            faults: self.fault_count.load(Ordering::Relaxed),
        }
    }

    /// Resident size in pages.
    pub fn resident_pages(&self) -> u64 {
        self.inner().table.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.inner().areas.iter().next().is_none()
    }

    /// Most pages that were resident at once.
    pub fn peak_rss_pages(&self) -> u64 {
        let inner = self.inner();
        inner.sums.peak_resident.max(inner.table.len())
    }

    /// Areas in ascending order.
    pub fn vmas(&self) -> Vec<VmaInfo> {
        let inner = self.inner();
        let heap = &inner.heap;
        let info = |vma: &super::vma::Vma| {
            let mut resident_pages = 0;
            let mut private_pages = 0;
            for (_, pte) in inner.table.range(vma.pages()) {
                resident_pages += 1;
                private_pages += u64::from(pte.pfn().is_some_and(|pfn| self.frames.count(pfn) == 1));
            }
            let in_heap = vma.file.is_none() && vma.start < heap.end && vma.end > heap.start;
            VmaInfo {
                start: vma.start,
                end: vma.end,
                prot: vma.prot,
                shared: vma.is_shared(),
                offset: if vma.file.is_some() { vma.offset } else { 0 },
                file: vma.file.clone(),
                name: String::from(if in_heap && vma.name.is_empty() { "[heap]" } else { vma.name }),
                flags: vma.flags,
                resident_pages,
                private_pages,
            }
        };
        let mut all: Vec<VmaInfo> = inner.areas.iter().map(info).collect();
        let len = self.machine.vdso_image().len() as u64;
        if let Some(start) = self.machine.vdso().filter(|_| len > 0) {
            all.push(VmaInfo {
                start,
                end: start + len,
                prot: Prot::READ | Prot::EXEC,
                shared: false,
                offset: 0,
                file: None,
                name: String::from("[vdso]"),
                flags: VmaFlags::empty(),
                resident_pages: 0,
                private_pages: 0,
            });
        }
        all
    }
}
