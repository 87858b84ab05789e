//! Hand-assembled guests in real address spaces.

mod rig;

use rig::{CODE, DATA, RW, RX, Rig, SYSCALL_LOOP, alone, memory_file, start};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vmspace::{Exit, Op, UpdateError};

#[test]
fn an_engine_starts_whatever_descriptors_are_open() {
    let mut open = Vec::new();
    // Up to where the descriptors that the helper process starts with are kept meanwhile, and beyond.
    while open.len() < 120 {
        open.push(File::open("/dev/null").unwrap());
        if open.len() > 60 {
            let rig = Rig::new();
            let exit = rig.space(SYSCALL_LOOP).run(0, &mut start(CODE), &alone);
            assert!(matches!(exit, Exit::Syscall { nr: 39, .. }), "{exit:?} with {} files", open.len());
        }
    }
}

#[test]
fn system_calls_come_with_number_and_arguments_and_take_results() {
    let rig = Rig::new();
    // mov rbx, rax ; mov eax, 39 ; syscall ; jmp back
    let space = rig.space(&[0x48, 0x89, 0xc3, 0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf4]);
    let mut context = start(CODE);
    context.regs().rdi = 11;
    context.regs().r9 = 66;
    for i in 0..1000u64 {
        let exit = space.run(0, &mut context, &alone);
        let Exit::Syscall { nr: 39, args, ip } = exit else { panic!("{exit:?}") };
        assert_eq!((args[0], args[5], ip), (11, 66, CODE + 10));
        context.set_syscall_result(i);
    }
    // Fetching all registers shows the last result and what the guest did with the one before.
    let regs = *context.regs();
    assert_eq!((regs.rax, regs.rbx, regs.rip), (999, 998, CODE + 10));
    context.regs().rbx = 5;
    assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 39, .. }));
    assert_eq!(context.regs().rbx, 999);
}

#[test]
fn faults_say_what_happened_and_can_be_mended() {
    let rig = Rig::new();
    // mov [0x600000], rax ; mov eax, 1 ; syscall
    let space = rig.space(&[0x48, 0x89, 0x04, 0x25, 0, 0, 0x60, 0, 0xb8, 1, 0, 0, 0, 0x0f, 0x05]);
    let mut context = start(CODE);
    context.regs().rax = 0x1234_5678;
    let exit = space.run(0, &mut context, &alone);
    let Exit::Fault { signo, trapno: 14, error, addr: 0x60_0000, .. } = exit else { panic!("{exit:?}") };
    assert_eq!((signo, error & 2), (libc::SIGSEGV, 2));
    space
        .update(0, &[Op::MapRam { at: 0x60_0000, len: 4096, prot: RW, offset: 0x20000, populate: true }])
        .unwrap();
    assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 1, .. }));
    let mut word = [0u8; 8];
    rig.ram.read_exact_at(&mut word, 0x20000).unwrap();
    assert_eq!(u64::from_le_bytes(word), 0x1234_5678);
}

#[test]
fn ram_is_made_for_writable_mappings() {
    let rig = Rig::new();
    let space = rig.space(&[0xf4]);
    let (at, len, offset) = (0x60_0000, 16 * 4096, 0x40_0000);
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&rig.ram.metadata().unwrap());
    let before = blocks();
    space.update(0, &[Op::MapRam { at, len, prot: RW, offset, populate: false }]).unwrap();
    assert_eq!(blocks(), before);
    space.update(0, &[Op::Fill { at, len }]).unwrap();
    assert_eq!(blocks() - before, len / 512);
    // Where nothing can be written it says so, and what is behind it is not done.
    space.update(0, &[Op::MapRam { at, len, prot: libc::PROT_READ, offset, populate: false }]).unwrap();
    let unmap = || Op::Unmap { at: DATA, len: 4096 };
    let failed = space.update(0, &[unmap(), Op::Fill { at, len }, unmap()]);
    assert!(matches!(failed, Err(UpdateError::Failed { index: 1, .. })), "{failed:?}");
}

#[test]
fn cpu_exceptions_become_faults() {
    let rig = Rig::new();
    for (code, signo, trapno) in [
        (&[0x0f, 0x0b][..], libc::SIGILL, 6),
        (&[0xcc][..], libc::SIGTRAP, 3),
        (&[0x31, 0xc9, 0xf7, 0xf1][..], libc::SIGFPE, 0),
        (&[0xf4][..], libc::SIGSEGV, 13),
        (&[0xcd, 0x80][..], libc::SIGSEGV, 13),
    ] {
        let space = rig.space(code);
        let exit = space.run(0, &mut start(CODE), &alone);
        let Exit::Fault { signo: s, trapno: t, .. } = exit else { panic!("{code:x?}: {exit:?}") };
        assert_eq!((s, t), (signo, trapno), "{code:x?}");
    }
}

