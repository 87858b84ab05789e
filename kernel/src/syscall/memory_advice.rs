//! Memory calls on ranges that exist: `mremap(2)`, `madvise(2)`, `mlock(2)` and kin, `mincore(2)`, `msync(2)`, protection keys, `mseal(2)`.

use super::memory::{ProtArg, flag_names};
use super::{Arg, ArgKind};
use crate::error::{Result, err};
use crate::mm::{Advice, LockAll, RemapFlags, VmaFlags};
use crate::task::Cx;
use crate::user::UserPtr;
use abi::Errno;
use abi::raw;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bitflags::bitflags;
use hal::{PAGE_SIZE, VirtAddr};

/// `mremap(2)`.
pub(super) fn mremap(
    cx: &Cx,
    addr: u64,
    old_len: u64,
    new_len: u64,
    flags: RemapFlags,
    to: u64,
) -> Result<VirtAddr> {
    cx.mm().remap(cx, addr, old_len, new_len, flags, to)
}

/// `madvise(2)`.
pub(super) fn madvise(cx: &Cx, addr: u64, len: u64, advice: AdviceArg) -> Result<()> {
    let advice = advice.decode().ok_or(Errno::EINVAL)?;
    if !addr.is_multiple_of(PAGE_SIZE) {
        return err(Errno::EINVAL);
    }
    let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    if addr == end { Ok(()) } else { cx.mm().advise(cx, addr, end, advice) }
}

/// `mlock(2)`.
pub(super) fn mlock(cx: &Cx, addr: u64, len: u64) -> Result<()> {
    lock(cx, addr, len, false)
}

/// `mlock2(2)`.
pub(super) fn mlock2(cx: &Cx, addr: u64, len: u64, flags: u32) -> Result<()> {
    match flags {
        0 => lock(cx, addr, len, false),
        raw::MLOCK_ONFAULT => lock(cx, addr, len, true),
        _ => err(Errno::EINVAL),
    }
}

fn lock(cx: &Cx, addr: u64, len: u64, on_fault: bool) -> Result<()> {
    let (start, end) = touched_pages(addr, len)?;
    if start == end { Ok(()) } else { cx.mm().lock(cx, start, end, on_fault) }
}

/// `munlock(2)`.
pub(super) fn munlock(cx: &Cx, addr: u64, len: u64) -> Result<()> {
    let (start, end) = touched_pages(addr, len)?;
    if start == end { Ok(()) } else { cx.mm().unlock(start, end) }
}

/// The pages that hold any byte of a range; `EINVAL` when it wraps around.
fn touched_pages(addr: u64, len: u64) -> Result<(u64, u64)> {
    let start = addr & !(PAGE_SIZE - 1);
    let end = addr.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE_SIZE));
    match end {
        _ if len == 0 => Ok((start, start)),
        Some(end) => Ok((start, end)),
        None => err(Errno::EINVAL),
    }
}

/// `mlockall(2)`.
pub(super) fn mlockall(cx: &Cx, flags: u32) -> Result<()> {
    let all = raw::MCL_CURRENT | raw::MCL_FUTURE | raw::MCL_ONFAULT;
    if flags == 0 || flags & !all != 0 || flags == raw::MCL_ONFAULT {
        return err(Errno::EINVAL);
    }
    let has = |bit| flags & bit != 0;
    let what = LockAll {
        current: has(raw::MCL_CURRENT),
        future: has(raw::MCL_FUTURE),
        on_fault: has(raw::MCL_ONFAULT),
    };
    cx.mm().lock_all(cx, what)
}

/// `munlockall(2)`.
pub(super) fn munlockall(cx: &Cx) -> Result<()> {
    cx.mm().unlock_all();
    Ok(())
}

/// `mincore(2)`.
pub(super) fn mincore(cx: &Cx, addr: u64, len: u64, vec: UserPtr<u8>) -> Result<()> {
    /// Pages per copy.
    const STEP: u64 = 4096;
    if !addr.is_multiple_of(PAGE_SIZE) {
        return err(Errno::EINVAL);
    }
    let limit = cx.kernel.machine.user_limit();
    let end = addr.checked_add(len).filter(|&end| end <= limit).ok_or(Errno::ENOMEM)?;
    let end = end.next_multiple_of(PAGE_SIZE);
    let mm = cx.mm();
    let mut at = addr;
    while at < end {
        let to = end.min(at + STEP * PAGE_SIZE);
        let mut bytes = Vec::with_capacity(STEP as usize);
        mm.resident(at, to, |here| bytes.push(u8::from(here)))?;
        vec.byte_add((at - addr) / PAGE_SIZE).write_bytes(cx, &bytes)?;
        at = to;
    }
    Ok(())
}

