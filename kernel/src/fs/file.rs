//! Open files.

use super::{Inode, Path};
use crate::error::{Result, err};
use crate::mm::PageCache;
use crate::task::Cx;
use crate::user::{Sink, Source};
use crate::wait::{PollEvents, PollTable};
use abi::Errno;
use abi::fs::{Attr, FileType};
use alloc::sync::Arc;
use bitflags::bitflags;
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hal::HostFile;

bitflags! {
    /// `O_*` of `open(2)` (`uapi/asm-generic/fcntl.h`), without the access mode in the low two bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        /// Writes only.
        const WRONLY = 0o1;
        /// Reads and writes.
        const RDWR = 0o2;
        /// Makes the file if there is none.
        const CREAT = 0o100;
        /// Fails if there is one.
        const EXCL = 0o200;
        /// A terminal does not become the controlling one.
        const NOCTTY = 0o400;
        /// Empties the file.
        const TRUNC = 0o1000;
        /// Writes go to the end.
        const APPEND = 0o2000;
        /// Does not wait.
        const NONBLOCK = 0o4000;
        /// Writes wait for the data to be stored.
        const DSYNC = 0o10000;
        /// `SIGIO` when ready.
        const ASYNC = 0o20000;
        /// Without a cache; packets, for a pipe.
        const DIRECT = 0o40000;
        /// Always set on 64-bit machines.
        const LARGEFILE = 0o100000;
        /// Must be a directory.
        const DIRECTORY = 0o200000;
        /// Must not be a symbolic link.
        const NOFOLLOW = 0o400000;
        /// Reads leave the access time.
        const NOATIME = 0o1000000;
        /// Closed by `execve(2)`; a flag of the descriptor.
        const CLOEXEC = 0o2000000;
        /// `O_SYNC` together with `DSYNC`.
        const SYNC_BIT = 0o4000000;
        /// Only a place, no content.
        const PATH = 0o10000000;
        /// `O_TMPFILE` together with `DIRECTORY`.
        const TMPFILE_BIT = 0o20000000;
        const _ = !0;
    }
}

impl OpenFlags {
    /// Whether reads are allowed.
    pub fn readable(self) -> bool {
        !self.contains(OpenFlags::PATH) && matches!(self.bits() & 3, 0 | 2)
    }
    /// Whether writes are allowed.
    pub fn writable(self) -> bool {
        !self.contains(OpenFlags::PATH) && matches!(self.bits() & 3, 1 | 2)
    }
}

/// What a mapping of a file shows.
#[derive(Clone)]
pub enum Mappable {
    /// Pages in RAM.
    Cache(Arc<PageCache>),
    /// A host file as it is. A private mapping may be written (the kernel copies pages); a shared writable one reaches
    /// the host's file, so it is offered only where that is wanted.
    Host(Arc<dyn HostFile>),
    /// Zeros (`/dev/zero`): like anonymous memory.
    Zero,
}

/// One directory entry, for [`File::read_dir`].
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Name; `.` and `..` are listed by the file itself.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub file_type: FileType,
    /// The position behind this entry (`d_off`).
    pub next: u64,
}

/// The behaviour of an open file. Every method gets the open file description that it is called for.
///
/// A blocking method honours [`OpenFile::nonblocking`] with `EAGAIN`. Reads and writes move `pos`, which streams ignore.
/// Dropping the value is the release of the last reference; it must not suspend.
pub trait File: Send + Sync {
    /// Reads up to `sink.room()` bytes; 0 is the end of the file.
    fn read(&self, _cx: &Cx, _of: &OpenFile, _pos: &mut u64, _sink: &mut dyn Sink) -> Result<usize> {
        err(Errno::EINVAL)
    }

    /// Writes up to `source.left()` bytes; with `O_APPEND` at the end, whatever `pos` says.
    fn write(&self, _cx: &Cx, _of: &OpenFile, _pos: &mut u64, _source: &mut dyn Source) -> Result<usize> {
        err(Errno::EINVAL)
    }

    /// Whether it has a position: `false` makes `lseek` and `pread` fail with `ESPIPE`.
    fn seekable(&self) -> bool {
        false
    }

