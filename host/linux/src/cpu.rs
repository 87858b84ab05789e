//! Virtual CPUs: one host thread each, pinned to one host CPU; the first is the thread that runs the machine.
//!
//! A CPU's state is one futex word, so that an interrupt is never lost: whoever interrupts swaps in `PENDING`
//! and then does what the old value asks for (wake the sleeper, kick the running space).
//!
//! An idle CPU looks for an interrupt for a while before it sleeps, as long as interrupts come that soon: being woken on another host CPU takes longer than many calls.
//!
//! Alarms: one timerfd for all CPUs, always armed for the earliest alarm or earlier. Setting an alarm that is
//! later than the armed time costs neither a host call nor a lock; the I/O thread re-arms when it rings. A kick sets one as well: guest code
//! that does not want to be interrupted is kicked again, and found out by that.

use hal::{Cpu, CpuId};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The kernel runs, and no interrupt is pending.
const RUNNING: u32 = 0;
/// An interrupt is pending.
const PENDING: u32 = 1;
/// The thread sleeps on the word.
const SLEEPING: u32 = 2;
/// The thread is in guest mode: the space must be kicked.
const GUEST: u32 = 3;
/// The same, an interrupt is pending, and it has been kicked.
const KICKED: u32 = 4;

/// A kick that guest code has not answered after this time is repeated: a guest that does not want to be interrupted gets noticed by that.
const KICK_AGAIN_NS: u64 = 50_000_000;

/// How long an idle CPU looks for an interrupt before it sleeps: about as long as the host takes to wake it. It does so only while that succeeds.
const LOOK: Duration = Duration::from_micros(50);
/// The most idle times in a row without a look, after looks in vain.
const MOST_SKIPPED: u32 = 256;

/// No alarm.
const NEVER: u64 = u64::MAX;

thread_local! {
    /// The virtual CPU that this thread is.
    static CURRENT: Cell<Option<CpuId>> = const { Cell::new(None) };
}

/// A space that a CPU can be in.
pub(crate) trait Kick: Send + Sync {
    /// Makes the CPU leave guest mode; harmless when it is not in it.
    fn kick(&self, cpu: usize);
}

#[repr(align(64))]
struct Slot {
    state: AtomicU32,
    /// The host CPU that the thread is bound to, plus one; 0 before it is.
    host: AtomicUsize,
    /// How many more times it sleeps at once when it is idle, and how many it will be after the next look in vain. Its own thread's.
    skip: AtomicU32,
    next_skip: AtomicU32,
    /// The host CPU, plus one, that its guest code makes good use of besides; 0 for none.
    borrowed: AtomicUsize,
    /// The alarm, in monotonic nanoseconds.
    alarm_ns: AtomicU64,
    /// Where the CPU runs or ran last. Weak: a CPU must not keep a space alive.
    space: Mutex<Option<Weak<dyn Kick>>>,
    /// The address behind `space`, read and written by the CPU's own thread only; the weak pointer keeps it
    /// from being reused.
    current: AtomicUsize,
}

