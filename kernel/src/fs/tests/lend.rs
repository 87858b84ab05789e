use super::*;
use crate::fs::{lend, lock};
use hal::SetAttr;
use hal::mock::MockContext;
use zerocopy::IntoBytes;

fn files(host: &Arc<MockFs>) {
    host.add_file("/a", 0o644, b"first");
    host.add_file("/b", 0o644, b"second");
}

/// Opens a file as `open(2)` does.
fn opened(cx: &Cx, path: &str, flags: OpenFlags) -> Fd {
    let of = open(cx, path, flags).unwrap();
    let fd = cx.install(of.clone(), false).unwrap();
    lend::opened(cx, fd, &of);
    fd
}

/// Descriptor and attributes that guest code is told, if it is.
fn told(cx: &Cx) -> Option<(Fd, Vec<u8>)> {
    let mut user = cx.user.borrow_mut();
    let stat = MockContext::of(&mut **user).stat()?;
    let good = stat.version == cx.kernel.machine.offers_version();
    good.then(|| (Fd(stat.fd as i32), stat.stat.as_bytes().to_vec()))
}

/// What `fstat(2)` says.
fn stat(cx: &Cx, fd: Fd) -> Vec<u8> {
    abi::fs::Stat::from(&cx.file(fd).unwrap().attr().unwrap()).as_bytes().to_vec()
}

/// Guest code closes descriptors, a bit each.
fn close_in_gate(cx: &Cx, fds: u64) {
    MockContext::of(&mut **cx.user.borrow_mut()).set_closed(fds);
    lend::take_back(cx);
}

#[test]
fn guest_code_is_told_of_a_file_of_the_host_until_it_changes() {
    on_overlay(files, |cx, _| {
        let fd = opened(cx, "/a", OpenFlags::empty());
        assert_eq!(told(cx), Some((fd, stat(cx, fd))));
        attr(cx, "/b");
        assert!(told(cx).is_some());
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        at(cx, "/a").unwrap().dentry.inode.set_attr(cx, &mode).unwrap();
        assert_eq!(told(cx), None);
        // It is the kernel's own now.
        opened(cx, "/a", OpenFlags::empty());
        assert_eq!(told(cx), None);
        let fd = opened(cx, "/b", OpenFlags::empty());
        assert_eq!(told(cx), Some((fd, stat(cx, fd))));
        write_file(cx, "/b", b"longer than it was");
        assert_eq!(told(cx), None);
    });
}

#[test]
fn what_the_host_has_changed_is_told_no_more_once_it_is_seen() {
    on_overlay(files, |cx, host| {
        opened(cx, "/a", OpenFlags::empty());
        let before = told(cx).unwrap();
        host.add_file("/a", 0o644, b"other content");
        let fd = opened(cx, "/a", OpenFlags::empty());
        let now = told(cx).unwrap();
        assert_eq!(now, (fd, stat(cx, fd)));
        assert_ne!(now.1, before.1);
    });
}

#[test]
fn files_that_can_change_unseen_are_not_lent() {
    on_overlay(files, |cx, _| {
        write_file(cx, "/own", b"");
        for (path, flags) in [("/own", OpenFlags::empty()), ("/a", RDWR), ("/", OpenFlags::DIRECTORY)] {
            opened(cx, path, flags);
            assert_eq!((told(cx), lend::closable(cx)), (None, 0), "{path}");
        }
    });
}

#[test]
fn a_descriptor_that_guest_code_has_closed_is_closed() {
    on_overlay(files, |cx, _| {
        let fd = opened(cx, "/a", OpenFlags::empty());
        assert_eq!(lend::closable(cx), 1 << fd.0);
        close_in_gate(cx, 0);
        assert!(cx.file(fd).is_ok());
        // Others that it says are nobody's business.
        let other = cx.install(open(cx, "/b", OpenFlags::empty()).unwrap(), false).unwrap();
        close_in_gate(cx, 1 << fd.0 | 1 << other.0);
        assert_eq!(cx.file(fd).err().map(|e| e.errno()), Some(Errno::EBADF));
        assert!(cx.file(other).is_ok());
        assert_eq!(lend::closable(cx), 0);
        close_in_gate(cx, 1 << other.0);
        assert!(cx.file(other).is_ok());
    });
}

#[test]
fn what_was_closed_is_closed_once() {
    on_overlay(files, |cx, _| {
        let fd = opened(cx, "/a", OpenFlags::empty());
        close_in_gate(cx, 1 << fd.0);
        // The next one gets its number, and the task is stopped before guest code runs.
        assert_eq!(opened(cx, "/b", OpenFlags::empty()), fd);
        lend::take_back(cx);
        assert!(cx.file(fd).is_ok());
    });
}

#[test]
fn a_descriptor_that_became_another_one_is_not_lent() {
    on_overlay(files, |cx, _| {
        let fd = opened(cx, "/a", OpenFlags::empty());
        let other = open(cx, "/b", OpenFlags::empty()).unwrap();
        drop(cx.files().replace(fd, 64, other, false).unwrap());
        assert_eq!(lend::closable(cx), 0);
        assert_eq!(told(cx), None);
    });
}

#[test]
fn what_others_would_hear_of_is_closed_by_the_kernel() {
    on_overlay(files, |cx, _| {
        let fd = opened(cx, "/a", OpenFlags::empty());
        let bit = 1 << fd.0;
        // Another descriptor of the same description.
        let second = cx.install(cx.file(fd).unwrap(), false).unwrap();
        assert_eq!(lend::closable(cx), 0);
        drop(cx.files().remove(second));
        assert_eq!(lend::closable(cx), bit);
        // A table that others have.
        let table = cx.files();
        assert_eq!(lend::closable(cx), 0);
        drop(table);
        assert_eq!(told(cx), None);
        let fd = opened(cx, "/b", OpenFlags::empty());
        assert_eq!(lend::closable(cx), 1 << fd.0);
        // Somebody's lock, which ends with any descriptor of the file.
        let of = cx.file(fd).unwrap();
        lock::flock(cx, &of, Some(lock::LockKind::Shared), lock::LockWait::No).unwrap();
        drop(of);
        assert_eq!(lend::closable(cx), 0);
    });
}
