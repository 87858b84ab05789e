//! Shared memory segments.
//!
//! A segment is a page cache. Every attachment is an open file that the area in the address space holds, so a segment knows how
//! often it is attached without the memory code knowing of segments.

use super::{GetFlags, Perm, now};
use crate::error::{Result, err};
use crate::fs::{File, Mappable, OpenFile, OpenFlags};
use crate::mm::{MapFlags, MapRequest, PageCache};
use crate::sync::Mutex;
use crate::task::Cx;
use abi::Errno;
use abi::fs::{Attr, DeviceId};
use abi::ipc::{ShmUsage, ShmidDs, Shminfo};
use abi::time::Timespec;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use hal::{PAGE_SIZE, Prot};

/// Most segments (`SHMMNI`).
pub const SHMMNI: usize = 4096;
/// Largest segment in bytes, and most pages of all together.
const SHMMAX: u64 = u64::MAX - (1 << 24);
/// In a mode: removed, and goes away with the last attachment.
const SHM_DEST: u32 = 0o1000;
/// In a mode: locked in memory.
const SHM_LOCKED: u32 = 0o2000;

struct State {
    perm: Perm,
    atime: i64,
    dtime: i64,
    ctime: i64,
    lpid: i32,
    attached: Vec<Weak<OpenFile>>,
}

/// A segment.
pub struct Segment {
    cache: Arc<PageCache>,
    size: u64,
    cpid: i32,
    state: Mutex<State>,
}

impl Segment {
    /// Number of attachments: areas that show the segment.
    pub fn attachments(&self) -> usize {
        let mut state = self.state.lock();
        state.attached.retain(|weak| weak.strong_count() > 0);
        state.attached.iter().map(Weak::strong_count).sum()
    }

    fn is_over(&self) -> bool {
        self.attachments() == 0 && self.state.lock().perm.mode & SHM_DEST != 0
    }

    /// The status structure.
    pub fn status(&self, id: i32) -> ShmidDs {
        let nattch = self.attachments() as u64;
        let state = self.state.lock();
        ShmidDs {
            perm: state.perm.to_raw(id),
            segsz: self.size,
            atime: state.atime,
            dtime: state.dtime,
            ctime: state.ctime,
            cpid: self.cpid,
            lpid: state.lpid,
            nattch,
            ..ShmidDs::default()
        }
    }

    /// Pages that it has in RAM.
    pub fn resident_pages(&self) -> u64 {
        self.cache.resident_pages()
    }

    pub(crate) fn check(&self, cx: &Cx, wanted: u32) -> Result<()> {
        self.state.lock().perm.check(cx, wanted)
    }
}

/// Removes segments whose last attachment went after `IPC_RMID`. Every call here starts with it.
pub fn sweep(cx: &Cx) {
    let table = &cx.kernel.sysv.shm;
    for (id, segment) in table.list() {
        if segment.is_over() {
            table.remove(id);
        }
    }
}

/// `shmget(2)`.
pub fn get(cx: &Cx, key: i32, size: u64, flags: GetFlags) -> Result<i32> {
    sweep(cx);
    let kernel = cx.kernel;
    kernel.sysv.shm.get(
        cx,
        key,
        flags,
        SHMMNI,
        |segment| {
            if size > segment.size {
                return err(Errno::EINVAL);
            }
            segment.check(cx, flags.0 >> 6 | flags.0 >> 3 | flags.0)
        },
        |perm| {
            if size == 0 || size > SHMMAX {
                return err(Errno::EINVAL);
            }
            let bytes = size.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
            if bytes / PAGE_SIZE > kernel.frames.total() {
                return err(Errno::ENOMEM);
            }
            let cache = PageCache::new(kernel.machine.clone(), kernel.frames.clone(), bytes);
            let state = State { perm, atime: 0, dtime: 0, ctime: now(cx), lpid: 0, attached: Vec::new() };
            Ok(Arc::new(Segment { cache, size, cpid: cx.process().pid, state: Mutex::new(state) }))
        },
    )
}

/// How `shmat(2)` maps.
#[derive(Clone, Copy, Debug)]
pub struct Attach {
    /// Where, or 0.
    pub addr: u64,
    /// Replace what is there (`SHM_REMAP`).
    pub replace: bool,
    /// Rights.
    pub prot: Prot,
}

