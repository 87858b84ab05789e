//! Clocks and sleeps: `clock_gettime(2)` and its kin, `nanosleep(2)`, `clock_nanosleep(2)`, `restart_syscall(2)`.

use super::{Arg, ArgKind};
use crate::error::{Error, Restart, Result, err};
use crate::sched::TICK_NS;
use crate::task::{Cx, RestartState, WaitEnd};
use crate::time::{Clock, ClockNumber};
use crate::user::UserPtr;
use abi::Errno;
use abi::time::{Timespec, Timeval};
use alloc::format;
use alloc::string::String;

const TIMER_ABSTIME: i32 = 1;

impl Arg for ClockNumber {
    const KIND: ArgKind = ArgKind::Int;
    fn decode(raw: u64) -> Self {
        ClockNumber(raw as u32 as i32)
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        const NAMES: [&str; 12] = [
            "REALTIME",
            "MONOTONIC",
            "PROCESS_CPUTIME_ID",
            "THREAD_CPUTIME_ID",
            "MONOTONIC_RAW",
            "REALTIME_COARSE",
            "MONOTONIC_COARSE",
            "BOOTTIME",
            "REALTIME_ALARM",
            "BOOTTIME_ALARM",
            "SGI_CYCLE",
            "TAI",
        ];
        match usize::try_from(raw as u32).ok().and_then(|i| NAMES.get(i)) {
            Some(name) => format!("CLOCK_{name}"),
            None => format!("{}", raw as u32 as i32),
        }
    }
}

/// `clock_gettime(2)`.
pub(super) fn clock_gettime(cx: &Cx, clock: ClockNumber, out: UserPtr<Timespec>) -> Result<()> {
    let now = clock.decode(cx)?.now_ns(cx);
    out.write(cx, &Timespec::from_ns(now))
}

/// `clock_getres(2)`: a nanosecond, and a tick for the coarse clocks.
pub(super) fn clock_getres(cx: &Cx, clock: ClockNumber, out: UserPtr<Timespec>) -> Result<()> {
    clock.decode(cx)?;
    let resolution = if clock.is_coarse() { TICK_NS } else { 1 };
    out.write_if_some(cx, &Timespec::from_ns(resolution))
}

/// `clock_settime(2)`: nobody may.
pub(super) fn clock_settime(cx: &Cx, clock: ClockNumber, time: UserPtr<Timespec>) -> Result<()> {
    clock.decode(cx)?;
    if clock.0 != 0 {
        return err(Errno::EINVAL);
    }
    time.read(cx)?.to_ns().ok_or(Errno::EINVAL)?;
    Err(Error::new(Errno::EPERM, "the clock is the host's"))
}

/// `gettimeofday(2)`; the time zone is UTC.
pub(super) fn gettimeofday(cx: &Cx, time: UserPtr<Timeval>, zone: UserPtr<[i32; 2]>) -> Result<()> {
    time.write_if_some(cx, &Timeval::from_ns(cx.realtime_ns()))?;
    zone.write_if_some(cx, &[0, 0])
}

/// `settimeofday(2)`: nobody may.
pub(super) fn settimeofday(_cx: &Cx, _time: UserPtr<Timeval>, _zone: UserPtr<[i32; 2]>) -> Result<()> {
    Err(Error::new(Errno::EPERM, "the clock is the host's"))
}

/// `time(2)`.
pub(super) fn time(cx: &Cx, out: UserPtr<i64>) -> Result<i64> {
    let now = (cx.realtime_ns() / 1_000_000_000) as i64;
    out.write_if_some(cx, &now)?;
    Ok(now)
}

/// `nanosleep(2)`.
pub(super) fn nanosleep(cx: &Cx, time: UserPtr<Timespec>, remaining: UserPtr<Timespec>) -> Result<()> {
    let time = time.read(cx)?.to_ns().ok_or(Errno::EINVAL)?;
    sleep_until(cx, cx.now_ns().saturating_add(time), remaining)
}

/// `clock_nanosleep(2)`.
pub(super) fn clock_nanosleep(
    cx: &Cx,
    clock: ClockNumber,
    flags: i32,
    time: UserPtr<Timespec>,
    remaining: UserPtr<Timespec>,
) -> Result<()> {
    let number = clock;
    let clock = clock.decode(cx)?;
    // Coarse and raw clocks have no timers, and a thread can't wait for its own CPU time.
    if matches!(number.0, 3..=6) {
        return err(Errno::EOPNOTSUPP);
    }
    if matches!(&clock, Clock::Thread(_)) {
        return err(Errno::EINVAL);
    }
    let time = time.read(cx)?.to_ns().ok_or(Errno::EINVAL)?;
    let absolute = flags & TIMER_ABSTIME != 0;
    if clock.is_cpu() {
        return sleep_cpu(cx, &clock, time, absolute);
    }
    if !absolute {
        return sleep_until(cx, cx.now_ns().saturating_add(time), remaining);
    }
    match cx.sleep(Some(clock.to_monotonic(cx, time))) {
        WaitEnd::TimedOut => Ok(()),
        WaitEnd::Interrupted => Err(Error::Interrupted(Restart::UnlessHandled)),
    }
}

/// Waits until a CPU clock shows a time. The other threads have to run for it, so it is looked at again when it could be so at the
/// earliest, and once a tick at most.
fn sleep_cpu(cx: &Cx, clock: &Clock, time: u64, absolute: bool) -> Result<()> {
    let until = if absolute { time } else { clock.now_ns(cx).saturating_add(time) };
    loop {
        let left = until.saturating_sub(clock.now_ns(cx));
        if left == 0 {
            return Ok(());
        }
        let cpus = cx.kernel.machine.cpu().count().max(1) as u64;
        let wait = (left / cpus).max(TICK_NS);
        if cx.sleep(Some(cx.now_ns().saturating_add(wait))) == WaitEnd::Interrupted {
            return err(Errno::EINTR);
        }
    }
}

/// A relative sleep: what is left is reported, and the call is resumed by `restart_syscall(2)` when no handler runs.
fn sleep_until(cx: &Cx, deadline_ns: u64, remaining: UserPtr<Timespec>) -> Result<()> {
    match cx.sleep(Some(deadline_ns)) {
        WaitEnd::TimedOut => Ok(()),
        WaitEnd::Interrupted => {
            let left = deadline_ns.saturating_sub(cx.now_ns());
            if left == 0 {
                return Ok(());
            }
            remaining.write_if_some(cx, &Timespec::from_ns(left))?;
            cx.restart.set(Some(RestartState::Sleep { deadline_ns, remaining: remaining.addr().0 }));
            Err(Error::Interrupted(Restart::Resume))
        }
    }
}

/// `restart_syscall(2)`: goes on with the sleep or poll that a signal without a handler interrupted.
pub(super) fn restart_syscall(cx: &Cx) -> Result<usize> {
    match cx.restart.take() {
        Some(RestartState::Sleep { deadline_ns, remaining }) => {
            sleep_until(cx, deadline_ns, UserPtr::new(remaining)).map(|()| 0)
        }
        Some(RestartState::Poll { fds, count, deadline_ns }) => {
            super::poll::poll_until(cx, UserPtr::new(fds), count, deadline_ns)
        }
        Some(RestartState::Futex { at, shared, expected, bitset, deadline_ns }) => {
            let at = hal::VirtAddr(at);
            crate::ipc::futex::wait(cx, at, shared, expected, Some(deadline_ns), bitset).map(|()| 0)
        }
        None => err(Errno::EINTR),
    }
}
