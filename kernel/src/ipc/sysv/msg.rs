//! Message queues (`msgsnd(2)`, `msgrcv(2)`).

use super::{GetFlags, Perm, now};
use crate::error::{Result, err};
use crate::sync::Mutex;
use crate::task::{Cap, Cx};
use crate::wait::{PollEvents, WaitQueue};
use abi::Errno;
use abi::ipc::{Msginfo, MsqidDs};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most queues, bytes in a message, bytes in a queue.
pub const MSGMNI: usize = 32000;
/// Most bytes in a message.
pub const MSGMAX: usize = 8192;
const MSGMNB: u64 = 16384;

const IPC_NOWAIT: u32 = 0o4000;
const MSG_NOERROR: u32 = 0o10000;
const MSG_EXCEPT: u32 = 0o20000;
const MSG_COPY: u32 = 0o40000;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type, positive.
    pub kind: i64,
    /// Its text.
    pub text: Vec<u8>,
}

struct State {
    perm: Perm,
    messages: VecDeque<Message>,
    bytes: u64,
    limit: u64,
    times: [i64; 3],
    last_pids: [i32; 2],
    removed: bool,
    /// In the order in which they came.
    receivers: Vec<Receiver>,
    last_ticket: u64,
}

/// A queue.
pub struct Queue {
    state: Mutex<State>,
    readable: WaitQueue,
    writable: WaitQueue,
}

/// Who waits for a message. A sender hands it over, so that it arrives even if the queue is removed before the receiver runs.
struct Receiver {
    ticket: u64,
    pid: i32,
    max: usize,
    kind: i64,
    flags: u32,
    result: Option<Result<Message, Errno>>,
}

/// `msgget(2)`.
pub fn get(cx: &Cx, key: i32, flags: GetFlags) -> Result<i32> {
    cx.kernel.sysv.msg.get(
        cx,
        key,
        flags,
        MSGMNI,
        |queue| queue.check(cx, flags.0 >> 6 | flags.0 >> 3 | flags.0),
        |perm| {
            let state = State {
                perm,
                messages: VecDeque::new(),
                bytes: 0,
                limit: MSGMNB,
                times: [0, 0, now(cx)],
                last_pids: [0; 2],
                removed: false,
                receivers: Vec::new(),
                last_ticket: 0,
            };
            let (readable, writable) = (WaitQueue::new(), WaitQueue::new());
            Ok(Arc::new(Queue { state: Mutex::new(state), readable, writable }))
        },
    )
}

/// `msgsnd(2)`.
pub fn send(cx: &Cx, id: i32, message: Message, flags: u32) -> Result<()> {
    if message.kind < 1 || message.text.len() > MSGMAX {
        return err(Errno::EINVAL);
    }
    let queue = cx.kernel.sysv.msg.find(id)?;
    let len = message.text.len() as u64;
    let mut message = Some(message);
    let look = || {
        let mut state = queue.state.lock();
        if state.removed {
            return Some(err(Errno::EIDRM));
        }
        if let Err(e) = state.perm.check(cx, 2) {
            return Some(Err(e));
        }
        let room = state.bytes + len <= state.limit && (state.messages.len() as u64) < state.limit;
        if !room {
            return (flags & IPC_NOWAIT != 0).then_some(err(Errno::EAGAIN));
        }
        if let Some(rest) = message.take().and_then(|message| state.hand_over(message, now(cx))) {
            state.messages.push_back(rest);
            state.bytes += len;
        }
        state.times[0] = now(cx);
        state.last_pids[0] = cx.process().pid;
        Some(Ok(()))
    };
    cx.wait(&queue.writable, look).map_err(crate::error::Error::no_restart)?;
    queue.readable.wake_all(PollEvents::READABLE);
    Ok(())
}

/// `msgrcv(2)`: the message, cut to `max` bytes where `MSG_NOERROR` allows it.
pub fn receive(cx: &Cx, id: i32, max: usize, kind: i64, flags: u32) -> Result<Message> {
    if flags & MSG_COPY != 0 && (flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0) {
        return err(Errno::EINVAL);
    }
    let queue = cx.kernel.sysv.msg.find(id)?;
    let ticket = {
        let mut state = queue.state.lock();
        if state.removed {
            return err(Errno::EIDRM);
        }
        state.perm.check(cx, 4)?;
        if let Some(mut message) = state.take(cx, max, kind, flags)? {
            drop(state);
            queue.writable.wake_all(PollEvents::WRITABLE);
            message.text.truncate(max);
            return Ok(message);
        }
        if flags & IPC_NOWAIT != 0 {
            return err(Errno::ENOMSG);
        }
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.receivers.push(Receiver { ticket, pid: cx.process().pid, max, kind, flags, result: None });
        ticket
    };
    let look = || queue.state.lock().take_receiver(ticket, false);
    let result = match cx.wait_deadline(&[&queue.readable], None, look) {
        Ok(result) => Some(result),
        // It may have come at the last moment.
        Err(_) => queue.state.lock().take_receiver(ticket, true),
    };
    match result {
        Some(result) => {
            let mut message = result?;
            message.text.truncate(max);
            Ok(message)
        }
        // Never restarted (`signal(7)`).
        None => err(Errno::EINTR),
    }
}

/// Whether a message is one that `msgtyp` means.
fn wanted(message: &Message, kind: i64, flags: u32) -> bool {
    match kind {
        0 => true,
        1.. if flags & MSG_EXCEPT != 0 => message.kind != kind,
        1.. => message.kind == kind,
        _ => message.kind <= kind.checked_neg().unwrap_or(i64::MAX),
    }
}

