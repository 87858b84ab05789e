//! Changes of the machine's address space, gathered and applied at once.
//!
//! The machine's address space is a cache of our page table: everything in it can be faulted in again. So when the host
//! has no room for one more mapping, all of them are thrown away, and the guest faults back what it uses.

use super::frames::Pfn;
use super::inner::Inner;
use super::space::Mm;
use super::stash::RIGHTS;
use super::vma::Vma;
use crate::task::Cx;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::take;
use core::ops::Range;
use hal::{Backing, CpuId, HostFile, MapOp, PAGE_SIZE, Populate, Prot, SpaceError, VirtAddr};

/// What a mapping shows.
pub(super) enum What {
    Ram(Pfn),
    File { file: Arc<dyn HostFile>, offset: u64, shared: bool },
}

enum Change {
    Map { at: u64, len: u64, prot: Prot, what: What },
    Lend { at: u64, len: u64, first: Pfn },
    Unmap { at: u64, len: u64 },
    Protect { at: u64, len: u64, prot: Prot },
}

/// Changes in order, and frames that lose a reference once they are applied.
#[derive(Default)]
pub(super) struct Batch {
    changes: Vec<Change>,
    freed: Vec<Pfn>,
    /// Frames that the machine has to make yet, by number.
    fresh: Vec<Range<u32>>,
    /// Most of what is mapped will not be touched, so the machine fills its page tables when it is.
    pub(super) on_touch: bool,
    /// Areas that are no more.
    pub(super) removed: Vec<Vma>,
}

impl Batch {
    /// Number of changes.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// A mapping; joined with the one before when it continues that.
    pub(super) fn map(&mut self, at: u64, len: u64, prot: Prot, what: What) {
        if let (
            Some(Change::Map { at: last_at, len: last_len, prot: last_prot, what: What::Ram(first) }),
            What::Ram(pfn),
        ) = (self.changes.last_mut(), &what)
            && *last_at + *last_len == at
            && *last_prot == prot
            && first.plus((*last_len / PAGE_SIZE) as u32) == *pfn
        {
            *last_len += len;
        } else {
            self.changes.push(Change::Map { at, len, prot, what });
        }
        // A mapping takes the place of what was there.
        if let [.., Change::Unmap { at: gone, len: gone_len }, Change::Map { at, len, .. }] =
            &self.changes[..]
            && at <= gone
            && gone + gone_len <= at + len
        {
            self.changes.remove(self.changes.len() - 2);
        }
    }

    /// Maps memory for guest code to take by itself.
    pub(super) fn lend(&mut self, at: u64, len: u64, first: Pfn) {
        self.changes.push(Change::Lend { at, len, first });
    }

    /// Takes a range out; joined with the one before when it continues that.
    pub(super) fn unmap(&mut self, at: u64, len: u64) {
        match self.changes.last_mut() {
            Some(Change::Unmap { at: last, len: last_len }) if *last + *last_len == at => *last_len += len,
            _ => self.changes.push(Change::Unmap { at, len }),
        }
    }

    /// Takes a range out before anything else is changed.
    pub(super) fn unmap_first(&mut self, at: u64, len: u64) {
        self.changes.insert(0, Change::Unmap { at, len });
    }

    /// Changes rights; joined with the one before when it continues that.
    pub(super) fn protect(&mut self, at: u64, len: u64, prot: Prot) {
        match self.changes.last_mut() {
            Some(Change::Protect { at: last, len: last_len, prot: last_prot })
                if *last + *last_len == at && *last_prot == prot =>
            {
                *last_len += len;
            }
            _ => self.changes.push(Change::Protect { at, len, prot }),
        }
    }

    /// Notes a run of frames that nobody has touched yet.
    pub(super) fn fresh(&mut self, first: Pfn, count: u32) {
        self.fresh.push(first.0..first.0.saturating_add(count));
    }

    /// When the machine fills its page tables for a mapping.
    fn populate(&self, change: &Change) -> Populate {
        match change {
            Change::Lend { .. } => Populate::Lent,
            _ if self.on_touch => Populate::OnTouch,
            Change::Map { len, what: What::Ram(pfn), .. } => {
                let end = pfn.0.saturating_add((len / PAGE_SIZE) as u32);
                let fresh = self.fresh.iter().any(|run| run.start < end && pfn.0 < run.end);
                if fresh { Populate::Fresh } else { Populate::Now }
            }
            _ => Populate::Now,
        }
    }

