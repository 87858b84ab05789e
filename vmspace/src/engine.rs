//! The engine: makes address spaces, and keeps some in reserve.
//!
//! A new one takes some 200 µs of three host tasks that come one out of the other. Where there is a second host CPU it is made there ahead of need: whoever takes
//! the last one has the next begun. The reserve comes first: what has just been used is in the host's caches. But nobody waits for one that is still being emptied
//! if another can be had; and where that takes long, it is done on another host CPU. That of a copy is not emptied but left for the next copy of the same one ([`crate::shown`]).
//!
//! Lock order: the nursery, the reserve, the slots.

use crate::area::Area;
use crate::body::{Body, Site};
use crate::layout::{self, board, says};
use crate::limit::Tasks;
use crate::seat::Seats;
use crate::space::Vmspace;
use crate::stub::Addresses;
use crate::sys;
use crate::tempo::Tempo;
use crate::trust::Fresh;
use crate::zygote::Zygote;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Most destroyed address spaces that are kept for the next `create`.
const RESERVE: usize = 8;

/// Most of them that still show what a copy was shown.
const MOST_LEFT: usize = 2;

/// Of so many one is empty by the time that another is wanted, where emptying is put off and processes start one after the other.
const ENOUGH: usize = 3;

/// Makes address spaces. Its calls may come from any thread.
///
/// [`Engine::new`] must be called from a thread that lives as long as the process: the host kills the zygote and all address spaces when
/// that thread ends, which is how nothing stays behind when the process is killed.
pub struct Engine {
    nursery: Mutex<Nursery>,
    reserve: Mutex<Vec<Body>>,
    /// Whether some of the reserve have yet to be emptied, whether some that had to may not be empty yet, and whether some have yet to be cleansed.
    put_off: AtomicBool,
    emptying: AtomicBool,
    unclean: AtomicBool,
    large: Large,
    control: OwnedFd,
    /// What mappers say there.
    status: Arc<Area>,
    /// What all address spaces may know.
    board: Area,
    hand_over: OwnedFd,
    free_slots: Mutex<Slots>,
    tasks: Tasks,
    vdso: Option<u64>,
    /// Where its `clock_gettime` is.
    clock: Option<u64>,
    guards: bool,
    fresh: OnceLock<Fresh>,
    gate: OnceLock<u64>,
    /// Where sessions take place.
    pub(crate) seats: Seats,
    /// How fast the host changes tasks.
    pub(crate) tempo: Tempo,
    /// Host CPUs that this process may use.
    cpus: Vec<usize>,
    closed: AtomicBool,
    /// How many address spaces there have been.
    spaces: AtomicU64,
}

/// Where address spaces are made, one at a time.
struct Nursery {
    /// `None` at the end.
    zygote: Option<Zygote>,
    /// The slot of one that has been begun.
    under_way: Option<u64>,
    /// One that has been made and not used yet.
    made: Option<Body>,
}

/// Whether a large address space waits to be emptied, and since when guest code has run without a session that whole time.
#[derive(Default)]
struct Large {
    waits: AtomicBool,
    quiet: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Slots {
    free: Vec<u64>,
    next: u64,
}

/// How long ago the guest's memory began to be unmapped where that will be done soon.
const SOON: Duration = Duration::from_micros(200);
/// How long there has been no session where no program has just ended or is about to begin.
const QUIET: Duration = Duration::from_millis(2);

/// Host tasks of an address space: mother, mapper, first runner. Further runners are not held against the limit, because a guest that has
/// been started must be able to go on.
const BODY_TASKS: u64 = 3;
/// The zygote's page comes first.
const FIRST_SLOT: u64 = layout::SLOT_LEN;

fn slot_offset(slot: u64) -> u64 {
    FIRST_SLOT + slot * layout::SLOT_LEN
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_host() -> io::Result<()> {
    const HWCAP2_FSGSBASE: u64 = 2;
    // SAFETY: getauxval has no preconditions.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
        return Err(io::Error::other(
            "this machine has no FSGSBASE instructions for programs: an x86_64 CPU from 2012 on and Linux 5.11 are needed",
        ));
    }
    let mut action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the call reads one word.
    let known = unsafe {
        libc::syscall(libc::SYS_seccomp, 2 /* GET_ACTION_AVAIL */, 0, &raw mut action)
    };
    if known != 0 {
        return Err(io::Error::other(format!(
            "seccomp user notification is not available ({}): Linux 5.11 is needed, and a container must allow seccomp(2)",
            io::Error::last_os_error()
        )));
    }
    const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
    // SAFETY: turns off for this thread what is off.
    if unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) } != 0 {
        return Err(io::Error::other(format!(
            "system-call user dispatch is not available ({}): Linux 5.11 is needed, and a container must allow prctl(2)",
            io::Error::last_os_error()
        )));
    }
    Ok(())
}

