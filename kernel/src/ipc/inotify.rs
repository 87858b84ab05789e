//! inotify (`inotify(7)`): watches on inodes, and the queue of events of each instance.
//!
//! The VFS calls [`crate::fs::notify`], which comes here. A watch holds its inode, so an inode's address names it for as long as it is watched.
//!
//! Lock order: the table of watches, then an instance's queue. Differs from Linux: `IN_DELETE_SELF` comes when the last name goes,
//! not when the last descriptor is closed; changes that the host makes below a directory are not seen.

use super::anon::anon_attr;
use crate::error::{Result, err};
use crate::fs::{File, Inode, OpenFile, notify};
use crate::sync::Mutex;
use crate::task::Cx;
use crate::user::{Sink, UserPtr};
use crate::wait::{PollEvents, PollTable, WaitQueue};
use abi::Errno;
use abi::fs::Attr;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicUsize, Ordering};

/// `IN_*` that say how to watch, and those that only the kernel sends.
#[allow(missing_docs)]
pub mod flag {
    pub const ALL_EVENTS: u32 = 0xfff;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const IGNORED: u32 = 0x8000;
    pub const ONLYDIR: u32 = 0x0100_0000;
    pub const DONT_FOLLOW: u32 = 0x0200_0000;
    pub const EXCL_UNLINK: u32 = 0x0400_0000;
    pub const MASK_CREATE: u32 = 0x1000_0000;
    pub const MASK_ADD: u32 = 0x2000_0000;
    pub const ONESHOT: u32 = 0x8000_0000;
    /// Every bit that `inotify_add_watch(2)` knows.
    pub const KNOWN: u32 = 0xf700_efff;
}

/// Most events in a queue (`/proc/sys/fs/inotify/max_queued_events`).
pub const MAX_QUEUED_EVENTS: usize = 16384;

struct Watch {
    instance: Weak<Inotify>,
    id: u64,
    wd: i32,
    mask: u32,
}

#[derive(Default)]
struct Inner {
    /// By the address of the inode.
    watches: BTreeMap<usize, Vec<Watch>>,
    /// Instances by user.
    instances: BTreeMap<u32, usize>,
}

/// All watches of a kernel.
#[derive(Default)]
pub struct Watches {
    inner: Mutex<Inner>,
    /// Number of watches, so that nothing is looked up while there are none.
    count: AtomicUsize,
}

#[derive(Clone, PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Event {
    /// Bytes of the name with its padding: none, or with at least one zero byte to a multiple of the header's size.
    fn name_room(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(16) }
    }

    fn size(&self) -> usize {
        16 + self.name_room()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        for word in [self.wd as u32, self.mask, self.cookie, self.name_room() as u32] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.extend_from_slice(&self.name);
        out.resize(self.size(), 0);
        out
    }
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    last_wd: i32,
    /// The watched inodes by watch descriptor.
    watched: BTreeMap<i32, Arc<dyn Inode>>,
}

/// An inotify instance.
pub struct Inotify {
    id: u64,
    uid: u32,
    table: Arc<Watches>,
    state: Mutex<State>,
    readable: WaitQueue,
}

fn address(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>() as usize
}

impl Watches {
    /// Whether nobody watches anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Tells every watch of the inode that asked for it.
    pub(crate) fn event(&self, inode: &Arc<dyn Inode>, mask: u32, name: &[u8], cookie: u32) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let key = address(inode);
        let mut heard = Vec::new();
        {
            let mut inner = self.inner.lock();
            let Some(watches) = inner.watches.get_mut(&key) else { return };
            let ends = mask & notify::DELETE_SELF != 0;
            watches.retain(|watch| {
                let wanted = mask & watch.mask & flag::ALL_EVENTS != 0;
                let over = ends || (wanted && watch.mask & flag::ONESHOT != 0);
                if wanted || over {
                    heard.extend(watch.instance.upgrade().map(|i| (i, watch.wd, wanted, over)));
                }
                !over
            });
            if watches.is_empty() {
                inner.watches.remove(&key);
            }
        }
        for (instance, wd, wanted, over) in heard {
            if wanted {
                instance.push(Event { wd, mask, cookie, name: name.to_vec() });
            }
            if over {
                self.count.fetch_sub(1, Ordering::Relaxed);
                instance.ended(wd);
            }
        }
    }
}

