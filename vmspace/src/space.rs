//! Address spaces.

use crate::body::Body;
use crate::context::{Context, Place, Withdrawal};
use crate::engine::{Engine, KICK, lock};
use crate::gate::{Heard, SYSCALL_LEN};
use crate::layout::{self, call, fd, lent};
use crate::mapper::{Call, Mapper};
use crate::runner::{self, Fatal, Mode, Runner};
use crate::sys;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// One change of an address space. Addresses, lengths and offsets are multiples of the page size.
#[derive(Clone, Copy)]
pub enum Op<'a> {
    /// Shows a piece of RAM.
    MapRam {
        /// Guest address.
        at: u64,
        /// Length in bytes.
        len: u64,
        /// `PROT_*`.
        prot: i32,
        /// Offset in the RAM file.
        offset: u64,
        /// Fill the page tables now.
        populate: bool,
    },
    /// Shows a piece of a host file.
    MapFile {
        /// Guest address.
        at: u64,
        /// Length in bytes.
        len: u64,
        /// `PROT_*`.
        prot: i32,
        /// The file.
        file: BorrowedFd<'a>,
        /// A number that stands for this file and no other, so that it can be kept for the next mapping; 0 for none.
        key: u64,
        /// Offset in the file.
        offset: u64,
        /// `MAP_SHARED` rather than `MAP_PRIVATE`.
        shared: bool,
    },
    /// Makes the pages of RAM that a writable mapping shows, and fills the page tables for stores.
    Fill {
        /// Guest address.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Bars everybody from RAM that a mapping shows, until guest code opens it ([`Vmspace::lend`]). An error where [`crate::Engine::has_guards`] says so.
    Guard {
        /// Guest address.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Removes what is mapped.
    Unmap {
        /// Guest address.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Changes the rights of what is mapped. A hole is an error (`ENOMEM`).
    Protect {
        /// Guest address.
        at: u64,
        /// Length in bytes.
        len: u64,
        /// `PROT_*`.
        prot: i32,
    },
}

impl Op<'_> {
    /// The call that makes the change; `None` when the mapper has to make those before it first.
    fn call(&self, mapper: &mut Mapper) -> Result<Option<Call>, Fatal> {
        let call = match *self {
            Op::MapRam { at, len, prot, offset, populate } => {
                let flags =
                    libc::MAP_SHARED | libc::MAP_FIXED | if populate { libc::MAP_POPULATE } else { 0 };
                [libc::SYS_mmap as u64, at, len, prot as u64, flags as u64, fd::RAM as u64, offset]
            }
            Op::MapFile { at, len, prot, file, key, offset, shared } => {
                let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE } | libc::MAP_FIXED;
                let Some(number) = mapper.install(file, key)? else { return Ok(None) };
                [libc::SYS_mmap as u64, at, len, prot as u64, flags as u64, number, offset]
            }
            Op::Fill { at, len } => {
                [libc::SYS_madvise as u64, at, len, libc::MADV_POPULATE_WRITE as u64, 0, 0, 0]
            }
            Op::Guard { at, len } => {
                [libc::SYS_madvise as u64, at, len, sys::MADV_GUARD_INSTALL as u64, 0, 0, 0]
            }
            Op::Unmap { at, len } => [libc::SYS_munmap as u64, at, len, 0, 0, 0, 0],
            Op::Protect { at, len, prot } => [libc::SYS_mprotect as u64, at, len, prot as u64, 0, 0, 0],
        };
        // Nobody may reach the stub region; that guests can't is for the owner to see to.
        if call[1].checked_add(call[2]).is_none_or(|end| end > layout::REGION) {
            return Err(format!("a change at {:#x} reaches beyond the user half", call[1]));
        }
        Ok(Some(call))
    }

    /// Whether something can't be reached any more that may be in use.
    fn takes_away(&self) -> bool {
        match *self {
            Op::Unmap { .. } => true,
            Op::Protect { prot, .. } => prot & libc::PROT_WRITE == 0,
            _ => false,
        }
    }
}

