//! Guest code that turns the stub's own instructions against its owner. The attack tests (`tests/attack`) do the same through the whole kernel, and at random.

mod rig;

use rig::{CODE, DATA, DATA_OFFSET, Rig, SYSCALL_LOOP, alone, call, jump_back, other_cpu, start};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vmspace::{Context, Exit};

/// The runners' areas, and the size of one.
const STATE: u64 = 0x7fff_ff20_0000;
const AREA: u64 = 0x1_0000;
/// Where calls are in it.
const CALL: u64 = 0x840;
/// Where the alternate stack lies in it.
const STACK: std::ops::Range<u64> = 0x1000..0x3000;

/// Where the stub's page has these bytes.
fn find(rig: &Rig, bytes: &[u8]) -> u64 {
    let page = rig.text_page();
    let at = page.windows(bytes.len()).position(|w| w == bytes).expect("the stub has these instructions");
    rig.engine.user_limit() + at as u64
}

/// Registers with which guest code starts by returning from a signal that never was, to `CODE`.
fn forging(rig: &Rig, mask: u64, stack: (u64, u64), rsp: u64) -> Context {
    // mov eax, 15 ; syscall
    let mut context = start(find(rig, &[0xb8, 15, 0, 0, 0, 0x0f, 0x05]));
    context.regs().rsp = DATA;
    let mut frame = [0u8; 304];
    let mut put = |offset: usize, word: u64| frame[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
    put(16, stack.0);
    put(32, stack.1);
    put(40 + 15 * 8, rsp);
    put(40 + 16 * 8, CODE);
    put(40 + 17 * 8, 0x202);
    put(40 + 18 * 8, 0x2b << 48 | 0x33);
    put(296, mask);
    rig.ram.write_all_at(&frame, 0x10000).unwrap();
    context
}

#[test]
fn who_blocks_the_kick_and_makes_a_call_loses_the_space_when_its_registers_are_wanted() {
    let rig = Rig::new();
    let mut context = forging(&rig, !0, (0, 0), DATA + 0x800);
    let space = rig.space(SYSCALL_LOOP);
    assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 39, .. }));
    // Another thread of the process.
    let exit = space.run(0, &mut start(CODE), &alone);
    assert!(matches!(exit, Exit::Dead(_)), "{exit:?}");
    // Its own are lost; asking for them must not hang.
    context.regs();
    let other = rig.space(SYSCALL_LOOP);
    assert!(matches!(other.run(0, &mut start(CODE), &alone), Exit::Syscall { nr: 39, .. }));
}

#[test]
fn who_waits_for_orders_about_another_call_does_not_hold_up_its_owner() {
    let rig = Rig::new();
    // mov eax, 1002 ; syscall: the last is the gate's.
    let page = rig.text_page();
    let waiting = [0xb8, 0xea, 0x03, 0, 0, 0x0f, 0x05];
    let at = page.windows(waiting.len()).rposition(|w| w == waiting).expect("the gate waits");
    // mov [rsi], rdx ; jmp rdi: a call that the gate knows nothing of.
    let space = rig.space(&[0x48, 0x89, 0x16, 0xff, 0xe7]);
    let mut context = start(CODE);
    for i in 1..4 {
        // Asking for its registers ends.
        let regs = context.regs();
        (regs.rip, regs.rdi) = (CODE, rig.engine.user_limit() + at as u64);
        (regs.rsi, regs.rdx) = (STATE + CALL, (i * 0x5_0000_0000) | 39);
        let exit = space.run(0, &mut context, &alone);
        assert!(matches!(exit, Exit::Syscall { nr: 39, .. }), "{exit:?}");
    }
    context.regs();
}