/// `msync(2)`: stores in a shared mapping are in the file at once, so it only has to reach the host's disk.
pub(super) fn msync(cx: &Cx, addr: u64, len: u64, flags: u32) -> Result<()> {
    let all = raw::MS_ASYNC | raw::MS_SYNC | raw::MS_INVALIDATE;
    let both = raw::MS_ASYNC | raw::MS_SYNC;
    if flags & !all != 0 || flags & both == both || !addr.is_multiple_of(PAGE_SIZE) {
        return err(Errno::EINVAL);
    }
    let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
    if addr == end {
        return Ok(());
    }
    let (files, holes, locked) = cx.mm().shared_files(addr, end);
    if flags & raw::MS_INVALIDATE != 0 && locked {
        return err(Errno::EBUSY);
    }
    if flags & raw::MS_SYNC != 0 {
        for file in files {
            file.sync(true)?;
        }
    }
    if holes { err(Errno::ENOMEM) } else { Ok(()) }
}

/// `pkey_mprotect(2)` on a CPU without protection keys: only the key -1 exists.
pub(super) fn pkey_mprotect(cx: &Cx, addr: u64, len: u64, prot: ProtArg, key: i32) -> Result<()> {
    if key != -1 { err(Errno::EINVAL) } else { super::memory::mprotect(cx, addr, len, prot) }
}

/// `pkey_alloc(2)` on a CPU without protection keys.
pub(super) fn pkey_alloc(_cx: &Cx, flags: u64, rights: u64) -> Result<i32> {
    let all = u64::from(raw::PKEY_DISABLE_ACCESS | raw::PKEY_DISABLE_WRITE);
    err(if flags != 0 || rights & !all != 0 { Errno::EINVAL } else { Errno::ENOSPC })
}

/// `pkey_free(2)` on a CPU without protection keys.
pub(super) fn pkey_free(_cx: &Cx, _key: i32) -> Result<()> {
    err(Errno::EINVAL)
}

/// `mseal(2)`.
pub(super) fn mseal(cx: &Cx, addr: u64, len: u64, flags: u64) -> Result<()> {
    if flags != 0 || !addr.is_multiple_of(PAGE_SIZE) {
        return err(Errno::EINVAL);
    }
    let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    if addr == end { Ok(()) } else { cx.mm().seal(addr, end) }
}

impl Arg for RemapFlags {
    const KIND: ArgKind = ArgKind::Hex;
    fn decode(raw: u64) -> Self {
        // All 64 bits count (mm/mremap.c); one that no flag has makes the whole unknown.
        RemapFlags::from_bits_retain(u32::try_from(raw).unwrap_or(u32::MAX))
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        let names = [(1, "MREMAP_MAYMOVE"), (2, "MREMAP_FIXED"), (4, "MREMAP_DONTUNMAP")];
        flag_names(raw as u32, &names, "0")
    }
}

/// Of Linux 6.13.
const MADV_GUARD_INSTALL: u32 = 102;
const MADV_GUARD_REMOVE: u32 = 103;

/// `MADV_*` (`uapi/asm-generic/mman-common.h`).
#[derive(Clone, Copy, Debug)]
pub struct AdviceArg(u32);