impl Inotify {
    /// A new instance for the current user; `EMFILE` beyond `fs.inotify.max_user_instances`.
    pub(crate) fn new(cx: &Cx) -> Result<Arc<Inotify>> {
        let uid = cx.task.creds().uid;
        let table = cx.kernel.watches.clone();
        {
            let mut inner = table.inner.lock();
            let count = inner.instances.entry(uid).or_default();
            if *count >= cx.kernel.settings.inotify_instances.size() {
                return err(Errno::EMFILE);
            }
            *count += 1;
        }
        let id = cx.kernel.next_id();
        Ok(Arc::new(Inotify { id, uid, table, state: Mutex::default(), readable: WaitQueue::new() }))
    }

    /// Watches an inode, or changes the watch on it: `EEXIST` with `IN_MASK_CREATE`, `ENOSPC` for too many.
    pub(crate) fn add(self: &Arc<Inotify>, cx: &Cx, inode: Arc<dyn Inode>, mask: u32) -> Result<i32> {
        let kept = mask & (flag::ALL_EVENTS | flag::ONESHOT | flag::EXCL_UNLINK);
        let mut inner = self.table.inner.lock();
        let watches = inner.watches.entry(address(&inode)).or_default();
        if let Some(watch) = watches.iter_mut().find(|w| w.id == self.id) {
            if mask & flag::MASK_CREATE != 0 {
                return err(Errno::EEXIST);
            }
            watch.mask = if mask & flag::MASK_ADD != 0 { watch.mask | kept } else { kept };
            return Ok(watch.wd);
        }
        let mut state = self.state.lock();
        if state.watched.len() >= cx.kernel.settings.inotify_watches.size() {
            return err(Errno::ENOSPC);
        }
        state.last_wd = state.last_wd.checked_add(1).ok_or(Errno::ENOSPC)?;
        let wd = state.last_wd;
        state.watched.insert(wd, inode);
        watches.push(Watch { instance: Arc::downgrade(self), id: self.id, wd, mask: kept });
        self.table.count.fetch_add(1, Ordering::Relaxed);
        // Guest code may read and write without the kernel while nobody watches.
        cx.kernel.machine.recall_offers();
        Ok(wd)
    }

    /// Ends a watch: `EINVAL` when there is none.
    pub(crate) fn remove(&self, wd: i32) -> Result<()> {
        let inode = self.state.lock().watched.get(&wd).cloned().ok_or(Errno::EINVAL)?;
        self.forget(&inode);
        self.ended(wd);
        Ok(())
    }

    /// Takes the watch on an inode out of the table.
    fn forget(&self, inode: &Arc<dyn Inode>) {
        let key = address(inode);
        let mut inner = self.table.inner.lock();
        let Some(watches) = inner.watches.get_mut(&key) else { return };
        let before = watches.len();
        watches.retain(|w| w.id != self.id);
        self.table.count.fetch_sub(before - watches.len(), Ordering::Relaxed);
        if watches.is_empty() {
            inner.watches.remove(&key);
        }
    }

    /// A watch is over: the last thing that is heard of it.
    fn ended(&self, wd: i32) {
        let inode = self.state.lock().watched.remove(&wd);
        if inode.is_some() {
            self.push(Event { wd, mask: flag::IGNORED, cookie: 0, name: Vec::new() });
        }
    }

    fn push(&self, event: Event) {
        {
            let mut state = self.state.lock();
            let events = &mut state.events;
            let same = |last: &Event| (last.wd, last.mask, &last.name) == (event.wd, event.mask, &event.name);
            if events.back().is_some_and(same) {
                return;
            }
            if events.len() < MAX_QUEUED_EVENTS {
                events.push_back(event);
            } else {
                let overflow = Event { wd: -1, mask: flag::Q_OVERFLOW, cookie: 0, name: Vec::new() };
                if events.back() == Some(&overflow) {
                    return;
                }
                events.push_back(overflow);
            }
        }
        self.readable.wake_all(PollEvents::READABLE);
    }

    /// Takes out as many events as fit into `room` bytes; `EINVAL` when not even the first does, `None` when there are none.
    fn take(&self, room: usize) -> Option<Result<Vec<u8>>> {
        let mut state = self.state.lock();
        let mut out = Vec::new();
        while let Some(event) = state.events.front() {
            if event.size() > room - out.len() {
                break;
            }
            out.extend(event.to_bytes());
            state.events.pop_front();
        }
        match (out.is_empty(), state.events.is_empty()) {
            (true, true) => None,
            (true, false) => Some(err(Errno::EINVAL)),
            _ => Some(Ok(out)),
        }
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let watched = core::mem::take(&mut self.state.lock().watched);
        for inode in watched.values() {
            self.forget(inode);
        }
        let mut inner = self.table.inner.lock();
        if let Some(count) = inner.instances.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
        }
    }
}

/// The instance as a file: the file owns it, watches only refer to it.
pub(crate) struct InotifyFile(pub(crate) Arc<Inotify>);

