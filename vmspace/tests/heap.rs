//! Memory behind a heap, taken by the gate.

mod rig;

use rig::{CODE, RW, Rig, alone, call, loop_of_calls, start, while_kicked};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vmspace::{Context, Exit, Op, Vmspace};

const BRK: u64 = 12;
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
    space.lend_heap(END, LIMIT);
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
        assert_eq!((space.heap_end(), space.recall_heap()), (LIMIT, LIMIT));
        // The next round begins: asks.
        assert_eq!(called(&space, &mut context), (BRK, 0));
        let regs = *context.regs();
        assert_eq!((regs.rbp, regs.r8, regs.r10, regs.r12), (55, 88, 1010, round + 1));
        assert_eq!(
            regs.rbx,
            [END, END + 1, FIRST, FIRST + 1, LIMIT - 5, LIMIT].into_iter().fold(0, |all, end| all | end)
        );
        assert_eq!(space.heap_end(), 0);
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
        assert_eq!((word, space.heap_end()), ([7, 0, 0, 0], to));
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
    code.extend([0x0f, 0x86]); // jbe
    code.extend((-(code.len() as i32 + 4)).to_le_bytes());
    code.extend(call(&rig.engine, 39));
    code.push(0xe9); // jmp
    code.extend((-(code.len() as i32 + 4)).to_le_bytes());
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
                    assert_eq!(space.recall_heap(), regs.r12, "in round {rounds}");
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
                    let end = space.heap_end();
                    assert!(end < to && to <= LIMIT, "{to:x} from {end:x} in round {rounds}");
                    let len = to.next_multiple_of(PAGE) - FIRST;
                    let (prot, offset) = (RW, RAM + PAGE);
                    space.update(0, &[Op::MapRam { at: FIRST, len, prot, offset, populate: false }]).unwrap();
                    space.lend_heap(to, LIMIT);
                    context.set_syscall_result(to);
                }
                other => panic!("{other:x?} in round {rounds}"),
            }
            calls += 1;
        }
    });
    assert!(calls < rounds * 20, "{calls} calls in {rounds} rounds");
}