/// Memory that lies ready for guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// Behind the heap: `brk` moves the program break up there.
    Heap,
    /// For new memory anywhere: `mmap` takes it from its end on downwards, whole pages.
    Maps,
}

impl Stock {
    /// Where its words are.
    fn word(self) -> usize {
        (layout::AREA_LENT + if self == Stock::Heap { 0 } else { lent::LEN }) as usize
    }
}

/// When to wait for the end of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Now,
    /// When [`Vmspace::finish_update`] says so.
    Later,
}

/// Why [`Vmspace::update`] failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateError {
    /// The change with this position failed with this errno; those before it are done.
    Failed {
        /// Position in the list.
        index: usize,
        /// The host's errno.
        errno: i32,
    },
    /// The address space is dead.
    Dead(String),
}

/// Why guest code stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// A system call; [`Context::set_syscall_result`] answers it.
    Syscall {
        /// Number.
        nr: u64,
        /// Arguments.
        args: [u64; 6],
        /// Address behind the instruction.
        ip: u64,
    },
    /// A fault: what the host's signal says, and the CPU's words for it.
    Fault {
        /// Signal.
        signo: i32,
        /// `si_code`.
        code: i32,
        /// Exception vector.
        trapno: u32,
        /// Error code.
        error: u32,
        /// `si_addr`; the address of a page fault.
        addr: u64,
    },
    /// A kick.
    Interrupted,
    /// The address space can't go on; why.
    Dead(String),
}

/// An address space. Several threads may use it at once, each for a virtual CPU of its own.
pub struct Vmspace {
    engine: Arc<Engine>,
    body: Option<Body>,
    by_cpu: Box<[OnceLock<Arc<Runner>>]>,
    assign: Mutex<()>,
    early_kicks: Box<[AtomicBool]>,
    /// How often it has been changed.
    changes: AtomicU32,
    /// Whether what runs first makes many calls.
    program: AtomicBool,
    /// Its number among all of the engine's.
    id: u64,
    /// The virtual CPU that ran in it last.
    last_cpu: AtomicUsize,
    dead: OnceLock<String>,
}

impl Vmspace {
    pub(crate) fn new(engine: Arc<Engine>, body: Body) -> Vmspace {
        Vmspace {
            id: engine.next_id(),
            engine,
            body: Some(body),
            by_cpu: (0..layout::MAX_RUNNERS).map(|_| OnceLock::new()).collect(),
            assign: Mutex::new(()),
            early_kicks: (0..layout::MAX_RUNNERS).map(|_| AtomicBool::new(false)).collect(),
            changes: AtomicU32::new(0),
            program: AtomicBool::new(false),
            last_cpu: AtomicUsize::new(usize::MAX),
            dead: OnceLock::new(),
        }
    }

    /// Its number, which no other one of its engine has; not 0.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Most virtual CPUs that an address space can be used by.
    pub const MAX_CPUS: usize = layout::MAX_RUNNERS;

    fn runner(&self, cpu: usize) -> Result<&Arc<Runner>, Fatal> {
        let slot = self.by_cpu.get(cpu).ok_or("no such virtual CPU")?;
        if let Some(runner) = slot.get() {
            return Ok(runner);
        }
        let _guard = lock(&self.assign);
        if let Some(runner) = slot.get() {
            return Ok(runner);
        }
        let runner = self.assign(cpu)?;
        if runner.cpu.swap(cpu, Ordering::Relaxed) != cpu {
            runner.share_cpus();
        }
        Ok(slot.get_or_init(|| runner))
    }

