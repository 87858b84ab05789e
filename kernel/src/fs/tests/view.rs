use super::*;
use crate::fs::view;
use crate::mm::{Advice, Mm};
use crate::user::{Source, UserPtr};
use hal::mock::MockContext;
use hal::{ClockId, FileView, SetAttr, VirtAddr};

const PAGE: u64 = hal::PAGE_SIZE;
const SECOND: u64 = 1_000_000_000;

/// Runs with an address space and a file of this length.
fn with_file(len: usize, body: impl FnOnce(&Cx, Fd) + Send + 'static) {
    on_tmpfs(move |cx| {
        cx.set_mm(Mm::new(cx.kernel).unwrap());
        write_file(cx, "/f", &std::vec![b'a'; len]);
        let fd = cx.install(open(cx, "/f", RDWR).unwrap(), false).unwrap();
        body(cx, fd);
        view::end(cx);
    });
}

/// As many calls as it takes; what guest code is offered then.
fn lent(cx: &Cx, fd: Fd) -> Option<FileView> {
    for _ in 0..20 {
        view::used(cx, fd, &cx.file(fd).unwrap());
    }
    offered(cx)
}

/// What guest code may read and write when it runs next.
fn offered(cx: &Cx) -> Option<FileView> {
    view::offer(cx);
    let mut user = cx.user.borrow_mut();
    let views = MockContext::of(&mut **user).views();
    let good = views.version == cx.kernel.machine.offers_version();
    views.files.iter().flatten().next().copied().filter(|_| good)
}

/// A part of the header, as guest code does it.
fn set_size(cx: &Cx, view: &FileView, size: u32) {
    UserPtr::new(view.header.0).write(cx, &size).unwrap();
}
fn capacity(cx: &Cx, view: &FileView) -> u32 {
    UserPtr::new(view.header.0 + FileView::CAPACITY).read(cx).unwrap()
}
fn set_times(cx: &Cx, view: &FileView, times: [u64; 2]) {
    UserPtr::new(view.header.0 + FileView::READ).write(cx, &times).unwrap();
    let said = UserPtr::<[u32; 2]>::new(view.header.0 + FileView::READS);
    let [reads, writes] = said.read(cx).unwrap();
    said.write(cx, &[reads + 1, writes + 1]).unwrap();
}

fn areas(mm: &Mm) -> usize {
    mm.vmas().iter().filter(|vma| vma.name == "[view]").count()
}

#[test]
fn guest_code_has_a_file_that_it_uses_often() {
    with_file(5000, |cx, fd| {
        assert_eq!(offered(cx), None);
        let view = lent(cx, fd).unwrap();
        assert_eq!(view.fd as i32, fd.0);
        assert_eq!(UserPtr::<u32>::new(view.header.0).read(cx).unwrap(), 5000);
        assert!(capacity(cx, &view) >= 8 * PAGE as u32);
        assert_eq!(UserPtr::<u8>::new(view.content.0 + 4999).read(cx).unwrap(), b'a');
        // What it writes is there, and so is what it says of the size, as far as there is room.
        UserPtr::new(view.content.0 + 6000).write(cx, b"bc").unwrap();
        set_size(cx, &view, 6002);
        assert_eq!(attr(cx, "/f").size, 6002);
        let content = read_file(cx, "/f");
        assert_eq!((content.len(), &content[5999..]), (6002, "\0bc"));
        set_size(cx, &view, 10);
        assert_eq!(attr(cx, "/f").size, 6002);
        set_size(cx, &view, u32::MAX);
        assert_eq!(attr(cx, "/f").size, u64::from(capacity(cx, &view)));
        // The kernel's own writes are said to it.
        let of = cx.file(fd).unwrap();
        let end = u64::from(capacity(cx, &view));
        crate::fs::write(cx, &of, Some(end), &mut &b"more"[..]).unwrap();
        assert_eq!(UserPtr::<u32>::new(view.header.0).read(cx).unwrap(), end as u32 + 4);
        view::used(cx, fd, &of);
        assert!(u64::from(capacity(cx, &view)) > end);
    });
}