/// The virtual CPUs of a machine.
pub struct LinuxCpus {
    slots: Vec<Slot>,
    /// What the timerfd is armed for; the lock is for whoever changes it.
    armed_ns: AtomicU64,
    arming: Mutex<()>,
    timer: OwnedFd,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic with such a lock held is an oops of one task; the data are plain values.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host's monotonic clock in nanoseconds.
pub(crate) fn now_ns(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec. The call goes through the vDSO.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

impl Slot {
    /// Looks for an interrupt for a while, if that has been worth it; whether one came. The state is `SLEEPING` until then.
    fn look(&self) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return false;
        }
        let start = Instant::now();
        while start.elapsed() < LOOK {
            for _ in 0..20 {
                if self.state.load(Ordering::SeqCst) != SLEEPING {
                    self.next_skip.store(1, Ordering::Relaxed);
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        let skip = self.next_skip.load(Ordering::Relaxed);
        self.skip.store(skip, Ordering::Relaxed);
        self.next_skip.store((skip * 2).min(MOST_SKIPPED), Ordering::Relaxed);
        false
    }
}

impl LinuxCpus {
    /// `count` CPUs, at least one. No thread is started.
    pub fn new(count: usize) -> io::Result<LinuxCpus> {
        let slot = || Slot {
            state: AtomicU32::new(RUNNING),
            host: AtomicUsize::new(0),
            skip: AtomicU32::new(0),
            next_skip: AtomicU32::new(1),
            borrowed: AtomicUsize::new(0),
            alarm_ns: AtomicU64::new(NEVER),
            space: Mutex::new(None),
            current: AtomicUsize::new(0),
        };
        // SAFETY: plain call; the result is checked.
        let timer =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and belongs to nobody else.
        let timer = unsafe { OwnedFd::from_raw_fd(timer) };
        Ok(LinuxCpus {
            slots: (0..count.max(1)).map(|_| slot()).collect(),
            armed_ns: AtomicU64::new(NEVER),
            arming: Mutex::new(()),
            timer,
        })
    }

    /// The timerfd, for the I/O thread.
    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// The timer rang: interrupts the CPUs whose alarm is due and arms it for the next.
    pub(crate) fn ring(&self) {
        let mut expirations = [0u8; 8];
        // SAFETY: reads at most eight bytes into the buffer. EAGAIN when the timer was set anew meanwhile.
        unsafe { libc::read(self.timer.as_raw_fd(), expirations.as_mut_ptr().cast(), 8) };
        let now = now_ns(libc::CLOCK_MONOTONIC);
        for (cpu, slot) in self.slots.iter().enumerate() {
            let at = slot.alarm_ns.load(Ordering::SeqCst);
            // A failed exchange means that the CPU has set another one meanwhile, which counts.
            if at <= now
                && slot.alarm_ns.compare_exchange(at, NEVER, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            {
                self.interrupt(CpuId(cpu));
            }
        }
        let _arming = lock(&self.arming);
        // An alarm that is set while we look either sees the new armed time or is seen by the next look.
        let earliest = || self.slots.iter().map(|s| s.alarm_ns.load(Ordering::SeqCst)).min().unwrap_or(NEVER);
        let mut next = earliest();
        loop {
            self.armed_ns.store(next, Ordering::SeqCst);
            let again = earliest();
            if again >= next {
                break;
            }
            next = again;
        }
        self.arm(next);
    }

    /// Sets the timer. The caller holds the lock.
    fn arm(&self, at_ns: u64) {
        // Zero would disarm it; the first nanosecond is as good.
        let value = timespec(if at_ns == NEVER { 0 } else { at_ns.max(1) });
        let spec = libc::itimerspec { it_interval: timespec(0), it_value: value };
        // SAFETY: reads one structure; fails for no valid descriptor and time.
        unsafe {
            libc::timerfd_settime(self.timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &spec, ptr::null_mut())
        };
    }

    /// Before guest mode on `cpu`, by its own thread. False when an interrupt is pending; it is then taken.
    pub(crate) fn enter_guest<T: Kick + 'static>(&self, cpu: CpuId, space: &Arc<T>) -> bool {
        let slot = &self.slots[cpu.0];
        let address = Arc::as_ptr(space).cast::<()>() as usize;
        if slot.current.load(Ordering::Relaxed) != address {
            let weak: Weak<T> = Arc::downgrade(space);
            *lock(&slot.space) = Some(weak);
            slot.current.store(address, Ordering::Relaxed);
        }
        if slot.state.compare_exchange(RUNNING, GUEST, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return true;
        }
        slot.state.swap(RUNNING, Ordering::SeqCst);
        false
    }

    /// Guest code of `cpu` makes good use of this host CPU besides its own, or of none, from now on.
    pub(crate) fn borrows(&self, cpu: CpuId, host: Option<usize>) {
        let (slot, host) = (&self.slots[cpu.0].borrowed, host.map_or(0, |host| host + 1));
        if slot.load(Ordering::Relaxed) != host {
            slot.store(host, Ordering::Relaxed);
        }
    }

    /// After guest mode. `interrupted` says whether it ended because of an interrupt, which is then taken;
    /// otherwise one that came meanwhile stays pending.
    pub(crate) fn leave_guest(&self, cpu: CpuId, interrupted: bool) {
        let state = &self.slots[cpu.0].state;
        if interrupted {
            state.swap(RUNNING, Ordering::SeqCst);
        } else if state.compare_exchange(GUEST, RUNNING, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            let _ = state.compare_exchange(KICKED, PENDING, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Has a CPU interrupted again soon if it does not set another alarm before, as it does when it is out of guest mode.
    fn look_again(&self, slot: &Slot) {
        let at = now_ns(libc::CLOCK_MONOTONIC) + KICK_AGAIN_NS;
        slot.alarm_ns.fetch_min(at, Ordering::SeqCst);
        self.arm_for(at);
    }

    /// Arms the timer unless it rings before this time anyway.
    fn arm_for(&self, at_ns: u64) {
        if at_ns >= self.armed_ns.load(Ordering::SeqCst) {
            return;
        }
        let _arming = lock(&self.arming);
        if at_ns < self.armed_ns.load(Ordering::SeqCst) {
            self.armed_ns.store(at_ns, Ordering::SeqCst);
            self.arm(at_ns);
        }
    }

    /// Interrupts an idle CPU, or the first when none is idle.
    pub(crate) fn interrupt_any(&self) {
        let idle = self.slots.iter().position(|s| s.state.load(Ordering::SeqCst) == SLEEPING);
        self.interrupt(CpuId(idle.unwrap_or(0)));
    }

    /// A host CPU that is not that of `cpu` and has nothing to do as far as this machine knows: that of an idle CPU.
    pub(crate) fn spare(&self, cpu: CpuId) -> Option<usize> {
        let own = self.slots[cpu.0].host.load(Ordering::Relaxed);
        let busy = |host: usize| {
            let here = |s: &&Slot| s.host.load(Ordering::Relaxed) == host;
            self.slots.iter().filter(here).any(|s| s.state.load(Ordering::Relaxed) != SLEEPING)
        };
        let hosts = self.slots.iter().map(|s| s.host.load(Ordering::Relaxed));
        hosts.filter(|&host| host != 0 && host != own).find(|&host| !busy(host)).map(|host| host - 1)
    }

    /// Runs `body` for every CPU, the first on the calling thread and each other on one of its own, all pinned to one
    /// CPU of the process's affinity mask; returns when all have returned. Side-by-side machines spread, because
    /// each begins with the host CPU that it happens to be started on. Fails when a thread cannot be started, after
    /// the others have returned.
    pub fn run(&self, body: impl Fn(CpuId) + Sync) -> io::Result<()> {
        let hosts = host_cpus();
        // SAFETY: no arguments.
        let here = unsafe { libc::sched_getcpu() };
        let start = hosts.iter().position(|c| *c as i32 == here).unwrap_or(0);
        std::thread::scope(|scope| {
            let mut result = Ok(());
            for cpu in 1..self.slots.len() {
                let (body, host) = (&body, hosts[(start + cpu) % hosts.len()]);
                let thread = std::thread::Builder::new().name(format!("vcpu{cpu}"));
                let started = thread.spawn_scoped(scope, move || {
                    pin(host);
                    self.slots[cpu].host.store(host + 1, Ordering::Relaxed);
                    CURRENT.set(Some(CpuId(cpu)));
                    body(CpuId(cpu));
                });
                result = result.and(started.map(drop));
            }
            pin(hosts[start]);
            self.slots[0].host.store(hosts[start] + 1, Ordering::Relaxed);
            CURRENT.set(Some(CpuId(0)));
            body(CpuId(0));
            CURRENT.set(None);
            result
        })
    }
}

impl Cpu for LinuxCpus {
    fn count(&self) -> usize {
        self.slots.len()
    }

    fn current(&self) -> Option<CpuId> {
        CURRENT.get()
    }

    fn idle(&self, cpu: CpuId, deadline_ns: Option<u64>) {
        let state = &self.slots[cpu.0].state;
        let timeout = deadline_ns.map(timespec);
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        if state.compare_exchange(RUNNING, SLEEPING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            && !self.slots[cpu.0].look()
        {
            loop {
                // SAFETY: the word and the timeout live through the call. An absolute monotonic timeout.
                let result = unsafe {
                    libc::syscall(
                        libc::SYS_futex,
                        state.as_ptr(),
                        libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
                        SLEEPING,
                        timeout,
                        ptr::null::<u32>(),
                        libc::FUTEX_BITSET_MATCH_ANY,
                    )
                };
                let timed_out =
                    result != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ETIMEDOUT);
                if timed_out || state.load(Ordering::SeqCst) != SLEEPING {
                    break;
                }
            }
        }
        // A swap, so that whatever the interrupter did before is seen.
        state.swap(RUNNING, Ordering::SeqCst);
    }

    fn interrupt(&self, cpu: CpuId) {
        let slot = &self.slots[cpu.0];
        let to = |state| Some(if matches!(state, GUEST | KICKED) { KICKED } else { PENDING });
        let before = slot.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, to);
        match before.unwrap_or(PENDING) {
            SLEEPING => {
                // SAFETY: wakes waiters of the word; no memory is touched.
                unsafe {
                    libc::syscall(
                        libc::SYS_futex,
                        slot.state.as_ptr(),
                        libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                        1,
                    )
                };
            }
            GUEST | KICKED => {
                let space = lock(&slot.space).as_ref().and_then(Weak::upgrade);
                if let Some(space) = space {
                    space.kick(cpu.0);
                }
                self.look_again(slot);
            }
            _ => {}
        }
    }

    fn lent_to(&self, cpu: CpuId) -> Option<CpuId> {
        let host = self.slots[cpu.0].host.load(Ordering::Relaxed);
        let borrows = |slot: &Slot| host != 0 && slot.borrowed.load(Ordering::Relaxed) == host;
        let borrower = self.slots.iter().position(borrows)?;
        let works = self.slots[borrower].state.load(Ordering::Relaxed) != SLEEPING;
        works.then_some(CpuId(borrower))
    }

    fn set_alarm(&self, cpu: CpuId, deadline_ns: Option<u64>) {
        let at = deadline_ns.unwrap_or(NEVER);
        let alarm = &self.slots[cpu.0].alarm_ns;
        if alarm.load(Ordering::Relaxed) == at {
            return;
        }
        alarm.store(at, Ordering::SeqCst);
        self.arm_for(at);
    }
}

/// The host CPUs that this process may use; never empty.
pub fn host_cpus() -> Vec<usize> {
    let cpus = vmspace::own_cpus();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Lets the calling thread run on these host CPUs only. Where the host refuses, it stays as it is.
pub(crate) fn use_cpus(hosts: &[usize]) {
    vmspace::use_cpus(0, hosts.iter().copied());
}

/// Binds the calling thread to one host CPU. Where the host refuses, it runs unbound, only slower.
fn pin(host: usize) {
    use_cpus(&[host]);
    vmspace::use_short_slices();
    // Wake up when asked, not up to 50 µs later.
    // SAFETY: plain call.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: u64 = 20_000;
        let cpus = LinuxCpus::new(2).unwrap();
        let turn = AtomicU64::new(0);
        cpus.run(|cpu| {
            // Each CPU waits for its parity and hands over; a lost wake-up hangs the test.
            while turn.load(Ordering::SeqCst) < ROUNDS {
                if turn.load(Ordering::SeqCst) % 2 == cpu.0 as u64 {
                    turn.fetch_add(1, Ordering::SeqCst);
                    cpus.interrupt(CpuId(1 - cpu.0));
                } else {
                    cpus.idle(cpu, None);
                }
            }
            cpus.interrupt(CpuId(1 - cpu.0));
        })
        .unwrap();
        assert_eq!(turn.load(Ordering::SeqCst), ROUNDS);
    }

    #[test]
    fn an_early_interrupt_is_kept_and_a_deadline_ends_idling() {
        let cpus = LinuxCpus::new(1).unwrap();
        cpus.interrupt(CpuId(0));
        cpus.idle(CpuId(0), None);
        let until = now_ns(libc::CLOCK_MONOTONIC) + 2_000_000;
        cpus.idle(CpuId(0), Some(until));
        assert!(now_ns(libc::CLOCK_MONOTONIC) >= until);
        cpus.idle(CpuId(0), Some(0));
    }

    struct Counter(AtomicU64);
    impl Kick for Counter {
        fn kick(&self, _cpu: usize) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn guests_are_kicked_and_interrupts_survive_other_exits() {
        let cpus = LinuxCpus::new(1).unwrap();
        let space = Arc::new(Counter(AtomicU64::new(0)));
        assert!(cpus.enter_guest(CpuId(0), &space));
        cpus.interrupt(CpuId(0));
        assert_eq!(space.0.load(Ordering::SeqCst), 1);
        // Nobody has answered: the timer will see to it.
        assert!(cpus.armed_ns.load(Ordering::SeqCst) <= now_ns(libc::CLOCK_MONOTONIC) + KICK_AGAIN_NS);
        while cpus.slots[0].alarm_ns.load(Ordering::SeqCst) > now_ns(libc::CLOCK_MONOTONIC) {
            std::thread::yield_now();
        }
        cpus.ring();
        assert_eq!(space.0.load(Ordering::SeqCst), 2);
        cpus.leave_guest(CpuId(0), false);
        assert!(!cpus.enter_guest(CpuId(0), &space), "the interrupt is still pending");
        assert!(cpus.enter_guest(CpuId(0), &space));
        cpus.interrupt(CpuId(0));
        cpus.leave_guest(CpuId(0), true);
        assert!(cpus.enter_guest(CpuId(0), &space));
        cpus.leave_guest(CpuId(0), false);
        drop(space);
        cpus.interrupt(CpuId(0));
    }
}
