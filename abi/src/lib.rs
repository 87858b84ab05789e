#![no_std]
#![forbid(unsafe_code)]
//! The Linux user-space ABI as data: errno values, flags and the structures that cross the
//! user/kernel boundary. No behaviour lives here.
//!
//! Numbers come from `linux-raw-sys` (generated from the kernel's uapi headers) and are re-exported as
//! [`raw`]; structures are spelled out here because they must be readable and writable as plain bytes
//! without unsafe code (`zerocopy`).

extern crate alloc;

pub use linux_raw_sys::general as raw;
pub use linux_raw_sys::ioctl;
pub use linux_raw_sys::net as raw_net;
pub use linux_raw_sys::prctl as raw_prctl;
pub use linux_raw_sys::system as raw_system;

mod errno;
pub mod fs;
pub mod ipc;
pub mod net;
pub mod signal;
pub mod system;
pub mod time;
pub mod tty;

pub use errno::Errno;