impl State {
    /// Takes out the message that `msgtyp` means, or copies it (`MSG_COPY`); `E2BIG`.
    fn take(&mut self, cx: &Cx, max: usize, kind: i64, flags: u32) -> Result<Option<Message>> {
        let Some(at) = choose(&self.messages, kind, flags) else { return Ok(None) };
        let too_long = self.messages.get(at).is_some_and(|m| m.text.len() > max);
        if too_long && flags & MSG_NOERROR == 0 {
            return err(Errno::E2BIG);
        }
        if flags & MSG_COPY != 0 {
            return Ok(self.messages.get(at).cloned());
        }
        let Some(message) = self.messages.remove(at) else { return Ok(None) };
        self.bytes -= message.text.len() as u64;
        self.times[1] = now(cx);
        self.last_pids[1] = cx.process().pid;
        Ok(Some(message))
    }

    /// Gives a message to the first who waits for it; back when nobody does.
    fn hand_over(&mut self, message: Message, now: i64) -> Option<Message> {
        for receiver in self.receivers.iter_mut().filter(|r| r.result.is_none()) {
            if !wanted(&message, receiver.kind, receiver.flags) {
                continue;
            }
            if message.text.len() > receiver.max && receiver.flags & MSG_NOERROR == 0 {
                receiver.result = Some(Err(Errno::E2BIG));
                continue;
            }
            self.times[1] = now;
            self.last_pids[1] = receiver.pid;
            receiver.result = Some(Ok(message));
            return None;
        }
        Some(message)
    }

    /// Takes out who waited, with the result; with `anyway` also one who has none.
    fn take_receiver(&mut self, ticket: u64, anyway: bool) -> Option<Result<Message, Errno>> {
        let at = self.receivers.iter().position(|r| r.ticket == ticket)?;
        if self.receivers.get(at)?.result.is_none() && !anyway {
            return None;
        }
        self.receivers.remove(at).result
    }
}

/// The message that `msgtyp` means: the first, the first of a type or not of it, or the first of the lowest type up to a bound.
fn choose(messages: &VecDeque<Message>, kind: i64, flags: u32) -> Option<usize> {
    if flags & MSG_COPY != 0 {
        return usize::try_from(kind).ok().filter(|&at| at < messages.len());
    }
    let mut fits = messages.iter().enumerate().filter(|(_, message)| wanted(message, kind, flags));
    // The first of several that are equal.
    if kind < 0 { fits.min_by_key(|(_, message)| message.kind) } else { fits.next() }.map(|(at, _)| at)
}

impl Queue {
    /// The status structure.
    pub fn status(&self, id: i32) -> MsqidDs {
        let state = self.state.lock();
        MsqidDs {
            perm: state.perm.to_raw(id),
            stime: state.times[0],
            rtime: state.times[1],
            ctime: state.times[2],
            cbytes: state.bytes,
            qnum: state.messages.len() as u64,
            qbytes: state.limit,
            lspid: state.last_pids[0],
            lrpid: state.last_pids[1],
            ..MsqidDs::default()
        }
    }

    pub(crate) fn check(&self, cx: &Cx, wanted: u32) -> Result<()> {
        self.state.lock().perm.check(cx, wanted)
    }
}

/// `IPC_RMID`: those who wait get `EIDRM`.
pub fn remove(cx: &Cx, id: i32) -> Result<()> {
    let queue = cx.kernel.sysv.msg.find(id)?;
    {
        let mut state = queue.state.lock();
        state.perm.check_owner(cx)?;
        state.removed = true;
        for receiver in state.receivers.iter_mut().filter(|r| r.result.is_none()) {
            receiver.result = Some(Err(Errno::EIDRM));
        }
    }
    cx.kernel.sysv.msg.remove(id);
    queue.readable.wake_all(PollEvents::empty());
    queue.writable.wake_all(PollEvents::empty());
    Ok(())
}

/// `IPC_SET`; raising the limit beyond the default needs `CAP_SYS_RESOURCE`.
pub fn set(cx: &Cx, id: i32, new: &MsqidDs) -> Result<()> {
    let queue = cx.kernel.sysv.msg.find(id)?;
    {
        let mut state = queue.state.lock();
        state.perm.check_owner(cx)?;
        if new.qbytes > MSGMNB && !cx.task.creds().has(Cap::SysResource) {
            return err(Errno::EPERM);
        }
        state.perm.set(&new.perm);
        state.limit = new.qbytes;
        state.times[2] = now(cx);
    }
    queue.writable.wake_all(PollEvents::empty());
    Ok(())
}

/// `IPC_INFO`, and `MSG_INFO` with what is in use.
pub fn info(cx: &Cx, in_use: bool) -> Msginfo {
    let (queues, messages, bytes) = if in_use {
        let all = cx.kernel.sysv.msg.list();
        all.iter().fold((0, 0, 0), |(q, m, b), (_, queue)| {
            let state = queue.state.lock();
            (q + 1, m + state.messages.len() as i32, b + state.bytes as i32)
        })
    } else {
        (512_000, 16_384, 512_000)
    };
    Msginfo {
        msgpool: queues,
        msgmap: messages,
        msgmax: MSGMAX as i32,
        msgmnb: MSGMNB as i32,
        msgmni: MSGMNI as i32,
        msgssz: 16,
        msgtql: bytes,
        msgseg: 0xffff,
        pad: 0,
    }
}
