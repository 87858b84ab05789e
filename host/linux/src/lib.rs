//! The machine that is an ordinary Linux process: RAM is a memfd, a virtual CPU is a pinned host thread, an
//! address space is a host process that the `vmspace` crate drives, files and streams are the host's.
//!
//! Host threads: the caller's, which becomes the first virtual CPU, one for every other (`vcpu1`…), one for I/O, alarms
//! and signals (`io`), and where they are needed some for slow files (`transfer`) and one that makes RAM (`ahead`). Only the virtual CPUs enter the kernel.

mod ahead;
mod cpu;
mod cpuid;
mod fiber;
mod hostfile;
mod hostfs;
mod hostnode;
mod info;
mod io;
mod machine;
mod ram;
mod signals;
mod space;
mod stdfds;
mod stream;
mod terminal;
mod transfer;

pub use cpu::host_cpus;
pub use hostfile::LinuxFile;
pub use info::{caller_ids, guest_limits, read_in_root, usable_memory};
pub use machine::{Config, LinuxMachine, StartError};
