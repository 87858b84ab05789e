//! `flock`, and the lock commands of `fcntl`.

use crate::error::{Result, err};
use crate::fs::lock::{self, LockKind, LockWait, Owner, Range};
use crate::fs::{Fd, OpenFile, OpenFlags};
use crate::task::Cx;
use crate::user::UserPtr;
use abi::Errno;
use abi::fs::Flock;

/// `F_GETLK`, `F_SETLK`, `F_SETLKW` and their `F_OFD_*` kin.
const F_GETLK: u32 = 5;
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;
const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

pub(super) fn flock(cx: &Cx, fd: Fd, operation: u32) -> Result<()> {
    const SH: u32 = 1;
    const EX: u32 = 2;
    const NB: u32 = 4;
    const UN: u32 = 8;
    let kind = match operation & !NB {
        SH => Some(LockKind::Shared),
        EX => Some(LockKind::Exclusive),
        UN => None,
        _ => return err(Errno::EINVAL),
    };
    let of = cx.file(fd)?;
    if of.flags().contains(OpenFlags::PATH) {
        return err(Errno::EBADF);
    }
    let wait = if operation & NB != 0 { LockWait::No } else { LockWait::Yes };
    lock::flock(cx, &of, kind, wait)
}

/// Serves `fcntl(2)` commands about locks; `None` for any other command.
pub(super) fn fcntl(cx: &Cx, of: &OpenFile, cmd: u32, arg: u64) -> Option<Result<u64>> {
    let ptr = UserPtr::new(arg);
    let result = match cmd {
        F_GETLK | F_OFD_GETLK => get(cx, of, cmd == F_OFD_GETLK, ptr),
        F_SETLK | F_OFD_SETLK => set(cx, of, cmd == F_OFD_SETLK, ptr, LockWait::No),
        F_SETLKW | F_OFD_SETLKW => set(cx, of, cmd == F_OFD_SETLKW, ptr, LockWait::Yes),
        _ => return None,
    };
    Some(result.map(|()| 0))
}

fn owner(cx: &Cx, of: &OpenFile, description: bool, flock: &Flock) -> Result<Owner> {
    if !description {
        return Ok(Owner::Process(cx.process().pid));
    }
    if flock.pid == 0 { Ok(Owner::Description(of.id)) } else { err(Errno::EINVAL) }
}

fn get(cx: &Cx, of: &OpenFile, description: bool, ptr: UserPtr<Flock>) -> Result<()> {
    let mut flock = ptr.read(cx)?;
    let kind = match flock.kind {
        F_RDLCK => LockKind::Shared,
        F_WRLCK => LockKind::Exclusive,
        _ => return err(Errno::EINVAL),
    };
    let owner = owner(cx, of, description, &flock)?;
    let range = range_of(of, &flock)?;
    match lock::conflict(cx, of, owner, range, kind)? {
        None => flock.kind = F_UNLCK,
        Some(held) => {
            let len = if held.range.end == Range::MAX { 0 } else { held.range.end - held.range.start + 1 };
            flock = Flock {
                kind: if held.kind == LockKind::Shared { F_RDLCK } else { F_WRLCK },
                whence: 0,
                pad: 0,
                start: held.range.start as i64,
                len: len as i64,
                pid: if matches!(held.owner, Owner::Process(_)) { held.pid } else { -1 },
                pad2: 0,
            };
        }
    }
    ptr.write(cx, &flock)
}

fn set(cx: &Cx, of: &OpenFile, description: bool, ptr: UserPtr<Flock>, wait: LockWait) -> Result<()> {
    let flock = ptr.read(cx)?;
    let owner = owner(cx, of, description, &flock)?;
    let range = range_of(of, &flock)?;
    let kind = match flock.kind {
        F_RDLCK if !of.flags().readable() => return err(Errno::EBADF),
        F_WRLCK if !of.flags().writable() => return err(Errno::EBADF),
        F_RDLCK => Some(LockKind::Shared),
        F_WRLCK => Some(LockKind::Exclusive),
        F_UNLCK => None,
        _ => return err(Errno::EINVAL),
    };
    lock::set_range(cx, of, owner, range, kind, wait)
}

/// The bytes that a `struct flock` means (`fcntl(2)`): `EINVAL` for what lies before the start, `EOVERFLOW` beyond the end.
fn range_of(of: &OpenFile, flock: &Flock) -> Result<Range> {
    let base = match flock.whence {
        0 => 0,
        1 => of.pos() as i64,
        2 => of.attr()?.size as i64,
        _ => return err(Errno::EINVAL),
    };
    let start = base.checked_add(flock.start).ok_or(Errno::EOVERFLOW)?;
    if start < 0 {
        return err(Errno::EINVAL);
    }
    let (start, end) = if flock.len > 0 {
        (start, start.checked_add(flock.len - 1).ok_or(Errno::EOVERFLOW)?)
    } else if flock.len < 0 {
        let first = start.checked_add(flock.len).filter(|&f| f >= 0).ok_or(Errno::EINVAL)?;
        (first, start - 1)
    } else {
        (start, i64::MAX)
    };
    Ok(Range { start: start as u64, end: end as u64 })
}
