//! The timers of a process that end in a signal: interval timers (`setitimer(2)`) and POSIX timers (`timer_create(2)`).
//!
//! Lock order: the timers' lock, then the timer queue's. Signals are sent without it.

use super::alarm::{Alarm, AlarmClock};
use super::period::Period;
use super::{Clock, CpuTime, TimerHook};
use crate::error::{Result, err};
use crate::sched::Scheduler;
use crate::signal::{SigInfo, SigSource, code, send_to_task, sig};
use crate::sync::Mutex;
use crate::task::{Cx, Process, Task};
use abi::Errno;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use hal::ClockId;

/// An interval timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Itimer {
    /// `ITIMER_REAL`: wall time, `SIGALRM`.
    Real = 0,
    /// `ITIMER_VIRTUAL`: time in guest code, `SIGVTALRM`.
    Virtual = 1,
    /// `ITIMER_PROF`: CPU time, `SIGPROF`.
    Prof = 2,
}

const ITIMER_SIGNALS: [i32; 3] = [sig::ALRM, sig::VTALRM, sig::PROF];

/// How a POSIX timer tells that it expired (`sigevent(3type)`).
#[derive(Clone)]
pub enum Notify {
    /// Not at all.
    None,
    /// A signal to the process.
    Process {
        /// Which.
        signo: i32,
        /// `si_value`; the timer's id when there is none.
        value: Option<u64>,
    },
    /// A signal to a thread.
    Thread {
        /// Which.
        signo: i32,
        /// `si_value`.
        value: u64,
        /// To whom.
        task: Weak<Task>,
    },
}

struct PosixTimer {
    alarm: Alarm,
    /// What absolute times are on, if it is no CPU clock.
    machine_clock: Option<ClockId>,
    notify: Notify,
    /// Expirations beyond the first that the last signal stood for that was taken.
    overrun: i32,
}

#[derive(Clone, Copy)]
enum Which {
    Itimer(usize),
    Posix(i32),
}

struct State {
    itimers: [Alarm; 3],
    posix: BTreeMap<i32, PosixTimer>,
    next_id: i32,
}

/// All of a process's timers. Dropping it cancels them.
pub struct ProcessTimers {
    process: Weak<Process>,
    sched: Arc<Scheduler>,
    state: Mutex<State>,
    me: Weak<ProcessTimers>,
}

struct Expiry {
    timers: Weak<ProcessTimers>,
    which: Which,
}

impl TimerHook for Expiry {
    fn fire(&self, _now_ns: u64) {
        if let Some(timers) = self.timers.upgrade() {
            timers.expired(self.which);
        }
    }
}

impl State {
    fn alarm(&mut self, which: Which) -> Option<&mut Alarm> {
        match which {
            Which::Itimer(index) => self.itimers.get_mut(index),
            Which::Posix(id) => self.posix.get_mut(&id).map(|t| &mut t.alarm),
        }
    }
}

/// The timers of the caller's process, made when it has none yet.
pub fn process_timers(cx: &Cx) -> Arc<ProcessTimers> {
    let process = cx.process();
    let mut slot = process.timers.lock();
    slot.get_or_insert_with(|| {
        let weak = Arc::downgrade(process);
        Arc::new_cyclic(|me| ProcessTimers {
            process: weak.clone(),
            sched: cx.kernel.sched.clone(),
            state: Mutex::new(State {
                itimers: [
                    Alarm::new(AlarmClock::Wall),
                    Alarm::new(AlarmClock::Process(weak.clone(), CpuTime::User)),
                    Alarm::new(AlarmClock::Process(weak, CpuTime::All)),
                ],
                posix: BTreeMap::new(),
                next_id: 0,
            }),
            me: me.clone(),
        })
    })
    .clone()
}

