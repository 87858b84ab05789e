//! Timers: `timerfd_create(2)`, `timer_create(2)`, `setitimer(2)`, `alarm(2)`, and `times(2)`, `adjtimex(2)`.

use super::event::{anon_flags, install_anon};
use crate::error::{Error, Result, err};
use crate::fs::Fd;
use crate::signal::sig;
use crate::task::{Cx, Resource};
use crate::time::{Clock, ClockNumber, CpuTime, Itimer, Notify, TimerFd, process_cpu_ns, process_timers};
use crate::user::UserPtr;
use abi::Errno;
use abi::time::{Itimerspec, Itimerval, Timespec, Timeval};
use alloc::sync::Arc;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const TIMER_ABSTIME: u32 = 1;
/// `CLOCK_REALTIME_ALARM`, `CLOCK_BOOTTIME_ALARM`: would wake a sleeping machine.
const ALARM_CLOCKS: [i32; 2] = [8, 9];
const CAP_WAKE_ALARM: u64 = 1 << 35;

fn check_alarm_clock(cx: &Cx, clock: ClockNumber) -> Result<()> {
    if ALARM_CLOCKS.contains(&clock.0) && cx.task.creds().effective & CAP_WAKE_ALARM == 0 {
        return err(Errno::EPERM);
    }
    Ok(())
}

/// Value and interval in nanoseconds; `EINVAL` when one is not normal.
fn spec_ns(spec: &Itimerspec) -> Result<(u64, u64)> {
    let value = spec.value.to_ns().ok_or(Errno::EINVAL)?;
    Ok((value, spec.interval.to_ns().ok_or(Errno::EINVAL)?))
}

fn spec((left_ns, interval_ns): (u64, u64)) -> Itimerspec {
    Itimerspec { interval: Timespec::from_ns(interval_ns), value: Timespec::from_ns(left_ns) }
}

/// `timerfd_create(2)`.
pub(super) fn timerfd_create(cx: &Cx, clock: ClockNumber, flags: u32) -> Result<Fd> {
    let flags = anon_flags(flags)?;
    if !matches!(clock.0, 0 | 1 | 7 | 8 | 9) {
        return err(Errno::EINVAL);
    }
    check_alarm_clock(cx, clock)?;
    let timer = TimerFd::new(cx, clock.decode(cx)?, clock.0);
    install_anon(cx, Arc::new(timer), flags)
}

/// `timerfd_settime(2)`: `TFD_TIMER_CANCEL_ON_SET` is accepted, and the clock is never seen to jump.
pub(super) fn timerfd_settime(
    cx: &Cx,
    fd: Fd,
    flags: u32,
    new: UserPtr<Itimerspec>,
    old: UserPtr<Itimerspec>,
) -> Result<()> {
    let new = new.read(cx)?;
    if flags & !3 != 0 {
        return err(Errno::EINVAL);
    }
    let (value, interval) = spec_ns(&new)?;
    let of = cx.file(fd)?;
    let timer = of.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    let before = timer.set(cx, value, interval, flags & TIMER_ABSTIME != 0, flags);
    old.write_if_some(cx, &before)
}

/// `timerfd_gettime(2)`.
pub(super) fn timerfd_gettime(cx: &Cx, fd: Fd, now: UserPtr<Itimerspec>) -> Result<()> {
    let of = cx.file(fd)?;
    let timer = of.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    now.write(cx, &timer.get())
}

/// `struct sigevent`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Sigevent {
    value: u64,
    signo: i32,
    notify: i32,
    tid: i32,
    pad: [i32; 11],
}

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;
const SIGEV_THREAD_ID: i32 = 4;

fn notify_of(cx: &Cx, event: &Sigevent) -> Result<Notify> {
    let (signo, value) = (event.signo, event.value);
    if event.notify != SIGEV_NONE && !(1..=sig::MAX).contains(&signo) {
        return err(Errno::EINVAL);
    }
    match event.notify {
        SIGEV_NONE => Ok(Notify::None),
        SIGEV_SIGNAL | SIGEV_THREAD => Ok(Notify::Process { signo, value: Some(value) }),
        SIGEV_THREAD_ID => {
            let task = cx.kernel.pids.task(event.tid).filter(|t| Arc::ptr_eq(&t.process, cx.process()));
            let task = Arc::downgrade(&task.ok_or(Errno::EINVAL)?);
            Ok(Notify::Thread { signo, value, task })
        }
        _ => err(Errno::EINVAL),
    }
}

/// `timer_create(2)`.
pub(super) fn timer_create(
    cx: &Cx,
    clock: ClockNumber,
    event: UserPtr<Sigevent>,
    id: UserPtr<i32>,
) -> Result<()> {
    let event = event.non_null().map(|event| event.read(cx)).transpose()?;
    let decoded = clock.decode(cx)?;
    if matches!(clock.0, 4..=6) {
        return err(Errno::EOPNOTSUPP);
    }
    check_alarm_clock(cx, clock)?;
    let notify = match &event {
        Some(event) => notify_of(cx, event)?,
        None => Notify::Process { signo: sig::ALRM, value: None },
    };
    let timers = process_timers(cx);
    let limit = cx.process().limit(Resource::Sigpending);
    let new = timers.create(&decoded, notify, limit)?;
    let result = id.write(cx, &new);
    if result.is_err() {
        timers.delete(new)?;
    }
    result
}

