//! Address spaces of guests, and running guest code in them.

use crate::{CpuId, HostFile, PhysAddr, VirtAddr};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::any::Any;

bitflags! {
    /// Access rights of a mapping, with the values of `PROT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Prot: u32 {
        /// Readable.
        const READ = 1;
        /// Writable.
        const WRITE = 2;
        /// Executable.
        const EXEC = 4;
    }
}

/// What a mapping shows.
pub enum Backing<'a> {
    /// A run of RAM, starting here.
    Ram(PhysAddr),
    /// A host file as it is, starting at a byte offset that is a multiple of the page size. `shared` with write
    /// access lets guest stores reach the file; otherwise the mapping must not be writable.
    File {
        /// The file.
        file: &'a dyn HostFile,
        /// Where the mapping starts in the file, in bytes.
        offset: u64,
        /// `MAP_SHARED` rather than `MAP_PRIVATE`.
        shared: bool,
    },
}

/// When the page tables of a mapping of RAM are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populate {
    /// Page by page, when the guest touches them.
    OnTouch,
    /// Now: the guest is about to touch all of it.
    Now,
    /// Now, for stores: and nobody has touched this RAM before, so that the machine has to make it.
    Fresh,
    /// By guest code itself, piece by piece, as [`VmSpace::lend`] lets it. Until then nobody can reach it.
    Lent,
}

/// Memory that lies ready for guest code to take by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// Behind the heap: `brk` moves the program break up into it, to any byte.
    Heap,
    /// `mmap` of new private memory to read and write, at no address that is asked for, takes it from its end on downwards, in whole pages.
    Maps,
}

/// One change of an address space. Addresses and lengths are multiples of the page size.
pub enum MapOp<'a> {
    /// Maps over whatever was there.
    Map {
        /// Guest address.
        at: VirtAddr,
        /// Length in bytes.
        len: u64,
        /// Access rights.
        prot: Prot,
        /// Content.
        backing: Backing<'a>,
        /// When its page tables are filled.
        populate: Populate,
    },
    /// Removes whatever is mapped in the range; holes are fine.
    Unmap {
        /// Guest address.
        at: VirtAddr,
        /// Length in bytes.
        len: u64,
    },
    /// Changes the access rights of a range. All of it must be mapped: hosts can't tell a hole from having no room to split a mapping.
    Protect {
        /// Guest address.
        at: VirtAddr,
        /// Length in bytes.
        len: u64,
        /// New access rights.
        prot: Prot,
    },
}

/// Why an address space could not be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpaceError {
    /// The host has no room for another mapping or its tables. Nothing after the failed change was done;
    /// the caller may unmap everything it can fault in again and retry.
    NoMemory,
    /// The host will not make the change with this position: it is a file that can't be mapped like that. Nothing after it was done.
    Refused(usize),
    /// The address space is dead (its host process was killed or misbehaved); the text says why.
    Dead(String),
}