impl Engine {
    /// Starts a zygote. `ram` is the memory file that [`crate::Op::MapRam`] shows. The error is fit to be shown to a user.
    pub fn new(ram: &OwnedFd) -> io::Result<Arc<Engine>> {
        Engine::begin(ram)?.finish()
    }

    /// The same, so that the caller can do something else while the first address space is made.
    pub fn begin(ram: &OwnedFd) -> io::Result<Beginning> {
        check_host()?;
        let control = sys::memory_file(c"vmspace-control")?;
        fs::File::from(control.try_clone()?).set_len(1 << 40)?;
        let (hand_over, its_hand_over) = sys::socket_pair()?;
        let cpus = sys::own_cpus();
        let zygote = Zygote::start(ram, &control, &its_hand_over, &cpus)?;
        let tasks = Tasks::of_host();
        let status = Arc::new(Area::map(control.as_fd(), layout::STATUS, layout::STATUS_LEN as usize)?);
        let vdso = zygote.settle()?;
        let engine = Engine {
            nursery: Mutex::new(Nursery { zygote: Some(zygote), under_way: None, made: None }),
            reserve: Mutex::new(Vec::new()),
            put_off: AtomicBool::new(false),
            emptying: AtomicBool::new(false),
            unclean: AtomicBool::new(false),
            large: Large::default(),
            board: Area::map(control.as_fd(), layout::BOARD_OFFSET, layout::BOARD_LEN as usize)?,
            control,
            status,
            hand_over,
            free_slots: Mutex::new(Slots::default()),
            tasks,
            vdso,
            clock: vdso.and_then(|vdso| Some(vdso + sys::vdso_clock()?)),
            guards: sys::has_guards(ram),
            fresh: OnceLock::new(),
            gate: OnceLock::new(),
            seats: Seats::new(),
            tempo: Tempo::default(),
            cpus,
            closed: AtomicBool::new(false),
            spaces: AtomicU64::new(0),
        };
        engine.begin_body(&mut lock(&engine.nursery), false)?;
        Ok(Beginning { engine })
    }

    /// Size in bytes of the floating-point images of contexts.
    pub fn fpu_len(&self) -> usize {
        self.fresh.get().map_or(0, |fresh| fresh.fpu.1)
    }

    /// An empty address space, for virtual CPU `cpu`, if the caller is one. Blocks for the time of the host calls. `EAGAIN` when there are as many as the host may be asked for.
    pub fn create(self: &Arc<Engine>, cpu: Option<usize>) -> io::Result<Vmspace> {
        self.create_with(cpu, 0)
    }

    /// The same for what is shown much as another one is, where processes start one after the other: it may show what the last copy of that was shown, until it is changed.
    pub fn create_copy(self: &Arc<Engine>, of: &Vmspace, cpu: Option<usize>) -> io::Result<Vmspace> {
        if let Some(body) = self.take_from_reserve(|body| body.is_left_by_copy(of.id()), |_| ()) {
            return Ok(Vmspace::new(self.clone(), body));
        }
        self.create_with(cpu, of.id())
    }

