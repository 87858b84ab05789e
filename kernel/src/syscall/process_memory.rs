//! Another process's memory (`process_vm_readv(2)`), and NUMA policy for a machine with one node (`set_mempolicy(2)`).

use crate::error::{Result, err};
use crate::mm::Mm;
use crate::task::{Cap, Cx, Task};
use crate::user::{IOV_MAX, Sink, Source, UserBuf, UserPtr};
use abi::Errno;
use abi::fs::Iovec;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use hal::{PAGE_SIZE, VirtAddr};

/// `process_vm_readv(2)`.
pub(super) fn process_vm_readv(
    cx: &Cx,
    pid: i32,
    local: UserPtr<Iovec>,
    local_count: usize,
    remote: UserPtr<Iovec>,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    let mut sink = local_buffers(cx, local, local_count, flags)?;
    transfer(cx, pid, remote, remote_count, |mm, at, page| {
        let len = page.len().min(sink.room());
        let Some(bytes) = page.get_mut(..len) else { return Ok(0) };
        mm.read_bytes(cx, at, bytes)?;
        sink.put(bytes)?;
        Ok(len)
    })
}

/// `process_vm_writev(2)`.
pub(super) fn process_vm_writev(
    cx: &Cx,
    pid: i32,
    local: UserPtr<Iovec>,
    local_count: usize,
    remote: UserPtr<Iovec>,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    let mut source = local_buffers(cx, local, local_count, flags)?;
    transfer(cx, pid, remote, remote_count, |mm, at, page| {
        let len = source.take(page)?;
        mm.write_bytes(cx, at, page.get(..len).unwrap_or_default())?;
        Ok(len)
    })
}

fn local_buffers<'a>(cx: &'a Cx<'a>, ptr: UserPtr<Iovec>, count: usize, flags: u64) -> Result<UserBuf<'a>> {
    if flags != 0 {
        return err(Errno::EINVAL);
    }
    UserBuf::vectored(cx, ptr, count)
}

