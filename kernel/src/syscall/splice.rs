//! `splice(2)`, `tee(2)`, `vmsplice(2)`.

use crate::error::{Result, err};
use crate::fs::{Fd, OpenFile};
use crate::ipc::splice::{self, Position};
use crate::task::Cx;
use crate::user::{UserBuf, UserPtr};
use abi::Errno;
use abi::fs::Iovec;

const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_F_ALL: u32 = 15;

/// Copies in an offset; refused for a pipe and for a file without positions.
fn offset(cx: &Cx, of: &OpenFile, at: UserPtr<i64>) -> Result<Option<u64>> {
    let Some(at) = at.non_null() else { return Ok(None) };
    if splice::is_pipe(of) {
        return err(Errno::ESPIPE);
    }
    if !of.file.seekable() {
        return err(Errno::EINVAL);
    }
    Ok(Some(u64::try_from(at.read(cx)?).map_err(|_| Errno::EINVAL)?))
}

/// `splice(2)`.
pub(super) fn splice(
    cx: &Cx,
    input: Fd,
    input_at: UserPtr<i64>,
    output: Fd,
    output_at: UserPtr<i64>,
    len: usize,
    flags: u32,
) -> Result<usize> {
    if len == 0 {
        return Ok(0);
    }
    if flags & !SPLICE_F_ALL != 0 {
        return err(Errno::EINVAL);
    }
    let (from, to) = (cx.file(input)?, cx.file(output)?);
    if !splice::can(&from).0 || !splice::can(&to).1 {
        return err(Errno::EBADF);
    }
    let mut from_pos = offset(cx, &from, input_at)?;
    let mut to_pos = offset(cx, &to, output_at)?;
    let position = match (&mut from_pos, &mut to_pos) {
        (Some(_), Some(_)) => return err(Errno::EINVAL),
        (Some(at), None) | (None, Some(at)) => Position::At(at),
        (None, None) => Position::Own,
    };
    let moved = splice::splice(cx, &from, &to, position, len, flags & SPLICE_F_NONBLOCK != 0)?;
    for (at, pos) in [(input_at, from_pos), (output_at, to_pos)] {
        if let Some(pos) = pos {
            at.write(cx, &(pos as i64))?;
        }
    }
    Ok(moved)
}

/// `tee(2)`.
pub(super) fn tee(cx: &Cx, input: Fd, output: Fd, len: usize, flags: u32) -> Result<usize> {
    if flags & !SPLICE_F_ALL != 0 {
        return err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (cx.file(input)?, cx.file(output)?);
    if !splice::can(&from).0 || !splice::can(&to).1 {
        return err(Errno::EBADF);
    }
    splice::tee(cx, &from, &to, len, flags & SPLICE_F_NONBLOCK != 0)
}

/// `vmsplice(2)`: to a pipe's write end from user memory, from a read end to it. Pages are copied, not shared.
pub(super) fn vmsplice(cx: &Cx, fd: Fd, vecs: UserPtr<Iovec>, count: usize, flags: u32) -> Result<usize> {
    if flags & !SPLICE_F_ALL != 0 {
        return err(Errno::EINVAL);
    }
    let of = cx.file(fd)?;
    if !splice::is_pipe(&of) {
        return err(Errno::EBADF);
    }
    let (read, write) = splice::can(&of);
    let mut buf = UserBuf::vectored(cx, vecs, count)?;
    let nonblocking = flags & SPLICE_F_NONBLOCK != 0;
    match (read, write) {
        (_, true) => splice::write_pipe(cx, &of, &mut buf, nonblocking),
        (true, false) => splice::read_pipe(cx, &of, &mut buf, nonblocking),
        (false, false) => err(Errno::EBADF),
    }
}