#[test]
fn a_spinning_guest_can_be_kicked() {
    let rig = Rig::new();
    let space = Arc::new(rig.space(&[0xeb, 0xfe]));
    let mut context = start(CODE);
    for _ in 0..20 {
        let other = space.clone();
        let kicker = std::thread::spawn(move || other.kick(0));
        assert_eq!(space.run(0, &mut context, &alone), Exit::Interrupted);
        kicker.join().unwrap();
    }
    assert_eq!(context.regs().rip, CODE);
}

#[test]
fn threads_of_a_space_share_a_runner_and_move_between_runners() {
    let rig = Rig::new();
    let space = rig.space(&[0x48, 0xff, 0xc3, 0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf4]);
    let mut contexts = [start(CODE), start(CODE), start(CODE)];
    for (i, context) in contexts.iter_mut().enumerate() {
        context.regs().rbx = i as u64 * 1000;
        context.regs().fs_base = 0x7000 + i as u64;
    }
    for round in 0..30 {
        for (i, context) in contexts.iter_mut().enumerate() {
            let exit = space.run((round + i) % 2, context, &alone);
            assert!(matches!(exit, Exit::Syscall { nr: 39, .. }), "{exit:?}");
            context.set_syscall_result(7);
        }
    }
    for (i, context) in contexts.iter_mut().enumerate() {
        assert_eq!(context.regs().rbx, i as u64 * 1000 + 30);
        assert_eq!(context.regs().fs_base, 0x7000 + i as u64);
    }
}

#[test]
fn vector_registers_survive_eviction() {
    let rig = Rig::new();
    // movq xmm5, rdi ; mov eax, 39 ; syscall ; movq rbx, xmm5 ; mov eax, 40 ; syscall
    let space = rig.space(&[
        0x66, 0x48, 0x0f, 0x6e, 0xef, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x66, 0x48, 0x0f, 0x7e, 0xeb, 0xb8, 40,
        0, 0, 0, 0x0f, 0x05,
    ]);
    let mut a = start(CODE);
    a.regs().rdi = 0xaaaa_bbbb_cccc;
    let mut b = start(CODE);
    b.regs().rdi = 0x1111_2222;
    for context in [&mut a, &mut b] {
        assert!(matches!(space.run(0, context, &alone), Exit::Syscall { nr: 39, .. }));
    }
    for context in [&mut a, &mut b] {
        assert!(matches!(space.run(0, context, &alone), Exit::Syscall { nr: 40, .. }));
    }
    assert_eq!(a.regs().rbx, 0xaaaa_bbbb_cccc);
    assert_eq!(b.regs().rbx, 0x1111_2222);
    assert!(!a.fpu().is_empty());
    let mut c = a.fork();
    c.swap_fpu(&mut Vec::new());
    c.regs().rip = CODE + 12;
    assert!(matches!(space.run(0, &mut c, &alone), Exit::Syscall { nr: 40, .. }));
    assert_eq!(c.regs().rbx, 0, "an empty image is the initial state");
}

#[test]
fn files_can_be_mapped_as_they_are() {
    let rig = Rig::new();
    // mov rbx, [0x700000] ; mov eax, 1 ; syscall
    let space = rig.space(&[0x48, 0x8b, 0x1c, 0x25, 0, 0, 0x70, 0, 0xb8, 1, 0, 0, 0, 0x0f, 0x05]);
    let file = File::open("/proc/self/exe").unwrap();
    use std::os::fd::AsFd;
    for key in [0, 9, 9] {
        let map = Op::MapFile {
            at: 0x70_0000,
            len: 4096,
            prot: RX,
            file: file.as_fd(),
            key,
            offset: 0,
            shared: false,
        };
        space.update(0, &[Op::Unmap { at: 0x70_0000, len: 4096 }, map]).unwrap();
        let mut context = start(CODE);
        assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 1, .. }));
        assert_eq!(context.regs().rbx as u32, u32::from_le_bytes(*b"\x7fELF"));
    }
}

