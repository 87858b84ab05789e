//! Views: the content of a file in the address space of a process that reads and writes it by position, so that calls through the machine's gate do that without the kernel.
//!
//! A view is two sealed areas that `fork` leaves out: a page with the header ([`hal::FileView`]), and the content, writable if the descriptor is. An object has one
//! view at most. What guest code writes there it may write: content that a descriptor of its own admits, and the object's size and times, which the kernel
//! looks at whenever it looks at the object, and believes as far as there are pages and as time has passed. Pages up to the capacity are made ahead of
//! need, and go when the view ends.
//!
//! Whoever takes rights or pages away ends or recalls the view: a truncation here, all else in [`crate::fs::view`]. A write that is on its way through the gate meanwhile counts as one that came before.

use super::batch::{Batch, Commit, What};
use super::cache::PageCache;
use super::frames::Frame;
use super::space::{MapFlags, MapRequest, Mm};
use super::table::Pte;
use crate::fs::Mappable;
use crate::task::Cx;
use alloc::sync::Arc;
use hal::{ClockId, FileView, Machine, PAGE_SIZE, PhysAddr, Prot, VirtAddr};

/// Name of the areas in `/proc/PID/maps`.
const NAME: &str = "[view]";
/// Where they are, if there is room: far from where programs put anything.
const HINT: u64 = 0x3000_0000_0000;
/// The largest content when a view begins, and ever, in pages.
const LARGEST: (u64, u64) = (1024, 4096);
/// In how many runs of RAM they may be when a view begins: each is a mapping of its own.
const MOST_RUNS: usize = 32;
/// How many pages are made ahead of need, at least and at most: as many as there are.
const AHEAD: (u64, u64) = (32, 128);

/// When guest code read first since it wrote last, and when that was, in nanoseconds of the real time; 0 for never.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Times {
    /// Read.
    pub read: u64,
    /// Written.
    pub written: u64,
    /// What time it is.
    pub now: u64,
}

/// What an object knows of its view.
pub(super) struct Shown {
    header: Frame,
    /// In bytes.
    capacity: u64,
    writable: bool,
    /// When it began, in nanoseconds of the real time.
    since: u64,
    /// How often guest code had said when it read and wrote.
    seen: [u32; 2],
    recalled: bool,
}

impl Shown {
    /// The size that guest code has left, in bytes.
    pub(super) fn size(&self, machine: &dyn Machine) -> u64 {
        let size = machine.ram().load_u32(self.header.phys());
        if self.writable { u64::from(size).min(self.capacity) } else { 0 }
    }

    /// The object has grown.
    pub(super) fn set_size(&self, machine: &dyn Machine, size: u64) {
        self.put(machine, FileView::SIZE, size);
    }

    fn put(&self, machine: &dyn Machine, offset: u64, value: u64) {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        machine.ram().write(PhysAddr(self.header.phys().0 + offset), &value.to_ne_bytes());
    }

    /// When something has happened since this was asked last.
    fn times(&mut self, machine: &dyn Machine) -> Times {
        let ram = machine.ram();
        let place = |offset| PhysAddr(self.header.phys().0 + offset);
        // How often comes before when, as guest code says it afterwards.
        let said = [FileView::READS, FileView::WRITES].map(|offset| ram.load_u32(place(offset)));
        let [new_read, new_written] = [said[0] != self.seen[0], self.writable && said[1] != self.seen[1]];
        self.seen = said;
        if !new_read && !new_written {
            return Times::default();
        }
        let now = machine.clock_ns(ClockId::Realtime).max(self.since);
        let time = |offset, new: bool| {
            let mut bytes = [0; 8];
            ram.read(place(offset), &mut bytes);
            if new { u64::from_ne_bytes(bytes).clamp(self.since, now) } else { 0 }
        };
        Times { read: time(FileView::READ, new_read), written: time(FileView::WRITTEN, new_written), now }
    }
}

impl PageCache {
    /// Has a view from now on, if it has none.
    fn begin_view(&self, header: &Frame, writable: bool) -> bool {
        let machine = &*self.machine;
        let mut inner = self.lock();
        if inner.view.is_some() {
            return false;
        }
        let since = machine.clock_ns(ClockId::Realtime);
        // The rest of the header are zeros.
        let header = header.clone();
        let view = Shown { header, capacity: 0, writable, since, seen: [0; 2], recalled: false };
        view.set_size(machine, inner.size);
        inner.view = Some(view);
        true
    }

