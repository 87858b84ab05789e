//! The mock has to be right before anything is tested with it.

use super::*;
use crate::{
    Backing, FiberState, MapOp, NewNode, OpenMode, PhysAddr, Populate, Prot, Readiness, SetAttr, StreamKind,
    Suspend, VirtAddr, WindowSize,
};
use abi::Errno;
use abi::fs::{DeviceId, FileType};
use std::string::ToString;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::vec;

const CPU0: CpuId = CpuId(0);
const CPU1: CpuId = CpuId(1);

#[test]
fn ram_reads_back_across_chunks_and_gives_back_what_is_discarded() {
    let m = MockMachine::builder().memory(1 << 20).build();
    let ram = m.ram();
    assert_eq!(m.mock_ram().resident(), 0);
    ram.write(PhysAddr(65530), b"hello world!");
    let mut buf = [0; 12];
    ram.read(PhysAddr(65530), &mut buf);
    assert_eq!(&buf, b"hello world!");
    ram.copy(PhysAddr(65530), PhysAddr(500_000), 12);
    ram.read(PhysAddr(500_000), &mut buf);
    assert_eq!(&buf, b"hello world!");
    assert_eq!(m.mock_ram().resident(), 3 << 16);
    ram.discard(PhysAddr(0), 1 << 20);
    assert_eq!(m.mock_ram().resident(), 0);
    ram.read(PhysAddr(65530), &mut buf);
    assert_eq!(buf, [0; 12]);
}

#[test]
fn ram_words_swap_only_when_equal() {
    let m = MockMachine::new();
    assert_eq!(m.ram().compare_exchange_u32(PhysAddr(8), 0, 7), Ok(0));
    assert_eq!(m.ram().compare_exchange_u32(PhysAddr(8), 0, 9), Err(7));
    assert_eq!(m.ram().load_u32(PhysAddr(8)), 7);
}

#[test]
#[should_panic(expected = "outside")]
fn ram_refuses_what_is_outside() {
    MockMachine::builder().memory(4096).build().ram().read(PhysAddr(4090), &mut [0; 7]);
}

#[test]
fn time_moves_only_when_told_or_idle() {
    let m = MockMachine::builder().realtime_ns(1_000).build();
    assert_eq!(m.clock_ns(ClockId::Monotonic), 0);
    m.advance(5);
    assert_eq!((m.clock_ns(ClockId::Monotonic), m.clock_ns(ClockId::Realtime)), (5, 1_005));
    m.cpu().idle(CPU0, Some(50));
    assert_eq!(m.clock_ns(ClockId::Monotonic), 50);
    m.cpu().set_alarm(CPU0, Some(70));
    m.cpu().idle(CPU0, None);
    assert_eq!(m.clock_ns(ClockId::Monotonic), 70);
    m.cpu().interrupt(CPU0);
    m.cpu().idle(CPU0, Some(1_000_000));
    assert_eq!(m.clock_ns(ClockId::Monotonic), 70);
    m.set_realtime(9_000);
    assert_eq!(m.clock_ns(ClockId::Realtime), 9_000);
}

#[test]
fn alarms_interrupt_once_and_can_be_cancelled() {
    let m = MockMachine::new();
    m.cpu().set_alarm(CPU0, Some(10));
    m.cpu().set_alarm(CPU0, None);
    m.advance(20);
    assert!(!m.mock_cpu().is_interrupted(CPU0));
    m.cpu().set_alarm(CPU0, Some(15));
    assert!(m.mock_cpu().is_interrupted(CPU0), "an alarm in the past rings at once");
    assert_eq!(m.mock_cpu().alarm(CPU0), None);
}

#[test]
#[should_panic(expected = "every CPU is idle")]
fn eternal_idleness_is_an_error() {
    MockMachine::new().cpu().idle(CPU0, None);
}

