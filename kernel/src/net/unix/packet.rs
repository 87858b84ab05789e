//! Datagrams and sequenced packets: messages that arrive whole or cut, never joined.

use super::UnixSocket;
use super::account::packet_cost;
use super::address::{self, Target};
use super::rights::Rights;
use super::socket::{Entry, Packet, Phase, RCV};
use super::stream::{UNKNOWN, take};
use crate::error::{Result, err};
use crate::net::{Blocking, MsgFlags, ReceiveRequest, Received, SendRequest, SocketType};
use crate::task::Cx;
use crate::wait::PollEvents;
use abi::Errno;
use alloc::sync::Arc;

/// What became of an attempt to deliver.
enum Delivery {
    Done,
    /// The receiver's queue is full; the message comes back.
    Full(Entry),
}

impl UnixSocket {
    pub(super) fn send_packet(&self, cx: &Cx, request: SendRequest<'_>) -> Result<usize> {
        let SendRequest { data, to, control, flags, nonblocking } = request;
        let sequenced = self.options.kind == SocketType::SeqPacket;
        if sequenced {
            if let Some(error) = self.options.take_error() {
                return Err(error);
            }
            if self.state.lock().phase != Phase::Established {
                return err(Errno::ENOTCONN);
            }
        }
        if flags.contains(MsgFlags::OOB) {
            return err(Errno::EOPNOTSUPP);
        }
        let other = match to.filter(|_| !sequenced) {
            Some(bytes) => {
                let target = address::parse(bytes)?;
                if target == Target::Unnamed {
                    return err(Errno::EINVAL);
                }
                self.autobind_if_passcred(cx)?;
                self.find(cx, target)?
            }
            None => {
                self.autobind_if_passcred(cx)?;
                let peer = self.state.lock().peer.clone();
                peer.ok_or(Errno::ENOTCONN)?
            }
        };
        let len = data.left();
        if len > self.sndbuf().saturating_sub(32) {
            return err(Errno::EMSGSIZE);
        }
        let blocking = self.options.send_blocking(cx, nonblocking || flags.contains(MsgFlags::DONTWAIT));
        let rights = Rights::new(cx, &self.family, control.files)?;
        self.wait_for_room(cx, blocking)?;
        let bytes = take(data, len)?;
        if bytes.len() < len {
            return err(Errno::EFAULT);
        }
        let charge = self.account.charge(packet_cost(len), self.sndbuf())?;
        let creds = self.message_creds(cx, control.creds, &other);
        let from = self.state.lock().address.clone();
        let packet = Arc::new(Packet { data: bytes, from, creds, _charge: charge });
        let mut entry = Entry { packet, offset: 0, rights };
        loop {
            match self.deliver(&other, entry)? {
                Delivery::Done => return Ok(len),
                Delivery::Full(back) => entry = back,
            }
            if blocking == Blocking::No {
                return err(Errno::EAGAIN);
            }
            blocking.wait(cx, &[&other.space], || {
                let state = other.state.lock();
                let changed = state.dead || state.shutdown & RCV != 0 || state.queue.len() <= state.backlog;
                changed.then_some(Ok(()))
            })?;
        }
    }

    /// Puts a message into `other`'s queue.
    fn deliver(&self, other: &Arc<UnixSocket>, entry: Entry) -> Result<Delivery> {
        if !other.hears(self) {
            return err(Errno::EPERM);
        }
        let full = self.queue_is_full(other);
        if !full {
            match other.push(entry) {
                Ok(()) => return Ok(Delivery::Done),
                // The entry goes away outside of the lock.
                Err(_entry) if !other.state.lock().dead => return err(Errno::EPIPE),
                Err(_entry) => {}
            }
        } else {
            let state = other.state.lock();
            if !state.dead {
                let shut = state.shutdown & RCV != 0;
                drop(state);
                return if shut { err(Errno::EPIPE) } else { Ok(Delivery::Full(entry)) };
            }
        }
        if self.options.kind == SocketType::SeqPacket {
            return err(Errno::EPIPE);
        }
        // The receiver is gone for good: a connected datagram socket is unconnected by that.
        let gone = {
            let mut state = self.state.lock();
            match &state.peer {
                Some(peer) if Arc::ptr_eq(peer, other) => {
                    state.phase = Phase::Idle;
                    state.peer.take()
                }
                _ => None,
            }
        };
        drop(gone);
        err(Errno::ECONNREFUSED)
    }

    /// Whether `other` has as many messages as it may. Two sockets that are each other's peers have no such limit.
    pub(super) fn queue_is_full(&self, other: &UnixSocket) -> bool {
        if core::ptr::eq(self, other) {
            return false;
        }
        let state = other.state.lock();
        let mutual = state.peer.as_ref().is_some_and(|p| core::ptr::eq(&**p, self));
        !mutual && state.queue.len() > state.backlog
    }

    pub(super) fn receive_packet(&self, cx: &Cx, request: ReceiveRequest<'_>) -> Result<Received> {
        let ReceiveRequest { data: sink, flags, nonblocking } = request;
        let sequenced = self.options.kind == SocketType::SeqPacket;
        if sequenced && self.state.lock().phase != Phase::Established {
            return err(Errno::ENOTCONN);
        }
        if flags.contains(MsgFlags::OOB) {
            return err(Errno::EOPNOTSUPP);
        }
        let peek = flags.contains(MsgFlags::PEEK);
        let blocking = self.options.receive_blocking(cx, nonblocking || flags.contains(MsgFlags::DONTWAIT));
        let mut got = Received::default();
        let packet = blocking.wait(cx, &[&self.readable], || {
            if let Some(error) = self.options.take_error() {
                return Some(Err(error));
            }
            let mut state = self.state.lock();
            let entry = if peek {
                let front = state.queue.front();
                front.map(|e| {
                    got.files = e.rights.as_ref().map_or_else(Default::default, |r| r.files().to_vec());
                    (e.packet.clone(), None)
                })
            } else {
                state.queue.pop_front().map(|e| (e.packet, e.rights))
            };
            if entry.is_some() {
                return entry.map(|e| Ok(Some(e)));
            }
            // The end: said at once by sequenced packets, and by datagrams to those who would wait.
            let ended = state.shutdown & RCV != 0 && (sequenced || blocking != Blocking::No);
            ended.then_some(Ok(None))
        })?;
        let Some((packet, rights)) = packet else { return Ok(got) };
        if !peek {
            self.space.wake_all_sync(PollEvents::WRITABLE);
        }
        if let Some(rights) = rights {
            got.files = rights.take();
        }
        let full = packet.data.len();
        let fits = full.min(sink.room());
        sink.put(packet.data.get(..fits).unwrap_or_default())?;
        if fits < full {
            got.flags |= MsgFlags::TRUNC;
        }
        got.len = if flags.contains(MsgFlags::TRUNC) { full } else { fits };
        got.from = address::to_sender(packet.from.as_deref());
        if self.options.passcred() {
            got.creds = Some(packet.creds.unwrap_or(UNKNOWN));
        }
        Ok(got)
    }
}
