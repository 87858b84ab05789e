//! What the kernel says it is (`uname(2)`, `/proc/version`).

/// `sysname`: programs look for exactly this word.
pub const SYSNAME: &str = "Linux";
/// `release`: the Linux version whose interface is offered. Run-time libraries compare the leading numbers.
pub const RELEASE: &str = "6.12.0-vkernel";
/// `version`.
pub const VERSION: &str = concat!("#1 SMP PREEMPT vkernel ", env!("CARGO_PKG_VERSION"));
/// `machine`.
#[cfg(target_arch = "x86_64")]
pub const MACHINE: &str = "x86_64";
/// `machine`.
#[cfg(target_arch = "aarch64")]
pub const MACHINE: &str = "aarch64";