    /// A runner that no other CPU uses: one that was this CPU's before, any other, or a new one.
    fn assign(&self, cpu: usize) -> Result<Arc<Runner>, Fatal> {
        let body = self.body.as_ref().ok_or("the address space is gone")?;
        let unused = |runner: &&Arc<Runner>| {
            !self.by_cpu.iter().any(|s| s.get().is_some_and(|r| Arc::ptr_eq(r, runner)))
        };
        let pick = || {
            let runners = lock(&body.runners);
            let own = runners.iter().filter(unused).find(|r| r.cpu.load(Ordering::Relaxed) == cpu);
            own.or_else(|| runners.iter().find(unused)).cloned()
        };
        if let Some(runner) = pick() {
            return Ok(runner);
        }
        self.engine.make_runner(body).map_err(|e| format!("no host task for another virtual CPU: {e}"))?;
        pick().ok_or_else(|| "no host task for another virtual CPU".into())
    }

    /// Changes the address space; on return the changes hold for every CPU. `cpu` is the calling thread's virtual CPU, which need not be one that
    /// the space runs on. Blocks for the time of the host calls.
    pub fn update(&self, cpu: usize, ops: &[Op<'_>]) -> Result<(), UpdateError> {
        self.change(cpu, ops, Wait::Now)
    }

    /// Begins to change an address space that nobody runs in, where a host CPU has nothing better to do, and else changes it. [`Vmspace::finish_update`] comes
    /// before guest code runs.
    pub fn begin_update(&self, cpu: usize, ops: &[Op<'_>]) -> Result<(), UpdateError> {
        self.change(cpu, ops, Wait::Later)
    }

    /// Waits for the end of what was begun; the result is that of [`Vmspace::update`].
    pub fn finish_update(&self) -> Result<(), UpdateError> {
        let body = self.body()?;
        self.settle(&mut lock(&body.mapper))
    }

    fn body(&self) -> Result<&Body, UpdateError> {
        if let Some(why) = self.dead.get() {
            return Err(UpdateError::Dead(why.clone()));
        }
        self.body.as_ref().ok_or_else(|| UpdateError::Dead("the address space is gone".into()))
    }

    fn settle(&self, mapper: &mut Mapper) -> Result<(), UpdateError> {
        let settled = mapper.settle().map_err(|why| UpdateError::Dead(self.die(why)))?;
        settled.map_err(|(index, errno)| UpdateError::Failed { index, errno })
    }

    /// Makes changes, and keeps track of what a copy shows. The first ones of a copy that has got what another one left take that out, too, and leave out what is there already.
    fn change(&self, cpu: usize, ops: &[Op<'_>], wait: Wait) -> Result<(), UpdateError> {
        let body = self.body()?;
        if body.copy_of == 0 {
            return self.make_changes(body, cpu, ops, wait);
        }
        let mut shown = lock(&body.shown);
        let result = match body.left.swap(false, Ordering::Relaxed) {
            true => {
                let (left, changes) = shown.reuse(ops);
                let (positions, changes): (Vec<usize>, Vec<Op<'_>>) = changes.into_iter().unzip();
                match self.make_changes(body, cpu, &changes, Wait::Now) {
                    Err(UpdateError::Failed { index, errno }) if index < left => {
                        let why = format!("can't take out what the last copy was shown: error {errno}");
                        Err(UpdateError::Dead(self.die(why)))
                    }
                    Err(UpdateError::Failed { index, errno }) => {
                        Err(UpdateError::Failed { index: positions[index], errno })
                    }
                    other => other,
                }
            }
            false => {
                ops.iter().for_each(|op| shown.change(op));
                self.make_changes(body, cpu, ops, wait)
            }
        };
        if result.is_err() {
            shown.is_lost();
        }
        result
    }

    /// Has the mapper make changes: beside the session that goes on, if there is one, or where the caller is.
    fn make_changes(&self, body: &Body, cpu: usize, ops: &[Op<'_>], wait: Wait) -> Result<(), UpdateError> {
        let dead = |why: Fatal| UpdateError::Dead(self.die(why));
        for op in ops {
            if let Op::MapRam { at, len, .. } | Op::MapFile { at, len, .. } = *op {
                lock(&body.extents).add(at, len);
            }
            if let Op::MapRam { len, .. } = op {
                body.ram_shown.fetch_add(*len, Ordering::Relaxed);
            }
        }
        let mut mapper = lock(&body.mapper);
        self.settle(&mut mapper)?;
        let changes = self.changes.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let worth_waking = mapper.is_worth_waking();
        // Who gets a file sleeps meanwhile.
        let new_file = |op: &Op<'_>| matches!(op, Op::MapFile { key, .. } if !mapper.has_file(*key));
        // What is taken away the host would have to tell the session's CPU from here.
        let at_session = worth_waking || wait == Wait::Later || ops.iter().any(Op::takes_away);
        let beside = at_session && !ops.iter().any(new_file);
        // A program is prepared beside the session of whoever starts it. Whoever has a runner's lock takes it out of what it waits for.
        let own = self.by_cpu.get(cpu).and_then(OnceLock::get);
        let runner = match own {
            Some(own) => Some(own.clone()),
            None => self.engine.seats.last(cpu).filter(|_| self.program.load(Ordering::Relaxed)),
        };
        let mut waiting = runner.as_ref().and_then(|runner| Some((runner, runner.inner.try_lock().ok()?)));
        if let (Some(_), Some((_, inner))) = (own, &mut waiting) {
            inner.pace.has_changed(changes);
        }
        let session = waiting
            .filter(|_| beside)
            .and_then(|(runner, inner)| Some((runner, runner.waits_on(&inner)?, inner)));
        match &session {
            Some((_, host, _)) => {
                self.engine.seats.stands_by(cpu, &mapper);
                mapper.go_to(*host);
            }
            None => mapper.follow(cpu),
        }
        let later = wait == Wait::Later && ops.len() <= layout::MAX_BATCH;
        let make = |mapper: &mut Mapper, calls: &[Call]| {
            let Some((runner, _, inner)) = &session else {
                let begin = Instant::now();
                let made = mapper.make(calls);
                if calls.len() == 1 {
                    self.engine.tempo.note(begin.elapsed());
                }
                return made;
            };
            mapper.start(calls)?;
            runner.step_aside(inner);
            if later {
                return Ok(Ok(()));
            }
            let made = mapper.finish();
            runner.step_back(inner);
            made
        };
        let mut calls = Vec::with_capacity(ops.len().min(layout::MAX_BATCH));
        let mut done = 0;
        let mut flush = |mapper: &mut Mapper, calls: &mut Vec<Call>| {
            match make(mapper, calls).map_err(dead)? {
                Ok(()) => done += calls.len(),
                Err((at, errno)) => return Err(UpdateError::Failed { index: done + at, errno }),
            }
            calls.clear();
            Ok(())
        };
        for op in ops {
            let call = loop {
                match op.call(&mut mapper).map_err(dead)? {
                    Some(call) => break call,
                    None => flush(&mut mapper, &mut calls)?,
                }
            };
            calls.push(call);
            if calls.len() == layout::MAX_BATCH {
                flush(&mut mapper, &mut calls)?;
            }
        }
        if calls.is_empty() { Ok(()) } else { flush(&mut mapper, &mut calls) }
    }

    /// What runs first is the beginning of a program, which virtual CPU `cpu` starts: it makes many calls, and where a session goes on, it begins there. It will be shown
    /// soon, so the mapper wakes up.
    pub fn expect_program(&self, cpu: usize) {
        self.program.store(true, Ordering::Relaxed);
        if let (Ok(body), Some(host)) = (self.body(), self.engine.seats.clear(cpu)) {
            let mut mapper = lock(&body.mapper);
            self.engine.seats.stands_by(cpu, &mapper);
            mapper.go_to(host);
            // Whoever wants something of it hears if it does not.
            let _ = mapper.wake_early();
        }
    }

    /// Has calls through the gate take memory that lies ready, mapped and guarded ([`Op::Guard`]), from `at` to `limit`. To be called while no guest code runs in it.
    pub fn lend(&self, stock: Stock, at: u64, limit: u64) {
        if let Some(body) = &self.body {
            body.area.store(stock.word() + lent::LIMIT as usize, limit);
            body.area.store(stock.word(), at);
        }
    }

    /// Where guest code says that what is left begins; it may say anything. 0 for none.
    pub fn lent(&self, stock: Stock) -> u64 {
        self.body.as_ref().map_or(0, |body| body.area.load(stock.word()))
    }

    /// Lends it no longer; what [`Vmspace::lent`] says at last. Any thread, any time.
    pub fn recall(&self, stock: Stock) -> u64 {
        self.body.as_ref().map_or(0, |body| body.area.swap(stock.word(), 0))
    }

    /// Whether guest code of virtual CPU `cpu` had a host CPU of its own when it stopped.
    pub fn in_session(&self, cpu: usize) -> bool {
        self.engine.seats.is_taken(cpu)
    }

    /// The host CPU that guest code of virtual CPU `cpu`, of whatever address space, makes good use of besides the owner's: its calls come so fast that more gets
    /// done than if it served another virtual CPU.
    pub fn borrowed(&self, cpu: usize) -> Option<usize> {
        self.engine.seats.borrowed(cpu)
    }

    /// Runs guest code on the calling thread's virtual CPU `cpu` until it stops. Blocks. `spare` names a host CPU, other than the caller's,
    /// that has nothing to do: with it, calls that come fast are served without a switch of tasks.
    pub fn run(&self, cpu: usize, context: &mut Context, spare: &dyn Fn() -> Option<usize>) -> Exit {
        self.run_beside(cpu, context, spare, &mut || false)
    }

    /// As [`Vmspace::run`]. While guest code runs on such a host CPU, the caller does `meanwhile`: once at first, and again for as long as that is true and nothing is heard of it.
    pub fn run_beside(
        &self,
        cpu: usize,
        context: &mut Context,
        spare: &dyn Fn() -> Option<usize>,
        meanwhile: &mut dyn FnMut() -> bool,
    ) -> Exit {
        if let Some(why) = self.dead.get() {
            return Exit::Dead(why.clone());
        }
        match self.try_run(cpu, context, spare, meanwhile) {
            Ok(exit) => exit,
            Err(why) => Exit::Dead(self.die(why)),
        }
    }

    fn try_run(
        &self,
        cpu: usize,
        context: &mut Context,
        spare: &dyn Fn() -> Option<usize>,
        meanwhile: &mut dyn FnMut() -> bool,
    ) -> Result<Exit, Fatal> {
        let runner = self.runner(cpu)?;
        self.last_cpu.store(cpu, Ordering::Relaxed);
        if self.body.as_ref().is_some_and(Body::is_left) {
            self.change(cpu, &[], Wait::Now)
                .map_err(|e| format!("can't take out what the last copy was shown: {e:?}"))?;
        }
        context.flush();
        let mut inner = lock(&runner.inner);
        if inner.holds(&context.cell).is_none() {
            // That may take another runner's lock.
            drop(inner);
            context.leave_other(Some(runner));
            inner = lock(&runner.inner);
        }
        if let Some(Withdrawal { len, .. }) = context.withdraws
            && (len > layout::MOST_WITHDRAWN || !runner.will_answer_in_gate(&inner, context))
        {
            drop(inner);
            self.withdraw(cpu, context.withdraws.take())?;
            inner = lock(&runner.inner);
        }
        if take_flag(&self.early_kicks[cpu]) {
            return Ok(Exit::Interrupted);
        }
        let new = inner.pace.take_new();
        if new {
            // Nothing ran meanwhile that had to be told.
            inner.pace.has_seen(self.changes.load(Ordering::Relaxed));
        }
        let begins = new
            && self.program.load(Ordering::Relaxed)
            && self.engine.seats.goes_on(cpu)
            && runner.begin_session(&mut inner, || self.lent_cpu(cpu, spare));
        if new && !begins {
            runner.stay_here();
            // The session's host CPU has nothing to do meanwhile.
            self.engine.empty_what_was_put_off(Some(cpu));
        }
        if take_flag(&runner.kicked) {
            return Ok(Exit::Interrupted);
        }
        inner.pace.changed(self.changes.load(Ordering::Relaxed));
        runner.load_answers(&mut inner, &context.answers);
        runner.load_offers(&mut inner, &context.offers);
        runner.load_stat(&mut inner, &context.stat);
        runner.load_views(&mut inner, &context.views);
        if let (Some(Withdrawal { at, len, rights: prot }), Some(body)) = (context.withdraws, &self.body)
            && body.copy_of != 0
        {
            lock(&body.shown).change(&Op::Protect { at, len, prot });
        }
        // The host may let it run at once and the owner only later, so whoever kicks it meanwhile has to reach it; but no kick may meet the answer of a call
        // that trapped.
        let trapped = runner.will_answer(&inner, context);
        if !trapped {
            runner.entered_guest();
        }
        let exit = runner.enter(&mut inner, context).and_then(|()| {
            if trapped {
                runner.entered_guest();
            }
            self.engine.seats.take(cpu, runner, &mut inner);
            if begins {
                // The first call of a program comes after some dozens of microseconds.
                self.engine.cleanse_ahead(cpu);
            }
            self.engine.runs(inner.pace.in_session());
            let mut more = inner.pace.in_session();
            if more {
                more = meanwhile();
                inner.pace.has_seen(self.changes.load(Ordering::Relaxed));
            }
            self.leave(cpu, runner, &mut inner, context, spare, &mut || {
                more = more && meanwhile();
                more
            })
        });
        self.engine.seats.note(cpu, &inner.pace);
        runner.left_guest();
        let closed = runner.take_closed(&inner);
        context.closed |= closed;
        if context.stat.as_ref().is_some_and(|offer| closed >> offer.fd & 1 != 0) {
            // The gate has forgotten it, too.
            (context.stat, inner.stat) = (None, None);
        }
        if let Some(actions) = &mut context.offers.actions {
            actions.plain = runner.get(call::PLAIN);
        }
        if let Some(mask) = &mut context.offers.sigmask {
            *mask = runner.get(call::SIGMASK);
        }
        let undone = inner.undone.take();
        drop(inner);
        self.withdraw(cpu, undone)?;
        exit
    }

    /// Takes rights from a range.
    fn withdraw(&self, cpu: usize, what: Option<Withdrawal>) -> Result<(), Fatal> {
        let Some(Withdrawal { at, len, rights: prot }) = what else { return Ok(()) };
        match self.update(cpu, &[Op::Protect { at, len, prot }]) {
            // What is not there any more can't be used either.
            Ok(()) | Err(UpdateError::Failed { errno: libc::ENOMEM, .. }) => Ok(()),
            Err(UpdateError::Failed { errno, .. }) => {
                Err(format!("can't take rights from memory: error {errno}"))
            }
            Err(UpdateError::Dead(why)) => Err(why),
        }
    }

    /// A host CPU for sessions of virtual CPU `cpu`, if there is one to spare.
    fn lent_cpu(&self, cpu: usize, spare: &dyn Fn() -> Option<usize>) -> Option<usize> {
        spare().filter(|host| self.engine.seats.lend(cpu, *host))
    }

    /// Waits until guest code stops.
    fn leave(
        &self,
        cpu: usize,
        runner: &Arc<Runner>,
        inner: &mut runner::Inner,
        context: &mut Context,
        spare: &dyn Fn() -> Option<usize>,
        meanwhile: &mut dyn FnMut() -> bool,
    ) -> Result<Exit, Fatal> {
        let seat = self.engine.seats.of(cpu);
        let heard = runner.hear(inner, spare, &seat.rivals, meanwhile)?;
        let by_gate = matches!(heard, Heard::Call { .. });
        // A copy of a process soon executes a program, or waits for another one: it pays when its own calls do.
        let joins = by_gate && self.program.load(Ordering::Relaxed);
        let joined = joins && self.engine.seats.is_joined_by(cpu, runner);
        runner.consider_listening(
            inner,
            by_gate,
            joined,
            || self.lent_cpu(cpu, spare),
            seat,
            &self.engine.tempo,
        );
        match heard {
            Heard::Direct(n) => {
                let nr = u64::from(n.nr as u32);
                inner.mode = Mode::Direct { id: n.id, nr, ip: n.ip };
                runner::park(runner, &context.cell, inner, Place::Direct);
                Ok(Exit::Syscall { nr, args: n.args, ip: n.ip })
            }
            Heard::Call { id, nr, args, site } => {
                inner.withdrawn = None;
                runner.count_eager(inner);
                let (nr, ip) = (u64::from(nr as u32), site.wrapping_add(SYSCALL_LEN));
                inner.mode = Mode::Taken { id, nr, ip };
                runner::park(runner, &context.cell, inner, Place::Gate);
                Ok(Exit::Syscall { nr, args, ip })
            }
            Heard::Trap { id, args } => {
                inner.mode = Mode::Handler { id };
                inner.bases = Runner::bases(&args);
                let in_gate = runner.leave_gate(inner);
                runner::park(runner, &context.cell, inner, Place::Frame);
                Ok(trapped(runner, &args, in_gate))
            }
        }
    }

    /// Makes [`Vmspace::run`] on `cpu` return [`Exit::Interrupted`] soon: the present call, or the next. Any thread, any time.
    pub fn kick(&self, cpu: usize) {
        match self.by_cpu.get(cpu).and_then(OnceLock::get) {
            Some(runner) => runner.kick(),
            None => {
                if let Some(early) = self.early_kicks.get(cpu) {
                    early.store(true, Ordering::SeqCst);
                }
            }
        }
    }

    /// Ends the address space's processes at once; every CPU in it sees [`Exit::Dead`].
    fn die(&self, why: Fatal) -> String {
        let why = self.dead.get_or_init(|| why).clone();
        if let Some(body) = &self.body {
            for runner in lock(&body.runners).iter() {
                sys::kill(runner.pid, libc::SIGKILL);
            }
        }
        why
    }
}

/// Whether a flag is set, which then is cleared.
fn take_flag(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst) && flag.swap(false, Ordering::SeqCst)
}

/// What the handler reported.
fn trapped(runner: &Runner, args: &[u64; 6], in_gate: bool) -> Exit {
    let signo = args[0] as i32;
    if signo == KICK {
        runner.kicked.store(false, Ordering::SeqCst);
        runner.kick_was_reported();
    }
    // What goes wrong in the gate goes wrong again at the instruction, which knows what it means.
    if signo == KICK || in_gate {
        return Exit::Interrupted;
    }
    if signo == libc::SIGSYS {
        let Some((nr, args, ip)) = runner.call_in_frame(args) else {
            // A call of another instruction set, which there is no kernel for here: as if the instruction did not exist.
            return Exit::Fault { signo: libc::SIGSEGV, code: 0x80, trapno: 13, error: 0, addr: 0 };
        };
        return Exit::Syscall { nr, args, ip };
    }
    let (code, si_addr) = runner.siginfo(args);
    let (trapno, error, cr2) = runner.fault_words();
    let addr = if trapno == 14 { cr2 } else { si_addr };
    Exit::Fault { signo, code, trapno, error, addr }
}

impl Drop for Vmspace {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        match self.dead.get() {
            Some(_) => self.engine.discard(body),
            None => self.engine.give_back(body, self.last_cpu.load(Ordering::Relaxed)),
        }
    }
}
