//! System calls through the gate, by guests that are written as patched code would be.

mod rig;

use rig::{
    CODE, DATA, DATA_OFFSET, Rig, alone, bind, call, jump_back, loop_of_calls, other_cpu, while_kicked,
};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vmspace::{Context, DefaultActions, Exit, Op, Vmspace, Withdrawal};

const NR: u64 = 39;

/// Binds the calling thread to the CPU that it is on, and says that there is no other: owner and runner take turns.
fn bound() -> fn() -> Option<usize> {
    // SAFETY: no arguments.
    bind([unsafe { libc::sched_getcpu() } as usize]);
    alone
}

/// An endless loop of calls, which adds the results up in `rbx` and counts them in `r12`.
fn looping(rig: &Rig) -> Vmspace {
    let mut code = call(&rig.engine, NR);
    code.extend([0x48, 0x01, 0xc3]); // add rbx, rax
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    jump_back(&mut code, 0xeb); // jmp
    rig.space(&code)
}

/// The same, or undisturbed.
fn while_kicked_if(kicked: bool, space: &Arc<Vmspace>, work: impl FnOnce()) {
    if kicked { while_kicked(space, work) } else { work() }
}

/// Behind the `syscall` instruction of the loop.
const BEHIND: u64 = CODE + 27;

fn start() -> Context {
    let mut context = rig::start(CODE);
    (context.regs().rdi, context.regs().r9) = (11, 66);
    context
}

/// Makes `count` calls, with result i for the i-th, and checks that each was made once.
fn make_calls(space: &Vmspace, context: &mut Context, count: u64, spare: &dyn Fn() -> Option<usize>) {
    let mut made = 0;
    while made < count {
        match space.run(0, context, spare) {
            Exit::Syscall { nr: NR, args, ip: BEHIND } => {
                assert_eq!((args[0], args[5]), (11, 66));
                context.set_syscall_result(made);
                made += 1;
            }
            Exit::Interrupted => {}
            exit => panic!("after {made} calls: {exit:?}"),
        }
    }
    // The last one has been answered, but the guest has not gone on.
    let regs = *context.regs();
    assert_eq!((regs.rip, regs.rax), (BEHIND, count - 1));
    assert_eq!((regs.r12, regs.rbx), (count - 1, (0..count - 1).sum()));
    assert_eq!((regs.rdi, regs.r9, regs.gs_base), (11, 66, 0));
}

#[test]
fn a_call_that_nobody_listens_to_is_an_ordinary_one() {
    let rig = Rig::new();
    let space = looping(&rig);
    make_calls(&space, &mut start(), 1000, &alone);
}

#[test]
fn constant_answers_need_no_owner_and_belong_to_the_thread() {
    let rig = Rig::new();
    let space = Arc::new(looping(&rig));
    let mut known = start();
    known.set_answers(&[(NR as u8, 5)]);
    let mut other = start();
    for _ in 0..50 {
        let stop = Arc::new(AtomicBool::new(false));
        let kicker = std::thread::spawn({
            let (space, stop) = (space.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::SeqCst) {
                    space.kick(0);
                    std::thread::yield_now();
                }
            }
        });
        // A kick that finds it in the gate makes the call an ordinary one.
        let mut interrupted = 0;
        while interrupted < 5 {
            match space.run(0, &mut known, &alone) {
                Exit::Interrupted => interrupted += 1,
                Exit::Syscall { nr: NR, ip: BEHIND, .. } => known.set_syscall_result(5),
                exit => panic!("{exit:?}"),
            }
        }
        stop.store(true, Ordering::SeqCst);
        kicker.join().unwrap();
        let regs = *known.regs();
        // Wherever the kick found it, it is somewhere in the loop, and has added as often as it counted.
        assert!((CODE..CODE + 35).contains(&regs.rip), "{:#x}", regs.rip);
        let added = u64::from(regs.rip == CODE + 30);
        assert_eq!(regs.rbx, (regs.r12 + added) * 5);
        loop {
            match space.run(0, &mut other, &alone) {
                Exit::Interrupted => {}
                Exit::Syscall { nr: NR, .. } => break other.set_syscall_result(1),
                exit => panic!("{exit:?}"),
            }
        }
    }
    assert!(known.regs().r12 > 0);
    known.set_answers(&[]);
    assert!(matches!(space.run(0, &mut known, &alone), Exit::Syscall { nr: NR, .. }));
}

#[test]
fn an_owner_who_listens_gets_every_call_once() {
    let rig = Rig::new();
    let space = looping(&rig);
    make_calls(&space, &mut start(), 100_000, &other_cpu);
}

#[test]
fn an_owner_who_takes_turns_gets_every_call_once() {
    let rig = Rig::new();
    let space = looping(&rig);
    make_calls(&space, &mut start(), 100_000, &bound());
}

#[test]
fn kicks_in_a_session_lose_no_call_and_repeat_none() {
    kicks_lose_no_call(other_cpu);
}