    fn create_with(self: &Arc<Engine>, cpu: Option<usize>, copy_of: u64) -> io::Result<Vmspace> {
        let mut body = self.take_body()?;
        body.becomes_copy(copy_of);
        let put_off = self.empty_what_was_put_off(cpu);
        self.make_ahead(put_off);
        Ok(Vmspace::new(self.clone(), body))
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.spaces.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn take_body(&self) -> io::Result<Body> {
        if let Some(body) = self.spare(Body::is_ready).or_else(|| self.spare(Body::is_empty)) {
            return Ok(body);
        }
        let mut nursery = lock(&self.nursery);
        // If the host had no room for it, it may have some now.
        let _ = self.settle(&mut nursery);
        if let Some(body) = nursery.made.take() {
            return Ok(body);
        }
        // What is about to be empty, or need only be emptied, is there sooner than a new one; a large one is not.
        let soon = |body: &Body| !body.is_emptied() && !body.is_large() || body.is_empty_within(SOON);
        if let Some(body) = self.spare(soon) {
            return Ok(body);
        }
        let new = self.begin_body(&mut nursery, false).and_then(|()| self.finish_body(&mut nursery));
        new.or_else(|error| self.spare(|_| true).ok_or(error))
    }

    /// One of the reserve, the last that is `wanted`, with nothing in it. Waits for that.
    fn spare(&self, wanted: impl Fn(&Body) -> bool) -> Option<Body> {
        self.take_from_reserve(wanted, |body| {
            if !body.is_emptied() {
                body.empty(&Site::Here);
            }
        })
    }

    fn take_from_reserve(&self, wanted: impl Fn(&Body) -> bool, prepare: impl Fn(&mut Body)) -> Option<Body> {
        loop {
            let mut body = {
                let mut reserve = lock(&self.reserve);
                let at = reserve.iter().rposition(&wanted)?;
                reserve.remove(at)
            };
            prepare(&mut body);
            if body.cleanse(&self.control, slot_offset(body.slot)) {
                return Some(body);
            }
            self.discard(body);
        }
    }

    /// The host CPUs that the calling thread is not on.
    fn other_cpus(&self) -> impl Iterator<Item = usize> + '_ {
        let own = sys::current_cpu();
        self.cpus.iter().copied().filter(move |&cpu| cpu != own)
    }

    /// Has the next address space begun, if there is none for whoever comes next, and a host CPU to make it on: none at all, or, where emptying is `put_off`, too few for one to be empty then.
    fn make_ahead(&self, put_off: bool) {
        let mut nursery = lock(&self.nursery);
        let none = nursery.under_way.is_none() && nursery.made.is_none();
        let wanted = || {
            let reserve = lock(&self.reserve);
            // What is left for the next copy is not for whoever comes next, and what is large is not empty by then.
            let mut others = reserve.iter().filter(|body| !body.is_left() && !body.is_waiting());
            let count = others.clone().count();
            count == 0 || put_off && count < ENOUGH && !others.any(Body::is_empty)
        };
        if none && self.cpus.len() > 1 && wanted() {
            // Whoever needs it hears why it can't be made.
            let _ = self.begin_body(&mut nursery, true);
        }
    }

    /// Has the zygote begin to make an address space: on other host CPUs than the caller's if it is wanted later, or else on that, which the caller leaves to it.
    fn begin_body(&self, nursery: &mut Nursery, later: bool) -> io::Result<()> {
        let zygote = nursery.zygote.as_ref().ok_or_else(|| io::Error::other("the engine is shut down"))?;
        self.tasks.take(BODY_TASKS)?;
        match later && self.cpus.len() > 1 {
            true => sys::use_cpus(zygote.pid, self.other_cpus()),
            false => sys::bind(zygote.pid, sys::current_cpu()),
        }
        let slot = {
            let mut slots = lock(&self.free_slots);
            slots.free.pop().unwrap_or_else(|| {
                slots.next += 1;
                slots.next - 1
            })
        };
        let begun = zygote.begin_space(slot_offset(slot));
        match begun {
            Ok(()) => nursery.under_way = Some(slot),
            Err(_) => self.give_up(slot),
        }
        begun
    }