/// `timer_settime(2)`.
pub(super) fn timer_settime(
    cx: &Cx,
    id: i32,
    flags: u32,
    new: UserPtr<Itimerspec>,
    old: UserPtr<Itimerspec>,
) -> Result<()> {
    let (value, interval) = spec_ns(&new.read(cx)?)?;
    let timers = process_timers(cx);
    let absolute = flags & TIMER_ABSTIME != 0;
    let at = match timers.machine_clock(id)? {
        Some(clock) if absolute => Clock::Machine(clock).to_monotonic(cx, value),
        _ => value,
    };
    let before = timers.set(id, interval, |now| match value {
        0 => None,
        _ if absolute => Some(at),
        _ => Some(now.saturating_add(value)),
    })?;
    old.write_if_some(cx, &spec(before))
}

/// `timer_gettime(2)`.
pub(super) fn timer_gettime(cx: &Cx, id: i32, now: UserPtr<Itimerspec>) -> Result<()> {
    now.write(cx, &spec(process_timers(cx).get(id)?))
}

/// `timer_getoverrun(2)`.
pub(super) fn timer_getoverrun(cx: &Cx, id: i32) -> Result<i32> {
    process_timers(cx).overrun(id)
}

/// `timer_delete(2)`.
pub(super) fn timer_delete(cx: &Cx, id: i32) -> Result<()> {
    process_timers(cx).delete(id)
}

fn itimer(which: i32) -> Result<Itimer> {
    match which {
        0 => Ok(Itimer::Real),
        1 => Ok(Itimer::Virtual),
        2 => Ok(Itimer::Prof),
        _ => err(Errno::EINVAL),
    }
}

/// A time as microseconds tell it: what is left is never rounded to zero, which would say disarmed.
fn itimerval((left_ns, interval_ns): (u64, u64)) -> Itimerval {
    let left = if left_ns > 0 { left_ns.max(1000) } else { 0 };
    Itimerval { interval: Timeval::from_ns(interval_ns), value: Timeval::from_ns(left) }
}

/// `getitimer(2)`.
pub(super) fn getitimer(cx: &Cx, which: i32, now: UserPtr<Itimerval>) -> Result<()> {
    let which = itimer(which)?;
    now.write(cx, &itimerval(process_timers(cx).itimer(which)))
}

/// `setitimer(2)`: no new value disarms, as on Linux.
pub(super) fn setitimer(cx: &Cx, which: i32, new: UserPtr<Itimerval>, old: UserPtr<Itimerval>) -> Result<()> {
    let which = itimer(which);
    let (value, interval) = match new.non_null() {
        Some(new) => {
            let new = new.read(cx)?;
            let value = new.value.to_ns().ok_or(Errno::EINVAL)?;
            (value, new.interval.to_ns().ok_or(Errno::EINVAL)?)
        }
        None => (0, 0),
    };
    let before = process_timers(cx).set_itimer(which?, value, interval);
    old.write_if_some(cx, &itimerval(before))
}

/// `alarm(2)`: the seconds that were left, rounded to the nearest, but not to zero.
pub(super) fn alarm(cx: &Cx, seconds: u32) -> Result<u64> {
    const SECOND: u64 = 1_000_000_000;
    let (left, _) = process_timers(cx).set_itimer(Itimer::Real, u64::from(seconds) * SECOND, 0);
    Ok(match left {
        0 => 0,
        left => ((left + SECOND / 2) / SECOND).max(1),
    })
}

/// `struct tms`, in ticks of 10 ms.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Tms {
    user: i64,
    system: i64,
    children_user: i64,
    children_system: i64,
}

/// `times(2)`.
pub(super) fn times(cx: &Cx, out: UserPtr<Tms>) -> Result<i64> {
    const TICK: u64 = 10_000_000;
    let process = cx.process();
    let sched = &cx.kernel.sched;
    let user = process_cpu_ns(sched, process, CpuTime::User);
    let all = process_cpu_ns(sched, process, CpuTime::All);
    let children = process.family.lock().dead_children;
    let ticks = |ns: u64| (ns / TICK) as i64;
    out.write_if_some(
        cx,
        &Tms {
            user: ticks(user),
            system: ticks(all.saturating_sub(user)),
            children_user: ticks(children.user_ns),
            children_system: ticks(children.system_ns),
        },
    )?;
    Ok(ticks(cx.now_ns()))
}

/// `struct timex`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Timex {
    modes: u32,
    pad: u32,
    offset: i64,
    freq: i64,
    max_error: i64,
    est_error: i64,
    status: i32,
    pad2: i32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    time: Timeval,
    tick: i64,
    rest: [u64; 14],
}

const STA_UNSYNC: i32 = 0x40;
const TIME_ERROR: i32 = 5;

/// `adjtimex(2)`: reading only. The clock is the host's, so that this kernel has not synchronised it.
pub(super) fn adjtimex(cx: &Cx, buf: UserPtr<Timex>) -> Result<i32> {
    clock_adjtime(cx, ClockNumber(0), buf)
}

/// `clock_adjtime(2)`.
pub(super) fn clock_adjtime(cx: &Cx, clock: ClockNumber, buf: UserPtr<Timex>) -> Result<i32> {
    let asked = buf.read(cx)?;
    if clock.0 != 0 {
        clock.decode(cx)?;
        return err(Errno::EOPNOTSUPP);
    }
    if asked.modes != 0 {
        return Err(Error::new(Errno::EPERM, "the clock is the host's"));
    }
    let mut now = Timex::new_zeroed();
    now.max_error = 16_000_000;
    now.est_error = 16_000_000;
    now.status = STA_UNSYNC;
    now.constant = 2;
    now.precision = 1;
    now.tolerance = 32_768_000;
    now.time = Timeval::from_ns(cx.realtime_ns());
    now.tick = 10_000;
    buf.write(cx, &now)?;
    Ok(TIME_ERROR)
}
