//! Runners: the host tasks that run guest code, one per virtual CPU of an address space.
//!
//! A runner is always in one of four places: in guest code; parked in a *direct* notification, that is in a system call of guest code
//! whose other registers nobody but the host knows; the same, but in the gate; or parked in the stub's handler, where the whole state lies in
//! the signal frame. Only in the handler can it be given other registers; a kick takes it there from a call.
//!
//! Lock order: a runner's `inner`, then a context's cell.

use crate::area::Area;
use crate::context::{Answers, Cell, Full, Place, Regs};
use crate::engine::{KICK, SIGNALS, lock};
use crate::gate::Pace;
use crate::layout::{self, nr, uc};
use crate::stub::{self, Addresses};
use crate::sys::{self, Notification};
use crate::trust::{Fresh, KICK_PATIENCE_NS, UNKICKABLE};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Where a parked runner waits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// In a system call of guest code: notification, number, address behind the instruction.
    Direct { id: u64, nr: u64, ip: u64 },
    /// In a system call that it made through the gate: number, address behind the instruction.
    Taken { nr: u64, ip: u64 },
    /// In the stub's handler.
    Handler { id: u64 },
}

/// What only the thread that drives the runner touches.
pub(crate) struct Inner {
    pub mode: Mode,
    /// Whose registers it holds.
    pub owner: Option<Arc<Cell>>,
    /// FS and GS base at the last trap.
    pub bases: (u64, u64),
    /// What its gate answers.
    pub answers: Answers,
    /// Whether it has a CPU of its own.
    pub pace: Pace,
}

/// A host task that runs guest code.
pub(crate) struct Runner {
    pub pid: i32,
    listener: OwnedFd,
    pub area: Arc<Area>,
    /// Where its part of the area starts, as an offset and as the guest's address.
    pub base: usize,
    at: u64,
    /// Address of the `ucontext_t` of every frame: the stack is always empty when a signal comes.
    ucontext: u64,
    /// Offset of the floating-point image in the area, and its length.
    fpu: (usize, usize),
    /// `ucontext_t` and floating-point image of a fresh thread.
    fresh_uc: [u8; uc::LEN],
    fresh_fpu: Vec<u8>,
    pub addresses: Addresses,
    pub inner: Mutex<Inner>,
    pub in_guest: AtomicBool,
    pub kicked: AtomicBool,
    /// How often guest code has stopped.
    stops: AtomicU64,
    /// A kick that has been sent: the number of stops before, and the CPU time after it. Once the number has changed it is answered.
    sent: Mutex<(u64, u64)>,
    /// It was killed because it did not answer one.
    unkickable: AtomicBool,
    /// The virtual CPU that used it last.
    pub cpu: AtomicUsize,
}

/// Why an address space can't go on.
pub(crate) type Fatal = String;
/// One of its host tasks has ended, which none does by itself.
pub(crate) const KILLED: &str = "a host process of it was killed";

