//! Futexes: waiting, waking, requeueing, wake-op, priority inheritance, robust lists.

use crate::kit::prelude::*;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

fn futex(word: &AtomicU32, op: i32, val: u32, arg4: usize, word2: usize, val3: u32) -> Result<i64, E> {
    sc!(SYS_futex, word.as_ptr(), op, val, arg4, word2, val3)
}

fn wait(word: &AtomicU32, val: u32) -> Result<i64, E> {
    futex(word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, val, 0, 0, 0)
}

fn wake(word: &AtomicU32, n: u32) -> Result<i64, E> {
    futex(word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n, 0, 0, 0)
}

/// A thread that runs `body`, and that is asleep in it when this returns.
fn sleeper(body: impl FnOnce() -> Result<i64, E> + Send + 'static) -> R<JoinHandle<Result<i64, E>>> {
    static TID: AtomicI32 = AtomicI32::new(0);
    TID.store(0, SeqCst);
    let t = thread::spawn(move || {
        TID.store(gettid(), SeqCst);
        body()
    });
    while TID.load(SeqCst) == 0 {
        sc!(SYS_sched_yield)?;
    }
    asleep(getpid(), TID.load(SeqCst))?;
    Ok(t)
}

fn join<T>(t: JoinHandle<Result<T, E>>) -> R<Result<T, E>> {
    match t.join() {
        Ok(v) => Ok(v),
        Err(_) => fail!("a thread panicked"),
    }
}

fn leak(v: u32) -> &'static AtomicU32 {
    Box::leak(Box::new(AtomicU32::new(v)))
}

fn wait_checks_the_value() -> R {
    let w = AtomicU32::new(5);
    errno_is!(wait(&w, 4), EAGAIN);
    eq!(wake(&w, 1)?, 0);
    Ok(())
}

fn wake_counts_whom_it_woke() -> R {
    let w = leak(0);
    let sleepers = [sleeper(|| wait(w, 0))?, sleeper(|| wait(w, 0))?, sleeper(|| wait(w, 0))?];
    eq!(wake(w, 1)?, 1);
    eq!(wake(w, 99)?, 2);
    for t in sleepers {
        eq!(join(t)??, 0);
    }
    Ok(())
}

fn relative_timeout() -> R {
    let w = AtomicU32::new(0);
    let start = now(CLOCK_MONOTONIC)?;
    let short = ts(20 * MS);
    errno_is!(futex(&w, FUTEX_WAIT, 0, &raw const short as usize, 0, 0), ETIMEDOUT);
    that!(now(CLOCK_MONOTONIC)? - start >= 20 * MS);
    let bad = timespec { tv_sec: 0, tv_nsec: 2_000_000_000 };
    errno_is!(futex(&w, FUTEX_WAIT, 0, &raw const bad as usize, 0, 0), EINVAL);
    Ok(())
}

fn absolute_timeouts_of_wait_bitset() -> R {
    let w = AtomicU32::new(0);
    let until = ts(now(CLOCK_MONOTONIC)? + 20 * MS);
    errno_is!(futex(&w, FUTEX_WAIT_BITSET, 0, &raw const until as usize, 0, u32::MAX), ETIMEDOUT);
    that!(now(CLOCK_MONOTONIC)? >= until.tv_sec as u64 * 1_000_000_000 + until.tv_nsec as u64);
    let past = ts(1);
    let op = FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME;
    errno_is!(futex(&w, op, 0, &raw const past as usize, 0, u32::MAX), ETIMEDOUT);
    errno_is!(futex(&w, FUTEX_WAIT_BITSET, 0, 0, 0, 0), EINVAL);
    Ok(())
}

