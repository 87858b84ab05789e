//! `signalfd(2)`.

use super::event::{anon_flags, install_anon};
use crate::error::{Result, err};
use crate::fs::Fd;
use crate::ipc::SignalFd;
use crate::signal::SigSet;
use crate::task::Cx;
use crate::user::UserPtr;
use abi::Errno;
use alloc::sync::Arc;

/// `signalfd(2)`.
pub(super) fn signalfd(cx: &Cx, fd: Fd, mask: UserPtr<u64>, mask_size: usize) -> Result<Fd> {
    signalfd4(cx, fd, mask, mask_size, 0)
}

/// `signalfd4(2)`: a new descriptor for -1, else the set of an old one is replaced.
pub(super) fn signalfd4(cx: &Cx, fd: Fd, mask: UserPtr<u64>, mask_size: usize, flags: u32) -> Result<Fd> {
    if mask_size != size_of::<u64>() {
        return err(Errno::EINVAL);
    }
    let mask = SigSet(mask.read(cx)?);
    let flags = anon_flags(flags)?;
    if fd.0 == -1 {
        return install_anon(cx, Arc::new(SignalFd::new(mask)), flags);
    }
    let of = cx.file(fd)?;
    of.downcast::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(cx, mask);
    Ok(fd)
}