impl Runner {
    /// Takes over a new runner: waits for its first report. What fresh frames are is found out if it is the engine's first.
    pub(crate) fn adopt(
        listener: OwnedFd,
        area: Arc<Area>,
        index: usize,
        fresh: &OnceLock<Fresh>,
    ) -> io::Result<Runner> {
        let base = index * layout::AREA_LEN as usize;
        let at = layout::STATE + base as u64;
        let addresses = Addresses::get();
        let first = sys::receive(listener.as_fd())?;
        sys::set_sync_wake_up(listener.as_fd());
        let bad = |what: &str| io::Error::other(format!("a new runner misbehaved: {what}"));
        let ucontext = first.args[2];
        if first.nr as u64 != nr::TRAP || first.ip != addresses.trapped {
            return Err(bad("unexpected first call"));
        }
        let fresh = match fresh.get() {
            Some(fresh) => fresh,
            None => {
                let found = Fresh::take(&area, base, ucontext).ok_or_else(|| bad("unexpected frame"))?;
                fresh.get_or_init(|| found)
            }
        };
        // Guest code that runs beside a further runner can write to its area, but not to its registers.
        if ucontext != at + fresh.uc as u64 {
            return Err(bad("a frame elsewhere"));
        }
        let runner = Runner {
            pid: first.pid as i32,
            listener,
            area,
            base,
            at,
            ucontext,
            fpu: (base + fresh.fpu.0, fresh.fpu.1),
            fresh_uc: fresh.ucontext(at),
            fresh_fpu: fresh.fpu_image.clone(),
            addresses,
            inner: Mutex::new(Inner {
                mode: Mode::Handler { id: first.id },
                owner: None,
                bases: (0, 0),
                answers: Answers::default(),
                pace: Pace::new(),
            }),
            in_guest: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            stops: AtomicU64::new(0),
            sent: Mutex::new((u64::MAX, 0)),
            unkickable: AtomicBool::new(false),
            cpu: AtomicUsize::new(usize::MAX),
        };
        runner.clear_gate();
        Ok(runner)
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(crate) fn uc_offset(&self) -> usize {
        self.base + (self.ucontext - self.at) as usize
    }

    /// The next notification of this runner.
    pub(crate) fn receive(&self) -> Result<Notification, Fatal> {
        let ended = |why| if self.unkickable.load(Ordering::SeqCst) { UNKICKABLE.into() } else { why };
        receive(self.listener(), self.pid).map_err(ended)
    }

    /// Whether a notification is the handler's, of a signal that it handles, from a frame where frames are.
    pub(crate) fn is_trap(&self, n: &Notification) -> bool {
        let handled = SIGNALS.iter().any(|signo| *signo as u64 == n.args[0]);
        n.nr as u64 == nr::TRAP && n.ip == self.addresses.trapped && n.args[2] == self.ucontext && handled
    }

    /// Whether it is the gate's, which waits for an answer.
    pub(crate) fn is_wait(&self, n: &Notification) -> bool {
        n.nr as u64 == nr::WAIT && n.ip == self.addresses.gate_waited
    }

    /// What to say of a notification from the stub's text that nobody ordered.
    pub(crate) fn intrusion(n: &Notification) -> Fatal {
        format!("guest code made system call {} from the stub at {:#x}", n.nr, n.ip)
    }

    /// `siginfo_t`'s code and address of a trap.
    pub(crate) fn siginfo(&self, n: &Notification) -> (i32, u64) {
        let at = n.args[1];
        let end = self.at + layout::AREA_LEN - 32;
        if !(self.at..=end).contains(&at) || at % 8 != 0 {
            return (0, 0);
        }
        let offset = self.base + (at - self.at) as usize;
        (self.area.load(offset + 8) as i32, self.area.load(offset + 16))
    }

    /// Vector, error code and address of the fault that the frame is for.
    pub(crate) fn fault_words(&self) -> (u32, u32, u64) {
        let at = self.uc_offset();
        let word = |offset| self.area.load(at + offset);
        (word(uc::TRAPNO) as u32, word(uc::ERR) as u32, word(uc::CR2))
    }

    /// Copies the state out of the frame.
    pub(crate) fn read_frame(&self, inner: &Inner) -> Full {
        let at = self.uc_offset();
        let mut words = [0u64; 18];
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.area.load(at + uc::GREGS + i * 8);
        }
        let mut fpu = vec![0; self.fpu.1];
        self.area.read(self.fpu.0, &mut fpu);
        Full { regs: Regs::from_words(&words, inner.bases), fpu }
    }

