//! Signals (`signal(7)`): sets, information, pending queues and sending. Delivery to guest code is in [`mod@deliver`].
//!
//! Lock order: a process's `signals.shared`, then a task's `signals`.

mod defaults;
mod deliver;
mod frame;
pub(crate) mod group;
mod info;
mod mask;
mod pending;
mod send;
mod set;
pub(crate) mod stop;
#[cfg(test)]
mod tests;

pub(crate) use deliver::{Delivery, deliver, force};
pub(crate) use frame::{alt_stack_flags, sigreturn};
pub use group::send_to_group;
pub use info::{SigInfo, SigSource, code};
mod action;
pub use action::{set_action, take};
pub(crate) use defaults::{count_action_call, lend_actions, take_actions_back};
pub(crate) use mask::{count_mask_call, lend_mask, take_mask_back};
pub use mask::{read_mask, set_mask, with_temporary_mask};
pub use pending::{PendingQueue, SharedSignals, TaskSignals};
pub use send::{SIG_DFL, SIG_IGN, ignored_by_default, interrupts_wait, send_to_process, send_to_task};
pub(crate) use send::{retarget, try_send};
pub use set::{SigSet, signal_name};

/// Signal numbers of x86_64 and aarch64.
#[allow(missing_docs)]
pub mod sig {
    pub const HUP: i32 = 1;
    pub const INT: i32 = 2;
    pub const QUIT: i32 = 3;
    pub const ILL: i32 = 4;
    pub const TRAP: i32 = 5;
    pub const ABRT: i32 = 6;
    pub const BUS: i32 = 7;
    pub const FPE: i32 = 8;
    pub const KILL: i32 = 9;
    pub const USR1: i32 = 10;
    pub const SEGV: i32 = 11;
    pub const USR2: i32 = 12;
    pub const PIPE: i32 = 13;
    pub const ALRM: i32 = 14;
    pub const TERM: i32 = 15;
    pub const STKFLT: i32 = 16;
    pub const CHLD: i32 = 17;
    pub const CONT: i32 = 18;
    pub const STOP: i32 = 19;
    pub const TSTP: i32 = 20;
    pub const TTIN: i32 = 21;
    pub const TTOU: i32 = 22;
    pub const URG: i32 = 23;
    pub const XCPU: i32 = 24;
    pub const XFSZ: i32 = 25;
    pub const VTALRM: i32 = 26;
    pub const PROF: i32 = 27;
    pub const WINCH: i32 = 28;
    pub const IO: i32 = 29;
    pub const PWR: i32 = 30;
    pub const SYS: i32 = 31;
    /// The first real-time signal.
    pub const RTMIN: i32 = 32;
    /// The last signal.
    pub const MAX: i32 = 64;
}
