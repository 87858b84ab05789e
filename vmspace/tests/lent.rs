//! Memory that lies ready behind a heap and for mappings, taken by the gate.

mod rig;

use rig::{CODE, RW, Rig, alone, call, jump_far_back, loop_of_calls, start, while_kicked};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vmspace::{Context, Exit, Op, Stock, Vmspace};

const BRK: u64 = 12;
const MMAP: u64 = 9;
/// Where the heap ends, in memory and in RAM, in the middle of a page.
const END: u64 = 0x60_0800;
const PAGE: u64 = 4096;
const RAM: u64 = 0x4_0000;
/// How many pages are lent.
const PAGES: u64 = 100;
const LIMIT: u64 = FIRST + PAGES * PAGE;
/// The first of them.
const FIRST: u64 = 0x60_1000;

/// A space with this code and a page of the heap, the rest of which is lent.
fn space(rig: &Rig, code: &[u8]) -> Arc<Vmspace> {
    let space = rig.space(code);
    space
        .update(0, &[Op::MapRam { at: FIRST - PAGE, len: PAGE, prot: RW, offset: RAM, populate: true }])
        .unwrap();
    lend(&space);
    Arc::new(space)
}

fn lend(space: &Vmspace) {
    let (at, len) = (FIRST, PAGES * PAGE);
    let map = Op::MapRam { at, len, prot: RW, offset: RAM + PAGE, populate: false };
    space.update(0, &[map, Op::Guard { at, len }]).unwrap();
    space.lend(Stock::Heap, END, LIMIT);
}

/// Runs until a call is made to the owner.
fn called(space: &Vmspace, context: &mut Context) -> (u64, u64) {
    loop {
        match space.run(0, context, &alone) {
            Exit::Interrupted => {}
            Exit::Syscall { nr, args, .. } => return (nr, args[0]),
            exit => panic!("{exit:?} at {:x?}", context.regs()),
        }
    }
}

/// mov [address], ebx
fn store(address: u64) -> Vec<u8> {
    [&[0x89, 0x1c, 0x25][..], &(address as u32).to_le_bytes()].concat()
}

#[test]
fn the_owner_hears_of_what_does_not_grow_into_what_is_lent() {
    let rig = Rig::new();
    assert!(rig.engine.has_guards());
    let asked = |to| [to, 0, 0];
    let calls =
        [0, END, END + 1, FIRST, FIRST + 1, LIMIT - 5, LIMIT, LIMIT + 1, LIMIT - 1, 1, u32::MAX.into()];
    let others = [LIMIT + 1, LIMIT - 1, 1, u32::MAX.into()];
    let space = space(&rig, &loop_of_calls(&rig.engine, BRK, &calls.map(asked)));
    let mut context = start(CODE);
    (context.regs().rbp, context.regs().r8, context.regs().r10) = (55, 88, 1010);
    for round in 0..3 {
        for other in others {
            assert_eq!(called(&space, &mut context), (BRK, other), "in round {round}");
            context.set_syscall_result(0);
        }
        assert_eq!((space.lent(Stock::Heap), space.recall(Stock::Heap)), (LIMIT, LIMIT));
        // The next round begins: asks.
        assert_eq!(called(&space, &mut context), (BRK, 0));
        let regs = *context.regs();
        assert_eq!((regs.rbp, regs.r8, regs.r10, regs.r12), (55, 88, 1010, round + 1));
        assert_eq!(
            regs.rbx,
            [END, END + 1, FIRST, FIRST + 1, LIMIT - 5, LIMIT].into_iter().fold(0, |all, end| all | end)
        );
        assert_eq!(space.lent(Stock::Heap), 0);
        context.regs().rip = CODE;
        context.regs().rbx = 0;
        lend(&space);
    }
    // Nobody else's.
    let other = rig.space(&loop_of_calls(&rig.engine, BRK, &[asked(0), asked(END + 1)]));
    let mut context = start(CODE);
    for to in [0, END + 1, 0] {
        assert_eq!(called(&other, &mut context), (BRK, to));
        context.set_syscall_result(0);
    }
    // And not those of who comes next.
    drop(space);
    for _ in 0..4 {
        let next = rig.space(&loop_of_calls(&rig.engine, BRK, &[asked(0)]));
        assert_eq!(called(&next, &mut start(CODE)), (BRK, 0));
    }
}

