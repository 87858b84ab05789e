//! User memory is an allegation: typed user pointers whose only operations are copies.
//!
//! Nothing here borrows guest memory. A copy fails with `EFAULT` where the guest has no such memory or not the
//! right to it, exactly as if the guest had touched it itself.

use crate::error::{Result, err};
use crate::task::Cx;
use abi::Errno;
use abi::fs::Iovec;
use alloc::vec;
use alloc::vec::Vec;
use core::marker::PhantomData;
use hal::{HostFile, PhysAddr, Progress, Ram, VirtAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Longest path in bytes with its terminator (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// Most vectors in one call (`IOV_MAX`).
pub const IOV_MAX: usize = 1024;
/// Most bytes that one read or write moves (`MAX_RW_COUNT`).
pub const MAX_RW_COUNT: usize = 0x7fff_f000;

/// A pointer that a guest passed, to a `T`.
pub struct UserPtr<T> {
    addr: u64,
    _type: PhantomData<fn() -> T>,
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for UserPtr<T> {}

impl<T> UserPtr<T> {
    /// From a raw argument.
    pub const fn new(addr: u64) -> UserPtr<T> {
        UserPtr { addr, _type: PhantomData }
    }
    /// Whether it is `NULL`.
    pub const fn is_null(self) -> bool {
        self.addr == 0
    }
    /// The address.
    pub const fn addr(self) -> VirtAddr {
        VirtAddr(self.addr)
    }
    /// The same address as a pointer to something else.
    pub const fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.addr)
    }
    /// `None` for `NULL`.
    pub fn non_null(self) -> Option<UserPtr<T>> {
        (!self.is_null()).then_some(self)
    }
    /// The element `index` further on, as with raw pointers; an overflow gives an address that faults.
    #[allow(clippy::should_implement_trait, reason = "the name that raw pointers use")]
    pub fn add(self, index: usize) -> UserPtr<T> {
        let bytes = (index as u64).saturating_mul(size_of::<T>() as u64);
        UserPtr::new(self.addr.saturating_add(bytes))
    }
    /// The address `bytes` further on.
    pub fn byte_add(self, bytes: u64) -> UserPtr<T> {
        UserPtr::new(self.addr.saturating_add(bytes))
    }
}

impl<T: FromBytes + IntoBytes> UserPtr<T> {
    /// Copies in one value.
    pub fn read(self, cx: &Cx) -> Result<T> {
        let mut value = T::new_zeroed();
        cx.mm().read_bytes(cx, self.addr(), value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies in `count` values. The caller bounds `count`.
    pub fn read_array(self, cx: &Cx, count: usize) -> Result<Vec<T>> {
        let mut values: Vec<T> = Vec::new();
        values.resize_with(count, T::new_zeroed);
        for (i, value) in values.iter_mut().enumerate() {
            *value = self.add(i).read(cx)?;
        }
        Ok(values)
    }
}

impl<T: IntoBytes + Immutable> UserPtr<T> {
    /// Copies out one value.
    pub fn write(self, cx: &Cx, value: &T) -> Result<()> {
        cx.mm().write_bytes(cx, self.addr(), value.as_bytes())
    }

    /// Copies out one value unless the pointer is `NULL`.
    pub fn write_if_some(self, cx: &Cx, value: &T) -> Result<()> {
        if self.is_null() { Ok(()) } else { self.write(cx, value) }
    }

    /// Copies out many values.
    pub fn write_array(self, cx: &Cx, values: &[T]) -> Result<()> {
        for (i, value) in values.iter().enumerate() {
            self.add(i).write(cx, value)?;
        }
        Ok(())
    }
}

impl UserPtr<u8> {
    /// Copies in `len` bytes; the caller bounds `len`.
    pub fn read_vec(self, cx: &Cx, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        cx.mm().read_bytes(cx, self.addr(), &mut bytes)?;
        Ok(bytes)
    }

    /// Copies out bytes.
    pub fn write_bytes(self, cx: &Cx, bytes: &[u8]) -> Result<()> {
        cx.mm().write_bytes(cx, self.addr(), bytes)
    }
}

/// A pointer to a NUL-terminated string.
#[derive(Clone, Copy)]
pub struct UserCStr(pub u64);

impl UserCStr {
    /// Whether it is `NULL`.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Copies in a path: at most [`PATH_MAX`] with the terminator, else `ENAMETOOLONG`.
    pub fn read_path(self, cx: &Cx) -> Result<Vec<u8>> {
        match self.read(cx, PATH_MAX)? {
            Some(path) => Ok(path),
            None => err(Errno::ENAMETOOLONG),
        }
    }

    /// Copies in a string without its terminator; `None` when there is no terminator within `max` bytes.
    pub fn read(self, cx: &Cx, max: usize) -> Result<Option<Vec<u8>>> {
        let mm = cx.mm();
        let mut out = Vec::new();
        let mut at = self.0;
        while out.len() < max {
            // Up to the end of a page at a time: the next page may not exist and need not.
            let to_page_end = (hal::PAGE_SIZE - (at & (hal::PAGE_SIZE - 1))) as usize;
            let len = to_page_end.min(max - out.len()).min(256);
            let mut chunk = [0u8; 256];
            let Some(chunk) = chunk.get_mut(..len) else { return err(Errno::EFAULT) };
            mm.read_string(cx, VirtAddr(at), chunk)?;
            if let Some(end) = chunk.iter().position(|&b| b == 0) {
                out.extend_from_slice(chunk.get(..end).unwrap_or_default());
                return Ok(Some(out));
            }
            out.extend_from_slice(chunk);
            let Some(next) = at.checked_add(len as u64) else { return err(Errno::EFAULT) };
            at = next;
        }
        Ok(None)
    }
}

/// Where bytes go: user memory, a kernel buffer, a pipe. Its methods are called with the lock of the file that is read held, so they must
/// not suspend.
pub trait Sink {
    /// Takes all of `bytes`, or fails; [`Sink::room`] then tells how much it took. Never called with more than [`Sink::room`].
    fn put(&mut self, bytes: &[u8]) -> Result<()>;
    /// How many bytes it still takes.
    fn room(&self) -> usize;
    /// Takes `len` bytes straight from RAM, or fails. The caller keeps the frame, and holds no lock.
    fn put_ram(&mut self, ram: &dyn Ram, from: PhysAddr, len: usize) -> Result<()> {
        let mut bytes = vec![0; len];
        ram.read(from, &mut bytes);
        self.put(&bytes)
    }
    /// Has the host read up to `len` bytes of a file into what is next, as [`HostFile::read_now`]. `None` when that is no way to get them:
    /// then nothing was taken.
    fn put_file(&mut self, _file: &dyn HostFile, _offset: u64, _len: usize) -> Option<Result<Progress>> {
        None
    }
}

/// Where bytes come from. As for [`Sink`], its methods must not suspend.
pub trait Source {
    /// Fills `buf` from the front as far as there is something, and says how far.
    fn take(&mut self, buf: &mut [u8]) -> Result<usize>;
    /// How many bytes are left.
    fn left(&self) -> usize;
    /// Puts up to `len` bytes straight into RAM and says how many. The caller keeps the frame, and holds no lock.
    fn take_ram(&mut self, ram: &dyn Ram, to: PhysAddr, len: usize) -> Result<usize> {
        let mut bytes = vec![0; len];
        let done = self.take(&mut bytes)?;
        ram.write(to, bytes.get(..done).unwrap_or_default());
        Ok(done)
    }
}

impl Sink for &mut [u8] {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let this = core::mem::take(self);
        let Some((head, tail)) = this.split_at_mut_checked(bytes.len()) else { return err(Errno::EFAULT) };
        head.copy_from_slice(bytes);
        *self = tail;
        Ok(())
    }
    fn room(&self) -> usize {
        self.len()
    }
    fn put_file(&mut self, file: &dyn HostFile, offset: u64, len: usize) -> Option<Result<Progress>> {
        let len = len.min(self.len());
        let step = file.read_now(offset, self.get_mut(..len)?);
        if let Ok(Progress { done, .. }) = step {
            *self = core::mem::take(self).get_mut(done..)?;
        }
        Some(step.map_err(Into::into))
    }
}

impl Source for &[u8] {
    fn take(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = buf.len().min(self.len());
        let (head, tail) = self.split_at(len);
        if let Some(buf) = buf.get_mut(..len) {
            buf.copy_from_slice(head);
        }
        *self = tail;
        Ok(len)
    }
    fn left(&self) -> usize {
        self.len()
    }
}

/// A list of user buffers (`readv(2)`), consumed front to back; both a [`Sink`] and a [`Source`].
pub struct UserBuf<'a> {
    cx: &'a Cx<'a>,
    /// What is left of the one that is at work.
    now: Iovec,
    later: vec::IntoIter<Iovec>,
    left: usize,
}

impl<'a> UserBuf<'a> {
    /// One buffer; longer ones are cut to [`MAX_RW_COUNT`] as Linux does.
    pub fn single(cx: &'a Cx<'a>, ptr: UserPtr<u8>, len: usize) -> Result<UserBuf<'a>> {
        let len = len.min(MAX_RW_COUNT);
        let limit = cx.kernel.machine.user_limit();
        if len > 0 && ptr.addr().0.checked_add(len as u64).is_none_or(|end| end > limit) {
            return err(Errno::EFAULT);
        }
        let now = Iovec { base: ptr.addr().0, len: len as u64 };
        Ok(UserBuf { cx, now, later: Vec::new().into_iter(), left: len })
    }

    /// An `iovec` array: `EINVAL` for more than [`IOV_MAX`] or a length that is negative as a `ssize_t`.
    pub fn vectored(cx: &'a Cx<'a>, ptr: UserPtr<Iovec>, count: usize) -> Result<UserBuf<'a>> {
        if count > IOV_MAX {
            return err(Errno::EINVAL);
        }
        let mut vecs = ptr.read_array(cx, count)?;
        let limit = cx.kernel.machine.user_limit();
        let mut total = 0usize;
        for v in &mut vecs {
            if v.len > i64::MAX as u64 {
                return err(Errno::EINVAL);
            }
            v.len = v.len.min((MAX_RW_COUNT - total) as u64);
            total += v.len as usize;
            if v.len > 0 && v.base.checked_add(v.len).is_none_or(|end| end > limit) {
                return err(Errno::EFAULT);
            }
        }
        Ok(UserBuf { cx, now: Iovec { base: 0, len: 0 }, later: vecs.into_iter(), left: total })
    }

    fn each(
        &mut self,
        len: usize,
        mut f: impl FnMut(&Cx, VirtAddr, usize, usize) -> Result<()>,
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            if self.now.len == 0 {
                let Some(next) = self.later.next() else { break };
                self.now = next;
                continue;
            }
            let v = &mut self.now;
            let mut n = (v.len as usize).min(len - done);
            let mut step = f(self.cx, VirtAddr(v.base), done, n);
            let head = (hal::PAGE_SIZE - (v.base & (hal::PAGE_SIZE - 1))) as usize;
            if step.is_err() && head < n {
                // What lies before the page that is not there counts.
                n = head;
                step = f(self.cx, VirtAddr(v.base), done, n);
            }
            match step {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
            v.base += n as u64;
            v.len -= n as u64;
            self.left -= n;
            done += n;
        }
        Ok(done)
    }
}

