//! The gate: system calls that patched guest code makes without trapping (`stub.rs`).
//!
//! The gate answers from the runner's area what has a constant answer for the thread; hands other calls over there while the owner listens, which
//! takes a host CPU for each side; and goes back to the `syscall` instruction otherwise. Everything that it says is guest memory: read once,
//! and good for nothing but the guest's own registers.

use crate::context::Answers;
use crate::layout::{ANSWERS, AREA_ANSWERS, AREA_CALL, call, state, uc};
use crate::runner::{Fatal, Inner, Runner};
use crate::sys::{self, Notification};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the owner looks for a call before he goes to sleep.
const LISTEN: Duration = Duration::from_micros(100);
/// Traps that come this fast on average are worth a session.
const GAP: Duration = Duration::from_micros(20);
/// After such a pause counting starts anew.
const PAUSE: Duration = Duration::from_millis(1);
/// So many traps are looked at first.
const BURST: u32 = 48;
/// A session goes on when this many calls were handed over before one trapped or had to wait: waking a task on another CPU costs as much as some
/// dozens of them, and so does the move there and back.
const GOOD_SESSION: u32 = 32;
/// How far the demand on a burst grows when sessions are not worth it.
const MOST_BURST: u32 = 1 << 12;

/// What a runner does next.
pub(crate) enum Heard {
    /// It is in a notification.
    Notification(Notification),
    /// It made this call through the gate, and waits.
    Call { nr: u64, args: [u64; 6], site: u64 },
}

/// How listening ended.
enum Silence {
    Call(Heard),
    /// The runner is in a notification, or about to be.
    Notification,
    /// Nothing happened for long.
    Time,
}

/// When to listen: the history of a runner's calls.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The host CPU that the runner has been moved away from; `None` while it shares the owner's.
    home: Option<usize>,
    /// Traps since the last pause or session, or calls of the session.
    calls: u32,
    /// How many traps have to come before the next session.
    wanted: u32,
    /// When the last one came, and the moving average of the time between them.
    last: Instant,
    gap: Duration,
}

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace { home: None, calls: 0, wanted: BURST, last: Instant::now(), gap: GAP }
    }

    /// A call trapped; whether to listen from now on, if there is a CPU for it.
    fn trapped(&mut self) -> bool {
        let now = Instant::now();
        let gap = now.duration_since(self.last);
        self.last = now;
        if gap > PAUSE {
            self.calls = 0;
            return false;
        }
        self.gap = (self.gap * 15 + gap) / 16;
        self.calls += 1;
        self.calls >= self.wanted && self.gap < GAP
    }

    fn begin(&mut self, home: usize) {
        self.home = Some(home);
        self.calls = 0;
    }

    fn end(&mut self) {
        self.wanted = match self.calls {
            0..GOOD_SESSION => (self.wanted * 2).min(MOST_BURST),
            _ => (self.wanted / 2).max(BURST),
        };
        self.calls = 0;
        self.last = Instant::now();
    }
}

impl Runner {
    fn call_word(&self, offset: u64) -> usize {
        self.base + (AREA_CALL + offset) as usize
    }

    fn put(&self, offset: u64, value: u64) {
        self.area.store(self.call_word(offset), value);
    }

    fn get(&self, offset: u64) -> u64 {
        self.area.load(self.call_word(offset))
    }

    /// Makes the area say nothing.
    pub(crate) fn clear_gate(&self) {
        for number in 0..ANSWERS {
            self.area.store(self.base + AREA_ANSWERS as usize + number * 8, u64::MAX);
        }
        for word in [call::LISTENING, call::STATE, call::WAITING] {
            self.put(word, 0);
        }
    }

    /// Has the gate answer for this thread.
    pub(crate) fn load_answers(&self, inner: &mut Inner, answers: &Answers) {
        if Arc::ptr_eq(&inner.answers, answers) {
            return;
        }
        let place = |number: u8| self.base + AREA_ANSWERS as usize + usize::from(number) * 8;
        for (number, _) in inner.answers.iter() {
            self.area.store(place(*number), u64::MAX);
        }
        for (number, value) in answers.iter() {
            self.area.store(place(*number), *value);
        }
        inner.answers = answers.clone();
    }

