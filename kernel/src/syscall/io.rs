//! Reading, writing and positions.

use crate::error::{Result, err};
use crate::fs::{self, Fd, OpenFile};
use crate::task::Cx;
use crate::user::{UserBuf, UserPtr};
use abi::Errno;
use abi::fs::Iovec;
use alloc::sync::Arc;

/// `RWF_APPEND` of `preadv2(2)`; the other flags are hints here.
const RWF_APPEND: u32 = 0x10;
/// `RWF_HIPRI`, `RWF_DSYNC`, `RWF_SYNC`, `RWF_NOWAIT`, `RWF_APPEND`, `RWF_NOAPPEND`.
const RWF_KNOWN: u32 = 0x3f;

pub(super) fn read(cx: &Cx, fd: Fd, buf: UserPtr<u8>, count: usize) -> Result<usize> {
    let of = cx.file(fd)?;
    readable(&of)?;
    fs::read(cx, &of, None, &mut UserBuf::single(cx, buf, count)?)
}

pub(super) fn write(cx: &Cx, fd: Fd, buf: UserPtr<u8>, count: usize) -> Result<usize> {
    let of = cx.file(fd)?;
    writable(&of)?;
    fs::write(cx, &of, None, &mut UserBuf::single(cx, buf, count)?)
}

pub(super) fn readv(cx: &Cx, fd: Fd, vecs: UserPtr<Iovec>, count: usize) -> Result<usize> {
    let of = cx.file(fd)?;
    readable(&of)?;
    fs::read(cx, &of, None, &mut UserBuf::vectored(cx, vecs, count)?)
}

pub(super) fn writev(cx: &Cx, fd: Fd, vecs: UserPtr<Iovec>, count: usize) -> Result<usize> {
    let of = cx.file(fd)?;
    writable(&of)?;
    fs::write(cx, &of, None, &mut UserBuf::vectored(cx, vecs, count)?)
}

pub(super) fn pread64(cx: &Cx, fd: Fd, buf: UserPtr<u8>, count: usize, offset: i64) -> Result<usize> {
    let (of, at) = positioned(cx, fd, offset)?;
    readable(&of)?;
    let done = fs::read(cx, &of, Some(at), &mut UserBuf::single(cx, buf, count)?)?;
    fs::view::used(cx, fd, &of);
    Ok(done)
}

pub(super) fn pwrite64(cx: &Cx, fd: Fd, buf: UserPtr<u8>, count: usize, offset: i64) -> Result<usize> {
    let (of, at) = positioned(cx, fd, offset)?;
    writable(&of)?;
    let done = fs::write(cx, &of, Some(at), &mut UserBuf::single(cx, buf, count)?)?;
    fs::view::used(cx, fd, &of);
    Ok(done)
}

pub(super) fn preadv(cx: &Cx, fd: Fd, vecs: UserPtr<Iovec>, count: usize, offset: i64) -> Result<usize> {
    let (of, at) = positioned(cx, fd, offset)?;
    readable(&of)?;
    fs::read(cx, &of, Some(at), &mut UserBuf::vectored(cx, vecs, count)?)
}

pub(super) fn pwritev(cx: &Cx, fd: Fd, vecs: UserPtr<Iovec>, count: usize, offset: i64) -> Result<usize> {
    let (of, at) = positioned(cx, fd, offset)?;
    writable(&of)?;
    fs::write(cx, &of, Some(at), &mut UserBuf::vectored(cx, vecs, count)?)
}

pub(super) fn preadv2(
    cx: &Cx,
    fd: Fd,
    vecs: UserPtr<Iovec>,
    count: usize,
    offset: i64,
    _high: u64,
    flags: u32,
) -> Result<usize> {
    if flags & !RWF_KNOWN != 0 {
        return err(Errno::EOPNOTSUPP);
    }
    if offset == -1 { readv(cx, fd, vecs, count) } else { preadv(cx, fd, vecs, count, offset) }
}

pub(super) fn pwritev2(
    cx: &Cx,
    fd: Fd,
    vecs: UserPtr<Iovec>,
    count: usize,
    offset: i64,
    _high: u64,
    flags: u32,
) -> Result<usize> {
    if flags & !RWF_KNOWN != 0 {
        return err(Errno::EOPNOTSUPP);
    }
    if flags & RWF_APPEND != 0 {
        let of = cx.file(fd)?;
        writable(&of)?;
        let end = of.attr()?.size;
        let at = if offset == -1 { None } else { Some(end) };
        if at.is_none() {
            of.set_pos(end);
        }
        return fs::write(cx, &of, at, &mut UserBuf::vectored(cx, vecs, count)?);
    }
    if offset == -1 { writev(cx, fd, vecs, count) } else { pwritev(cx, fd, vecs, count, offset) }
}

pub(super) fn lseek(cx: &Cx, fd: Fd, offset: i64, whence: u32) -> Result<u64> {
    let of = plain(cx, fd)?;
    if whence > 4 {
        return err(Errno::EINVAL);
    }
    fs::seek(cx, &of, offset, whence)
}

/// The file of a descriptor that is not `O_PATH`; `EBADF`.
pub(super) fn plain(cx: &Cx, fd: Fd) -> Result<Arc<OpenFile>> {
    let of = cx.file(fd)?;
    if of.flags().contains(fs::OpenFlags::PATH) { err(Errno::EBADF) } else { Ok(of) }
}

fn positioned(cx: &Cx, fd: Fd, offset: i64) -> Result<(Arc<OpenFile>, u64)> {
    let at = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let of = plain(cx, fd)?;
    if !of.file.seekable() {
        return err(Errno::ESPIPE);
    }
    Ok((of, at))
}

fn readable(of: &OpenFile) -> Result<()> {
    if of.flags().readable() { Ok(()) } else { err(Errno::EBADF) }
}

fn writable(of: &OpenFile) -> Result<()> {
    if of.flags().writable() { Ok(()) } else { err(Errno::EBADF) }
}