#[test]
fn who_pretends_to_wait_for_an_answer_stops_with_its_space() {
    let rig = Rig::new();
    let mut code = call(&rig.engine, 39);
    code.extend([0x48, 0x85, 0xc0]); // test rax, rax
    jump_back(&mut code, 0x74); // jz
    code.extend([0xf3, 0x49, 0x0f, 0xae, 0xcb]); // rdgsbase r11
    code.extend([0x41, 0x8b, 0x83]); // mov eax, [r11 + the last call's sequence number]
    code.extend((CALL as u32 + 4).to_le_bytes());
    code.extend([0x05, 0, 1, 0, 0]); // add eax, 256
    code.extend([0x48, 0xc1, 0xe0, 32, 0x48, 0x83, 0xc8, 39]); // shl rax, 32 ; or rax, 39
    code.extend([0x41, 0xc7, 0x83]); // mov dword ptr [r11 + whether registers are saved], 1
    code.extend((CALL as u32 + 136).to_le_bytes());
    code.extend([1, 0, 0, 0]);
    code.extend([0x49, 0x89, 0x83]); // mov [r11 + the call], rax
    code.extend((CALL as u32).to_le_bytes());
    code.extend([0x48, 0xff, 0x04, 0x25]); // inc qword ptr [DATA + 8]
    code.extend((DATA as u32 + 8).to_le_bytes());
    code.extend([0xeb, 0xf6]); // jmp to the inc
    let counter = || {
        let mut word = [0; 8];
        rig.ram.read_exact_at(&mut word, DATA_OFFSET + 8).unwrap();
        u64::from_le_bytes(word)
    };
    let mut pretended = 0;
    for round in 0..20 {
        let space = rig.space(&code);
        let mut context = start(CODE);
        let begin = counter();
        let (last, pretends) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            // Whoever sleeps would not see what it pretends.
            scope.spawn(|| {
                while !pretends.load(Ordering::Relaxed) {
                    if last.load(Ordering::Relaxed) && counter() != begin {
                        space.kick(0);
                    }
                    std::thread::yield_now();
                }
            });
            loop {
                match space.run(0, &mut context, &other_cpu) {
                    Exit::Syscall { nr: 39, .. } if last.load(Ordering::Relaxed) => {
                        pretended += 1;
                        break;
                    }
                    Exit::Interrupted if last.load(Ordering::Relaxed) => break,
                    Exit::Syscall { nr: 39, .. } => {
                        last.store(space.in_session(0), Ordering::Relaxed);
                        context.set_syscall_result(space.in_session(0).into());
                    }
                    Exit::Interrupted => {}
                    exit => panic!("round {round}: {exit:?}"),
                }
            }
            pretends.store(true, Ordering::Relaxed);
        });
        while counter() == begin {
            std::hint::spin_loop();
        }
        drop((context, space));
        // Its memory is somebody else's now.
        let (end, start) = (counter(), Instant::now());
        while start.elapsed() < Duration::from_millis(2) {
            assert_eq!(counter(), end, "round {round}: it writes on");
        }
    }
    assert!(pretended > 10, "{pretended}");
}

#[test]
fn who_chooses_how_its_calls_trap_chooses_among_two_ways_or_ends() {
    let rig = Rig::new();
    // The byte that the host asks for calls from outside of the stub; it belongs to the word that says whether the owner listens.
    const SELECTOR: u64 = STATE + CALL + 80;
    // mov [rsi], dl ; mov eax, 39 ; syscall ; add rbx, rax ; jmp to the mov eax
    let code = [0x88, 0x16, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x01, 0xc3, 0xeb, 0xf4];
    for selector in [0, 1, 2, 0x80, 0xff] {
        let space = rig.space(&code);
        let mut context = start(CODE);
        (context.regs().rsi, context.regs().rdx) = (SELECTOR, selector);
        for round in 0..50 {
            match space.run(0, &mut context, &alone) {
                Exit::Syscall { nr: 39, args, ip } if selector < 2 => {
                    assert_eq!((args[1], args[2], ip), (SELECTOR, selector, CODE + 9));
                    context.set_syscall_result(round);
                }
                Exit::Dead(why) if selector >= 2 => {
                    assert!(why.contains("by signal 31"), "{why}");
                    break;
                }
                exit => panic!("{selector}: {exit:?}"),
            }
        }
        if selector < 2 {
            let regs = context.regs();
            assert_eq!((regs.rax, regs.rbx), (49, (0..49).sum()));
        }
    }
    // The next one has its own.
    let space = rig.space(SYSCALL_LOOP);
    assert!(matches!(space.run(0, &mut start(CODE), &alone), Exit::Syscall { nr: 39, .. }));
}

