//! Socket calls with messages: the send and receive families, ancillary data.

use super::Arg;
use super::arg::ArgKind;
use super::socket::{read_address, socket_of, write_address};
use crate::error::{Result, err};
use crate::fs::{Fd, OpenFlags};
use crate::net::unix::check_credentials;
use crate::net::{Control, MsgFlags, ReceiveRequest, Received, SendRequest, Socket};
use crate::task::Cx;
use crate::user::{IOV_MAX, Sink, UserBuf, UserPtr};
use abi::Errno;
use abi::net::{
    Cmsghdr, Mmsghdr, Msghdr, SCM_CREDENTIALS, SCM_MAX_FD, SCM_RIGHTS, SOCKADDR_MAX, SOL_SOCKET, Ucred,
};
use abi::time::Timespec;
use alloc::string::String;
use alloc::vec::Vec;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a control message's header, and what messages are aligned to.
const CMSG_HEADER: usize = 16;
const CMSG_ALIGN: usize = 8;
/// Most bytes of ancillary data (`net.core.optmem_max`).
const OPTMEM_MAX: usize = 131_072;

impl Arg for MsgFlags {
    const KIND: ArgKind = ArgKind::Hex;
    fn decode(raw: u64) -> Self {
        MsgFlags::from_bits_retain(raw as u32)
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        const NAMES: [(u32, &str); 11] = [
            (0x1, "MSG_OOB"),
            (0x2, "MSG_PEEK"),
            (0x4, "MSG_DONTROUTE"),
            (0x20, "MSG_TRUNC"),
            (0x40, "MSG_DONTWAIT"),
            (0x80, "MSG_EOR"),
            (0x100, "MSG_WAITALL"),
            (0x4000, "MSG_NOSIGNAL"),
            (0x8000, "MSG_MORE"),
            (0x1_0000, "MSG_WAITFORONE"),
            (0x4000_0000, "MSG_CMSG_CLOEXEC"),
        ];
        let mut left = raw as u32;
        let mut parts: Vec<String> = Vec::new();
        for (bit, name) in NAMES {
            if left & bit != 0 {
                left &= !bit;
                parts.push(String::from(name));
            }
        }
        if left != 0 || parts.is_empty() {
            parts.push(alloc::format!("{left:#x}"));
        }
        parts.join("|")
    }
}

pub(super) fn sendto(
    cx: &Cx,
    fd: Fd,
    buf: UserPtr<u8>,
    len: usize,
    flags: MsgFlags,
    addr: UserPtr<u8>,
    addr_len: i32,
) -> Result<usize> {
    let mut data = UserBuf::single(cx, buf, len)?;
    let (socket, nonblocking) = socket_of(cx, fd)?;
    let to = if addr.is_null() { None } else { Some(read_address(cx, addr, addr_len)?) };
    let to = to.as_deref().filter(|a| !a.is_empty());
    socket.send(cx, SendRequest { data: &mut data, to, control: Control::default(), flags, nonblocking })
}

pub(super) fn recvfrom(
    cx: &Cx,
    fd: Fd,
    buf: UserPtr<u8>,
    len: usize,
    flags: MsgFlags,
    addr: UserPtr<u8>,
    addr_len: UserPtr<i32>,
) -> Result<usize> {
    let mut data = UserBuf::single(cx, buf, len)?;
    let (socket, nonblocking) = socket_of(cx, fd)?;
    let got = socket.receive(cx, ReceiveRequest { data: &mut data, flags, nonblocking })?;
    if !addr.is_null() {
        write_address(cx, &got.from, addr, addr_len)?;
    }
    Ok(got.len)
}

pub(super) fn sendmsg(cx: &Cx, fd: Fd, msg: UserPtr<Msghdr>, flags: MsgFlags) -> Result<usize> {
    let (socket, nonblocking) = socket_of(cx, fd)?;
    send_one(cx, &socket, msg, flags, nonblocking)
}

fn send_one(
    cx: &Cx,
    socket: &alloc::sync::Arc<dyn Socket>,
    msg: UserPtr<Msghdr>,
    flags: MsgFlags,
    nonblocking: bool,
) -> Result<usize> {
    let header = read_header(cx, msg)?;
    let to = if header.name == 0 || header.namelen == 0 {
        None
    } else {
        let len = header.namelen.min(SOCKADDR_MAX as i32);
        Some(read_address(cx, UserPtr::new(header.name), len)?)
    };
    let mut data = vectored(cx, &header)?;
    let control = read_control(cx, &header)?;
    let to = to.as_deref();
    socket.send(cx, SendRequest { data: &mut data, to, control, flags, nonblocking })
}