#[test]
fn kicks_between_turns_lose_no_call_and_repeat_none() {
    kicks_lose_no_call(bound());
}

fn kicks_lose_no_call(spare: fn() -> Option<usize>) {
    let rig = Rig::new();
    let space = Arc::new(looping(&rig));
    let mut context = start();
    let mut other = start();
    let mut made = [0u64; 2];
    while_kicked(&space, || {
        for turn in 0..40_000u64 {
            // Two threads by turns, so that registers have to be fetched from wherever the other one stands.
            let which = usize::from(turn % 7 == 0);
            let context = if which == 0 { &mut context } else { &mut other };
            match space.run(0, context, &spare) {
                Exit::Syscall { nr: NR, ip: BEHIND, .. } => {
                    context.set_syscall_result(made[which]);
                    made[which] += 1;
                }
                Exit::Interrupted => {}
                exit => panic!("{exit:?}"),
            }
        }
    });
    for (context, made) in [(context, made[0]), (other, made[1])] {
        let mut context = context;
        assert!(made > 100);
        let regs = *context.regs();
        // The last result may not have been added yet, and not counted if it was.
        let counted = regs.r12 + u64::from(regs.rip == CODE + 30);
        assert!(counted == made || counted + 1 == made, "{counted} of {made}, {regs:x?}");
        assert_eq!(regs.rbx, (0..counted).sum::<u64>());
    }
}

/// In a session the runner is on another CPU than its owner, who may answer while a kick arrives there.
#[test]
fn an_answer_that_a_kick_meets_is_not_lost() {
    const MOST: u64 = 100_000;
    let rig = Rig::new();
    let count = [0x48, 0x01, 0xc3, 0x49, 0xff, 0xc4]; // add rbx, rax; inc r12
    // Enough calls through the gate between two that trap for a session to go on.
    let mut code = vec![0x41, 0xbd, 60, 0, 0, 0]; // mov r13d, 60
    let gate = call(&rig.engine, NR);
    let len = gate.len() + count.len() + 3;
    code.extend(gate);
    code.extend(count);
    code.extend([0x41, 0xff, 0xcd, 0x75, (-(len as i8 + 2)) as u8]); // dec r13d; jnz
    code.extend([0xb8]); // mov eax, nr
    code.extend((NR as u32).to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    code.extend(count);
    jump_back(&mut code, 0xeb);
    let space = Arc::new(rig.space(&code));
    let mut context = start();
    let mut made = 0;
    let mut last = 0;
    while_kicked(&space, || {
        while made < MOST {
            match space.run(0, &mut context, &other_cpu) {
                Exit::Syscall { nr: NR, ip, .. } => {
                    context.set_syscall_result(made);
                    (made, last) = (made + 1, ip);
                }
                Exit::Interrupted => {}
                exit => panic!("{exit:?}"),
            }
        }
    });
    // The last one has been answered, but the guest has not gone on.
    let regs = *context.regs();
    assert_eq!((regs.rip, regs.rax), (last, MOST - 1));
    assert_eq!((regs.r12, regs.rbx), (MOST - 1, (0..MOST - 1).sum()));
}

#[test]
fn address_spaces_that_share_a_seat_lose_no_call() {
    address_spaces_lose_no_call(other_cpu);
}

#[test]
fn address_spaces_that_take_turns_lose_no_call() {
    address_spaces_lose_no_call(bound());
}

fn address_spaces_lose_no_call(spare: fn() -> Option<usize>) {
    let rig = Rig::new();
    let spaces: Vec<Arc<Vmspace>> = (0..3).map(|_| Arc::new(looping(&rig))).collect();
    for kicked in [false, true] {
        let mut contexts: Vec<Context> = spaces.iter().map(|_| start()).collect();
        let mut made = [0u64; 3];
        let mut work = || {
            for turn in 0..30_000usize {
                // Each makes many calls in a row, so that all have sessions; then two and three by turns.
                let which = match turn % 4096 {
                    at @ ..1024 => at / 342,
                    at @ ..3072 => at % 2,
                    at => at % 3,
                };
                match spaces[which].run(0, &mut contexts[which], &spare) {
                    Exit::Syscall { nr: NR, args, ip: BEHIND } => {
                        assert_eq!((args[0], args[5]), (11, 66));
                        contexts[which].set_syscall_result(made[which]);
                        made[which] += 1;
                    }
                    Exit::Interrupted => {}
                    exit => panic!("{exit:?}"),
                }
            }
        };
        if kicked {
            while_kicked(&spaces[0], || while_kicked(&spaces[1], work))
        } else {
            work()
        }
        for (context, made) in contexts.iter_mut().zip(made) {
            assert!(made > 1000, "{made}");
            let regs = *context.regs();
            assert_eq!((regs.rdi, regs.r9), (11, 66));
            let counted = regs.r12 + u64::from(regs.rip == CODE + 30);
            assert!(counted == made || counted + 1 == made, "{counted} of {made}, {regs:x?}");
            assert_eq!(regs.rbx, (0..counted).sum::<u64>());
        }
    }
}

#[test]
fn a_guest_with_a_gs_base_of_its_own_traps() {
    let rig = Rig::new();
    let space = looping(&rig);
    let mut context = start();
    context.regs().gs_base = 0x1234_5000;
    context.set_answers(&[(NR as u8, 5)]);
    assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: NR, .. }));
    assert_eq!(context.regs().gs_base, 0x1234_5000);
}

