//! Futexes (`futex(2)`) and robust lists (`get_robust_list(2)`); PI futexes are in `futex_pi`.
//!
//! Waiters stand in buckets by hash of their key. A waiter is woken by being taken out of its bucket and marked; so a wake-up can't be
//! lost and none is taken twice.
//!
//! Lock order: a bucket (two of them in order of their index), then the address space.

use super::futex_pi::hand_over_pi;
use crate::error::{Error, Restart, Result, err};
use crate::mm::FutexKey;
use crate::sync::Mutex;
use crate::task::{Cx, RestartState, Task, WaitEnd};
use crate::user::UserPtr;
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use hal::VirtAddr;

const BUCKETS: usize = 256;
/// `FUTEX_BITSET_MATCH_ANY`.
pub const MATCH_ANY: u32 = !0;
/// `FUTEX_WAITERS`, `FUTEX_OWNER_DIED`, `FUTEX_TID_MASK`.
pub(super) const WAITERS: u32 = 0x8000_0000;
pub(super) const OWNER_DIED: u32 = 0x4000_0000;
pub(super) const TID_MASK: u32 = 0x3fff_ffff;

/// Someone who waits.
pub(crate) struct Waiter {
    pub(super) task: Arc<Task>,
    bitset: u32,
    /// Waits for a PI lock.
    pub(super) pi: AtomicBool,
    /// The PI lock that it will be moved to (`FUTEX_WAIT_REQUEUE_PI`).
    pub(super) target: Option<FutexKey>,
    pub(super) key: Mutex<FutexKey>,
    pub(super) woken: AtomicBool,
}

/// What somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A wake-up of the word.
    Word,
    /// The ownership of a PI lock.
    PiLock,
    /// To be moved to this PI lock, and then its ownership.
    Requeue(FutexKey),
}

impl Waiter {
    pub(super) fn is_pi(&self) -> bool {
        self.pi.load(Ordering::SeqCst)
    }
}

/// All waiters of a kernel.
pub struct Futexes {
    pub(super) buckets: Vec<Mutex<Vec<Arc<Waiter>>>>,
}

impl Default for Futexes {
    fn default() -> Futexes {
        Futexes { buckets: (0..BUCKETS).map(|_| Mutex::new(Vec::new())).collect() }
    }
}

