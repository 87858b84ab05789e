//! Files: the traits through which everything that has a descriptor or a name plugs in.
//!
//! * [`FileSystem`] and [`Inode`]: named objects. A file system registers with [`crate::Builder::file_system`] or is mounted by hand.
//! * [`File`]: the behaviour of an open file; [`OpenFile`]: one open file description (`open(2)`), shared by `dup` and `fork`.
//! * [`FdTable`]: descriptors of a process.
//! * [`Path`], [`Dentry`], [`Mount`]: the name space and the walk through it.
//!
//! All methods are called from a task's fiber and may suspend it unless they say otherwise, so no spin lock may be held across
//! them.

mod dentry;
mod fd_table;
mod file;
mod inode;
pub mod lock;
pub mod procfs;
pub mod pseudo;
mod start;

pub use dentry::{Dentry, Mount, Path};
pub use fd_table::{Fd, FdTable};
pub use file::{DirEntry, File, Mappable, OpenFile, OpenFlags};
pub use inode::{FileSystem, Inode, NewInode, NewKind};
pub use start::{AT_FDCWD, Lookup, change_directory, mount_root, open_exec, open_path};