#[test]
fn the_stub_is_of_no_use_to_guest_code() {
    let rig = Rig::new();
    let quiet = rig.space(SYSCALL_LOOP);
    let mut calm = start(CODE);
    assert!(matches!(quiet.run(0, &mut calm, &alone), Exit::Syscall { .. }));
    // Jump to every byte of the code, with registers that would make interesting calls.
    for offset in 0..0xc00u64 {
        let space = rig.engine.create(None).unwrap();
        rig.ram.write_all_at(SYSCALL_LOOP, 0).unwrap();
        space.update(0, &[Op::MapRam { at: CODE, len: 4096, prot: RX, offset: 0, populate: false }]).unwrap();
        let mut context = start(0x7fff_ff00_0000 + offset);
        let regs = context.regs();
        regs.rax = 9;
        regs.rdi = DATA;
        regs.rsi = 4096;
        regs.rdx = 3;
        regs.r10 = 0x11;
        regs.r8 = 3;
        regs.rsp = DATA + 0x800;
        regs.rcx = CODE;
        // Some bytes are loops that wait: a kick ends them.
        let space = Arc::new(space);
        let done = Arc::new(AtomicBool::new(false));
        let kicker = std::thread::spawn({
            let (space, done) = (space.clone(), done.clone());
            move || {
                while !done.load(Ordering::SeqCst) {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    space.kick(0);
                }
            }
        });
        for _ in 0..4 {
            match space.run(0, &mut context, &alone) {
                Exit::Dead(_) | Exit::Interrupted | Exit::Fault { .. } => break,
                Exit::Syscall { .. } => context.set_syscall_result(0),
            }
        }
        done.store(true, Ordering::SeqCst);
        kicker.join().unwrap();
    }
    calm.set_syscall_result(0);
    assert!(matches!(quiet.run(0, &mut calm, &alone), Exit::Syscall { nr: 39, .. }));
}

#[test]
fn a_recycled_space_is_empty() {
    let rig = Rig::new();
    for round in 0..50 {
        let space = rig.space(SYSCALL_LOOP);
        let mut context = start(CODE);
        assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 39, .. }), "round {round}");
        drop(space);
        let next = rig.engine.create(None).unwrap();
        let exit = next.run(0, &mut start(CODE), &alone);
        assert!(matches!(exit, Exit::Fault { trapno: 14, addr: CODE, .. }), "{exit:?}");
    }
}

#[test]
fn a_dead_space_says_so_and_hurts_no_other() {
    let rig = Rig::new();
    let space = rig.space(SYSCALL_LOOP);
    let other = rig.space(SYSCALL_LOOP);
    let mut context = start(CODE);
    assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { .. }));
    // Guest code asks the stub for something that nobody ordered.
    context.regs().rip = 0x7fff_ff00_0000;
    let mut dead = false;
    for _ in 0..3 {
        dead |= matches!(space.run(0, &mut context, &alone), Exit::Dead(_));
    }
    assert!(dead);
    assert!(matches!(other.run(0, &mut start(CODE), &alone), Exit::Syscall { nr: 39, .. }));
}

#[test]
fn a_context_outlives_the_space_that_holds_its_registers() {
    let rig = Rig::new();
    let space = rig.space(SYSCALL_LOOP);
    let mut context = start(CODE);
    context.regs().r12 = 12;
    assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 39, .. }));
    drop(space);
    context.set_syscall_result(3);
    assert_eq!((context.regs().rax, context.regs().r12), (3, 12));
    let next = rig.space(SYSCALL_LOOP);
    assert!(matches!(next.run(0, &mut context, &alone), Exit::Syscall { nr: 39, .. }));
}

fn map(at: u64, prot: i32, offset: u64) -> Op<'static> {
    Op::MapRam { at, len: 4096, prot, offset, populate: false }
}

#[test]
fn long_batches_and_many_files_at_once() {
    use std::os::fd::AsFd;
    let rig = Rig::new();
    // mov rbx, [rdi] ; mov eax, 1 ; syscall
    let space = rig.space(&[0x48, 0x8b, 0x1f, 0xb8, 1, 0, 0, 0, 0x0f, 0x05]);
    const COUNT: u64 = 1500;
    let files: Vec<File> = (0..100u64)
        .map(|i| {
            let file = memory_file();
            file.write_all_at(&(i * 3 + 1).to_le_bytes(), 0).unwrap();
            file
        })
        .collect();
    // Every other page RAM, the others a hundred files, so that none joins its neighbour.
    let at = |i: u64| 0x1000_0000 + i * 4096;
    let ops: Vec<Op<'_>> = (0..COUNT)
        .map(|i| match i % 2 {
            0 => map(at(i), RW, 0x20000),
            _ => {
                let file = (i % 100) as usize;
                let (prot, key) = (libc::PROT_READ, i % 100);
                Op::MapFile {
                    at: at(i),
                    len: 4096,
                    prot,
                    file: files[file].as_fd(),
                    key,
                    offset: 0,
                    shared: i % 3 == 0,
                }
            }
        })
        .collect();
    space.update(3, &ops).unwrap();
    rig.ram.write_all_at(&77u64.to_le_bytes(), 0x20000).unwrap();
    for i in [0, 1, 63, 64, 584, 585, 999, 1170, COUNT - 1] {
        let mut context = start(CODE);
        context.regs().rdi = at(i);
        assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 1, .. }));
        let expected = if i % 2 == 0 { 77 } else { i % 100 * 3 + 1 };
        assert_eq!(context.regs().rbx, expected, "page {i}");
    }
}

