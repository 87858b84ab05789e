//! `memfd_create(2)`: files in memory without a name, and seals (`fcntl(2)`, "File Sealing").
//!
//! A [`Memfd`] is the inode and [`MemfdFile`] what is open. Content is in a [`PageCache`], so that mappings show the same pages.

use crate::Kernel;
use crate::error::{Result, err};
use crate::fs::{File, Inode, Mappable, OpenFile, OpenFlags, Path};
use crate::mm::PageCache;
use crate::sync::Mutex;
use crate::task::Cx;
use crate::user::{Sink, Source};
use abi::Errno;
use abi::fs::{Attr, DeviceId, FileType};
use abi::time::Timespec;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use hal::{ClockId, Machine, SetAttr, TimeSet};

/// The device of memory files: Linux's internal tmpfs.
const DEVICE: DeviceId = DeviceId::new(0, 1);
const F_ADD_SEALS: u32 = 1033;
const F_GET_SEALS: u32 = 1034;
/// `FALLOC_FL_*`.
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;

/// `F_SEAL_*` of `fcntl(2)`.
#[allow(missing_docs)]
pub mod seal {
    pub const SEAL: u32 = 1;
    pub const SHRINK: u32 = 2;
    pub const GROW: u32 = 4;
    pub const WRITE: u32 = 8;
    pub const FUTURE_WRITE: u32 = 16;
    pub const EXEC: u32 = 32;
    pub const ALL: u32 = 63;
}

struct State {
    mode: u32,
    owner: (u32, u32),
    seals: u32,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
}

/// A memory file.
pub struct Memfd {
    machine: Arc<dyn Machine>,
    cache: Arc<PageCache>,
    ino: u64,
    name: Vec<u8>,
    state: Mutex<State>,
    me: Weak<Memfd>,
}

/// An open memory file.
pub struct MemfdFile {
    memfd: Arc<Memfd>,
}

impl Memfd {
    /// An empty one with these permission bits and seals.
    pub fn new(kernel: &Kernel, name: Vec<u8>, mode: u32, owner: (u32, u32), seals: u32) -> Arc<Memfd> {
        let machine = kernel.machine.clone();
        let now = Timespec::from_ns(machine.clock_ns(ClockId::Realtime));
        Arc::new_cyclic(|me| Memfd {
            cache: PageCache::new(machine.clone(), kernel.frames.clone(), 0),
            machine,
            ino: kernel.next_id(),
            name,
            state: Mutex::new(State { mode, owner, seals, atime: now, mtime: now, ctime: now }),
            me: me.clone(),
        })
    }

    fn open_again(&self, cx: &Cx, flags: OpenFlags) -> Result<Arc<dyn File>> {
        let memfd = self.me.upgrade().ok_or(Errno::ENOENT)?;
        if flags.contains(OpenFlags::TRUNC) && flags.writable() {
            self.set_size(cx, 0)?;
        }
        Ok(Arc::new(MemfdFile { memfd }))
    }

    fn now(&self) -> Timespec {
        Timespec::from_ns(self.machine.clock_ns(ClockId::Realtime))
    }

    fn seals(&self) -> u32 {
        self.state.lock().seals
    }

    fn modified(&self) {
        let now = self.now();
        let mut state = self.state.lock();
        (state.mtime, state.ctime) = (now, now);
    }

    fn set_size(&self, cx: &Cx, size: u64) -> Result<()> {
        let old = self.cache.size();
        let seals = self.seals();
        if (size < old && seals & seal::SHRINK != 0) || (size > old && seals & seal::GROW != 0) {
            return err(Errno::EPERM);
        }
        self.cache.truncate(cx, size);
        self.modified();
        Ok(())
    }

    /// Whether any address space has a shared mapping of it that may be written.
    fn is_mapped_writable(&self, cx: &Cx) -> bool {
        let shows = |of: &Arc<OpenFile>| {
            of.flags().writable()
                && of.downcast::<MemfdFile>().is_some_and(|f| core::ptr::eq(Arc::as_ptr(&f.memfd), self))
        };
        cx.kernel.pids.processes().iter().any(|process| {
            let task = process.threads().first().cloned();
            let mm = task.and_then(|task| task.mm.lock().clone());
            let vmas = mm.map(|mm| mm.vmas()).unwrap_or_default();
            vmas.iter().any(|vma| vma.shared && vma.file.as_ref().is_some_and(shows))
        })
    }

    fn add_seals(&self, cx: &Cx, of: &OpenFile, new: u32) -> Result<u64> {
        if !of.flags().writable() {
            return err(Errno::EPERM);
        }
        if new & !seal::ALL != 0 {
            return err(Errno::EINVAL);
        }
        if self.seals() & seal::SEAL != 0 {
            return err(Errno::EPERM);
        }
        if new & seal::WRITE != 0 && self.seals() & seal::WRITE == 0 && self.is_mapped_writable(cx) {
            return err(Errno::EBUSY);
        }
        let mut state = self.state.lock();
        let mut new = new;
        // A file that stays executable must not change either.
        if new & seal::EXEC != 0 && state.mode & 0o111 != 0 {
            new |= seal::SHRINK | seal::GROW | seal::WRITE | seal::FUTURE_WRITE;
        }
        state.seals |= new;
        Ok(0)
    }
}

