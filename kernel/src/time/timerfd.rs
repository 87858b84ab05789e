//! `timerfd_create(2)`: timers as files.
//!
//! A timer that expired waits for its reader before the next machine timer is set, as on Linux: the periods that pass meanwhile are counted
//! when it is read. Lock order: a timer's lock, then the timer queue's.

use super::period::Period;
use super::{Clock, TimerHook, TimerId};
use crate::error::{Result, err};
use crate::fs::{File, OpenFile};
use crate::ipc::anon_attr;
use crate::sched::Scheduler;
use crate::sync::Mutex;
use crate::task::Cx;
use crate::user::Sink;
use crate::wait::{PollEvents, PollTable, WaitQueue};
use abi::Errno;
use abi::fs::Attr;
use abi::time::{Itimerspec, Timespec};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::any::Any;

#[derive(Default)]
struct State {
    /// On the monotonic clock.
    period: Period,
    /// Expirations that were not read.
    ticks: u64,
    timer: Option<TimerId>,
    flags: u32,
}

struct Inner {
    sched: Arc<Scheduler>,
    state: Mutex<State>,
    expired: WaitQueue,
}

/// A timerfd.
pub struct TimerFd {
    inner: Arc<Inner>,
    clock: Clock,
    clock_id: i32,
}

struct Expiry(Weak<Inner>);

impl TimerHook for Expiry {
    fn fire(&self, now_ns: u64) {
        let Some(inner) = self.0.upgrade() else { return };
        {
            let mut state = inner.state.lock();
            state.timer = None;
            // Set anew after this timer was due: the new one will come.
            if state.period.next_ns.is_none_or(|next| next > now_ns) {
                inner.arm(&mut state);
                return;
            }
            state.ticks += state.period.expire(now_ns);
        }
        inner.expired.wake_all(PollEvents::READABLE);
    }
}

impl Inner {
    fn arm(self: &Arc<Inner>, state: &mut State) {
        if let (None, Some(next)) = (state.timer, state.period.next_ns) {
            state.timer = Some(self.sched.timers.add(next, Arc::new(Expiry(Arc::downgrade(self)))));
        }
    }

    fn disarm(&self, state: &mut State) {
        if let Some(timer) = state.timer.take() {
            self.sched.timers.cancel(timer);
        }
    }

    /// Counts what has expired up to now and sets the timer for what comes.
    fn catch_up(self: &Arc<Inner>, state: &mut State) {
        let now = self.sched.now_ns();
        state.ticks += state.period.expire(now);
        if state.timer.is_none() {
            self.arm(state);
        }
    }

    fn report(&self, state: &State) -> Itimerspec {
        Itimerspec {
            interval: Timespec::from_ns(state.period.interval_ns),
            value: Timespec::from_ns(state.period.left_ns(self.sched.now_ns())),
        }
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        self.inner.disarm(&mut self.inner.state.lock());
    }
}

impl TimerFd {
    /// A disarmed timer. `clock` is no CPU clock.
    pub fn new(cx: &Cx, clock: Clock, clock_id: i32) -> TimerFd {
        let inner = Inner {
            sched: cx.kernel.sched.clone(),
            state: Mutex::new(State::default()),
            expired: WaitQueue::new(),
        };
        TimerFd { inner: Arc::new(inner), clock, clock_id }
    }

    /// Sets it, in nanoseconds; a value of zero disarms. `absolute`: the value is a reading of its clock. Returns what was set before.
    pub fn set(&self, cx: &Cx, value_ns: u64, interval_ns: u64, absolute: bool, flags: u32) -> Itimerspec {
        let next_ns = match (value_ns, absolute) {
            (0, _) => None,
            (at, true) => Some(self.clock.to_monotonic(cx, at)),
            (after, false) => Some(cx.now_ns().saturating_add(after)),
        };
        let mut state = self.inner.state.lock();
        self.inner.catch_up(&mut state);
        let old = self.inner.report(&state);
        self.inner.disarm(&mut state);
        state.period = Period { next_ns, interval_ns };
        state.ticks = 0;
        state.flags = flags;
        self.inner.arm(&mut state);
        old
    }

    /// Time left and period.
    pub fn get(&self) -> Itimerspec {
        let mut state = self.inner.state.lock();
        self.inner.catch_up(&mut state);
        self.inner.report(&state)
    }
}

impl File for TimerFd {
    fn read(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        if sink.room() < 8 {
            return err(Errno::EINVAL);
        }
        let ticks = cx.wait(&self.inner.expired, || {
            let mut state = self.inner.state.lock();
            self.inner.catch_up(&mut state);
            match core::mem::take(&mut state.ticks) {
                0 if of.nonblocking() => Some(err(Errno::EAGAIN)),
                0 => None,
                ticks => Some(Ok(ticks)),
            }
        })?;
        sink.put(&ticks.to_ne_bytes())?;
        Ok(8)
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.inner.expired);
        }
        let state = self.inner.state.lock();
        let due = state.period.next_ns.is_some_and(|next| next <= self.inner.sched.now_ns());
        if state.ticks > 0 || due { PollEvents::IN } else { PollEvents::empty() }
    }

    fn attr(&self) -> Result<Attr> {
        Ok(anon_attr())
    }

    fn describe(&self) -> String {
        String::from("anon_inode:[timerfd]")
    }

    fn fdinfo(&self) -> String {
        let state = self.inner.state.lock();
        let Itimerspec { interval, value } = self.inner.report(&state);
        format!(
            "clockid: {}\nticks: {}\nsettime flags: 0{:o}\nit_value: ({}, {})\nit_interval: ({}, {})\n",
            self.clock_id, state.ticks, state.flags, value.sec, value.nsec, interval.sec, interval.nsec
        )
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
