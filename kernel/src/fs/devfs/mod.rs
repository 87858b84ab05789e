//! `/dev`: the devices that every program expects, and the links beside them.
//!
//! The nodes are ordinary nodes on a file system in memory; what answers to their numbers is registered with [`crate::fs::Devices`].

mod memory;
mod terminals;

use crate::Kernel;
use crate::error::Result;
use crate::fs::{Inode, NewInode, NewKind};
use crate::task::Cx;
use abi::fs::{DeviceId, FileType};
use alloc::sync::Arc;

/// Name, mode, number (`Documentation/admin-guide/devices.txt`).
const NODES: [(&str, u32, DeviceId); 9] = [
    ("null", 0o666, DeviceId::new(1, 3)),
    ("zero", 0o666, DeviceId::new(1, 5)),
    ("full", 0o666, DeviceId::new(1, 7)),
    ("random", 0o666, DeviceId::new(1, 8)),
    ("urandom", 0o666, DeviceId::new(1, 9)),
    ("kmsg", 0o644, DeviceId::new(1, 11)),
    ("tty", 0o666, DeviceId::new(5, 0)),
    ("console", 0o620, DeviceId::new(5, 1)),
    ("ptmx", 0o666, DeviceId::new(5, 2)),
];

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Registers what answers to the numbers.
pub(crate) fn register(kernel: &Kernel) {
    memory::register(&kernel.vfs.devices);
    terminals::register(&kernel.vfs.devices);
}

/// Fills the root of a new `/dev` with nodes, links and the directories that other file systems are mounted on.
pub(crate) fn populate(cx: &Cx, dir: &Arc<dyn Inode>) -> Result<()> {
    for (name, mode, id) in NODES {
        let kind = NewKind::Special(FileType::CharDevice, id);
        let (uid, gid) = if name == "tty" || name == "ptmx" || name == "console" {
            (if name == "console" { cx.kernel.config.user.0 } else { 0 }, 5)
        } else {
            (0, 0)
        };
        dir.create(cx, name.as_bytes(), &NewInode { kind, mode, uid, gid })?;
    }
    for (name, target) in LINKS {
        let kind = NewKind::Symlink(target.as_bytes());
        dir.create(cx, name.as_bytes(), &NewInode { kind, mode: 0o777, uid: 0, gid: 0 })?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        dir.create(cx, name.as_bytes(), &NewInode { kind: NewKind::Directory, mode, uid: 0, gid: 0 })?;
    }
    Ok(())
}