fn bitset_wakes_only_matching_waiters() -> R {
    let w = leak(0);
    let op = FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG;
    let a = sleeper(move || futex(w, op, 0, 0, 0, 0b01))?;
    let b = sleeper(move || futex(w, op, 0, 0, 0, 0b10))?;
    let wake_op = FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG;
    eq!(futex(w, wake_op, 9, 0, 0, 0b100)?, 0);
    eq!(futex(w, wake_op, 9, 0, 0, 0b10)?, 1);
    eq!(join(b)??, 0);
    eq!(futex(w, wake_op, 9, 0, 0, 0b11)?, 1);
    eq!(join(a)??, 0);
    errno_is!(futex(w, wake_op, 9, 0, 0, 0), EINVAL);
    Ok(())
}

fn requeue_moves_waiters() -> R {
    let (a, b) = (leak(0), leak(0));
    let sleepers = [sleeper(|| wait(a, 0))?, sleeper(|| wait(a, 0))?, sleeper(|| wait(a, 0))?];
    let op = FUTEX_REQUEUE | FUTEX_PRIVATE_FLAG;
    eq!(futex(a, op, 1, 9, b.as_ptr() as usize, 0)?, 3);
    eq!(wake(a, 9)?, 0);
    eq!(wake(b, 9)?, 2);
    for t in sleepers {
        eq!(join(t)??, 0);
    }
    Ok(())
}

fn cmp_requeue_checks_the_value() -> R {
    let (a, b) = (leak(7), leak(0));
    let t = sleeper(|| wait(a, 7))?;
    let op = FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG;
    errno_is!(futex(a, op, 0, 1, b.as_ptr() as usize, 8), EAGAIN);
    eq!(futex(a, op, 0, 1, b.as_ptr() as usize, 7)?, 1);
    eq!(wake(b, 1)?, 1);
    eq!(join(t)??, 0);
    Ok(())
}

fn wake_op_changes_and_wakes_both() -> R {
    let (a, b) = (leak(0), leak(5));
    let ta = sleeper(|| wait(a, 0))?;
    let tb = sleeper(|| wait(b, 5))?;
    // *b += 3; wake b too if the old value was greater than 4.
    let code = (FUTEX_OP_ADD as u32) << 28 | (FUTEX_OP_CMP_GT as u32) << 24 | 3 << 12 | 4;
    let op = FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG;
    eq!(futex(a, op, 1, 1, b.as_ptr() as usize, code)?, 2);
    eq!(b.load(SeqCst), 8);
    eq!((join(ta)??, join(tb)??), (0, 0));
    Ok(())
}

fn shared_futex_between_processes() -> R {
    let p = shared(4096)?;
    let w = cell(p);
    let c = child(|| {
        eq!(futex(w, FUTEX_WAIT, 0, 0, 0, 0)?, 0);
        eq!(w.load(SeqCst), 1);
        Ok(())
    })?;
    c.asleep()?;
    w.store(1, SeqCst);
    // A private wake does not find a shared waiter.
    eq!(futex(w, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 9, 0, 0, 0)?, 0);
    eq!(futex(w, FUTEX_WAKE, 9, 0, 0, 0)?, 1);
    c.ok()
}

fn shared_futex_through_two_mappings_of_a_file() -> R {
    let fd = open(c"f", O_CREAT | O_RDWR, 0o644)?;
    sc!(SYS_ftruncate, fd, 8192)?;
    let a = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096)?;
    let c = child(|| {
        let b = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
        munmap(a, 4096)?;
        eq!(futex(cell(at(b, 4096 + 8)), FUTEX_WAIT, 0, 0, 0, 0)?, 0);
        Ok(())
    })?;
    c.asleep()?;
    eq!(futex(cell(at(a, 8)), FUTEX_WAKE, 9, 0, 0, 0)?, 1);
    c.ok()
}

fn private_memory_after_fork_is_not_shared() -> R {
    let w = leak(0);
    let c = child(|| {
        futex(w, FUTEX_WAIT, 0, 0, 0, 0)?;
        Ok(())
    })?;
    c.asleep()?;
    eq!(futex(w, FUTEX_WAKE, 9, 0, 0, 0)?, 0);
    c.kill(SIGKILL)?;
    eq!(c.wait()?, Status::Killed(SIGKILL));
    Ok(())
}

