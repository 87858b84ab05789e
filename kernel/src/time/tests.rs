//! Tests of timers on the virtual clock.

use super::*;
use crate::fs::{OpenFile, OpenFlags};
use crate::signal::{SigInfo, SigSet, SigSource, sig, take};
use crate::task::{Cx, WaitEnd};
use crate::testing::{run, thread};
use crate::wait::PollEvents;
use abi::Errno;
use hal::ClockId;
use std::sync::Arc;

const MS: u64 = 1_000_000;

fn timerfd(cx: &Cx, flags: OpenFlags) -> Arc<OpenFile> {
    let timer = TimerFd::new(cx, Clock::Machine(ClockId::Monotonic), 1);
    OpenFile::new(cx.kernel, Arc::new(timer), None, None, flags | OpenFlags::RDWR)
}

fn set(cx: &Cx, of: &OpenFile, value_ns: u64, interval_ns: u64, absolute: bool) {
    of.downcast::<TimerFd>().unwrap().set(cx, value_ns, interval_ns, absolute, 0);
}

fn ticks(cx: &Cx, of: &OpenFile) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    of.file.read(cx, of, &mut 0, &mut &mut bytes[..]).map_err(|e| e.errno())?;
    Ok(u64::from_ne_bytes(bytes))
}

fn poll(cx: &Cx, of: &OpenFile) -> PollEvents {
    of.file.poll(cx, of, None)
}

fn sleep(cx: &Cx, ns: u64) {
    assert_eq!(cx.sleep(Some(cx.now_ns() + ns)), WaitEnd::TimedOut);
}

/// Blocks a signal, so that it stays pending.
fn block(cx: &Cx, signo: i32) {
    cx.task.signals.lock().mask.add(signo);
}

fn pending(cx: &Cx, signo: i32) -> Option<SigInfo> {
    take(cx, SigSet::of(signo))
}

#[test]
fn a_timerfd_blocks_until_it_expires() {
    run(|cx| {
        let t = timerfd(cx, OpenFlags::empty());
        let before = cx.now_ns();
        set(cx, &t, 5 * MS, 0, false);
        assert_eq!(poll(cx, &t), PollEvents::empty());
        assert_eq!(ticks(cx, &t), Ok(1));
        assert_eq!(cx.now_ns() - before, 5 * MS);
        assert_eq!(poll(cx, &t), PollEvents::empty());
    });
}

#[test]
fn a_timerfd_counts_the_periods_that_passed() {
    run(|cx| {
        let t = timerfd(cx, OpenFlags::NONBLOCK);
        set(cx, &t, 5 * MS, 2 * MS, false);
        assert_eq!(ticks(cx, &t), Err(Errno::EAGAIN));
        sleep(cx, 12 * MS);
        assert_eq!(poll(cx, &t), PollEvents::IN);
        // 5, 7, 9 and 11.
        assert_eq!(ticks(cx, &t), Ok(4));
        let left = t.downcast::<TimerFd>().unwrap().get();
        assert_eq!((left.value.nsec, left.interval.nsec), (MS as i64, 2 * MS as i64));
        sleep(cx, MS);
        assert_eq!(ticks(cx, &t), Ok(1));
    });
}

#[test]
fn setting_a_timerfd_forgets_what_it_counted() {
    run(|cx| {
        let t = timerfd(cx, OpenFlags::NONBLOCK);
        set(cx, &t, MS, 0, false);
        sleep(cx, 2 * MS);
        set(cx, &t, 10 * MS, 0, false);
        assert_eq!(ticks(cx, &t), Err(Errno::EAGAIN));
        set(cx, &t, 0, 0, false);
        sleep(cx, 20 * MS);
        assert_eq!(ticks(cx, &t), Err(Errno::EAGAIN), "disarmed");
        let now = cx.now_ns();
        set(cx, &t, now.max(2) - 1, 0, true);
        sleep(cx, 1);
        assert_eq!(ticks(cx, &t), Ok(1), "a time that has passed");
    });
}

