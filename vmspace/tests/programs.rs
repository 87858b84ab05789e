//! Programs that begin where a session goes on: their address spaces are prepared beside it, and emptied when nobody waits for that.

mod rig;

use rig::{CODE, DATA, NR, Rig, children, jump_back, keep_busy, other_cpu, start};
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use vmspace::{Exit, Op, UpdateError, Vmspace};

/// Where the program's code and its pages of data are in RAM.
const PROGRAM: u64 = 0x20_000;
const PAGES: [u64; 3] = [0x30_000, 0x31_000, 0x32_000];

/// `mov eax, 39 ; syscall ; mov rax, [DATA] ; add rbx, rax ; jmp back`: calls that trap.
fn program() -> Vec<u8> {
    let mut code = vec![0xb8, NR as u8, 0, 0, 0, 0x0f, 0x05, 0x48, 0x8b, 0x04, 0x25];
    code.extend((DATA as u32).to_le_bytes());
    code.extend([0x48, 0x01, 0xc3]);
    jump_back(&mut code, 0xeb);
    code
}

/// Starts the program in a space of its own and serves some of its calls, with another page of data for each.
fn run_program(rig: &Rig, round: u64) -> Vmspace {
    let space = rig.engine.create(Some(0)).unwrap();
    space.expect_program(0);
    let map = |at, prot, offset| Op::MapRam { at, len: 4096, prot, offset, populate: true };
    space.begin_update(0, &[map(CODE, rig::RX, PROGRAM), map(DATA, rig::RW, PAGES[0])]).unwrap();
    if round % 7 == 3 {
        // It never begins.
        return space;
    }
    space.finish_update().unwrap();
    let (mut context, mut sum) = (start(CODE), 0);
    for i in 0..10 + round % 5 {
        match space.run(0, &mut context, &other_cpu) {
            Exit::Syscall { nr: NR, ip, .. } => assert_eq!(ip, CODE + 7),
            exit => panic!("{exit:?}"),
        }
        assert_eq!(context.regs().rbx, sum, "round {round}, call {i}");
        let page = (round + i) as usize % PAGES.len();
        space.update(0, &[map(DATA, rig::RW, PAGES[page])]).unwrap();
        sum += 1000 + page as u64;
        context.set_syscall_result(i);
    }
    space
}

/// Whether a process shows anything below the stub region.
fn shows_something(pid: i32) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let start = |line: &str| line.split('-').next().and_then(|at| u64::from_str_radix(at, 16).ok());
    maps.lines().filter_map(start).any(|at| at < 0x7fff_0000_0000)
}

#[test]
fn changes_that_were_begun_fail_when_they_are_waited_for() {
    let rig = Rig::new();
    let (outer, mut context) = rig.busy();
    let map = |at| Op::MapRam { at, len: 4096, prot: rig::RW, offset: PROGRAM, populate: false };
    let hole = || Op::Protect { at: DATA + (1 << 20), len: 4096, prot: rig::RW };
    for _ in 0..50 {
        keep_busy(&outer, &mut context);
        let space = rig.engine.create(Some(0)).unwrap();
        space.expect_program(0);
        let failed = |index| Err(UpdateError::Failed { index, errno: libc::ENOMEM });
        let at_last = |begun: Result<(), UpdateError>| begun.and_then(|()| space.finish_update());
        assert_eq!(at_last(space.begin_update(0, &[map(CODE), hole(), map(DATA)])), failed(1));
        assert_eq!(space.finish_update(), Ok(()), "once");
        // Or when something else is changed.
        if space.begin_update(0, &[map(CODE), map(DATA), hole()]).is_ok() {
            assert_eq!(space.update(0, &[map(DATA)]), failed(2));
        }
        assert_eq!(space.update(0, &[map(DATA)]), Ok(()));
    }
}

#[test]
fn programs_that_begin_in_a_session_are_served_and_leave_nothing() {
    let rig = Rig::new();
    let (outer, mut context) = rig.busy();
    rig.ram.write_all_at(&program(), PROGRAM).unwrap();
    for (i, page) in (0u64..).zip(PAGES) {
        rig.ram.write_all_at(&(1000 + i).to_le_bytes(), page).unwrap();
    }
    for round in 0..400 {
        keep_busy(&outer, &mut context);
        let space = run_program(&rig, round);
        if round % 3 == 0 {
            // Another one before this is gone.
            run_program(&rig, round + 1);
        }
        drop(space);
    }
    drop((context, outer));
    let deadline = Instant::now() + Duration::from_secs(20);
    while children().into_iter().any(shows_something) {
        assert!(Instant::now() < deadline, "what was put off is done");
        rig.engine.tidy();
        std::thread::yield_now();
    }
}
