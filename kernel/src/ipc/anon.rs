//! What anonymous files have in common: attributes as Linux gives them.

use crate::Kernel;
use abi::fs::{Attr, DeviceId, FileType};
use abi::time::Timespec;
use hal::ClockId;

/// The device of pipes: a number of its own, as Linux's pipefs has.
const PIPE_DEVICE: DeviceId = DeviceId::new(0, 15);
/// The device of the anonymous inode.
const ANON_DEVICE: DeviceId = DeviceId::new(0, 16);
/// The device of pidfds.
const PIDFD_DEVICE: DeviceId = DeviceId::new(0, 5);
/// The one inode that eventfd, epoll, timerfd and signalfd descriptors share.
const ANON_INO: u64 = 1038;

fn attr(dev: DeviceId, ino: u64, mode: u32, owner: (u32, u32), time: Timespec) -> Attr {
    Attr {
        dev,
        ino,
        mode,
        nlink: 1,
        uid: owner.0,
        gid: owner.1,
        rdev: DeviceId::default(),
        size: 0,
        blksize: 4096,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: None,
    }
}

/// Attributes of the shared anonymous inode: no type bits, as on Linux.
pub(crate) fn anon_attr() -> Attr {
    attr(ANON_DEVICE, ANON_INO, 0o600, (0, 0), Timespec::default())
}

/// Attributes of a pipe.
pub(super) fn pipe_attr(kernel: &Kernel, ino: u64, owner: (u32, u32)) -> Attr {
    let now = Timespec::from_ns(kernel.machine.clock_ns(ClockId::Realtime));
    attr(PIPE_DEVICE, ino, FileType::Fifo.mode_bits() | 0o600, owner, now)
}

/// Attributes of a pidfd; the inode number tells processes apart.
pub(super) fn pidfd_attr(ino: u64) -> Attr {
    attr(PIDFD_DEVICE, ino, 0o700, (0, 0), Timespec::default())
}
