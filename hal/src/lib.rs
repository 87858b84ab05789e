#![no_std]
#![forbid(unsafe_code)]
//! The machine: everything that the kernel needs from below, as a few small traits.
//!
//! A Linux process is one implementation (`host/linux`), the module `mock` another, hardware a third. The kernel
//! holds an `Arc<dyn Machine>` and never learns which. Every method's documentation answers four
//! questions: may it block the virtual CPU, from where may it be called, how does it fail, what do hosts do.
//!
//! Two words used throughout: *virtual CPU context* is the host thread (or hardware CPU) that runs the
//! kernel's scheduler loop and the fibers that it resumes; *interrupt context* is anything else on the host
//! (I/O threads, timers). Interrupt context never enters the kernel: it records an [`Event`] and interrupts
//! a virtual CPU.

extern crate alloc;
#[cfg(feature = "mock")]
extern crate std;

mod addr;
mod cpu;
mod fiber;
mod hostfs;
mod machine;
#[cfg(feature = "mock")]
pub mod mock;
mod ram;
mod space;
mod stream;

pub use addr::{CpuId, PAGE_SHIFT, PAGE_SIZE, PhysAddr, VirtAddr};
pub use cpu::Cpu;
pub use fiber::{Fiber, FiberEntry, FiberState, Fibers, Suspend};
pub use hostfs::{
    HostDirEntry, HostFile, HostFs, HostNode, NewNode, OpenMode, Progress, SetAttr, TimeSet, Transfer,
    Transferred,
};
pub use machine::{ClockId, CpuidAnswer, Event, LogLevel, Machine};
pub use ram::Ram;
pub use space::{
    Backing, DefaultActions, Exit, Fault, FileView, MapOp, Offers, Populate, Prot, Regs, SpaceError,
    StatOffer, Stock, UserContext, Views, VmSpace,
};
pub use stream::{Readiness, Stream, StreamKind, WindowSize};
