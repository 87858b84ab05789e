//! PI futexes (`futex(2)`, `FUTEX_LOCK_PI` and so on): the word holds the owner's thread id, and the kernel hands it on.
//!
//! Differs from Linux: ownership is exact, but no priority is lent; tasks share the CPU by weight here, so an owner always gets on.
//! Lock order: as in `futex`.

use super::futex::{MATCH_ANY, OWNER_DIED, Purpose, TID_MASK, WAITERS, Waiter, enqueue_if, hash, key, sleep};
use crate::error::{Error, Restart, Result, err};
use crate::mm::FutexKey;
use crate::task::{Cx, WaitEnd};
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use hal::VirtAddr;

/// `FUTEX_LOCK_PI` and, with `try_only`, `FUTEX_TRYLOCK_PI`.
pub fn lock_pi(cx: &Cx, at: VirtAddr, shared: bool, deadline_ns: Option<u64>, try_only: bool) -> Result<()> {
    let key = key(cx, at, shared)?;
    let me = cx.task.tid() as u32;
    loop {
        let word = cx.mm().load_u32(cx, at)?;
        let owner = word & TID_MASK;
        if owner == me {
            return err(Errno::EDEADLK);
        }
        if owner == 0 {
            // A free word; waiters that are still queued keep their bit.
            let new = me | (word & (WAITERS | OWNER_DIED));
            if cx.mm().compare_exchange_u32(cx, at, word, new)?.is_ok() {
                return Ok(());
            }
            continue;
        }
        if cx.kernel.pids.task(owner as i32).is_none() {
            return err(Errno::ESRCH);
        }
        if try_only {
            return err(Errno::EAGAIN);
        }
        if word & WAITERS == 0 && cx.mm().compare_exchange_u32(cx, at, word, word | WAITERS)?.is_err() {
            continue;
        }
        let waiter = match enqueue_if(cx, key, at, word | WAITERS, MATCH_ANY, Purpose::PiLock) {
            Ok(waiter) => waiter,
            Err(error) if error.errno() == Errno::EAGAIN => continue,
            Err(error) => return Err(error),
        };
        match sleep(cx, &waiter, deadline_ns) {
            // The unlocker made this task the owner.
            Ok(()) if cx.mm().load_u32(cx, at)? & TID_MASK == me => return Ok(()),
            Ok(()) => continue,
            Err(WaitEnd::TimedOut) => return err(Errno::ETIMEDOUT),
            Err(WaitEnd::Interrupted) => return Err(Error::Interrupted(Restart::IfAsked)),
        }
    }
}

/// `FUTEX_UNLOCK_PI`: hands the lock to the first waiter.
pub fn unlock_pi(cx: &Cx, at: VirtAddr, shared: bool) -> Result<()> {
    let key = key(cx, at, shared)?;
    if cx.mm().load_u32(cx, at)? & TID_MASK != cx.task.tid() as u32 {
        return err(Errno::EPERM);
    }
    hand_over_pi(cx, at, &key, 0)
}

pub(super) fn hand_over_pi(cx: &Cx, at: VirtAddr, key: &FutexKey, extra: u32) -> Result<()> {
    let mut bucket = cx.kernel.futexes.bucket(key).lock();
    let next = bucket.iter().position(|w| w.is_pi() && *w.key.lock() == *key);
    let more = bucket.iter().filter(|w| w.is_pi() && *w.key.lock() == *key).count() > 1;
    let new = match next.and_then(|i| bucket.get(i)) {
        Some(waiter) => waiter.task.tid() as u32 | if more { WAITERS } else { 0 } | extra,
        None => extra,
    };
    loop {
        let word = cx.mm().load_u32(cx, at)?;
        if cx.mm().compare_exchange_u32(cx, at, word, new)?.is_ok() {
            break;
        }
    }
    if let Some(waiter) = next.map(|i| bucket.remove(i)) {
        waiter.woken.store(true, Ordering::SeqCst);
        drop(bucket);
        waiter.task.wake();
    }
    Ok(())
}

