//! `epoll(7)`.
//!
//! An [`Epoll`] has an item for each registered file and a ready list. An item hooks itself into the file's wait queues; a wake-up puts it on
//! the ready list, so waiting costs what is ready, not what is registered. Items name their file by descriptor number and open file
//! description, and hold it weakly: when the last descriptor is closed the item is dead and is swept later.
//!
//! Whoever takes an item from the ready list asks its file again: the list may hold items that are not ready any more, never the
//! reverse. A level-triggered item that was reported goes back to the end of the list.
//!
//! Lock order: [`super::IpcState::epoll_nesting`], then one epoll's lists at a time, then an item's settings. No lock is held while a file is
//! polled or a queue woken. Nesting is at most [`MAX_DEPTH`] deep and without cycles, which bounds the recursion of wake-ups.
//!
//! Differs from Linux: an item that is on the ready list already does not wake the pollers of its epoll again.

use super::anon::anon_attr;
use crate::error::{Result, err};
use crate::fs::{Fd, File, OpenFile};
use crate::sync::Mutex;
use crate::task::{Cx, WaitEnd};
use crate::wait::{PollEvents, PollTable, Registration, WaitQueue, WakeHook, Waker};
use abi::Errno;
use abi::fs::Attr;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many epolls may hang below one another, both ends counted.
pub const MAX_DEPTH: usize = 5;

/// `EPOLLEXCLUSIVE` and the other bits that are not events.
const EXCLUSIVE: u32 = 1 << 28;
const WAKEUP: u32 = 1 << 29;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;
const PRIVATE: u32 = EXCLUSIVE | WAKEUP | ONESHOT | EDGE;
const ALWAYS: u32 = PollEvents::ERR.union(PollEvents::HUP).bits();

/// `struct epoll_event`: packed on x86_64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct EpollEvent {
    pub events: u32,
    #[cfg(not(target_arch = "x86_64"))]
    pub pad: u32,
    pub data: [u32; 2],
}

impl EpollEvent {
    /// Events and the caller's word.
    pub fn new(events: u32, data: [u32; 2]) -> EpollEvent {
        EpollEvent {
            events,
            #[cfg(not(target_arch = "x86_64"))]
            pad: 0,
            data,
        }
    }
}

/// What `epoll_ctl(2)` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EpollOp {
    Add,
    Delete,
    Modify,
}

#[derive(Clone, Copy)]
struct Settings {
    /// Events and private bits; no events after a one-shot report.
    mask: u32,
    data: [u32; 2],
}

/// Descriptor number and id of the open file description.
type Key = (i32, u64);

struct Item {
    key: Key,
    file: Weak<OpenFile>,
    epoll: Weak<Shared>,
    settings: Mutex<Settings>,
    registrations: Mutex<Vec<Registration>>,
}

#[derive(Default)]
struct Lists {
    items: BTreeMap<Key, Arc<Item>>,
    ready: VecDeque<Arc<Item>>,
    /// Keys of what is on the ready list.
    queued: BTreeSet<Key>,
    /// Number of items after the last sweep for dead ones.
    swept: usize,
}

struct Shared {
    id: u64,
    lists: Mutex<Lists>,
    /// Tasks in `epoll_wait(2)`: woken one at a time.
    waiters: WaitQueue,
    /// Whoever polls the epoll itself: all are woken.
    pollers: WaitQueue,
    /// Epolls that this one is registered with.
    parents: Mutex<Vec<Weak<Shared>>>,
}

impl Lists {
    fn push_ready(&mut self, item: &Arc<Item>) -> bool {
        // An item that was deleted meanwhile stays away.
        let current = self.items.get(&item.key).is_some_and(|i| Arc::ptr_eq(i, item));
        let new = current && self.queued.insert(item.key);
        if new {
            self.ready.push_back(item.clone());
        }
        new
    }

    fn pop_ready(&mut self) -> Option<Arc<Item>> {
        let item = self.ready.pop_front()?;
        self.queued.remove(&item.key);
        Some(item)
    }

    fn remove(&mut self, key: Key) -> Option<Arc<Item>> {
        let item = self.items.remove(&key)?;
        if self.queued.remove(&key) {
            self.ready.retain(|i| i.key != key);
        }
        Some(item)
    }
}

impl WakeHook for Item {
    fn woken(&self, events: PollEvents, waker: Waker) -> bool {
        let mask = self.settings.lock().mask;
        let disabled = mask & !PRIVATE == 0;
        if disabled || !(events.is_empty() || events.bits() & mask != 0) {
            return false;
        }
        let Some(epoll) = self.epoll.upgrade() else { return false };
        let new = {
            let mut lists = epoll.lists.lock();
            let item = lists.items.get(&self.key).cloned();
            item.is_some_and(|item| lists.push_ready(&item))
        };
        let mut woken = epoll.waiters.wake(1, PollEvents::READABLE, waker);
        if new {
            woken += epoll.pollers.wake(usize::MAX, PollEvents::READABLE, waker);
        }
        woken > 0
    }
}