#[test]
fn nobody_reaches_what_is_behind_the_end() {
    for (to, reached) in
        [(END, FIRST), (FIRST, FIRST), (FIRST + 1, FIRST + PAGE), (FIRST + 90 * PAGE, FIRST + 90 * PAGE)]
    {
        let rig = Rig::new();
        let mut code = vec![0xbf]; // mov edi, to
        code.extend((to as u32).to_le_bytes());
        code.extend(call(&rig.engine, BRK));
        (0x60_0000..reached).step_by(PAGE as usize).for_each(|at| code.extend(store(at + 4092)));
        code.extend(store(reached));
        let space = space(&rig, &code);
        let mut context = start(CODE);
        context.regs().rbx = 7;
        match space.run(0, &mut context, &alone) {
            Exit::Fault { signo: libc::SIGSEGV, addr, .. } => assert_eq!(addr, reached),
            exit => panic!("{exit:?}"),
        }
        let mut word = [0; 4];
        rig.ram.read_exact_at(&mut word, RAM + reached - 0x60_0000 - 4).unwrap();
        assert_eq!((word, space.lent(Stock::Heap)), ([7, 0, 0, 0], to));
    }
}

/// Has the heap grow up to the limit in steps that go up by a byte and more than a page, stores in each page at once, then makes call 39.
fn grower(rig: &Rig) -> Vec<u8> {
    const STEP: u32 = 4999;
    let mut code = vec![0x4c, 0x89, 0xe7]; // mov rdi, r12
    code.extend([0x48, 0x81, 0xc7]); // add rdi, step
    code.extend(STEP.to_le_bytes());
    code.extend(call(&rig.engine, BRK));
    code.extend([0x48, 0x39, 0xf8, 0x74, 2, 0x0f, 0x0b]); // cmp rax, rdi ; je over ; ud2
    code.extend([0x49, 0x89, 0xfc]); // mov r12, rdi
    code.extend([0x4c, 0x89, 0x67, 0xf0]); // mov [rdi - 16], r12
    code.extend([0x49, 0x81, 0xfc]); // cmp r12, limit - step
    code.extend((LIMIT as u32 - STEP).to_le_bytes());
    jump_far_back(&mut code, &[0x0f, 0x86]); // jbe
    code.extend(call(&rig.engine, 39));
    jump_far_back(&mut code, &[0xe9]); // jmp
    code
}

#[test]
fn kicks_lose_nothing_that_was_taken() {
    let rig = Rig::new();
    let space = space(&rig, &grower(&rig));
    let mut context = start(CODE);
    (context.regs().r8, context.regs().r9, context.regs().rbp, context.regs().r12) = (88, 99, 55, END);
    let (mut rounds, mut calls) = (0, 0);
    while_kicked(&space, || {
        while rounds < 60 {
            match called(&space, &mut context) {
                (39, _) => {
                    let regs = *context.regs();
                    assert_eq!((regs.r8, regs.r9, regs.rbp), (88, 99, 55));
                    assert_eq!(space.recall(Stock::Heap), regs.r12, "in round {rounds}");
                    for end in (END..regs.r12).step_by(4999).skip(1) {
                        let mut word = [0; 8];
                        rig.ram.read_exact_at(&mut word, RAM + end - 16 - 0x60_0000).unwrap();
                        assert_eq!(u64::from_le_bytes(word), end, "in round {rounds}");
                    }
                    rig.ram.write_all_at(&vec![0; (PAGES * PAGE) as usize], RAM + PAGE).unwrap();
                    (rounds, context.regs().r12) = (rounds + 1, END);
                    lend(&space);
                }
                // Made again at its instruction after a kick.
                (BRK, to) => {
                    let end = space.lent(Stock::Heap);
                    assert!(end < to && to <= LIMIT, "{to:x} from {end:x} in round {rounds}");
                    let len = to.next_multiple_of(PAGE) - FIRST;
                    let (prot, offset) = (RW, RAM + PAGE);
                    space.update(0, &[Op::MapRam { at: FIRST, len, prot, offset, populate: false }]).unwrap();
                    space.lend(Stock::Heap, to, LIMIT);
                    context.set_syscall_result(to);
                }
                other => panic!("{other:x?} in round {rounds}"),
            }
            calls += 1;
        }
    });
    assert!(calls < rounds * 20, "{calls} calls in {rounds} rounds");
}

