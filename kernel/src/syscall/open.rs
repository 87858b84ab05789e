//! Opening, closing and duplicating descriptors.

use super::arg::{Arg, ArgKind};
use crate::error::{Result, err};
use crate::fs::walk::Lookup;
use crate::fs::{self, Fd, OpenFlags};
use crate::task::{Cx, Resource};
use crate::user::{UserCStr, UserPtr};
use abi::Errno;
use alloc::format;
use alloc::string::String;

/// `O_TMPFILE` as user space passes it.
const TMPFILE: OpenFlags = OpenFlags::TMPFILE_BIT.union(OpenFlags::DIRECTORY);
/// All flags that `open(2)` knows (`VALID_OPEN_FLAGS`).
const KNOWN: u32 = 0o37777703;

impl Arg for OpenFlags {
    const KIND: ArgKind = ArgKind::Hex;
    fn decode(raw: u64) -> Self {
        OpenFlags::from_bits_retain(raw as u32)
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        let flags = OpenFlags::from_bits_retain(raw as u32);
        let mut text = String::from(match raw & 3 {
            0 => "O_RDONLY",
            1 => "O_WRONLY",
            2 => "O_RDWR",
            _ => "O_ACCMODE",
        });
        for (name, flag) in flags.iter_names() {
            if flag.bits() & 3 == 0 {
                text.push_str("|O_");
                text.push_str(name);
            }
        }
        text
    }
}

pub(super) fn open(cx: &Cx, path: UserCStr, flags: OpenFlags, mode: u32) -> Result<Fd> {
    openat(cx, Fd::CWD, path, flags, mode)
}

pub(super) fn creat(cx: &Cx, path: UserCStr, mode: u32) -> Result<Fd> {
    openat(cx, Fd::CWD, path, OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC, mode)
}

pub(super) fn openat(cx: &Cx, dirfd: Fd, path: UserCStr, flags: OpenFlags, mode: u32) -> Result<Fd> {
    let flags = OpenFlags::from_bits_retain(flags.bits() & KNOWN);
    open_checked(cx, dirfd, path, flags, mode & 0o7777, Lookup::empty())
}

/// `struct open_how` of `openat2(2)`.
const OPEN_HOW_SIZE: usize = 24;
/// `RESOLVE_*` with their meanings; `RESOLVE_CACHED` is answered with `EAGAIN`, as always allowed.
const RESOLVE: [(u64, Lookup); 5] = [
    (0x01, Lookup::NO_XDEV),
    (0x02, Lookup::NO_MAGICLINKS),
    (0x04, Lookup::NO_SYMLINKS),
    (0x08, Lookup::BENEATH),
    (0x10, Lookup::IN_ROOT),
];
const RESOLVE_CACHED: u64 = 0x20;

pub(super) fn openat2(cx: &Cx, dirfd: Fd, path: UserCStr, how: UserPtr<u8>, size: usize) -> Result<Fd> {
    if size < OPEN_HOW_SIZE {
        return err(Errno::EINVAL);
    }
    if size > 4096 {
        return err(Errno::E2BIG);
    }
    let bytes = how.read_vec(cx, size)?;
    if bytes.iter().skip(OPEN_HOW_SIZE).any(|&b| b != 0) {
        return err(Errno::E2BIG);
    }
    let field = |i: usize| {
        let word = bytes.get(i * 8..i * 8 + 8).and_then(|b| b.try_into().ok());
        word.map_or(0, u64::from_ne_bytes)
    };
    let (flags, mode, resolve) = (field(0), field(1), field(2));
    if flags & !u64::from(KNOWN) != 0 || mode & !0o7777 != 0 || resolve & !0x3f != 0 {
        return err(Errno::EINVAL);
    }
    let flags = OpenFlags::from_bits_retain(flags as u32);
    if mode != 0 && !flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE_BIT) {
        return err(Errno::EINVAL);
    }
    if resolve & 0x18 == 0x18 {
        return err(Errno::EINVAL);
    }
    if resolve & RESOLVE_CACHED != 0 {
        if flags.intersects(OpenFlags::CREAT | OpenFlags::TRUNC | OpenFlags::TMPFILE_BIT) {
            return err(Errno::EAGAIN);
        }
        return err(Errno::EAGAIN);
    }
    let path_only = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    if flags.contains(OpenFlags::PATH) && !path_only.contains(flags) {
        return err(Errno::EINVAL);
    }
    let mut lookup = Lookup::empty();
    for (bit, flag) in RESOLVE {
        lookup.set(flag, resolve & bit != 0);
    }
    open_checked(cx, dirfd, path, flags, mode as u32, lookup)
}

