//! Send-buffer accounting: what a message costs its sender until it is read.
//!
//! The costs are those of Linux's socket buffers, because programs see them: `SO_SNDBUF`, `SIOCOUTQ`, and how much fits before a
//! writer blocks. Messages are held against RAM, too.

use crate::error::Result;
use crate::mm::{Frames, Hold};
use crate::sync::Mutex;
use crate::wait::{PollEvents, WaitQueue};
use abi::Errno;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Fixed cost of a buffer's descriptor, and what is taken off its data block for bookkeeping.
const DESCRIPTOR: usize = 256;
const SHARED_INFO: usize = 320;
const PAGE: usize = 4096;
/// Data that goes into a stream buffer's first block; the rest goes into pages.
const STREAM_HEAD: usize = PAGE - SHARED_INFO;
/// The same for packets.
const PACKET_HEAD: usize = 4 * PAGE - SHARED_INFO;
/// Most data of one stream message.
pub(super) const STREAM_CHUNK: usize = STREAM_HEAD + 32768;

/// In what steps, in pages, memory is held for messages.
const STEP: usize = 64;

/// What all messages take up, held against RAM.
pub(super) struct Memory {
    used: AtomicUsize,
    /// For how many bytes memory is held.
    held: AtomicUsize,
    hold: Mutex<Hold>,
}

impl Memory {
    pub(super) fn new(frames: &Arc<Frames>) -> Memory {
        Memory { used: AtomicUsize::new(0), held: AtomicUsize::new(0), hold: Mutex::new(frames.hold()) }
    }

    /// Uses more; `ENOBUFS` when RAM is full. To be given back either way.
    fn take(&self, bytes: usize) -> Result<()> {
        let used = self.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if used <= self.held.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut hold = self.hold.lock();
        let missing = used.saturating_sub(self.held.load(Ordering::Relaxed));
        let mut pages = missing.div_ceil(PAGE).next_multiple_of(STEP);
        if hold.grow(pages as u32).is_err() {
            pages = missing.div_ceil(PAGE);
            hold.grow(pages as u32).map_err(|_| Errno::ENOBUFS)?;
        }
        self.held.fetch_add(pages * PAGE, Ordering::Relaxed);
        Ok(())
    }

    fn give(&self, bytes: usize) {
        let used = self.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        if used + 2 * STEP * PAGE > self.held.load(Ordering::Relaxed) {
            return;
        }
        let mut hold = self.hold.lock();
        let spare = self.held.load(Ordering::Relaxed).saturating_sub(used) / PAGE;
        let pages = spare.saturating_sub(STEP);
        hold.shrink(pages as u32);
        self.held.fetch_sub(pages * PAGE, Ordering::Relaxed);
    }
}

/// What a sender has in other sockets' queues.
pub(super) struct SendAccount {
    used: AtomicUsize,
    memory: Arc<Memory>,
    /// The limit, for the question whether it is worth waking anybody.
    limit: AtomicUsize,
    /// Woken when there is room again, and when the socket's state changes.
    pub(super) room: WaitQueue,
}

/// A message's cost; given back when the message goes away.
pub(super) struct Charge {
    account: Arc<SendAccount>,
    bytes: usize,
}

impl SendAccount {
    /// Nothing is in use.
    pub(super) fn new(memory: &Arc<Memory>) -> Arc<SendAccount> {
        Arc::new(SendAccount {
            used: AtomicUsize::new(0),
            memory: memory.clone(),
            limit: AtomicUsize::new(0),
            room: WaitQueue::new(),
        })
    }

    /// Charges for a message; `ENOBUFS` when RAM is full.
    pub(super) fn charge(self: &Arc<SendAccount>, bytes: usize, limit: usize) -> Result<Charge> {
        self.limit.store(limit, Ordering::Relaxed);
        self.used.fetch_add(bytes, Ordering::SeqCst);
        let charge = Charge { account: self.clone(), bytes };
        self.memory.take(bytes)?;
        Ok(charge)
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Whether poll calls it writable: three quarters are free.
    pub(super) fn writable(&self, limit: usize) -> bool {
        self.used().saturating_mul(4) <= limit
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.account.used.fetch_sub(self.bytes, Ordering::SeqCst);
        self.account.memory.give(self.bytes);
        let limit = self.account.limit.load(Ordering::Relaxed);
        if (before - self.bytes).saturating_mul(4) <= limit {
            self.account.room.wake_all_sync(PollEvents::WRITABLE);
        }
    }
}

/// Cost of a message with `head` bytes in its block and `pages` bytes in pages.
fn cost(head: usize, pages: usize) -> usize {
    DESCRIPTOR + (head + SHARED_INFO).next_power_of_two().max(512) + pages.next_multiple_of(PAGE)
}

/// Cost of `len` bytes of a stream.
pub(super) fn stream_cost(len: usize) -> usize {
    let pages = len.saturating_sub(STREAM_HEAD).next_multiple_of(PAGE).min(len);
    cost(len - pages, pages)
}

/// Cost of a packet.
pub(super) fn packet_cost(len: usize) -> usize {
    let pages = len.saturating_sub(PACKET_HEAD).next_multiple_of(PAGE).min(len);
    cost(len - pages, pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_linux() {
        for (len, bytes) in [(1, 768), (100, 768), (1000, 2304), (4096, 4864), (10000, 12544), (36544, 37120)]
        {
            assert_eq!(stream_cost(len), bytes, "stream {len}");
        }
        for (len, bytes) in [(1, 768), (1000, 2304), (4096, 8448), (10000, 16640), (100000, 102656)] {
            assert_eq!(packet_cost(len), bytes, "packet {len}");
        }
    }
}