/// `FUTEX_WAIT_REQUEUE_PI`: waits on the word at `at` to be moved to the PI lock at `to`, and then for that.
pub fn wait_requeue_pi(
    cx: &Cx,
    at: VirtAddr,
    to: VirtAddr,
    shared: bool,
    expected: u32,
    deadline_ns: Option<u64>,
) -> Result<()> {
    let (from_key, to_key) = (key(cx, at, shared)?, key(cx, to, shared)?);
    if from_key == to_key {
        return err(Errno::EINVAL);
    }
    let waiter = enqueue_if(cx, from_key, at, expected, MATCH_ANY, Purpose::Requeue(to_key))?;
    let owned = || Ok::<bool, Error>(cx.mm().load_u32(cx, to)? & TID_MASK == cx.task.tid() as u32);
    match sleep(cx, &waiter, deadline_ns) {
        Ok(()) if owned()? => Ok(()),
        // A plain wake-up.
        Ok(()) => err(Errno::EAGAIN),
        Err(WaitEnd::TimedOut) => err(Errno::ETIMEDOUT),
        // Once moved it can't be restarted: the word at `at` has changed.
        Err(WaitEnd::Interrupted) if waiter.is_pi() => err(Errno::EAGAIN),
        Err(WaitEnd::Interrupted) => Err(Error::Interrupted(Restart::IfAsked)),
    }
}

/// `FUTEX_CMP_REQUEUE_PI`: gives the PI lock at `to` to the first who waits on `from`, if it is free, and moves up to `move_count` others to
/// it. Returns how many were woken or moved.
pub fn requeue_pi(
    cx: &Cx,
    from: VirtAddr,
    to: VirtAddr,
    shared: bool,
    move_count: u32,
    expected: u32,
) -> Result<usize> {
    let (from_key, to_key) = (key(cx, from, shared)?, key(cx, to, shared)?);
    if from_key == to_key {
        return err(Errno::EINVAL);
    }
    let (a, b) = (hash(&from_key), hash(&to_key));
    let buckets = &cx.kernel.futexes.buckets;
    let (Some(low), Some(high)) = (buckets.get(a.min(b)), buckets.get(a.max(b))) else {
        return err(Errno::EINVAL);
    };
    let mut low = low.lock();
    let mut high = if a == b { None } else { Some(high.lock()) };
    if cx.mm().load_u32(cx, from)? != expected {
        return err(Errno::EAGAIN);
    }
    let source = if a <= b { &mut *low } else { high.as_deref_mut().unwrap_or(&mut *low) };
    let most = 1 + move_count as usize;
    let mut taken: Vec<Arc<Waiter>> =
        source.iter().filter(|w| *w.key.lock() == from_key).take(most).cloned().collect();
    if taken.iter().any(|w| w.target != Some(to_key)) {
        return err(Errno::EINVAL);
    }
    let count = taken.len();
    let owner_now = taken.first().map(|first| claim(cx, to, first, count > 1)).transpose()?;
    source.retain(|w| !taken.iter().any(|t| Arc::ptr_eq(w, t)));
    let woken = match owner_now {
        Some(true) => Some(taken.remove(0)),
        _ => None,
    };
    for waiter in &taken {
        *waiter.key.lock() = to_key;
        waiter.pi.store(true, Ordering::SeqCst);
    }
    let target = if b <= a { &mut *low } else { high.as_deref_mut().unwrap_or(&mut *low) };
    target.append(&mut taken);
    if let Some(waiter) = woken {
        waiter.woken.store(true, Ordering::SeqCst);
        drop((low, high));
        waiter.task.wake();
    }
    Ok(count)
}

/// Makes a waiter the owner of a free lock (true), or marks the lock as waited for. `more`: others will wait for it, too.
fn claim(cx: &Cx, at: VirtAddr, waiter: &Waiter, more: bool) -> Result<bool> {
    loop {
        let word = cx.mm().load_u32(cx, at)?;
        let owner = word & TID_MASK;
        let tid = waiter.task.tid() as u32;
        let new = match owner {
            0 => tid | word & (WAITERS | OWNER_DIED) | if more { WAITERS } else { 0 },
            _ if owner == tid => return err(Errno::EDEADLK),
            _ if cx.kernel.pids.task(owner as i32).is_none() => return err(Errno::ESRCH),
            _ => word | WAITERS,
        };
        if word == new || cx.mm().compare_exchange_u32(cx, at, word, new)?.is_ok() {
            return Ok(owner == 0);
        }
    }
}
