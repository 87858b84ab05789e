//! Files whose content is in the address space, read and written by the gate.

mod rig;

use rig::{CODE, DATA, DATA_OFFSET, RW, Rig, alone, call, jump_far_back, loop_of_calls, start, while_kicked};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vmspace::{Context, Exit, FileView, Op, Views, Vmspace};

const PREAD: u64 = 17;
const PWRITE: u64 = 18;
const FD: u64 = 7;
/// Header and content, in memory and in RAM.
const HEADER: u64 = 0x51_0000;
const HEADER_OFFSET: u64 = 0x2_0000;
const CONTENT: u64 = 0x52_0000;
const CONTENT_OFFSET: u64 = 0x3_0000;
const CONTENT_LEN: u64 = 16384;

/// A space with this code, a header and content.
fn space(rig: &Rig, code: &[u8]) -> Arc<Vmspace> {
    let space = rig.space(code);
    let map = |at, len, offset| Op::MapRam { at, len, prot: RW, offset, populate: true };
    space.update(0, &[map(HEADER, 4096, HEADER_OFFSET), map(CONTENT, CONTENT_LEN, CONTENT_OFFSET)]).unwrap();
    Arc::new(space)
}

fn set_header(rig: &Rig, size: u32, capacity: u32) {
    rig.ram.write_all_at(&[size.to_le_bytes(), capacity.to_le_bytes()].concat(), HEADER_OFFSET).unwrap();
    rig.ram.write_all_at(&[0; 16], HEADER_OFFSET + 8).unwrap();
}

fn word(rig: &Rig, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    rig.ram.read_exact_at(&mut bytes, offset).unwrap();
    u64::from_le_bytes(bytes)
}

fn views(rig: &Rig) -> Views {
    let view = FileView { fd: FD as u32, header: HEADER, content: CONTENT };
    Views { version: rig.engine.offers_version(), files: [None, Some(view)] }
}

/// How often each of the calls of a loop was made to the owner, in so many.
fn made(space: &Vmspace, context: &mut Context, calls: usize) -> BTreeMap<[u64; 3], u64> {
    let mut made = BTreeMap::new();
    while made.values().sum::<u64>() < calls as u64 {
        match space.run(0, context, &alone) {
            // It met a bad address, and makes the call again.
            Exit::Interrupted => {}
            Exit::Syscall { nr: PREAD | PWRITE, args, .. } => {
                *made.entry([args[0], args[1], args[2]]).or_insert(0) += 1;
                context.set_syscall_result(0);
            }
            exit => panic!("{exit:?}"),
        }
    }
    made
}

#[test]
fn what_the_gate_can_not_do_is_made_as_a_call() {
    const POSITION: u64 = 50;
    const SIZE: u32 = 100;
    const CAPACITY: u32 = 200;
    for (nr, most) in [(PREAD, u64::from(SIZE) - POSITION), (PWRITE, u64::from(CAPACITY) - POSITION)] {
        let calls = [
            [FD, DATA, most],
            [FD, DATA, 1],
            [FD, DATA, most + 1],
            [FD, DATA, 0],
            [FD, DATA, u64::from(u32::MAX)],
            [FD, 8, 1],
            [FD, DATA + 4095, 2],
            [FD + 1, DATA, 1],
            [u64::from(u32::MAX), DATA, 1],
        ];
        let rig = Rig::new();
        let space = space(&rig, &loop_of_calls(&rig.engine, nr, &calls));
        let mut context = start(CODE);
        context.regs().r10 = POSITION;
        context.views = views(&rig);
        set_header(&rig, SIZE, CAPACITY);
        let all: Vec<[u64; 3]> = calls[2..].to_vec();
        let expected = |calls: &[[u64; 3]]| calls.iter().map(|call| (*call, 10)).collect::<BTreeMap<_, _>>();
        assert_eq!(made(&space, &mut context, 10 * all.len()), expected(&all), "call {nr}");
        let regs = *context.regs();
        assert_eq!((regs.r12, regs.r10), (9, POSITION));
        let (read, written) = (word(&rig, HEADER_OFFSET + 8), word(&rig, HEADER_OFFSET + 16));
        assert_eq!((read > 0, written > 0), (nr == PREAD, nr == PWRITE));
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let ago = time.as_nanos() as u64 - read.max(written);
        assert!(ago < 60_000_000_000, "{ago} ns ago");
        // No position is so large that it is small again.
        context.regs().r10 = u64::MAX;
        context.set_syscall_result(0);
        made(&space, &mut context, calls.len());
        assert_eq!(word(&rig, HEADER_OFFSET) as u32, if nr == PREAD { SIZE } else { CAPACITY });
        // What is recalled is not used, and neither is what others are offered.
        context.regs().r10 = POSITION;
        rig.engine.recall_offers();
        made(&space, &mut context, calls.len());
        assert_eq!(made(&space, &mut context, 10 * calls.len()), expected(&calls), "recalled, call {nr}");
        context.views = views(&rig);
        made(&space, &mut context, calls.len());
        assert!(!made(&space, &mut context, all.len()).contains_key(&calls[0]));
        let mut other = context.fork();
        made(&space, &mut other, calls.len());
        assert_eq!(made(&space, &mut other, 10 * calls.len()), expected(&calls), "another thread, call {nr}");
    }
}