    fn set_view_capacity(&self, header: &Frame, capacity: u64) {
        if let Some(view) = &mut self.lock().view
            && view.header.pfn() == header.pfn()
        {
            view.capacity = capacity;
            view.put(&*self.machine, FileView::CAPACITY, capacity);
        }
    }

    /// Whether this is its view, and nobody has recalled it.
    fn has_view(&self, header: &Frame) -> bool {
        // What guest code has done meanwhile is in the other CPU's cache, and nobody's business.
        let inner = self.inner.lock();
        inner.view.as_ref().is_some_and(|view| view.header.pfn() == header.pfn() && !view.recalled)
    }

    /// Has the view end when the process that has it stops next; until then guest code makes calls.
    pub(crate) fn recall_view(&self) {
        if let Some(view) = &mut self.lock().view {
            view.recalled = true;
            self.machine.recall_offers();
        }
    }

    /// Ends the view: guest code does not use it any more. Pages behind the end go.
    fn end_view(&self, header: &Frame) {
        let mut inner = self.lock();
        // It may have been cut short while it began; and somebody else's may have begun since.
        if inner.view.as_ref().is_some_and(|view| view.header.pfn() != header.pfn()) {
            return;
        }
        inner.note_times(&*self.machine);
        inner.view = None;
        self.trim(&mut inner);
    }

    /// The times have been changed: guest code says when it reads next, as if it had written last.
    pub(crate) fn forget_read(&self) {
        let inner = self.inner.lock();
        if let Some(view) = &inner.view {
            let place = PhysAddr(view.header.phys().0 + FileView::WRITTEN);
            self.machine.ram().write(place, &u64::MAX.to_ne_bytes());
        }
    }

    /// When guest code has read and written since this was asked last; `None` for never.
    pub(crate) fn take_times(&self) -> Option<Times> {
        let mut inner = self.lock();
        inner.note_times(&*self.machine);
        let times = core::mem::take(&mut inner.times);
        (times != Times::default()).then_some(times)
    }
}

impl super::cache::Inner {
    pub(super) fn note_times(&mut self, machine: &dyn Machine) {
        if let Some(view) = &mut self.view {
            let Times { read, written, now } = view.times(machine);
            let times = &mut self.times;
            let (read, written) = (times.read.max(read), times.written.max(written));
            *times = Times { read, written, now: times.now.max(now) };
        }
    }
}

/// A view, for the task whose guest code has it. To be ended by [`Mm::end_view`] where the address space goes on.
pub(crate) struct View {
    cache: Arc<PageCache>,
    header: Frame,
    /// Where the header is.
    header_at: u64,
    /// Where the content is.
    at: u64,
    /// How many pages of it are shown.
    pages: u64,
    writable: bool,
    /// More is shown when the object becomes larger.
    grows: bool,
}

impl View {
    /// Where header and content are.
    pub(crate) fn places(&self) -> (VirtAddr, VirtAddr) {
        (VirtAddr(self.header_at), VirtAddr(self.at))
    }

    /// Whether it is to be used further.
    pub(crate) fn is_good(&self) -> bool {
        self.cache.has_view(&self.header)
    }

    /// Whether the object has become larger than what is shown.
    pub(crate) fn is_outgrown(&self) -> bool {
        self.grows && self.cache.size() > self.pages * PAGE_SIZE
    }

    /// How many pages are shown of an object that has so many.
    fn wanted(&self, pages: u64) -> u64 {
        let ahead = pages.clamp(AHEAD.0, AHEAD.1);
        let more = self.writable && self.cache.has_plenty_for(ahead);
        if more { (pages + ahead).min(LARGEST.1) } else { pages }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.cache.end_view(&self.header);
    }
}