/// `shmat(2)`: the address.
pub fn attach(cx: &Cx, id: i32, how: Attach) -> Result<u64> {
    sweep(cx);
    let segment = cx.kernel.sysv.shm.find(id)?;
    let writable = how.prot.contains(Prot::WRITE);
    let wanted = 4 | if writable { 2 } else { 0 } | if how.prot.contains(Prot::EXEC) { 1 } else { 0 };
    segment.check(cx, wanted)?;
    let key = segment.state.lock().perm.key;
    let file = Arc::new(ShmFile { segment: segment.clone(), id, key });
    let flags = if writable { OpenFlags::RDWR } else { OpenFlags::empty() };
    let of = OpenFile::new(cx.kernel, file, None, None, flags);
    segment.state.lock().attached.push(Arc::downgrade(&of));
    let mut map = MapFlags::SHARED;
    if how.addr != 0 {
        map |= MapFlags::FIXED;
        if !how.replace {
            map |= MapFlags::NOREPLACE;
        }
    }
    let request = MapRequest {
        addr: how.addr,
        len: segment.size,
        prot: how.prot,
        flags: map,
        object: Some(Mappable::Cache(segment.cache.clone())),
        file: Some(of),
        offset: 0,
        name: "",
    };
    let at = cx.mm().map(cx, request).map_err(|e| match e.errno() {
        Errno::EEXIST => Errno::EINVAL.into(),
        _ => e,
    })?;
    let mut state = segment.state.lock();
    state.atime = now(cx);
    state.lpid = cx.process().pid;
    Ok(at.0)
}

/// `shmdt(2)`: unmaps what is left of the attachment that began at this address; `EINVAL` when there is none.
pub fn detach(cx: &Cx, addr: u64) -> Result<()> {
    let mm = cx.mm();
    let mut found = None;
    for vma in mm.vmas() {
        let Some(file) = vma.file.as_ref() else { continue };
        let Some(shm) = file.downcast::<ShmFile>() else { continue };
        if vma.start.wrapping_sub(vma.offset) == addr {
            mm.unmap(cx, vma.start, vma.end - vma.start)?;
            found = Some(shm.segment.clone());
        }
    }
    let segment = found.ok_or(Errno::EINVAL)?;
    {
        let mut state = segment.state.lock();
        state.dtime = now(cx);
        state.lpid = cx.process().pid;
    }
    sweep(cx);
    Ok(())
}

/// `IPC_RMID`.
pub fn remove(cx: &Cx, id: i32) -> Result<()> {
    let segment = cx.kernel.sysv.shm.find(id)?;
    {
        let mut state = segment.state.lock();
        state.perm.check_owner(cx)?;
        state.perm.mode |= SHM_DEST;
        state.perm.key = 0;
    }
    cx.kernel.sysv.shm.forget_key(id);
    sweep(cx);
    Ok(())
}

/// `IPC_SET`.
pub fn set(cx: &Cx, id: i32, new: &ShmidDs) -> Result<()> {
    let segment = cx.kernel.sysv.shm.find(id)?;
    let mut state = segment.state.lock();
    state.perm.check_owner(cx)?;
    state.perm.set(&new.perm);
    state.ctime = now(cx);
    Ok(())
}

/// `SHM_LOCK` and `SHM_UNLOCK`: nothing is ever swapped out, so only the mark changes.
pub fn lock(cx: &Cx, id: i32, on: bool) -> Result<()> {
    let segment = cx.kernel.sysv.shm.find(id)?;
    let mut state = segment.state.lock();
    state.perm.check_owner(cx)?;
    state.perm.mode = if on { state.perm.mode | SHM_LOCKED } else { state.perm.mode & !SHM_LOCKED };
    Ok(())
}

/// `IPC_INFO`.
pub fn limits() -> Shminfo {
    let shmmni = SHMMNI as u64;
    Shminfo { shmmax: SHMMAX, shmmin: 1, shmmni, shmseg: shmmni, shmall: SHMMAX, unused: [0; 4] }
}

/// `SHM_INFO`.
pub fn usage(cx: &Cx) -> ShmUsage {
    let all = cx.kernel.sysv.shm.list();
    ShmUsage {
        used_ids: all.len() as i32,
        tot: all.iter().map(|(_, s)| s.size.div_ceil(PAGE_SIZE)).sum(),
        rss: all.iter().map(|(_, s)| s.resident_pages()).sum(),
        ..ShmUsage::default()
    }
}

/// An attachment as a file, for `/proc/PID/maps`.
struct ShmFile {
    segment: Arc<Segment>,
    id: i32,
    key: i32,
}

impl File for ShmFile {
    fn attr(&self) -> Result<Attr> {
        let state = self.segment.state.lock();
        let time = Timespec { sec: state.ctime, nsec: 0 };
        Ok(Attr {
            dev: DeviceId::new(0, 1),
            ino: self.id as u64,
            mode: abi::fs::FileType::Regular.mode_bits() | state.perm.mode & 0o777,
            nlink: 1,
            uid: state.perm.uid,
            gid: state.perm.gid,
            rdev: DeviceId::default(),
            size: self.segment.size,
            blksize: 4096,
            blocks: self.segment.resident_pages() * (PAGE_SIZE / 512),
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
        })
    }

    fn describe(&self) -> String {
        format!("/SYSV{:08x} (deleted)", self.key)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