impl Item {
    /// What the file is ready for, of what was asked; `None` when the file is gone.
    fn ready_events(&self, cx: &Cx) -> Option<u32> {
        let of = self.file.upgrade()?;
        let mask = self.settings.lock().mask;
        Some(of.file.poll(cx, &of, None).bits() & mask & !PRIVATE)
    }
}

impl Shared {
    /// Takes reports for what is ready, at most `max`.
    fn collect(&self, cx: &Cx, max: usize) -> Vec<EpollEvent> {
        let mut out = Vec::new();
        let mut again = Vec::new();
        // Not more than were there at the start: a level-triggered item must not be reported twice.
        let mut budget = self.lists.lock().ready.len();
        while budget > 0 && out.len() < max {
            budget -= 1;
            let Some(item) = self.lists.lock().pop_ready() else { break };
            let Some(events) = item.ready_events(cx) else {
                let dead = self.lists.lock().remove(item.key);
                drop(dead);
                continue;
            };
            if events == 0 {
                continue;
            }
            let mut settings = item.settings.lock();
            out.push(EpollEvent::new(events, settings.data));
            if settings.mask & ONESHOT != 0 {
                settings.mask &= PRIVATE;
            } else if settings.mask & EDGE == 0 {
                drop(settings);
                again.push(item);
            }
        }
        if !again.is_empty() {
            let mut lists = self.lists.lock();
            for item in &again {
                lists.push_ready(item);
            }
        }
        out
    }

    /// Whether a wait would report something. Takes items that are not ready off the list.
    fn is_ready(&self, cx: &Cx) -> bool {
        let mut budget = self.lists.lock().ready.len();
        while budget > 0 {
            budget -= 1;
            let Some(item) = self.lists.lock().pop_ready() else { return false };
            if item.ready_events(cx).is_some_and(|events| events != 0) {
                let mut lists = self.lists.lock();
                if lists.push_ready(&item) {
                    // Back to where it was.
                    lists.ready.rotate_right(1);
                }
                return true;
            }
        }
        false
    }

    /// The epolls registered with this one.
    fn children(&self) -> Vec<Arc<Shared>> {
        let files: Vec<Arc<OpenFile>> =
            self.lists.lock().items.values().filter_map(|i| i.file.upgrade()).collect();
        files.iter().filter_map(|f| f.downcast::<Epoll>().map(|e| e.shared.clone())).collect()
    }

