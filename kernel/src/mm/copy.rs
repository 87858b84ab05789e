//! Copies between the kernel and guest memory.
//!
//! They go through the kernel's own view of RAM. Memory that was never touched reads as zeros without being made;
//! clean pages of a private host file are read from the file. A page that a copy makes is not shown to the guest before the
//! guest touches it, unless the machine shows something older there.
//!
//! Differs from Linux: the vDSO can't be given to a call that reads from user memory straight into RAM. A compare-and-swap in a shared
//! mapping of a host file is a read and a write, not atomic against other users of the file.

use super::batch::Batch;
use super::fault::{Access, FaultError, read_file};
use super::inner::Inner;
use super::space::{FutexKey, Mm};
use super::vma::Object;
use crate::error::{Error, Result, err};
use crate::task::Cx;
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec;
use hal::{HostFile, PAGE_SIZE, PhysAddr, Progress, VirtAddr};

/// How many pages at most are made at once for a write.
const STEP_PAGES: u64 = 256;
/// How many pieces of RAM one read of a file goes to.
const PIECES: usize = 16;

impl From<FaultError> for Error {
    fn from(error: FaultError) -> Error {
        match error {
            FaultError::NoArea => Error::new(Errno::EFAULT, "nothing is mapped there"),
            FaultError::Denied => Error::new(Errno::EFAULT, "no right to the memory"),
            FaultError::Bus => Error::new(Errno::EFAULT, "nothing is behind the mapping"),
            FaultError::NoMemory => Error::new(Errno::ENOMEM, "RAM is full"),
            FaultError::Dead(_) => Error::new(Errno::EFAULT, "the address space is dead"),
        }
    }
}

/// A piece of guest memory.
pub(super) enum Span {
    /// In RAM.
    Ram(PhysAddr),
    /// Never touched.
    Zero,
    /// A clean or shared page of a host file, at this offset.
    File(Arc<dyn HostFile>, u64),
}