    /// `lseek(2)`: the new position. The default knows `SEEK_SET`, `SEEK_CUR` and `SEEK_END` by the inode's size, and treats all of
    /// a file as data.
    fn seek(&self, _cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        if !self.seekable() {
            return err(Errno::ESPIPE);
        }
        let size = of.inode.as_ref().map_or(Ok(0), |inode| inode.attr().map(|a| a.size))?;
        let base = match whence {
            0 => 0,
            1 => of.pos(),
            2 => size,
            3 | 4 => {
                if offset < 0 || offset as u64 >= size {
                    return err(Errno::ENXIO);
                }
                return Ok(if whence == 3 { offset as u64 } else { size });
            }
            _ => return err(Errno::EINVAL),
        };
        let target = base.checked_add_signed(offset).filter(|&t| t <= i64::MAX as u64);
        target.ok_or(Errno::EINVAL.into())
    }

    /// Lists a directory from `pos` on, in a stable order, until `emit` says false (entry not taken) or the end. It may be locked meanwhile:
    /// `emit` only takes notes.
    fn read_dir(
        &self,
        _cx: &Cx,
        _of: &OpenFile,
        _pos: u64,
        _emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        err(Errno::ENOTDIR)
    }

    /// What it is ready for; adds its wait queues to `table` if there is one. Never suspends.
    fn poll(&self, _cx: &Cx, _of: &OpenFile, _table: Option<&mut PollTable<'_>>) -> PollEvents {
        PollEvents::READABLE | PollEvents::WRITABLE
    }

    /// Whether epoll accepts it (`EPERM` for regular files and directories).
    fn pollable(&self) -> bool {
        true
    }

    /// `ioctl(2)`.
    fn ioctl(&self, _cx: &Cx, _of: &OpenFile, _cmd: u32, _arg: u64) -> Result<u64> {
        err(Errno::ENOTTY)
    }

    /// Operations of `fcntl(2)` that only some kinds of files know: `F_SETPIPE_SZ`, `F_GETPIPE_SZ`, `F_ADD_SEALS`, `F_GET_SEALS`. `EBADF`
    /// for the pipe's on another file, `EINVAL` for others that it does not know.
    fn fcntl(&self, _cx: &Cx, _of: &OpenFile, cmd: u32, _arg: u64) -> Result<u64> {
        const F_SETPIPE_SZ: u32 = 1031;
        const F_GETPIPE_SZ: u32 = 1032;
        err(if matches!(cmd, F_SETPIPE_SZ | F_GETPIPE_SZ) { Errno::EBADF } else { Errno::EINVAL })
    }

    /// What `mmap(2)` of it shows.
    fn mmap(&self, _cx: &Cx, _of: &OpenFile) -> Result<Mappable> {
        err(Errno::ENODEV)
    }

    /// Whether no shared mapping of it may be written any more (`F_SEAL_WRITE`).
    fn write_sealed(&self) -> bool {
        false
    }

    /// `ftruncate(2)` of a file without an inode of its own.
    fn resize(&self, _size: u64) -> Result<()> {
        err(Errno::EINVAL)
    }

    /// `fallocate(2)`.
    fn allocate(&self, _cx: &Cx, _of: &OpenFile, _mode: u32, _offset: u64, _len: u64) -> Result<()> {
        err(Errno::ENODEV)
    }

    /// `fsync(2)`, `fdatasync(2)`.
    fn sync(&self, _cx: &Cx, _data_only: bool) -> Result<()> {
        err(Errno::EINVAL)
    }

    /// Attributes of files without an inode (pipes, sockets, anonymous inodes).
    fn attr(&self) -> Result<Attr> {
        err(Errno::EBADF)
    }

    /// Attributes of a file that reading does not change, and whose every change is followed by [`hal::Machine::recall_offers`] from now on. `None` for all
    /// others.
    fn lend(&self) -> Option<Attr> {
        None
    }

    /// The content, where that is all that reading and writing concerns, besides times.
    fn content(&self) -> Option<Arc<PageCache>> {
        None
    }

