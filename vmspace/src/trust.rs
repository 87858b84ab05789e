//! What guest code may have done to the host task that it ran in, and how that is found out or undone.
//!
//! `rt_sigreturn` is the one call that guest code can make unseen. With a forged frame it changes what else belongs to the task: the signal mask, so
//! that a kick is not answered, and the alternate stack, so that later frames lie elsewhere. Neither may outlast the process that did it,
//! and no owner may wait for it.

use crate::area::Area;
use crate::context::Full;
use crate::engine::KICK;
use crate::layout::{self, AREA_LEN, AREA_STACK, uc};
use crate::runner::{Fatal, Inner, Mode, Runner, from_stub};
use crate::sys::{self, Notification};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How long nobody asks why a kick is not answered.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// How long to look whether it sleeps before doing so oneself.
const SOON: Duration = Duration::from_micros(50);
/// How much CPU time a runner may use with a kick unanswered before the address space counts as hostile, in nanoseconds. Time on the clock
/// says nothing: on a busy host it may be long before a runner runs at all, or before the thread that drives it sees what it reported.
pub(crate) const KICK_PATIENCE_NS: u64 = 100_000_000;
/// Why it ends then.
pub(crate) const UNKICKABLE: &str = "guest code blocked the signal that interrupts it";
/// How many kicks a task can have pending when its signal mask is emptied: one of each way of sending.
const MOST_PENDING: usize = 4;

/// The first frame of the engine's first runner, from before there was any guest code: what a fresh thread has, and where frames lie in every area.
#[derive(Clone)]
pub(crate) struct Fresh {
    /// Offset of `ucontext_t` in an area.
    pub uc: usize,
    /// Offset of the floating-point image in an area, and its length.
    pub fpu: (usize, usize),
    uc_image: [u8; uc::LEN],
    pub fpu_image: Vec<u8>,
}

impl Fresh {
    /// Takes it out of the frame that the runner whose area starts at offset `base` has reported. No guest code may have run in the address space.
    pub(crate) fn take(area: &Area, base: usize, ucontext: u64) -> Option<Fresh> {
        let at = layout::STATE + base as u64;
        let within = |a: u64, len: usize| {
            a >= at && a % 8 == 0 && a.checked_add(len as u64).is_some_and(|end| end <= at + AREA_LEN)
        };
        if !within(ucontext, uc::LEN) {
            return None;
        }
        let mut uc_image = [0; uc::LEN];
        let uc = (ucontext - at) as usize;
        area.read(base + uc, &mut uc_image);
        let fpstate = area.load(base + uc + uc::FPSTATE);
        if !within(fpstate, 576) {
            return None;
        }
        let fpu = (fpstate - at) as usize;
        // `struct _fpx_sw_bytes` at 464: magic, extended size.
        let sw = area.load(base + fpu + 464);
        let (magic, extended) = (sw as u32, (sw >> 32) as usize);
        let len = if magic == 0x4650_5853 { extended } else { 512 };
        if len < 512 || !within(fpstate, len) {
            return None;
        }
        let mut fpu_image = vec![0; len];
        area.read(base + fpu, &mut fpu_image);
        // The program had no state yet but the initial one: `XSTATE_BV` says so with fewer bytes to load.
        if let Some(in_use) = fpu_image.get_mut(512..520) {
            in_use.fill(0);
        }
        Some(Fresh { uc, fpu: (fpu, len), uc_image, fpu_image })
    }

    /// The `ucontext_t` of a runner whose area starts at this address.
    pub(crate) fn ucontext(&self, at: u64) -> [u8; uc::LEN] {
        let mut image = self.uc_image;
        let mut put =
            |offset: usize, word: u64| image[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        put(uc::STACK, at + AREA_STACK);
        put(uc::FPSTATE, at + self.fpu.0 as u64);
        image
    }
}

impl Runner {
    /// Waits for the handler's report after a kick.
    pub(crate) fn report_of_kick(&self) -> Result<Notification, Fatal> {
        let mut before = None;
        loop {
            if sys::is_ready_within(self.listener(), LOOK) {
                let n = self.receive()?;
                if !from_stub(&n) {
                    // It makes a call of guest code again, which a kick ends.
                    sys::kill(self.pid, KICK);
                } else if !self.is_wait(&n) {
                    return Ok(n);
                }
                // Or it went to sleep in the gate just before.
                continue;
            }
            // A task that a signal can reach does not sleep while one is pending. One that it can't reach, and that has nothing to say, waits
            // for an answer that the caller would not give: guest code has blocked the signal, or has made the caller believe that it is elsewhere.
            let stuck = sys::sleeps_through(self.pid, KICK) && !sys::is_ready(self.listener());
            let now = sys::cpu_time_ns(self.pid);
            if stuck || now > *before.get_or_insert(now) + KICK_PATIENCE_NS {
                return Err(UNKICKABLE.into());
            }
            // The kick may have been taken and its report lost, when guest code wrote over the words by which the handler waits.
            sys::kill(self.pid, KICK);
        }
    }