    /// Does something with the changes, if there are any.
    fn with_ops(&self, then: impl FnOnce(&[MapOp<'_>]) -> Result<(), SpaceError>) -> Result<(), SpaceError> {
        let op = |change| op(change, self.populate(change));
        match &self.changes[..] {
            [] => Ok(()),
            [one] => then(&[op(one)]),
            all => then(&all.iter().map(op).collect::<Vec<_>>()),
        }
    }

    /// A reference to give up once no CPU can use the frame any more.
    pub(super) fn put(&mut self, pfn: Pfn) {
        self.freed.push(pfn);
    }
}

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Commit {
    /// It was applied.
    Done,
    /// The host had no room: nothing is shown any more, and what the batch should have shown has to be shown anew.
    Flushed,
}

impl Mm {
    /// Applies a batch. Whatever happens, the page table says what is shown.
    ///
    /// The batch is empty afterwards but for areas that were removed: their files must be dropped with no lock held, so a batch
    /// that removes areas is made before the lock is taken.
    pub(super) fn commit(
        &self,
        cpu: CpuId,
        inner: &mut Inner,
        batch: &mut Batch,
    ) -> Result<Commit, SpaceError> {
        inner.stash.leave(batch);
        let result = self.apply(cpu, inner, batch);
        batch.changes.clear();
        batch.fresh.clear();
        self.frames.put_all(take(&mut batch.freed));
        result
    }

    /// The same for a batch of a call by which the current task gives rights to memory up, or memory with its rights. Where nothing else has to be done the task
    /// does that itself before it goes on, which takes the host half the time. A file that nobody may reach any more is taken out with the next change: unlike a frame nobody else gets
    /// its pages.
    pub(super) fn commit_freed(
        &self,
        cx: &Cx,
        inner: &mut Inner,
        batch: &mut Batch,
    ) -> Result<Commit, SpaceError> {
        let withdraw = |at, len, rights| cx.user.borrow_mut().withdraw(VirtAddr(at), len, rights);
        let done = match batch.changes[..] {
            [Change::Protect { at, len, prot }] if prot.is_empty() => withdraw(at, len, prot),
            [Change::Protect { at, len, prot: Prot::READ }] if inner.stash.may_lower() => {
                let done = withdraw(at, len, Prot::READ);
                if done {
                    inner.stash.lower(at, len);
                }
                done
            }
            [Change::Unmap { at, len }] if batch.freed.is_empty() && inner.stash.has_room() => {
                let done = withdraw(at, len, Prot::empty());
                if done {
                    inner.stash.leave_hidden(at, len);
                }
                done
            }
            _ => false,
        };
        if done {
            batch.changes.clear();
            self.frames.put_all(take(&mut batch.freed));
            return Ok(Commit::Done);
        }
        self.commit(cx.cpu(), inner, batch)
    }

    fn apply(&self, cpu: CpuId, inner: &mut Inner, batch: &Batch) -> Result<Commit, SpaceError> {
        let updated = batch.with_ops(|ops| self.space.update(cpu, ops));
        self.applied(cpu, inner, batch, updated)
    }

    /// Begins to apply a batch to an address space where nothing has run, so that nobody can use what it frees. [`Mm::finish`] comes before something does.
    pub(super) fn begin(
        &self,
        cpu: CpuId,
        inner: &mut Inner,
        batch: &mut Batch,
    ) -> Result<Commit, SpaceError> {
        let begun = batch.with_ops(|ops| self.space.begin_update(cpu, ops));
        self.frames.put_all(take(&mut batch.freed));
        self.applied(cpu, inner, batch, begun)
    }

    /// Waits until what was begun is applied.
    pub(super) fn finish(&self, cpu: CpuId, inner: &mut Inner, batch: &Batch) -> Result<Commit, SpaceError> {
        let done = batch.with_ops(|ops| self.space.finish_update(cpu, ops));
        self.applied(cpu, inner, batch, done)
    }

    /// What the host says of a batch.
    fn applied(
        &self,
        cpu: CpuId,
        inner: &mut Inner,
        batch: &Batch,
        updated: Result<(), SpaceError>,
    ) -> Result<Commit, SpaceError> {
        match updated {
            Ok(()) => return Ok(Commit::Done),
            Err(SpaceError::NoMemory) => {}
            Err(SpaceError::Refused(index)) => {
                if let Some(Change::Map { at, .. }) = batch.changes.get(index)
                    && let Some(vma) = inner.areas.find_mut(*at)
                {
                    vma.refused = true;
                }
            }
            Err(dead) => return Err(dead),
        }
        self.end_all_lending(inner);
        self.space.update(cpu, &[MapOp::Unmap { at: VirtAddr(0), len: self.user_limit }])?;
        inner.stash.forget(&self.frames);
        inner.table.update(0..self.user_limit / PAGE_SIZE, |_, pte| pte.hidden());
        for vma in inner.areas.iter_mut() {
            vma.shown = false;
        }
        Ok(Commit::Flushed)
    }
}

fn op(change: &Change, populate: Populate) -> MapOp<'_> {
    match change {
        Change::Map { at, len, prot, what: What::Ram(pfn) } => MapOp::Map {
            at: VirtAddr(*at),
            len: *len,
            prot: *prot,
            backing: Backing::Ram(pfn.phys()),
            populate,
        },
        Change::Lend { at, len, first } => MapOp::Map {
            at: VirtAddr(*at),
            len: *len,
            prot: RIGHTS,
            backing: Backing::Ram(first.phys()),
            populate,
        },
        Change::Map { at, len, prot, what: What::File { file, offset, shared } } => MapOp::Map {
            at: VirtAddr(*at),
            len: *len,
            prot: *prot,
            backing: Backing::File { file: &**file, offset: *offset, shared: *shared },
            populate: Populate::OnTouch,
        },
        Change::Unmap { at, len } => MapOp::Unmap { at: VirtAddr(*at), len: *len },
        Change::Protect { at, len, prot } => MapOp::Protect { at: VirtAddr(*at), len: *len, prot: *prot },
    }
}