/// The low half of a vector register in a floating-point image.
fn xmm(context: &mut Context, register: usize) -> u64 {
    let image = context.fpu();
    u64::from_le_bytes(image[160 + 16 * register..][..8].try_into().unwrap())
}

#[test]
fn threads_that_take_turns_keep_all_their_registers() {
    let rig = Rig::new();
    let mut code = call(&rig.engine, NR);
    code.extend([0x66, 0x49, 0x0f, 0x6e, 0xc7]); // movq xmm0, r15
    code.extend([0x66, 0x0f, 0xd4, 0xc8]); // paddq xmm1, xmm0
    code.extend([0x4d, 0x01, 0xfe]); // add r14, r15
    code.extend([0x4c, 0x29, 0xfd]); // sub rbp, r15
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    jump_back(&mut code, 0xeb); // jmp
    let end = CODE + code.len() as u64;
    let space = Arc::new(rig.space(&code));
    // Fewer and more than a runner has places for.
    let ways = [(false, alone as fn() -> _), (false, other_cpu), (true, alone), (true, other_cpu)];
    for (count, (kicked, spare)) in [3, 12].into_iter().flat_map(|count| ways.map(|way| (count, way))) {
        let mut threads: Vec<Context> = (1..=count as u64)
            .map(|i| {
                let mut context = start();
                let regs = context.regs();
                (regs.r15, regs.r13, regs.fs_base, regs.rsp) = (i, i * 1000, i * 0x1000, DATA + i);
                context
            })
            .collect();
        let mut made = vec![0u64; count];
        let work = || {
            for turn in 0..20_000usize {
                // Mostly one thread, so that there are sessions, and then turns of all.
                let which = if turn % 256 < 128 { 0 } else { turn % count };
                if turn % 61 == 0 {
                    let other = turn / 61 % count;
                    assert_eq!(threads[other].regs().r15, other as u64 + 1);
                }
                match space.run(0, &mut threads[which], &spare) {
                    Exit::Syscall { nr: NR, args, ip: BEHIND } => {
                        assert_eq!((args[0], args[5]), (11, 66));
                        threads[which].set_syscall_result(7);
                        made[which] += 1;
                    }
                    Exit::Interrupted => {}
                    exit => panic!("{exit:?}"),
                }
            }
        };
        while_kicked_if(kicked, &space, work);
        for (i, context) in (1..).zip(&mut threads) {
            let made = made[i as usize - 1];
            assert!(made > 100, "{made}");
            let regs = *context.regs();
            assert_eq!((regs.r15, regs.r13, regs.fs_base, regs.rsp), (i, i * 1000, i * 0x1000, DATA + i));
            assert_eq!((regs.rdi, regs.r9), (11, 66));
            assert!((CODE..end).contains(&regs.rip), "{:#x}", regs.rip);
            // Between the call and the count, what has been added depends on how far a kick let it come.
            let behind = regs.rip - CODE;
            let counted = regs.r12;
            assert!(counted == made || counted + 1 == made, "{counted} of {made}");
            assert_eq!(xmm(context, 1), (counted + u64::from((36..=42).contains(&behind))) * i, "{behind}");
            assert_eq!(regs.r14, (counted + u64::from((39..=42).contains(&behind))) * i, "{behind}");
            assert_eq!(regs.rbp, ((counted + u64::from(behind == 42)) * i).wrapping_neg(), "{behind}");
        }
    }
}

#[test]
fn threads_that_change_their_cpu_keep_their_registers() {
    let rig = Rig::new();
    let mut code = call(&rig.engine, NR);
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    jump_back(&mut code, 0xeb); // jmp
    let space = Arc::new(rig.space(&code));
    let thread = |i: u64| {
        let mut context = start();
        (context.regs().r15, context.regs().r13) = (i, i * 1000);
        (context, i, 0)
    };
    let waiting = std::sync::Mutex::new((1..=4).map(thread).collect::<std::collections::VecDeque<_>>());
    // Each takes the thread that has waited longest, which most often ran on the other CPU.
    let turns = |cpu| {
        for _ in 0..5000 {
            let (mut context, i, mut made) = waiting.lock().unwrap().pop_front().unwrap();
            match space.run(cpu, &mut context, &alone) {
                Exit::Syscall { nr: NR, args, ip: BEHIND } => {
                    assert_eq!((args[0], args[5]), (11, 66));
                    context.set_syscall_result(7);
                    made += 1;
                }
                exit => panic!("{exit:?} of thread {i} after {made} calls"),
            }
            waiting.lock().unwrap().push_back((context, i, made));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| turns(1));
        turns(0);
    });
    for (mut context, i, made) in waiting.into_inner().unwrap() {
        let regs = *context.regs();
        assert_eq!((regs.r15, regs.r13, regs.rip, regs.rax), (i, i * 1000, BEHIND, 7));
        assert_eq!(regs.r12 + 1, made);
    }
}

