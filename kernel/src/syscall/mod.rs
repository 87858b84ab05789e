//! System calls: the table, and thin handlers that decode, validate and call the subsystem.
//!
//! [`table`] is the single truth for number, name, argument types, handler, support level and note; dispatch, strace, the
//! listing and the coverage page come from it. A handler is `fn(&Cx, args…) -> Result<T>` with `T: Into<SysRet>` and lives in the file of
//! its family. Subsystems never import this module.

mod arg;
mod attr;
mod cred;
mod dir;
mod dispatch;
mod event;
mod exec;
mod futex;
mod inotify;
mod io;
mod ioctl;
mod kill;
mod limits;
mod lock;
#[macro_use]
mod macros;
mod memfd;
mod memory;
mod memory_advice;
mod misc;
mod mount;
mod mqueue;
mod open;
mod pidfd;
mod pipe;
mod poll;
mod prctl;
mod process;
mod process_memory;
mod sched;
mod signal;
mod signalfd;
mod socket;
mod sockmsg;
mod splice;
mod sysv;
mod table;
mod terminal;
mod time;
mod timer;
mod trace;
mod trace_names;
mod transfer;
mod wait;
mod xattr;

pub use arg::{Arg, ArgKind};
pub use dispatch::{Entry, Support, SysRet, dispatch, entries, entry, name_of};
