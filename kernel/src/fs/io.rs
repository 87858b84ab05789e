//! Reading and writing through an open file description: access mode, position, limits, side effects.

use super::dentry::with_room;
use super::perm::Rights;
use super::{DirEntry, File, Inode, OpenFile, OpenFlags, notify, perm, transfer};
use crate::error::{Result, err};
use crate::signal::{SigInfo, send_to_task, sig};
use crate::task::{Cap, Cx, Resource};
use crate::user::{Sink, Source};
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec;
use hal::{HostFile, PAGE_SIZE, Progress, SetAttr};

/// Bytes that one host read moves by way of a buffer.
const HOST_CHUNK: usize = 256 << 10;
/// Bytes that one host read moves straight into memory, whose address space is locked meanwhile.
const HOST_STRAIGHT: usize = 64 << 10;

/// `read(2)`: from the description's position, or from `at` without moving it.
pub fn read(cx: &Cx, of: &Arc<OpenFile>, at: Option<u64>, sink: &mut dyn Sink) -> Result<usize> {
    if !of.flags().readable() {
        return err(Errno::EBADF);
    }
    let done = match at {
        Some(mut pos) => {
            check_range(pos, sink.room())?;
            of.file.read(cx, of, &mut pos, sink)
        }
        None if of.file.seekable() => {
            let _position = of.pos_latch.lock(cx);
            let mut pos = of.pos();
            check_range(pos, sink.room())?;
            let done = of.file.read(cx, of, &mut pos, sink);
            if done.is_ok() {
                of.set_pos(pos);
            }
            done
        }
        None => of.file.read(cx, of, &mut 0, sink),
    }?;
    cx.process().io[0].fetch_add(done as u64, core::sync::atomic::Ordering::Relaxed);
    if done > 0 {
        notify::file(cx, of, notify::ACCESS);
    }
    Ok(done)
}

/// `write(2)`: at the description's position, or at `at` without moving it.
pub fn write(cx: &Cx, of: &Arc<OpenFile>, at: Option<u64>, source: &mut dyn Source) -> Result<usize> {
    if !of.flags().writable() {
        return err(Errno::EBADF);
    }
    let done = match at {
        Some(mut pos) => {
            check_range(pos, source.left())?;
            write_at(cx, of, &mut pos, source)
        }
        None if of.file.seekable() => {
            let _position = of.pos_latch.lock(cx);
            let mut pos = of.pos();
            check_range(pos, source.left())?;
            let done = write_at(cx, of, &mut pos, source);
            if done.is_ok() {
                of.set_pos(pos);
            }
            done
        }
        None => of.file.write(cx, of, &mut 0, source),
    }?;
    cx.process().io[1].fetch_add(done as u64, core::sync::atomic::Ordering::Relaxed);
    if done > 0 {
        notify::file(cx, of, notify::MODIFY);
    }
    Ok(done)
}

/// Positions are signed 64-bit numbers to user space (`rw_verify_area`).
fn check_range(pos: u64, len: usize) -> Result<()> {
    match pos.checked_add(len as u64) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => err(Errno::EINVAL),
    }
}

/// `lseek(2)`.
pub fn seek(cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
    if !of.file.seekable() {
        return of.file.seek(cx, of, offset, whence);
    }
    let _position = of.pos_latch.lock(cx);
    let pos = of.file.seek(cx, of, offset, whence)?;
    of.set_pos(pos);
    Ok(pos)
}

/// Lists a directory from the description's position on, until `emit` takes no more; the position follows what was taken.
pub fn read_dir(cx: &Cx, of: &OpenFile, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
    let _position = of.pos_latch.lock(cx);
    let mut pos = of.pos();
    with_room(cx, || {
        of.file.read_dir(cx, of, pos, &mut |entry| {
            let next = entry.next;
            let taken = emit(entry);
            if taken {
                pos = next;
            }
            taken
        })
    })?;
    of.set_pos(pos);
    notify::file(cx, of, notify::ACCESS | notify::ISDIR);
    Ok(())
}

fn write_at(cx: &Cx, of: &Arc<OpenFile>, pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
    let Some(inode) = of.inode.as_ref() else { return of.file.write(cx, of, pos, source) };
    let rights = inode.rights()?;
    if !rights.is_regular() || source.left() == 0 {
        return of.file.write(cx, of, pos, source);
    }
    let from = if of.flags().contains(OpenFlags::APPEND) { inode.attr()?.size } else { *pos };
    let room = limit_growth(cx, from, source.left() as u64)?;
    drop_rights(cx, inode, rights)?;
    limited(source, usize::try_from(room).unwrap_or(usize::MAX), |source| of.file.write(cx, of, pos, source))
}

/// How much of a write at `pos` the limits on a file's size admit: `SIGXFSZ` and `EFBIG` for none (`RLIMIT_FSIZE`).
pub fn limit_growth(cx: &Cx, pos: u64, len: u64) -> Result<u64> {
    let limit = cx.process().limit(Resource::Fsize);
    if pos >= limit {
        send_to_task(cx.task, SigInfo::kernel(sig::XFSZ));
        return err(Errno::EFBIG);
    }
    let max = limit.min(i64::MAX as u64);
    match max.saturating_sub(pos).min(len) {
        0 if len > 0 => err(Errno::EFBIG),
        room => Ok(room),
    }
}

/// A write takes away set-user-ID and set-group-ID, unless by `CAP_FSETID`.
pub fn drop_privileges(cx: &Cx, of: &OpenFile) -> Result<()> {
    match &of.inode {
        Some(inode) => drop_rights(cx, inode, inode.rights()?),
        None => Ok(()),
    }
}