    /// Waits for what was begun, if anything was.
    fn settle(&self, nursery: &mut Nursery) -> io::Result<()> {
        if nursery.under_way.is_some() {
            nursery.made = Some(self.finish_body(nursery)?);
        }
        Ok(())
    }

    fn finish_body(&self, nursery: &mut Nursery) -> io::Result<Body> {
        let (Some(slot), Some(zygote)) = (nursery.under_way.take(), &nursery.zygote) else {
            return Err(io::Error::other("no address space has been begun"));
        };
        let made = zygote.mother().and_then(|mother| {
            // She makes the mapper and a runner without being asked for.
            let (mapper, runner) = self.listeners(mother)?;
            let area = Area::map(self.control.as_fd(), slot_offset(slot), layout::SLOT_LEN as usize);
            let body =
                area.and_then(|area| Body::new(mother, slot, area, mapper, self.status.clone(), self.clock));
            Ok((body.inspect_err(|_| end_task(mother))?, runner))
        });
        let (body, runner) = made.inspect_err(|_| self.give_up(slot))?;
        if let Err(e) = body.add_runner(runner, &self.fresh) {
            self.discard(body);
            return Err(e);
        }
        if body.has_gate() {
            self.gate.get_or_init(|| Addresses::get().gate.start);
        }
        Ok(body)
    }

    /// The listeners of a new mother's mapper and of her first runner.
    fn listeners(&self, mother: i32) -> io::Result<(OwnedFd, OwnedFd)> {
        let mut come = Vec::with_capacity(2);
        let mut receive = || -> io::Result<()> {
            come.push(sys::receive_fd(self.hand_over.as_fd(), mother)?);
            Ok(())
        };
        let both = receive().and_then(|()| receive());
        // Nobody knows who of them is faster.
        let of = |who| come.iter().position(|(says, _)| *says == who);
        if let (Ok(()), Some(mapper), Some(_)) = (&both, of(says::MAPPER), of(says::RUNNER)) {
            let mapper = come.swap_remove(mapper).1;
            return Ok((mapper, come.swap_remove(0).1));
        }
        end_task(mother);
        for (_, listener) in come {
            // What it reports says who it is.
            if let Ok(first) = sys::receive(listener.as_fd()) {
                end_task(first.pid as i32);
            }
        }
        both.and(Err(io::Error::other("a new task misbehaved")))
    }

    /// A slot that nobody has come to use.
    fn give_up(&self, slot: u64) {
        self.free_slot(slot);
        self.tasks.give(BODY_TASKS);
    }

    /// Has the mother of an address space make another runner.
    pub(crate) fn make_runner(&self, body: &Body) -> io::Result<()> {
        // One at a time: the socket does not say whose listener it carries.
        let mut nursery = lock(&self.nursery);
        let _ = self.settle(&mut nursery);
        if !sys::wait_stopped(body.mother) {
            return Err(io::Error::other("the address space is gone"));
        }
        sys::share_cpus(body.mother);
        body.want_runner();
        sys::kill(body.mother, libc::SIGCONT);
        let (_, listener) = sys::receive_fd(self.hand_over.as_fd(), body.mother)?;
        body.add_runner(listener, &self.fresh)
    }