#[test]
fn what_is_made_ahead_of_need_is_not_the_files_and_goes_with_the_view() {
    with_file(5000, |cx, fd| {
        let free = cx.kernel.frames.available();
        let before = attr(cx, "/f");
        let counted = cx.mm().stats().size;
        let view = lent(cx, fd).unwrap();
        assert!(cx.kernel.frames.available() + 16 < free);
        assert_eq!(cx.mm().stats().size, counted);
        assert_eq!(attr(cx, "/f").blocks, before.blocks);
        UserPtr::new(view.content.0 + 5000).write(cx, b"behind the end").unwrap();
        assert_eq!(areas(&cx.mm()), 2);
        // Nobody takes it away but the kernel, and a copy of the process has none.
        assert!(cx.mm().unmap(cx, view.content.0, PAGE).is_err());
        assert_eq!(areas(&cx.mm().fork(cx).unwrap()), 0);
        let of = cx.files().remove(fd).unwrap();
        assert_eq!(offered(cx), None);
        assert_eq!(areas(&cx.mm()), 0);
        assert_eq!(cx.kernel.frames.available(), free);
        crate::fs::write(cx, &of, Some(5100), &mut &b"x"[..]).unwrap();
        assert!(read_file(cx, "/f")[5000..5100].bytes().all(|byte| byte == 0));
    });
}

/// Has the view end while it is being written.
struct Ending<'a>(&'a Cx<'a>, Fd, usize);

impl Source for Ending<'_> {
    fn take(&mut self, buf: &mut [u8]) -> Result<usize> {
        let Ending(cx, fd, left) = self;
        let len = buf.len().min(*left);
        buf[..len].fill(b'w');
        *left -= len;
        let of = cx.files().remove(*fd).unwrap();
        assert_eq!(offered(cx), None);
        assert_eq!(cx.install(of, false).unwrap(), *fd);
        Ok(len)
    }
    fn left(&self) -> usize {
        self.2
    }
}

#[test]
fn the_end_of_a_view_spoils_no_write() {
    for at in [5000, 3 * PAGE] {
        with_file(5000, move |cx, fd| {
            let view = lent(cx, fd).unwrap();
            UserPtr::new(view.content.0 + 5000).write(cx, &[b'x'; 3000]).unwrap();
            let of = cx.file(fd).unwrap();
            assert_eq!(crate::fs::write(cx, &of, Some(at), &mut Ending(cx, fd, 100)).unwrap(), 100);
            let content = read_file(cx, "/f");
            assert_eq!(content.len() as u64, at + 100);
            assert!(content[at as usize..].bytes().all(|byte| byte == b'w'));
            assert_eq!(attr(cx, "/f").blocks, if at == 5000 { 16 } else { 32 });
        });
    }
}

#[test]
fn little_room_is_left_to_others_and_holes_stay_holes() {
    with_file(5000, |cx, fd| {
        let mut taken = cx.kernel.frames.hold();
        taken.grow(cx.kernel.frames.available() as u32 - 200).unwrap();
        let view = lent(cx, fd).unwrap();
        assert_eq!(capacity(cx, &view), 2 * PAGE as u32);
    });
    with_file(5000, |cx, fd| {
        let view = lent(cx, fd).unwrap();
        let (of, far) = (cx.file(fd).unwrap(), u64::from(capacity(cx, &view)) + 10 * PAGE);
        crate::fs::write(cx, &of, Some(far), &mut &b"x"[..]).unwrap();
        let before = (capacity(cx, &view), attr(cx, "/f").blocks);
        view::used(cx, fd, &of);
        assert_eq!((capacity(cx, &view), attr(cx, "/f").blocks), before);
    });
}

#[test]
fn times_are_believed_as_far_as_time_has_passed() {
    with_file(5000, |cx, fd| {
        let ns = |time: abi::time::Timespec| time.sec as u64 * SECOND + time.nsec as u64;
        let now = || cx.kernel.machine.clock_ns(ClockId::Realtime);
        let view = lent(cx, fd).unwrap();
        let begun = attr(cx, "/f");
        set_times(cx, &view, [0, 1]);
        let old = attr(cx, "/f");
        assert!(ns(old.mtime) >= ns(begun.mtime) && ns(old.mtime) <= now());
        set_times(cx, &view, [u64::MAX; 2]);
        let new = attr(cx, "/f");
        assert!(ns(new.mtime) <= now() && ns(new.atime) <= now());
        // Said once: what somebody sets afterwards stays.
        let time = hal::TimeSet::At(abi::time::Timespec { sec: 7, nsec: 0 });
        let set = SetAttr { mtime: Some(time), ..SetAttr::default() };
        at(cx, "/f").unwrap().dentry.inode.set_attr(cx, &set).unwrap();
        assert_eq!(attr(cx, "/f").mtime.sec, 7);
    });
}