#[test]
fn kept_registers_can_be_had_while_another_thread_runs() {
    let rig = Rig::new();
    let mut code = call(&rig.engine, NR);
    code.extend([0x4d, 0x85, 0xff]); // test r15, r15
    code.extend([0x74, 0x02]); // jz behind
    jump_back(&mut code, 0xeb);
    code.extend([0xff, 0x03, 0xeb, 0xfc]); // inc dword [rbx] ; jmp back
    let space = Arc::new(rig.space(&code));
    let thread = |r15| {
        let mut context = start();
        (context.regs().r15, context.regs().rbx) = (r15, DATA);
        context
    };
    let (mut first, mut second) = (thread(5), thread(6));
    for _ in 0..1000 {
        for context in [&mut first, &mut second] {
            assert!(matches!(space.run(0, context, &alone), Exit::Syscall { nr: NR, .. }));
            context.set_syscall_result(7);
        }
    }
    // Computes until it is kicked.
    let mut last = thread(0);
    assert!(matches!(space.run(0, &mut last, &alone), Exit::Syscall { nr: NR, .. }));
    last.set_syscall_result(7);
    let beside = space.clone();
    let runs = std::thread::spawn(move || {
        while !matches!(beside.run(0, &mut last, &alone), Exit::Interrupted) {}
        last.regs().r15
    });
    let mut word = [0; 4];
    while word == [0; 4] {
        std::thread::yield_now();
        rig.ram.read_exact_at(&mut word, DATA_OFFSET).unwrap();
    }
    for (context, r15) in [(&mut first, 5), (&mut second, 6)] {
        let regs = *context.regs();
        assert_eq!((regs.r15, regs.rax, regs.rip), (r15, 7, BEHIND));
        // It goes on elsewhere.
        assert!(matches!(space.run(1, context, &alone), Exit::Syscall { nr: NR, .. }));
        assert_eq!(context.regs().r15, r15);
    }
    assert!(!runs.is_finished());
    space.kick(0);
    assert_eq!(runs.join().unwrap(), 0);
}

#[test]
fn faults_in_a_session_are_reported_and_mended() {
    let rig = Rig::new();
    let mut code = call(&rig.engine, NR);
    code.extend([0x48, 0x89, 0x04, 0x25, 0, 0, 0, 0]); // mov [0], rax
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    jump_back(&mut code, 0xeb); // jmp
    let space = rig.space(&code);
    let mut context = start();
    let mut calls = 0;
    // Calls without faults first, so that a session begins.
    while calls < 30_000u64 {
        match space.run(0, &mut context, &other_cpu) {
            Exit::Syscall { nr: NR, .. } => {
                context.set_syscall_result(calls);
                calls += 1;
                if calls % 512 < 480 {
                    let regs = context.regs();
                    (regs.rip, regs.r12) = (CODE, regs.r12 + 1);
                }
            }
            Exit::Fault { trapno: 14, addr: 0, .. } => {
                let regs = context.regs();
                assert_eq!(regs.rax, calls - 1);
                regs.rip += 8;
            }
            exit => panic!("{exit:?}"),
        }
    }
    assert_eq!(context.regs().r12, calls);
}