    fn parents(&self) -> Vec<Arc<Shared>> {
        self.parents.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Number of levels from `start` on, itself counted, and whether `target` is among them.
fn levels(
    start: &Arc<Shared>,
    next: impl Fn(&Shared) -> Vec<Arc<Shared>>,
    target: &Arc<Shared>,
) -> (usize, bool) {
    let mut level = BTreeMap::from([(start.id, start.clone())]);
    let (mut depth, mut found) = (0, false);
    while !level.is_empty() && depth <= MAX_DEPTH {
        depth += 1;
        found |= level.contains_key(&target.id);
        level = level.values().flat_map(|e| next(e)).map(|e| (e.id, e)).collect();
    }
    (depth, found)
}

/// An epoll instance.
pub struct Epoll {
    shared: Arc<Shared>,
}

impl Epoll {
    /// An empty one; `id` is a number of its own.
    pub fn new(id: u64) -> Epoll {
        Epoll {
            shared: Arc::new(Shared {
                id,
                lists: Mutex::new(Lists::default()),
                waiters: WaitQueue::new(),
                pollers: WaitQueue::new(),
                parents: Mutex::new(Vec::new()),
            }),
        }
    }

    /// `epoll_ctl(2)`. The caller has checked that `of` is not this epoll and that its file can be polled.
    pub fn control(&self, cx: &Cx, op: EpollOp, fd: Fd, of: &Arc<OpenFile>, event: EpollEvent) -> Result<()> {
        let key = (fd.0, of.id);
        let (mut mask, data) = (event.events, event.data);
        let nested = of.downcast::<Epoll>();
        if mask & EXCLUSIVE != 0 && op != EpollOp::Delete {
            let allowed = PollEvents::IN | PollEvents::OUT | PollEvents::ERR | PollEvents::HUP;
            let others = mask & !(allowed.bits() | EXCLUSIVE | WAKEUP | EDGE);
            if op == EpollOp::Modify || nested.is_some() || others != 0 {
                return err(Errno::EINVAL);
            }
        }
        mask |= ALWAYS;
        match op {
            EpollOp::Add => self.add(cx, key, of, nested, Settings { mask, data }),
            EpollOp::Delete => {
                let removed = self.shared.lists.lock().remove(key);
                if let (Some(_), Some(inner)) = (&removed, nested) {
                    let me = Arc::as_ptr(&self.shared);
                    inner.shared.parents.lock().retain(|p| p.as_ptr() != me);
                }
                removed.map(drop).ok_or(Errno::ENOENT.into())
            }
            EpollOp::Modify => {
                let item = self.shared.lists.lock().items.get(&key).cloned().ok_or(Errno::ENOENT)?;
                {
                    let mut settings = item.settings.lock();
                    if settings.mask & EXCLUSIVE != 0 {
                        return err(Errno::EINVAL);
                    }
                    *settings = Settings { mask, data };
                }
                self.queue_if_ready(cx, &item);
                Ok(())
            }
        }
    }

    fn add(
        &self,
        cx: &Cx,
        key: Key,
        of: &Arc<OpenFile>,
        nested: Option<&Epoll>,
        settings: Settings,
    ) -> Result<()> {
        let item = Arc::new(Item {
            key,
            file: Arc::downgrade(of),
            epoll: Arc::downgrade(&self.shared),
            settings: Mutex::new(settings),
            registrations: Mutex::new(Vec::new()),
        });
        match nested {
            Some(inner) => {
                let _one_at_a_time = cx.kernel.ipc.epoll_nesting.lock();
                let (below, cycle) = levels(&inner.shared, Shared::children, &self.shared);
                let (above, _) = levels(&self.shared, Shared::parents, &inner.shared);
                if cycle || below + above > MAX_DEPTH {
                    return err(Errno::ELOOP);
                }
                self.insert(&item)?;
                let mut parents = inner.shared.parents.lock();
                parents.retain(|p| p.strong_count() > 0);
                parents.push(Arc::downgrade(&self.shared));
            }
            None => self.insert(&item)?,
        }
        // Outside of the locks: the hook may be called at once.
        let hook: Arc<dyn WakeHook> = item.clone();
        let hook = Arc::downgrade(&hook);
        let mut registrations = Vec::new();
        let mut register = |queue: &WaitQueue| {
            registrations.push(match settings.mask & EXCLUSIVE {
                0 => queue.register_hook(hook.clone()),
                _ => queue.register_exclusive_hook(hook.clone()),
            })
        };
        of.file.poll(cx, of, Some(&mut PollTable::new(&mut register)));
        *item.registrations.lock() = registrations;
        self.queue_if_ready(cx, &item);
        Ok(())
    }

    fn insert(&self, item: &Arc<Item>) -> Result<()> {
        let mut dead = Vec::new();
        let mut lists = self.shared.lists.lock();
        if lists.items.contains_key(&item.key) {
            return err(Errno::EEXIST);
        }
        // Closed files are swept when the number of items has doubled, so that they never outnumber the others for long.
        if lists.items.len() > 2 * lists.swept + 16 {
            let gone: Vec<Key> =
                lists.items.values().filter(|i| i.file.strong_count() == 0).map(|i| i.key).collect();
            dead.extend(gone.into_iter().filter_map(|key| lists.remove(key)));
            lists.swept = lists.items.len();
        }
        lists.items.insert(item.key, item.clone());
        drop(lists);
        drop(dead);
        Ok(())
    }

    fn queue_if_ready(&self, cx: &Cx, item: &Arc<Item>) {
        if item.ready_events(cx).is_some_and(|events| events != 0) {
            let new = self.shared.lists.lock().push_ready(item);
            if new {
                self.shared.waiters.wake(1, PollEvents::READABLE, Waker::GoesOn);
                self.shared.pollers.wake_all(PollEvents::READABLE);
            }
        }
    }

    /// `epoll_wait(2)`: at most `max` reports; none after a time-out. A deadline that has passed makes it look once. A signal interrupts.
    pub fn wait(
        &self,
        cx: &Cx,
        max: usize,
        deadline_ns: Option<u64>,
    ) -> core::result::Result<Vec<EpollEvent>, WaitEnd> {
        let shared = &self.shared;
        // A look without waiting is not interrupted.
        if deadline_ns.is_some_and(|deadline| deadline <= cx.now_ns()) {
            return Ok(shared.collect(cx, max));
        }
        let result = cx.wait_deadline(&[&shared.waiters], deadline_ns, || {
            let events = shared.collect(cx, max);
            (!events.is_empty()).then_some(events)
        });
        // Left for another waiter. Not earlier: as long as this task is in the queue the wake-up could go to itself.
        if !shared.lists.lock().ready.is_empty() {
            shared.waiters.wake(1, PollEvents::READABLE, Waker::GoesOn);
        }
        match result {
            Err(WaitEnd::TimedOut) => Ok(Vec::new()),
            other => other,
        }
    }
}

impl File for Epoll {
    fn poll(&self, cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.shared.pollers);
        }
        if self.shared.is_ready(cx) { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn attr(&self) -> Result<Attr> {
        Ok(anon_attr())
    }

    fn describe(&self) -> String {
        String::from("anon_inode:[eventpoll]")
    }

    fn fdinfo(&self) -> String {
        let items: Vec<Arc<Item>> = self.shared.lists.lock().items.values().cloned().collect();
        let mut out = String::new();
        for item in items {
            let Some(of) = item.file.upgrade() else { continue };
            let Settings { mask, data: [low, high] } = *item.settings.lock();
            let (ino, dev) = of.attr().map_or((0, 0), |a| (a.ino, a.dev.encode()));
            let data = u64::from(low) | u64::from(high) << 32;
            out.push_str(&format!(
                "tfd: {:8} events: {mask:8x} data: {data:16x}  pos:{} ino:{ino:x} sdev:{dev:x}\n",
                item.key.0,
                of.pos()
            ));
        }
        out
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
