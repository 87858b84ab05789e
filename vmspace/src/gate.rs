//! The gate: system calls that patched guest code makes without trapping (`gate.s`).
//!
//! The gate answers from the runner's area what has a constant answer for the thread, and some calls that concern nothing but the thread's own state; every other
//! call it leaves in the area, and waits: awake while the owner *listens*, which takes a host CPU for each side, asleep in a notification otherwise. There it
//! saves the thread's registers and loads another's when it is told to. Everything that it says is guest memory: read once, and good for nothing
//! but the guest's own registers.

use crate::context::{Answers, Offers, StatOffer, Views};
use crate::frame::place_offset;
use crate::layout::{ANSWERS, AREA_ANSWERS, AREA_CALL, answer, call, order, trap, uc};
use crate::runner::{Fatal, Inner, Runner};
use crate::sys::{self, Notification};
use std::sync::Arc;

/// Length of the `syscall` instruction.
pub(crate) const SYSCALL_LEN: u64 = 2;

/// What [`uc::LINK`] is in a frame that the owner has done with, and one more for each time that its report came again, up to this.
const ANSWERED_FRAME: u64 = 1;
/// See [`ANSWERED_FRAME`]: guest code that makes up reports goes round in a ring so often.
const MOST_REPEATED: u64 = 16;

/// Where each of [`call::VIEWS`] begins.
fn view_words() -> impl Iterator<Item = u64> {
    (call::VIEWS..).step_by(call::VIEW_LEN as usize).take(call::VIEW_COUNT)
}

/// [`call::STAT_FD`] for none.
const NO_FILE: u64 = u32::MAX as u64;

/// What a runner did.
pub(crate) enum Heard {
    /// It is in a system call that trapped.
    Direct(Notification),
    /// It made this call through the gate, and waits, in the notification if there is one.
    Call { id: Option<u64>, nr: u64, args: [u64; 6], site: u64 },
    /// The signal handler reports with these arguments, and waits likewise.
    Trap { id: Option<u64>, args: [u64; 6] },
}

/// At which calls registers have been wanted lately: a bit for each number modulo 64.
#[derive(Default)]
pub(crate) struct Eager {
    /// For which the gate saves them.
    mask: u64,
    /// For which they have been wanted since it was looked through.
    wanted: u64,
    /// How many calls came since then.
    calls: u32,
}

impl Eager {
    /// After so many calls the mask is what was wanted meanwhile.
    const CALLS: u32 = 64;

    /// A call came; the mask if it has changed.
    fn count(&mut self) -> Option<u64> {
        if self.mask == 0 {
            return None;
        }
        self.calls += 1;
        if self.calls < Eager::CALLS {
            return None;
        }
        let before = std::mem::replace(&mut self.mask, std::mem::take(&mut self.wanted));
        self.calls = 0;
        (self.mask != before).then_some(self.mask)
    }

    /// They are wanted at call `nr`; the mask if it has changed.
    fn want(&mut self, nr: u64) -> Option<u64> {
        let bit = 1 << (nr % 64);
        self.wanted |= bit;
        let new = self.mask & bit == 0;
        self.mask |= bit;
        new.then_some(self.mask)
    }
}

impl Runner {
    /// The stack pointer of the thread that waits in the gate with a call.
    pub(crate) fn stack_pointer(&self) -> u64 {
        self.get(call::SP)
    }

    fn call_word(&self, offset: u64) -> usize {
        self.base + (AREA_CALL + offset) as usize
    }

    pub(crate) fn put(&self, offset: u64, value: u64) {
        self.area.store(self.call_word(offset), value);
    }

    /// The same where the word most often is what it shall be: the runner need not fetch its line again.
    fn put_new(&self, offset: u64, value: u64) {
        if self.get(offset) != value {
            self.put(offset, value);
        }
    }

    pub(crate) fn get(&self, offset: u64) -> u64 {
        self.area.load(self.call_word(offset))
    }

    pub(crate) fn swap(&self, offset: u64, value: u64) -> u64 {
        self.area.swap(self.call_word(offset), value)
    }