#[test]
fn what_changes_in_a_session_is_seen_at_once() {
    const CHANGING: u64 = 0x60_0000;
    let rig = Rig::new();
    let mut code = call(&rig.engine, NR);
    code.extend([0x48, 0x8b, 0x04, 0x25]); // mov rax, [CHANGING]
    code.extend((CHANGING as u32).to_le_bytes());
    code.extend([0x48, 0x01, 0xc3]); // add rbx, rax
    jump_back(&mut code, 0xeb); // jmp
    let space = Arc::new(rig.space(&code));
    let page = |i: u64| DATA_OFFSET + (1 + i) * 4096;
    for i in 0..3u64 {
        rig.ram.write_all_at(&(1000 + i).to_le_bytes(), page(i)).unwrap();
    }
    let map = |i| {
        let op = Op::MapRam { at: CHANGING, len: 4096, prot: rig::RW, offset: page(i), populate: i == 1 };
        space.update(0, &[op]).unwrap();
    };
    for kicked in [false, true] {
        let (mut context, mut sum, mut calls, mut faults) = (start(), 0, 0u64, 0u64);
        let work = || {
            while calls < 20_000 {
                match space.run(0, &mut context, &other_cpu) {
                    Exit::Syscall { nr: NR, ip: BEHIND, .. } => {
                        calls += 1;
                        context.set_syscall_result(0);
                        // Now and then nothing is there, and the fault brings it.
                        match calls % 5 {
                            4 => space.update(0, &[Op::Unmap { at: CHANGING, len: 4096 }]).unwrap(),
                            i => map(i % 3),
                        }
                        sum += 1000 + calls % 5 % 3;
                    }
                    Exit::Fault { trapno: 14, addr: CHANGING, .. } => {
                        assert_eq!(calls % 5, 4);
                        faults += 1;
                        map(1);
                    }
                    Exit::Interrupted => {}
                    exit => panic!("{exit:?}"),
                }
            }
        };
        while_kicked_if(kicked, &space, work);
        let regs = *context.regs();
        // The last call's page has not been read, except where a kick repeats nothing.
        assert_eq!(regs.rbx, sum - (1000 + calls % 5 % 3));
        assert!(faults >= calls / 5 - 1, "{faults}");
    }
}

#[test]
fn nobody_reaches_what_a_call_has_freed() {
    let rig = Rig::new();
    let mut code = call(&rig.engine, NR);
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    code.extend([0x48, 0x89, 0x04, 0x25]); // mov [DATA], rax
    code.extend((DATA as u32).to_le_bytes());
    jump_back(&mut code, 0xeb); // jmp
    let space = Arc::new(rig.space(&code));
    let give = || space.update(0, &[Op::Protect { at: DATA, len: 4096, prot: rig::RW }]).unwrap();
    for spare in [alone, bound(), other_cpu] {
        for kicked in [false, true] {
            let (mut context, mut calls, mut gone) = (start(), 0u64, false);
            let work = || {
                while calls < 5_000 {
                    match space.run(0, &mut context, &spare) {
                        Exit::Syscall { nr: NR, args, ip: BEHIND } => {
                            assert_eq!((args[0], args[5]), (11, 66));
                            assert!(!gone, "call {calls}: what was freed has been written to");
                            calls += 1;
                            context.set_syscall_result(calls);
                            gone = calls % 3 != 0;
                            if gone {
                                let gone = Withdrawal { at: DATA, len: 4096, rights: (calls % 2) as i32 };
                                assert!(context.withdraw(gone));
                                assert!(!context.withdraw(gone), "one at a time");
                            }
                        }
                        Exit::Fault { trapno: 14, addr: DATA, .. } => {
                            assert!(gone, "call {calls}: nothing was freed");
                            gone = false;
                            give();
                        }
                        Exit::Interrupted => {}
                        exit => panic!("{exit:?}"),
                    }
                }
            };
            while_kicked_if(kicked, &space, work);
            let regs = *context.regs();
            assert_eq!((regs.rip, regs.r12, regs.rdi, regs.r9), (BEHIND, calls - 1, 11, 66));
            drop(context);
            give();
        }
    }
    // There is nothing above what a guest can have.
    assert!(!start().withdraw(Withdrawal { at: rig.engine.user_limit(), len: 4096, rights: 0 }));
    // And no right is given.
    assert!(!start().withdraw(Withdrawal { at: DATA, len: 4096, rights: libc::PROT_WRITE }));
}

#[test]
fn the_clock_is_read_in_the_gate() {
    let rig = Rig::new();
    let mut code = call(&rig.engine, libc::SYS_clock_gettime as u64);
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    code.extend([0x48, 0x85, 0xc0]); // test rax, rax
    jump_back(&mut code, 0x74); // jz
    code.extend([0x0f, 0x0b]); // ud2
    let space = Arc::new(rig.space(&code));
    let mut context = start();
    let regs = context.regs();
    (regs.rdi, regs.rsi, regs.rdx, regs.rsp) = (1, DATA, 77, DATA + 8);
    // The vDSO puts these on its stack when it needs them for something else.
    (regs.rbp, regs.rbx, regs.r13, regs.r14, regs.r15) = (1, 2, 3, 4, 5);
    let time = || {
        let mut words = [0; 16];
        rig.ram.read_exact_at(&mut words, DATA_OFFSET).unwrap();
        let [s, ns] = [0, 8].map(|i| u64::from_le_bytes(words[i..i + 8].try_into().unwrap()));
        s * 1_000_000_000 + ns
    };
    let mut last = 0;
    let made = while_kicked(&space, || {
        let mut made = 0;
        for _ in 0..3000 {
            match space.run(0, &mut context, &alone) {
                Exit::Interrupted => {}
                // A kick that finds it in the gate makes the call an ordinary one.
                Exit::Syscall { nr: 228, args, .. } => {
                    assert_eq!((args[0], args[1], args[2], args[5]), (1, DATA, 77, 66));
                    context.set_syscall_result(0);
                    made += 1;
                }
                exit => panic!("{exit:?}"),
            }
            let now = time();
            assert!(now >= last);
            last = now;
        }
        made
    });
    let regs = *context.regs();
    assert_eq!((regs.rdi, regs.rsi, regs.rdx, regs.rsp, regs.r9), (1, DATA, 77, DATA + 8, 66));
    assert_eq!((regs.rbp, regs.rbx, regs.r13, regs.r14, regs.r15), (1, 2, 3, 4, 5));
    assert!(last > 0 && regs.r12 > made, "{last}, {} calls, {made} made", regs.r12);
    // What the vDSO does not know, or can't write, is the owner's.
    for (clock, at) in [(2, DATA), (99, DATA), (1, 8), (1, DATA + 4095 - 8)] {
        let mut context = start();
        (context.regs().rdi, context.regs().rsi) = (clock, at);
        loop {
            match space.run(0, &mut context, &alone) {
                Exit::Interrupted => {}
                Exit::Syscall { nr: 228, args, .. } => break assert_eq!((args[0], args[1]), (clock, at)),
                exit => panic!("{exit:?}"),
            }
        }
    }
}

