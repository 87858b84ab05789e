//! Reads, writes and syncs of host files that may have to wait for a device: the task sleeps, its CPU does not.
//!
//! What the host can do at once is done at once; only the rest becomes a transfer, whose end is an event of the machine. A task that is
//! killed leaves its transfer behind, buffer and all.

use crate::Kernel;
use crate::error::{Result, err};
use crate::sync::Mutex;
use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use hal::{HostFile, Progress, Transfer, Transferred};
use hashbrown::HashMap;

#[derive(Default)]
struct Slot {
    done: Mutex<Option<Transferred>>,
    queue: WaitQueue,
}

/// Transfers that have not ended.
#[derive(Default)]
pub struct Transfers {
    waiting: Mutex<HashMap<u64, Arc<Slot>>>,
}

impl Kernel {
    /// A transfer has ended.
    pub(crate) fn transferred(&self, id: u64) {
        let done = self.machine.host_fs().and_then(|fs| fs.transferred(id));
        let slot = self.vfs.transfers.waiting.lock().remove(&id);
        if let Some(slot) = slot {
            *slot.done.lock() = done;
            slot.queue.wake_all(PollEvents::empty());
        }
    }
}

/// Makes a transfer and waits for its end, which only the death of the task cuts short.
fn transfer(cx: &Cx, file: &dyn HostFile, transfer: Transfer) -> Result<Transferred> {
    let id = cx.kernel.next_id();
    let slot = Arc::new(Slot::default());
    let waiting = &cx.kernel.vfs.transfers.waiting;
    waiting.lock().insert(id, slot.clone());
    if let Err(transfer) = file.start(id, transfer) {
        // The host has no threads to spare: then the CPU waits.
        waiting.lock().remove(&id);
        return Ok(match transfer {
            Transfer::Read(offset, mut buf) => Transferred { result: file.read_at(offset, &mut buf), buf },
            Transfer::Write(offset, buf) => Transferred { result: file.write_at(offset, &buf), buf },
            Transfer::Sync(data_only) => {
                Transferred { result: file.sync(data_only).map(|()| 0), buf: Vec::new() }
            }
        });
    }
    match cx.wait_killable(&slot.queue, || slot.done.lock().take()) {
        Some(done) => Ok(done),
        None => err(Errno::EINTR),
    }
}

/// Reads at a byte offset; short only at the end of the file, which who knows where that is says: then it need not be looked for.
pub(super) fn read_at(
    cx: &Cx,
    file: &dyn HostFile,
    offset: u64,
    end: Option<u64>,
    buf: &mut [u8],
) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
        let step = match file.read_now(at, rest) {
            Ok(Progress { done, blocked: false }) => Ok(done),
            Ok(Progress { blocked: true, .. }) => read_later(cx, file, at, rest),
            Err(e) => Err(e.into()),
        };
        match step {
            Ok(n) => done += n,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
        if step == Ok(0) || end == offset.checked_add(done as u64) {
            break;
        }
    }
    Ok(done)
}

/// Reads what has to be waited for.
fn read_later(cx: &Cx, file: &dyn HostFile, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let end = transfer(cx, file, Transfer::Read(offset, vec![0; buf.len()]))?;
    let n = end.result?.min(buf.len());
    for (to, from) in buf.iter_mut().zip(end.buf.iter().take(n)) {
        *to = *from;
    }
    Ok(n)
}

/// Writes at a byte offset; short only when the disk is full.
pub(super) fn write_at(cx: &Cx, file: &dyn HostFile, offset: u64, buf: &[u8]) -> Result<usize> {
    let Progress { done, blocked } = file.write_now(offset, buf)?;
    if !blocked {
        return Ok(done);
    }
    let rest = buf.get(done..).unwrap_or_default().to_vec();
    let at = offset.checked_add(done as u64).ok_or(Errno::EFBIG)?;
    match transfer(cx, file, Transfer::Write(at, rest))?.result {
        Ok(n) => Ok(done + n),
        Err(_) if done > 0 => Ok(done),
        Err(e) => Err(e.into()),
    }
}

/// `fsync(2)` or `fdatasync(2)`.
pub(super) fn sync(cx: &Cx, file: &dyn HostFile, data_only: bool) -> Result<()> {
    transfer(cx, file, Transfer::Sync(data_only))?.result?;
    Ok(())
}
