//! Files: the traits through which everything that has a descriptor or a name plugs in.
//!
//! * [`FileSystem`] and [`Inode`]: named objects. A file system type registers with the kernel's VFS or an instance is mounted by hand.
//! * [`File`]: the behaviour of an open file; [`OpenFile`]: one open file description (`open(2)`), shared by `dup` and `fork`.
//! * [`FdTable`]: descriptors of a process.
//! * [`Path`], [`Dentry`], [`Mount`]: the name space; [`walk`] goes through it, [`open`] opens and [`ops`] changes what is in it.
//! * [`memfs`] (tmpfs and the overlay of the root), [`hostdir`] (volumes): file systems.
//!
//! All methods are called from a task's fiber and may suspend it unless they say otherwise, so no spin lock may be held across
//! them.

pub(crate) mod ahead;
mod anon;
mod async_io;
pub mod busy;
mod dentry;
pub(crate) mod devfs;
pub mod device;
pub mod devpts;
mod fd_table;
mod file;
mod fs_type;
mod hostdir;
mod inode;
mod io;
mod latch;
pub(crate) mod lend;
pub mod lock;
mod memfs;
mod mount;
pub mod notify;
pub mod open;
pub mod ops;
pub mod perm;
pub mod procfs;
pub mod pseudo;
mod root;
mod stamp;
pub mod sysfs;
mod transfer;
pub(crate) mod view;
pub mod walk;
pub mod xattr;

#[cfg(test)]
mod tests;

pub use anon::AnonInode;
pub use async_io::set_async;
pub use dentry::{Dentry, DentryCache, same_inode};
pub use device::{Device, Devices};
pub use fd_table::{Fd, FdTable};
pub use file::{DirEntry, File, Mappable, OpenFile, OpenFlags};
pub use fs_type::{FsType, FsTypes};
pub use hostdir::HostDirFs;
pub use inode::{FileSystem, Inode, NewInode, NewKind};
pub use io::{buffer_len, close, drop_privileges, limit_growth, read, read_dir, seek, write};
pub use latch::{Latch, LatchGuard};
pub use memfs::{MemFs, MemOptions};
pub use mount::{Mount, MountBelow, MountFlags, Namespace, Path};
pub use open::{open_exec, open_path};
pub use root::mount_root;
pub(crate) use stamp::Stamp;
pub use walk::{Lookup, change_directory};

use crate::wait::WaitQueue;
use abi::fs::DeviceId;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use io::{PathOnly, host_read, host_write};

/// Minor numbers of file systems without a device. Far from those that a host gives its own, which volumes and the root show.
const FIRST_ANON_MINOR: u32 = 0x4000;

/// `AT_FDCWD`.
pub const AT_FDCWD: Fd = Fd::CWD;

/// What the VFS keeps per kernel.
pub struct Vfs {
    /// Mounts.
    pub ns: Namespace,
    /// Cached names.
    pub dentries: DentryCache,
    /// Device drivers.
    pub devices: Devices,
    /// File system types.
    pub types: FsTypes,
    /// Who waits for any [`Latch`].
    pub(crate) latches: WaitQueue,
    /// Transfers that have not ended.
    transfers: transfer::Transfers,
    /// What is open for writing or executed.
    pub busy: busy::Busy,
    /// Held by renames that may change the shape of the tree.
    rename: Latch,
    anon: Arc<Mount>,
    minors: AtomicU32,
}

impl Default for Vfs {
    fn default() -> Vfs {
        Vfs {
            ns: Namespace::default(),
            dentries: DentryCache::default(),
            devices: Devices::default(),
            types: FsTypes::default(),
            latches: WaitQueue::new(),
            transfers: transfer::Transfers::default(),
            busy: busy::Busy::default(),
            rename: Latch::new(),
            anon: anon::mount(),
            minors: AtomicU32::new(FIRST_ANON_MINOR),
        }
    }
}

impl Vfs {
    /// A device number for a file system without a device.
    pub fn new_dev(&self) -> DeviceId {
        DeviceId::new(0, self.minors.fetch_add(1, Ordering::Relaxed))
    }
}

/// The inode number of `..` of an open directory.
pub fn dotdot_ino(of: &OpenFile) -> Option<u64> {
    let mut path = of.path.clone()?;
    while Arc::ptr_eq(&path.dentry, &path.mount.root) {
        match path.mount.at() {
            Some(at) => path = at,
            None => return Some(path.dentry.inode.attr().ok()?.ino),
        }
    }
    Some(path.dentry.parent()?.inode.attr().ok()?.ino)
}