#[test]
fn the_signal_mask_is_changed_in_the_gate() {
    const BLOCK: [u64; 3] = [0, DATA, DATA + 8];
    const UNBLOCK: [u64; 3] = [1, DATA, DATA + 16];
    let rig = Rig::new();
    let space = Arc::new(rig.space(&loop_of_calls(&rig.engine, 14, &[BLOCK, UNBLOCK])));
    // Signals 2, 9, 10 and 19; 1 is blocked from the beginning.
    rig.ram.write_all_at(&0x4_0302u64.to_le_bytes(), DATA_OFFSET).unwrap();
    let mut context = start();
    context.regs().r10 = 8;
    let mut made = 0;
    while_kicked(&space, || {
        for _ in 0..3000 {
            let before = context.offers.sigmask.unwrap_or(1);
            context.offers.sigmask = Some(before);
            match space.run(0, &mut context, &alone) {
                Exit::Interrupted => {}
                Exit::Syscall { nr: 14, args, .. } => {
                    // What the kernel would do.
                    made += 1;
                    let mask = context.offers.sigmask.unwrap();
                    rig.ram.write_all_at(&mask.to_le_bytes(), DATA_OFFSET + args[2] - DATA).unwrap();
                    context.offers.sigmask = Some(if args[0] == 0 { mask | 0x202 } else { mask & !0x4_0302 });
                    context.set_syscall_result(0);
                }
                exit => panic!("{exit:?}"),
            }
            assert!([1, 0x203].contains(&context.offers.sigmask.unwrap()), "{:?}", context.offers);
        }
    });
    let mut old = [0; 16];
    rig.ram.read_exact_at(&mut old, DATA_OFFSET + 8).unwrap();
    assert_eq!(old[..8], 1u64.to_le_bytes());
    assert_eq!(old[8..], 0x203u64.to_le_bytes());
    let regs = *context.regs();
    assert_eq!(regs.rbx, 0);
    assert!(regs.r12 * 2 > made, "{} rounds, {made} calls made", regs.r12);
}

#[test]
fn a_file_is_told_about_and_closed_in_the_gate() {
    const NEWFSTATAT: u64 = 262;
    const FD: u64 = 7;
    // Of one that is offered, of another one, with a path, and to where nothing is.
    let calls = [[FD, DATA, DATA + 64], [FD + 1, DATA, DATA + 64], [FD, DATA + 8, DATA + 64], [FD, DATA, 8]];
    let rig = Rig::new();
    let space = Arc::new(rig.space(&loop_of_calls(&rig.engine, NEWFSTATAT, &calls)));
    rig.ram.write_all_at(b"\0\0\0\0\0\0\0\0path", DATA_OFFSET).unwrap();
    let offer = |word: u64| vmspace::StatOffer {
        fd: FD as u32,
        version: rig.engine.offers_version(),
        stat: std::array::from_fn(|i| word + i as u64),
    };
    let mut context = start();
    context.regs().r10 = libc::AT_EMPTY_PATH as u64;
    context.offer_stat(Some(offer(100)));
    let mut made = std::collections::BTreeMap::new();
    let mut run = |context: &mut Context, times: u64| {
        made.clear();
        while_kicked(&space, || {
            for _ in 0..times {
                match space.run(0, context, &alone) {
                    Exit::Interrupted => {}
                    Exit::Syscall { nr: NEWFSTATAT, args, .. } => {
                        assert_eq!(args[3], libc::AT_EMPTY_PATH as u64);
                        *made.entry([args[0], args[1], args[2]]).or_insert(0) += 1;
                        context.set_syscall_result(0);
                    }
                    exit => panic!("{exit:?}"),
                }
            }
        });
        let others: u64 = calls[1..].iter().map(|call| made.get(call).copied().unwrap_or(0)).sum();
        (made.get(&calls[0]).copied().unwrap_or(0), others)
    };
    let stat = || {
        let mut bytes = [0; 144];
        rig.ram.read_exact_at(&mut bytes, DATA_OFFSET + 64).unwrap();
        bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect::<Vec<_>>()
    };
    let (first, others) = run(&mut context, 3000);
    assert!(first * 20 < others, "{first} of {others} calls were made that need not be");
    assert_eq!(stat(), (100..118).collect::<Vec<u64>>());
    // What is recalled is told no more, and neither is what others are offered.
    rig.engine.recall_offers();
    let (first, others) = run(&mut context, 300);
    assert!(first >= others / 3, "{first} of {others}");
    context.offer_stat(Some(offer(200)));
    run(&mut context, 300);
    assert_eq!(stat(), (200..218).collect::<Vec<u64>>());
    let mut other = context.fork();
    let (first, others) = run(&mut other, 300);
    assert!(first >= others / 3, "{first} of {others} by another thread");
    let regs = *context.regs();
    assert_eq!((regs.rbx, regs.r10), (0, libc::AT_EMPTY_PATH as u64));
}