#[test]
fn the_next_user_of_a_space_does_not_inherit_mask_and_stack() {
    let rig = Rig::new();
    // The alternate stack is everything; the stack pointer is where frames come to lie in the right place nevertheless.
    for (mask, rsp) in [(0, STATE + STACK.end + 128), (0, DATA + 0x800), (!0, DATA + 0x800)] {
        let mut context = forging(&rig, mask, (0x1000, STATE + AREA * 2), rsp);
        let space = rig.space(SYSCALL_LOOP);
        assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 39, .. }));
        drop(context);
        drop(space);
        for _ in 0..10 {
            // mov rax, [0] with a stack pointer of its own.
            let space = rig.space(&[0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0]);
            let mut context = start(CODE);
            context.regs().rsp = DATA + 0x800;
            for _ in 0..3 {
                let exit = space.run(0, &mut context, &alone);
                assert!(matches!(exit, Exit::Fault { trapno: 14, addr: 0, .. }), "{exit:?}");
            }
        }
    }
}

#[test]
fn the_next_user_of_a_space_sees_nothing_of_the_last() {
    let rig = Rig::new();
    // mov [rdi], rdx ; mov [rsi], rdx ; movq xmm9, rdx ; mov rax, [0]
    let writer = [
        0x48, 0x89, 0x17, 0x48, 0x89, 0x16, 0x66, 0x4c, 0x0f, 0x6e, 0xca, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0,
    ];
    // L: mov rax, [rdi] ; cmp rax, rdx ; je +0 ; add rdi, 8 ; cmp rdi, rsi ; jb L ; mov eax, 1 ; syscall ; found: mov eax, 2 ; syscall
    let reader = [
        0x48, 0x8b, 0x07, 0x48, 0x39, 0xd0, 0x74, 0x10, 0x48, 0x83, 0xc7, 8, 0x48, 0x39, 0xf7, 0x72, 0xef,
        0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0xb8, 2, 0, 0, 0, 0x0f, 0x05,
    ];
    const SECRET: u64 = 0x5ec2_e75e_c2e7_0001;
    let space = rig.space(&writer);
    let mut context = start(CODE);
    let regs = context.regs();
    (regs.rdi, regs.rsi, regs.rdx) = (STATE + 0xef8, STATE + 5 * AREA + 0x10, SECRET);
    assert!(matches!(space.run(0, &mut context, &alone), Exit::Fault { trapno: 14, .. }));
    drop(context);
    drop(space);
    for round in 0..3 {
        let space = rig.space(&reader);
        let mut context = start(CODE);
        let regs = context.regs();
        // The register itself must not be what is found: the frame that loads it holds it, too.
        (regs.rdi, regs.rsi, regs.rdx) = (STATE + 0x100, STATE + 8 * AREA, SECRET);
        let exit = space.run(0, &mut context, &alone);
        let found = context.regs().rdi;
        let own_frame = STACK.contains(&(found - STATE));
        assert!(matches!(exit, Exit::Syscall { nr: 1, .. }) || own_frame, "round {round}: {found:#x}");
        context.regs().rdi = STATE + STACK.end;
        context.regs().rip = CODE;
        assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 1, .. }), "round {round}");
    }
}

#[test]
fn reports_that_are_made_up_are_worth_nothing() {
    let rig = Rig::new();
    // mov eax, 1000 ; syscall: of the handler
    let report = find(&rig, &[0xb8, 0xe8, 3, 0, 0, 0x0f, 0x05]);
    // Frames lie in one place only, which is found by trying.
    let with = |signo, info, frame| {
        let space = rig.space(SYSCALL_LOOP);
        let mut context = start(report);
        let regs = context.regs();
        (regs.rdi, regs.rsi, regs.rdx) = (signo, info, frame);
        // Dead, a fault, or a kick that nobody has sent; no panic.
        let exit = space.run(0, &mut context, &alone);
        assert!(!matches!(exit, Exit::Syscall { .. }), "{exit:?}");
        exit
    };
    let places = (STATE + STACK.start..STATE + STACK.end).step_by(16);
    let frame =
        places.into_iter().find(|at| matches!(with(11, 0, *at), Exit::Fault { .. })).expect("a frame");
    for signo in [0, 9, 19, 64, 65, u64::MAX] {
        assert!(matches!(with(signo, 0, frame), Exit::Dead(_)));
    }
    for info in [0, u64::MAX - 15, u64::MAX - 39, u64::MAX - 7, STATE + AREA - 8, STATE, 1 << 63] {
        assert!(matches!(with(11, info, frame), Exit::Fault { .. }));
    }
    let other = rig.space(SYSCALL_LOOP);
    assert!(matches!(other.run(0, &mut start(CODE), &alone), Exit::Syscall { nr: 39, .. }));
}