impl Inode for Memfd {
    fn attr(&self) -> Result<Attr> {
        let state = self.state.lock();
        Ok(Attr {
            dev: DEVICE,
            ino: self.ino,
            mode: FileType::Regular.mode_bits() | state.mode,
            nlink: 0,
            uid: state.owner.0,
            gid: state.owner.1,
            rdev: DeviceId::default(),
            size: self.cache.size(),
            blksize: 4096,
            blocks: self.cache.resident_pages() * 8,
            atime: state.atime,
            mtime: state.mtime,
            ctime: state.ctime,
            btime: None,
        })
    }

    fn set_attr(&self, cx: &Cx, set: &SetAttr) -> Result<()> {
        if let Some(size) = set.size {
            self.set_size(cx, size)?;
        }
        let now = self.now();
        let time = |t: TimeSet| match t {
            TimeSet::Now => now,
            TimeSet::At(at) => at,
        };
        let mut state = self.state.lock();
        if let Some(mode) = set.mode {
            if state.seals & seal::EXEC != 0 && (mode ^ state.mode) & 0o111 != 0 {
                return err(Errno::EPERM);
            }
            state.mode = mode & 0o7777;
        }
        state.owner = (set.uid.unwrap_or(state.owner.0), set.gid.unwrap_or(state.owner.1));
        state.atime = set.atime.map_or(state.atime, time);
        state.mtime = set.mtime.map_or(state.mtime, time);
        state.ctime = now;
        Ok(())
    }

    fn open(&self, cx: &Cx, _path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        self.open_again(cx, flags)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl File for MemfdFile {
    fn read(&self, _cx: &Cx, _of: &OpenFile, pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let count = self.memfd.cache.read(*pos, sink)?;
        *pos = pos.saturating_add(count as u64);
        self.memfd.state.lock().atime = self.memfd.now();
        Ok(count)
    }

    fn write(&self, _cx: &Cx, of: &OpenFile, pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        let memfd = &self.memfd;
        let seals = memfd.seals();
        if source.left() == 0 {
            return Ok(0);
        }
        let at = if of.flags().contains(OpenFlags::APPEND) { memfd.cache.size() } else { *pos };
        let end = at.checked_add(source.left() as u64).filter(|&end| end <= i64::MAX as u64);
        let end = end.ok_or(Errno::EFBIG)?;
        let grows = end > memfd.cache.size();
        if seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 || (grows && seals & seal::GROW != 0) {
            return err(Errno::EPERM);
        }
        let count = memfd.cache.write(at, source)?;
        *pos = at.saturating_add(count as u64);
        memfd.modified();
        Ok(count)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        let cache = &self.memfd.cache;
        let base = match whence {
            0 => 0,
            1 => of.pos(),
            2 => cache.size(),
            3 | 4 => {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                return cache.seek_extent(from, whence == 4).ok_or(Errno::ENXIO.into());
            }
            _ => return err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|&p| p <= i64::MAX as u64).ok_or(Errno::EINVAL.into())
    }

    fn pollable(&self) -> bool {
        false
    }

    fn fcntl(&self, cx: &Cx, of: &OpenFile, cmd: u32, arg: u64) -> Result<u64> {
        match cmd {
            F_ADD_SEALS => self.memfd.add_seals(cx, of, arg as u32),
            F_GET_SEALS => Ok(u64::from(self.memfd.seals())),
            _ => err(Errno::EINVAL),
        }
    }

    fn mmap(&self, _cx: &Cx, _of: &OpenFile) -> Result<Mappable> {
        Ok(Mappable::Cache(self.memfd.cache.clone()))
    }

    fn write_sealed(&self) -> bool {
        self.memfd.seals() & (seal::WRITE | seal::FUTURE_WRITE) != 0
    }

    fn allocate(&self, cx: &Cx, _of: &OpenFile, mode: u32, offset: u64, len: u64) -> Result<()> {
        let (memfd, cache) = (&self.memfd, &self.memfd.cache);
        let end = offset.checked_add(len).filter(|&end| end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        let seals = memfd.seals();
        if mode == PUNCH_HOLE | KEEP_SIZE {
            if seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 {
                return err(Errno::EPERM);
            }
            cache.punch(cx, offset, len);
            memfd.modified();
            return Ok(());
        }
        if mode & !KEEP_SIZE != 0 {
            return err(Errno::EOPNOTSUPP);
        }
        let grows = end > cache.size() && mode & KEEP_SIZE == 0;
        if grows && seals & seal::GROW != 0 {
            return err(Errno::EPERM);
        }
        if grows {
            cache.truncate(cx, end);
        }
        cache.allocate(offset, len)?;
        memfd.modified();
        Ok(())
    }

    fn sync(&self, _cx: &Cx, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn reopen(&self, cx: &Cx, flags: OpenFlags) -> Option<Result<Arc<dyn File>>> {
        Some(self.memfd.open_again(cx, flags))
    }

    fn describe(&self) -> String {
        format!("/memfd:{} (deleted)", String::from_utf8_lossy(&self.memfd.name))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new memory file, open for reading and writing.
pub fn memfd_new(cx: &Cx, name: Vec<u8>, mode: u32, seals: u32) -> Arc<OpenFile> {
    let creds = cx.task.creds();
    let memfd = Memfd::new(cx.kernel, name, mode, (creds.fsuid, creds.fsgid), seals);
    let file = Arc::new(MemfdFile { memfd: memfd.clone() });
    OpenFile::new(cx.kernel, file, Some(memfd), None, OpenFlags::RDWR | OpenFlags::LARGEFILE)
}