#[test]
fn what_the_gate_has_closed_is_said_once() {
    const CLOSE: u64 = 3;
    const FD: u64 = 7;
    let rig = Rig::new();
    let calls = [[FD, 0, 0], [FD + 64, 0, 0], [u32::MAX as u64, 0, 0]];
    let space = Arc::new(rig.space(&loop_of_calls(&rig.engine, CLOSE, &calls)));
    let mut context = start();
    let (mut closed, mut made, mut open) = (0u64, 0u64, true);
    while_kicked(&space, || {
        for _ in 0..9000 {
            context.offers.closable = u64::from(open) << FD;
            let exit = space.run(0, &mut context, &alone);
            let bits = context.take_closed();
            assert!(bits == 0 || open && bits == 1 << FD, "{bits:#x}");
            if bits != 0 {
                (closed, open) = (closed + 1, false);
            }
            match exit {
                Exit::Interrupted => {}
                Exit::Syscall { nr: CLOSE, args, .. } => {
                    if args[0] == FD {
                        // By the kernel, which opens it again.
                        made += 1;
                    } else if args[0] == FD + 64 {
                        open = true;
                    }
                    context.set_syscall_result(0);
                }
                exit => panic!("{exit:?}"),
            }
        }
    });
    let regs = *context.regs();
    assert_eq!(regs.rbx, 0);
    assert!(closed > 0 && regs.r12 > 100, "{closed} closed, {made} made in {} rounds", regs.r12);
    assert!(
        (regs.r12..=regs.r12 + 1).contains(&(closed + made)),
        "{closed} and {made} in {} rounds",
        regs.r12
    );
}

#[test]
fn default_actions_are_shown_and_set_in_the_gate() {
    const SA_RESTORER: u64 = 0x400_0000;
    const RESTORER: u64 = 0x1234_5678_9abc;
    // Set SIGINT's (2) action, ask for it, ask for that of 5; and set that of 6, which is not among the default ones.
    let calls = [
        [2, DATA, 0],
        [2, 0, DATA + 64],
        [5, 0, DATA + 96],
        [6, DATA, 0],
        [2, DATA + 32, 0],
        [2, DATA, DATA + 128],
    ];
    let rig = Rig::new();
    let space = Arc::new(rig.space(&loop_of_calls(&rig.engine, 13, &calls)));
    // The action to set, and one with a handler.
    let words = |words: [u64; 4]| words.map(u64::to_le_bytes).concat();
    rig.ram.write_all_at(&words([0, SA_RESTORER, RESTORER, 0]), DATA_OFFSET).unwrap();
    rig.ram.write_all_at(&words([1, SA_RESTORER, RESTORER, 0]), DATA_OFFSET + 32).unwrap();
    rig.ram.write_all_at(&[0xff; 64], DATA_OFFSET + 64).unwrap();
    let mut context = start();
    context.regs().r10 = 8;
    let offered = DefaultActions { defaults: !0x20, plain: 1, restorer: RESTORER };
    let mut made = std::collections::BTreeMap::new();
    while_kicked(&space, || {
        for _ in 0..3000 {
            context.offers.actions = Some(offered);
            match space.run(0, &mut context, &alone) {
                Exit::Interrupted => {}
                Exit::Syscall { nr: 13, args, .. } => {
                    *made.entry([args[0], args[1], args[2]]).or_insert(0) += 1;
                    context.set_syscall_result(0);
                }
                exit => panic!("{exit:?}"),
            }
            let left = context.offers.actions.unwrap();
            assert!([1, 3].contains(&left.plain), "{left:x?}");
        }
    });
    let mut shown = [0; 64];
    rig.ram.read_exact_at(&mut shown, DATA_OFFSET + 64).unwrap();
    // It is the kernel's, where a kick came between.
    let set = words([0, SA_RESTORER, RESTORER, 0]);
    assert!(shown[..32] == set || shown[..32] == words([0; 4]), "{shown:x?}");
    assert_eq!(shown[32..], words([0; 4]));
    let regs = *context.regs();
    assert_eq!(regs.rbx, 0);
    // The last three of the calls are always made, the others only when a kick meets them.
    let always = |call: &[u64; 3]| calls[3..].contains(call);
    assert_eq!(made.keys().filter(|call| always(call)).count(), 3, "{made:?}");
    let others: u64 = made.iter().filter(|(call, _)| !always(call)).map(|(_, n)| n).sum();
    assert!(others * 20 < regs.r12, "{} rounds, {made:?}", regs.r12);
}