/// An address space. Methods may be called by several virtual CPUs at the same time.
pub trait VmSpace: Send + Sync {
    /// Applies changes in order; when it returns they hold for every CPU. Called in virtual CPU context on
    /// `cpu`. Blocks for the time of the host calls only. A Linux process has the stub make the calls.
    fn update(&self, cpu: CpuId, ops: &[MapOp<'_>]) -> Result<(), SpaceError>;

    /// Runs guest code with the registers in `ctx` on `cpu` until it traps. Blocks the virtual CPU for that
    /// time. A pending or arriving [`crate::Cpu::interrupt`] makes it return [`Exit::Interrupted`].
    fn run(&self, cpu: CpuId, ctx: &mut dyn UserContext) -> Exit {
        self.run_beside(cpu, ctx, &mut || ())
    }

    /// As [`VmSpace::run`]. Where guest code runs on a host CPU of its own, `meanwhile` is called while it does, once at most: for a few microseconds
    /// of work that need not be done at all. It must not suspend.
    fn run_beside(&self, cpu: CpuId, ctx: &mut dyn UserContext, meanwhile: &mut dyn FnMut()) -> Exit;

    /// Begins to apply changes to an address space that nobody runs in, or applies them. [`VmSpace::finish_update`] with the same changes comes before guest code runs.
    fn begin_update(&self, cpu: CpuId, ops: &[MapOp<'_>]) -> Result<(), SpaceError> {
        self.update(cpu, ops)
    }

    /// Waits until changes that were begun hold. Blocks as [`VmSpace::update`] does, and fails like that.
    fn finish_update(&self, _cpu: CpuId, _ops: &[MapOp<'_>]) -> Result<(), SpaceError> {
        Ok(())
    }

    /// A program that `cpu` starts is about to be shown and to begin in it, which makes many calls at first. Before that is told nothing has run in it.
    fn expect_program(&self, _cpu: CpuId) {}

    /// Whether [`VmSpace::lend`] works.
    fn lends(&self) -> bool {
        false
    }

    /// From now on calls through [`crate::Machine::gate`] take memory by themselves that lies ready: it was mapped as [`Populate::Lent`]. They begin at `at`, and go as far as `limit`, a
    /// multiple of the page size. No guest code runs in it meanwhile.
    fn lend(&self, _stock: Stock, _at: u64, _limit: u64) {}

    /// Where guest code says that what is left begins, if it was lent. It may say anything, at any time.
    fn lent(&self, _stock: Stock) -> Option<u64> {
        None
    }

    /// It is lent no longer, and what [`VmSpace::lent`] says at last.
    fn recall(&self, _stock: Stock) -> Option<u64> {
        None
    }

    /// Whether guest code of `cpu` had a host CPU of its own when it trapped, and goes on there.
    fn runs_beside(&self, _cpu: CpuId) -> bool {
        false
    }

    /// For the implementation, to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// Why guest code stopped running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A system call. The context holds its result register only: [`UserContext::set_syscall_result`].
    Syscall {
        /// Its number.
        nr: u64,
        /// Its arguments, raw.
        args: [u64; 6],
        /// The address behind the instruction.
        ip: u64,
    },
    /// A fault of the guest's instruction.
    Fault(Fault),
    /// The virtual CPU was interrupted; the guest's state is complete.
    Interrupted,
    /// The address space is beyond saving; the text says why. The kernel kills its tasks.
    Dead(String),
}

/// A fault as the CPU reports it (SDM vol. 3A, ch. 6) and as the host's kernel would say it with a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The exception vector; 14 is a page fault.
    pub vector: u32,
    /// The error code; for a page fault bit 0 present, bit 1 write, bit 4 instruction fetch.
    pub error: u32,
    /// The faulting address of a page fault, else 0.
    pub addr: u64,
    /// The signal that Linux sends for it.
    pub signo: i32,
    /// The `si_code` that goes with it.
    pub code: i32,
}

impl Fault {
    /// Whether the access was a write (page faults).
    pub fn is_write(&self) -> bool {
        self.error & 2 != 0
    }
    /// Whether the access was an instruction fetch (page faults).
    pub fn is_exec(&self) -> bool {
        self.error & 16 != 0
    }
}

/// General registers of x86_64 in user mode.
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

/// What calls through [`crate::Machine::gate`] may do to a thread without leaving [`VmSpace::run`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// `sched_yield` returns at once: nobody waits for the CPU.
    pub yields: bool,
    /// `rt_sigprocmask` reads and changes this signal mask, without those of `SIGKILL` and `SIGSTOP`.
    pub sigmask: Option<u64>,
    /// `rt_sigaction` shows these default actions, and sets default ones for the same signals.
    pub actions: Option<DefaultActions>,
    /// `close` of these descriptors, a bit each, succeeds at once; [`UserContext::take_closed`] says which it was.
    pub closable: u64,
}

/// Attributes of an open file, for `fstat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatOffer {
    /// Its descriptor.
    pub fd: u32,
    /// What [`crate::Machine::offers_version`] said before they were looked at.
    pub version: u64,
    /// `struct stat` as guests know it.
    pub stat: [u64; 18],
}

/// Open files whose content is in the address space: `pread64` and `pwrite64` of them copy from and to it, as far as that goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Views {
    /// What [`crate::Machine::offers_version`] said before they were looked at.
    pub version: u64,
    /// The files.
    pub files: [Option<FileView>; 2],
}

