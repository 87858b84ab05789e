//! The machine as one object.

use crate::{Cpu, Fibers, HostFs, Ram, SpaceError, Stream, UserContext, VmSpace};
use alloc::boxed::Box;
use alloc::sync::Arc;

/// Clocks of the machine (`clock_gettime(2)`), all in nanoseconds. Each is what the guest's vDSO shows, if there is one. A machine that does not have one of the
/// later ones has it show the same as the first or second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockId {
    /// Since the Epoch; can be set.
    Realtime,
    /// Since an arbitrary point; never goes back.
    Monotonic,
    /// The same, at the rate of the hardware.
    MonotonicRaw,
    /// The first and the second as of the last tick.
    RealtimeCoarse,
    /// See [`ClockId::RealtimeCoarse`].
    MonotonicCoarse,
    /// Monotonic, with the time that the machine was suspended.
    Boottime,
    /// Real time without leap seconds.
    Tai,
}

/// Something that happened outside. Recorded in interrupt context, taken by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The stream with this index (0 to 2) became ready for what was asked.
    Stream(usize),
    /// The transfer with this number has ended ([`crate::HostFile::start`]).
    Transferred(u64),
    /// The terminal's window changed its size.
    WindowSize,
    /// The outside asks for an orderly end (SIGTERM, SIGINT, SIGHUP to the process); the signal's number.
    Terminate(i32),
}

/// What the `cpuid` instruction says on every CPU of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidAnswer {
    /// `eax` before it.
    pub leaf: u32,
    /// `ecx` before it; `None` where it does not matter.
    pub subleaf: Option<u32>,
    /// `eax`, `ebx`, `ecx`, `edx` behind it.
    pub regs: [u32; 4],
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// A machine. All parts live as long as it does.
pub trait Machine: Send + Sync {
    /// Memory.
    fn ram(&self) -> &dyn Ram;
    /// Virtual CPUs.
    fn cpu(&self) -> &dyn Cpu;
    /// Kernel stacks.
    fn fibers(&self) -> &dyn Fibers;
    /// A clock's reading in nanoseconds. Any context, never blocks.
    fn clock_ns(&self, clock: ClockId) -> u64;
    /// A new, empty address space. Virtual CPU context; blocks for the time of the host calls.
    fn new_space(&self) -> Result<Arc<dyn VmSpace>, SpaceError>;
    /// An address space that will show much of what `original` shows: as good as an empty one, but what is the same may take less time. As [`Machine::new_space`].
    fn new_copy(&self, _original: &dyn VmSpace) -> Result<Arc<dyn VmSpace>, SpaceError> {
        self.new_space()
    }
    /// The calling virtual CPU has nothing to do: the machine does what it has put off. Does not block for long.
    fn tidy(&self) {}
    /// Registers of a new guest thread: all zero.
    fn new_context(&self) -> Box<dyn UserContext>;
    /// The first address that guest mappings can't use.
    fn user_limit(&self) -> u64;
    /// Where every address space shows a vDSO (`vdso(7)`), if the machine has one.
    fn vdso(&self) -> Option<u64>;
    /// What is there, whole pages; empty where the machine can't say. Does not block for long.
    fn vdso_image(&self) -> &[u8];
    /// Where every address space has code that a `syscall` instruction can be replaced by, if the machine has such: it expects the call's number in
    /// `rax`, the address of the instruction in `rcx` and the arguments as usual, and goes on behind the instruction with the result, or at the
    /// instruction; `rcx`, `r11` and the arithmetic flags change. Calls through it leave [`crate::VmSpace::run`] as traps do.
    fn gate(&self) -> Option<u64> {
        None
    }
    /// How often [`Machine::recall_offers`] was called: to be asked before looking at what is offered.
    fn offers_version(&self) -> u64 {
        0
    }
    /// From now on no [`crate::StatOffer`] with an earlier version is told to guest code, and no [`crate::Views`] with one are used. Any context; does not block.
    fn recall_offers(&self) {}
    /// Answers of `cpuid` that never change, the most wanted first. Empty where the instruction is fast and need not be replaced.
    fn cpuid(&self) -> &[CpuidAnswer] {
        &[]
    }
    /// `AT_HWCAP` and `AT_HWCAP2` for guests.
    fn hwcap(&self) -> (u64, u64);
    /// Size in bytes of the largest image that [`UserContext::swap_fpu`] returns.
    fn fpu_size(&self) -> usize;
    /// Random bytes fit for keys.
    fn entropy(&self, buf: &mut [u8]);
    /// Standard input, output and error: index 0 to 2. `None` where the machine has none.
    fn stream(&self, index: usize) -> Option<Arc<dyn Stream>>;
    /// The host's files, where the machine has a host.
    fn host_fs(&self) -> Option<&dyn HostFs>;
    /// Takes the next event. Cheap when there is none. Virtual CPU context.
    fn next_event(&self) -> Option<Event>;
    /// A line for the log. Any context.
    fn log(&self, level: LogLevel, line: &str);
    /// Which lines [`Machine::log`] keeps, so that the kernel need not format the others.
    fn log_enabled(&self, level: LogLevel) -> bool;
    /// CPU model and features as the lines of `/proc/cpuinfo` of one CPU, without the `processor` line.
    fn cpu_info(&self) -> alloc::string::String;
}
