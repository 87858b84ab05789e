//! Files in memory that a process reads and writes by position, lent to its guest code: `pread64` and `pwrite64` of them need not leave the machine's gate ([`crate::mm::view`]).
//!
//! Lent are files of descriptors of a table that nobody shares. Before guest code runs it is seen whether that, the descriptor and all else that a call would look at are as they were;
//! who changes something of that for another process recalls what was offered ([`hal::Machine::recall_offers`]).
//!
//! Only the task itself comes here, so there is no lock.

use super::{Fd, MountFlags, OpenFile, OpenFlags};
use crate::mm::view::View;
use crate::task::{Cx, Resource};
use hal::FileView;

/// How many calls of the same kind a descriptor sees before its file is lent: that costs as much as some ten of them.
const CALLS: u32 = 16;

/// What a task's guest code reads and writes, and descriptors that may come next.
#[derive(Default)]
pub(crate) struct Views {
    lent: [Option<Lent>; 2],
    /// What was offered last was good then ([`hal::Views::version`]).
    version: u64,
    next: [Next; 2],
}

struct Lent {
    fd: Fd,
    /// [`OpenFile::id`].
    id: u64,
    flags: OpenFlags,
    view: View,
}

/// How often a descriptor has been used.
#[derive(Clone, Copy, Default)]
struct Next {
    id: u64,
    calls: u32,
}

impl Views {
    /// Counts a call; whether there were enough, and twice as many as the last time.
    fn count(&mut self, id: u64) -> bool {
        let [first, second] = &mut self.next;
        if second.id == id {
            core::mem::swap(first, second);
        } else if first.id != id {
            (*second, *first) = (*first, Next { id, calls: 0 });
        }
        first.calls = first.calls.saturating_add(1);
        first.calls >= CALLS && first.calls.is_power_of_two()
    }
}

/// A call has read or written a file by position.
pub(crate) fn used(cx: &Cx, fd: Fd, of: &OpenFile) {
    if !cx.kernel.patches() {
        return;
    }
    let mut views = cx.views.borrow_mut();
    let mm = cx.mm();
    if let Some(lent) = views.lent.iter_mut().flatten().find(|lent| lent.id == of.id) {
        if lent.view.is_outgrown() {
            mm.grow_view(cx, &mut lent.view);
        }
        return;
    }
    let Some(index) = views.lent.iter().position(Option::is_none) else { return };
    if !views.count(of.id) {
        return;
    }
    let flags = of.flags();
    if !cx.owns_files() || !may_lend(cx, of, flags) {
        return;
    }
    let Some(cache) = of.file.content() else { return };
    if let Some(view) = mm.begin_view(cx, &cache, index, flags.writable())
        && let Some(place) = views.lent.get_mut(index)
    {
        *place = Some(Lent { fd, id: of.id, flags, view });
        views.next = Default::default();
    }
}

/// Before guest code runs: says which files it may read and write.
pub(crate) fn offer(cx: &Cx) {
    let mut views = cx.views.borrow_mut();
    if views.lent.iter().all(Option::is_none) {
        return;
    }
    let version = cx.kernel.machine.offers_version();
    // Who changes anything else recalls what is offered.
    let known = version == views.version;
    let own = cx.owns_files() && (known || may_lend_any(cx));
    let files = cx.files.borrow();
    let good = |lent: &Lent| {
        own && files.flags(lent.fd, lent.id) == Some(lent.flags) && (known || lent.view.is_good())
    };
    views.version = version;
    for place in &mut views.lent {
        if let Some(lent) = place.take_if(|lent| !good(lent)) {
            cx.mm().end_view(cx, lent.view);
        }
    }
    let files = core::array::from_fn(|i| {
        let lent = views.lent.get(i)?.as_ref()?;
        let (header, content) = lent.view.places();
        Some(FileView { fd: u32::try_from(lent.fd.0).ok()?, header, content })
    });
    cx.user.borrow_mut().offer_views(hal::Views { version, files });
}

/// The task gives up its address space, which goes unless others have it, too.
pub(crate) fn end(cx: &Cx) {
    let shared = cx.shares_memory();
    for lent in cx.views.take().lent.into_iter().flatten() {
        if shared {
            cx.mm().end_view(cx, lent.view);
        }
        cx.user.borrow_mut().offer_views(hal::Views::default());
    }
}

/// Whether calls by position of any file may go unseen.
fn may_lend_any(cx: &Cx) -> bool {
    cx.kernel.watches.is_empty() && cx.process().limit(Resource::Fsize) == u64::MAX
}

/// Whether those of this one may, and its access time changes with the first read after a write.
fn may_lend(cx: &Cx, of: &OpenFile, flags: OpenFlags) -> bool {
    let others = MountFlags::NOATIME | MountFlags::STRICTATIME | MountFlags::RDONLY;
    let mount = of.path.as_ref().map_or(others, |path| path.mount.flags());
    flags.readable()
        && !flags.intersects(OpenFlags::APPEND | OpenFlags::NOATIME)
        && !mount.intersects(others)
        && may_lend_any(cx)
}
