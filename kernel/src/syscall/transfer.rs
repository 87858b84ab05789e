//! Calls that move or keep content: sending, copying, allocating, syncing, advice.

use super::io::plain;
use crate::error::{Result, err};
use crate::fs::{self, Fd, OpenFile, OpenFlags, walk};
use crate::task::Cx;
use crate::user::{MAX_RW_COUNT, UserPtr};
use abi::Errno;
use abi::fs::FileType;
use alloc::sync::Arc;
use alloc::vec;

/// Bytes that are under way at a time.
const CHUNK: usize = 128 << 10;

fn type_of(of: &OpenFile) -> Result<FileType> {
    Ok(of.attr()?.file_type())
}

/// Moves up to `count` bytes between two files, each from its own position or a given one, which moves on. What was moved before an
/// error or a signal counts.
fn pump(
    cx: &Cx,
    from: (&Arc<OpenFile>, &mut Option<u64>),
    to: (&Arc<OpenFile>, &mut Option<u64>),
    count: usize,
) -> Result<usize> {
    let len = match from.0.attr() {
        Ok(attr) if attr.file_type() == FileType::Regular => {
            fs::buffer_len(count, from.1.unwrap_or(from.0.pos()), attr.size, CHUNK)
        }
        _ => count.min(CHUNK),
    };
    let mut buf = vec![0u8; len];
    let mut done = 0usize;
    while done < count {
        let want = (count - done).min(buf.len());
        let mut room: &mut [u8] = buf.get_mut(..want).unwrap_or_default();
        let got = match fs::read(cx, from.0, *from.1, &mut room) {
            Ok(0) => break,
            Ok(n) => n,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        };
        let mut rest: &[u8] = buf.get(..got).unwrap_or_default();
        let mut put = 0;
        let mut failed = None;
        while !rest.is_empty() {
            // The source moves on as it is taken; a short write may leave some of it behind.
            let mut part = rest;
            match fs::write(cx, to.0, *to.1, &mut part) {
                Ok(0) => break,
                Ok(n) => {
                    put += n;
                    rest = rest.get(n..).unwrap_or_default();
                    if let Some(at) = to.1 {
                        *at += n as u64;
                    }
                }
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        done += put;
        match from.1 {
            Some(at) => *at += put as u64,
            // What was read but not written goes back.
            None if put < got => from.0.set_pos(from.0.pos().saturating_sub((got - put) as u64)),
            None => {}
        }
        match failed {
            Some(_) if done > 0 => break,
            Some(e) => return Err(e),
            None if put < got => break,
            None => {}
        }
    }
    Ok(done)
}

pub(super) fn sendfile(cx: &Cx, out: Fd, input: Fd, offset: UserPtr<i64>, count: usize) -> Result<usize> {
    let from = plain(cx, input)?;
    if !from.flags().readable() {
        return err(Errno::EBADF);
    }
    let mut at = None;
    if let Some(ptr) = offset.non_null() {
        if !from.file.seekable() {
            return err(Errno::ESPIPE);
        }
        at = Some(u64::try_from(ptr.read(cx)?).map_err(|_| Errno::EINVAL)?);
    }
    let to = plain(cx, out)?;
    if !to.flags().writable() {
        return err(Errno::EBADF);
    }
    if to.flags().contains(OpenFlags::APPEND) || !from.file.seekable() {
        return err(Errno::EINVAL);
    }
    if type_of(&from)? == FileType::Directory {
        return err(Errno::EINVAL);
    }
    let done = pump(cx, (&from, &mut at), (&to, &mut None), count.min(MAX_RW_COUNT))?;
    if let (Some(ptr), Some(at)) = (offset.non_null(), at) {
        ptr.write(cx, &(at as i64))?;
    }
    Ok(done)
}

pub(super) fn copy_file_range(
    cx: &Cx,
    input: Fd,
    off_in: UserPtr<i64>,
    out: Fd,
    off_out: UserPtr<i64>,
    len: usize,
    flags: u32,
) -> Result<usize> {
    let (from, to) = (plain(cx, input)?, plain(cx, out)?);
    let read_at = |ptr: UserPtr<i64>| match ptr.non_null() {
        Some(ptr) => Ok(Some(u64::try_from(ptr.read(cx)?).map_err(|_| Errno::EINVAL)?)),
        None => Ok::<_, crate::Error>(None),
    };
    let (mut at_in, mut at_out) = (read_at(off_in)?, read_at(off_out)?);
    if flags != 0 {
        return err(Errno::EINVAL);
    }
    for of in [&from, &to] {
        match type_of(of)? {
            FileType::Regular => {}
            FileType::Directory => return err(Errno::EISDIR),
            _ => return err(Errno::EINVAL),
        }
    }
    if !from.flags().readable() || !to.flags().writable() || to.flags().contains(OpenFlags::APPEND) {
        return err(Errno::EBADF);
    }
    let len = len.min(MAX_RW_COUNT);
    let (start_in, start_out) = (at_in.unwrap_or(from.pos()), at_out.unwrap_or(to.pos()));
    let same = match (&from.inode, &to.inode) {
        (Some(a), Some(b)) => fs::same_inode(a, b),
        _ => false,
    };
    let overlap = start_in.abs_diff(start_out) < len as u64;
    if same && overlap && len > 0 {
        return err(Errno::EINVAL);
    }
    let done = pump(cx, (&from, &mut at_in), (&to, &mut at_out), len)?;
    if let (Some(ptr), Some(at)) = (off_in.non_null(), at_in) {
        ptr.write(cx, &(at as i64))?;
    }
    if let (Some(ptr), Some(at)) = (off_out.non_null(), at_out) {
        ptr.write(cx, &(at as i64))?;
    }
    Ok(done)
}

/// `FALLOC_FL_KEEP_SIZE`, `PUNCH_HOLE`, `COLLAPSE_RANGE`, `ZERO_RANGE`, `INSERT_RANGE`, `UNSHARE_RANGE`.
const FALLOC_KNOWN: u32 = 0x01 | 0x02 | 0x08 | 0x10 | 0x20 | 0x40;

pub(super) fn fallocate(cx: &Cx, fd: Fd, mode: u32, offset: i64, len: i64) -> Result<()> {
    let of = plain(cx, fd)?;
    let (Ok(offset), Some(len)) = (u64::try_from(offset), u64::try_from(len).ok().filter(|&l| l > 0)) else {
        return err(Errno::EINVAL);
    };
    let punch = mode & 0x02 != 0;
    let alone = [0x08, 0x20].iter().any(|bit| mode & bit != 0 && mode != *bit);
    if mode & !FALLOC_KNOWN != 0 || (punch && (mode & 0x01 == 0 || mode & 0x10 != 0)) {
        return err(Errno::EOPNOTSUPP);
    }
    if alone {
        return err(Errno::EINVAL);
    }
    if !of.flags().writable() {
        return err(Errno::EBADF);
    }
    match type_of(&of)? {
        FileType::Regular => {}
        FileType::Fifo => return err(Errno::ESPIPE),
        FileType::Directory => return err(Errno::EISDIR),
        _ => return err(Errno::ENODEV),
    }
    let end = offset.checked_add(len).filter(|&e| e <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
    if mode & 0x01 == 0 && end > of.attr()?.size {
        fs::limit_growth(cx, end - 1, 1)?;
    }
    fs::drop_privileges(cx, &of)?;
    of.file.allocate(cx, &of, mode, offset, len)?;
    fs::notify::file(cx, &of, fs::notify::MODIFY);
    Ok(())
}

pub(super) fn fsync(cx: &Cx, fd: Fd) -> Result<()> {
    plain(cx, fd)?.file.sync(cx, false)
}

pub(super) fn fdatasync(cx: &Cx, fd: Fd) -> Result<()> {
    plain(cx, fd)?.file.sync(cx, true)
}

pub(super) fn sync(cx: &Cx) -> Result<()> {
    for mount in cx.kernel.vfs.ns.list() {
        // Errors have nowhere to go, as on Linux.
        let _ = mount.fs.sync();
    }
    Ok(())
}

pub(super) fn syncfs(cx: &Cx, fd: Fd) -> Result<()> {
    walk::path_of(cx, &plain(cx, fd)?).mount.fs.sync()
}

pub(super) fn sync_file_range(cx: &Cx, fd: Fd, offset: i64, len: i64, flags: u32) -> Result<()> {
    let of = plain(cx, fd)?;
    if flags & !7 != 0 || offset < 0 || len < 0 || offset.checked_add(len).is_none() {
        return err(Errno::EINVAL);
    }
    match type_of(&of)? {
        FileType::Regular | FileType::Directory | FileType::BlockDevice | FileType::Symlink => {
            of.file.sync(cx, true)
        }
        _ => err(Errno::ESPIPE),
    }
}

pub(super) fn readahead(cx: &Cx, fd: Fd, _offset: i64, _count: usize) -> Result<()> {
    let of = plain(cx, fd)?;
    if !of.flags().readable() {
        return err(Errno::EBADF);
    }
    if type_of(&of)? == FileType::Regular { Ok(()) } else { err(Errno::EINVAL) }
}

pub(super) fn fadvise64(cx: &Cx, fd: Fd, _offset: i64, len: i64, advice: u32) -> Result<()> {
    let of = plain(cx, fd)?;
    if type_of(&of)? == FileType::Fifo {
        return err(Errno::ESPIPE);
    }
    if len < 0 || advice > 5 {
        return err(Errno::EINVAL);
    }
    Ok(())
}

pub(super) fn name_to_handle_at(cx: &Cx, dirfd: Fd, path: crate::user::UserCStr) -> Result<()> {
    walk::resolve(cx, dirfd, &path.read_path(cx)?, walk::Lookup::EMPTY_PATH)?;
    err(Errno::EOPNOTSUPP)
}