impl Mm {
    /// Begins a view of an object, the `index`-th one that the process has. `None` where that can't be, or is not worth it. Blocks for the host's calls.
    pub(crate) fn begin_view(
        &self,
        cx: &Cx,
        cache: &Arc<PageCache>,
        index: usize,
        writable: bool,
    ) -> Option<View> {
        let pages = cache.page_count();
        if pages == 0 || pages > LARGEST.0 || !cache.is_whole(MOST_RUNS) {
            return None;
        }
        let header_page = PageCache::new(self.machine.clone(), self.frames.clone(), PAGE_SIZE);
        let header = header_page.page(0).ok()?;
        if !cache.begin_view(&header, writable) {
            return None;
        }
        let cache = cache.clone();
        let mut view = View { cache, header, header_at: 0, at: 0, pages: 0, writable, grows: writable };
        let rights = Prot::READ | Prot::WRITE;
        let content_rights = if writable { rights } else { Prot::READ };
        let content = view.cache.clone();
        let hint = HINT + 2 * index as u64 * LARGEST.1 * PAGE_SIZE;
        view.header_at = self.make_view_area(cx, hint, 1, rights, header_page)?;
        view.at = match self.make_view_area(cx, hint + PAGE_SIZE, LARGEST.1, content_rights, content) {
            Some(at) => at,
            None => {
                self.drop_view_areas(cx, &[(view.header_at, 1)]);
                return None;
            }
        };
        if self.show_view(cx, &mut view, pages) {
            Some(view)
        } else {
            self.end_view(cx, view);
            None
        }
    }

    /// Shows more of an object that has outgrown its view. Blocks for the host's calls.
    pub(crate) fn grow_view(&self, cx: &Cx, view: &mut View) {
        let pages = view.cache.page_count();
        // Holes stay holes.
        view.grows = pages < LARGEST.1 && view.cache.is_whole(usize::MAX) && self.show_view(cx, view, pages);
    }

    /// Takes a view out. Blocks for the host's calls.
    pub(crate) fn end_view(&self, cx: &Cx, view: View) {
        self.drop_view_areas(cx, &[(view.header_at, 1), (view.at, LARGEST.1)]);
    }

    fn make_view_area(
        &self,
        cx: &Cx,
        hint: u64,
        pages: u64,
        prot: Prot,
        object: Arc<PageCache>,
    ) -> Option<u64> {
        let len = pages * PAGE_SIZE;
        let request = MapRequest {
            addr: hint,
            len,
            prot,
            flags: MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::INTERNAL,
            object: Some(Mappable::Cache(object)),
            file: None,
            offset: 0,
            name: NAME,
        };
        Some(self.map(cx, request).ok()?.0)
    }

    fn drop_view_areas(&self, cx: &Cx, areas: &[(u64, u64)]) {
        let mut batch = Batch::default();
        let mut inner = self.inner();
        let inner = &mut *inner;
        for (at, pages) in areas {
            inner.remove(*at, at + pages * PAGE_SIZE, &mut batch);
        }
        // A dead address space shows nothing to anybody.
        let _ = self.commit(cx.cpu(), inner, &mut batch);
    }

    /// Shows as much as an object of so many pages should have. False when nothing can be shown.
    fn show_view(&self, cx: &Cx, view: &mut View, pages: u64) -> bool {
        let mut batch = Batch::default();
        let mut guard = self.inner();
        let inner = &mut *guard;
        let (from, to) = (view.pages, view.wanted(pages));
        let mut show = |at: u64, pfn, writable: bool| {
            let prot = if writable { Prot::READ | Prot::WRITE } else { Prot::READ };
            inner.table.set(at / PAGE_SIZE, Pte::new(pfn).shown(writable));
            batch.map(at, PAGE_SIZE, prot, What::Ram(pfn));
        };
        if from == 0 {
            self.frames.get(view.header.pfn());
            show(view.header_at, view.header.pfn(), true);
        }
        let mut shown = from;
        view.cache.make_all(from..to);
        let all_there = view.cache.attach(
            from..to,
            |_| false,
            |index, pfn| {
                show(view.at + index * PAGE_SIZE, pfn, view.writable);
                shown = index + 1;
            },
        );
        let done = self.commit(cx.cpu(), inner, &mut batch);
        view.pages = shown;
        drop(guard);
        if all_there.is_err() || done != Ok(Commit::Done) {
            return false;
        }
        if view.writable {
            view.cache.set_view_capacity(&view.header, shown * PAGE_SIZE);
        }
        true
    }
}
