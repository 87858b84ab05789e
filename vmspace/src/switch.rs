//! Giving a runner other registers: taking out those that it holds, and loading a context's.

use crate::context::{Cell, Context, Full, Place, Withdrawal};
use crate::engine::{KICK, lock};
use crate::layout::{call, order};
use crate::runner::{Fatal, Inner, Mode, Runner};
use crate::sys::{self, Notification};
use crate::trust;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a runner is asked to save registers before it is kicked.
const MOST_ASKED: u32 = 4;
/// How long to look for the registers before asking the host.
const LOOK: Duration = Duration::from_micros(20);

impl Runner {
    /// Sends the runner into guest code with the context's registers.
    pub(crate) fn enter(self: &Arc<Runner>, inner: &mut Inner, context: &mut Context) -> Result<(), Fatal> {
        let result = context.result.take();
        let place = inner.holds(&context.cell).or_else(|| lock(&context.cell.state).place_in(self));
        match (place, inner.mode) {
            // An answer that a kick meets may be lost: the host takes it, and makes the call again all the same.
            (Some(Place::Direct), Mode::Direct { nr, ip, .. }) if self.kick_is_under_way() => {
                sys::kill(self.pid, KICK);
                let args = self.kicked_out(inner)?;
                self.evicted(inner, &args, nr, ip);
            }
            (Some(Place::Direct), Mode::Direct { id, nr, ip }) => {
                let answered = sys::answer(self.listener(), id, result.unwrap_or(nr));
                if answered.map_err(|e| format!("can't answer a system call: {e}"))? {
                    return Ok(());
                }
                // A kick was faster, and the runner is on its way into the handler; or somebody has stopped it.
                let args = self.kicked_out(inner)?;
                self.evicted(inner, &args, nr, ip);
            }
            (Some(Place::Gate), Mode::Taken { id, nr, .. }) => {
                self.put(call::RESULT, result.unwrap_or(nr));
                inner.withdrawn = context.withdraws.take();
                let Some(Withdrawal { at, len, rights }) = inner.withdrawn else {
                    return self.give_order(inner, id, order::ANSWERED);
                };
                self.put(call::WITHDRAW, at);
                self.put(call::WITHDRAW + 8, len);
                self.put(call::WITHDRAW + 16, rights as u64);
                return self.give_order(inner, id, order::WITHDRAW);
            }
            (Some(Place::Frame), Mode::Handler { id }) => {
                if let Some(result) = result {
                    self.set_result(result);
                }
                self.write_bases(inner);
                return self.leave_handler(id);
            }
            _ => {}
        }
        // Somebody else's registers, or nobody's: make room, then load.
        self.make_room(inner)?;
        if let Some(Place::Kept { place, nr }) = place {
            if let Mode::Free { id } = inner.mode {
                self.set_place_result(place, result.unwrap_or(nr));
                lock(&context.cell.state).leave_place();
                self.use_place(inner, place);
                return self.give_order(inner, id, order::LOAD);
            }
            lock(&context.cell.state).take_from(self, place);
        }
        self.use_free_place(inner);
        let mut state = lock(&context.cell.state);
        let Some(full) = state.full() else { return Err("the registers are elsewhere".into()) };
        if let Some(result) = result {
            full.regs.rax = result;
        }
        if let Mode::Free { id } = inner.mode {
            if self.can_load(full) {
                self.write_place(inner, full);
                return self.give_order(inner, id, order::LOAD);
            }
            self.kick_out(inner)?;
            self.drop_call(inner);
        }
        let Mode::Handler { id } = inner.mode else { return Err("the runner is not in its handler".into()) };
        let fpu = self.acceptable_fpu(&full.fpu).unwrap_or_default();
        self.write_frame(inner, &Full { regs: full.regs, fpu });
        self.leave_handler(id)
    }

    /// Whether [`Runner::enter`] answers a call of the context that trapped.
    pub(crate) fn will_answer(&self, inner: &Inner, context: &Context) -> bool {
        matches!(inner.mode, Mode::Direct { .. }) && inner.holds(&context.cell) == Some(Place::Direct)
    }

    /// Whether [`Runner::enter`] answers a call of the context that came through the gate.
    pub(crate) fn will_answer_in_gate(&self, inner: &Inner, context: &Context) -> bool {
        matches!(inner.mode, Mode::Taken { .. }) && inner.holds(&context.cell) == Some(Place::Gate)
    }

    /// Takes whoever's registers it holds out of it.
    pub(crate) fn evict(&self, inner: &mut Inner) -> Result<(), Fatal> {
        match inner.mode {
            Mode::Direct { nr, ip, .. } => {
                let args = self.kick_out(inner)?;
                self.evicted(inner, &args, nr, ip);
            }
            Mode::Taken { id, nr, ip } => {
                self.make_free(inner, id, nr, ip)?;
                if let Some(owner) = inner.owner.take() {
                    let place = inner.places.current();
                    lock(&owner.cell.state).settle(|full| self.read_place(place, nr, full));
                }
            }
            Mode::Handler { .. } => {
                if let Some(owner) = inner.owner.take() {
                    lock(&owner.cell.state).settle(|full| self.read_frame(inner, full));
                }
            }
            Mode::Free { .. } => {}
        }
        Ok(())
    }