    /// Takes an address space back from virtual CPU `cpu`: emptied for the next user if it is sound, else ended. That of a copy is left for the next one. In a session others want the host CPUs just now, and
    /// emptying is put off until one begins to run outside of it, or is wanted, while the seat has nothing to do; or until the virtual CPU is idle. A large one, which takes milliseconds, waits for a host
    /// CPU that nobody needs: often the next program is about to begin.
    pub(crate) fn give_back(&self, mut body: Body, cpu: usize) {
        let full = self.closed.load(Ordering::SeqCst) || lock(&self.reserve).len() >= RESERVE;
        if full || !body.vacate() {
            return self.discard(body);
        }
        let mut reserve = lock(&self.reserve);
        if body.is_large() {
            self.empty_large(&mut reserve);
            self.put_off.store(true, Ordering::Relaxed);
            *lock(&self.large.quiet) = None;
            self.large.waits.store(true, Ordering::Relaxed);
        } else if body.leave() {
            self.put_off.store(true, Ordering::Relaxed);
            self.unclean.store(true, Ordering::Relaxed);
            // The oldest has waited longest in vain.
            let mut left: Vec<_> = reserve.iter_mut().filter(|body| body.is_left()).collect();
            if left.len() >= MOST_LEFT {
                left.swap_remove(0).is_not_left();
            }
        } else if self.seats.goes_on(cpu) {
            self.put_off.store(true, Ordering::Relaxed);
        } else {
            body.empty(&Site::Here);
        }
        reserve.push(body);
    }

    /// Empties the large ones that wait, elsewhere if possible.
    fn empty_large(&self, reserve: &mut [Body]) {
        for body in reserve.iter_mut().filter(|body| body.is_waiting()) {
            body.empty(&Site::AnyOf(self.other_cpus().collect()));
            self.emptying.store(true, Ordering::Relaxed);
            self.unclean.store(true, Ordering::Relaxed);
        }
        self.large.waits.store(false, Ordering::Relaxed);
    }

    /// Guest code runs, in a session or not: empties a large one that waits once there has been none for a while.
    pub(crate) fn runs(&self, in_session: bool) {
        if !self.large.waits.load(Ordering::Relaxed) {
            return;
        }
        let quiet = {
            let mut since = lock(&self.large.quiet);
            match in_session {
                true => *since = None,
                false => *since = since.or_else(|| Some(Instant::now())),
            }
            since.is_some_and(|since| since.elapsed() > QUIET)
        };
        if quiet {
            self.empty_large(&mut lock(&self.reserve));
        }
    }

    /// Empties what has yet to be: at the seat of virtual CPU `cpu`, if it has one; only if nobody is there, what was left for the next copy, and what is large if no other one has a session. Whether there
    /// was anything.
    pub(crate) fn empty_what_was_put_off(&self, cpu: Option<usize>) -> bool {
        if !self.put_off.load(Ordering::Relaxed) {
            return false;
        }
        let large = cpu.is_none() && !self.seats.any();
        let due = |body: &Body| {
            !body.is_emptied() && if body.is_waiting() { large } else { cpu.is_none() || !body.is_left() }
        };
        if !lock(&self.reserve).iter().any(due) {
            return false;
        }
        let site = cpu.and_then(|cpu| self.seats.clear(cpu)).map_or(Site::Here, Site::Seat);
        let mut reserve = lock(&self.reserve);
        for body in reserve.iter_mut().filter(|body| due(body)) {
            body.empty(&site);
        }
        self.put_off.store(reserve.iter().any(|body| !body.is_emptied()), Ordering::Relaxed);
        self.emptying.store(true, Ordering::Relaxed);
        self.unclean.store(true, Ordering::Relaxed);
        true
    }

    /// Virtual CPU `cpu`, in a session, has nothing better to do for some dozens of microseconds: cleanses what is empty by now. Programs will begin at its seat.
    pub(crate) fn cleanse_ahead(&self, cpu: usize) {
        if !self.unclean.load(Ordering::Relaxed) {
            return;
        }
        self.unclean.store(false, Ordering::Relaxed);
        let unclean = |body: &mut Body| (body.is_emptied() || body.is_left()) && !body.is_clean();
        let bodies: Vec<Body> = lock(&self.reserve).extract_if(.., unclean).collect();
        let mut nursery = lock(&self.nursery);
        let _ = self.settle(&mut nursery);
        let new = nursery.made.take();
        drop(nursery);
        for mut body in bodies.into_iter().chain(new) {
            let offset = slot_offset(body.slot);
            let cleansed = if body.is_left() {
                body.cleanse(&self.control, offset)
            } else if body.is_empty() {
                // Where its program will run, so that no other host CPU has to be told of what is unmapped later.
                body.begin_cleansing(&self.control, offset, self.seats.host(cpu))
            } else {
                self.unclean.store(true, Ordering::Relaxed);
                true
            };
            match cleansed {
                true => lock(&self.reserve).push(body),
                false => self.discard(body),
            }
        }
    }