unsafe extern "C" {
    static vmspace_stub_gate: u8;
    static vmspace_stub_gate_clock: u8;
    static vmspace_stub_gate_telling: u8;
    static vmspace_stub_gate_viewing: u8;
    static vmspace_stub_gate_posting: u8;
}

/// Whoever is stopped while the gate puts a call's registers into the area has lost none: what lies there is that of another call.
#[test]
fn a_thread_that_is_stopped_before_its_call_is_in_the_area_makes_it_again() {
    /// Length of each of the instructions that do it.
    const LEN: u64 = 9;
    const STACK: u64 = DATA + 0x800;
    let ends = [
        &raw const vmspace_stub_gate_clock,
        &raw const vmspace_stub_gate_telling,
        &raw const vmspace_stub_gate_viewing,
        &raw const vmspace_stub_gate_posting,
    ];
    let rig = Rig::new();
    // mov eax, 39 ; lea rcx, [the syscall] ; pushfq ; or dword ptr [rsp], TF ; popfq ; jmp r11 ; syscall: the trap comes where the jump leads.
    let mut code = vec![0xb8, 39, 0, 0, 0, 0x48, 0x8d, 0x0d, 12, 0, 0, 0];
    code.extend([0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x41, 0xff, 0xe3, 0x0f, 0x05]);
    let site = CODE + code.len() as u64 - 2;
    let space = rig.space(&code);
    for (which, end) in ends.into_iter().enumerate() {
        let end = rig.engine.gate().unwrap() + (end as u64 - &raw const vmspace_stub_gate as u64);
        for steps in 1..=7 {
            let mut context = start();
            let regs = context.regs();
            (regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9) = (1, 2, 3, 4, 5, 6);
            (regs.rbx, regs.rbp, regs.r12, regs.r13, regs.r14, regs.r15) = (7, 8, 9, 10, 11, 12);
            (regs.rsp, regs.r11) = (STACK, end - steps * LEN);
            let before = *regs;
            let exit = space.run(0, &mut context, &alone);
            let regs = context.regs();
            assert_eq!((regs.rip, regs.rax), (site, 39), "{steps} before the end of {which}: {exit:?}");
            let known = vmspace::Regs {
                rip: before.rip,
                rax: before.rax,
                rcx: before.rcx,
                r11: before.r11,
                eflags: before.eflags,
                ..*regs
            };
            assert_eq!(known, before, "{steps} before the end of {which}");
        }
    }
}

#[test]
fn an_owner_who_hears_nothing_does_something_else_for_as_long_as_there_is_any() {
    if other_cpu().is_none() {
        return;
    }
    let rig = Rig::new();
    let mut code = call(&rig.engine, NR);
    code.extend([0x8b, 0x0c, 0x25]); // mov ecx, [DATA]
    code.extend((DATA as u32).to_le_bytes());
    code.extend([0xff, 0xc9, 0x75, 0xfc]); // dec ecx ; jnz back to that
    jump_back(&mut code, 0xeb); // jmp
    let space = rig.space(&code);
    let pause = |rounds: u32| rig.ram.write_all_at(&rounds.to_le_bytes(), DATA_OFFSET).unwrap();
    let mut context = start();
    let run = |context: &mut Context, meanwhile: &mut dyn FnMut() -> bool| {
        let exit = space.run_beside(0, context, &other_cpu, meanwhile);
        assert!(matches!(exit, Exit::Syscall { nr: NR, .. }), "{exit:?}");
        context.set_syscall_result(0);
    };
    // How often it is done at most in one run, of so many times that there is something to do.
    let most = |context: &mut Context, times: u32| {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < Duration::from_secs(60), "it is never done {times} times");
            // Calls come fast until there is a session, and then after some dozens of microseconds.
            pause(if space.in_session(0) { 100_000 } else { 1 });
            let mut done = 0;
            run(context, &mut || {
                done += 1;
                done < times
            });
            if done >= times {
                return done;
            }
        }
    };
    for times in [6, 1, 3] {
        assert_eq!(most(&mut context, times), times, "there was no more");
    }
}