/// Calls `step` for each page of the remote vectors until the local ones are used up or something fails; what was moved before a
/// failure counts.
fn transfer(
    cx: &Cx,
    pid: i32,
    remote: UserPtr<Iovec>,
    count: usize,
    mut step: impl FnMut(&Mm, VirtAddr, &mut [u8]) -> Result<usize>,
) -> Result<usize> {
    if count > IOV_MAX {
        return err(Errno::EINVAL);
    }
    let vecs: Vec<Iovec> = remote.read_array(cx, count)?;
    if vecs.iter().any(|v| v.len > i64::MAX as u64) {
        return err(Errno::EINVAL);
    }
    let mm = remote_mm(cx, pid)?;
    let mut done = 0usize;
    let mut page = [0u8; PAGE_SIZE as usize];
    for v in vecs {
        let mut at = v.base;
        let Some(end) = v.base.checked_add(v.len) else { return err(Errno::EFAULT) };
        while at < end {
            let len = (PAGE_SIZE - at % PAGE_SIZE).min(end - at) as usize;
            let Some(bytes) = page.get_mut(..len) else { break };
            match step(&mm, VirtAddr(at), bytes) {
                Ok(0) => return Ok(done),
                Ok(n) => {
                    done += n;
                    at += n as u64;
                    if n < len {
                        return Ok(done);
                    }
                }
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
        }
    }
    Ok(done)
}

/// The address space of a process that the caller may trace (`ptrace(2)`, "Ptrace access mode checking").
fn remote_mm(cx: &Cx, pid: i32) -> Result<Arc<Mm>> {
    let task = cx.kernel.pids.task(pid).ok_or(Errno::ESRCH)?;
    if !Arc::ptr_eq(&task.process, cx.process()) && !may_access(cx, &task) {
        return err(Errno::EPERM);
    }
    let mm = task.mm.lock().clone();
    mm.ok_or(Errno::ESRCH.into())
}

fn may_access(cx: &Cx, task: &Task) -> bool {
    let mine = cx.task.creds();
    if mine.has(Cap::SysPtrace) {
        return true;
    }
    let theirs = task.creds();
    let same_user = [theirs.uid, theirs.euid, theirs.suid].iter().all(|&id| id == mine.uid);
    let same_group = [theirs.gid, theirs.egid, theirs.sgid].iter().all(|&id| id == mine.gid);
    let dumpable = task.process.dumpable.load(Ordering::Relaxed) == 1;
    same_user && same_group && dumpable && theirs.permitted & !mine.permitted == 0
}

const MPOL_MODES: u32 = 7;
/// `MPOL_F_STATIC_NODES`, `MPOL_F_RELATIVE_NODES`, `MPOL_F_NUMA_BALANCING`.
const MPOL_MODE_FLAGS: u32 = 0xe000;

fn check_policy(cx: &Cx, mode: u32, mask: UserPtr<u64>, max_node: u64) -> Result<()> {
    let mode = mode & !MPOL_MODE_FLAGS;
    if mode >= MPOL_MODES {
        return err(Errno::EINVAL);
    }
    // The node mask is a bit array of `max_node - 1` bits; node 0 is the only one.
    let nodes = match mask.non_null() {
        Some(mask) if max_node > 1 => mask.read(cx)? & (u64::MAX >> (64 - (max_node - 1).min(64))),
        _ => 0,
    };
    let ok = match mode {
        // Default and local take no nodes.
        0 | 4 => nodes == 0,
        // Preferred may.
        1 => nodes & !1 == 0,
        _ => nodes == 1,
    };
    if ok { Ok(()) } else { err(Errno::EINVAL) }
}

/// `set_mempolicy(2)`.
pub(super) fn set_mempolicy(cx: &Cx, mode: u32, mask: UserPtr<u64>, max_node: u64) -> Result<()> {
    check_policy(cx, mode, mask, max_node)
}

/// `mbind(2)`.
pub(super) fn mbind(
    cx: &Cx,
    addr: u64,
    _len: u64,
    mode: u32,
    mask: UserPtr<u64>,
    max_node: u64,
    flags: u32,
) -> Result<()> {
    const MPOL_MF_MOVE_ALL: u32 = 4;
    if flags & !7 != 0 || mode & !MPOL_MODE_FLAGS >= MPOL_MODES {
        return err(Errno::EINVAL);
    }
    // Other processes' pages would be moved, too.
    if flags & MPOL_MF_MOVE_ALL != 0 && !cx.task.creds().has(Cap::SysNice) {
        return err(Errno::EPERM);
    }
    if !addr.is_multiple_of(PAGE_SIZE) {
        return err(Errno::EINVAL);
    }
    check_policy(cx, mode, mask, max_node)
}

/// `get_mempolicy(2)`: everything is on node 0 and the policy is the default one.
pub(super) fn get_mempolicy(
    cx: &Cx,
    mode: UserPtr<i32>,
    mask: UserPtr<u64>,
    max_node: u64,
    addr: u64,
    flags: u32,
) -> Result<()> {
    const F_NODE: u32 = 1;
    const F_ADDR: u32 = 2;
    const F_MEMS_ALLOWED: u32 = 4;
    if flags & !(F_NODE | F_ADDR | F_MEMS_ALLOWED) != 0 || !mask.is_null() && max_node < 2 {
        return err(Errno::EINVAL);
    }
    if flags & F_MEMS_ALLOWED != 0 {
        if flags & (F_NODE | F_ADDR) != 0 {
            return err(Errno::EINVAL);
        }
        mode.write_if_some(cx, &0)?;
        return mask.write_if_some(cx, &1);
    }
    if flags & F_ADDR == 0 && addr != 0 || flags & (F_NODE | F_ADDR) == F_NODE {
        return err(Errno::EINVAL);
    }
    if flags & F_ADDR != 0 {
        let mut byte = [0u8];
        cx.mm().read_bytes(cx, VirtAddr(addr), &mut byte)?;
    }
    mode.write_if_some(cx, &0)?;
    mask.write_if_some(cx, &0)
}
