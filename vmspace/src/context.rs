//! Contexts: the registers of guest threads.

use crate::engine::lock;
use crate::layout::{
    self,
    call::{STAT_WORDS, VIEW_COUNT},
    view,
};
use crate::runner::Runner;
use std::sync::{Arc, Mutex};

/// General registers of x86_64 user mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Regs {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// Flags that user code may set: arithmetic, direction, trap, alignment check, ID (SDM vol. 1, 3.4.3).
const USER_EFLAGS: u64 = 0x24_0dd5;
/// Flags that are always set: reserved bit 1 and interrupts.
const FIXED_EFLAGS: u64 = 0x202;

impl Regs {
    pub(crate) fn from_words(w: &[u64; 18], bases: (u64, u64)) -> Regs {
        Regs {
            r8: w[0],
            r9: w[1],
            r10: w[2],
            r11: w[3],
            r12: w[4],
            r13: w[5],
            r14: w[6],
            r15: w[7],
            rdi: w[8],
            rsi: w[9],
            rbp: w[10],
            rbx: w[11],
            rdx: w[12],
            rax: w[13],
            rcx: w[14],
            rsp: w[15],
            rip: w[16],
            eflags: w[17],
            fs_base: bases.0,
            gs_base: bases.1,
        }
    }

    /// In the order of `struct sigcontext`, with flags that the host accepts.
    pub(crate) fn to_words(self) -> [u64; 18] {
        [
            self.r8,
            self.r9,
            self.r10,
            self.r11,
            self.r12,
            self.r13,
            self.r14,
            self.r15,
            self.rdi,
            self.rsi,
            self.rbp,
            self.rbx,
            self.rdx,
            self.rax,
            self.rcx,
            self.rsp,
            self.rip,
            (self.eflags & USER_EFLAGS) | FIXED_EFLAGS,
        ]
    }
}

/// All of a thread's registers.
#[derive(Clone, Default)]
pub(crate) struct Full {
    pub regs: Regs,
    /// Floating-point image; empty is the initial state.
    pub fpu: Vec<u8>,
}

/// Where in a runner registers can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the CPU, as the host saved them at a system call.
    Direct,
    /// In the CPU, while it waits in the gate with a call.
    Gate,
    /// In the frame of the stub's handler.
    Frame,
    /// Saved by the gate at call `nr`, in this place of its area. They stay there while the runner runs other threads.
    Kept { place: usize, nr: u64 },
}

/// Where a context's registers are.
#[derive(Default)]
pub(crate) struct State {
    /// Valid unless `parked`.
    full: Box<Full>,
    parked: Option<(Arc<Runner>, Place)>,
}

impl State {
    /// Has the registers here from now on; `read` fills them in.
    pub(crate) fn settle(&mut self, read: impl FnOnce(&mut Full)) {
        read(&mut self.full);
        self.parked = None;
    }

    pub(crate) fn park(&mut self, runner: &Arc<Runner>, place: Place) {
        match &mut self.parked {
            Some((there, was)) if Arc::ptr_eq(there, runner) => *was = place,
            parked => *parked = Some((runner.clone(), place)),
        }
    }

    /// The place in this very runner.
    pub(crate) fn place_in(&self, runner: &Arc<Runner>) -> Option<Place> {
        self.parked.as_ref().filter(|(r, _)| Arc::ptr_eq(r, runner)).map(|(_, place)| *place)
    }

    /// The registers have been saved in a place of this runner. Whether they are in it: the thread may have gone.
    pub(crate) fn keep(&mut self, runner: &Runner, place: usize, nr: u64) -> bool {
        match &mut self.parked {
            Some((there, was)) if std::ptr::eq(&**there, runner) => {
                *was = Place::Kept { place, nr };
                true
            }
            _ => false,
        }
    }

    /// The runner goes on with the registers that it kept.
    pub(crate) fn leave_place(&mut self) {
        self.parked = None;
    }

    /// Has the registers here if they are kept in this place of this runner.
    pub(crate) fn take_from(&mut self, runner: &Runner, place: usize) {
        let Some((there, Place::Kept { place: at, nr })) = &self.parked else { return };
        if *at == place && std::ptr::eq(&**there, runner) {
            let nr = *nr;
            self.settle(|full| runner.read_place(place, nr, full));
        }
    }

    pub(crate) fn full(&mut self) -> Option<&mut Full> {
        self.parked.is_none().then_some(&mut *self.full)
    }
}