fn open_checked(
    cx: &Cx,
    dirfd: Fd,
    path: UserCStr,
    mut flags: OpenFlags,
    mode: u32,
    lookup: Lookup,
) -> Result<Fd> {
    if flags.contains(OpenFlags::PATH) {
        flags &= OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    } else if flags.contains(OpenFlags::TMPFILE_BIT) {
        if !flags.contains(TMPFILE) || flags.contains(OpenFlags::CREAT) || !flags.writable() {
            return err(Errno::EINVAL);
        }
    } else if flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) {
        return err(Errno::EINVAL);
    }
    let path = path.read_path(cx)?;
    let file = fs::open::open_scoped(cx, dirfd, &path, flags, mode, lookup)?;
    let fd = cx.install(file.clone(), flags.contains(OpenFlags::CLOEXEC))?;
    fs::lend::opened(cx, fd, &file);
    Ok(fd)
}

pub(super) fn close(cx: &Cx, fd: Fd) -> Result<()> {
    let of = cx.files().remove(fd)?;
    fs::close(cx, of).map_err(|e| e.no_restart())
}

/// `CLOSE_RANGE_UNSHARE`.
const CLOSE_RANGE_UNSHARE: u32 = 2;
/// `CLOSE_RANGE_CLOEXEC`.
const CLOSE_RANGE_CLOEXEC: u32 = 4;

pub(super) fn close_range(cx: &Cx, first: u32, last: u32, flags: u32) -> Result<()> {
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return err(Errno::EINVAL);
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        let copy = cx.files().duplicate();
        cx.set_files(copy);
    }
    let (first, last) = (first as usize, last as usize);
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        cx.files().set_cloexec_range(first, last);
        return Ok(());
    }
    for of in cx.files().remove_range(first, last, |_| true) {
        // Errors of a close are lost here, as on Linux.
        let _ = fs::close(cx, of);
    }
    Ok(())
}

pub(super) fn dup(cx: &Cx, fd: Fd) -> Result<Fd> {
    let of = cx.file(fd)?;
    cx.install(of, false)
}

pub(super) fn dup2(cx: &Cx, old: Fd, new: Fd) -> Result<Fd> {
    if old == new {
        cx.file(old)?;
        return Ok(new);
    }
    dup_to(cx, old, new, false)
}

pub(super) fn dup3(cx: &Cx, old: Fd, new: Fd, flags: OpenFlags) -> Result<Fd> {
    if flags.bits() & !OpenFlags::CLOEXEC.bits() != 0 || old == new {
        return err(Errno::EINVAL);
    }
    dup_to(cx, old, new, flags.contains(OpenFlags::CLOEXEC))
}

fn dup_to(cx: &Cx, old: Fd, new: Fd, cloexec: bool) -> Result<Fd> {
    let limit = cx.process().limit(Resource::Nofile);
    if usize::try_from(new.0).map_or(true, |n| n as u64 >= limit) {
        return err(Errno::EBADF);
    }
    let of = cx.file(old)?;
    if let Some(before) = cx.files().replace(new, limit, of, cloexec)? {
        let _ = fs::close(cx, before);
    }
    Ok(new)
}

/// Names of `fcntl(2)` commands, for strace.
const COMMANDS: [(u32, &str); 20] = [
    (0, "F_DUPFD"),
    (1, "F_GETFD"),
    (2, "F_SETFD"),
    (3, "F_GETFL"),
    (4, "F_SETFL"),
    (5, "F_GETLK"),
    (6, "F_SETLK"),
    (7, "F_SETLKW"),
    (8, "F_SETOWN"),
    (9, "F_GETOWN"),
    (10, "F_SETSIG"),
    (11, "F_GETSIG"),
    (36, "F_OFD_GETLK"),
    (37, "F_OFD_SETLK"),
    (38, "F_OFD_SETLKW"),
    (1030, "F_DUPFD_CLOEXEC"),
    (1031, "F_SETPIPE_SZ"),
    (1032, "F_GETPIPE_SZ"),
    (1033, "F_ADD_SEALS"),
    (1034, "F_GET_SEALS"),
];