impl Sink for UserBuf<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let done = self.each(bytes.len(), |cx, addr, from, n| {
            cx.mm().write_bytes(cx, addr, bytes.get(from..from + n).unwrap_or_default())
        })?;
        if done == bytes.len() { Ok(()) } else { err(Errno::EFAULT) }
    }
    fn room(&self) -> usize {
        self.left
    }
    fn put_ram(&mut self, _ram: &dyn Ram, from: PhysAddr, len: usize) -> Result<()> {
        let done = self
            .each(len, |cx, addr, at, n| cx.mm().write_from_ram(cx, addr, PhysAddr(from.0 + at as u64), n))?;
        if done == len { Ok(()) } else { err(Errno::EFAULT) }
    }
    fn put_file(&mut self, file: &dyn HostFile, offset: u64, len: usize) -> Option<Result<Progress>> {
        while self.now.len == 0 {
            self.now = self.later.next()?;
        }
        let v = &mut self.now;
        let len = len.min(v.len as usize);
        let step = self.cx.mm().read_file(self.cx, VirtAddr(v.base), len, file, offset).transpose()?;
        if let Ok(Progress { done, .. }) = step {
            v.base += done as u64;
            v.len -= done as u64;
            self.left -= done;
        }
        Some(step)
    }
}

impl Source for UserBuf<'_> {
    fn take(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.each(buf.len(), |cx, addr, from, n| {
            cx.mm().read_bytes(cx, addr, buf.get_mut(from..from + n).unwrap_or_default())
        })
    }
    fn left(&self) -> usize {
        self.left
    }
    fn take_ram(&mut self, _ram: &dyn Ram, to: PhysAddr, len: usize) -> Result<usize> {
        self.each(len, |cx, addr, at, n| cx.mm().read_to_ram(cx, addr, PhysAddr(to.0 + at as u64), n))
    }
}
