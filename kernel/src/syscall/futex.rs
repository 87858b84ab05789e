//! `futex(2)`, `futex_waitv(2)` and the `futex_wake`/`futex_wait`/`futex_requeue` calls of Linux 6.7.

use crate::error::{Result, err};
use crate::ipc::{futex, futex_pi};
use crate::task::Cx;
use crate::time::Clock;
use crate::user::UserPtr;
use abi::Errno;
use abi::time::Timespec;
use alloc::vec::Vec;
use hal::{ClockId, VirtAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const PRIVATE: u32 = 128;
const CLOCK_REALTIME: u32 = 256;

const WAIT: u32 = 0;
const WAKE: u32 = 1;
const REQUEUE: u32 = 3;
const CMP_REQUEUE: u32 = 4;
const WAKE_OP: u32 = 5;
const LOCK_PI: u32 = 6;
const UNLOCK_PI: u32 = 7;
const TRYLOCK_PI: u32 = 8;
const WAIT_BITSET: u32 = 9;
const WAKE_BITSET: u32 = 10;
const WAIT_REQUEUE_PI: u32 = 11;
const CMP_REQUEUE_PI: u32 = 12;
const LOCK_PI2: u32 = 13;

/// `futex(2)`. The fourth argument is a time-out or a second count, as the operation says.
pub(super) fn futex(
    cx: &Cx,
    word: UserPtr<u32>,
    op: u32,
    value: u32,
    fourth: u64,
    word2: UserPtr<u32>,
    value3: u32,
) -> Result<usize> {
    let command = op & !(PRIVATE | CLOCK_REALTIME);
    let realtime = op & CLOCK_REALTIME != 0;
    if realtime && !matches!(command, WAIT | WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2) {
        return err(Errno::ENOSYS);
    }
    let shared = op & PRIVATE == 0;
    let (at, at2) = (word.addr(), word2.addr());
    let value2 = fourth as u32;
    match command {
        WAIT => {
            let deadline = relative(cx, fourth)?;
            futex::wait(cx, at, shared, value, deadline, futex::MATCH_ANY).map(|()| 0)
        }
        WAIT_BITSET => {
            let deadline = absolute(cx, fourth, realtime)?;
            futex::wait(cx, at, shared, value, deadline, value3).map(|()| 0)
        }
        WAKE => futex::wake(cx, at, shared, wake_count(value), futex::MATCH_ANY),
        WAKE_BITSET => futex::wake(cx, at, shared, wake_count(value), value3),
        REQUEUE | CMP_REQUEUE => {
            let expected = (command == CMP_REQUEUE).then_some(value3);
            let (wake, moves) = (count(value)?, count(value2)?);
            let (woken, moved) = futex::requeue(cx, (at, shared), (at2, shared), wake, moves, expected)?;
            // FUTEX_REQUEUE counts the moved ones too, as the code of Linux has it for both.
            Ok(woken + moved)
        }
        WAKE_OP => futex::wake_op(cx, at, at2, shared, wake_count(value), wake_count(value2), value3),
        LOCK_PI => {
            let deadline = absolute(cx, fourth, true)?;
            futex_pi::lock_pi(cx, at, shared, deadline, false).map(|()| 0)
        }
        LOCK_PI2 => {
            let deadline = absolute(cx, fourth, realtime)?;
            futex_pi::lock_pi(cx, at, shared, deadline, false).map(|()| 0)
        }
        TRYLOCK_PI => futex_pi::lock_pi(cx, at, shared, None, true).map(|()| 0),
        WAIT_REQUEUE_PI => {
            let deadline = absolute(cx, fourth, realtime)?;
            futex_pi::wait_requeue_pi(cx, at, at2, shared, value, deadline).map(|()| 0)
        }
        // It wakes one, never more.
        CMP_REQUEUE_PI if value != 1 => err(Errno::EINVAL),
        CMP_REQUEUE_PI => futex_pi::requeue_pi(cx, at, at2, shared, count(value2)?, value3),
        UNLOCK_PI => futex_pi::unlock_pi(cx, at, shared).map(|()| 0),
        _ => err(Errno::ENOSYS),
    }
}

/// How many a wake call means: a count is an `int`, and Linux wakes one waiter before it looks at it.
fn wake_count(value: u32) -> u32 {
    (value as i32).max(1) as u32
}

/// A count that must not be negative.
fn count(value: u32) -> Result<u32> {
    if value > i32::MAX as u32 { err(Errno::EINVAL) } else { Ok(value) }
}

fn read_time(cx: &Cx, at: u64) -> Result<Option<u64>> {
    let Some(ptr) = UserPtr::<Timespec>::new(at).non_null() else { return Ok(None) };
    Ok(Some(ptr.read(cx)?.to_ns().ok_or(Errno::EINVAL)?))
}

fn relative(cx: &Cx, at: u64) -> Result<Option<u64>> {
    Ok(read_time(cx, at)?.map(|ns| cx.now_ns().saturating_add(ns)))
}

/// A deadline on the monotonic clock from an absolute time of either clock.
fn absolute(cx: &Cx, at: u64, realtime: bool) -> Result<Option<u64>> {
    let clock = Clock::Machine(if realtime { ClockId::Realtime } else { ClockId::Monotonic });
    Ok(read_time(cx, at)?.map(|ns| clock.to_monotonic(cx, ns)))
}

/// `struct futex_waitv`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Waitv {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

const FUTEX2_SIZE_MASK: u32 = 3;
const FUTEX2_SIZE_U32: u32 = 2;
const WAITV_MAX: u32 = 128;

/// Whether futex2 flags mean a shared word: only 32-bit words, no NUMA hints.
fn decode_flags(flags: u32) -> Result<bool> {
    if flags & !(FUTEX2_SIZE_MASK | PRIVATE) != 0 || flags & FUTEX2_SIZE_MASK != FUTEX2_SIZE_U32 {
        return err(Errno::EINVAL);
    }
    Ok(flags & PRIVATE == 0)
}

fn decode_waitv(entry: &Waitv) -> Result<(VirtAddr, u32, bool)> {
    let shared = decode_flags(entry.flags)?;
    if entry.reserved != 0 {
        return err(Errno::EINVAL);
    }
    let value = u32::try_from(entry.value).map_err(|_| Errno::EINVAL)?;
    Ok((VirtAddr(entry.address), value, shared))
}

fn clock(cx: &Cx, timeout: UserPtr<Timespec>, clock: i32) -> Result<Option<u64>> {
    const REALTIME: i32 = 0;
    const MONOTONIC: i32 = 1;
    if timeout.is_null() {
        return Ok(None);
    }
    if !matches!(clock, REALTIME | MONOTONIC) {
        return err(Errno::EINVAL);
    }
    absolute(cx, timeout.addr().0, clock == REALTIME)
}

/// `futex_waitv(2)`.
pub(super) fn futex_waitv(
    cx: &Cx,
    waiters: UserPtr<Waitv>,
    count: u32,
    flags: u32,
    timeout: UserPtr<Timespec>,
    clock_id: i32,
) -> Result<usize> {
    if flags != 0 || count == 0 || count > WAITV_MAX || waiters.is_null() {
        return err(Errno::EINVAL);
    }
    let deadline = clock(cx, timeout, clock_id)?;
    let entries = waiters.read_array(cx, count as usize)?;
    let words = entries.iter().map(decode_waitv).collect::<Result<Vec<_>>>()?;
    futex::wait_many(cx, &words, deadline)
}

fn mask32(mask: u64) -> Result<u32> {
    u32::try_from(mask).map_err(|_| Errno::EINVAL.into())
}

/// `futex_wake(2)`.
pub(super) fn futex_wake(cx: &Cx, word: UserPtr<u32>, mask: u64, count: i32, flags: u32) -> Result<usize> {
    let shared = decode_flags(flags)?;
    let mask = mask32(mask)?;
    if count <= 0 {
        // Strict, unlike FUTEX_WAKE; the address is checked all the same.
        return if mask == 0 { err(Errno::EINVAL) } else { Ok(0) };
    }
    futex::wake(cx, word.addr(), shared, count as u32, mask)
}

/// `futex_wait(2)`.
pub(super) fn futex_wait(
    cx: &Cx,
    word: UserPtr<u32>,
    value: u64,
    mask: u64,
    flags: u32,
    timeout: UserPtr<Timespec>,
    clock_id: i32,
) -> Result<()> {
    let shared = decode_flags(flags)?;
    let (value, mask) = (mask32(value)?, mask32(mask)?);
    let deadline = clock(cx, timeout, clock_id)?;
    futex::wait(cx, word.addr(), shared, value, deadline, mask)
}

/// `futex_requeue(2)`.
pub(super) fn futex_requeue(
    cx: &Cx,
    waiters: UserPtr<Waitv>,
    flags: u32,
    wake_count: u32,
    move_count: u32,
) -> Result<usize> {
    if flags != 0 || waiters.is_null() {
        return err(Errno::EINVAL);
    }
    let entries = waiters.read_array(cx, 2)?;
    let words = entries.iter().map(decode_waitv).collect::<Result<Vec<_>>>()?;
    let [(from, expected, from_shared), (to, _, to_shared)] = words[..] else { return err(Errno::EINVAL) };
    let (wake, moves) = (count(wake_count)?, count(move_count)?);
    let counts = futex::requeue(cx, (from, from_shared), (to, to_shared), wake, moves, Some(expected))?;
    Ok(counts.0 + counts.1)
}