    /// The same, but registers that the gate can save stay in its area.
    fn make_room(self: &Arc<Runner>, inner: &mut Inner) -> Result<(), Fatal> {
        let Mode::Taken { id, nr, ip } = inner.mode else { return self.evict(inner) };
        self.make_free(inner, id, nr, ip)?;
        if let Some(owner) = inner.owner.take() {
            self.keep(inner, owner.cell, nr);
        }
        Ok(())
    }

    /// A copy of the registers of a thread that waits in the gate with a call, and goes on with them; `None` when it does not.
    pub(crate) fn peek(&self, inner: &mut Inner, cell: &Arc<Cell>) -> Option<Full> {
        let Mode::Taken { id, nr, ip } = inner.mode else { return None };
        // Who fails finds out again when the thread goes on.
        if inner.holds(cell).is_none() || !self.have_saved(inner, id, nr, ip).unwrap_or(false) {
            return None;
        }
        let mut full = Full::default();
        self.read_place(inner.places.current(), nr, &mut full);
        Some(full)
    }

    /// [`Runner::have_saved`], after which it holds nobody's registers any more.
    fn make_free(&self, inner: &mut Inner, id: Option<u64>, nr: u64, ip: u64) -> Result<(), Fatal> {
        if self.have_saved(inner, id, nr, ip)?
            && let Mode::Taken { id, .. } = inner.mode
        {
            inner.mode = Mode::Free { id };
        }
        Ok(())
    }

    /// Has the registers of a call through the gate saved in its place, if they are not. A runner that can't is kicked, and they go to their owner: then it is
    /// false.
    fn have_saved(&self, inner: &mut Inner, id: Option<u64>, nr: u64, ip: u64) -> Result<bool, Fatal> {
        let mut id = id;
        self.want(inner, nr);
        if self.get(call::SAVED) == 0 {
            let awake = id.is_none();
            self.give_order(inner, id.take(), order::SAVE)?;
            let start = Instant::now();
            let mut asked = 1;
            while self.get(call::SAVED) == 0 {
                if awake && start.elapsed() < LOOK {
                    match inner.turns.are_on() {
                        true => sys::yield_cpu(),
                        false => std::hint::spin_loop(),
                    }
                    continue;
                }
                // It says by a notification that it has nothing more to do. Another thread may have told it something else meanwhile; or it looks for
                // orders elsewhere, and will never hear this one.
                if asked == MOST_ASKED || !sys::is_ready_within(self.listener(), trust::LOOK) {
                    inner.mode = Mode::Taken { id: None, nr, ip };
                    let args = self.kick_out(inner)?;
                    self.evicted(inner, &args, nr, ip);
                    return Ok(false);
                }
                let n = self.receive()?;
                if !self.is_wait(&n) {
                    // A kick took it out of the gate.
                    let args = self.in_handler(inner, &n)?;
                    self.evicted(inner, &args, nr, ip);
                    return Ok(false);
                }
                if self.get(call::SAVED) != 0 {
                    id = Some(n.id);
                } else {
                    self.give_order(inner, Some(n.id), order::SAVE)?;
                    asked += 1;
                }
            }
        }
        inner.mode = Mode::Taken { id, nr, ip };
        Ok(true)
    }

    /// Takes the runner into its handler from wherever it waits. Returns the arguments of its report.
    pub(crate) fn kick_out(&self, inner: &mut Inner) -> Result<[u64; 6], Fatal> {
        inner.pace.disturbed();
        self.come_home(inner);
        sys::kill(self.pid, KICK);
        self.kicked_out(inner)
    }

    /// A kick takes the runner into its handler. Returns the arguments of its report.
    fn kicked_out(&self, inner: &mut Inner) -> Result<[u64; 6], Fatal> {
        let n = self.report_of_kick()?;
        self.in_handler(inner, &n)
    }

    /// The runner is in its handler if this is its report. Returns the arguments.
    pub(crate) fn in_handler(&self, inner: &mut Inner, n: &Notification) -> Result<[u64; 6], Fatal> {
        if !self.is_trap(n) {
            return Err(Runner::intrusion(n));
        }
        inner.mode = Mode::Handler { id: Some(n.id) };
        if n.args[0] == KICK as u64 {
            self.kick_was_reported();
        }
        Ok(n.args)
    }

    /// A kick took the runner out of a call. The frame is made to look as if the call had been made and the owner's answer, if there is one,
    /// had come.
    fn evicted(&self, inner: &mut Inner, args: &[u64; 6], nr: u64, ip: u64) {
        inner.bases = Runner::bases(args);
        self.leave_gate(inner);
        self.drop_call(inner);
        if let Some(owner) = inner.owner.take() {
            lock(&owner.cell.state).settle(|full| {
                self.read_frame(inner, full);
                full.regs.rip = ip;
                full.regs.rcx = ip;
                full.regs.r11 = full.regs.eflags;
                full.regs.rax = nr;
            });
        }
    }
}