#[test]
fn who_may_only_read_changes_nothing() {
    with_file(5000, |cx, _| {
        let fd = cx.install(open(cx, "/f", OpenFlags::empty()).unwrap(), false).unwrap();
        let before = attr(cx, "/f");
        let view = lent(cx, fd).unwrap();
        assert_eq!(capacity(cx, &view), 0);
        assert!(UserPtr::new(view.content.0).write(cx, b"x").is_err());
        let (at, end) = (view.content.0, view.content.0 + PAGE);
        assert!(cx.mm().advise(cx, at, end, Advice::Remove).is_err());
        assert_eq!(attr(cx, "/f").blocks, before.blocks);
        set_size(cx, &view, 6000);
        UserPtr::new(view.header.0 + FileView::CAPACITY).write(cx, &9000u32).unwrap();
        set_times(cx, &view, [0, u64::MAX]);
        let now = attr(cx, "/f");
        assert_eq!((now.size, now.mtime), (before.size, before.mtime));
    });
}

#[test]
fn it_is_not_lent_where_a_call_would_do_more() {
    let cut = |cx: &Cx, _| {
        let set = SetAttr { size: Some(10), ..SetAttr::default() };
        at(cx, "/f").unwrap().dentry.inode.set_attr(cx, &set).unwrap();
    };
    let mode = |cx: &Cx, _| {
        let set = SetAttr { mode: Some(0o4755), ..SetAttr::default() };
        at(cx, "/f").unwrap().dentry.inode.set_attr(cx, &set).unwrap();
    };
    let append = |cx: &Cx, fd| cx.file(fd).unwrap().set_status(OpenFlags::APPEND);
    let limit = |cx: &Cx, _| {
        cx.process().limits.lock().0[crate::task::Resource::Fsize as usize].cur = 9000;
        cx.kernel.machine.recall_offers();
    };
    let share = |cx: &Cx, fd| {
        cx.files().remove(fd).unwrap();
        assert_eq!(cx.install(open(cx, "/f", RDWR).unwrap(), false).unwrap(), fd);
    };
    let changes: [fn(&Cx, Fd); 5] = [cut, mode, append, limit, share];
    for change in changes {
        with_file(5000, move |cx, fd| {
            assert!(lent(cx, fd).is_some());
            change(cx, fd);
            assert_eq!(offered(cx), None);
            assert_eq!(areas(&cx.mm()), 0);
        });
    }
    // From the beginning: no content of its own, appending, written only, a hole; and one process at a time.
    with_file(0, |cx, fd| assert_eq!(lent(cx, fd), None));
    with_file(5000, |cx, fd| {
        let shared = cx.files().clone();
        let of = cx.file(fd).unwrap();
        for _ in 0..100 {
            view::used(cx, fd, &of);
            assert_eq!(areas(&cx.mm()), 0);
        }
        drop(shared);
        // As many calls as it has taken so far.
        for _ in 0..28 {
            view::used(cx, fd, &of);
        }
        assert!(offered(cx).is_some());
    });
    for flags in [RDWR | OpenFlags::APPEND, OpenFlags::WRONLY] {
        with_file(5000, move |cx, _| {
            let fd = cx.install(open(cx, "/f", flags).unwrap(), false).unwrap();
            assert_eq!(lent(cx, fd), None);
        });
    }
    with_file(5000, |cx, fd| {
        crate::fs::write(cx, &cx.file(fd).unwrap(), Some(3 * PAGE), &mut &b"x"[..]).unwrap();
        assert_eq!(lent(cx, fd), None);
    });
    with_file(5000, |cx, fd| {
        let view = lent(cx, fd).unwrap();
        let other = cx.install(open(cx, "/f", RDWR).unwrap(), false).unwrap();
        assert_eq!(lent(cx, other), Some(view));
        assert_ne!(view.content, VirtAddr(0));
    });
}