fn errors() -> R {
    let w = AtomicU32::new(0);
    errno_is!(sc!(SYS_futex, w.as_ptr() as usize + 1, FUTEX_WAIT, 0, 0, 0, 0), EINVAL);
    errno_is!(sc!(SYS_futex, BAD, FUTEX_WAIT, 0, 0, 0, 0), EFAULT);
    errno_is!(sc!(SYS_futex, BAD, FUTEX_WAKE, 1, 0, 0, 0), EFAULT);
    errno_is!(futex(&w, 99, 0, 0, 0, 0), ENOSYS);
    errno_is!(futex(&w, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 0, 0, 0, 0), ENOSYS);
    Ok(())
}

fn priority_inheritance_lock() -> R {
    let w = leak(0);
    let (lock, unlock) = (FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG);
    eq!(futex(w, lock, 0, 0, 0, 0)?, 0);
    eq!(w.load(SeqCst), gettid() as u32);
    errno_is!(futex(w, lock, 0, 0, 0, 0), EDEADLK);
    let t = sleeper(move || {
        futex(w, lock, 0, 0, 0, 0)?;
        let held = w.load(SeqCst) & FUTEX_TID_MASK == gettid() as u32;
        futex(w, unlock, 0, 0, 0, 0)?;
        Ok(held as i64)
    })?;
    eq!(w.load(SeqCst), gettid() as u32 | FUTEX_WAITERS);
    eq!(futex(w, unlock, 0, 0, 0, 0)?, 0);
    eq!(join(t)??, 1);
    eq!(w.load(SeqCst), 0);
    errno_is!(futex(w, unlock, 0, 0, 0, 0), EPERM);
    Ok(())
}

fn priority_inheritance_trylock_and_timeout() -> R {
    let w = leak(0);
    let c = thread::spawn(|| -> Result<i64, E> {
        futex(w, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0)?;
        Ok(gettid() as i64)
    });
    let owner = join(c)??;
    // The owner is gone: the lock has no owner that exists.
    eq!(w.load(SeqCst) as i64, owner);
    errno_is!(futex(w, FUTEX_TRYLOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0), ESRCH);
    let w = leak(0);
    futex(w, FUTEX_TRYLOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0)?;
    let t = thread::spawn(|| {
        let until = ts(now(CLOCK_REALTIME)? + 20 * MS);
        futex(w, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, &raw const until as usize, 0, 0)
    });
    errno_is!(join(t)?, ETIMEDOUT);
    Ok(())
}

fn waitv_waits_for_any() -> R {
    let (a, b) = (leak(0), leak(0));
    // { val, uaddr, flags (32 bit | private), reserved }
    let entry = |w: &AtomicU32| [0u64, w.as_ptr() as u64, 0x82];
    let t = match sc!(SYS_futex_waitv, &[entry(a)], 0, 0, 0, 0) {
        Err(E(ENOSYS)) => skip!("no futex_waitv"),
        _ => sleeper(move || {
            let list = [0u64, a.as_ptr() as u64, 0x82, 0, b.as_ptr() as u64, 0x82];
            sc!(SYS_futex_waitv, &list, 2, 0, 0, 0)
        })?,
    };
    eq!(wake(b, 1)?, 1);
    eq!(join(t)??, 1);
    Ok(())
}

fn thread_exit_clears_and_wakes() -> R {
    // What pthread_join rests on: CLONE_CHILD_CLEARTID clears the word and wakes one waiter.
    let word = leak(1);
    let gate = Gate::new()?;
    let t = thread::spawn(move || -> Result<i64, E> {
        let old = sc!(SYS_set_tid_address, word.as_ptr())?;
        let _ = gate.pass();
        // Leaves without libc, which waits on a word of its own that nobody clears now.
        sc!(SYS_exit, 0)?;
        Ok(old)
    });
    let waiter = sleeper(|| futex(word, FUTEX_WAIT, 1, 0, 0, 0))?;
    gate.open()?;
    eq!(join(waiter)??, 0);
    eq!(word.load(SeqCst), 0);
    std::mem::forget(t);
    Ok(())
}