/// A command of `fcntl(2)`.
#[derive(Clone, Copy)]
pub struct FcntlCommand(pub u32);

impl Arg for FcntlCommand {
    const KIND: ArgKind = ArgKind::Unsigned;
    fn decode(raw: u64) -> Self {
        FcntlCommand(raw as u32)
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        let name = COMMANDS.iter().find(|(nr, _)| u64::from(*nr) == raw & 0xffff_ffff);
        name.map_or_else(|| format!("{raw}"), |(_, name)| String::from(*name))
    }
}

pub(super) fn fcntl(cx: &Cx, fd: Fd, cmd: FcntlCommand, arg: u64) -> Result<u64> {
    let of = cx.file(fd)?;
    let duplicate = |cloexec| {
        let limit = cx.process().limit(Resource::Nofile);
        let from = usize::try_from(arg as u32 as i32).map_err(|_| Errno::EINVAL)?;
        if from as u64 >= limit {
            return err(Errno::EINVAL);
        }
        Ok(cx.files().insert(from, limit, of.clone(), cloexec)?.0 as u64)
    };
    match cmd.0 {
        0 => duplicate(false),
        1030 => duplicate(true),
        1 => Ok(u64::from(cx.files().cloexec(fd)?)),
        2 => cx.files().set_cloexec(fd, arg & 1 != 0).map(|()| 0),
        3 => Ok(u64::from(of.flags().bits())),
        _ if of.flags().contains(OpenFlags::PATH) => err(Errno::EBADF),
        4 => {
            let new = OpenFlags::from_bits_retain(arg as u32);
            if new.contains(OpenFlags::NOATIME) && !of.flags().contains(OpenFlags::NOATIME) {
                fs::perm::check_owner(&cx.task.creds(), &of.attr()?)?;
            }
            if new.contains(OpenFlags::ASYNC) != of.flags().contains(OpenFlags::ASYNC) {
                fs::set_async(cx, &of, fd.0, new.contains(OpenFlags::ASYNC))?;
            }
            of.set_status(new);
            // Another process may have the description, too, and write without the kernel.
            cx.kernel.machine.recall_offers();
            Ok(0)
        }
        8 => {
            of.owner.lock().0 = arg as u32 as i32;
            Ok(0)
        }
        9 => Ok(i64::from(of.owner.lock().0) as u64),
        10 => {
            if arg > 64 {
                return err(Errno::EINVAL);
            }
            of.owner.lock().1 = arg as u32;
            Ok(0)
        }
        11 => Ok(u64::from(of.owner.lock().1)),
        // F_GETOWN_EX and F_SETOWN_EX.
        15 | 16 => owner_ex(cx, &of, cmd.0 == 15, UserPtr::new(arg)),
        // F_SETLEASE, F_GETLEASE, F_NOTIFY: nobody grants leases here.
        1024 | 1026 => err(Errno::EINVAL),
        1025 => Ok(2),
        // F_GET_RW_HINT and F_SET_RW_HINT: no device to tell.
        1035 | 1037 => UserPtr::<u64>::new(arg).write(cx, &0).map(|()| 0),
        1036 | 1038 => UserPtr::<u64>::new(arg).read(cx).map(|_| 0),
        other => {
            super::lock::fcntl(cx, &of, other, arg).unwrap_or_else(|| of.file.fcntl(cx, &of, other, arg))
        }
    }
}

fn owner_ex(cx: &Cx, of: &fs::OpenFile, set: bool, at: UserPtr<i32>) -> Result<u64> {
    // F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP; a group is kept as a negative number.
    if set {
        let (kind, id) = (at.read(cx)?, at.add(1).read(cx)?);
        let id = match kind {
            0 | 1 => id,
            2 => id.checked_neg().ok_or(Errno::EINVAL)?,
            _ => return err(Errno::EINVAL),
        };
        of.owner.lock().0 = id;
        return Ok(0);
    }
    let id = of.owner.lock().0;
    at.write(cx, &if id < 0 { 2 } else { 1 })?;
    at.add(1).write(cx, &id.saturating_abs())?;
    Ok(0)
}