/// Writes numbers one behind the other and reads each back, to the end of the content, then makes call 39.
fn writer(rig: &Rig) -> Vec<u8> {
    let arguments = |buffer: u64| {
        let mut code = vec![0x4d, 0x89, 0xe2, 0x49, 0xc1, 0xe2, 3]; // mov r10, r12 ; shl r10, 3
        for (opcode, value) in [(0xbf, FD), (0xbe, buffer), (0xba, 8)] {
            code.push(opcode); // mov edi, esi, edx
            code.extend((value as u32).to_le_bytes());
        }
        code
    };
    let eight = [0x48, 0x83, 0xf8, 8, 0x74, 2, 0x0f, 0x0b]; // cmp rax, 8 ; je over ; ud2
    let mut code = vec![0x4c, 0x89, 0x24, 0x25]; // mov [DATA], r12
    code.extend((DATA as u32).to_le_bytes());
    code.extend(arguments(DATA));
    code.extend(call(&rig.engine, PWRITE));
    code.extend(eight);
    code.extend(arguments(DATA + 64));
    code.extend(call(&rig.engine, PREAD));
    code.extend(eight);
    code.extend([0x4c, 0x39, 0x24, 0x25]); // cmp [DATA + 64], r12
    code.extend((DATA as u32 + 64).to_le_bytes());
    code.extend([0x74, 2, 0x0f, 0x0b]); // je over ; ud2
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    code.extend([0x49, 0x81, 0xfc]); // cmp r12, numbers
    code.extend((CONTENT_LEN as u32 / 8).to_le_bytes());
    jump_far_back(&mut code, &[0x0f, 0x82]); // jb
    code.extend(call(&rig.engine, 39));
    jump_far_back(&mut code, &[0xe9]); // jmp
    code
}

#[test]
fn kicks_lose_nothing_that_is_written_and_nothing_that_is_read() {
    let rig = Rig::new();
    let space = space(&rig, &writer(&rig));
    let mut context = start(CODE);
    (context.regs().r8, context.regs().r9, context.regs().rbp) = (88, 99, 55);
    context.views = views(&rig);
    set_header(&rig, 0, CONTENT_LEN as u32);
    let (mut rounds, mut calls) = (0, 0);
    while_kicked(&space, || {
        while rounds < 40 {
            match space.run(0, &mut context, &alone) {
                Exit::Interrupted => {}
                Exit::Syscall { nr: nr @ (PREAD | PWRITE), args: [FD, buffer, 8, at, ..], .. } => {
                    calls += 1;
                    let mut bytes = [0; 8];
                    let (from, to) = match nr {
                        PREAD => (CONTENT_OFFSET + at, DATA_OFFSET + buffer - DATA),
                        _ => (DATA_OFFSET + buffer - DATA, CONTENT_OFFSET + at),
                    };
                    rig.ram.read_exact_at(&mut bytes, from).unwrap();
                    rig.ram.write_all_at(&bytes, to).unwrap();
                    let size = (word(&rig, HEADER_OFFSET) as u32).max(at as u32 + 8);
                    rig.ram.write_all_at(&size.to_le_bytes(), HEADER_OFFSET).unwrap();
                    context.set_syscall_result(8);
                }
                Exit::Syscall { nr: 39, .. } => {
                    rounds += 1;
                    assert_eq!(word(&rig, HEADER_OFFSET) as u32, CONTENT_LEN as u32);
                    let written = (0..CONTENT_LEN / 8).map(|i| word(&rig, CONTENT_OFFSET + 8 * i));
                    assert!(written.eq(0..CONTENT_LEN / 8), "in round {rounds}");
                    rig.ram.write_all_at(&[0xff; CONTENT_LEN as usize], CONTENT_OFFSET).unwrap();
                    set_header(&rig, 0, CONTENT_LEN as u32);
                    context.regs().r12 = 0;
                    let regs = *context.regs();
                    assert_eq!((regs.r8, regs.r9, regs.rbp), (88, 99, 55));
                }
                exit => panic!("round {rounds}: {exit:?}"),
            }
        }
    });
    assert!(calls * 20 < rounds * CONTENT_LEN / 8, "{calls} calls in {rounds} rounds");
}