#[test]
fn two_cpus_wake_each_other_and_share_the_clock() {
    let m = MockMachine::builder().cpus(2).build();
    let woken = AtomicUsize::new(0);
    m.run_cpus(|cpu| {
        if cpu == CPU1 {
            m.cpu().idle(cpu, None);
            woken.fetch_add(1, Ordering::SeqCst);
        } else {
            m.cpu().idle(cpu, Some(100));
            assert_eq!(m.clock_ns(ClockId::Monotonic), 100);
            m.cpu().interrupt(CPU1);
            m.cpu().idle(cpu, Some(300));
        }
    });
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(m.clock_ns(ClockId::Monotonic), 300);
}

#[test]
fn a_fiber_suspends_moves_and_finishes() {
    let m = MockMachine::builder().cpus(2).build();
    let (send, receive) = mpsc::channel();
    let entry = move |s: &dyn Suspend| {
        send.send(s.cpu().0).unwrap();
        s.suspend();
        send.send(s.cpu().0 + 10).unwrap();
    };
    let mut fiber = m.fibers().spawn(Box::new(entry)).unwrap();
    assert_eq!(m.mock_fibers().live_threads(), 0);
    assert_eq!(fiber.resume(CPU0), FiberState::Suspended);
    assert_eq!(receive.try_recv(), Ok(0));
    assert!(receive.try_recv().is_err());
    assert_eq!(fiber.resume(CPU1), FiberState::Finished);
    assert_eq!(receive.try_recv(), Ok(11));
    assert_eq!(m.mock_fibers().live_threads(), 0);
}

#[test]
fn a_panicking_fiber_says_why_and_a_dropped_one_unwinds() {
    let m = MockMachine::new();
    let mut fiber = m.fibers().spawn(Box::new(|_| panic!("oops {}", 7))).unwrap();
    assert_eq!(fiber.resume(CPU0), FiberState::Panicked("oops 7".to_string()));

    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = Count(dropped.clone());
    let entry = move |s: &dyn Suspend| {
        let _count = count;
        s.suspend();
        unreachable!("it is dropped while suspended");
    };
    let mut fiber = m.fibers().spawn(Box::new(entry)).unwrap();
    assert_eq!(fiber.resume(CPU0), FiberState::Suspended);
    drop(fiber);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(m.mock_fibers().live_threads(), 0);
    m.mock_fibers().fail_next(1);
    assert!(m.fibers().spawn(Box::new(|_| ())).is_none());
    assert!(m.fibers().spawn(Box::new(|_| ())).is_some());
}

fn map(at: u64, len: u64, prot: Prot, frame: u64) -> MapOp<'static> {
    let backing = Backing::Ram(PhysAddr(frame));
    MapOp::Map { at: VirtAddr(at), len, prot, backing, populate: Populate::OnTouch }
}

#[test]
fn a_space_shows_what_was_mapped() {
    let m = MockMachine::new();
    let space = m.new_space().unwrap();
    let rw = Prot::READ | Prot::WRITE;
    let ops = [
        map(0x1000, 0x4000, rw, 0x8000),
        MapOp::Unmap { at: VirtAddr(0x2000), len: 0x1000 },
        MapOp::Protect { at: VirtAddr(0x4000), len: 0x1000, prot: Prot::READ },
    ];
    space.update(CPU0, &ops).unwrap();
    let mock = MockSpace::of(&*space);
    let expect = |at, len, prot, frame| MockMapping {
        at: VirtAddr(at),
        len,
        prot,
        backing: MockBacking::Ram(PhysAddr(frame)),
    };
    assert_eq!(
        mock.mappings(),
        [
            expect(0x1000, 0x1000, rw, 0x8000),
            expect(0x3000, 0x1000, rw, 0xa000),
            expect(0x4000, 0x1000, Prot::READ, 0xb000)
        ]
    );
    assert_eq!(mock.frame(VirtAddr(0x3fff)), Some(PhysAddr(0xa000)));
    assert_eq!(mock.guest_write(VirtAddr(0x1ffe), b"xyz"), Err(VirtAddr(0x2000)));
    assert_eq!(mock.guest_write(VirtAddr(0x3ffe), b"xyz"), Err(VirtAddr(0x4000)));
    mock.guest_write(VirtAddr(0x1004), b"abc").unwrap();
    let mut buf = [0; 3];
    m.ram().read(PhysAddr(0x8004), &mut buf);
    assert_eq!(&buf, b"abc");
    assert_eq!(mock.take_ops().len(), 3);
    assert_eq!(m.live_spaces(), 1);
    drop(space);
    assert_eq!(m.live_spaces(), 0);
}

