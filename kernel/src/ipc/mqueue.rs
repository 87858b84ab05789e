//! POSIX message queues (`mq_overview(7)`).
//!
//! Differs from Linux: there is no mqueue file system; notification by thread (`SIGEV_THREAD`) needs netlink sockets and is refused.

use super::anon::anon_attr;
use crate::error::{Result, err};
use crate::fs::perm::{self, Access};
use crate::fs::{File, OpenFile, OpenFlags};
use crate::signal::{SigInfo, SigSource};
use crate::sync::Mutex;
use crate::task::{Cap, Cx, Process, WaitEnd};
use crate::user::Sink;
use crate::wait::{PollEvents, PollTable, WaitQueue};
use abi::Errno;
use abi::fs::{Attr, FileType};
use abi::ipc::MqAttr;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;

/// Limits for those without `CAP_SYS_RESOURCE` and for everybody (`/proc/sys/fs/mqueue`).
/// What a queue has whose maker does not say (`fs.mqueue.msg_default`, `msgsize_default`).
const MSG_DEFAULT: i64 = 10;
const MSGSIZE_DEFAULT: i64 = 8192;
const HARD_MSG_MAX: i64 = 65_536;
const HARD_MSGSIZE_MAX: i64 = 16 << 20;
/// One more than the highest priority (`MQ_PRIO_MAX`).
pub const PRIO_MAX: u32 = 32768;
/// `si_code` of a notification.
const SI_MESGQ: i32 = -3;

/// Queues by name.
#[derive(Default)]
pub struct MessageQueues(Mutex<BTreeMap<Vec<u8>, Arc<MessageQueue>>>);

/// Who hears of a message that comes into an empty queue.
struct Notify {
    process: Weak<Process>,
    owner: i32,
    /// `None`: registered, but wants no signal.
    signal: Option<(i32, u64)>,
}

#[derive(Default)]
struct State {
    /// Highest priority first, and in order of arrival.
    messages: VecDeque<(u32, Vec<u8>)>,
    receivers: usize,
    notify: Option<Notify>,
}

/// A queue.
pub struct MessageQueue {
    max_messages: usize,
    max_size: usize,
    attr: Attr,
    state: Mutex<State>,
    readable: WaitQueue,
    writable: WaitQueue,
}

/// An open queue.
pub(crate) struct MqFile(Arc<MessageQueue>);

/// `mq_open(2)`: the name has no leading slash here.
pub(crate) fn open(
    cx: &Cx,
    name: &[u8],
    flags: OpenFlags,
    mode: u32,
    attr: Option<MqAttr>,
) -> Result<Arc<OpenFile>> {
    check_name(name)?;
    let creds = cx.task.creds();
    let made = if flags.contains(OpenFlags::CREAT) { Some(make(cx, mode, attr)?) } else { None };
    let queue = {
        let mut table = cx.kernel.mqueues.0.lock();
        match (table.get(name), made) {
            (Some(_), Some(_)) if flags.contains(OpenFlags::EXCL) => return err(Errno::EEXIST),
            (Some(queue), _) => {
                let mut access = Access::empty();
                access.set(Access::READ, flags.readable());
                access.set(Access::WRITE, flags.writable());
                perm::check(&creds, &queue.attr, access)?;
                queue.clone()
            }
            (None, None) => return err(Errno::ENOENT),
            (None, Some(_))
                if table.len() >= cx.kernel.settings.mqueue_queues_max.size()
                    && !creds.has(Cap::SysResource) =>
            {
                return err(Errno::ENOSPC);
            }
            (None, Some(queue)) => {
                table.insert(name.to_vec(), queue.clone());
                queue
            }
        }
    };
    Ok(OpenFile::new(cx.kernel, Arc::new(MqFile(queue)), None, None, flags))
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > 255 {
        return err(Errno::ENAMETOOLONG);
    }
    match name {
        b"" => err(Errno::ENOENT),
        b"." | b".." => err(Errno::EACCES),
        name if name.contains(&b'/') => err(Errno::EACCES),
        _ => Ok(()),
    }
}