    /// The calling virtual CPU is about to be idle: does what was put off.
    pub fn tidy(&self) {
        self.empty_what_was_put_off(None);
        if self.emptying.load(Ordering::Relaxed) {
            // Whose mapper went to sleep just before it was told to begin goes on when it is looked at.
            let reserve = lock(&self.reserve);
            let under_way = reserve.iter().filter(|body| !body.is_empty()).count();
            self.emptying.store(under_way > 0, Ordering::Relaxed);
        }
    }

    /// Ends an address space that nobody can use any more.
    pub(crate) fn discard(&self, body: Body) {
        self.end(body);
        self.tasks.give(BODY_TASKS);
    }

    fn end(&self, body: Body) {
        let slot = body.slot;
        body.kill();
        self.free_slot(slot);
    }

    /// What its processes wrote is gone before another address space gets it.
    fn free_slot(&self, slot: u64) {
        let offset = slot_offset(slot);
        sys::punch_hole(&self.control, offset..offset + layout::SLOT_LEN);
        lock(&self.free_slots).free.push(slot);
    }

    /// Where every address space shows the host's vDSO, if the host has one.
    pub fn vdso(&self) -> Option<u64> {
        self.vdso
    }

    /// The gate, in every address space: code that a `syscall` instruction can be replaced by. It wants the number in `rax`, the address of
    /// the instruction in `rcx` and the arguments where the instruction has them; it comes back behind the instruction with the result, or
    /// to the instruction with all registers but `rcx`, `r11` and the arithmetic flags as they were. `None` where the CPU can't save a thread's state
    /// without the host's help (`XSAVEOPT`).
    pub fn gate(&self) -> Option<u64> {
        self.gate.get().copied()
    }

    /// Whether the host has guards for RAM ([`crate::Op::Guard`]).
    pub fn has_guards(&self) -> bool {
        self.guards
    }

    /// What offers of attributes are made with: ask before looking at them.
    pub fn offers_version(&self) -> u64 {
        self.board.load(board::VERSION as usize)
    }

    /// From now on no gate tells what was offered before.
    pub fn recall_offers(&self) {
        self.board.add(board::VERSION as usize);
    }

    /// The first address that guests can't use.
    pub fn user_limit(&self) -> u64 {
        layout::REGION
    }

    /// Ends the zygote and the reserve. Address spaces that are still in use end when they are dropped.
    pub fn shutdown(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut nursery = lock(&self.nursery);
        let _ = self.settle(&mut nursery);
        let mut bodies = std::mem::take(&mut *lock(&self.reserve));
        bodies.extend(nursery.made.take());
        // They end side by side.
        bodies.iter().for_each(Body::begin_to_end);
        nursery.zygote.iter().for_each(Zygote::begin_to_end);
        bodies.into_iter().for_each(Body::kill);
        nursery.zygote = None;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn end_task(pid: i32) {
    sys::kill(pid, libc::SIGKILL);
    sys::reap(pid);
}

/// An engine whose first address space is being made.
pub struct Beginning {
    engine: Engine,
}

impl Beginning {
    /// Waits for that, which shows that it works; the next [`Engine::create`] takes it.
    pub fn finish(self) -> io::Result<Arc<Engine>> {
        let engine = self.engine;
        engine.settle(&mut lock(&engine.nursery))?;
        Ok(Arc::new(engine))
    }
}

/// Signals that the stub handles; the last one is the owner's kick.
pub(crate) const SIGNALS: [i32; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS, KICK];
/// The signal that interrupts a runner.
pub(crate) const KICK: i32 = libc::SIGUSR1;