#[repr(C)]
struct Robust {
    head: [usize; 3],
    next: usize,
    lock: AtomicU32,
}

fn a_dead_owner_of_a_robust_lock_is_marked() -> R {
    let p = shared(4096)?;
    let addr = p as usize;
    // SAFETY: zeroed shared memory, large enough.
    let r = unsafe { &mut *p.cast::<Robust>() };
    let next = addr + std::mem::offset_of!(Robust, next);
    r.head = [next, std::mem::offset_of!(Robust, lock) - std::mem::offset_of!(Robust, next), 0];
    r.next = addr;
    let lock = &r.lock;
    let (held, end) = (Gate::new()?, Gate::new()?);
    let owner = child(|| {
        sc!(SYS_set_robust_list, addr, 24)?;
        lock.store(gettid() as u32 | FUTEX_WAITERS, SeqCst);
        held.open()?;
        end.pass()
    })?;
    held.pass()?;
    let value = lock.load(SeqCst);
    let waiter = child(|| {
        eq!(futex(lock, FUTEX_WAIT, value, 0, 0, 0)?, 0);
        Ok(())
    })?;
    waiter.asleep()?;
    end.open()?;
    owner.ok()?;
    waiter.ok()?;
    eq!(lock.load(SeqCst) & (FUTEX_OWNER_DIED | FUTEX_TID_MASK), FUTEX_OWNER_DIED);
    Ok(())
}

fn robust_list_calls() -> R {
    let (mut head, mut len) = (0usize, 0usize);
    sc!(SYS_get_robust_list, 0, &mut head, &mut len)?;
    eq!(len, 24);
    errno_is!(sc!(SYS_set_robust_list, head, 23), EINVAL);
    errno_is!(sc!(SYS_get_robust_list, 999_999, &mut head, &mut len), ESRCH);
    errno_is!(sc!(SYS_get_robust_list, 0, BAD, &mut len), EFAULT);
    Ok(())
}

fn a_mutex_under_contention() -> R {
    let total = std::sync::Arc::new(std::sync::Mutex::new(0u64));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let total = total.clone();
            thread::spawn(move || {
                for _ in 0..5000 {
                    if let Ok(mut n) = total.lock() {
                        *n += 1;
                    }
                }
            })
        })
        .collect();
    for t in threads {
        that!(t.join().is_ok());
    }
    eq!(total.lock().map(|n| *n).ok(), Some(40_000));
    Ok(())
}

fn a_condition_variable_passes_turns() -> R {
    use std::sync::{Arc, Condvar, Mutex};
    let turn = Arc::new((Mutex::new(0u32), Condvar::new()));
    let other = turn.clone();
    let step = |t: &(Mutex<u32>, Condvar), parity: u32| {
        for _ in 0..500 {
            if let Ok(mut n) = t.0.lock() {
                while *n % 2 != parity {
                    n = match t.1.wait(n) {
                        Ok(n) => n,
                        Err(_) => return,
                    };
                }
                *n += 1;
                t.1.notify_one();
            }
        }
    };
    let t = thread::spawn(move || step(&other, 1));
    step(&turn, 0);
    that!(t.join().is_ok());
    eq!(turn.0.lock().map(|n| *n).ok(), Some(1000));
    Ok(())
}