/// Where memory for mappings ends, in memory and in RAM, and how many pages it has.
const TOP: u64 = 0x1000_0000;
const TOP_RAM: u64 = 0x20_0000;
const MAPS_PAGES: u64 = 256;
const FLOOR: u64 = TOP - MAPS_PAGES * PAGE;

fn lend_maps(space: &Vmspace) {
    let (at, len) = (FLOOR, MAPS_PAGES * PAGE);
    let map = Op::MapRam { at, len, prot: RW, offset: TOP_RAM - len, populate: false };
    space.update(0, &[map, Op::Guard { at, len }]).unwrap();
    space.lend(Stock::Maps, TOP, FLOOR);
}

/// Calls `mmap` with these arguments, the second of them in `rsi`, and then what comes.
fn map_call(rig: &Rig, args: [u32; 4]) -> Vec<u8> {
    let mut code = vec![];
    let [at, prot, flags, offset] = args;
    for (opcode, value) in
        [(&[0xbf][..], at), (&[0xba], prot), (&[0x41, 0xba], flags), (&[0x41, 0xb9], offset)]
    {
        code.extend(opcode); // mov edi, edx, r10d, r9d
        code.extend(value.to_le_bytes());
    }
    code.extend([0x49, 0x83, 0xc8, 0xff]); // or r8, -1
    code.extend(call(&rig.engine, MMAP));
    code
}

const PRIVATE: u32 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;

#[test]
fn only_new_memory_anywhere_is_taken_and_only_while_there_is_some() {
    let rig = Rig::new();
    for args in [
        [0x7000_0000, 3, PRIVATE, 0],
        [0, 1, PRIVATE, 0],
        [0, 7, PRIVATE, 0],
        [0, 0, PRIVATE, 0],
        [0, 3, PRIVATE | libc::MAP_FIXED as u32, 0],
        [0, 3, PRIVATE | libc::MAP_STACK as u32, 0],
        [0, 3, libc::MAP_PRIVATE as u32, 0],
        [0, 3, PRIVATE, 4096],
    ] {
        let space = rig.space(&[map_call(&rig, args), vec![0x0f, 0x0b]].concat());
        lend_maps(&space);
        let mut context = start(CODE);
        context.regs().rsi = PAGE;
        assert_eq!(called(&space, &mut context), (MMAP, args[0].into()), "{args:x?}");
        assert_eq!(space.recall(Stock::Maps), TOP, "{args:x?}");
    }
    let mut code = map_call(&rig, [0, 3, PRIVATE, 0]);
    code.extend([0x0f, 0x0b]);
    let space = Arc::new(rig.space(&code));
    for (lens, expected) in [
        (&[1, PAGE, PAGE + 1, 100 * PAGE, 152 * PAGE][..], Some(FLOOR)),
        (&[MAPS_PAGES * PAGE - 1], Some(FLOOR)),
        (&[MAPS_PAGES * PAGE + 1], None),
        (&[0], None),
        (&[u64::MAX], None),
        (&[TOP], None),
        (&[TOP + 1], None),
        (&[100 * PAGE, 156 * PAGE + 1], None),
    ] {
        lend_maps(&space);
        let (mut end, mut context) = (TOP, start(CODE));
        context.regs().rbp = 55;
        for (i, len) in lens.iter().enumerate() {
            (context.regs().rip, context.regs().rsi) = (CODE, *len);
            let last = i + 1 == lens.len();
            match space.run(0, &mut context, &alone) {
                Exit::Fault { signo: libc::SIGILL, .. } if !last || expected.is_some() => {
                    end -= len.next_multiple_of(PAGE);
                    let regs = *context.regs();
                    assert_eq!((regs.rax, regs.rsi, regs.rbp, regs.r8), (end, *len, 55, u64::MAX));
                }
                Exit::Syscall { nr: MMAP, args, .. } if last && expected.is_none() => {
                    assert_eq!(args[1], *len)
                }
                exit => panic!("{exit:?} for {lens:x?}"),
            }
            assert_eq!(space.lent(Stock::Maps), end);
        }
        assert!(expected.is_none_or(|expected| expected == end));
    }
}