#[test]
fn a_failed_change_says_which_and_those_before_it_are_done() {
    let rig = Rig::new();
    let space = rig.space(SYSCALL_LOOP);
    let protect = |at, len| Op::Protect { at, len, prot: libc::PROT_READ };
    let hole = [map(0x60_0000, RW, 0), protect(0x60_0000, 8192), map(0x60_1000, RW, 0)];
    let failed = UpdateError::Failed { index: 1, errno: libc::ENOMEM };
    assert_eq!(space.update(0, &hole), Err(failed));
    assert_eq!(space.update(0, &[protect(0x60_0000, 4096)]), Ok(()));
    let failed = UpdateError::Failed { index: 0, errno: libc::ENOMEM };
    assert_eq!(space.update(0, &[protect(0x60_1000, 4096)]), Err(failed));
}

#[test]
fn the_stub_can_not_be_mapped_over() {
    let rig = Rig::new();
    let space = rig.space(SYSCALL_LOOP);
    let end = rig.engine.user_limit();
    assert_eq!(space.update(0, &[map(end - 4096, RW, 0)]), Ok(()));
    assert!(matches!(space.update(0, &[map(end, RW, 0)]), Err(UpdateError::Dead(_))));
}

#[test]
fn who_blocks_the_kick_by_a_forged_frame_loses_the_space() {
    let rig = Rig::new();
    // mov eax, 15 ; syscall
    let returning = [0xb8, 15, 0, 0, 0, 0x0f, 0x05];
    let at = rig.text_page().windows(7).position(|w| w == returning).expect("the stub returns from signals");
    // Spins from a `ucontext_t` on the data page that blocks all signals.
    let space = Arc::new(rig.space(&[0xeb, 0xfe]));
    let mut frame = [0u8; 304];
    let mut put = |offset: usize, word: u64| frame[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
    put(40 + 15 * 8, DATA + 0x800);
    put(40 + 16 * 8, CODE);
    put(40 + 17 * 8, 0x202);
    put(40 + 18 * 8, 0x2b << 48 | 0x33);
    put(296, !0);
    rig.ram.write_all_at(&frame, 0x10000).unwrap();
    let mut context = start(rig.engine.user_limit() + at as u64);
    context.regs().rsp = DATA;
    let ended = Arc::new(AtomicBool::new(false));
    let kicker = std::thread::spawn({
        let (space, ended) = (space.clone(), ended.clone());
        move || {
            while !ended.load(Ordering::SeqCst) {
                space.kick(0);
                std::thread::yield_now();
            }
        }
    });
    // The kicks before it has forged the frame are answered; one after that is not.
    let exit = loop {
        match space.run(0, &mut context, &alone) {
            Exit::Interrupted => {}
            exit => break exit,
        }
    };
    ended.store(true, Ordering::SeqCst);
    kicker.join().unwrap();
    assert!(matches!(exit, Exit::Dead(_)), "{exit:?}");
    let other = rig.space(SYSCALL_LOOP);
    assert!(matches!(other.run(0, &mut start(CODE), &alone), Exit::Syscall { nr: 39, .. }));
}

#[test]
fn guest_code_can_read_the_mappers_orders_but_not_write_them() {
    let rig = Rig::new();
    // Both the text and the orders: a store faults.
    let orders = 0x7fff_ff00_0000 + 0x20_0000 + 64 * 0x1_0000;
    for at in [rig.engine.user_limit(), orders] {
        // mov rbx, [rdi] ; mov [rdi], rax
        let space = rig.space(&[0x48, 0x8b, 0x1f, 0x48, 0x89, 0x07]);
        let mut context = start(CODE);
        context.regs().rdi = at;
        let exit = space.run(0, &mut context, &alone);
        let Exit::Fault { trapno: 14, error, addr, .. } = exit else { panic!("{exit:?}") };
        assert_eq!((addr, error & 2, context.regs().rip), (at, 2, CODE + 3));
    }
}
