//! Socket calls without messages: making, naming, connecting, options.

use super::Arg;
use super::arg::ArgKind;
use crate::error::{Error, Result, err};
use crate::fs::{Fd, OpenFlags};
use crate::net::{Shutdown, Socket, SocketFile, SocketType};
use crate::task::Cx;
use crate::user::UserPtr;
use abi::Errno;
use abi::net::SOCKADDR_MAX;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The type argument of `socket(2)`: a type and `SOCK_NONBLOCK`, `SOCK_CLOEXEC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockTypeArg(u32);

impl SockTypeArg {
    const NONBLOCK: u32 = OpenFlags::NONBLOCK.bits();
    const CLOEXEC: u32 = OpenFlags::CLOEXEC.bits();

    fn kind(self) -> Result<SocketType> {
        let flags = self.0 & !0xf;
        if flags & !(Self::NONBLOCK | Self::CLOEXEC) != 0 {
            return err(Errno::EINVAL);
        }
        SocketType::from_raw(self.0 & 0xf)
    }

    fn flags(self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.0 & Self::NONBLOCK)
    }

    fn cloexec(self) -> bool {
        self.0 & Self::CLOEXEC != 0
    }
}

impl Arg for SockTypeArg {
    const KIND: ArgKind = ArgKind::Hex;
    fn decode(raw: u64) -> Self {
        SockTypeArg(raw as u32)
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        let arg = Self::decode(raw);
        let name = match arg.0 & 0xf {
            1 => String::from("SOCK_STREAM"),
            2 => String::from("SOCK_DGRAM"),
            3 => String::from("SOCK_RAW"),
            5 => String::from("SOCK_SEQPACKET"),
            other => format!("{other}"),
        };
        let nonblock = if arg.0 & Self::NONBLOCK != 0 { "|SOCK_NONBLOCK" } else { "" };
        let cloexec = if arg.cloexec() { "|SOCK_CLOEXEC" } else { "" };
        format!("{name}{nonblock}{cloexec}")
    }
}

/// `AF_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyArg(i32);

impl Arg for FamilyArg {
    const KIND: ArgKind = ArgKind::Int;
    fn decode(raw: u64) -> Self {
        FamilyArg(raw as u32 as i32)
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        match raw as u32 {
            1 => String::from("AF_UNIX"),
            2 => String::from("AF_INET"),
            10 => String::from("AF_INET6"),
            16 => String::from("AF_NETLINK"),
            17 => String::from("AF_PACKET"),
            40 => String::from("AF_VSOCK"),
            other => format!("{other}"),
        }
    }
}

/// The socket of a descriptor: `EBADF`, `ENOTSOCK`.
pub(super) fn socket_of(cx: &Cx, fd: Fd) -> Result<(Arc<dyn Socket>, bool)> {
    let file = cx.file(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return err(Errno::EBADF);
    }
    Ok((SocketFile::of(&file)?.clone(), file.nonblocking()))
}

pub(super) fn socket(cx: &Cx, family: FamilyArg, kind: SockTypeArg, protocol: i32) -> Result<Fd> {
    let socket_type = kind.kind();
    // Linux looks at the flags first, then at the family, then at the type.
    if let Err(e) = &socket_type
        && e.errno() == Errno::EINVAL
    {
        return Err(*e);
    }
    let family = cx.kernel.net.get(cx, family.0)?;
    let socket = family.create(cx, socket_type?, protocol)?;
    cx.install(SocketFile::open(cx.kernel, socket, kind.flags()), kind.cloexec())
}

pub(super) fn socketpair(
    cx: &Cx,
    family: FamilyArg,
    kind: SockTypeArg,
    protocol: i32,
    fds: UserPtr<i32>,
) -> Result<()> {
    let socket_type = kind.kind()?;
    let family = cx.kernel.net.get(cx, family.0)?;
    let (a, b) = family.pair(cx, socket_type, protocol)?;
    let first = SocketFile::open(cx.kernel, a, kind.flags());
    let second = SocketFile::open(cx.kernel, b, kind.flags());
    let first = cx.install(first, kind.cloexec())?;
    let installed = cx.install(second, kind.cloexec()).and_then(|second| {
        fds.write_array(cx, &[first.0, second.0]).inspect_err(|_| drop(cx.files().remove(second)))
    });
    installed.inspect_err(|_| drop(cx.files().remove(first)))
}

/// Copies an address in: `EINVAL` for a length that no address has.
pub(super) fn read_address(cx: &Cx, addr: UserPtr<u8>, len: i32) -> Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|&l| l <= SOCKADDR_MAX).ok_or(Errno::EINVAL)?;
    if len == 0 { Ok(Vec::new()) } else { addr.read_vec(cx, len) }
}

