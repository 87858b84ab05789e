//! Splice and tee between pipes, and standard streams of the outside.

use crate::fs::{OpenFile, OpenFlags};
use crate::ipc::splice::{Position, splice, tee};
use crate::ipc::{EventFd, open_host_stream, pipe_new};
use crate::task::Cx;
use crate::testing::{config, run, run_on};
use crate::wait::PollEvents;
use abi::Errno;
use hal::mock::MockMachine;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

fn write(cx: &Cx, of: &OpenFile, mut bytes: &[u8]) -> Result<usize, Errno> {
    of.file.write(cx, of, &mut of.pos(), &mut bytes).map_err(|e| e.errno())
}

fn read(cx: &Cx, of: &OpenFile, max: usize) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0; max];
    let count = of.file.read(cx, of, &mut of.pos(), &mut &mut buf[..]).map_err(|e| e.errno())?;
    buf.truncate(count);
    Ok(buf)
}

#[test]
fn splice_moves_and_tee_copies() {
    run(|cx| {
        let (r1, w1) = pipe_new(cx, OpenFlags::NONBLOCK);
        let (r2, w2) = pipe_new(cx, OpenFlags::NONBLOCK);
        write(cx, &w1, b"abcdef").unwrap();
        assert_eq!(tee(cx, &r1, &w2, 3, true).unwrap(), 3);
        assert_eq!(splice(cx, &r1, &w2, Position::Own, 4, true).unwrap(), 4);
        assert_eq!(read(cx, &r2, 100).unwrap(), b"abcabcd");
        assert_eq!(read(cx, &r1, 100).unwrap(), b"ef");
        let again = splice(cx, &r1, &w2, Position::Own, 4, true);
        assert_eq!(again.unwrap_err().errno(), Errno::EAGAIN);
        assert_eq!(tee(cx, &r1, &w1, 4, true).unwrap_err().errno(), Errno::EINVAL, "the same pipe");
    });
}

#[test]
fn what_the_target_refuses_stays_in_the_pipe() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::NONBLOCK);
        write(cx, &w, b"12345678rest").unwrap();
        let event =
            OpenFile::new(cx.kernel, Arc::new(EventFd::new(0, false, 0)), None, None, OpenFlags::RDWR);
        // The counter takes eight bytes, and then complains about four.
        assert_eq!(splice(cx, &r, &event, Position::Own, 12, true).unwrap(), 8);
        write(cx, &w, b" and more").unwrap();
        assert_eq!(read(cx, &r, 100).unwrap(), b"rest and more");
    });
}

#[test]
fn a_read_waits_for_the_outside() {
    let machine = MockMachine::builder().wait_for_outside().build();
    let outside = machine.clone();
    let got = run_on(machine, config(), move |cx| {
        let input = open_host_stream(cx, 0).unwrap();
        assert_eq!(input.file.poll(cx, &input, None), PollEvents::WRITABLE);
        let feeder = std::thread::spawn(move || outside.mock_stream(0).feed(b"typed"));
        let bytes = read(cx, &input, 100).unwrap();
        feeder.join().unwrap();
        bytes
    });
    assert_eq!(got, b"typed");
}

#[test]
fn output_keeps_its_order_and_the_lost_reader_is_an_error() {
    let machine = MockMachine::builder().build();
    let outside = machine.clone();
    run_on(machine, config(), move |cx| {
        let out = open_host_stream(cx, 1).unwrap();
        write(cx, &out, b"one ").unwrap();
        write(cx, &out, b"two").unwrap();
        assert_eq!(outside.mock_stream(1).take_output(), b"one two");
        outside.mock_stream(1).close_reader();
        assert_eq!(write(cx, &out, b"x"), Err(Errno::EPIPE));
        assert!(out.file.poll(cx, &out, None).contains(PollEvents::ERR));
    });
}