/// System calls that the gate may answer for a thread: number and result.
pub(crate) type Answers = Arc<Vec<(u8, u64)>>;

/// What the gate does for a thread besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// `sched_yield` has nothing to do.
    pub yields: bool,
    /// `rt_sigprocmask` changes this mask: whoever sets it sees its new value after [`crate::Vmspace::run`].
    pub sigmask: Option<u64>,
    /// `rt_sigaction` shows these actions and sets them: `plain` is as it is left after [`crate::Vmspace::run`].
    pub actions: Option<DefaultActions>,
    /// `close` closes these descriptors, a bit each, and [`Context::take_closed`] says which.
    pub closable: u64,
}

/// Attributes of an open file.
#[derive(Debug)]
pub struct StatOffer {
    /// Its descriptor.
    pub fd: u32,
    /// True as long as this is [`crate::Engine::offers_version`].
    pub version: u64,
    /// `struct stat`.
    pub stat: [u64; STAT_WORDS],
}

/// Open files whose content is in the address space: `pread64` and `pwrite64` of them copy from and to it, as far as their headers say
/// ([`crate::layout::view`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Views {
    /// True as long as this is [`crate::Engine::offers_version`].
    pub version: u64,
    /// The files.
    pub files: [Option<FileView>; VIEW_COUNT],
}

/// One of [`Views`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileView {
    /// Its descriptor.
    pub fd: u32,
    /// Guest address of the header.
    pub header: u64,
    /// Guest address of the content.
    pub content: u64,
}

impl FileView {
    /// Offsets in the header: the size in bytes and up to where it may grow, a half word each; when it was read first since it was written last, and when that was, in nanoseconds of
    /// `CLOCK_REALTIME_COARSE`, a word each; how often each of the two was said, a half word each.
    pub const HEADER: [u64; 6] =
        [view::SIZE, view::CAPACITY, view::READ, view::WRITTEN, view::READS, view::WRITES];
}

/// Signals whose actions are the default ones, by number minus one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultActions {
    /// All of them, without mask and with no flag but `SA_RESTORER`.
    pub defaults: u64,
    /// Those with that flag.
    pub plain: u64,
    /// Their restorer.
    pub restorer: u64,
}

/// The shared part of a context: its runner has to reach it when it gives the registers back.
#[derive(Default)]
pub(crate) struct Cell {
    pub state: Mutex<State>,
}

/// The registers of one guest thread. It lives with the owner; after a system call the registers may still be in the runner that
/// made it, and are fetched when they are asked for.
#[derive(Default)]
pub struct Context {
    pub(crate) cell: Arc<Cell>,
    /// The result of the system call that the thread made last, until it goes on or its registers are asked for.
    pub(crate) result: Option<u64>,
    /// What [`Context::regs`] hands out.
    scratch: Regs,
    dirty: bool,
    pub(crate) answers: Answers,
    pub(crate) stat: Option<Arc<StatOffer>>,
    /// What `pread64` and `pwrite64` find in the address space. Copies begin with nothing.
    pub views: Views,
    /// What [`Context::take_closed`] says.
    pub(crate) closed: u64,
    /// A range that nobody has more than these rights to once the thread goes on.
    pub(crate) withdraws: Option<Withdrawal>,
    /// What the gate does for this thread while it runs. Copies begin with nothing.
    pub offers: Offers,
}

/// A range of memory that loses rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// Guest address.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// The rights that are left, `PROT_*`.
    pub rights: i32,
}

impl Context {
    /// All registers zero, floating-point state initial.
    pub fn new() -> Context {
        Context::default()
    }

    /// Sets the register that holds a system call's result. Cheap after a system call.
    pub fn set_syscall_result(&mut self, value: u64) {
        self.flush();
        self.result = Some(value);
    }

    /// All registers, to read and change. Fetches them from the runner if they are there, which takes some microseconds.
    pub fn regs(&mut self) -> &mut Regs {
        if !self.dirty {
            self.fetch();
            self.scratch = lock(&self.cell.state).full.regs;
            if let Some(result) = self.result.take() {
                self.scratch.rax = result;
            }
            self.dirty = true;
        }
        &mut self.scratch
    }

    /// The stack pointer. Cheap after a system call through the gate.
    pub fn stack_pointer(&mut self) -> u64 {
        if !self.dirty
            && let Some((runner, Place::Gate)) = &lock(&self.cell.state).parked
        {
            return runner.stack_pointer();
        }
        self.regs().rsp
    }

