//! Runners: the host tasks that run guest code, one per virtual CPU of an address space.
//!
//! A runner is always in one of five places: in guest code; parked in a *direct* notification, that is in a system call of guest code
//! whose other registers nobody but the host knows; in the gate with a call, or there with nobody's registers, which it saves and loads when it is told
//! to; or parked in the stub's handler, where the whole state lies in the signal frame. A kick takes it into the handler from everywhere else.
//!
//! Whoever stops a host task (a paused container, a machine that sleeps) breaks off the call that it waits in, and the task makes it again. So no
//! answer may rely on the notification that was seen, and what is said twice counts once: a report whose frame the owner has done with is answered again, a runner
//! that waits in the gate goes by its orders, and one that makes a call of guest code once more is taken into the handler.
//!
//! Lock order: a runner's `inner`, then a context's cell.

use crate::area::Area;
use crate::context::{Answers, Cell, Offers, Place, StatOffer, Views, Withdrawal};
use crate::engine::{KICK, SIGNALS, lock};
use crate::gate::Eager;
use crate::layout::{self, nr, uc};
use crate::pace::Pace;
use crate::places::Places;
use crate::stub::{self, Addresses};
use crate::sys::{self, Notification};
use crate::trust::{Fresh, KICK_PATIENCE_NS, UNKICKABLE};
use crate::turns::Turns;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock};

/// Where a parked runner waits. A notification is what it sleeps in; without one it looks at its area, or is about to sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// In a system call of guest code: notification, number, address behind the instruction.
    Direct { id: u64, nr: u64, ip: u64 },
    /// In a system call that it made through the gate: notification, number, address behind the instruction.
    Taken { id: Option<u64>, nr: u64, ip: u64 },
    /// In the gate, with nobody's registers.
    Free { id: Option<u64> },
    /// In the stub's handler.
    Handler { id: Option<u64> },
}

/// Whose registers a runner holds, and where: what the cell says, without its lock.
pub(crate) struct Owner {
    pub cell: Arc<Cell>,
    pub place: Place,
}

/// What only the thread that drives the runner touches.
pub(crate) struct Inner {
    pub mode: Mode,
    /// Whose registers it holds.
    pub owner: Option<Owner>,
    /// The notification that it sleeps in, in its handler, where that is known and nobody has gone on with it since.
    pub rests: Option<u64>,
    /// The last call through the gate that was taken, or can't be any more.
    pub call: u32,
    /// FS and GS base at the last trap.
    pub bases: (u64, u64),
    /// What its gate answers.
    pub answers: Answers,
    /// What else it does.
    pub offers: Offers,
    /// Which file it tells about.
    pub stat: Option<Arc<StatOffer>>,
    /// See [`crate::Context::views`].
    pub views: Views,
    /// With which calls it saves all registers.
    pub eager: Eager,
    /// From which range of memory it was told to take rights with its last answer, and a range for which it has not done so.
    pub withdrawn: Option<Withdrawal>,
    /// See [`Inner::withdrawn`].
    pub undone: Option<Withdrawal>,
    /// Where it saves registers.
    pub places: Places,
    /// Whether it has a CPU of its own.
    pub pace: Pace,
    /// Whether it shares its owner's with him by turns.
    pub turns: Turns,
}

/// A host task that runs guest code.
pub(crate) struct Runner {
    pub pid: i32,
    listener: OwnedFd,
    pub area: Arc<Area>,
    /// Where its part of the area starts, as an offset and as the guest's address.
    pub base: usize,
    pub at: u64,
    /// Address of the `ucontext_t` of every frame: the stack is always empty when a signal comes.
    pub ucontext: u64,
    /// Offset of the floating-point image in the area, and its length.
    pub fpu: (usize, usize),
    /// `ucontext_t` and floating-point image of a fresh thread.
    pub fresh_uc: [u8; uc::LEN],
    pub fresh_fpu: Vec<u8>,
    pub addresses: Addresses,
    pub inner: Mutex<Inner>,
    in_guest: AtomicBool,
    pub kicked: AtomicBool,
    /// How many threads are about to send a kick, and whether one was sent since the last report of one.
    kicking: AtomicU32,
    sent_one: AtomicBool,
    /// How often guest code has stopped.
    stops: AtomicU64,
    /// A kick that has been sent: the number of stops before, and the CPU time after it. Once the number has changed it is answered.
    sent: Mutex<(u64, u64)>,
    /// It was killed because it did not answer one.
    unkickable: AtomicBool,
    /// The virtual CPU that used it last.
    pub cpu: AtomicUsize,
    /// The host CPU that it was bound to, plus one; 0 when it shares its owner's.
    bound: AtomicUsize,
}

