//! Frames: the pages of the machine's RAM, with a reference count each.
//!
//! [`Pfn`] is a bare number with explicit counting, for the tables of this module's neighbours; [`Frame`] counts by itself, for
//! everybody else. Allocation hands out runs of neighbouring frames, because a run costs one host mapping. It prefers
//! frames that were freed lately: those are resident at the host, while a frame that was never used makes the host's memory
//! grow. Long free runs are given back to the host once many have gathered.
//!
//! Lock order: the free map is a leaf.

use super::free_map::{FreeMap, Run};
use crate::error::{Result, err};
use crate::sync::Mutex;
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hal::{Machine, PAGE_SIZE, PhysAddr};
use zerocopy::FromZeros;

/// Freed frames, in number, whose content the host keeps before half of them are given back: 128 MiB. Zeroing one takes a quarter of the time that the host
/// takes to make one.
const KEEP_STALE: u32 = 32768;
/// The same while there is nothing to do: 2 MiB.
const KEEP_IDLE: u32 = 512;
/// About how many frames an idle CPU gives back at once: work may come meanwhile.
const IDLE_STEP: u32 = 1024;
/// The shortest run, in frames, that is worth a host call to give back.
const GIVE_BACK: u32 = 64;

/// No more frames lie ready at once if they have to be zeroed for that.
const MOST_STALE: u32 = 512;

/// A frame's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(super) struct Pfn(pub(super) u32);

impl Pfn {
    /// Its address.
    pub(super) fn phys(self) -> PhysAddr {
        PhysAddr(u64::from(self.0) * PAGE_SIZE)
    }
    /// The frame `n` further on.
    pub(super) fn plus(self, n: u32) -> Pfn {
        Pfn(self.0.wrapping_add(n))
    }
}

/// What a new frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fill {
    /// Zeros.
    Zero,
    /// Anything: the caller overwrites all of it before a guest can see it.
    Anything,
}

/// A counted reference to one frame. Cloning counts up, dropping counts down and frees.
pub struct Frame {
    frames: Arc<Frames>,
    pfn: Pfn,
}

/// Memory of the kernel's own that guests can make it use without end, such as what is in pipes: as many frames stay free, so that together they are no more
/// than RAM. Given back when dropped.
pub struct Hold {
    frames: Arc<Frames>,
    count: u32,
}

/// All frames of a machine.
pub struct Frames {
    machine: Arc<dyn Machine>,
    counts: Vec<AtomicU32>,
    free: Mutex<FreeMap>,
    /// Numbers for address spaces and caches: what futex keys tell them apart by.
    ids: AtomicU64,
}

impl Frames {
    /// All of the machine's RAM, free.
    pub fn new(machine: Arc<dyn Machine>) -> Arc<Frames> {
        // The top bits of a page-table entry are flags, which leaves room for a tebibyte.
        let count = (machine.ram().size() / PAGE_SIZE).min(super::table::MAX_FRAMES) as usize;
        // Zeroed memory from the allocator: its pages exist only once they are used. If there is none, there are no frames.
        let counts: Vec<AtomicU32> = AtomicU32::new_vec_zeroed(count).unwrap_or_default();
        let free = Mutex::new(FreeMap::new(counts.len() as u32));
        Arc::new(Frames { machine, counts, free, ids: AtomicU64::new(1) })
    }

    /// A zeroed frame; `ENOMEM` when RAM is full.
    pub fn alloc(self: &Arc<Frames>) -> Result<Frame> {
        match self.alloc_run(1, None, Fill::Zero) {
            Some((pfn, _)) => Ok(Frame { frames: self.clone(), pfn }),
            None => err(Errno::ENOMEM),
        }
    }

    /// A counted reference to a frame that the caller holds one on.
    pub(super) fn share(self: &Arc<Frames>, pfn: Pfn) -> Frame {
        self.get(pfn);
        Frame { frames: self.clone(), pfn }
    }

    /// Up to `want` neighbouring frames, counted once each: the first one and how many; `None` when RAM is full. If possible they
    /// follow `after`, so that one mapping shows both.
    pub(super) fn alloc_run(&self, want: u32, after: Option<Pfn>, fill: Fill) -> Option<(Pfn, u32)> {
        let run = self.take(want, after, fill, false)?;
        Some((Pfn(run.start), run.len))
    }

    /// The same, zeroed, and whether the machine has to make them.
    pub(super) fn alloc_zeroed(&self, want: u32, after: Option<Pfn>) -> Option<(Pfn, u32, bool)> {
        let run = self.take(want, after, Fill::Zero, false)?;
        Some((Pfn(run.start), run.len, !run.stale))
    }

    /// The same for frames that lie ready: others are not used before them.
    pub(super) fn alloc_ready(&self, want: u32, after: Option<Pfn>) -> Option<(Pfn, u32)> {
        let run = self.take(want, after, Fill::Zero, true)?;
        Some((Pfn(run.start), run.len))
    }