/// `execve` deletes POSIX timers (`timer_create(2)`); interval timers go on.
pub fn exec_resets_timers(process: &Process) {
    let timers = process.timers.lock().clone();
    if let Some(timers) = timers {
        let gone = {
            let mut state = timers.state.lock();
            for timer in state.posix.values_mut() {
                timers.cancel(&mut timer.alarm);
            }
            core::mem::take(&mut state.posix)
        };
        drop(gone);
    }
}

impl Drop for ProcessTimers {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let posix = state.posix.values_mut().map(|t| &mut t.alarm);
        for alarm in state.itimers.iter_mut().chain(posix) {
            if let Some(timer) = alarm.timer.take() {
                self.sched.timers.cancel(timer);
            }
        }
    }
}

impl ProcessTimers {
    fn cancel(&self, alarm: &mut Alarm) {
        if let Some(timer) = alarm.timer.take() {
            self.sched.timers.cancel(timer);
        }
    }

    fn arm(&self, alarm: &mut Alarm, which: Which) {
        self.cancel(alarm);
        if let Some(at) = alarm.next_look(&self.sched) {
            let hook = Expiry { timers: self.me.clone(), which };
            alarm.timer = Some(self.sched.timers.add(at, Arc::new(hook)));
        }
    }

    /// A machine timer fired.
    fn expired(&self, which: Which) {
        let mut state = self.state.lock();
        let Some(alarm) = state.alarm(which) else { return };
        alarm.timer = None;
        let count = alarm.period.expire(alarm.clock.now_ns(&self.sched));
        self.arm(alarm, which);
        if count == 0 {
            return;
        }
        let Some(process) = self.process.upgrade() else { return };
        match which {
            Which::Itimer(index) => {
                drop(state);
                if let Some(&signo) = ITIMER_SIGNALS.get(index) {
                    process.send_signal(SigInfo::kernel(signo));
                }
            }
            Which::Posix(id) => {
                let Some(notify) = state.posix.get(&id).map(|t| t.notify.clone()) else { return };
                drop(state);
                notify_expiry(&process, id, &notify, count);
            }
        }
    }

    /// Sets an interval timer, in nanoseconds; a value of zero disarms. Returns time left and period as they were.
    pub fn set_itimer(&self, which: Itimer, value_ns: u64, interval_ns: u64) -> (u64, u64) {
        let index = which as usize;
        let mut state = self.state.lock();
        let Some(alarm) = state.itimers.get_mut(index) else { return (0, 0) };
        let old = alarm.report(&self.sched);
        let next_ns = (value_ns > 0).then(|| alarm.clock.now_ns(&self.sched).saturating_add(value_ns));
        alarm.set(Period { next_ns, interval_ns }, &self.sched);
        self.arm(alarm, Which::Itimer(index));
        old
    }

    /// Time left and period of an interval timer.
    pub fn itimer(&self, which: Itimer) -> (u64, u64) {
        self.state.lock().itimers.get(which as usize).map_or((0, 0), |a| a.report(&self.sched))
    }

    /// A new disarmed POSIX timer; `EAGAIN` when there are `limit` already.
    pub(crate) fn create(&self, clock: &Clock, notify: Notify, limit: u64) -> Result<i32> {
        let (runs_on, machine_clock) = match clock {
            Clock::Machine(id) => (AlarmClock::Wall, Some(*id)),
            Clock::Process(process) => (AlarmClock::Process(Arc::downgrade(process), CpuTime::All), None),
            Clock::Thread(task) => (AlarmClock::Thread(Arc::downgrade(task)), None),
        };
        let mut state = self.state.lock();
        if state.posix.len() as u64 >= limit {
            return err(Errno::EAGAIN);
        }
        let mut id = state.next_id;
        while state.posix.contains_key(&id) {
            id = id.checked_add(1).unwrap_or(0);
        }
        state.next_id = id.checked_add(1).unwrap_or(0);
        state.posix.insert(id, PosixTimer { alarm: Alarm::new(runs_on), machine_clock, notify, overrun: 0 });
        Ok(id)
    }