fn requeue_to_a_free_pi_lock_gives_it() -> R {
    let (cond, lock) = (leak(0), leak(0));
    let to = lock.as_ptr() as usize;
    let waiter = move || {
        futex(cond, FUTEX_WAIT_REQUEUE_PI | FUTEX_PRIVATE_FLAG, 0, 0, to, 0)?;
        assert_eq!(lock.load(SeqCst) & FUTEX_TID_MASK, gettid() as u32);
        futex(lock, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0)
    };
    let sleepers = [sleeper(waiter)?, sleeper(waiter)?, sleeper(waiter)?];
    let op = FUTEX_CMP_REQUEUE_PI | FUTEX_PRIVATE_FLAG;
    errno_is!(futex(cond, op, 1, 9, to, 1), EAGAIN);
    errno_is!(futex(cond, op, 2, 9, to, 0), EINVAL);
    eq!(futex(cond, op, 1, 9, to, 0)?, 3);
    for t in sleepers {
        eq!(join(t)??, 0);
    }
    eq!(lock.load(SeqCst), 0);
    Ok(())
}

fn requeue_to_a_held_pi_lock_waits_for_it() -> R {
    let (cond, lock) = (leak(7), leak(0));
    let to = lock.as_ptr() as usize;
    futex(lock, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0)?;
    let t = sleeper(move || futex(cond, FUTEX_WAIT_REQUEUE_PI | FUTEX_PRIVATE_FLAG, 7, 0, to, 0))?;
    eq!(futex(cond, FUTEX_CMP_REQUEUE_PI | FUTEX_PRIVATE_FLAG, 1, 0, to, 7)?, 1);
    eq!(lock.load(SeqCst), gettid() as u32 | FUTEX_WAITERS);
    that!(!t.is_finished());
    futex(lock, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0, 0)?;
    eq!(join(t)??, 0);
    Ok(())
}

fn requeue_pi_wants_waiters_of_its_kind() -> R {
    let (cond, lock, other) = (leak(0), leak(0), leak(0));
    let (to, wrong) = (lock.as_ptr() as usize, other.as_ptr() as usize);
    let op = FUTEX_CMP_REQUEUE_PI | FUTEX_PRIVATE_FLAG;
    let until = ts(now(CLOCK_MONOTONIC)? + 20 * MS);
    let wait_op = FUTEX_WAIT_REQUEUE_PI | FUTEX_PRIVATE_FLAG;
    errno_is!(futex(cond, wait_op, 0, &raw const until as usize, to, 0), ETIMEDOUT);
    errno_is!(futex(cond, wait_op, 1, 0, to, 0), EAGAIN);
    errno_is!(futex(cond, wait_op, 0, 0, cond.as_ptr() as usize, 0), EINVAL);
    eq!(futex(cond, op, 1, 0, to, 0)?, 0);
    let plain = sleeper(|| wait(cond, 0))?;
    errno_is!(futex(cond, op, 1, 0, to, 0), EINVAL);
    eq!(wake(cond, 1)?, 1);
    join(plain)??;
    let aimed = sleeper(move || futex(cond, wait_op, 0, 0, to, 0))?;
    errno_is!(futex(cond, op, 1, 0, wrong, 0), EINVAL);
    eq!(futex(cond, op, 1, 0, to, 0)?, 1);
    eq!(join(aimed)??, 0);
    Ok(())
}

cases!("futex":
    wait_checks_the_value, wake_counts_whom_it_woke, relative_timeout, absolute_timeouts_of_wait_bitset,
    bitset_wakes_only_matching_waiters, requeue_moves_waiters, cmp_requeue_checks_the_value,
    wake_op_changes_and_wakes_both, shared_futex_between_processes,
    requeue_to_a_free_pi_lock_gives_it, requeue_to_a_held_pi_lock_waits_for_it, requeue_pi_wants_waiters_of_its_kind,
    shared_futex_through_two_mappings_of_a_file, private_memory_after_fork_is_not_shared, errors,
    priority_inheritance_lock, priority_inheritance_trylock_and_timeout, waitv_waits_for_any,
    thread_exit_clears_and_wakes, a_dead_owner_of_a_robust_lock_is_marked, robust_list_calls,
    a_mutex_under_contention, a_condition_variable_passes_turns,
);