impl File for InotifyFile {
    fn read(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let nonblocking = of.nonblocking();
        let bytes = cx.wait(&self.0.readable, || {
            let taken = self.0.take(sink.room());
            if taken.is_none() && nonblocking { Some(err(Errno::EAGAIN)) } else { taken }
        })?;
        sink.put(&bytes)?;
        Ok(bytes.len())
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.0.readable);
        }
        if self.0.state.lock().events.is_empty() { PollEvents::empty() } else { PollEvents::READABLE }
    }

    fn ioctl(&self, cx: &Cx, _of: &OpenFile, cmd: u32, arg: u64) -> Result<u64> {
        const FIONREAD: u32 = 0x541b;
        if cmd != FIONREAD {
            return err(Errno::ENOTTY);
        }
        let bytes: usize = self.0.state.lock().events.iter().map(Event::size).sum();
        UserPtr::new(arg).write(cx, &i32::try_from(bytes).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn attr(&self) -> Result<Attr> {
        Ok(anon_attr())
    }

    fn describe(&self) -> String {
        String::from("anon_inode:inotify")
    }

    fn fdinfo(&self) -> String {
        let watched: Vec<_> = self.0.state.lock().watched.iter().map(|(wd, i)| (*wd, i.clone())).collect();
        let mut out = String::new();
        for (wd, inode) in watched {
            if let Ok(attr) = inode.attr() {
                let dev = attr.dev.major << 20 | attr.dev.minor;
                out.push_str(&format!("inotify wd:{wd:x} ino:{:x} sdev:{dev:x}\n", attr.ino));
            }
        }
        out
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{OpenFlags, Path};
    use crate::testing::run;

    /// An inode with an address of its own.
    struct Plain(#[allow(dead_code)] u8);

    impl Inode for Plain {
        fn attr(&self) -> Result<Attr> {
            Ok(anon_attr())
        }
        fn open(&self, _cx: &Cx, _path: &Path, _flags: OpenFlags) -> Result<Arc<dyn File>> {
            err(Errno::ENXIO)
        }
        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    fn inode(_cx: &Cx) -> Arc<dyn Inode> {
        Arc::new(Plain(0))
    }

    fn drain(instance: &Inotify) -> Vec<(i32, u32)> {
        instance.state.lock().events.drain(..).map(|e| (e.wd, e.mask)).collect()
    }

    #[test]
    fn watches_filter_merge_and_end() {
        run(|cx| {
            let table = &cx.kernel.watches;
            let instance = Inotify::new(cx).unwrap();
            let (a, b) = (inode(cx), inode(cx));
            let wd = instance.add(cx, a.clone(), notify::MODIFY).unwrap();
            assert_eq!(instance.add(cx, a.clone(), notify::OPEN | flag::MASK_ADD).unwrap(), wd);
            let refused = instance.add(cx, a.clone(), notify::OPEN | flag::MASK_CREATE);
            assert_eq!(refused.unwrap_err().errno(), Errno::EEXIST);
            let once = instance.add(cx, b.clone(), notify::OPEN | flag::ONESHOT).unwrap();
            for mask in [notify::MODIFY, notify::MODIFY, notify::ATTRIB, notify::OPEN] {
                table.event(&a, mask, b"", 0);
            }
            assert_eq!(drain(&instance), [(wd, notify::MODIFY), (wd, notify::OPEN)]);
            table.event(&b, notify::OPEN, b"", 0);
            table.event(&b, notify::OPEN, b"", 0);
            assert_eq!(drain(&instance), [(once, notify::OPEN), (once, flag::IGNORED)]);
            table.event(&a, notify::DELETE_SELF, b"", 0);
            assert_eq!(drain(&instance), [(wd, flag::IGNORED)]);
            assert_eq!(instance.remove(wd).unwrap_err().errno(), Errno::EINVAL);
            assert_eq!(table.count.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn a_full_queue_says_so_once() {
        run(|cx| {
            let instance = Inotify::new(cx).unwrap();
            let dir = inode(cx);
            instance.add(cx, dir.clone(), notify::CREATE).unwrap();
            for i in 0..MAX_QUEUED_EVENTS + 5 {
                cx.kernel.watches.event(&dir, notify::CREATE, format!("{i}").as_bytes(), 0);
            }
            let events = drain(&instance);
            assert_eq!(events.len(), MAX_QUEUED_EVENTS + 1);
            assert_eq!(events.last(), Some(&(-1, flag::Q_OVERFLOW)));
            drop(instance);
            assert_eq!(cx.kernel.watches.count.load(Ordering::Relaxed), 0);
        });
    }
}