    /// Waits until the runner sleeps, as the host says: by its memory, where it only waits for orders, guest code may say so and run on. Nobody listens to it any more.
    pub(crate) fn stop(&self, inner: &mut Inner) -> Result<(), Fatal> {
        let (Mode::Taken { id, .. } | Mode::Free { id } | Mode::Handler { id }) = &mut inner.mode else {
            return Ok(());
        };
        if id.is_some() {
            return Ok(());
        }
        let start = Instant::now();
        while !sys::is_ready(self.listener()) {
            if start.elapsed() > SOON && !sys::is_ready_within(self.listener(), LOOK) {
                return self.kick_out(inner).map(drop);
            }
        }
        let n = self.receive()?;
        if self.is_wait(&n) {
            // The handler looks at its words when it wakes up, the gate only at its orders.
            match n.ip == self.addresses.rested {
                true => inner.rests = Some(n.id),
                false => *id = Some(n.id),
            }
            return Ok(());
        }
        if !from_stub(&n) {
            return self.kick_out(inner).map(drop);
        }
        self.in_handler(inner, &n).map(drop)
    }

    /// Takes whoever's registers it holds out of it, and has it go to its handler, if it is not there. Waits for that, so it does that where the calling thread runs: its own host CPU may be
    /// somebody else's by now, who waits for the calling thread.
    pub(crate) fn go_to_handler(&self, inner: &mut Inner) -> Result<(), Fatal> {
        if !matches!(inner.mode, Mode::Handler { .. }) {
            self.stay_here();
        }
        self.evict(inner)?;
        if !matches!(inner.mode, Mode::Handler { .. }) {
            self.kick_out(inner)?;
        }
        inner.owner = None;
        Ok(())
    }

    /// Begins to take everything out of the task, which is in its handler, that the guest code which ran in it may have left there; the address space has nothing mapped at address
    /// zero. It goes through an empty frame, which sets mask and stack, and has to report a fault at address zero from the right place. The stack pointer
    /// is zero meanwhile: the host does not change an alternate stack that it points into.
    pub(crate) fn begin_cleansing(&self, inner: &mut Inner) -> Result<(), Fatal> {
        self.write_frame(inner, &Full::default());
        self.leave_frame(inner)
    }

    fn leave_frame(&self, inner: &mut Inner) -> Result<(), Fatal> {
        let Mode::Handler { id } = inner.mode else {
            return Err("the runner is not in its handler".into());
        };
        self.leave_handler(id)?;
        self.wake(inner.rests.take())
    }

    /// Waits for the end of that.
    pub(crate) fn finish_cleansing(&self, inner: &mut Inner) -> Result<(), Fatal> {
        for _ in 0..MOST_PENDING {
            let mut n = self.receive_new()?;
            if self.is_wait(&n) {
                // It went to sleep just before.
                self.wake(Some(n.id))?;
                n = self.receive()?;
            }
            let args = self.in_handler(inner, &n)?;
            inner.bases = Runner::bases(&args);
            if args[0] as i32 == libc::SIGSEGV {
                return Ok(());
            }
            self.leave_frame(inner)?;
        }
        Err(UNKICKABLE.into())
    }
}

/// Makes the areas of an address space say nothing: what every runner uses of its own is overwritten, and everything behind that goes back to the host.
pub(crate) fn clear_areas(control: &impl AsRawFd, area: &Area, offset: u64, runners: usize) {
    // The words, the stack, and one place for registers.
    const USED: u64 = layout::AREA_PLACES + layout::PLACE_LEN;
    for runner in 0..runners as u64 {
        let at = runner * AREA_LEN;
        area.clear(at as usize, (at + USED) as usize);
        let end = if runner + 1 == runners as u64 { layout::STATE_LEN } else { at + AREA_LEN };
        let unused = offset + at + USED..offset + end;
        if sys::has_data(control, unused.clone()) {
            sys::punch_hole(control, unused);
        }
    }
}