fn drop_rights(cx: &Cx, inode: &Arc<dyn Inode>, rights: Rights) -> Result<()> {
    let mut mode = rights.mode & !perm::S_ISUID;
    if mode & 0o010 != 0 {
        mode &= !perm::S_ISGID;
    }
    if mode == rights.mode || !rights.is_regular() || cx.task.creds().has(Cap::Fsetid) {
        return Ok(());
    }
    inode.set_attr(cx, &SetAttr { mode: Some(mode & 0o7777), ..SetAttr::default() })
}

/// How long a buffer for `room` bytes at `pos` of a file of about this size should be, `most` at most. Programs ask for far more than small files
/// have. One byte more than what is left shows the end in the same read.
pub fn buffer_len(room: usize, pos: u64, size: u64, most: usize) -> usize {
    let left = usize::try_from(size.saturating_sub(pos).saturating_add(1)).unwrap_or(usize::MAX);
    room.min(most).min(left.max(PAGE_SIZE as usize))
}

/// Reads a host file into a sink. `end` is where the file is thought to end; `None` for little to read of a file of any size.
pub(super) fn host_read(
    cx: &Cx,
    file: &dyn HostFile,
    pos: u64,
    end: Option<u64>,
    sink: &mut dyn Sink,
) -> Result<usize> {
    let mut done = 0usize;
    while sink.room() > 0 {
        let at = pos.checked_add(done as u64).ok_or(Errno::EINVAL)?;
        let len = buffer_len(sink.room(), at, end.unwrap_or(0), HOST_CHUNK);
        let before = sink.room();
        let step = match sink.put_file(file, at, len.min(HOST_STRAIGHT)) {
            None | Some(Ok(Progress { done: 0, blocked: true })) => {
                read_buffered(cx, file, at, end, len, sink)
            }
            Some(step) => step.map(drop),
        };
        let n = before - sink.room();
        done += n;
        match step {
            Ok(()) => {}
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
        if n == 0 || end == pos.checked_add(done as u64) {
            break;
        }
        cx.give_way();
    }
    Ok(done)
}

/// Reads `len` bytes of a host file into a sink by way of a buffer.
fn read_buffered(
    cx: &Cx,
    file: &dyn HostFile,
    at: u64,
    end: Option<u64>,
    len: usize,
    sink: &mut dyn Sink,
) -> Result<()> {
    let mut buf = vec![0u8; len.min(sink.room())];
    let n = transfer::read_at(cx, file, at, end, &mut buf)?;
    sink.put(buf.get(..n).unwrap_or_default())
}

/// Writes a source to a host file.
pub(super) fn host_write(cx: &Cx, file: &dyn HostFile, pos: u64, source: &mut dyn Source) -> Result<usize> {
    let mut buf = vec![0u8; source.left().min(HOST_CHUNK)];
    let mut done = 0usize;
    while source.left() > 0 {
        let step = source.take(&mut buf).and_then(|n| {
            let at = pos.checked_add(done as u64).ok_or(Errno::EFBIG)?;
            Ok((n, transfer::write_at(cx, file, at, buf.get(..n).unwrap_or_default())?))
        });
        match step {
            Ok((n, written)) => {
                done += written;
                if n == 0 || written < n {
                    break;
                }
                cx.give_way();
            }
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

struct Limited<'a> {
    source: &'a mut dyn Source,
    left: usize,
}

impl Source for Limited<'_> {
    fn take(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = buf.len().min(self.left);
        let n = self.source.take(buf.get_mut(..len).unwrap_or_default())?;
        self.left -= n;
        Ok(n)
    }
    fn left(&self) -> usize {
        self.left.min(self.source.left())
    }
}

/// Hands on at most `len` bytes of a source.
fn limited<T>(source: &mut dyn Source, len: usize, f: impl FnOnce(&mut dyn Source) -> T) -> T {
    if source.left() <= len {
        return f(source);
    }
    f(&mut Limited { source, left: len })
}

/// Closes a description's descriptor: what every `close(2)` does before the description may go away.
pub fn close(cx: &Cx, of: Arc<OpenFile>) -> Result<()> {
    let result = of.file.flush(cx);
    super::lock::closed(cx, &of);
    if Arc::strong_count(&of) == 1 {
        let event = if of.flags().writable() { notify::CLOSE_WRITE } else { notify::CLOSE_NOWRITE };
        notify::file(cx, &of, event);
    }
    drop(of);
    result
}

/// The file of an `O_PATH` descriptor: nothing can be done with it.
pub(super) struct PathOnly;

impl File for PathOnly {
    fn read(&self, _cx: &Cx, _of: &OpenFile, _pos: &mut u64, _sink: &mut dyn Sink) -> Result<usize> {
        err(Errno::EBADF)
    }
    fn write(&self, _cx: &Cx, _of: &OpenFile, _pos: &mut u64, _source: &mut dyn Source) -> Result<usize> {
        err(Errno::EBADF)
    }
    fn pollable(&self) -> bool {
        false
    }
    fn ioctl(&self, _cx: &Cx, _of: &OpenFile, _cmd: u32, _arg: u64) -> Result<u64> {
        err(Errno::EBADF)
    }
    fn mmap(&self, _cx: &Cx, _of: &OpenFile) -> Result<super::Mappable> {
        err(Errno::EBADF)
    }
    fn sync(&self, _cx: &Cx, _data_only: bool) -> Result<()> {
        err(Errno::EBADF)
    }
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