#[test]
fn updates_fail_when_told() {
    let m = MockMachine::new();
    let space = m.new_space().unwrap();
    m.fail_next_update_after(1, SpaceError::NoMemory);
    let ops = [map(0x1000, 0x1000, Prot::READ, 0), map(0x9000, 0x1000, Prot::READ, 0)];
    assert_eq!(space.update(CPU0, &ops), Err(SpaceError::NoMemory));
    assert_eq!(MockSpace::of(&*space).mappings().len(), 1);
    assert_eq!(space.update(CPU0, &ops), Ok(()));
    m.fail_next_space(SpaceError::NoMemory);
    assert!(m.new_space().is_err());
}

#[test]
fn scripts_run_context_first_and_results_are_recorded() {
    let m = MockMachine::new();
    let space = m.new_space().unwrap();
    let mut ctx = m.new_context();
    let call = |nr| Exit::Syscall { nr, args: [1, 2, 3, 4, 5, 6], ip: 0x400 };
    m.push_exit(call(3));
    MockSpace::of(&*space).push_exit(call(2));
    MockContext::of(&mut *ctx).push_exit(call(1));
    m.cpu().interrupt(CPU0);
    assert_eq!(space.run(CPU0, &mut *ctx), Exit::Interrupted);
    for nr in 1..=3 {
        assert_eq!(space.run(CPU0, &mut *ctx), call(nr));
        assert_eq!((ctx.regs().rax, ctx.regs().r9, ctx.regs().rip), (nr, 6, 0x400));
        ctx.set_syscall_result(nr * 10);
    }
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Dead(_)));
    let mut copy = ctx.duplicate();
    assert_eq!(copy.regs().rax, 30);
    assert_eq!(m.take_results(), [(0, 10), (0, 20), (0, 30)]);
}

#[test]
fn the_host_tree_answers_like_a_host() {
    let m = MockMachine::new();
    let fs = m.mock_fs();
    fs.add_file("/etc/passwd", 0o644, b"root:x:0:0\n").chown(0, 42);
    fs.add_symlink("/link", "etc/passwd");
    fs.add_special("/dev/null", FileType::CharDevice, 0o666, DeviceId::new(1, 3));
    let root = m.host_fs().unwrap().open_path("/").unwrap();
    assert_eq!(root.read_dir().unwrap().len(), 3);
    for bad in [&b".."[..], b".", b"", b"a/b"] {
        assert_eq!(root.lookup(bad).err(), Some(Errno::EINVAL));
    }
    let link = root.lookup(b"link").unwrap();
    assert_eq!(link.read_link().unwrap(), b"etc/passwd");
    assert_eq!(link.open(OpenMode::Read).err(), Some(Errno::ELOOP));
    let followed = m.host_fs().unwrap().open_path("/link").unwrap();
    assert_eq!((followed.attr().unwrap().gid, followed.attr().unwrap().size), (42, 11));
    let etc = root.lookup(b"etc").unwrap();
    let new = etc.create(b"new", NewNode::File, 0o600).unwrap();
    let file = new.open(OpenMode::ReadWrite).unwrap();
    assert_eq!(file.write_at(3, b"data"), Ok(4));
    assert_eq!(fs.content("/etc/new"), b"\0\0\0data");
    etc.rename(b"new", &*root, b"old", 0).unwrap();
    assert!(!fs.exists("/etc/new") && fs.exists("/old"));
    root.link(b"second", &*root.lookup(b"old").unwrap()).unwrap();
    assert_eq!(new.attr().unwrap().nlink, 2);
    new.set_attr(&SetAttr { mode: Some(0o4755), size: Some(2), ..SetAttr::default() }).unwrap();
    assert_eq!((new.attr().unwrap().mode, new.attr().unwrap().size), (0o104755, 2));
    assert_eq!(root.unlink(b"etc", true), Err(Errno::ENOTEMPTY));
    assert_eq!(root.unlink(b"etc", false), Err(Errno::EISDIR));
    assert_eq!(root.unlink(b"old", false), Ok(()));
    new.set_xattr(b"user.a", b"1", 0).unwrap();
    assert_eq!(new.list_xattr().unwrap(), vec![b"user.a".to_vec()]);
    fs.fail(HostOp::ReadAt, 1, Errno::EIO);
    assert_eq!(file.read_at(0, &mut [0; 9]), Ok(2));
    assert_eq!(file.read_at(0, &mut [0; 9]), Err(Errno::EIO));
}

