//! Host files that answer late: who reads waits, nobody else does.

use super::*;
use crate::testing::thread;
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
        host.fail(hal::mock::HostOp::ReadAt, 0, Errno::EIO);
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
