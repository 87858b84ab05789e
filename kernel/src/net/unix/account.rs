//! Send-buffer accounting: what a message costs its sender until it is read.
//!
//! The costs are those of Linux's socket buffers, because programs see them: `SO_SNDBUF`, `SIOCOUTQ`, and how much fits before a
//! writer blocks.

use crate::wait::{PollEvents, WaitQueue};
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

/// What a sender has in other sockets' queues.
#[derive(Default)]
pub(super) struct SendAccount {
    used: AtomicUsize,
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
    /// Charges for a message.
    pub(super) fn charge(self: &Arc<SendAccount>, bytes: usize, limit: usize) -> Charge {
        self.limit.store(limit, Ordering::Relaxed);
        self.used.fetch_add(bytes, Ordering::SeqCst);
        Charge { account: self.clone(), bytes }
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