    /// Puts a state into the frame; everything else in it becomes what it was at first.
    pub(crate) fn write_frame(&self, inner: &mut Inner, full: &Full) {
        let mut frame = self.fresh_uc;
        for (i, word) in full.regs.to_words().iter().enumerate() {
            frame[uc::GREGS + i * 8..uc::GREGS + i * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        frame[uc::SIGMASK..uc::SIGMASK + 8].fill(0);
        self.area.write(self.uc_offset(), &frame);
        let usable = full.fpu.len() == self.fpu.1;
        self.area.write(self.fpu.0, if usable { &full.fpu } else { &self.fresh_fpu });
        inner.bases = (full.regs.fs_base, full.regs.gs_base);
        self.write_bases(inner);
    }

    /// Tells the stub FS and GS base for the way back. A guest without a GS base of its own gets that of the area, by which the gate finds it.
    pub(crate) fn write_bases(&self, inner: &Inner) {
        let gs = if inner.bases.1 == 0 { self.at } else { inner.bases.1 };
        self.area.store(self.uc_offset() + uc::SPARE, inner.bases.0);
        self.area.store(self.uc_offset() + uc::SPARE + 8, gs);
    }

    /// FS and GS base of guest code as a report of the handler says.
    pub(crate) fn bases(n: &Notification) -> (u64, u64) {
        let areas = layout::STATE..layout::STATE + layout::STATE_LEN;
        (n.args[3], if areas.contains(&n.args[4]) { 0 } else { n.args[4] })
    }

    /// Merges a floating-point image of a guest's signal frame into one that this machine accepts; `None` when it can't.
    pub(crate) fn acceptable_fpu(&self, image: &[u8]) -> Option<Vec<u8>> {
        let len = self.fpu.1;
        if image.len() != len && image.len() != 512 {
            return None;
        }
        let mut fpu = self.fresh_fpu.clone();
        fpu[..image.len()].copy_from_slice(image);
        // The software bytes and the end magic are the host's own; so is the header where the image has none.
        let sw = 464..512;
        fpu[sw.clone()].copy_from_slice(&self.fresh_fpu[sw]);
        if len > 512 {
            fpu[len - 4..].copy_from_slice(&self.fresh_fpu[len - 4..]);
            if image.len() == 512 {
                fpu[512..520].copy_from_slice(&3u64.to_le_bytes());
            } else {
                // Features that the host does not know, and the reserved rest of the header, make rt_sigreturn fail.
                let known = u64::from_le_bytes(self.fresh_fpu[472..480].try_into().ok()?);
                let asked = u64::from_le_bytes(fpu[512..520].try_into().ok()?);
                fpu[512..520].copy_from_slice(&(asked & known).to_le_bytes());
                fpu[520..576].fill(0);
            }
        }
        // Reserved bits of MXCSR make it fail too.
        let mask = match u32::from_le_bytes(fpu[28..32].try_into().ok()?) {
            0 => 0xffbf,
            mask => mask,
        };
        let mxcsr = u32::from_le_bytes(fpu[24..28].try_into().ok()?) & mask;
        fpu[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        Some(fpu)
    }

    /// Takes whoever's registers it holds out of it and leaves it in the handler.
    pub(crate) fn evict(&self, inner: &mut Inner) -> Result<(), Fatal> {
        let call = match inner.mode {
            Mode::Direct { id, nr, ip } => Some((Some(id), nr, ip)),
            Mode::Taken { nr, ip } => Some((None, nr, ip)),
            Mode::Handler { .. } => None,
        };
        if let Some((asleep, call, ip)) = call {
            self.come_home(inner);
            sys::kill(self.pid, KICK);
            let n = self.report_of_kick(asleep)?;
            self.evicted(inner, &n, call, ip)?;
        }
        if let Some(owner) = inner.owner.take() {
            let full = self.read_frame(inner);
            lock(&owner.state).settle(full);
        }
        Ok(())
    }

    /// A kick took the runner out of a direct notification; `n` is the handler's report. The frame is made to look as if the call had
    /// been made and the owner's answer, if there is one, had come.
    pub(crate) fn evicted(
        &self,
        inner: &mut Inner,
        n: &Notification,
        call: u64,
        ip: u64,
    ) -> Result<(), Fatal> {
        if !self.is_trap(n) {
            return Err(Runner::intrusion(n));
        }
        self.drop_call();
        inner.mode = Mode::Handler { id: n.id };
        inner.bases = Runner::bases(n);
        let mut full = self.read_frame(inner);
        full.regs.rip = ip;
        full.regs.rcx = ip;
        full.regs.r11 = full.regs.eflags;
        full.regs.rax = call;
        if let Some(owner) = inner.owner.take() {
            lock(&owner.state).settle(full);
        }
        Ok(())
    }

    /// Answers a notification of the handler, where no kick can come in between.
    pub(crate) fn answer(&self, id: u64, value: u64) -> Result<(), Fatal> {
        sys::answer(self.listener(), id, value).map_err(|_| KILLED.into())
    }

    /// Has it stop running guest code soon. Any thread, any time.
    pub(crate) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        let stops = self.stops.load(Ordering::SeqCst);
        if !self.in_guest.load(Ordering::SeqCst) {
            return;
        }
        sys::kill(self.pid, KICK);
        let now = sys::cpu_time_ns(self.pid);
        let mut sent = lock(&self.sent);
        if sent.0 != stops {
            *sent = (stops, now);
        } else if now > sent.1 + KICK_PATIENCE_NS && self.stops.load(Ordering::SeqCst) == stops {
            // Guest code can block the signal by forging a return frame. Then it has lost its right to run.
            self.unkickable.store(true, Ordering::SeqCst);
            sys::kill(self.pid, libc::SIGKILL);
        }
    }

    /// Guest code has stopped: kicks up to now are answered.
    pub(crate) fn left_guest(&self) {
        self.in_guest.store(false, Ordering::SeqCst);
        self.stops.fetch_add(1, Ordering::SeqCst);
    }
}

/// The next notification of a task.
pub(crate) fn receive(listener: BorrowedFd<'_>, pid: i32) -> Result<Notification, Fatal> {
    loop {
        match sys::receive(listener) {
            Ok(notification) => return Ok(notification),
            Err(e) => match e.raw_os_error() {
                Some(libc::EINTR) => {}
                // The call was broken off by a signal before it was seen, or the task is gone.
                Some(libc::ENOENT) if !sys::has_ended(pid) => {}
                _ => return Err(KILLED.into()),
            },
        }
    }
}

/// Where a runner's notification comes from.
pub(crate) fn from_stub(n: &Notification) -> bool {
    stub::in_text(n.ip)
}

/// Remembers in a context where its registers are now.
pub(crate) fn park(runner: &Arc<Runner>, cell: &Arc<Cell>, inner: &mut Inner, place: Place) {
    inner.owner = Some(cell.clone());
    lock(&cell.state).park(runner, place);
}