/// Number, name, meaning.
const ADVICE: &[(u32, &str, Advice)] = &[
    (raw::MADV_NORMAL, "MADV_NORMAL", flags(VmaFlags::empty(), VmaFlags::SEQUENTIAL.union(VmaFlags::RANDOM))),
    (raw::MADV_RANDOM, "MADV_RANDOM", flags(VmaFlags::RANDOM, VmaFlags::SEQUENTIAL)),
    (raw::MADV_SEQUENTIAL, "MADV_SEQUENTIAL", flags(VmaFlags::SEQUENTIAL, VmaFlags::RANDOM)),
    (raw::MADV_WILLNEED, "MADV_WILLNEED", Advice::Hint),
    (raw::MADV_DONTNEED, "MADV_DONTNEED", Advice::DontNeed { locked: false }),
    (raw::MADV_FREE, "MADV_FREE", Advice::Free),
    (raw::MADV_REMOVE, "MADV_REMOVE", Advice::Remove),
    (raw::MADV_DONTFORK, "MADV_DONTFORK", flags(VmaFlags::DONTFORK, VmaFlags::empty())),
    (raw::MADV_DOFORK, "MADV_DOFORK", flags(VmaFlags::empty(), VmaFlags::DONTFORK)),
    (raw::MADV_MERGEABLE, "MADV_MERGEABLE", flags(VmaFlags::MERGEABLE, VmaFlags::empty())),
    (raw::MADV_UNMERGEABLE, "MADV_UNMERGEABLE", flags(VmaFlags::empty(), VmaFlags::MERGEABLE)),
    (raw::MADV_HUGEPAGE, "MADV_HUGEPAGE", flags(VmaFlags::HUGEPAGE, VmaFlags::NOHUGEPAGE)),
    (raw::MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE", flags(VmaFlags::NOHUGEPAGE, VmaFlags::HUGEPAGE)),
    (raw::MADV_DONTDUMP, "MADV_DONTDUMP", flags(VmaFlags::DONTDUMP, VmaFlags::empty())),
    (raw::MADV_DODUMP, "MADV_DODUMP", flags(VmaFlags::empty(), VmaFlags::DONTDUMP)),
    (MADV_GUARD_INSTALL, "MADV_GUARD_INSTALL", Advice::Guard),
    (MADV_GUARD_REMOVE, "MADV_GUARD_REMOVE", flags(VmaFlags::empty(), VmaFlags::GUARD)),
    (raw::MADV_WIPEONFORK, "MADV_WIPEONFORK", Advice::WipeOnFork),
    (raw::MADV_KEEPONFORK, "MADV_KEEPONFORK", flags(VmaFlags::empty(), VmaFlags::WIPEONFORK)),
    (raw::MADV_COLD, "MADV_COLD", Advice::Reclaim),
    (raw::MADV_PAGEOUT, "MADV_PAGEOUT", Advice::Reclaim),
    (raw::MADV_POPULATE_READ, "MADV_POPULATE_READ", Advice::Populate { write: false }),
    (raw::MADV_POPULATE_WRITE, "MADV_POPULATE_WRITE", Advice::Populate { write: true }),
    (raw::MADV_DONTNEED_LOCKED, "MADV_DONTNEED_LOCKED", Advice::DontNeed { locked: true }),
];

const fn flags(set: VmaFlags, clear: VmaFlags) -> Advice {
    Advice::Flags { set, clear }
}

impl AdviceArg {
    fn decode(self) -> Option<Advice> {
        ADVICE.iter().find(|(nr, ..)| *nr == self.0).map(|(_, _, advice)| *advice)
    }
}

impl Arg for AdviceArg {
    const KIND: ArgKind = ArgKind::Int;
    fn decode(raw: u64) -> Self {
        AdviceArg(raw as u32)
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        match ADVICE.iter().find(|(nr, ..)| *nr == raw as u32) {
            Some((_, name, _)) => String::from(*name),
            None => format!("{}", raw as u32 as i32),
        }
    }
}

bitflags! {
    /// Commands of `membarrier(2)` (`uapi/linux/membarrier.h`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BarrierCmd: u32 {
        /// Every CPU.
        const GLOBAL = 1;
        /// Every CPU that runs a process that registered.
        const GLOBAL_EXPEDITED = 2;
        /// Registers for that.
        const REGISTER_GLOBAL_EXPEDITED = 4;
        /// Every CPU that runs this process.
        const PRIVATE_EXPEDITED = 8;
        /// Registers for that.
        const REGISTER_PRIVATE_EXPEDITED = 16;
        /// The same, and instruction streams are synchronised.
        const PRIVATE_EXPEDITED_SYNC_CORE = 32;
        /// Registers for that.
        const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE = 64;
        /// Asks what is registered.
        const GET_REGISTRATIONS = 512;
        /// Anything.
        const _ = !0;
    }
}

impl BarrierCmd {
    /// What `MEMBARRIER_CMD_QUERY` answers.
    const KNOWN: BarrierCmd = BarrierCmd::from_bits_retain(0x7f | 512);
    const REGISTERS: BarrierCmd = BarrierCmd::from_bits_retain(4 | 16 | 64);
}

impl Arg for BarrierCmd {
    const KIND: ArgKind = ArgKind::Hex;
    fn decode(raw: u64) -> Self {
        BarrierCmd::from_bits_retain(raw as u32)
    }
}

/// `membarrier(2)`: every other CPU that runs guest code is made to leave it once.
pub(super) fn membarrier(cx: &Cx, cmd: BarrierCmd, flags: u32) -> Result<u32> {
    use BarrierCmd as B;
    if flags != 0 {
        return err(Errno::EINVAL);
    }
    let mm = cx.mm();
    let registered = |cmd: B| mm.membarrier_registered() & cmd.bits() != 0;
    match cmd {
        cmd if cmd.is_empty() => return Ok(B::KNOWN.bits()),
        B::GET_REGISTRATIONS => return Ok(mm.membarrier_registered()),
        cmd if B::REGISTERS.contains(cmd) && cmd.bits().is_power_of_two() => {
            mm.membarrier_register(cmd.bits());
            return Ok(0);
        }
        B::PRIVATE_EXPEDITED if !registered(B::REGISTER_PRIVATE_EXPEDITED) => return err(Errno::EPERM),
        B::PRIVATE_EXPEDITED_SYNC_CORE if !registered(B::REGISTER_PRIVATE_EXPEDITED_SYNC_CORE) => {
            return err(Errno::EPERM);
        }
        B::GLOBAL | B::GLOBAL_EXPEDITED | B::PRIVATE_EXPEDITED | B::PRIVATE_EXPEDITED_SYNC_CORE => {}
        _ => return err(Errno::EINVAL),
    }
    cx.kernel.sched.interrupt_guests(cx.cpu());
    Ok(0)
}
