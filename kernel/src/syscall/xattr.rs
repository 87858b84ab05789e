//! Extended attributes.

use super::io::plain;
use crate::error::{Result, err};
use crate::fs::walk::{self, Lookup};
use crate::fs::{Fd, Path, xattr};
use crate::task::Cx;
use crate::user::{UserCStr, UserPtr};
use abi::Errno;
use alloc::vec::Vec;

/// `XATTR_NAME_MAX`.
const NAME_MAX: usize = 255;
/// `XATTR_LIST_MAX`.
const LIST_MAX: usize = 65536;

fn at(cx: &Cx, path: UserCStr, lookup: Lookup) -> Result<Path> {
    walk::resolve(cx, Fd::CWD, &path.read_path(cx)?, lookup)
}

fn of(cx: &Cx, fd: Fd) -> Result<Path> {
    Ok(walk::path_of(cx, &plain(cx, fd)?))
}

fn name(cx: &Cx, name: UserCStr) -> Result<Vec<u8>> {
    match name.read(cx, NAME_MAX + 1)? {
        Some(name) if !name.is_empty() => Ok(name),
        _ => err(Errno::ERANGE),
    }
}

/// Hands out a value or list, or only its size.
fn give(cx: &Cx, value: &[u8], buf: UserPtr<u8>, size: usize) -> Result<usize> {
    if size == 0 {
        return Ok(value.len());
    }
    if value.len() > size {
        return err(Errno::ERANGE);
    }
    buf.write_bytes(cx, value)?;
    Ok(value.len())
}

fn set(cx: &Cx, at: &Path, key: UserCStr, value: UserPtr<u8>, size: usize, flags: u32) -> Result<()> {
    if flags & !3 != 0 {
        return err(Errno::EINVAL);
    }
    let key = name(cx, key)?;
    if size > xattr::VALUE_MAX {
        return err(Errno::E2BIG);
    }
    let value = value.read_vec(cx, size)?;
    xattr::set(cx, at, &key, &value, flags)
}

fn get(cx: &Cx, at: &Path, key: UserCStr, buf: UserPtr<u8>, size: usize) -> Result<usize> {
    let key = name(cx, key)?;
    give(cx, &xattr::get(cx, at, &key)?, buf, size)
}

fn list(cx: &Cx, at: &Path, buf: UserPtr<u8>, size: usize) -> Result<usize> {
    let names = xattr::list(cx, at)?;
    if names.len() > LIST_MAX {
        return err(Errno::E2BIG);
    }
    give(cx, &names, buf, size)
}

pub(super) fn setxattr(
    cx: &Cx,
    path: UserCStr,
    name: UserCStr,
    value: UserPtr<u8>,
    size: usize,
    flags: u32,
) -> Result<()> {
    set(cx, &at(cx, path, Lookup::empty())?, name, value, size, flags)
}

pub(super) fn lsetxattr(
    cx: &Cx,
    path: UserCStr,
    name: UserCStr,
    value: UserPtr<u8>,
    size: usize,
    flags: u32,
) -> Result<()> {
    set(cx, &at(cx, path, Lookup::NOFOLLOW)?, name, value, size, flags)
}

pub(super) fn fsetxattr(
    cx: &Cx,
    fd: Fd,
    name: UserCStr,
    value: UserPtr<u8>,
    size: usize,
    flags: u32,
) -> Result<()> {
    set(cx, &of(cx, fd)?, name, value, size, flags)
}

pub(super) fn getxattr(
    cx: &Cx,
    path: UserCStr,
    name: UserCStr,
    buf: UserPtr<u8>,
    size: usize,
) -> Result<usize> {
    get(cx, &at(cx, path, Lookup::empty())?, name, buf, size)
}

pub(super) fn lgetxattr(
    cx: &Cx,
    path: UserCStr,
    name: UserCStr,
    buf: UserPtr<u8>,
    size: usize,
) -> Result<usize> {
    get(cx, &at(cx, path, Lookup::NOFOLLOW)?, name, buf, size)
}

pub(super) fn fgetxattr(cx: &Cx, fd: Fd, name: UserCStr, buf: UserPtr<u8>, size: usize) -> Result<usize> {
    get(cx, &of(cx, fd)?, name, buf, size)
}

pub(super) fn listxattr(cx: &Cx, path: UserCStr, buf: UserPtr<u8>, size: usize) -> Result<usize> {
    list(cx, &at(cx, path, Lookup::empty())?, buf, size)
}

pub(super) fn llistxattr(cx: &Cx, path: UserCStr, buf: UserPtr<u8>, size: usize) -> Result<usize> {
    list(cx, &at(cx, path, Lookup::NOFOLLOW)?, buf, size)
}

pub(super) fn flistxattr(cx: &Cx, fd: Fd, buf: UserPtr<u8>, size: usize) -> Result<usize> {
    list(cx, &of(cx, fd)?, buf, size)
}

pub(super) fn removexattr(cx: &Cx, path: UserCStr, key: UserCStr) -> Result<()> {
    xattr::remove(cx, &at(cx, path, Lookup::empty())?, &name(cx, key)?)
}

pub(super) fn lremovexattr(cx: &Cx, path: UserCStr, key: UserCStr) -> Result<()> {
    xattr::remove(cx, &at(cx, path, Lookup::NOFOLLOW)?, &name(cx, key)?)
}

pub(super) fn fremovexattr(cx: &Cx, fd: Fd, key: UserCStr) -> Result<()> {
    xattr::remove(cx, &of(cx, fd)?, &name(cx, key)?)
}