fn make(cx: &Cx, mode: u32, attr: Option<MqAttr>) -> Result<Arc<MessageQueue>> {
    let creds = cx.task.creds();
    let (messages, size) = attr.map_or((MSG_DEFAULT, MSGSIZE_DEFAULT), |a| (a.maxmsg, a.msgsize));
    let settings = &cx.kernel.settings;
    let usual = (settings.mqueue_msg_max.get(), settings.mqueue_msgsize_max.get());
    let (most, largest) = if creds.has(Cap::SysResource) { (HARD_MSG_MAX, HARD_MSGSIZE_MAX) } else { usual };
    if !(1..=most).contains(&messages) || !(1..=largest).contains(&size) {
        return err(Errno::EINVAL);
    }
    let umask = cx.fs().umask.load(core::sync::atomic::Ordering::Relaxed);
    let mode = FileType::Regular.mode_bits() | mode & 0o777 & !umask;
    let (uid, gid) = (creds.fsuid, creds.fsgid);
    let attr = Attr { ino: cx.kernel.next_id(), mode, uid, gid, size: 80, ..anon_attr() };
    Ok(Arc::new(MessageQueue {
        max_messages: messages as usize,
        max_size: size as usize,
        attr,
        state: Mutex::default(),
        readable: WaitQueue::new(),
        writable: WaitQueue::new(),
    }))
}

/// `mq_unlink(2)`.
pub(crate) fn unlink(cx: &Cx, name: &[u8]) -> Result<()> {
    check_name(name)?;
    let creds = cx.task.creds();
    let gone = {
        let mut table = cx.kernel.mqueues.0.lock();
        let queue = table.get(name).ok_or(Errno::ENOENT)?;
        // The directory that queues are in is sticky.
        if creds.fsuid != queue.attr.uid && !creds.has(Cap::Fowner) {
            return err(Errno::EACCES);
        }
        table.remove(name)
    };
    drop(gone);
    Ok(())
}

/// The queue of a descriptor; `EBADF`.
pub(crate) fn of(file: &OpenFile) -> Result<&Arc<MessageQueue>> {
    file.downcast::<MqFile>().map(|f| &f.0).ok_or(Errno::EBADF.into())
}

impl MessageQueue {
    /// `mq_getattr(3)`.
    pub(crate) fn status(&self, of: &OpenFile) -> MqAttr {
        MqAttr {
            flags: i64::from((of.flags() & OpenFlags::NONBLOCK).bits()),
            maxmsg: self.max_messages as i64,
            msgsize: self.max_size as i64,
            curmsgs: self.state.lock().messages.len() as i64,
            reserved: [0; 4],
        }
    }

    /// Sizes of messages: the largest that may be sent, and the room that a receiver must have.
    pub(crate) fn max_size(&self) -> usize {
        self.max_size
    }

    /// Sends; the deadline is monotonic.
    pub(crate) fn send(
        &self,
        cx: &Cx,
        nonblocking: bool,
        priority: u32,
        text: Vec<u8>,
        deadline: Option<u64>,
    ) -> Result<()> {
        if text.len() > self.max_size {
            return err(Errno::EMSGSIZE);
        }
        let mut message = Some((priority, text));
        let mut told = None;
        let look = || {
            let mut state = self.state.lock();
            if state.messages.len() >= self.max_messages {
                return nonblocking.then_some(err(Errno::EAGAIN));
            }
            let at = state.messages.partition_point(|(other, _)| *other >= priority);
            let was_empty = state.messages.is_empty();
            if let Some(message) = message.take() {
                state.messages.insert(at, message);
            }
            if was_empty && state.receivers == 0 {
                told = state.notify.take();
            }
            Some(Ok(()))
        };
        wait(cx, &self.writable, deadline, look)?;
        if let Some((process, (signo, value))) = told.and_then(|n| Some((n.process.upgrade()?, n.signal?))) {
            let (pid, uid) = (cx.process().pid, cx.task.creds().uid);
            let source = SigSource::Queued { pid, uid, value };
            process.send_signal(SigInfo { signo, code: SI_MESGQ, errno: 0, source });
        }
        self.readable.wake_all(PollEvents::READABLE);
        Ok(())
    }

    /// Receives the oldest message of the highest priority.
    pub(crate) fn receive(
        &self,
        cx: &Cx,
        nonblocking: bool,
        deadline: Option<u64>,
    ) -> Result<(u32, Vec<u8>)> {
        let mut counted = false;
        let look = || {
            let mut state = self.state.lock();
            if let Some(message) = state.messages.pop_front() {
                return Some(Ok(message));
            }
            if nonblocking {
                return Some(err(Errno::EAGAIN));
            }
            if !counted {
                state.receivers += 1;
                counted = true;
            }
            None
        };
        let result = wait(cx, &self.readable, deadline, look);
        if counted {
            let mut state = self.state.lock();
            state.receivers = state.receivers.saturating_sub(1);
        }
        let message = result?;
        self.writable.wake_all(PollEvents::WRITABLE);
        Ok(message)
    }

