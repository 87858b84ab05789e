//! Streams: bytes in order. Messages keep their bounds only where descriptors or credentials go with them.

use super::UnixSocket;
use super::account::{STREAM_CHUNK, stream_cost};
use super::rights::Rights;
use super::socket::{Entry, Packet, Phase, RCV, SEND};
use crate::error::{Error, Result, err};
use crate::net::{Blocking, MsgFlags, ReceiveRequest, Received, SendRequest};
use crate::task::Cx;
use crate::user::Source;
use crate::wait::PollEvents;
use abi::Errno;
use abi::net::Ucred;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// Who sent a message that carries no credentials: the overflow ids, as Linux shows them.
pub(super) const UNKNOWN: Ucred = Ucred { pid: 0, uid: 65534, gid: 65534 };

impl UnixSocket {
    pub(super) fn send_stream(&self, cx: &Cx, request: SendRequest<'_>) -> Result<usize> {
        let SendRequest { data, to, control, flags, nonblocking } = request;
        if flags.contains(MsgFlags::OOB) {
            return err(Errno::EOPNOTSUPP);
        }
        let (peer, phase, shutdown) = {
            let state = self.state.lock();
            (state.peer.clone(), state.phase, state.shutdown)
        };
        if to.is_some() {
            return err(if phase == Phase::Established { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let Some(peer) = peer else { return err(Errno::ENOTCONN) };
        let broken = || {
            if !flags.contains(MsgFlags::NOSIGNAL) {
                crate::ipc::raise_sigpipe(cx);
            }
            err(Errno::EPIPE)
        };
        if shutdown & SEND != 0 {
            return broken();
        }
        let blocking = self.options.send_blocking(cx, nonblocking || flags.contains(MsgFlags::DONTWAIT));
        let mut rights = Rights::new(cx, &self.family, control.files)?;
        let creds = self.message_creds(cx, control.creds, &peer);
        let mut sent = 0;
        while data.left() > 0 {
            let most = (self.sndbuf() / 2).saturating_sub(64).clamp(1, STREAM_CHUNK);
            let bytes = self.wait_for_room(cx, blocking).and_then(|()| take(data, most));
            let bytes = match bytes {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => bytes,
                Err(_) if sent > 0 => break,
                Err(e) => return Err(e),
            };
            let len = bytes.len();
            let charge = match self.account.charge(stream_cost(len), self.sndbuf()) {
                Ok(charge) => charge,
                Err(_) if sent > 0 => break,
                Err(e) => return Err(e),
            };
            let from = self.state.lock().address.clone();
            let packet = Arc::new(Packet { data: bytes, from, creds, _charge: charge });
            let entry = Entry { packet, offset: 0, rights: rights.take() };
            if peer.push(entry).is_err() {
                return if sent > 0 { Ok(sent) } else { broken() };
            }
            sent += len;
        }
        Ok(sent)
    }

    /// Credentials that go with a message: those that the sender names, or its own if one of the two wants them.
    pub(super) fn message_creds(&self, cx: &Cx, named: Option<Ucred>, peer: &UnixSocket) -> Option<Ucred> {
        if named.is_some() || !(self.options.passcred() || peer.options.passcred()) {
            return named;
        }
        let creds = cx.task.creds();
        Some(Ucred { pid: cx.process().pid, uid: creds.uid, gid: creds.gid })
    }

    /// Waits until the send buffer has room; a pending error and `EPIPE` come first.
    pub(super) fn wait_for_room(&self, cx: &Cx, blocking: Blocking) -> Result<()> {
        blocking.wait(cx, &[&self.account.room], || {
            if let Some(error) = self.options.take_error() {
                return Some(Err(error));
            }
            if self.state.lock().shutdown & SEND != 0 {
                return Some(err(Errno::EPIPE));
            }
            (self.account.used() < self.sndbuf()).then_some(Ok(()))
        })
    }

    /// Puts a message into the queue and wakes readers; gives it back when nobody will read it.
    pub(super) fn push(&self, entry: Entry) -> Result<(), Entry> {
        {
            let mut state = self.state.lock();
            if state.dead || state.shutdown & RCV != 0 {
                return Err(entry);
            }
            state.queue.push_back(entry);
        }
        self.readable.wake_all_sync(PollEvents::READABLE);
        Ok(())
    }

    pub(super) fn receive_stream(&self, cx: &Cx, request: ReceiveRequest<'_>) -> Result<Received> {
        let ReceiveRequest { data: sink, flags, nonblocking } = request;
        if self.state.lock().phase != Phase::Established {
            return err(Errno::EINVAL);
        }
        if flags.contains(MsgFlags::OOB) {
            return err(Errno::EINVAL);
        }
        let peek = flags.contains(MsgFlags::PEEK);
        let low = usize::try_from(self.options.rcvlowat.load(Ordering::Relaxed)).unwrap_or(1);
        let whole = flags.contains(MsgFlags::WAITALL);
        let target = if whole { sink.room() } else { low.min(sink.room()) }.max(1);
        let blocking = self.options.receive_blocking(cx, nonblocking || flags.contains(MsgFlags::DONTWAIT));
        let passcred = self.options.passcred();

        let mut got = Received::default();
        let mut first: Option<Arc<Packet>> = None;
        // While peeking: how many messages have been looked at.
        let mut index = 0;
        let mut turn = self.reading.lock(cx);
        loop {
            let next = {
                let state = self.state.lock();
                state.queue.get(index).map(|e| (e.packet.clone(), e.offset))
            };
            let Some((packet, offset)) = next else {
                if got.len >= target || index > 0 {
                    break;
                }
                match self.at_end(blocking, got.len) {
                    Some(Ok(())) => break,
                    Some(Err(e)) => return if got.len > 0 { Ok(got) } else { Err(e) },
                    None => {}
                }
                drop(turn);
                let waited = self.wait_for_data(cx, blocking);
                turn = self.reading.lock(cx);
                match waited {
                    Ok(()) => continue,
                    Err(_) if got.len > 0 => break,
                    Err(e) => return Err(e),
                }
            };
            match &first {
                // Bytes of different senders are not put together when the reader wants to know who they are.
                Some(first) if passcred && first.creds != packet.creds => break,
                Some(_) => {}
                None => {
                    got.from = super::address::to_sender(packet.from.as_deref());
                    first = Some(packet.clone());
                }
            }
            let left = packet.data.len() - offset;
            let chunk = left.min(sink.room());
            let bytes = packet.data.get(offset..offset + chunk).unwrap_or_default();
            if let Err(e) = sink.put(bytes) {
                if got.len > 0 {
                    break;
                }
                return Err(e);
            }
            got.len += chunk;
            let had_files =
                if peek { self.peek_files(index, &mut got) } else { self.consume(chunk, &mut got) };
            if chunk < left || had_files || sink.room() == 0 {
                break;
            }
            index += usize::from(peek);
        }
        drop(turn);
        got.creds = first.filter(|_| passcred).map(|packet| packet.creds.unwrap_or(UNKNOWN));
        Ok(got)
    }

    /// What an empty queue means: `Ok` for the end, an error, or `None` for "wait".
    fn at_end(&self, blocking: Blocking, copied: usize) -> Option<Result<()>> {
        if let Some(error) = self.options.take_error() {
            return Some(Err(error));
        }
        if self.state.lock().shutdown & RCV != 0 {
            return Some(Ok(()));
        }
        match blocking {
            Blocking::No if copied > 0 => Some(Ok(())),
            Blocking::No => Some(Err(Errno::EAGAIN.into())),
            _ => None,
        }
    }

    fn wait_for_data(&self, cx: &Cx, blocking: Blocking) -> Result<()> {
        blocking.wait(cx, &[&self.readable], || {
            let state = self.state.lock();
            let something = !state.queue.is_empty() || state.shutdown & RCV != 0 || self.options.has_error();
            something.then_some(Ok(()))
        })
    }

    /// Copies the references of a message's files; whether it has any.
    fn peek_files(&self, index: usize, got: &mut Received) -> bool {
        let state = self.state.lock();
        match state.queue.get(index).and_then(|e| e.rights.as_ref()) {
            Some(rights) => {
                got.files = rights.files().to_vec();
                true
            }
            None => false,
        }
    }

    /// Takes bytes off the first message, and its files; whether it had any.
    fn consume(&self, len: usize, got: &mut Received) -> bool {
        let (rights, finished) = {
            let mut state = self.state.lock();
            let Some(entry) = state.queue.front_mut() else { return false };
            entry.offset += len;
            let rights = entry.rights.take();
            let finished = if entry.left() == 0 { state.queue.pop_front() } else { None };
            (rights, finished)
        };
        drop(finished);
        match rights {
            Some(rights) => {
                got.files = rights.take();
                true
            }
            None => false,
        }
    }
}

/// Takes up to `most` bytes.
pub(super) fn take(data: &mut dyn Source, most: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; data.left().min(most)];
    let n = data.take(&mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}