/// Copies an address out, cut to the room that the caller has, and says how long it is.
pub(super) fn write_address(cx: &Cx, bytes: &[u8], addr: UserPtr<u8>, len: UserPtr<i32>) -> Result<()> {
    let room = usize::try_from(len.read(cx)?).map_err(|_| Errno::EINVAL)?;
    let part = bytes.get(..room.min(bytes.len())).unwrap_or_default();
    if !part.is_empty() {
        addr.write_bytes(cx, part)?;
    }
    len.write(cx, &(bytes.len() as i32))
}

pub(super) fn bind(cx: &Cx, fd: Fd, addr: UserPtr<u8>, len: i32) -> Result<()> {
    let (socket, _) = socket_of(cx, fd)?;
    let address = read_address(cx, addr, len)?;
    socket.bind(cx, &address)
}

pub(super) fn connect(cx: &Cx, fd: Fd, addr: UserPtr<u8>, len: i32) -> Result<()> {
    let (socket, nonblocking) = socket_of(cx, fd)?;
    let address = read_address(cx, addr, len)?;
    socket.connect(cx, &address, nonblocking)
}

pub(super) fn listen(cx: &Cx, fd: Fd, backlog: i32) -> Result<()> {
    let (socket, _) = socket_of(cx, fd)?;
    socket.listen(cx, backlog)
}

pub(super) fn accept(cx: &Cx, fd: Fd, addr: UserPtr<u8>, len: UserPtr<i32>) -> Result<Fd> {
    accept4(cx, fd, addr, len, SockTypeArg(0))
}

pub(super) fn accept4(
    cx: &Cx,
    fd: Fd,
    addr: UserPtr<u8>,
    len: UserPtr<i32>,
    flags: SockTypeArg,
) -> Result<Fd> {
    if flags.0 & !(SockTypeArg::NONBLOCK | SockTypeArg::CLOEXEC) != 0 {
        return err(Errno::EINVAL);
    }
    let (socket, nonblocking) = socket_of(cx, fd)?;
    let connection = socket.accept(cx, nonblocking)?;
    let file = SocketFile::open(cx.kernel, connection.clone(), flags.flags());
    if !addr.is_null() {
        let name = connection.peer_name().map_err(|_| Error::from(Errno::ECONNABORTED))?;
        write_address(cx, &name, addr, len)?;
    }
    cx.install(file, flags.cloexec())
}

pub(super) fn getsockname(cx: &Cx, fd: Fd, addr: UserPtr<u8>, len: UserPtr<i32>) -> Result<()> {
    let (socket, _) = socket_of(cx, fd)?;
    write_address(cx, &socket.name()?, addr, len)
}

pub(super) fn getpeername(cx: &Cx, fd: Fd, addr: UserPtr<u8>, len: UserPtr<i32>) -> Result<()> {
    let (socket, _) = socket_of(cx, fd)?;
    write_address(cx, &socket.peer_name()?, addr, len)
}

pub(super) fn shutdown(cx: &Cx, fd: Fd, how: i32) -> Result<()> {
    let (socket, _) = socket_of(cx, fd)?;
    let how = match how {
        0 => Shutdown::Read,
        1 => Shutdown::Write,
        2 => Shutdown::Both,
        _ => return err(Errno::EINVAL),
    };
    socket.shutdown(cx, how)
}

pub(super) fn setsockopt(cx: &Cx, fd: Fd, level: i32, name: i32, value: UserPtr<u8>, len: i32) -> Result<()> {
    /// Longer than any option's value; the rest is not looked at.
    const MAX: usize = 4096;
    let (socket, _) = socket_of(cx, fd)?;
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let bytes = value.read_vec(cx, len.min(MAX))?;
    socket.set_option(cx, level, name, &bytes)
}

pub(super) fn getsockopt(
    cx: &Cx,
    fd: Fd,
    level: i32,
    name: i32,
    value: UserPtr<u8>,
    len: UserPtr<i32>,
) -> Result<()> {
    let (socket, _) = socket_of(cx, fd)?;
    let room = usize::try_from(len.read(cx)?).map_err(|_| Errno::EINVAL)?;
    let bytes = match socket.get_option(cx, level, name, room) {
        Ok(bytes) => bytes,
        Err(e) => {
            // A list that does not fit: the caller learns how long it is.
            if e.errno() == Errno::ERANGE {
                len.write(cx, &(socket.get_option(cx, level, name, usize::MAX)?.len() as i32))?;
            }
            return Err(e);
        }
    };
    let part = bytes.get(..room.min(bytes.len())).unwrap_or_default();
    value.write_bytes(cx, part)?;
    len.write(cx, &(part.len() as i32))
}
