//! Pipes: capacity, atomicity, packets, ends that go, wake-ups.

use crate::error::{Error, Result};
use crate::fs::{OpenFile, OpenFlags};
use crate::ipc::pipe_new;
use crate::signal::{SigInfo, sig};
use crate::task::Cx;
use crate::testing::{config, run, run_on, thread};
use crate::wait::PollEvents;
use abi::Errno;
use hal::mock::MockMachine;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

fn write(cx: &Cx, of: &OpenFile, bytes: &[u8]) -> Result<usize> {
    let mut source = bytes;
    of.file.write(cx, of, &mut 0, &mut source)
}

fn read(cx: &Cx, of: &OpenFile, max: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0; max];
    let mut sink = &mut buf[..];
    let count = of.file.read(cx, of, &mut 0, &mut sink)?;
    buf.truncate(count);
    Ok(buf)
}

fn poll(cx: &Cx, of: &OpenFile) -> PollEvents {
    of.file.poll(cx, of, None)
}

#[test]
fn bytes_come_out_in_order_and_then_the_end() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::empty());
        write(cx, &w, b"hello ").unwrap();
        write(cx, &w, b"world").unwrap();
        assert_eq!(read(cx, &r, 3).unwrap(), b"hel");
        assert_eq!(read(cx, &r, 100).unwrap(), b"lo world");
        drop(w);
        assert_eq!(read(cx, &r, 100).unwrap(), b"");
    });
}

#[test]
fn large_writes_take_the_pages_that_they_fill() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::NONBLOCK);
        let data: Vec<u8> = (0..20 * 4096u32).map(|i| (i / 7) as u8).collect();
        let first = 10 * 4096 + 100;
        assert_eq!(write(cx, &w, &data[..first]).unwrap(), first);
        // What is missing of the eleventh page is not filled by a write that does not fit there.
        let second = write(cx, &w, &data[first..first + 6 * 4096]).unwrap();
        assert_eq!(second, 5 * 4096);
        assert_eq!(write(cx, &w, b"x").unwrap_err().errno(), Errno::EAGAIN);
        assert_eq!(read(cx, &r, 4095).unwrap(), data[..4095]);
        assert_eq!(write(cx, &w, b"x").unwrap_err().errno(), Errno::EAGAIN);
        assert_eq!(read(cx, &r, 4097).unwrap(), data[4095..8192]);
        // Two pages are free now.
        let third = write(cx, &w, &data[first + second..first + second + 3 * 4096]).unwrap();
        assert_eq!(third, 2 * 4096);
        let mut rest = Vec::new();
        while let Ok(bytes) = read(cx, &r, 5000) {
            rest.extend(bytes);
        }
        assert_eq!(rest, data[8192..first + second + third]);
    });
}

#[test]
fn capacity_counts_pages() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::NONBLOCK);
        // Writes of 3000 bytes do not share a page: sixteen fit.
        for _ in 0..16 {
            assert_eq!(write(cx, &w, &[7; 3000]).unwrap(), 3000);
        }
        assert_eq!(write(cx, &w, &[7; 3000]).unwrap_err().errno(), Errno::EAGAIN);
        // A small one still goes into the last page.
        assert_eq!(write(cx, &w, &[7; 1000]).unwrap(), 1000);
        assert!(!poll(cx, &w).contains(PollEvents::OUT));
        read(cx, &r, 2999).unwrap();
        assert!(!poll(cx, &w).contains(PollEvents::OUT), "a page is free only when all of it was read");
        read(cx, &r, 1).unwrap();
        assert!(poll(cx, &w).contains(PollEvents::OUT));
    });
}

#[test]
fn single_bytes_fill_all_of_it() {
    run(|cx| {
        let (_r, w) = pipe_new(cx, OpenFlags::NONBLOCK);
        let mut count = 0;
        while write(cx, &w, b"x").is_ok() {
            count += 1;
        }
        assert_eq!(count, 65536);
    });
}

#[test]
fn a_large_nonblocking_write_is_cut_and_a_small_one_is_not() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::NONBLOCK);
        assert_eq!(write(cx, &w, &vec![1; 100_000]).unwrap(), 65536);
        read(cx, &r, 4095).unwrap();
        assert_eq!(write(cx, &w, &[2; 4096]).unwrap_err().errno(), Errno::EAGAIN);
        read(cx, &r, 1).unwrap();
        assert_eq!(write(cx, &w, &[2; 4096]).unwrap(), 4096);
    });
}