fn read_header(cx: &Cx, msg: UserPtr<Msghdr>) -> Result<Msghdr> {
    let header = msg.read(cx)?;
    if header.namelen < 0 {
        return err(Errno::EINVAL);
    }
    Ok(header)
}

fn vectored<'a>(cx: &'a Cx<'a>, header: &Msghdr) -> Result<UserBuf<'a>> {
    if header.iovlen > IOV_MAX as u64 {
        return err(Errno::EMSGSIZE);
    }
    UserBuf::vectored(cx, UserPtr::new(header.iov), header.iovlen as usize)
}

/// Takes the ancillary data apart and checks it (`cmsg(3)`, `unix(7)`).
fn read_control(cx: &Cx, header: &Msghdr) -> Result<Control> {
    let mut control = Control::default();
    if header.control == 0 || header.controllen == 0 {
        return Ok(control);
    }
    let len = usize::try_from(header.controllen).ok().filter(|&l| l <= OPTMEM_MAX).ok_or(Errno::ENOBUFS)?;
    let bytes = UserPtr::<u8>::new(header.control).read_vec(cx, len)?;
    let mut rest = bytes.as_slice();
    while let Ok((cmsg, _)) = Cmsghdr::read_from_prefix(rest) {
        let len = usize::try_from(cmsg.len).map_err(|_| Errno::EINVAL)?;
        let Some(body) = rest.get(CMSG_HEADER..len) else { return err(Errno::EINVAL) };
        if cmsg.level == SOL_SOCKET {
            match cmsg.kind {
                SCM_RIGHTS => read_rights(cx, body, &mut control)?,
                SCM_CREDENTIALS => {
                    let ucred = Ucred::read_from_bytes(body).map_err(|_| Errno::EINVAL)?;
                    check_credentials(cx, &ucred)?;
                    control.creds = Some(ucred);
                }
                _ => return err(Errno::EINVAL),
            }
        }
        rest = rest.get(len.next_multiple_of(CMSG_ALIGN)..).unwrap_or_default();
    }
    Ok(control)
}

fn read_rights(cx: &Cx, body: &[u8], control: &mut Control) -> Result<()> {
    if control.files.len() + body.len() / 4 > SCM_MAX_FD {
        return err(Errno::EINVAL);
    }
    for fd in body.chunks_exact(4) {
        let fd = fd.first_chunk::<4>().map_or(-1, |b| i32::from_ne_bytes(*b));
        let file = cx.file(Fd(fd))?;
        if file.flags().contains(OpenFlags::PATH) {
            return err(Errno::EBADF);
        }
        control.files.push(file);
    }
    Ok(())
}

pub(super) fn recvmsg(cx: &Cx, fd: Fd, msg: UserPtr<Msghdr>, flags: MsgFlags) -> Result<usize> {
    let (socket, nonblocking) = socket_of(cx, fd)?;
    receive_one(cx, &socket, msg, flags, nonblocking)
}

fn receive_one(
    cx: &Cx,
    socket: &alloc::sync::Arc<dyn Socket>,
    msg: UserPtr<Msghdr>,
    flags: MsgFlags,
    nonblocking: bool,
) -> Result<usize> {
    let mut header = read_header(cx, msg)?;
    let mut data = vectored(cx, &header)?;
    let request = ReceiveRequest { data: &mut data as &mut dyn Sink, flags, nonblocking };
    let mut got = socket.receive(cx, request)?;
    if header.name != 0 {
        let room = (header.namelen as usize).min(got.from.len());
        UserPtr::<u8>::new(header.name).write_bytes(cx, got.from.get(..room).unwrap_or_default())?;
        header.namelen = got.from.len() as i32;
    } else {
        header.namelen = 0;
    }
    let len = got.len;
    let cloexec = flags & MsgFlags::CMSG_CLOEXEC;
    let mut out =
        ControlOut { at: header.control, left: header.controllen as usize, flags: got.flags | cloexec };
    out.write_all(cx, &mut got)?;
    header.controllen = header.controllen.saturating_sub(out.left as u64);
    header.flags = out.flags.bits();
    msg.write(cx, &header)?;
    Ok(len)
}

