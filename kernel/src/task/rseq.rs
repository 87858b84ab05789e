//! Restartable sequences (`rseq(2)`, `uapi/linux/rseq.h`).
//!
//! A task that was off its CPU, or is about to run a signal handler, must not go on in the middle of a critical section: it continues
//! at the section's abort address. The area also tells the task which CPU it is on. Both are done before guest code runs, and only
//! when the task has been switched out since the last time, other than in a system call that it came back from on the same CPU: sections make none.

use super::Cx;
use super::user_loop::with_memory;
use crate::error::{Result, err};
use crate::signal::{self, SigInfo, sig};
use crate::user::UserPtr;
use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A registered area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rseq {
    /// Address of `struct rseq`.
    pub addr: u64,
    /// Its length as registered.
    pub len: u32,
    /// What stands before each abort address.
    pub signature: u32,
    /// The CPU that was last written there.
    pub cpu: Option<u32>,
}

/// Length and alignment of the area (`ORIG_RSEQ_SIZE`); longer ones are newer.
const MIN_LEN: u32 = 32;
/// Where the fields are.
const CPU_ID_START: u64 = 0;
const RSEQ_CS: u64 = 8;
const NODE_ID: u64 = 20;
/// `RSEQ_CPU_ID_UNINITIALIZED`.
const NO_CPU: u32 = u32::MAX;

/// `struct rseq_cs`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Section {
    version: u32,
    flags: u32,
    start: u64,
    len: u64,
    abort: u64,
}

/// `rseq(2)` without flags.
pub(crate) fn register(cx: &Cx, new: Rseq) -> Result<()> {
    let old = *cx.task.rseq.lock();
    if let Some(old) = old {
        let same = old.addr == new.addr && old.len == new.len;
        return err(match same {
            false => Errno::EINVAL,
            true if old.signature != new.signature => Errno::EPERM,
            true => Errno::EBUSY,
        });
    }
    if new.len < MIN_LEN || !new.addr.is_multiple_of(u64::from(MIN_LEN)) {
        return err(Errno::EINVAL);
    }
    if new.addr.checked_add(u64::from(new.len)).is_none_or(|end| end > cx.kernel.machine.user_limit()) {
        return err(Errno::EFAULT);
    }
    *cx.task.rseq.lock() = Some(new);
    cx.rseq_stale.set(true);
    Ok(())
}

/// `rseq(2)` with `RSEQ_FLAG_UNREGISTER`.
pub(crate) fn unregister(cx: &Cx, given: Rseq) -> Result<()> {
    let old = *cx.task.rseq.lock();
    let Some(old) = old.filter(|o| o.addr == given.addr && o.len == given.len) else {
        return err(Errno::EINVAL);
    };
    if old.signature != given.signature {
        return err(Errno::EPERM);
    }
    write_ids(cx, &old, 0, NO_CPU)?;
    *cx.task.rseq.lock() = None;
    Ok(())
}

/// Brings the area up to date and leaves a critical section. To be called before guest code runs, and before a signal frame is made.
/// An area that can't be used is a `SIGSEGV`, as on Linux.
pub(crate) fn update(cx: &Cx) {
    cx.rseq_stale.set(false);
    let registered = *cx.task.rseq.lock();
    let Some(rseq) = registered else { return };
    let updated = with_memory(cx, || {
        let cpu = cx.cpu().0 as u32;
        leave_section(cx, &rseq)?;
        if rseq.cpu == Some(cpu) {
            return Ok(());
        }
        write_ids(cx, &rseq, cpu, cpu)?;
        if let Some(rseq) = cx.task.rseq.lock().as_mut() {
            rseq.cpu = Some(cpu);
        }
        Ok(())
    });
    if updated.is_err() {
        signal::force(cx, SigInfo::kernel(sig::SEGV));
    }
}

fn write_ids(cx: &Cx, rseq: &Rseq, start: u32, cpu: u32) -> Result<()> {
    UserPtr::<[u32; 2]>::new(rseq.addr + CPU_ID_START).write(cx, &[start, cpu])?;
    // One node; the memory-map concurrency id is the CPU's.
    UserPtr::<[u32; 2]>::new(rseq.addr + NODE_ID).write(cx, &[0, start])
}

fn leave_section(cx: &Cx, rseq: &Rseq) -> Result<()> {
    let pointer = UserPtr::<u64>::new(rseq.addr + RSEQ_CS);
    let at = pointer.read(cx)?;
    if at == 0 {
        return Ok(());
    }
    let section = UserPtr::<Section>::new(at).read(cx)?;
    let limit = cx.kernel.machine.user_limit();
    let end = section.start.checked_add(section.len).filter(|&end| end <= limit);
    let inside = |ip: u64| end.is_some_and(|end| ip >= section.start && ip < end);
    if section.version != 0 || end.is_none() || section.abort >= limit || inside(section.abort) {
        return err(Errno::EINVAL);
    }
    let ip = cx.user.borrow_mut().regs().rip;
    if inside(ip) {
        let signature = UserPtr::<u32>::new(section.abort.wrapping_sub(4)).read(cx)?;
        if signature != rseq.signature {
            return err(Errno::EINVAL);
        }
        cx.user.borrow_mut().regs().rip = section.abort;
    }
    pointer.write(cx, &0)
}