#[test]
fn an_interval_timer_signals_each_period() {
    run(|cx| {
        block(cx, sig::ALRM);
        let timers = process_timers(cx);
        assert_eq!(timers.set_itimer(Itimer::Real, 10 * MS, 3 * MS), (0, 0));
        sleep(cx, 9 * MS);
        assert!(pending(cx, sig::ALRM).is_none());
        assert_eq!(timers.itimer(Itimer::Real), (MS, 3 * MS));
        sleep(cx, MS);
        assert!(pending(cx, sig::ALRM).is_some());
        sleep(cx, 3 * MS);
        assert!(pending(cx, sig::ALRM).is_some());
        timers.set_itimer(Itimer::Real, 0, 0);
        sleep(cx, 30 * MS);
        assert!(pending(cx, sig::ALRM).is_none());
    });
}

#[test]
fn a_posix_timer_has_one_signal_and_counts_overruns() {
    run(|cx| {
        block(cx, sig::USR1);
        let timers = process_timers(cx);
        let notify = Notify::Process { signo: sig::USR1, value: Some(77) };
        let id = timers.create(&Clock::Machine(ClockId::Monotonic), notify, 10).unwrap();
        timers.set(id, MS, |now| Some(now + MS)).unwrap();
        sleep(cx, 5 * MS);
        let info = pending(cx, sig::USR1).unwrap();
        assert_eq!(info.source, SigSource::Timer { id, overrun: 4, value: 77 });
        assert_eq!(timers.overrun(id).unwrap(), 4);
        assert!(pending(cx, sig::USR1).is_none());
        sleep(cx, MS);
        assert_eq!(timers.overrun(id).unwrap(), 4, "that of the signal that was taken");
        timers.delete(id).unwrap();
        assert!(pending(cx, sig::USR1).is_none(), "deleted with its signal");
        assert_eq!(timers.get(id).unwrap_err().errno(), Errno::EINVAL);
    });
}

#[test]
fn a_silent_timer_only_tells_when_asked() {
    run(|cx| {
        let timers = process_timers(cx);
        let id = timers.create(&Clock::Machine(ClockId::Monotonic), Notify::None, 10).unwrap();
        timers.set(id, 0, |now| Some(now + 5 * MS)).unwrap();
        sleep(cx, 2 * MS);
        assert_eq!(timers.get(id).unwrap(), (3 * MS, 0));
        sleep(cx, 4 * MS);
        assert_eq!(timers.get(id).unwrap(), (0, 0));
        timers.set(id, 4 * MS, |now| Some(now + MS)).unwrap();
        sleep(cx, 6 * MS);
        assert_eq!(timers.get(id).unwrap(), (3 * MS, 4 * MS));
    });
}

#[test]
fn the_number_of_timers_is_limited() {
    run(|cx| {
        let timers = process_timers(cx);
        let create =
            || timers.create(&Clock::Machine(ClockId::Monotonic), Notify::None, 2).map_err(|e| e.errno());
        assert_eq!((create(), create(), create()), (Ok(0), Ok(1), Err(Errno::EAGAIN)));
        timers.delete(0).unwrap();
        assert_eq!(create(), Ok(2));
    });
}

#[test]
fn execve_deletes_posix_timers_and_keeps_interval_timers() {
    run(|cx| {
        block(cx, sig::ALRM);
        let timers = process_timers(cx);
        let id = timers.create(&Clock::Machine(ClockId::Monotonic), Notify::None, 2).unwrap();
        timers.set_itimer(Itimer::Real, MS, 0);
        exec_resets_timers(cx.process());
        assert!(timers.get(id).is_err());
        sleep(cx, 2 * MS);
        assert!(pending(cx, sig::ALRM).is_some());
    });
}

#[test]
fn an_alarm_interrupts_a_sleep() {
    run(|cx| {
        thread(cx, |cx| {
            process_timers(cx).set_itimer(Itimer::Real, MS, 0);
        });
        assert_eq!(cx.sleep(Some(cx.now_ns() + 100 * MS)), WaitEnd::Interrupted);
    });
}

#[test]
fn real_time_is_converted_when_the_wait_begins() {
    run(|cx| {
        let at = cx.realtime_ns() + 7 * MS;
        let deadline = Clock::Machine(ClockId::Realtime).to_monotonic(cx, at);
        cx.sleep(Some(deadline));
        assert_eq!(cx.realtime_ns(), at);
        let boot = Clock::Machine(ClockId::Boottime);
        let (at, before) = (boot.now_ns(cx) + 7 * MS, cx.now_ns());
        cx.sleep(Some(boot.to_monotonic(cx, at)));
        assert_eq!((boot.now_ns(cx), cx.now_ns()), (at, before + 7 * MS));
        assert!(at > cx.now_ns(), "they differ");
    });
}