/// Room for ancillary data in user memory.
struct ControlOut {
    at: u64,
    left: usize,
    flags: MsgFlags,
}

impl ControlOut {
    fn write_all(&mut self, cx: &Cx, got: &mut Received) -> Result<()> {
        if self.at == 0 {
            self.left = 0;
        }
        if let Some(creds) = got.creds {
            self.put(cx, SCM_CREDENTIALS, creds.as_bytes())?;
        }
        let files = core::mem::take(&mut got.files);
        if files.is_empty() {
            return Ok(());
        }
        let room = self.left.saturating_sub(CMSG_HEADER) / 4;
        let mut fds: Vec<u8> = Vec::new();
        let count = files.len();
        for file in files.into_iter().take(room) {
            match cx.install(file, self.flags.contains(MsgFlags::CMSG_CLOEXEC)) {
                Ok(fd) => fds.extend_from_slice(&fd.0.to_ne_bytes()),
                Err(_) => break,
            }
        }
        if fds.len() / 4 < count {
            self.flags |= MsgFlags::CTRUNC;
        }
        if fds.is_empty() { Ok(()) } else { self.put(cx, SCM_RIGHTS, &fds) }
    }

    /// Writes one control message, cut to the room there is.
    fn put(&mut self, cx: &Cx, kind: i32, body: &[u8]) -> Result<()> {
        if self.left < CMSG_HEADER {
            self.flags |= MsgFlags::CTRUNC;
            return Ok(());
        }
        let mut len = CMSG_HEADER + body.len();
        if len > self.left {
            self.flags |= MsgFlags::CTRUNC;
            len = self.left;
        }
        let header = Cmsghdr { len: len as u64, level: SOL_SOCKET, kind };
        UserPtr::new(self.at).write(cx, &header)?;
        let part = body.get(..len - CMSG_HEADER).unwrap_or_default();
        UserPtr::<u8>::new(self.at).byte_add(CMSG_HEADER as u64).write_bytes(cx, part)?;
        let space = len.next_multiple_of(CMSG_ALIGN).min(self.left);
        self.at = self.at.saturating_add(space as u64);
        self.left -= space;
        Ok(())
    }
}

pub(super) fn sendmmsg(
    cx: &Cx,
    fd: Fd,
    msgs: UserPtr<Mmsghdr>,
    count: u32,
    flags: MsgFlags,
) -> Result<usize> {
    let (socket, nonblocking) = socket_of(cx, fd)?;
    let mut done = 0;
    while done < (count as usize).min(IOV_MAX) {
        let msg = msgs.add(done);
        match send_one(cx, &socket, msg.cast(), flags, nonblocking) {
            Ok(len) => msg.byte_add(size_of::<Msghdr>() as u64).cast::<u32>().write(cx, &(len as u32))?,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
        done += 1;
    }
    Ok(done)
}

pub(super) fn recvmmsg(
    cx: &Cx,
    fd: Fd,
    msgs: UserPtr<Mmsghdr>,
    count: u32,
    flags: MsgFlags,
    timeout: UserPtr<Timespec>,
) -> Result<usize> {
    let deadline = match timeout.non_null() {
        Some(ptr) => {
            let ns = ptr.read(cx)?.to_ns().ok_or(Errno::EINVAL)?;
            Some(cx.now_ns().saturating_add(ns))
        }
        None => None,
    };
    let (socket, mut nonblocking) = socket_of(cx, fd)?;
    let each = flags - MsgFlags::WAITFORONE;
    let mut done = 0;
    while done < (count as usize).min(IOV_MAX) {
        let msg = msgs.add(done);
        match receive_one(cx, &socket, msg.cast(), each, nonblocking) {
            Ok(len) => msg.byte_add(size_of::<Msghdr>() as u64).cast::<u32>().write(cx, &(len as u32))?,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
        done += 1;
        nonblocking |= flags.contains(MsgFlags::WAITFORONE);
        // The time-out is looked at after each message only (`recvmmsg(2)`, "Bugs").
        if deadline.is_some_and(|deadline| cx.now_ns() >= deadline) {
            break;
        }
    }
    if let Some(deadline) = deadline {
        timeout.write(cx, &Timespec::from_ns(deadline.saturating_sub(cx.now_ns())))?;
    }
    Ok(done)
}