    /// Makes the area say nothing but where the clock is.
    pub(crate) fn clear_gate(&self, clock: Option<u64>) {
        for number in 0..ANSWERS {
            self.put_answer(number, answer::NONE);
        }
        for word in [
            call::LISTENING,
            call::CALL,
            call::ORDER,
            call::SEQUENCE,
            call::EAGER,
            call::TRAP,
            call::YIELDS,
            call::CLOSABLE,
            call::CLOSED,
        ] {
            self.put(word, 0);
        }
        self.put(call::STAT_FD, NO_FILE);
        self.end_views();
        for (number, says) in [
            (libc::SYS_close, answer::CLOSE),
            (libc::SYS_fstat, answer::FSTAT),
            (libc::SYS_newfstatat, answer::NEWFSTATAT),
            (libc::SYS_brk, answer::HEAP),
            (libc::SYS_mmap, answer::MAPS),
        ] {
            self.put_answer(number as usize, says);
        }
        self.put(call::PLACE, place_offset(0));
        self.put(call::COMPONENTS, self.components());
        if let Some(clock) = clock {
            self.put(call::CLOCK, clock);
            for (number, says) in [
                (libc::SYS_clock_gettime, answer::CLOCK),
                (libc::SYS_pread64, answer::VIEW),
                (libc::SYS_pwrite64, answer::VIEW),
            ] {
                self.put_answer(number as usize, says);
            }
        }
    }

    fn put_answer(&self, number: usize, value: u64) {
        self.area.store(self.base + AREA_ANSWERS as usize + number * 8, value);
    }

    /// Has the gate answer for this thread.
    pub(crate) fn load_answers(&self, inner: &mut Inner, answers: &Answers) {
        if Arc::ptr_eq(&inner.answers, answers) {
            return;
        }
        for (number, _) in inner.answers.iter() {
            self.put_answer(usize::from(*number), answer::NONE);
        }
        for (number, value) in answers.iter() {
            self.put_answer(usize::from(*number), *value);
        }
        inner.answers = answers.clone();
    }

    /// Has the gate do for the thread what it offers.
    pub(crate) fn load_offers(&self, inner: &mut Inner, offers: &Offers) {
        if let Some(mask) = offers.sigmask {
            self.put_new(call::SIGMASK, mask);
        }
        if inner.offers.sigmask.is_some() != offers.sigmask.is_some() {
            let says = if offers.sigmask.is_some() { answer::SIGMASK } else { answer::NONE };
            self.put_answer(libc::SYS_rt_sigprocmask as usize, says);
        }
        if let Some(actions) = offers.actions {
            self.put_new(call::DEFAULTS, actions.defaults);
            self.put_new(call::PLAIN, actions.plain);
            self.put_new(call::RESTORER, actions.restorer);
        }
        if inner.offers.actions.is_some() != offers.actions.is_some() {
            let says = if offers.actions.is_some() { answer::ACTIONS } else { answer::NONE };
            self.put_answer(libc::SYS_rt_sigaction as usize, says);
        }
        if inner.offers.yields != offers.yields {
            self.put_answer(libc::SYS_sched_yield as usize, if offers.yields { 0 } else { answer::NONE });
        }
        if offers.closable | inner.offers.closable != 0 {
            self.put_new(call::CLOSABLE, offers.closable);
        }
        inner.offers = *offers;
    }

    /// Has the gate tell the thread this, if it is not what it tells already.
    pub(crate) fn load_stat(&self, inner: &mut Inner, stat: &Option<Arc<StatOffer>>) {
        if inner.stat.as_ref().map(Arc::as_ptr) == stat.as_ref().map(Arc::as_ptr) {
            return;
        }
        self.put(call::STAT_FD, NO_FILE);
        if let Some(offer) = stat {
            for (word, offset) in offer.stat.iter().zip((call::STAT..).step_by(8)) {
                self.put(offset, *word);
            }
            self.put(call::STAT_VERSION, offer.version);
            self.put(call::STAT_FD, u64::from(offer.fd));
        }
        inner.stat = stat.clone();
    }

    /// Has the gate read and write these files for the thread.
    pub(crate) fn load_views(&self, inner: &mut Inner, views: &Views) {
        if inner.views == *views {
            return;
        }
        self.end_views();
        self.put(call::VIEWS_VERSION, views.version);
        for (view, at) in views.files.iter().zip(view_words()) {
            if let Some(view) = view {
                self.put(at + 8, view.header);
                self.put(at + 16, view.content);
                self.put(at, u64::from(view.fd));
            }
        }
        inner.views = *views;
    }

    fn end_views(&self) {
        view_words().for_each(|at| self.put(at, NO_FILE));
    }

    /// Which of the descriptors that it might it has closed.
    pub(crate) fn take_closed(&self, inner: &Inner) -> u64 {
        if inner.offers.closable == 0 {
            return 0;
        }
        let closed = self.get(call::CLOSED);
        if closed != 0 {
            self.put(call::CLOSED, 0);
        }
        closed & inner.offers.closable
    }

    /// A call came: ends the saving of registers at calls where nobody has wanted them for long.
    pub(crate) fn count_eager(&self, inner: &mut Inner) {
        if let Some(mask) = inner.eager.count() {
            self.put(call::EAGER, mask);
        }
    }