    /// The handler's frame may show the runner inside the gate. Afterwards it shows it at the `syscall` instruction that the call came from, or
    /// behind it when the call has been answered.
    pub(crate) fn leave_gate(&self) {
        let frame = self.uc_offset() + uc::GREGS;
        let (rax, rcx, rip) = (frame + 13 * 8, frame + 14 * 8, frame + 16 * 8);
        let a = &self.addresses;
        let ip = self.area.load(rip);
        if !(a.gate..a.gate_end).contains(&ip) {
            return;
        }
        if ip < a.gate_posted || ip >= a.gate_answered {
            let to = self.area.load(rcx);
            let known = ip == a.gate_known || ip == a.gate_answered;
            self.area.store(rip, to.wrapping_add(if known { SYSCALL_LEN } else { 0 }));
            return;
        }
        let site = self.get(call::SITE);
        if self.get(call::STATE) == state::ANSWERED {
            self.area.store(rip, site.wrapping_add(SYSCALL_LEN));
            self.area.store(rax, self.get(call::RESULT));
        } else {
            self.area.store(rip, site);
            self.area.store(rax, self.get(call::NR));
        }
        self.drop_call();
    }

    /// Forgets the call in the area.
    pub(crate) fn drop_call(&self) {
        self.put(call::STATE, state::NONE);
        self.put(call::WAITING, 0);
    }

    /// Answers the call that the runner waits with.
    pub(crate) fn answer_call(&self, result: u64) {
        self.put(call::RESULT, result);
        self.area.swap(self.call_word(call::STATE), state::ANSWERED);
    }

    /// Takes the call that waits in the area, if there is one.
    fn take_call(&self) -> Option<Heard> {
        let word = self.call_word(call::STATE);
        if self.area.load(word) != state::POSTED || !self.area.exchange(word, state::POSTED, state::TAKEN) {
            return None;
        }
        let args = std::array::from_fn(|i| self.get(call::ARGS + 8 * i as u64));
        Some(Heard::Call { nr: self.get(call::NR), args, site: self.get(call::SITE) })
    }

    /// The session is interrupted by something that is not a call through the gate: it ends unless it has been worth it.
    fn go_on_listening(&self, inner: &mut Inner) {
        match inner.pace.calls {
            0..GOOD_SESSION => self.come_home(inner),
            _ => inner.pace.calls = 0,
        }
    }

    /// Waits until the runner does something.
    pub(crate) fn hear(&self, inner: &mut Inner, spare: &dyn Fn() -> Option<usize>) -> Result<Heard, Fatal> {
        // Somebody else has work for the CPU that it was moved to.
        if inner.pace.home.is_some() && spare().is_none() {
            self.come_home(inner);
        }
        loop {
            if inner.pace.home.is_some() && self.get(call::WAITING) == 0 {
                match self.listen() {
                    Silence::Call(heard) => {
                        inner.pace.calls = inner.pace.calls.saturating_add(1);
                        return Ok(heard);
                    }
                    Silence::Notification => self.go_on_listening(inner),
                    Silence::Time => self.come_home(inner),
                }
            } else if inner.pace.home.is_some() {
                self.go_on_listening(inner);
            }
            if let Some(heard) = self.take_call() {
                return Ok(heard);
            }
            let n = self.receive()?;
            if !self.is_wait(&n) {
                return Ok(Heard::Notification(n));
            }
            // Who sleeps until he is answered has been answered by now, and looks again.
            if self.get(call::STATE) != state::ANSWERED {
                return Err(Runner::intrusion(&n));
            }
            self.answer(n.id, 0)?;
        }
    }

    /// Looks for a call for a while.
    fn listen(&self) -> Silence {
        const LOOKS: u32 = 50;
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if let Some(heard) = self.take_call() {
                    return Silence::Call(heard);
                }
                std::hint::spin_loop();
            }
            if self.get(call::WAITING) != 0 || sys::is_ready(self.listener()) {
                return Silence::Notification;
            }
            if start.elapsed() > LISTEN {
                return Silence::Time;
            }
        }
    }

    /// The runner trapped with a call: moves it to a CPU of its own when that pays. `spare` names one that has nothing to do.
    pub(crate) fn consider_listening(&self, inner: &mut Inner, spare: &dyn Fn() -> Option<usize>) {
        if inner.pace.home.is_none() && inner.pace.trapped() {
            match spare() {
                Some(cpu) => {
                    sys::bind(self.pid, cpu);
                    inner.pace.begin(sys::current_cpu());
                    self.put(call::LISTENING, 1);
                }
                None => inner.pace.calls = 0,
            }
        }
    }

    /// The end of a session: the runner shares its owner's CPU again.
    pub(crate) fn come_home(&self, inner: &mut Inner) {
        if let Some(home) = inner.pace.home.take() {
            self.area.swap(self.call_word(call::LISTENING), 0);
            sys::bind(self.pid, home);
            inner.pace.end();
        }
    }
}

/// Length of the `syscall` instruction.
pub(crate) const SYSCALL_LEN: u64 = 2;
