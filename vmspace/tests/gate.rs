//! System calls through the gate, by guests that are written as patched code would be.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vmspace::{Context, Engine, Exit, Op, Vmspace};

const CODE: u64 = 0x40_0000;
const NR: u64 = 39;

fn alone() -> Option<usize> {
    None
}

/// A CPU that the calling thread is not bound to; the tests need two.
fn other_cpu() -> Option<usize> {
    // SAFETY: no arguments.
    let here = unsafe { libc::sched_getcpu() } as usize;
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (count > 1).then(|| (here + 1) % count)
}

/// An endless loop of calls, which adds the results up in `rbx` and counts them in `r12`.
fn looping(engine: &Arc<Engine>, ram: &File) -> Vmspace {
    let mut code = vec![0xb8, NR as u8, 0, 0, 0]; // mov eax, NR
    code.extend([0x48, 0x8d, 0x0d, 13, 0, 0, 0]); // lea rcx, [rip + 13]
    code.extend([0x49, 0xbb]); // movabs r11, gate
    code.extend(engine.gate().unwrap().to_le_bytes());
    code.extend([0x41, 0xff, 0xe3]); // jmp r11
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0x48, 0x01, 0xc3]); // add rbx, rax
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    code.extend([0xeb, 0xdd]); // jmp
    ram.write_all_at(&code, 0).unwrap();
    let space = engine.create().unwrap();
    let prot = libc::PROT_READ | libc::PROT_EXEC;
    space.update(0, &[Op::MapRam { at: CODE, len: 4096, prot, offset: 0, populate: false }]).unwrap();
    space
}

/// Behind the `syscall` instruction of the loop.
const BEHIND: u64 = CODE + 27;

fn engine() -> (Arc<Engine>, File) {
    let name: &CStr = c"test-ram";
    // SAFETY: the name is a C string and the descriptor is new.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC)) };
    let ram = File::from(fd);
    ram.set_len(1 << 20).unwrap();
    let engine = Engine::new(&OwnedFd::from(ram.try_clone().unwrap())).unwrap();
    (engine, ram)
}

fn start() -> Context {
    let mut context = Context::new();
    let regs = context.regs();
    (regs.rip, regs.eflags) = (CODE, 0x202);
    (regs.rdi, regs.r9) = (11, 66);
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
    let (engine, ram) = engine();
    let space = looping(&engine, &ram);
    make_calls(&space, &mut start(), 1000, &alone);
}

#[test]
fn constant_answers_need_no_owner_and_belong_to_the_thread() {
    let (engine, ram) = engine();
    let space = Arc::new(looping(&engine, &ram));
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
    assert!(known.regs().r12 > 1000);
    known.set_answers(&[]);
    assert!(matches!(space.run(0, &mut known, &alone), Exit::Syscall { nr: NR, .. }));
}

#[test]
fn an_owner_who_listens_gets_every_call_once() {
    let (engine, ram) = engine();
    let space = looping(&engine, &ram);
    make_calls(&space, &mut start(), 100_000, &other_cpu);
}

#[test]
fn kicks_lose_no_call_and_repeat_none() {
    let (engine, ram) = engine();
    let space = Arc::new(looping(&engine, &ram));
    let done = Arc::new(AtomicBool::new(false));
    let kicks = Arc::new(AtomicU64::new(0));
    let kicker = std::thread::spawn({
        let (space, done, kicks) = (space.clone(), done.clone(), kicks.clone());
        move || {
            while !done.load(Ordering::SeqCst) {
                space.kick(0);
                kicks.fetch_add(1, Ordering::SeqCst);
                for _ in 0..kicks.load(Ordering::SeqCst) % 977 {
                    std::hint::spin_loop();
                }
            }
        }
    });
    let mut context = start();
    let mut other = start();
    let mut made = [0u64; 2];
    for turn in 0..40_000u64 {
        // Two threads by turns, so that registers have to be fetched from wherever the other one stands.
        let which = usize::from(turn % 7 == 0);
        let context = if which == 0 { &mut context } else { &mut other };
        match space.run(0, context, &other_cpu) {
            Exit::Syscall { nr: NR, ip: BEHIND, .. } => {
                context.set_syscall_result(made[which]);
                made[which] += 1;
            }
            Exit::Interrupted => {}
            exit => panic!("{exit:?}"),
        }
    }
    done.store(true, Ordering::SeqCst);
    kicker.join().unwrap();
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

#[test]
fn a_guest_with_a_gs_base_of_its_own_traps() {
    let (engine, ram) = engine();
    let space = looping(&engine, &ram);
    let mut context = start();
    context.regs().gs_base = 0x1234_5000;
    context.set_answers(&[(NR as u8, 5)]);
    assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: NR, .. }));
    assert_eq!(context.regs().gs_base, 0x1234_5000);
}