#[test]
fn kicks_take_nothing_twice() {
    let rig = Rig::new();
    // Takes a page and a half, and writes where the next one will end, until there is nothing left.
    let mut code = map_call(&rig, [0, 3, PRIVATE, 0]);
    code.extend([0x48, 0x39, 0xe8]); // cmp rax, rbp
    code.extend([0x74, 2, 0x0f, 0x0b]); // je over ; ud2
    code.extend([0x48, 0x89, 0x28]); // mov [rax], rbp
    code.extend([0x48, 0x81, 0xed]); // sub rbp, 2 pages
    code.extend((2 * PAGE as u32).to_le_bytes());
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    code.extend([0x49, 0x81, 0xfc]); // cmp r12, all
    code.extend((MAPS_PAGES as u32 / 2).to_le_bytes());
    jump_far_back(&mut code, &[0x0f, 0x82]); // jb
    code.extend(call(&rig.engine, 39));
    jump_far_back(&mut code, &[0xe9]); // jmp
    let space = Arc::new(rig.space(&code));
    lend_maps(&space);
    let mut context = start(CODE);
    let begin = |context: &mut Context| {
        let regs = context.regs();
        (regs.rsi, regs.rbp, regs.r12) = (3 * PAGE / 2, TOP - 2 * PAGE, 0);
    };
    begin(&mut context);
    let (mut rounds, mut calls) = (0, 0);
    while_kicked(&space, || {
        while rounds < 100 {
            match called(&space, &mut context) {
                (39, _) => {
                    assert_eq!(space.recall(Stock::Maps), FLOOR, "in round {rounds}");
                    for at in (FLOOR..TOP).step_by(2 * PAGE as usize) {
                        let mut word = [0; 8];
                        rig.ram.read_exact_at(&mut word, TOP_RAM - (TOP - at)).unwrap();
                        assert_eq!(u64::from_le_bytes(word), at, "in round {rounds}");
                    }
                    rounds += 1;
                    lend_maps(&space);
                    begin(&mut context);
                }
                // Made again at its instruction after a kick.
                (MMAP, 0) => {
                    let at = space.lent(Stock::Maps) - 2 * PAGE;
                    let (prot, offset) = (RW, TOP_RAM - (TOP - at));
                    space
                        .update(0, &[Op::MapRam { at, len: 2 * PAGE, prot, offset, populate: false }])
                        .unwrap();
                    space.lend(Stock::Maps, at, FLOOR);
                    context.set_syscall_result(at);
                }
                other => panic!("{other:x?} in round {rounds}"),
            }
            calls += 1;
        }
    });
    assert!(calls < rounds * 30, "{calls} calls in {rounds} rounds");
}

unsafe extern "C" {
    static vmspace_stub_gate: u8;
    static vmspace_stub_gate_taken: u8;
}

#[test]
fn who_is_stopped_when_it_has_taken_memory_has_it_and_who_has_not_asks_again() {
    let rig = Rig::new();
    let code = [map_call(&rig, [0, 3, PRIVATE, 0]), vec![0x0f, 0x0b, 0x41, 0xff, 0xe3]].concat(); // ud2 ; jmp r11
    let (site, jump) = (CODE + code.len() as u64 - 7, CODE + code.len() as u64 - 3);
    let taken = &raw const vmspace_stub_gate_taken as u64 - &raw const vmspace_stub_gate as u64;
    let space = rig.space(&code);
    const TF: u64 = 1 << 8;
    const ZF: u64 = 1 << 6;
    for (flags, rip, rax) in [(TF | ZF, site + 2, TOP - PAGE), (TF, site, MMAP)] {
        lend_maps(&space);
        let mut context = start(CODE);
        (context.regs().rsi, context.regs().rbp, context.regs().r15) = (PAGE, 55, 15);
        assert!(matches!(space.run(0, &mut context, &alone), Exit::Fault { signo: libc::SIGILL, .. }));
        let before = *context.regs();
        assert_eq!(before.rax, TOP - PAGE);
        let regs = context.regs();
        (regs.rip, regs.r11, regs.eflags) = (jump, rig.engine.gate().unwrap() + taken, flags);
        (regs.rax, regs.rdi, regs.r8, regs.r10, regs.r15) = (1, 2, 3, 4, 5);
        space.run(0, &mut context, &alone);
        let regs = *context.regs();
        assert_eq!((regs.rip, regs.rax, regs.rdi, regs.r8), (rip, rax, before.rdi, before.r8), "{flags:#x}");
        assert_eq!((regs.r10, regs.rbp, regs.r15), (before.r10, 55, 15), "{flags:#x}");
    }
}