/// Why an address space can't go on.
pub(crate) type Fatal = String;
/// One of its host tasks has ended, which none does by itself.
pub(crate) const KILLED: &str = "a host process of it was killed";

impl Inner {
    /// Where it holds the registers of the thread that this is the cell of, if it does.
    pub(crate) fn holds(&self, cell: &Arc<Cell>) -> Option<Place> {
        self.owner.as_ref().filter(|owner| Arc::ptr_eq(&owner.cell, cell)).map(|owner| owner.place)
    }
}

impl Runner {
    /// Takes over a new runner: waits for its first report. What fresh frames are is found out if it is the engine's first.
    /// `clock` is where the vDSO's `clock_gettime` is.
    pub(crate) fn adopt(
        listener: OwnedFd,
        area: Arc<Area>,
        index: usize,
        fresh: &OnceLock<Fresh>,
        clock: Option<u64>,
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
                mode: Mode::Handler { id: Some(first.id) },
                owner: None,
                rests: None,
                call: 0,
                bases: (0, 0),
                answers: Answers::default(),
                offers: Offers::default(),
                stat: None,
                views: Views::default(),
                eager: Eager::default(),
                withdrawn: None,
                undone: None,
                places: Places::default(),
                pace: Pace::new(),
                turns: Turns::new(),
            }),
            in_guest: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            kicking: AtomicU32::new(0),
            sent_one: AtomicBool::new(false),
            stops: AtomicU64::new(0),
            sent: Mutex::new((u64::MAX, 0)),
            unkickable: AtomicBool::new(false),
            cpu: AtomicUsize::new(usize::MAX),
            bound: AtomicUsize::new(0),
        };
        runner.clear_gate(clock);
        Ok(runner)
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Binds it to a host CPU.
    pub(crate) fn bind(&self, host: usize) {
        if self.bound.swap(host + 1, Ordering::Relaxed) != host + 1 {
            sys::bind(self.pid, host);
        }
    }

    /// Has it run where the calling thread runs, if a session has left it elsewhere.
    pub(crate) fn stay_here(&self) {
        if self.bound.load(Ordering::Relaxed) != 0 {
            self.bind(sys::current_cpu());
        }
    }

    /// Lets it run where the calling thread may run.
    pub(crate) fn share_cpus(&self) {
        self.bound.store(0, Ordering::Relaxed);
        sys::share_cpus(self.pid);
    }

    pub(crate) fn uc_offset(&self) -> usize {
        self.base + (self.ucontext - self.at) as usize
    }

    /// The next notification of this runner.
    pub(crate) fn receive(&self) -> Result<Notification, Fatal> {
        let ended = |why| if self.unkickable.load(Ordering::SeqCst) { UNKICKABLE.into() } else { why };
        receive(self.listener(), self.pid).map_err(ended)
    }

    /// The same where that can be a report which has been answered: it is answered again. Only for who lets guest code run: it could have all reports look
    /// like this.
    pub(crate) fn receive_new(&self) -> Result<Notification, Fatal> {
        loop {
            let n = self.receive()?;
            if !self.count_repeated(&n) {
                return Ok(n);
            }
            self.wake(Some(n.id))?;
        }
    }

    /// Whether a notification is the handler's, of a signal that it handles, from a frame where frames are.
    pub(crate) fn is_trap(&self, n: &Notification) -> bool {
        n.nr as u64 == nr::TRAP && n.ip == self.addresses.trapped && self.is_report(&n.args)
    }

    /// Whether these can be the arguments of such a report.
    pub(crate) fn is_report(&self, args: &[u64; 6]) -> bool {
        SIGNALS.iter().any(|signo| *signo as u64 == args[0]) && args[2] == self.ucontext
    }

    /// Whether it is one that only waits.
    pub(crate) fn is_wait(&self, n: &Notification) -> bool {
        n.nr as u64 == nr::WAIT && [self.addresses.gate.waited, self.addresses.rested].contains(&n.ip)
    }

    /// What to say of a notification from the stub's text that nobody ordered.
    pub(crate) fn intrusion(n: &Notification) -> Fatal {
        format!("guest code made system call {} from the stub at {:#x}", n.nr, n.ip)
    }

    /// `siginfo_t`'s code and address of a trap.
    pub(crate) fn siginfo(&self, args: &[u64; 6]) -> (i32, u64) {
        (self.siginfo_word(args, 8) as i32, self.siginfo_word(args, 16))
    }

    /// `si_arch` of a `SIGSYS`.
    pub(crate) fn arch_of_call(&self, args: &[u64; 6]) -> u32 {
        (self.siginfo_word(args, 24) >> 32) as u32
    }

    fn siginfo_word(&self, args: &[u64; 6], offset: usize) -> u64 {
        let at = args[1];
        let end = self.at + layout::AREA_LEN - 32;
        if !(self.at..=end).contains(&at) || at % 8 != 0 {
            return 0;
        }
        self.area.load(self.base + (at - self.at) as usize + offset)
    }

    /// Vector, error code and address of the fault that the frame is for.
    pub(crate) fn fault_words(&self) -> (u32, u32, u64) {
        let at = self.uc_offset();
        let word = |offset| self.area.load(at + offset);
        (word(uc::TRAPNO) as u32, word(uc::ERR) as u32, word(uc::CR2))
    }

    /// The state components that its frames hold; 0 when the gate can't switch threads.
    pub(crate) fn components(&self) -> u64 {
        let word = self
            .fresh_fpu
            .get(472..480)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        let able = (577..=layout::XSTATE_LEN).contains(&self.fpu.1) && sys::has_xsaveopt();
        if able { word } else { 0 }
    }

    /// Has it stop running guest code soon. Any thread, any time.
    pub(crate) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.kicking.fetch_add(1, Ordering::SeqCst);
        let stops = self.stops.load(Ordering::SeqCst);
        let in_guest = self.in_guest.load(Ordering::SeqCst);
        if in_guest {
            sys::kill(self.pid, KICK);
            self.sent_one.store(true, Ordering::SeqCst);
        }
        self.kicking.fetch_sub(1, Ordering::SeqCst);
        if in_guest {
            self.expect_report(stops);
        }
    }

    /// A kick was sent when guest code had stopped so many times: ends the task when it is not the first since then and there was time enough.
    fn expect_report(&self, stops: u64) {
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

    /// Whether a kick may reach the runner at any moment, though guest code has stopped.
    pub(crate) fn kick_is_under_way(&self) -> bool {
        // Who adds himself after this sees that guest code has stopped.
        fence(Ordering::SeqCst);
        while self.kicking.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        self.sent_one.load(Ordering::SeqCst)
    }

    /// The report of a kick has come.
    pub(crate) fn kick_was_reported(&self) {
        self.sent_one.store(false, Ordering::SeqCst);
    }

    /// Guest code runs from now on; whoever has kicked it meanwhile did not reach it.
    pub(crate) fn entered_guest(&self) {
        self.in_guest.store(true, Ordering::SeqCst);
        if self.kicked.load(Ordering::SeqCst) {
            self.kick();
        }
    }

    /// Guest code has stopped: kicks up to now are answered.
    pub(crate) fn left_guest(&self) {
        self.in_guest.store(false, Ordering::Release);
        // Nobody else counts.
        self.stops.store(self.stops.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

/// Why a task is gone. Guest code can have it killed by a fault with the fault's signal blocked, which takes a forged frame.
fn end_of(pid: i32) -> Fatal {
    match sys::killed_by(pid) {
        Some(libc::SIGKILL) | None => KILLED.into(),
        Some(signo) => format!("{KILLED} by signal {signo}, which guest code had blocked"),
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
                _ => return Err(end_of(pid)),
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
    match &mut inner.owner {
        Some(owner) if Arc::ptr_eq(&owner.cell, cell) => {
            if owner.place == place {
                return;
            }
            owner.place = place;
        }
        owner => *owner = Some(Owner { cell: cell.clone(), place }),
    }
    lock(&cell.state).park(runner, place);
}