pub(super) fn hash(key: &FutexKey) -> usize {
    let mixed = (key.object ^ (key.offset >> 2).rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize % BUCKETS
}

impl Futexes {
    pub(super) fn bucket(&self, key: &FutexKey) -> &Mutex<Vec<Arc<Waiter>>> {
        &self.buckets[hash(key)]
    }

    /// Wakes up to `count` waiters whose bitset meets `bitset`; the number woken.
    fn wake(&self, key: &FutexKey, count: usize, bitset: u32) -> usize {
        let hit = |w: &Waiter| *w.key.lock() == *key && w.bitset & bitset != 0;
        let mut others = Vec::new();
        let first = {
            let mut bucket = self.bucket(key).lock();
            let Some(at) = bucket.iter().position(|w| hit(w)) else { return 0 };
            let first = bucket.remove(at);
            first.woken.store(true, Ordering::SeqCst);
            if count > 1 {
                bucket.retain(|w| {
                    let wakes = others.len() + 1 < count && hit(w);
                    if wakes {
                        w.woken.store(true, Ordering::SeqCst);
                        others.push(w.clone());
                    }
                    !wakes
                });
            }
            first
        };
        first.task.wake();
        for waiter in &others {
            waiter.task.wake();
        }
        1 + others.len()
    }

    /// Takes a waiter out; false when it has been woken meanwhile.
    fn cancel(&self, waiter: &Arc<Waiter>) -> bool {
        loop {
            let key = *waiter.key.lock();
            let mut bucket = self.bucket(&key).lock();
            // It may have been moved between the two locks.
            if *waiter.key.lock() != key {
                continue;
            }
            let before = bucket.len();
            bucket.retain(|w| !Arc::ptr_eq(w, waiter));
            return bucket.len() != before;
        }
    }
}

pub(super) fn key(cx: &Cx, at: VirtAddr, shared: bool) -> Result<FutexKey> {
    if at.0 % 4 != 0 {
        return err(Errno::EINVAL);
    }
    cx.mm().futex_key(cx, at, shared)
}

/// Sleeps until `waiter` is woken.
pub(super) fn sleep(cx: &Cx, waiter: &Arc<Waiter>, deadline_ns: Option<u64>) -> Result<(), WaitEnd> {
    let end = cx.wait_deadline(&[], deadline_ns, || waiter.woken.load(Ordering::SeqCst).then_some(()));
    if end.is_err() && !cx.kernel.futexes.cancel(waiter) {
        // Woken in the last moment: the wake-up was spent on this waiter, so it counts.
        return Ok(());
    }
    end
}

/// `FUTEX_WAIT` and `FUTEX_WAIT_BITSET`. With a time-out an interruption is resumed by `restart_syscall(2)` when no handler runs.
pub fn wait(
    cx: &Cx,
    at: VirtAddr,
    shared: bool,
    expected: u32,
    deadline_ns: Option<u64>,
    bitset: u32,
) -> Result<()> {
    if bitset == 0 {
        return err(Errno::EINVAL);
    }
    let key = key(cx, at, shared)?;
    let waiter = enqueue_if(cx, key, at, expected, bitset, Purpose::Word)?;
    let end = sleep(cx, &waiter, deadline_ns);
    cx.futex_waiter.replace(Some(waiter));
    match end {
        Ok(()) => Ok(()),
        Err(WaitEnd::TimedOut) => err(Errno::ETIMEDOUT),
        Err(WaitEnd::Interrupted) => match deadline_ns {
            // A relative time-out is absolute by now, so the call must not be made again as it was.
            Some(deadline_ns) => {
                let state = RestartState::Futex { at: at.0, shared, expected, bitset, deadline_ns };
                cx.restart.set(Some(state));
                Err(Error::Interrupted(Restart::Resume))
            }
            None => Err(Error::Interrupted(Restart::IfAsked)),
        },
    }
}

/// Queues the task if the word has the expected value, as one step against wakers.
pub(super) fn enqueue_if(
    cx: &Cx,
    key: FutexKey,
    at: VirtAddr,
    expected: u32,
    bitset: u32,
    purpose: Purpose,
) -> Result<Arc<Waiter>> {
    let mut bucket = cx.kernel.futexes.bucket(&key).lock();
    if cx.mm().load_u32(cx, at)? != expected {
        return err(Errno::EAGAIN);
    }
    let waiter = Waiter {
        task: cx.task.clone(),
        bitset,
        pi: AtomicBool::new(purpose == Purpose::PiLock),
        target: if let Purpose::Requeue(target) = purpose { Some(target) } else { None },
        key: Mutex::new(key),
        woken: AtomicBool::new(false),
    };
    // The place of the last one, if nobody looks at it any more.
    let waiter = match cx.futex_waiter.take() {
        Some(mut last) => match Arc::get_mut(&mut last) {
            Some(place) => {
                *place = waiter;
                last
            }
            None => Arc::new(waiter),
        },
        None => Arc::new(waiter),
    };
    bucket.push(waiter.clone());
    Ok(waiter)
}

/// `FUTEX_WAKE` and `FUTEX_WAKE_BITSET`.
pub fn wake(cx: &Cx, at: VirtAddr, shared: bool, count: u32, bitset: u32) -> Result<usize> {
    if bitset == 0 {
        return err(Errno::EINVAL);
    }
    let key = key(cx, at, shared)?;
    Ok(cx.kernel.futexes.wake(&key, count.max(1) as usize, bitset))
}

/// Wakes waiters of a word that the kernel itself changed (`CLONE_CHILD_CLEARTID`). They may wait shared or private.
pub(crate) fn wake_address(cx: &Cx, at: VirtAddr, count: usize) {
    for shared in [false, true] {
        if let Ok(key) = key(cx, at, shared) {
            cx.kernel.futexes.wake(&key, count, MATCH_ANY);
        }
    }
}

/// `FUTEX_REQUEUE` and `FUTEX_CMP_REQUEUE`: (woken, moved).
pub fn requeue(
    cx: &Cx,
    (from, from_shared): (VirtAddr, bool),
    (to, to_shared): (VirtAddr, bool),
    wake_count: u32,
    move_count: u32,
    expected: Option<u32>,
) -> Result<(usize, usize)> {
    let (from_key, to_key) = (key(cx, from, from_shared)?, key(cx, to, to_shared)?);
    let futexes = &cx.kernel.futexes;
    let (a, b) = (hash(&from_key), hash(&to_key));
    let mut woken = Vec::new();
    let mut moved = 0;
    {
        let mut first = futexes.buckets[a.min(b)].lock();
        let mut second = if a == b { None } else { Some(futexes.buckets[a.max(b)].lock()) };
        if let Some(expected) = expected {
            if cx.mm().load_u32(cx, from)? != expected {
                return err(Errno::EAGAIN);
            }
        }
        let mut to_move = Vec::new();
        {
            let source = if a <= b { &mut first } else { second.as_mut().unwrap_or(&mut first) };
            source.retain(|w| {
                if *w.key.lock() != from_key {
                    return true;
                }
                if woken.len() < wake_count as usize {
                    w.woken.store(true, Ordering::SeqCst);
                    woken.push(w.clone());
                    return false;
                }
                if moved < move_count as usize {
                    moved += 1;
                    *w.key.lock() = to_key;
                    if a != b {
                        to_move.push(w.clone());
                        return false;
                    }
                }
                true
            });
        }
        if let Some(second) = second.as_mut() {
            if a < b { second.append(&mut to_move) } else { first.append(&mut to_move) }
        }
    }
    for waiter in &woken {
        waiter.task.wake();
    }
    Ok((woken.len(), moved))
}

/// `FUTEX_WAKE_OP`.
pub fn wake_op(
    cx: &Cx,
    at: VirtAddr,
    at2: VirtAddr,
    shared: bool,
    count: u32,
    count2: u32,
    op: u32,
) -> Result<usize> {
    let (key1, key2) = (key(cx, at, shared)?, key(cx, at2, shared)?);
    let sign_extend = |v: u32| ((v << 20) as i32 >> 20) as u32;
    let (mut arg, cmp_arg) = (sign_extend(op >> 12 & 0xfff), sign_extend(op & 0xfff));
    if op >> 31 != 0 {
        arg = 1u32 << (arg & 31);
    }
    let old = loop {
        let old = cx.mm().load_u32(cx, at2)?;
        let new = match op >> 28 & 7 {
            0 => arg,
            1 => old.wrapping_add(arg),
            2 => old | arg,
            3 => old & !arg,
            4 => old ^ arg,
            _ => return err(Errno::ENOSYS),
        };
        if cx.mm().compare_exchange_u32(cx, at2, old, new)?.is_ok() {
            break old;
        }
    };
    let (o, c) = (old as i32, cmp_arg as i32);
    let also = match op >> 24 & 0xf {
        0 => o == c,
        1 => o != c,
        2 => o < c,
        3 => o <= c,
        4 => o > c,
        5 => o >= c,
        _ => return err(Errno::ENOSYS),
    };
    let mut woken = cx.kernel.futexes.wake(&key1, count.max(1) as usize, MATCH_ANY);
    if also {
        woken += cx.kernel.futexes.wake(&key2, count2.max(1) as usize, MATCH_ANY);
    }
    Ok(woken)
}

/// `futex_waitv(2)`: waits on several words; the index of the one that was woken.
pub fn wait_many(cx: &Cx, words: &[(VirtAddr, u32, bool)], deadline_ns: Option<u64>) -> Result<usize> {
    let mut waiters = Vec::new();
    let mut failed = None;
    for &(at, expected, shared) in words {
        let queued =
            key(cx, at, shared).and_then(|key| enqueue_if(cx, key, at, expected, MATCH_ANY, Purpose::Word));
        match queued {
            Ok(waiter) => waiters.push(waiter),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let woken = || waiters.iter().position(|w| w.woken.load(Ordering::SeqCst));
    let end = match failed {
        Some(error) => Err(error),
        None => cx.wait_deadline(&[], deadline_ns, woken).map_err(Error::from),
    };
    for waiter in &waiters {
        cx.kernel.futexes.cancel(waiter);
    }
    match end {
        Ok(index) => Ok(index),
        Err(error) => woken().ok_or(error),
    }
}

/// Walks the robust list of an ending task and releases the locks that it still holds (`uapi/linux/futex.h`).
pub(crate) fn exit_robust_list(cx: &Cx) {
    const LIMIT: usize = 2048;
    let head = cx.task.robust_list.swap(0, Ordering::Relaxed);
    if head == 0 {
        return;
    }
    let Ok([first, offset, pending]) = UserPtr::<[u64; 3]>::new(head).read(cx) else { return };
    let mut entry = first;
    for _ in 0..LIMIT {
        if entry & !1 == head {
            break;
        }
        let next = UserPtr::<u64>::new(entry & !1).read(cx);
        if entry & !1 != pending & !1 {
            release_robust(cx, (entry & !1).wrapping_add(offset), entry & 1 != 0);
        }
        match next {
            Ok(next) => entry = next,
            Err(_) => return,
        }
    }
    if pending & !1 != 0 {
        release_robust(cx, (pending & !1).wrapping_add(offset), pending & 1 != 0);
    }
}

fn release_robust(cx: &Cx, at: u64, pi: bool) {
    let at = VirtAddr(at);
    if at.0 % 4 != 0 {
        return;
    }
    loop {
        let Ok(word) = cx.mm().load_u32(cx, at) else { return };
        if word & TID_MASK != cx.task.tid() as u32 {
            return;
        }
        if pi && word & WAITERS != 0 {
            for shared in [false, true] {
                if let Ok(key) = key(cx, at, shared) {
                    let waits = cx
                        .kernel
                        .futexes
                        .bucket(&key)
                        .lock()
                        .iter()
                        .any(|w| w.is_pi() && *w.key.lock() == key);
                    if waits {
                        let _ = hand_over_pi(cx, at, &key, OWNER_DIED);
                        return;
                    }
                }
            }
        }
        match cx.mm().compare_exchange_u32(cx, at, word, (word & WAITERS) | OWNER_DIED) {
            Ok(Ok(_)) => {
                if word & WAITERS != 0 {
                    wake_address(cx, at, 1);
                }
                return;
            }
            Ok(Err(_)) => {}
            Err(_) => return,
        }
    }
}