impl Mm {
    /// Walks a range piece by piece. `each` gets the piece, its offset in the range and its length; the address space is
    /// locked meanwhile.
    pub(super) fn walk(
        &self,
        cx: &Cx,
        at: VirtAddr,
        len: usize,
        access: Access,
        mut each: impl FnMut(Span, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let Some(end) = at.0.checked_add(len as u64).filter(|&end| end <= self.user_limit) else {
            return err(Errno::EFAULT);
        };
        let mut here = at.0;
        let mut inner = self.inner();
        while here < end {
            let (span, to) = self.span(cx, &mut inner, here, end, access)?;
            each(span, (here - at.0) as usize, (to - here) as usize)?;
            here = to;
        }
        Ok(())
    }

    /// The piece that starts at `addr`, and where it ends: at `end` at the latest.
    pub(super) fn span(
        &self,
        cx: &Cx,
        inner: &mut Inner,
        addr: u64,
        end: u64,
        access: Access,
    ) -> Result<(Span, u64), FaultError> {
        let write = access == Access::Write;
        loop {
            let Some(vma) = inner.areas.find(addr) else {
                self.area(cx, inner, addr, access)?;
                continue;
            };
            vma.allows(access)?;
            let shared = vma.is_shared();
            let end = end.min(vma.end);
            let page = addr / PAGE_SIZE;
            let usable = |pte: super::table::Pte| {
                pte.pfn().filter(|&pfn| !write || shared || self.frames.count(pfn) == 1)
            };
            let last_page = (end - 1) / PAGE_SIZE;
            if let Some(first) = usable(inner.table.get(page)) {
                let mut next = page + 1;
                while next <= last_page
                    && usable(inner.table.get(next)) == Some(first.plus((next - page) as u32))
                {
                    next += 1;
                }
                let phys = PhysAddr(first.phys().0 + addr % PAGE_SIZE);
                return Ok((Span::Ram(phys), end.min(next * PAGE_SIZE)));
            }
            if inner.table.get(page).is_none() && (!write || shared) {
                match &vma.object {
                    Object::Anon => {
                        let next =
                            inner.table.range(page..last_page + 1).next().map_or(end, |(p, _)| p * PAGE_SIZE);
                        return Ok((Span::Zero, end.min(next)));
                    }
                    Object::Host(file) => {
                        let span = Span::File(file.clone(), vma.offset_of(addr));
                        let next =
                            inner.table.range(page..last_page + 1).next().map_or(end, |(p, _)| p * PAGE_SIZE);
                        return Ok((span, end.min(next)));
                    }
                    Object::Cache(_) => {}
                }
            }
            let want = page..(last_page + 1).min(page + STEP_PAGES);
            let mut batch = Batch::default();
            let made = self.make(inner, page, write, Some(want), &mut batch);
            if let Ok(made) = &made
                && made.stale
            {
                self.show(inner, made.pages.clone(), false, &mut batch);
            }
            self.commit(cx.cpu(), inner, &mut batch)?;
            if matches!(made, Err(FaultError::NoMemory)) {
                // Nothing can be waited for here, so it is left to the user loop.
                cx.ram_full.set(true);
            }
            made?;
        }
    }

    /// Copies in; `EFAULT`.
    pub fn read_bytes(&self, cx: &Cx, at: VirtAddr, buf: &mut [u8]) -> Result<()> {
        if at.0 >= self.user_limit {
            return self.read_vdso(at, buf);
        }
        let ram = self.machine.ram();
        self.walk(cx, at, buf.len(), Access::Read, |span, from, len| {
            let Some(to) = buf.get_mut(from..from + len) else { return err(Errno::EFAULT) };
            match span {
                Span::Ram(phys) => ram.read(phys, to),
                Span::Zero => to.fill(0),
                Span::File(file, offset) => read_mapped(&*file, offset, to)?,
            }
            Ok(())
        })
    }

    /// Copies from the vDSO, which the machine shows behind the guest's own memory; `EFAULT`.
    fn read_vdso(&self, at: VirtAddr, buf: &mut [u8]) -> Result<()> {
        let offset = self.machine.vdso().and_then(|start| at.0.checked_sub(start)).ok_or(Errno::EFAULT)?;
        let image = usize::try_from(offset).ok().and_then(|offset| self.machine.vdso_image().get(offset..));
        let Some(bytes) = image.and_then(|image| image.get(..buf.len())) else { return err(Errno::EFAULT) };
        buf.copy_from_slice(bytes);
        Ok(())
    }

    /// Copies out; `EFAULT`.
    pub fn write_bytes(&self, cx: &Cx, at: VirtAddr, buf: &[u8]) -> Result<()> {
        let ram = self.machine.ram();
        self.walk(cx, at, buf.len(), Access::Write, |span, from, len| {
            let Some(from) = buf.get(from..from + len) else { return err(Errno::EFAULT) };
            match span {
                Span::Ram(phys) => ram.write(phys, from),
                Span::Zero => return err(Errno::EFAULT),
                Span::File(file, offset) => write_mapped(&*file, offset, from)?,
            }
            Ok(())
        })
    }

    /// Fills with zeros; `EFAULT`.
    pub fn zero_bytes(&self, cx: &Cx, at: VirtAddr, len: usize) -> Result<()> {
        let ram = self.machine.ram();
        self.walk(cx, at, len, Access::Write, |span, _, len| {
            match span {
                Span::Ram(phys) => ram.zero(phys, len as u64),
                Span::Zero => return err(Errno::EFAULT),
                Span::File(file, offset) => write_mapped(&*file, offset, &vec![0; len])?,
            }
            Ok(())
        })
    }

    /// Copies from RAM to the guest without a buffer; `EFAULT`. The caller keeps the frame.
    pub fn write_from_ram(&self, cx: &Cx, at: VirtAddr, from: PhysAddr, len: usize) -> Result<()> {
        let ram = self.machine.ram();
        self.walk(cx, at, len, Access::Write, |span, done, len| {
            let from = PhysAddr(from.0 + done as u64);
            match span {
                Span::Ram(to) if apart(from, to, len) => ram.copy(from, to, len as u64),
                Span::Ram(to) => {
                    let mut bytes = vec![0; len];
                    ram.read(from, &mut bytes);
                    ram.write(to, &bytes);
                }
                Span::Zero => return err(Errno::EFAULT),
                Span::File(file, offset) => {
                    let mut bytes = vec![0; len];
                    ram.read(from, &mut bytes);
                    write_mapped(&*file, offset, &bytes)?;
                }
            }
            Ok(())
        })
    }

    /// Has the host read up to `len` bytes of a file straight into the guest's memory, as far as that is in few pieces. `None` when the
    /// file or the memory does not admit that: it may be bad, which is no error at the end of the file. The address space is locked meanwhile, so the frames stay its own.
    pub fn read_file(
        &self,
        cx: &Cx,
        at: VirtAddr,
        len: usize,
        file: &dyn HostFile,
        offset: u64,
    ) -> Result<Option<Progress>> {
        let mut pieces = [(PhysAddr(0), 0); PIECES];
        let mut count = 0;
        let Some(end) = at.0.checked_add(len as u64).filter(|&end| end <= self.user_limit) else {
            return Ok(None);
        };
        let mut here = at.0;
        let mut inner = self.inner();
        for piece in &mut pieces {
            if here == end {
                break;
            }
            let (phys, to) = match self.span(cx, &mut inner, here, end, Access::Write) {
                Ok((Span::Ram(phys), to)) => (phys, to),
                // What lies before counts.
                _ => break,
            };
            *piece = (phys, (to - here) as usize);
            here = to;
            count += 1;
        }
        let pieces = pieces.get(..count).filter(|pieces| !pieces.is_empty());
        let Some(pieces) = pieces else { return Ok(None) };
        match self.machine.ram().read_file(file, offset, pieces) {
            Ok(progress) => Ok(Some(progress)),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Copies from the guest to RAM without a buffer; `EFAULT`. The caller keeps the frame.
    pub fn read_to_ram(&self, cx: &Cx, at: VirtAddr, to: PhysAddr, len: usize) -> Result<()> {
        let ram = self.machine.ram();
        self.walk(cx, at, len, Access::Read, |span, done, len| {
            let to = PhysAddr(to.0 + done as u64);
            match span {
                Span::Ram(from) if apart(from, to, len) => ram.copy(from, to, len as u64),
                Span::Ram(from) => {
                    let mut bytes = vec![0; len];
                    ram.read(from, &mut bytes);
                    ram.write(to, &bytes);
                }
                Span::Zero => ram.zero(to, len as u64),
                Span::File(file, offset) => {
                    let mut bytes = vec![0; len];
                    read_mapped(&*file, offset, &mut bytes)?;
                    ram.write(to, &bytes);
                }
            }
            Ok(())
        })
    }

    /// Makes a range exist, for writing if `write`, and calls `each` with its pieces in RAM; the address space is locked meanwhile.
    /// `EFAULT`, also for host files, which are not in RAM.
    pub fn for_each_phys(
        &self,
        cx: &Cx,
        at: VirtAddr,
        len: usize,
        write: bool,
        mut each: impl FnMut(PhysAddr, usize),
    ) -> Result<()> {
        let access = if write { Access::Write } else { Access::Read };
        if !write {
            self.populate(cx, at.page().0, at.0.saturating_add(len as u64), false)?;
        }
        self.walk(cx, at, len, access, |span, _, len| match span {
            Span::Ram(phys) => {
                each(phys, len);
                Ok(())
            }
            Span::Zero | Span::File(..) => err(Errno::EFAULT),
        })
    }

    /// Compare-and-swap of an aligned word; `EFAULT`.
    pub fn compare_exchange_u32(
        &self,
        cx: &Cx,
        at: VirtAddr,
        old: u32,
        new: u32,
    ) -> Result<Result<u32, u32>> {
        let mut result = Err(0);
        self.word(cx, at, Access::Write, |span| {
            match span {
                Span::Ram(phys) => result = self.machine.ram().compare_exchange_u32(phys, old, new),
                Span::Zero => return err(Errno::EFAULT),
                Span::File(file, offset) => {
                    let mut word = [0; 4];
                    read_mapped(&*file, offset, &mut word)?;
                    let found = u32::from_ne_bytes(word);
                    if found == old {
                        write_mapped(&*file, offset, &new.to_ne_bytes())?;
                    }
                    result = if found == old { Ok(old) } else { Err(found) };
                }
            }
            Ok(())
        })?;
        Ok(result)
    }

    /// Reads an aligned word atomically; `EFAULT`.
    pub fn load_u32(&self, cx: &Cx, at: VirtAddr) -> Result<u32> {
        let mut result = 0;
        self.word(cx, at, Access::Read, |span| {
            result = match span {
                Span::Ram(phys) => self.machine.ram().load_u32(phys),
                Span::Zero => 0,
                Span::File(file, offset) => {
                    let mut word = [0; 4];
                    read_mapped(&*file, offset, &mut word)?;
                    u32::from_ne_bytes(word)
                }
            };
            Ok(())
        })?;
        Ok(result)
    }

    fn word(
        &self,
        cx: &Cx,
        at: VirtAddr,
        access: Access,
        mut f: impl FnMut(Span) -> Result<()>,
    ) -> Result<()> {
        if !at.0.is_multiple_of(4) {
            return err(Errno::EFAULT);
        }
        self.walk(cx, at, 4, access, |span, _, _| f(span))
    }

    /// Identifies a futex word; `shared` when the caller did not say `FUTEX_PRIVATE_FLAG`. `EFAULT`.
    pub fn futex_key(&self, cx: &Cx, at: VirtAddr, shared: bool) -> Result<FutexKey> {
        if at.0 >= self.user_limit {
            return err(Errno::EFAULT);
        }
        let private = FutexKey { object: self.id, offset: at.0 };
        if !shared {
            return Ok(private);
        }
        let mut inner = self.inner();
        self.area(cx, &mut inner, at.0, Access::Read)?;
        let vma = inner.areas.find(at.0).ok_or(Errno::EFAULT)?;
        let offset = vma.offset_of(at.0);
        match &vma.object {
            Object::Cache(cache) if vma.is_shared() => Ok(FutexKey { object: cache.id(), offset }),
            Object::Host(_) if vma.is_shared() => {
                // Ids count up from one, so the top bit is free to tell host files from them.
                let attr = vma.file.as_ref().and_then(|f| f.attr().ok());
                let object = attr.map_or(0, |a| a.ino ^ a.dev.encode().rotate_left(40)) | 1 << 63;
                Ok(FutexKey { object, offset })
            }
            _ => Ok(private),
        }
    }
}

fn apart(a: PhysAddr, b: PhysAddr, len: usize) -> bool {
    a.0.abs_diff(b.0) >= len as u64
}

/// A load through a mapping of a host file: zeros from its end to the end of the page, `EFAULT` behind.
pub(super) fn read_mapped(file: &dyn HostFile, offset: u64, buf: &mut [u8]) -> Result<()> {
    let done = read_file(file, offset, buf).map_err(|_| Errno::EFAULT)?;
    let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
    rest.fill(0);
    let end = offset + done as u64 + rest.len() as u64;
    let size = file.size().map_err(|_| Errno::EFAULT)?;
    if end <= size.next_multiple_of(PAGE_SIZE) { Ok(()) } else { err(Errno::EFAULT) }
}

/// A store through a shared mapping of a host file: lost between its end and the end of the page, `EFAULT` behind.
fn write_mapped(file: &dyn HostFile, offset: u64, buf: &[u8]) -> Result<()> {
    let size = file.size().map_err(|_| Errno::EFAULT)?;
    if offset + buf.len() as u64 > size.next_multiple_of(PAGE_SIZE) {
        return err(Errno::EFAULT);
    }
    let len = (buf.len() as u64).min(size.saturating_sub(offset)) as usize;
    let mut done = 0;
    while let Some(rest) = buf.get(done..len).filter(|rest| !rest.is_empty()) {
        match file.write_at(offset + done as u64, rest).map_err(|_| Errno::EFAULT)? {
            0 => return err(Errno::EFAULT),
            n => done += n,
        }
    }
    Ok(())
}