    /// The registers are wanted at call `nr`.
    pub(crate) fn want(&self, inner: &mut Inner, nr: u64) {
        if let Some(mask) = inner.eager.want(nr) {
            self.put(call::EAGER, mask);
        }
    }

    /// Forgets the call in the area.
    pub(crate) fn drop_call(&self, inner: &mut Inner) {
        inner.call = (self.get(call::CALL) >> 32) as u32;
    }

    /// What the runner was told to do about a call.
    pub(crate) fn order_for(&self, sequence: u32) -> Option<u32> {
        let order = (self.get(call::ORDER) as u32).wrapping_sub(sequence);
        (order::SAVE..=order::WITHDRAW).contains(&order).then_some(order)
    }

    /// Tells a runner that waits in the gate what to do.
    pub(crate) fn give_order(&self, inner: &Inner, id: Option<u64>, order: u32) -> Result<(), Fatal> {
        self.put(call::ORDER, u64::from(inner.call.wrapping_add(order)));
        self.wake(id)
    }

    /// Lets the handler go on.
    pub(crate) fn leave_handler(&self, id: Option<u64>) -> Result<(), Fatal> {
        match id {
            Some(_) => {
                self.area.store(self.link_offset(), ANSWERED_FRAME);
                self.wake(id)
            }
            None => {
                self.swap(call::TRAP, trap::ANSWERED);
                Ok(())
            }
        }
    }

    fn link_offset(&self) -> usize {
        self.uc_offset() + uc::LINK
    }

    /// Counts a report that the owner has answered already; whether it is one.
    pub(crate) fn count_repeated(&self, n: &Notification) -> bool {
        if !self.is_trap(n) {
            return false;
        }
        let link = self.area.load(self.link_offset());
        let repeated = (ANSWERED_FRAME..ANSWERED_FRAME + MOST_REPEATED).contains(&link);
        if repeated {
            self.area.store(self.link_offset(), link + 1);
        }
        repeated
    }

    /// Ends the notification that a runner sleeps in.
    pub(crate) fn wake(&self, id: Option<u64>) -> Result<(), Fatal> {
        let Some(id) = id else { return Ok(()) };
        // If it is not there, a kick was faster, and it is on its way into the handler; or somebody has stopped it, and it will say the same again.
        let answered = sys::answer(self.listener(), id, 0);
        answered.map(drop).map_err(|e| format!("can't go on with a guest: {e}"))
    }

    /// Takes the call or the report that waits in the area. `last` is the last call that was taken, and `id` the notification that the runner
    /// sleeps in.
    pub(crate) fn take(&self, last: &mut u32, id: Option<u64>) -> Option<Heard> {
        let call = self.get(call::CALL);
        let (nr, sequence) = (u64::from(call as u32), (call >> 32) as u32);
        if sequence != *last {
            *last = sequence;
            let args = std::array::from_fn(|i| self.get(call::ARGS + 8 * i as u64));
            return Some(Heard::Call { id, nr, args, site: self.get(call::SITE) });
        }
        // The handler takes a report back to make it by a call when nobody listens.
        if id.is_none()
            && self.get(call::TRAP) == trap::POSTED
            && self.area.exchange(self.call_word(call::TRAP), trap::POSTED, trap::TAKEN)
        {
            let mut args = std::array::from_fn(|i| self.get(call::TRAP_ARGS + 8 * i as u64));
            args[5] = 0;
            // A made-up one says that somebody else wrote it; the runner has its way.
            return self.is_report(&args).then_some(Heard::Trap { id: None, args });
        }
        None
    }

    /// What a notification is about; `None` when its sender has something to do already, and goes on.
    pub(crate) fn classify(&self, inner: &mut Inner, n: &Notification) -> Result<Option<Heard>, Fatal> {
        if self.is_wait(n) {
            if n.ip == self.addresses.gate.waited
                && let Some(heard) = self.take(&mut inner.call, Some(n.id))
            {
                return Ok(Some(heard));
            }
            let busy = match n.ip == self.addresses.gate.waited {
                true => self.order_for(inner.call).is_some(),
                false => self.get(call::TRAP) == trap::ANSWERED,
            };
            if !busy {
                return Err(Runner::intrusion(n));
            }
            if !inner.pace.is_shared() {
                inner.pace.disturbed();
            }
            inner.turns.has_slept();
            return self.wake(Some(n.id)).map(|()| None);
        }
        if inner.pace.in_session() {
            inner.pace.disturbed();
            self.reconsider(inner);
        }
        if !crate::runner::from_stub(n) {
            return Ok(Some(Heard::Direct(*n)));
        }
        if !self.is_trap(n) {
            return Err(Runner::intrusion(n));
        }
        Ok(Some(Heard::Trap { id: Some(n.id), args: n.args }))
    }
}