/// One of [`Views`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileView {
    /// Its descriptor.
    pub fd: u32,
    /// Where its header is, which guest code may write.
    pub header: VirtAddr,
    /// Where its content is.
    pub content: VirtAddr,
}

/// Offsets in the header. Sizes and counts are `u32`, times nanoseconds of `CLOCK_REALTIME_COARSE` as `u64`.
impl FileView {
    /// The file's size in bytes; grows.
    pub const SIZE: u64 = 0;
    /// Up to where it may grow, in bytes.
    pub const CAPACITY: u64 = 4;
    /// When it was read first since it was written last.
    pub const READ: u64 = 8;
    /// When it was written last.
    pub const WRITTEN: u64 = 16;
    /// How often [`FileView::READ`] was said.
    pub const READS: u64 = 24;
    /// How often [`FileView::WRITTEN`] was said.
    pub const WRITES: u64 = 28;
}

/// Signals whose actions are the default ones, by number minus one: no handler, no mask, no flag but `SA_RESTORER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultActions {
    /// All of them.
    pub defaults: u64,
    /// Those with that flag.
    pub plain: u64,
    /// Their restorer.
    pub restorer: u64,
}

/// The registers of one guest thread. Belongs to one task; made by [`crate::Machine::new_context`].
///
/// After a system call the registers may still be in the CPU: [`UserContext::set_syscall_result`] is then far
/// cheaper than [`UserContext::regs`], which has to fetch them.
pub trait UserContext: Send {
    /// Sets the register that returns a system call's result.
    fn set_syscall_result(&mut self, value: u64);
    /// All general registers, to read and change. After a system call `rip` is behind the instruction.
    /// Blocks shortly when they have to be fetched. If the address space died meanwhile, they are zeros.
    fn regs(&mut self) -> &mut Regs;
    /// The stack pointer, where that is all that is wanted.
    fn stack_pointer(&mut self) -> u64 {
        self.regs().rsp
    }
    /// Exchanges the floating-point and vector state with `image`, in the layout of a signal frame (`struct _xstate` with its software
    /// bytes and end magic). Empty means the initial state; an image that the machine does not accept becomes that.
    fn swap_fpu(&mut self, image: &mut Vec<u8>);
    /// What calls through [`crate::Machine::gate`] may be answered with while this thread runs, without leaving [`VmSpace::run`]: numbers below 256
    /// and results that are no errors. Copies begin with none.
    fn set_answers(&mut self, _answers: &[(u8, u64)]) {}
    /// What else such calls may do when it runs next. Copies begin with nothing.
    fn set_offers(&mut self, _offers: Offers) {}
    /// Attributes that such calls may be answered with until they are recalled ([`crate::Machine::recall_offers`]) or others are offered. Copies begin with none.
    fn offer_stat(&mut self, _offer: Option<StatOffer>) {}
    /// Files that such calls may read and write until they are recalled likewise or others are offered. Copies begin with none.
    fn offer_views(&mut self, _views: Views) {}
    /// Which descriptors of [`Offers::closable`] guest code has closed since this was asked last.
    fn take_closed(&mut self) -> u64 {
        0
    }
    /// Has rights taken from a range of the address space, as by [`MapOp::Protect`], not later than guest code of this thread runs again; `rights` is what is left of them: for memory
    /// that a call of the thread has freed or protected. False when it can't be done so.
    fn withdraw(&mut self, _at: VirtAddr, _len: u64, _rights: Prot) -> bool {
        false
    }
    /// The signal mask that guest code has left, if it was offered.
    fn sigmask(&self) -> Option<u64> {
        None
    }
    /// [`DefaultActions::plain`] as guest code has left it, if it was offered.
    fn plain_actions(&self) -> Option<u64> {
        None
    }
    /// A copy with all registers, for a new thread.
    fn duplicate(&mut self) -> Box<dyn UserContext>;
    /// For the implementation, to find its own type again.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}
