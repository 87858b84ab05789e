//! Host files that answer late: who reads waits, nobody else does.

use super::*;
use crate::testing::{GUEST, map_guest, thread};
use crate::user::{UserBuf, UserPtr};
use abi::fs::Iovec;
use hal::mock::HostOp;
use hal::{HostFile, PAGE_SIZE};
use std::sync::Mutex;

fn tree(host: &Arc<MockFs>) {
    host.add_file("/file", 0o644, b"content of the host");
}

#[test]
fn a_cold_read_lets_others_run() {
    on_overlay(tree, |cx, host| {
        let of = open(cx, "/file", OpenFlags::empty()).unwrap();
        host.set_slow(true);
        let read = Arc::new(Mutex::new(None));
        let (out, file) = (read.clone(), of.clone());
        thread(cx, move |cx| *out.lock().unwrap() = Some(get(cx, &file)));
        // The reader gets the CPU and gives it back, because this one goes on.
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        assert_eq!((host.pending_transfers(), read.lock().unwrap().is_none()), (1, true));
        host.set_slow(false);
        host.finish_transfers();
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        assert_eq!(read.lock().unwrap().as_deref(), Some(&b"content of the host"[..]));
    });
}

#[test]
fn copying_up_waits_the_same_way_and_tells_errors() {
    on_overlay(tree, |cx, host| {
        let of = open(cx, "/file", RDWR).unwrap();
        host.set_slow(true);
        let results = Arc::new(Mutex::new(Vec::new()));
        let (out, file) = (results.clone(), of.clone());
        thread(cx, move |cx| {
            for _ in 0..2 {
                let result = put(cx, &file, b"X").map_err(|e| e.errno());
                out.lock().unwrap().push(result.map(|_| ()));
            }
        });
        host.fail(HostOp::ReadAt, 0, Errno::EIO);
        for _ in 0..2 {
            cx.sleep(Some(cx.now_ns() + 1_000_000));
            assert_eq!(host.pending_transfers(), 1);
            host.finish_transfers();
        }
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        host.set_slow(false);
        assert_eq!(*results.lock().unwrap(), [Err(Errno::EIO), Ok(())]);
        assert_eq!(read_file(cx, "/file"), "Xontent of the host");
    });
}

fn user_read(cx: &Cx, of: &Arc<OpenFile>, at: u64, pos: u64, len: usize) -> Result<usize> {
    crate::fs::read(cx, of, Some(pos), &mut UserBuf::single(cx, UserPtr::new(at), len)?)
}

#[test]
fn user_memory_is_filled_by_the_host() {
    let fill = |host: &Arc<MockFs>| {
        host.add_file("/file", 0o644, &(0..9000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    };
    on_overlay(fill, |cx, host| {
        // With nothing behind.
        map_guest(cx, 2 * PAGE_SIZE);
        let of = open(cx, "/file", OpenFlags::empty()).unwrap();
        let byte = |at: u64| UserPtr::<u8>::new(GUEST + at).read(cx).unwrap();
        // The size is known, so nobody looks behind it.
        host.fail(HostOp::ReadAt, 1, Errno::EIO);
        assert_eq!(user_read(cx, &of, GUEST, 3000, 8192).unwrap(), 6000);
        assert_eq!((byte(0), byte(5999), byte(6000)), ((3000 % 251) as u8, (8999 % 251) as u8, 0));
        assert_eq!(errno(user_read(cx, &of, GUEST, 0, 100)), Some(Errno::EIO));
        // Scattered.
        let vecs =
            [(0u64, 3u64), (0, 0), (5000, 2), (10, 4)].map(|(at, len)| Iovec { base: GUEST + at, len });
        UserPtr::new(GUEST + 8000).write_array(cx, &vecs).unwrap();
        let mut buf = UserBuf::vectored(cx, UserPtr::new(GUEST + 8000), 4).unwrap();
        assert_eq!(crate::fs::read(cx, &of, Some(7), &mut buf).unwrap(), 9);
        assert_eq!([byte(2), byte(5000), byte(5001), byte(10), byte(13)], [9, 10, 11, 12, 15]);
        // Memory that is not there counts once something would go there.
        assert_eq!(user_read(cx, &of, GUEST + 4096 + 100, 0, 8192).unwrap(), 3996);
        assert_eq!(errno(user_read(cx, &of, GUEST + 8192, 0, 8192)), Some(Errno::EFAULT));
        assert_eq!(user_read(cx, &of, GUEST + 8192, 9000, 8192).unwrap(), 0);
    });
}

#[test]
fn a_file_that_grew_is_read_to_its_end() {
    on_overlay(tree, |cx, host| {
        map_guest(cx, 2 * PAGE_SIZE);
        let of = open(cx, "/file", OpenFlags::empty()).unwrap();
        host.file("/file").write_at(19, b" and more").unwrap();
        assert_eq!(user_read(cx, &of, GUEST, 0, 100).unwrap(), 28);
        assert_eq!(user_read(cx, &of, GUEST, 19, 100).unwrap(), 9);
    });
}
