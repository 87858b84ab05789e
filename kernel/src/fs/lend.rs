//! The file that a task has opened last, lent to its guest code: `fstat` and `close` of it need not leave the machine's gate.
//!
//! Lent are files that are read only, whose attributes nobody changes without recalling what was said of them ([`super::File::lend`]), and descriptors of a table that
//! nobody shares. Whether a descriptor has been closed is seen whenever guest code stops, before anything else. Until then nobody can miss that: a
//! descriptor whose end others would hear of, because it is not the only one of its description, or somebody holds record locks or watches files, is not
//! closed so.
//!
//! Only the task itself comes here, so there is no lock.

use super::{Fd, OpenFile, close};
use crate::task::Cx;
use abi::fs::Stat;
use hal::StatOffer;

/// What is lent.
#[derive(Clone, Copy)]
pub(crate) struct Lent {
    fd: Fd,
    /// [`OpenFile::id`].
    id: u64,
}

/// The task has opened a file.
pub(crate) fn opened(cx: &Cx, fd: Fd, of: &OpenFile) {
    let few = u32::try_from(fd.0).ok().filter(|&fd| fd < u64::BITS);
    let Some(number) = few.filter(|_| cx.kernel.patches() && !of.flags().writable()) else { return };
    let version = cx.kernel.machine.offers_version();
    let Some(attr) = of.file.lend() else { return };
    let stat = zerocopy::transmute!(Stat::from(&attr));
    cx.user.borrow_mut().offer_stat(Some(StatOffer { fd: number, version, stat }));
    cx.lent.set(Some(Lent { fd, id: of.id }));
}

/// Before guest code runs: which descriptors it may close by saying so, a bit each.
pub(crate) fn closable(cx: &Cx) -> u64 {
    let Some(Lent { fd, id }) = cx.lent.get() else { return 0 };
    let references = if cx.owns_files() { cx.files.borrow().references(fd, id) } else { 0 };
    match references {
        0 => {
            end(cx);
            0
        }
        1 if cx.kernel.watches.is_empty() && !cx.kernel.locks.has_records() => 1 << fd.0,
        _ => 0,
    }
}

/// Guest code has stopped: closes what it has closed.
pub(crate) fn take_back(cx: &Cx) {
    let Some(Lent { fd, .. }) = cx.lent.get() else { return };
    if cx.user.borrow_mut().take_closed() & 1 << fd.0 == 0 {
        return;
    }
    cx.lent.set(None);
    let file = cx.files().remove(fd);
    if let Ok(file) = file {
        // Nothing was written.
        let _ = close(cx, file);
    }
}

/// Lends it no longer.
pub(crate) fn end(cx: &Cx) {
    if cx.lent.take().is_some() {
        cx.user.borrow_mut().offer_stat(None);
    }
}