    /// `mq_notify(3)`: registers the process or, with `None`, takes its registration back. `EBUSY` when another one is registered.
    pub(crate) fn notify(&self, cx: &Cx, signal: Option<Option<(i32, u64)>>) -> Result<()> {
        let me = cx.process();
        let mut state = self.state.lock();
        let held = state.notify.as_ref().filter(|n| n.process.strong_count() > 0).map(|n| n.owner);
        match signal {
            None if held == Some(me.pid) => state.notify = None,
            None => {}
            Some(_) if held.is_some() => return err(Errno::EBUSY),
            Some(signal) => {
                state.notify = Some(Notify { process: Arc::downgrade(me), owner: me.pid, signal });
            }
        }
        Ok(())
    }
}

fn wait<T>(
    cx: &Cx,
    queue: &WaitQueue,
    deadline: Option<u64>,
    look: impl FnMut() -> Option<Result<T>>,
) -> Result<T> {
    match cx.wait_deadline(&[queue], deadline, look) {
        Ok(result) => result,
        Err(WaitEnd::TimedOut) => err(Errno::ETIMEDOUT),
        Err(end) => Err(end.into()),
    }
}

impl Drop for MqFile {
    fn drop(&mut self) {
        // A registration ends with the last description; Linux ends it with the process's first close.
        if Arc::strong_count(&self.0) <= 2 {
            self.0.state.lock().notify = None;
        }
    }
}

impl File for MqFile {
    fn read(&self, _cx: &Cx, _of: &OpenFile, pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let text = {
            let state = self.0.state.lock();
            let bytes: usize = state.messages.iter().map(|(_, text)| text.len()).sum();
            let owner = state.notify.as_ref().map_or(0, |n| n.owner);
            let signo = state.notify.as_ref().and_then(|n| n.signal).map_or(0, |s| s.0);
            format!("QSIZE:{bytes:<10} NOTIFY:0     SIGNO:{signo:<5} NOTIFY_PID:{owner:<6}\n")
        };
        let rest = usize::try_from(*pos).ok().and_then(|at| text.as_bytes().get(at..)).unwrap_or_default();
        let part = rest.get(..rest.len().min(sink.room())).unwrap_or_default();
        sink.put(part)?;
        *pos += part.len() as u64;
        Ok(part.len())
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.0.readable);
            table.add(&self.0.writable);
        }
        let count = self.0.state.lock().messages.len();
        let mut events = PollEvents::empty();
        events.set(PollEvents::READABLE, count > 0);
        events.set(PollEvents::WRITABLE, count < self.0.max_messages);
        events
    }

    fn attr(&self) -> Result<Attr> {
        Ok(self.0.attr)
    }

    fn describe(&self) -> String {
        String::from("/mqueue")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{run, thread};

    fn queue(cx: &Cx, messages: i64) -> Arc<OpenFile> {
        let attr = MqAttr { maxmsg: messages, msgsize: 8, ..MqAttr::default() };
        open(cx, b"q", OpenFlags::CREAT | OpenFlags::RDWR, 0o600, Some(attr)).unwrap()
    }

    #[test]
    fn the_highest_priority_comes_first_and_equal_ones_in_order() {
        run(|cx| {
            let file = queue(cx, 4);
            let q = of(&file).unwrap();
            for (priority, text) in [(1, "a"), (5, "b"), (1, "c"), (5, "d")] {
                q.send(cx, true, priority, text.into(), None).unwrap();
            }
            let full = q.send(cx, true, 9, Vec::new(), None).unwrap_err();
            assert_eq!(full.errno(), Errno::EAGAIN);
            let late = q.send(cx, false, 9, Vec::new(), Some(cx.now_ns() + 1000)).unwrap_err();
            assert_eq!(late.errno(), Errno::ETIMEDOUT);
            let all: Vec<_> = (0..4).map(|_| q.receive(cx, true, None).unwrap().1).collect();
            assert_eq!(all, [b"b", b"d", b"a", b"c"]);
            unlink(cx, b"q").unwrap();
            assert_eq!(unlink(cx, b"q").unwrap_err().errno(), Errno::ENOENT);
        });
    }

    #[test]
    fn a_receiver_waits_for_a_message() {
        run(|cx| {
            let file = queue(cx, 1);
            let other = file.clone();
            thread(cx, move |cx| of(&other).unwrap().send(cx, false, 0, b"x".to_vec(), None).unwrap());
            assert_eq!(of(&file).unwrap().receive(cx, false, None).unwrap(), (0, b"x".to_vec()));
        });
    }
}
