//! POSIX message queue calls.

use crate::error::{Result, err};
use crate::fs::{Fd, OpenFlags};
use crate::ipc::mqueue::{self, PRIO_MAX};
use crate::task::Cx;
use crate::time::Clock;
use crate::user::{UserCStr, UserPtr};
use abi::Errno;
use abi::ipc::MqAttr;
use abi::time::Timespec;
use hal::ClockId;

pub(super) fn mq_open(
    cx: &Cx,
    name: UserCStr,
    flags: OpenFlags,
    mode: u32,
    attr: UserPtr<MqAttr>,
) -> Result<Fd> {
    let attr = match attr.non_null() {
        Some(ptr) => Some(ptr.read(cx)?),
        None => None,
    };
    let of = mqueue::open(cx, &name.read_path(cx)?, flags, mode, attr)?;
    // These descriptors are always closed on exec.
    cx.install(of, true)
}

pub(super) fn mq_unlink(cx: &Cx, name: UserCStr) -> Result<()> {
    mqueue::unlink(cx, &name.read_path(cx)?)
}

/// A time of the real-time clock as a deadline of the monotonic one.
fn deadline(cx: &Cx, timeout: UserPtr<Timespec>) -> Result<Option<u64>> {
    let Some(ptr) = timeout.non_null() else { return Ok(None) };
    let at = ptr.read(cx)?.to_ns().ok_or(Errno::EINVAL)?;
    Ok(Some(Clock::Machine(ClockId::Realtime).to_monotonic(cx, at)))
}

pub(super) fn mq_timedsend(
    cx: &Cx,
    fd: Fd,
    text: UserPtr<u8>,
    len: usize,
    priority: u32,
    timeout: UserPtr<Timespec>,
) -> Result<()> {
    if priority >= PRIO_MAX {
        return err(Errno::EINVAL);
    }
    let deadline = deadline(cx, timeout)?;
    let of = cx.file(fd)?;
    let queue = mqueue::of(&of)?;
    if !of.flags().writable() {
        return err(Errno::EBADF);
    }
    if len > queue.max_size() {
        return err(Errno::EMSGSIZE);
    }
    let text = text.read_vec(cx, len)?;
    queue.send(cx, of.nonblocking(), priority, text, deadline)
}

pub(super) fn mq_timedreceive(
    cx: &Cx,
    fd: Fd,
    text: UserPtr<u8>,
    len: usize,
    priority: UserPtr<u32>,
    timeout: UserPtr<Timespec>,
) -> Result<usize> {
    let deadline = deadline(cx, timeout)?;
    let of = cx.file(fd)?;
    let queue = mqueue::of(&of)?;
    if !of.flags().readable() {
        return err(Errno::EBADF);
    }
    if len < queue.max_size() {
        return err(Errno::EMSGSIZE);
    }
    let (prio, message) = queue.receive(cx, of.nonblocking(), deadline)?;
    text.write_bytes(cx, &message)?;
    priority.write_if_some(cx, &prio)?;
    Ok(message.len())
}

pub(super) fn mq_notify(cx: &Cx, fd: Fd, event: UserPtr<u64>) -> Result<()> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    let signal = match event.non_null() {
        None => None,
        Some(ptr) => {
            let value = ptr.read(cx)?;
            let signo = ptr.byte_add(8).cast::<i32>().read(cx)?;
            match ptr.byte_add(12).cast::<i32>().read(cx)? {
                SIGEV_NONE => Some(None),
                SIGEV_SIGNAL if (1..=64).contains(&signo) => Some(Some((signo, value))),
                _ => return err(Errno::EINVAL),
            }
        }
    };
    let of = cx.file(fd)?;
    mqueue::of(&of)?.notify(cx, signal)
}

pub(super) fn mq_getsetattr(cx: &Cx, fd: Fd, new: UserPtr<MqAttr>, old: UserPtr<MqAttr>) -> Result<()> {
    let new = match new.non_null() {
        Some(ptr) => Some(ptr.read(cx)?),
        None => None,
    };
    let nonblock = i64::from(OpenFlags::NONBLOCK.bits());
    if new.is_some_and(|new| new.flags & !nonblock != 0) {
        return err(Errno::EINVAL);
    }
    let of = cx.file(fd)?;
    let before = mqueue::of(&of)?.status(&of);
    if let Some(new) = new {
        let mut flags = of.flags();
        flags.set(OpenFlags::NONBLOCK, new.flags & nonblock != 0);
        of.set_status(flags);
    }
    old.write_if_some(cx, &before)
}