#[test]
fn packets_keep_their_limits() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::DIRECT);
        write(cx, &w, b"first").unwrap();
        write(cx, &w, b"second").unwrap();
        write(cx, &w, &[9; 5000]).unwrap();
        assert_eq!(read(cx, &r, 3).unwrap(), b"fir");
        assert_eq!(read(cx, &r, 100).unwrap(), b"second");
        assert_eq!(read(cx, &r, 10_000).unwrap().len(), 4096);
        assert_eq!(read(cx, &r, 10_000).unwrap().len(), 904);
    });
}

#[test]
fn a_write_without_a_reader_raises_sigpipe() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::empty());
        drop(r);
        assert_eq!(write(cx, &w, b"").unwrap(), 0);
        assert!(poll(cx, &w).contains(PollEvents::ERR | PollEvents::OUT));
        assert_eq!(write(cx, &w, b"x").unwrap_err().errno(), Errno::EPIPE);
        assert!(cx.task.signals.lock().pending.set().has(sig::PIPE));
    });
}

#[test]
fn readiness_of_both_ends() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::empty());
        assert_eq!(poll(cx, &r), PollEvents::empty());
        assert_eq!(poll(cx, &w), PollEvents::WRITABLE);
        write(cx, &w, b"x").unwrap();
        assert_eq!(poll(cx, &r), PollEvents::READABLE);
        drop(w);
        assert_eq!(poll(cx, &r), PollEvents::READABLE | PollEvents::HUP);
        read(cx, &r, 1).unwrap();
        assert_eq!(poll(cx, &r), PollEvents::HUP);
    });
}

#[test]
fn a_blocked_writer_goes_on_as_the_reader_reads() {
    let total = run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::empty());
        thread(cx, move |cx| {
            assert_eq!(write(cx, &w, &vec![5; 1 << 20]).unwrap(), 1 << 20);
        });
        let mut total = 0;
        loop {
            let bytes = read(cx, &r, 10_000).unwrap();
            if bytes.is_empty() {
                return total;
            }
            assert!(bytes.iter().all(|&b| b == 5));
            total += bytes.len();
        }
    });
    assert_eq!(total, 1 << 20);
}

#[test]
fn every_blocked_reader_gets_its_byte() {
    let got = run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::empty());
        let got = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..4 {
            let (r, got) = (r.clone(), got.clone());
            thread(cx, move |cx| {
                let bytes = read(cx, &r, 1).unwrap();
                got.lock().unwrap().extend(bytes);
            });
        }
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        write(cx, &w, b"abcd").unwrap();
        cx.sleep(Some(cx.now_ns() + 1_000_000));
        got.lock().unwrap().len()
    });
    assert_eq!(got, 4);
}

#[test]
fn a_signal_interrupts_a_read_but_not_what_was_written() {
    run(|cx| {
        let (r, w) = pipe_new(cx, OpenFlags::empty());
        let main = cx.task.clone();
        thread(cx, move |cx| {
            cx.sleep(Some(cx.now_ns() + 1_000_000));
            main.process.send_signal(SigInfo::kernel(sig::TERM));
        });
        assert!(matches!(read(cx, &r, 1), Err(Error::Interrupted(_))));
        // The pending signal ends the next wait at once, after the pipe was filled.
        assert_eq!(write(cx, &w, &vec![1; 100_000]).unwrap(), 65536);
    });
}

#[test]
fn what_is_in_pipes_is_held_against_ram() {
    let machine = MockMachine::builder().memory(4 << 20).build();
    run_on(machine, config(), |cx| {
        let free = cx.kernel.frames.available();
        let mut pipes = Vec::new();
        let full = loop {
            let (r, w) = pipe_new(cx, OpenFlags::NONBLOCK);
            let result = write(cx, &w, &[7; 65536]);
            pipes.push((r, w));
            match result {
                Ok(65536) => assert!(pipes.len() < 100, "no end"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(full.errno(), Errno::ENOMEM);
        assert_eq!(cx.kernel.frames.available(), 0);
        assert_eq!(cx.kernel.frames.alloc().map(drop).unwrap_err().errno(), Errno::ENOMEM);
        // What was read makes room, and so do pipes that go.
        assert_eq!(read(cx, &pipes[0].0, 65536).unwrap().len(), 65536);
        assert_eq!(write(cx, &pipes[0].1, &[7; 65536]).unwrap(), 65536);
        pipes.clear();
        assert_eq!(cx.kernel.frames.available(), free);
    });
}