    /// Called on every `close` of a descriptor, before the description may go away (POSIX locks are not its business).
    fn flush(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }

    /// What `readlink /proc/PID/fd/N` shows for files without a path, such as `pipe:[1234]`.
    fn describe(&self) -> alloc::string::String {
        alloc::string::String::from("anon_inode:[file]")
    }

    /// Extra lines of `/proc/PID/fdinfo/N`.
    fn fdinfo(&self) -> alloc::string::String {
        alloc::string::String::new()
    }

    /// For objects without a name that are opened again through `/proc/PID/fd/N`: what then opens. `None`: this same file.
    fn reopen(&self, _cx: &Cx, _flags: OpenFlags) -> Option<Result<Arc<dyn File>>> {
        None
    }

    /// For the implementation, to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// An open file description.
pub struct OpenFile {
    /// Its behaviour.
    pub file: Arc<dyn File>,
    /// The inode, where there is one.
    pub inode: Option<Arc<dyn Inode>>,
    /// How it was opened, where it has a name.
    pub path: Option<Path>,
    /// A number of its own, for locks and `kcmp(2)`.
    pub id: u64,
    flags: AtomicU32,
    pos: AtomicU64,
    /// Held while a read or write moves the position.
    pub(super) pos_latch: super::Latch,
    /// Releases its locks when the description goes away.
    pub(super) locks: crate::sync::Mutex<Option<super::lock::LockToken>>,
    /// `F_SETOWN` and `F_SETSIG`.
    pub owner: crate::sync::Mutex<(i32, u32)>,
    /// Keeps the file from being executed while it is open for writing.
    pub(super) writer: crate::sync::Mutex<Option<super::busy::FileUse>>,
    /// What sends signals for `O_ASYNC`.
    pub(super) async_io: crate::sync::Mutex<Option<super::async_io::AsyncIo>>,
    _counted: Counted,
}

/// Counts open file descriptions.
struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl OpenFile {
    /// A new description. `flags` as given to `open(2)`; only status flags and the access mode are kept.
    pub fn new(
        kernel: &crate::Kernel,
        file: Arc<dyn File>,
        inode: Option<Arc<dyn Inode>>,
        path: Option<Path>,
        flags: OpenFlags,
    ) -> Arc<OpenFile> {
        let drop =
            OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::NOCTTY | OpenFlags::TRUNC | OpenFlags::CLOEXEC;
        kernel.open_files.fetch_add(1, Ordering::Relaxed);
        Arc::new(OpenFile {
            file,
            inode,
            path,
            id: kernel.next_id(),
            flags: AtomicU32::new((flags - drop).bits()),
            pos: AtomicU64::new(0),
            pos_latch: super::Latch::new(),
            locks: Default::default(),
            owner: crate::sync::Mutex::new((0, 0)),
            writer: Default::default(),
            async_io: Default::default(),
            _counted: Counted(kernel.open_files.clone()),
        })
    }

    /// Access mode and status flags now.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }
    /// Replaces the flags that `F_SETFL` may change (`APPEND`, `NONBLOCK`, `ASYNC`, `DIRECT`, `NOATIME`).
    pub fn set_status(&self, new: OpenFlags) {
        let may = OpenFlags::APPEND
            | OpenFlags::NONBLOCK
            | OpenFlags::ASYNC
            | OpenFlags::DIRECT
            | OpenFlags::NOATIME;
        let flags = (self.flags() - may) | (new & may);
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }
    /// Whether `O_NONBLOCK` is set.
    pub fn nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }
    /// The position.
    pub fn pos(&self) -> u64 {
        self.pos.load(Ordering::Relaxed)
    }
    /// Sets the position.
    pub fn set_pos(&self, pos: u64) {
        self.pos.store(pos, Ordering::Relaxed)
    }
    /// `fstat(2)`.
    pub fn attr(&self) -> Result<Attr> {
        match &self.inode {
            Some(inode) => inode.attr(),
            None => self.file.attr(),
        }
    }
    /// The file as a concrete type.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.file.as_any().downcast_ref()
    }
}
