//! `eventfd(2)`, `epoll_create(2)`, `epoll_ctl(2)`, `epoll_wait(2)`.

use crate::error::{Error, Result, err};
use crate::fs::{Fd, File, OpenFile, OpenFlags};
use crate::ipc::{Epoll, EpollEvent, EpollOp, EventFd};
use crate::signal::{read_mask, with_temporary_mask};
use crate::task::Cx;
use crate::time::{deadline_after, read_timespec};
use crate::user::UserPtr;
use abi::Errno;
use abi::time::Timespec;
use alloc::sync::Arc;
use zerocopy::IntoBytes;

const EFD_SEMAPHORE: u32 = 1;

/// Opens a descriptor for an anonymous file. `flags` may hold `CLOEXEC` and status flags.
pub(super) fn install_anon(cx: &Cx, file: Arc<dyn File>, flags: OpenFlags) -> Result<Fd> {
    let of = OpenFile::new(cx.kernel, file, None, None, flags | OpenFlags::RDWR);
    cx.install(of, flags.contains(OpenFlags::CLOEXEC))
}

/// `CLOEXEC` and `NONBLOCK` from a `*_CLOEXEC | *_NONBLOCK` word, which have the values of the `O_` flags; `EINVAL` for others.
pub(super) fn anon_flags(flags: u32) -> Result<OpenFlags> {
    let flags = OpenFlags::from_bits_retain(flags);
    if !(flags - (OpenFlags::CLOEXEC | OpenFlags::NONBLOCK)).is_empty() {
        return err(Errno::EINVAL);
    }
    Ok(flags)
}

/// `eventfd(2)`.
pub(super) fn eventfd(cx: &Cx, initial: u32) -> Result<Fd> {
    eventfd2(cx, initial, 0)
}

/// `eventfd2(2)`.
pub(super) fn eventfd2(cx: &Cx, initial: u32, flags: u32) -> Result<Fd> {
    let semaphore = flags & EFD_SEMAPHORE != 0;
    let flags = anon_flags(flags & !EFD_SEMAPHORE)?;
    install_anon(cx, Arc::new(EventFd::new(initial, semaphore, cx.kernel.next_id())), flags)
}

/// `epoll_create(2)`: the size is only checked.
pub(super) fn epoll_create(cx: &Cx, size: i32) -> Result<Fd> {
    if size <= 0 {
        return err(Errno::EINVAL);
    }
    epoll_create1(cx, 0)
}

/// `epoll_create1(2)`.
pub(super) fn epoll_create1(cx: &Cx, flags: u32) -> Result<Fd> {
    let flags = OpenFlags::from_bits_retain(flags);
    if !(flags - OpenFlags::CLOEXEC).is_empty() {
        return err(Errno::EINVAL);
    }
    install_anon(cx, Arc::new(Epoll::new(cx.kernel.next_id())), flags)
}

/// `epoll_ctl(2)`.
pub(super) fn epoll_ctl(cx: &Cx, epfd: Fd, op: i32, fd: Fd, event: UserPtr<EpollEvent>) -> Result<()> {
    let event = if op == 2 { EpollEvent::new(0, [0; 2]) } else { event.read(cx)? };
    let epoll_file = cx.file(epfd)?;
    let target = cx.file(fd)?;
    if !target.file.pollable() {
        return err(Errno::EPERM);
    }
    let epoll = epoll_file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(&epoll_file, &target) {
        return err(Errno::EINVAL);
    }
    let op = match op {
        1 => EpollOp::Add,
        2 => EpollOp::Delete,
        3 => EpollOp::Modify,
        _ => return err(Errno::EINVAL),
    };
    epoll.control(cx, op, fd, &target, event)
}

/// `epoll_wait(2)`: the time-out is in milliseconds, negative for none.
pub(super) fn epoll_wait(
    cx: &Cx,
    epfd: Fd,
    events: UserPtr<EpollEvent>,
    max: i32,
    timeout_ms: i32,
) -> Result<usize> {
    let timeout = u64::try_from(timeout_ms).ok().map(|ms| ms.saturating_mul(1_000_000));
    wait(cx, epfd, events, max, deadline_after(cx, timeout)).map_err(Error::no_restart)
}

/// `epoll_pwait(2)`.
pub(super) fn epoll_pwait(
    cx: &Cx,
    epfd: Fd,
    events: UserPtr<EpollEvent>,
    max: i32,
    timeout_ms: i32,
    mask: UserPtr<u64>,
    mask_size: usize,
) -> Result<usize> {
    let timeout = u64::try_from(timeout_ms).ok().map(|ms| ms.saturating_mul(1_000_000));
    let deadline = deadline_after(cx, timeout);
    let mask = read_mask(cx, mask, mask_size)?;
    with_temporary_mask(cx, mask, || wait(cx, epfd, events, max, deadline)).map_err(Error::no_restart)
}

/// `epoll_pwait2(2)`.
pub(super) fn epoll_pwait2(
    cx: &Cx,
    epfd: Fd,
    events: UserPtr<EpollEvent>,
    max: i32,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<u64>,
    mask_size: usize,
) -> Result<usize> {
    let deadline = deadline_after(cx, read_timespec(cx, timeout)?);
    let mask = read_mask(cx, mask, mask_size)?;
    with_temporary_mask(cx, mask, || wait(cx, epfd, events, max, deadline)).map_err(Error::no_restart)
}

fn wait(cx: &Cx, epfd: Fd, events: UserPtr<EpollEvent>, max: i32, deadline_ns: Option<u64>) -> Result<usize> {
    let size = size_of::<EpollEvent>();
    let max = usize::try_from(max).ok().filter(|&m| m > 0 && m <= i32::MAX as usize / size);
    let max = max.ok_or(Errno::EINVAL)?;
    let end = events.addr().0.checked_add((max * size) as u64);
    if end.is_none_or(|end| end > cx.kernel.machine.user_limit()) {
        return err(Errno::EFAULT);
    }
    let of = cx.file(epfd)?;
    let epoll = of.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    let ready = epoll.wait(cx, max, deadline_ns)?;
    cx.mm().write_bytes(cx, events.addr(), ready.as_bytes())?;
    Ok(ready.len())
}