#[test]
fn a_shared_file_mapping_reaches_the_file() {
    let m = MockMachine::new();
    m.mock_fs().add_file("/f", 0o644, b"abcdef");
    let file = m.mock_fs().file("/f");
    let space = m.new_space().unwrap();
    let backing = Backing::File { file: &file, offset: 0, shared: true };
    let prot = Prot::READ | Prot::WRITE;
    space
        .update(
            CPU0,
            &[MapOp::Map { at: VirtAddr(0x1000), len: 0x1000, prot, backing, populate: Populate::Now }],
        )
        .unwrap();
    MockSpace::of(&*space).guest_write(VirtAddr(0x1002), b"XY").unwrap();
    assert_eq!(m.mock_fs().content("/f"), b"abXYef");
}

#[test]
fn streams_are_scripted_and_watched() {
    let m = MockMachine::new();
    let (stdin, stdout) = (m.stream(0).unwrap(), m.stream(1).unwrap());
    let mut buf = [0; 4];
    assert_eq!(stdin.read(&mut buf), Err(Errno::EAGAIN));
    stdin.watch(Readiness::READ);
    assert_eq!(m.next_event(), None);
    m.mock_stream(0).feed(b"hello");
    assert_eq!(m.next_event(), Some(Event::Stream(0)));
    assert_eq!(m.next_event(), None, "one watch, one event");
    assert!(m.mock_cpu().is_interrupted(CPU0));
    assert_eq!((stdin.read(&mut buf), &buf), (Ok(4), b"hell"));
    m.mock_stream(0).end_input();
    assert_eq!((stdin.read(&mut buf), stdin.read(&mut buf)), (Ok(1), Ok(0)));
    m.mock_stream(1).limit_output(3);
    assert_eq!((stdout.write(b"abcd"), stdout.write(b"d")), (Ok(3), Err(Errno::EAGAIN)));
    assert_eq!(m.mock_stream(1).take_output(), b"abc");
    m.mock_stream(1).close_reader();
    assert_eq!(stdout.write(b"d"), Err(Errno::EPIPE));
    m.mock_stream(2).set_kind(StreamKind::Terminal);
    m.mock_stream(2).resize(WindowSize { rows: 25, cols: 80, ..WindowSize::default() });
    assert_eq!(m.next_event(), Some(Event::WindowSize));
    assert!(m.stream(3).is_none());
}

