//! Streams over real pipes, files, devices, sockets and terminals.

use super::*;
use crate::cpu::LinuxCpus;
use crate::io::{IoParts, IoThread};
use hal::{Cpu, CpuId};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

struct Rig {
    cpus: Arc<LinuxCpus>,
    events: Arc<Events>,
    stream: Arc<LinuxStream>,
    _io: IoThread,
}

/// A stream of index 0 on a descriptor, with its I/O thread.
fn rig(fd: RawFd) -> Rig {
    let cpus = Arc::new(LinuxCpus::new(1).unwrap());
    let events = Arc::new(Events::new(cpus.clone()));
    let poller = Arc::new(Poller::new().unwrap());
    let slot: Arc<OnceLock<Arc<LinuxStream>>> = Arc::default();
    let inner = slot.clone();
    let parts = IoParts {
        poller: poller.clone(),
        events: events.clone(),
        cpus: cpus.clone(),
        signals: None,
        terminal: None,
        ready: Box::new(move |_| inner.get().is_some_and(|s| s.fired())),
        resumed: Box::new(|| ()),
    };
    let io = IoThread::start(parts).unwrap();
    let stream = Arc::new(LinuxStream::new(0, fd, poller, events.clone()));
    slot.set(stream.clone()).ok().unwrap();
    Rig { cpus, events, stream, _io: io }
}

impl Rig {
    fn wait_event(&self) -> Event {
        loop {
            if let Some(event) = self.events.pop() {
                return event;
            }
            self.cpus.idle(CpuId(0), None);
        }
    }
}

#[test]
fn a_pipe_says_eagain_then_data_then_end() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let rig = rig(reader.as_raw_fd());
    let mut buf = [0; 8];
    assert_eq!(rig.stream.kind(), StreamKind::Pipe);
    assert_eq!(rig.stream.read(&mut buf), Err(Errno::EAGAIN));
    assert_eq!(rig.stream.readiness(), Readiness::empty());
    rig.stream.watch(Readiness::READ);
    writer.write_all(b"hello").unwrap();
    assert_eq!(rig.wait_event(), Event::Stream(0));
    assert_eq!((rig.stream.read(&mut buf), &buf[..5]), (Ok(5), &b"hello"[..]));
    rig.stream.watch(Readiness::READ);
    drop(writer);
    assert_eq!(rig.wait_event(), Event::Stream(0));
    assert_eq!(rig.stream.read(&mut buf), Ok(0));
    assert!(rig.stream.readiness().contains(Readiness::READ | Readiness::HANGUP));
    let flags = rustix::fs::fcntl_getfl(&reader).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK), "the shared description was changed");
}

#[test]
fn a_full_pipe_says_eagain_and_a_broken_one_epipe() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let rig = rig(writer.as_raw_fd());
    let block = vec![7; 1 << 20];
    let first = rig.stream.write(&block).unwrap();
    assert!(first < block.len());
    assert_eq!(rig.stream.write(&block), Err(Errno::EAGAIN));
    rig.stream.watch(Readiness::WRITE);
    let mut buf = vec![0; first];
    reader.read_exact(&mut buf).unwrap();
    assert_eq!(rig.wait_event(), Event::Stream(0));
    assert!(rig.stream.write(&block).unwrap() > 0);
    drop(reader);
    assert_eq!(rig.stream.write(b"x"), Err(Errno::EPIPE));
}

#[test]
fn a_socket_does_not_block() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let rig = rig(a.as_raw_fd());
    let mut buf = [0; 8];
    assert_eq!(rig.stream.read(&mut buf), Err(Errno::EAGAIN));
    b.write_all(b"abc").unwrap();
    assert_eq!(rig.stream.read(&mut buf), Ok(3));
    assert_eq!(rig.stream.write(b"xy"), Ok(2));
    drop(b);
    assert_eq!(rig.stream.write(b"xy"), Err(Errno::EPIPE));
}

#[test]
fn a_file_is_always_ready_and_keeps_its_position() {
    let path = std::env::temp_dir().join(format!("vkernel-stream-{}", std::process::id()));
    let mut file =
        std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let rig = rig(file.as_raw_fd());
    assert_eq!(rig.stream.kind(), StreamKind::File);
    assert_eq!(rig.stream.write(b"0123456789"), Ok(10));
    assert_eq!(rig.stream.seek(-4, 2), Ok(6));
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "6789", "the position is shared with the host");
    rig.stream.watch(Readiness::READ);
    assert_eq!(rig.wait_event(), Event::Stream(0));
}

#[test]
fn dev_null_is_ready_and_empty() {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let rig = rig(null.as_raw_fd());
    assert_eq!(rig.stream.read(&mut [0; 4]), Ok(0));
    assert_eq!(rig.stream.write(b"abc"), Ok(3));
    rig.stream.watch(Readiness::READ);
    assert_eq!(rig.wait_event(), Event::Stream(0));
    assert_eq!(rig.stream.seek(0, 0), Err(Errno::ESPIPE));
}

#[test]
fn alarms_ring_in_order_and_can_be_cancelled() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let rig = rig(reader.as_raw_fd());
    let now = || crate::cpu::now_ns(libc::CLOCK_MONOTONIC);
    let start = now();
    rig.cpus.set_alarm(CpuId(0), Some(start + 3_600_000_000_000));
    rig.cpus.set_alarm(CpuId(0), Some(start + 3_000_000));
    rig.cpus.idle(CpuId(0), None);
    assert!(now() >= start + 3_000_000);
    rig.cpus.set_alarm(CpuId(0), Some(start));
    rig.cpus.idle(CpuId(0), None);
    let again = now();
    rig.cpus.set_alarm(CpuId(0), Some(again + 2_000_000));
    rig.cpus.set_alarm(CpuId(0), None);
    rig.cpus.idle(CpuId(0), Some(again + 8_000_000));
    assert!(now() >= again + 8_000_000, "a cancelled alarm rang");
}

#[test]
fn no_alarm_is_lost() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let rig = rig(reader.as_raw_fd());
    let now = || crate::cpu::now_ns(libc::CLOCK_MONOTONIC);
    // Ever later, ever earlier, close to the moment that the timer rings: a lost one hangs the test.
    for round in 0..3000u64 {
        let at = now() + (round * 7919) % 60_000;
        rig.cpus.set_alarm(CpuId(0), Some(at + 1_000_000_000));
        rig.cpus.set_alarm(CpuId(0), Some(at));
        while now() < at {
            rig.cpus.idle(CpuId(0), None);
        }
    }
}