    /// Takes frames; `ready` says that nobody touches them at once.
    fn take(&self, want: u32, after: Option<Pfn>, fill: Fill, ready: bool) -> Option<Run> {
        let mut free = self.free.lock();
        let mut run = free.take(want, after.map(|p| p.0.wrapping_add(1)))?;
        if ready && run.stale && run.len > MOST_STALE {
            (run.start + MOST_STALE..run.start + run.len).for_each(|index| free.put(index));
            run.len = MOST_STALE;
        }
        let expected = free.expect();
        drop(free);
        if let Some((start, len)) = expected {
            // Those that lie ready are used before what is expected.
            let from = if ready && !run.stale { run.start.min(start) } else { start };
            self.machine.ram().expect(Pfn(from).phys(), u64::from(start + len - from) * PAGE_SIZE);
        }
        for index in run.start..run.start + run.len {
            if let Some(count) = self.counts.get(index as usize) {
                count.store(1, Ordering::Release);
            }
        }
        if fill == Fill::Zero && run.stale {
            self.machine.ram().zero(Pfn(run.start).phys(), u64::from(run.len) * PAGE_SIZE);
        }
        Some(run)
    }

    /// Counts up.
    pub(super) fn get(&self, pfn: Pfn) {
        if let Some(count) = self.counts.get(pfn.0 as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of references.
    pub(super) fn count(&self, pfn: Pfn) -> u32 {
        self.counts.get(pfn.0 as usize).map_or(0, |c| c.load(Ordering::Acquire))
    }

    /// Counts down, and frees frames whose last reference it was.
    pub(super) fn put_all(&self, frames: impl IntoIterator<Item = Pfn>) {
        let mut free = None;
        for pfn in frames {
            let Some(count) = self.counts.get(pfn.0 as usize) else { continue };
            if count.fetch_sub(1, Ordering::AcqRel) == 1 {
                free.get_or_insert_with(|| self.free.lock()).put(pfn.0);
            }
        }
        if let Some(free) = free {
            let give_back = free.stale() > KEEP_STALE;
            drop(free);
            if give_back {
                self.give_back(KEEP_STALE / 2);
            }
        }
    }

    /// Whether an idle CPU should call [`Frames::give_back_some`] some time.
    pub fn may_give_back(&self) -> bool {
        let free = self.free.lock();
        free.stale() > KEEP_IDLE || free.expects()
    }

    /// Has the host drop the content of some freed frames, for a CPU that has nothing to do. Takes well below a millisecond.
    pub fn give_back_some(&self) {
        let mut free = self.free.lock();
        let unused = free.take_unused();
        let stale = free.stale();
        drop(free);
        self.discard(unused.as_slice());
        self.give_back(stale.saturating_sub(IDLE_STEP).max(KEEP_IDLE));
    }

    /// Has the host drop the content of long free runs until no more than `keep` frames have any. They are taken out while the host works, so no
    /// lock is held.
    fn give_back(&self, keep: u32) {
        let runs = self.free.lock().take_stale_runs(GIVE_BACK, keep);
        self.discard(&runs);
    }

    /// Has the host drop the content of runs that were taken out, and makes them free.
    fn discard(&self, runs: &[Run]) {
        for run in runs {
            self.machine.ram().discard(Pfn(run.start).phys(), u64::from(run.len) * PAGE_SIZE);
        }
        if !runs.is_empty() {
            let mut free = self.free.lock();
            for run in runs {
                free.put_zeroed(run.start, run.len);
            }
        }
    }

    /// A hold on nothing yet.
    pub fn hold(self: &Arc<Frames>) -> Hold {
        Hold { frames: self.clone(), count: 0 }
    }

    /// A number that no other address space or cache of this kernel has.
    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Frames in all.
    pub fn total(&self) -> u64 {
        self.counts.len() as u64
    }

    /// Free frames.
    pub fn available(&self) -> u64 {
        u64::from(self.free.lock().available())
    }

    /// The most frames that were in use at one time.
    pub fn high_water(&self) -> u64 {
        u64::from(self.free.lock().high_water())
    }
}

impl Hold {
    /// Holds so many more frames; `ENOMEM` when there are not as many.
    pub fn grow(&mut self, frames: u32) -> Result<()> {
        if !self.frames.free.lock().hold(frames) {
            return err(Errno::ENOMEM);
        }
        self.count += frames;
        Ok(())
    }

    /// Holds so many less.
    pub fn shrink(&mut self, frames: u32) {
        let frames = frames.min(self.count);
        self.frames.free.lock().release(frames);
        self.count -= frames;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shrink(self.count);
    }
}

impl Frame {
    pub(super) fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Its address.
    pub fn phys(&self) -> PhysAddr {
        self.pfn.phys()
    }

    /// Number of references.
    pub fn count(&self) -> u32 {
        self.frames.count(self.pfn)
    }
}

impl Clone for Frame {
    fn clone(&self) -> Frame {
        self.frames.share(self.pfn)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.frames.put_all([self.pfn]);
    }
}