    /// The floating-point image in signal-frame layout; empty is the initial state.
    pub fn fpu(&mut self) -> Vec<u8> {
        self.fetch();
        lock(&self.cell.state).full.fpu.clone()
    }

    /// Exchanges the floating-point image. One that the host would refuse is brought into shape when it is loaded.
    pub fn swap_fpu(&mut self, image: &mut Vec<u8>) {
        self.fetch();
        std::mem::swap(&mut lock(&self.cell.state).full.fpu, image);
    }

    /// What the gate answers for this thread from now on: system-call numbers and results that are not negative. Copies begin with none.
    pub fn set_answers(&mut self, answers: &[(u8, u64)]) {
        self.answers = Arc::new(answers.iter().copied().filter(|(_, value)| *value as i64 >= 0).collect());
    }

    /// Has rights taken from a range of the address space before guest code of this thread runs again; the thread does it itself if it waits in
    /// the gate. What is not mapped there stays so. False when another range waits already, or more than the right to read is left.
    pub fn withdraw(&mut self, what: Withdrawal) -> bool {
        let Withdrawal { at, len, rights } = what;
        let sound = at.checked_add(len).is_some_and(|end| end <= layout::REGION);
        let possible =
            self.withdraws.is_none() && sound && [libc::PROT_NONE, libc::PROT_READ].contains(&rights);
        if possible {
            self.withdraws = Some(what);
        }
        possible
    }

    /// What `fstat` of one descriptor is answered with, from now on. Copies begin with none.
    pub fn offer_stat(&mut self, offer: Option<StatOffer>) {
        self.stat = offer.map(Arc::new);
    }

    /// Which of [`Offers::closable`] guest code has closed since this was asked last.
    pub fn take_closed(&mut self) -> u64 {
        std::mem::take(&mut self.closed)
    }

    /// A copy, for a new thread.
    pub fn fork(&mut self) -> Context {
        self.flush();
        let full = self.peek().unwrap_or_else(|| {
            self.fetch();
            lock(&self.cell.state).full.clone()
        });
        Context {
            cell: Arc::new(Cell { state: Mutex::new(State { full, parked: None }) }),
            result: self.result,
            scratch: Regs::default(),
            dirty: false,
            answers: Answers::default(),
            stat: None,
            views: Views::default(),
            closed: 0,
            withdraws: None,
            offers: Offers::default(),
        }
    }

    /// A copy of registers that stay in a runner.
    fn peek(&self) -> Option<Box<Full>> {
        let runner = match &lock(&self.cell.state).parked {
            Some((runner, Place::Gate)) => runner.clone(),
            _ => return None,
        };
        runner.peek(&mut lock(&runner.inner), &self.cell).map(Box::new)
    }

    /// Writes back what [`Context::regs`] handed out.
    pub(crate) fn flush(&mut self) {
        if self.dirty {
            lock(&self.cell.state).full.regs = self.scratch;
            self.dirty = false;
        }
    }

    /// Has the registers here rather than in a runner.
    pub(crate) fn fetch(&mut self) {
        self.leave_other(None);
    }

    /// Takes the registers out of whatever runner they are in, unless it is `here`.
    pub(crate) fn leave_other(&mut self, here: Option<&Arc<Runner>>) {
        loop {
            let mut state = lock(&self.cell.state);
            let (runner, place) = match &state.parked {
                Some((runner, place)) if here.is_none_or(|h| !Arc::ptr_eq(h, runner)) => {
                    (runner.clone(), *place)
                }
                _ => return,
            };
            // Nobody else uses the place meanwhile, and the runner may be at work for others.
            if let Place::Kept { place, .. } = place {
                return state.take_from(&runner, place);
            }
            drop(state);
            let mut inner = lock(&runner.inner);
            // It may have been evicted, or its registers been put aside, while the lock was taken.
            let place = lock(&self.cell.state).place_in(&runner);
            if !matches!(place, Some(Place::Direct | Place::Gate | Place::Frame)) {
                continue;
            }
            if runner.evict(&mut inner).is_err() || lock(&self.cell.state).place_in(&runner).is_some() {
                // The address space is dead; zeros are as good as anything.
                lock(&self.cell.state).settle(|full| *full = Full::default());
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // The runner may keep the cell until it is used again; it must not keep itself alive through it.
        lock(&self.cell.state).parked = None;
    }
}
