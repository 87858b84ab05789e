//! `/proc`: processes and kernel state as files (`proc(5)`).
//!
//! The tree of fixed entries is [`crate::Kernel::proc`]; whoever has something to show registers a node there. Processes are
//! computed: [`process`] finds them, [`table`] lists what their directories hold, and the other files make the texts.
//!
//! Differs from Linux: one pid and one user name space, so `/proc` looks the same from everywhere; cgroups, NUMA and kernel threads
//! do not exist and are shown as on a machine without them.

mod access;
mod fds;
mod global;
mod hardware;
mod memory;
mod mounts;
mod name_spaces;
mod net;
mod process;
mod sched;
mod stat;
mod status;
mod sysctl;
mod sysvipc;
mod table;
#[cfg(test)]
mod tests;
mod texts;

pub use process::{Target, process_of_dir};

use crate::Kernel;
use crate::error::Result;
use crate::fs::FileSystem;
use crate::fs::pseudo::{Entries, Node, PROC_DEV, PseudoFs, Tree};
use abi::time::Timespec;
use alloc::format;
use alloc::sync::Arc;

/// Clock ticks per second that user space sees (`sysconf(_SC_CLK_TCK)`).
const USER_HZ: u64 = 100;
/// `PROC_SUPER_MAGIC`.
const MAGIC: i64 = 0x9fa0;

/// Nanoseconds as clock ticks.
fn ticks(ns: u64) -> u64 {
    ns / (1_000_000_000 / USER_HZ)
}

/// The tree of a new kernel with its standard entries.
pub(crate) fn tree(now: Timespec) -> Tree {
    // Paths are constants of this module, each registered once, so nothing can be in the way.
    let fill = |entries: &Entries| fill(entries).unwrap_or_default();
    Tree::new(PROC_DEV, now, Some(Arc::new(process::Processes::new(now))), fill)
}

fn fill(tree: &Entries) -> Result<()> {
    tree.register(
        "self",
        Node::link(|cx: &crate::task::Cx| Ok(format!("{}", cx.process().pid).into_bytes())),
    )?;
    tree.register(
        "thread-self",
        Node::link(|cx: &crate::task::Cx| {
            Ok(format!("{}/task/{}", cx.process().pid, cx.task.tid()).into_bytes())
        }),
    )?;
    tree.register("mounts", Node::link("self/mounts"))?;
    tree.register("net", Node::link("self/net"))?;
    global::register(tree)?;
    hardware::register(tree)?;
    sysvipc::register(tree)?;
    sysctl::register(tree)
}

/// `/proc` as a file system to mount.
pub fn new(kernel: &Kernel) -> Arc<dyn FileSystem> {
    Arc::new(PseudoFs { fs_type: "proc", magic: MAGIC, root: kernel.proc.root(), options: "" })
}