#[test]
fn entropy_is_seeded_and_the_log_is_kept() {
    let draw = |seed| {
        let mut buf = [0; 16];
        MockMachine::builder().seed(seed).build().entropy(&mut buf);
        buf
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let m = MockMachine::builder().log_level(LogLevel::Warn).build();
    m.log(LogLevel::Info, "quiet");
    m.log(LogLevel::Error, "loud");
    assert_eq!(m.take_log(), [(LogLevel::Error, "loud".to_string())]);
    m.raise(Event::Terminate(15));
    assert_eq!(m.next_event(), Some(Event::Terminate(15)));
}

#[test]
fn code_makes_system_calls_and_faults_until_mapped() {
    let m = MockMachine::new();
    let space = m.new_space().unwrap();
    let mut ctx = m.new_context();
    m.code(0x400000, |g| {
        assert_eq!(g.syscall(39, &[]), 77);
        g.store(0x1ffc, b"12345678");
        let value = g.load_u64(0x1ffc);
        g.compute(1000);
        g.syscall(60, &[value]);
    });
    ctx.regs().rip = 0x400000;
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 39, .. }));
    ctx.set_syscall_result(77);
    for page in [0x1000, 0x2000] {
        let Exit::Fault(fault) = space.run(CPU0, &mut *ctx) else { panic!("no fault") };
        assert!(fault.is_write() && fault.error & 1 == 0 && fault.code == 1);
        assert_eq!(fault.addr & !0xfff, page);
        space.update(CPU0, &[map(page, 0x1000, Prot::READ | Prot::WRITE, page)]).unwrap();
    }
    m.cpu().set_alarm(CPU0, Some(500));
    assert_eq!(space.run(CPU0, &mut *ctx), Exit::Interrupted);
    assert_eq!(m.clock_ns(ClockId::Monotonic), 1000);
    let Exit::Syscall { nr: 60, args, .. } = space.run(CPU0, &mut *ctx) else { panic!("no exit") };
    assert_eq!(args[0].to_ne_bytes(), *b"12345678");
}

#[test]
fn a_handler_runs_on_top_and_returns_by_its_restorer() {
    let m = MockMachine::new();
    let space = m.new_space().unwrap();
    space.update(CPU0, &[map(0x1000, 0x1000, Prot::READ | Prot::WRITE, 0)]).unwrap();
    let mut ctx = m.new_context();
    m.code(0x400000, |g| {
        g.syscall(34, &[]);
        g.syscall(60, &[1]);
    });
    m.code(0x500000, |g| {
        g.syscall(39, &[]);
    });
    m.code(0x600000, |g| {
        g.syscall(15, &[]);
        unreachable!("sigreturn does not return");
    });
    ctx.regs().rip = 0x400000;
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 34, .. }));
    // As a kernel does: save, push the restorer's address, go to the handler.
    let saved = *ctx.regs();
    m.ram().write(PhysAddr(0x800), &0x600000u64.to_ne_bytes());
    (ctx.regs().rip, ctx.regs().rsp) = (0x500000, 0x1800);
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 39, .. }));
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 15, .. }));
    assert_eq!(ctx.regs().rsp, 0x1808);
    *ctx.regs() = saved;
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 60, .. }));
}

#[test]
fn restarted_calls_forks_execs_and_lost_control() {
    let m = MockMachine::new();
    let space = m.new_space().unwrap();
    let mut ctx = m.new_context();
    m.code(0x400000, |g| {
        assert_eq!(g.syscall(35, &[5]), 9);
        assert_eq!(g.fork(57, &[], |g| _ = g.syscall(60, &[100])), 2);
        g.syscall(59, &[]);
        unreachable!("exec does not return");
    });
    m.code(0x700000, |g| _ = g.syscall(60, &[200]));
    ctx.regs().rip = 0x400000;
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 35, .. }));
    ctx.regs().rip -= 2;
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 35, args: [5, ..], .. }));
    ctx.set_syscall_result(9);
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 57, .. }));
    let mut child = ctx.duplicate();
    child.set_syscall_result(0);
    ctx.set_syscall_result(2);
    assert!(matches!(space.run(CPU0, &mut *child), Exit::Syscall { nr: 60, args: [100, ..], .. }));
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 59, .. }));
    ctx.regs().rip = 0x700000;
    assert!(matches!(space.run(CPU0, &mut *ctx), Exit::Syscall { nr: 60, args: [200, ..], .. }));
    ctx.regs().rip = 0x1234;
    let Exit::Fault(fault) = space.run(CPU0, &mut *ctx) else { panic!("no fault") };
    assert!(fault.is_exec() && fault.addr == 0x1234, "{fault:?}");
}