    /// What absolute times of a POSIX timer are on, if it is no CPU clock.
    pub(crate) fn machine_clock(&self, id: i32) -> Result<Option<ClockId>> {
        self.state.lock().posix.get(&id).map(|t| t.machine_clock).ok_or(Errno::EINVAL.into())
    }

    /// Sets a POSIX timer. `next`: reads the timer's clock (the monotonic one for wall clocks) and says when to expire. Returns time left and
    /// period as they were; `EINVAL` when there is no such timer.
    pub(crate) fn set(
        &self,
        id: i32,
        interval_ns: u64,
        next: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<(u64, u64)> {
        let mut state = self.state.lock();
        let timer = state.posix.get_mut(&id).ok_or(Errno::EINVAL)?;
        let old = timer.alarm.report(&self.sched);
        let next_ns = next(timer.alarm.clock.now_ns(&self.sched));
        timer.overrun = 0;
        timer.alarm.set(Period { next_ns, interval_ns }, &self.sched);
        if matches!(timer.notify, Notify::None) {
            self.cancel(&mut timer.alarm);
        } else {
            self.arm(&mut timer.alarm, Which::Posix(id));
        }
        Ok(old)
    }

    /// Time left and period of a POSIX timer.
    pub(crate) fn get(&self, id: i32) -> Result<(u64, u64)> {
        let state = self.state.lock();
        let timer = state.posix.get(&id).ok_or(Errno::EINVAL)?;
        let (left, interval) = timer.alarm.report(&self.sched);
        // A timer that tells nobody is disarmed only when somebody looks.
        let over = timer.alarm.period.next_ns.is_some_and(|n| n <= timer.alarm.clock.now_ns(&self.sched));
        let silent = matches!(timer.notify, Notify::None);
        Ok((if over && silent && interval == 0 { 0 } else { left }, interval))
    }

    /// How many expirations beyond the first the last signal stood for that was taken.
    pub(crate) fn overrun(&self, id: i32) -> Result<i32> {
        self.state.lock().posix.get(&id).map(|t| t.overrun).ok_or(Errno::EINVAL.into())
    }

    /// Deletes a POSIX timer and its pending signal.
    pub(crate) fn delete(&self, id: i32) -> Result<()> {
        let removed = {
            let mut state = self.state.lock();
            let mut timer = state.posix.remove(&id).ok_or(Errno::EINVAL)?;
            self.cancel(&mut timer.alarm);
            timer
        };
        if let Some(process) = self.process.upgrade() {
            process.signals.shared.lock().discard_timer(id);
            if let Notify::Thread { task, .. } = &removed.notify
                && let Some(task) = task.upgrade()
            {
                task.signals.lock().pending.discard_timer(id);
            }
        }
        Ok(())
    }
}

/// A signal of the process has been taken. To be called without the locks of signals.
pub(crate) fn signal_taken(process: &Process, info: &SigInfo) {
    let SigSource::Timer { id, overrun, .. } = info.source else { return };
    let timers = process.timers.lock().clone();
    if let Some(timers) = timers
        && let Some(timer) = timers.state.lock().posix.get_mut(&id)
    {
        timer.overrun = overrun;
    }
}

/// Tells of `count` expirations: by a signal, or by the one that is pending.
fn notify_expiry(process: &Arc<Process>, id: i32, notify: &Notify, count: u64) {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let info = |signo, value| SigInfo {
        signo,
        code: code::TIMER,
        errno: 0,
        source: SigSource::Timer { id, overrun: count.saturating_sub(1), value },
    };
    match notify {
        Notify::None => {}
        Notify::Process { signo, value } => {
            if !process.signals.shared.lock().add_overruns(id, count) {
                process.send_signal(info(*signo, value.unwrap_or(id as u64)));
            }
        }
        Notify::Thread { signo, value, task } => {
            if let Some(task) = task.upgrade()
                && !task.signals.lock().pending.add_overruns(id, count)
            {
                send_to_task(&task, info(*signo, *value));
            }
        }
    }
}
