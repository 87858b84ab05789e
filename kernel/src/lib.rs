#![no_std]
#![forbid(unsafe_code)]
//! The vkernel kernel: tasks, memory, files, IPC, signals and Linux system calls on top of a [`hal::Machine`].
//!
//! A kernel is a value: [`Kernel`] owns everything, there are no statics. Whoever runs it creates one, gives each virtual CPU's
//! thread to [`Kernel::run_cpu`], and reads [`Kernel::exit_status`] when the loops end.

extern crate alloc;
#[cfg(test)]
extern crate std;

mod config;
pub mod error;
pub mod fs;
pub mod ipc;
mod kernel;
pub mod mm;
pub mod net;
pub mod sched;
pub mod settings;
pub mod signal;
pub mod sync;
pub mod syscall;
pub mod task;
#[cfg(test)]
mod testing;
pub mod time;
pub mod tty;
pub mod user;
pub mod version;
pub mod wait;

pub use config::{Command, Config, StartError, VolumeConfig};
pub use error::Error;
pub use kernel::Kernel;
