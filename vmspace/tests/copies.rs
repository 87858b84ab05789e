//! Copies of address spaces: each shows what it is told to, whatever those before it have left.

mod rig;

use rig::{CODE, NR, Rig, jump_back, keep_busy, memory_file, other_cpu, start};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use vmspace::{Context, Exit, Op, Vmspace};

const PAGE: u64 = 4096;
/// Where copies begin, in RAM, and their pages of data: in memory, in RAM and in a file.
const PROBE: u64 = 0x20_000;
const SLOTS: u64 = 0x60_0000;
const PAGES: u64 = 12;
const RAM: u64 = 0x40_000;
/// What the pages hold: these and their number.
const IN_RAM: u64 = 1000;
const IN_FILE: u64 = 2000;

/// `mov rsi, [rdi] ; mov eax, 39 ; syscall ; jmp back`: what is there?
fn probe() -> Vec<u8> {
    let mut code = vec![0x48, 0x8b, 0x37, 0xb8, NR as u8, 0, 0, 0, 0x0f, 0x05];
    jump_back(&mut code, 0xeb);
    code
}

/// What the thread finds at an address; `None` for a fault.
fn find(space: &Vmspace, context: &mut Context, at: u64) -> Option<u64> {
    let regs = context.regs();
    (regs.rip, regs.rdi) = (CODE, at);
    match space.run(0, context, &other_cpu) {
        Exit::Syscall { nr: NR, args, .. } => Some(args[1]),
        Exit::Fault { trapno: 14, addr, .. } => {
            assert_eq!(addr, at);
            None
        }
        exit => panic!("{exit:?}"),
    }
}

#[test]
fn a_copy_is_shown_what_it_is_told_and_nothing_of_the_one_before() {
    let rig = Rig::new();
    rig.ram.write_all_at(&probe(), PROBE).unwrap();
    let file = memory_file();
    for i in 0..PAGES {
        rig.ram.write_all_at(&(IN_RAM + i).to_le_bytes(), RAM + i * PAGE).unwrap();
        file.write_all_at(&(IN_FILE + i).to_le_bytes(), i * PAGE).unwrap();
    }
    file.set_len(PAGES * PAGE).unwrap();
    let (original, mut calling) = rig.busy();
    let mut state = 7u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let mut told = [None; PAGES as usize];
    for round in 0..300 {
        keep_busy(&original, &mut calling);
        let copy = rig.engine.create_copy(&original, Some(0)).unwrap();
        // A few pages are others than before.
        for _ in 0..random(4) {
            told[random(PAGES) as usize] = match random(4) {
                0 => None,
                1 => Some(IN_FILE + random(PAGES)),
                _ => Some(IN_RAM + random(PAGES)),
            };
        }
        let map = |at, what: u64| match what.checked_sub(IN_FILE) {
            Some(page) => {
                let (file, offset) = (file.as_fd(), page * PAGE);
                Op::MapFile { at, len: PAGE, prot: libc::PROT_READ, file, key: 5, offset, shared: false }
            }
            None => {
                let offset = RAM + (what - IN_RAM) * PAGE;
                Op::MapRam { at, len: PAGE, prot: rig::RW, offset, populate: false }
            }
        };
        let slot = |i: u64| SLOTS + i * PAGE;
        let code = Op::MapRam { at: CODE, len: PAGE, prot: rig::RX, offset: PROBE, populate: true };
        let shown = (0..).zip(told).filter_map(|(i, what)| Some(map(slot(i), what?)));
        copy.update(0, &[code].into_iter().chain(shown).collect::<Vec<_>>()).unwrap();
        let mut context = start(CODE);
        for (i, what) in (0..).zip(told) {
            assert_eq!(find(&copy, &mut context, slot(i)), what, "round {round}, page {i}");
        }
        // It changes something, which the next one must not see.
        let i = random(PAGES);
        let change = match random(4) {
            0 => Op::Unmap { at: slot(i), len: PAGE },
            1 if told[i as usize].is_some() => Op::Protect { at: slot(i), len: PAGE, prot: libc::PROT_NONE },
            _ => map(slot(i), IN_RAM + random(PAGES)),
        };
        copy.update(0, &[change]).unwrap();
        drop((context, copy));
        if random(20) == 0 {
            rig.engine.tidy();
        }
    }
    // Who is told nothing is shown nothing.
    let copy = rig.engine.create_copy(&original, Some(0)).unwrap();
    let exit = copy.run(0, &mut start(CODE), &other_cpu);
    assert!(matches!(exit, Exit::Fault { trapno: 14, addr: CODE, .. }), "{exit:?}");
}
