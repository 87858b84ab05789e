//! Host tasks that are stopped and continued by somebody else: a container that is paused, a machine that sleeps, a debugger. The host breaks the calls off that they
//! wait in, and they make them again. In a test program of their own, because they stop every child of the process.

mod rig;

use rig::{CODE, DATA, RX, Rig, alone, children, start, status};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use vmspace::{Context, Exit, Op};

/// One test at a time: each concerns all children.
fn alone_with_children() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of a task, and whether it has a filter: mothers and the zygote have none.
fn state(pid: i32) -> (char, bool) {
    (status(pid, "State:"), status(pid, "Seccomp:") == '2')
}

/// Stops all mappers and runners, waits until they are, and continues them.
fn freeze() {
    let tasks: Vec<i32> = children().into_iter().filter(|pid| state(*pid).1).collect();
    assert!(tasks.len() >= 2);
    for (signo, becomes) in [(libc::SIGSTOP, 'T'), (libc::SIGCONT, 'S')] {
        for pid in &tasks {
            // SAFETY: no pointers; a child that nobody reaps meanwhile.
            assert_eq!(unsafe { libc::kill(*pid, signo) }, 0);
        }
        while tasks.iter().any(|pid| state(*pid).0 != becomes) {
            thread::yield_now();
        }
    }
}

#[test]
fn waits_that_are_broken_off_go_on() {
    let _guard = alone_with_children();
    let rig = Rig::new();
    // mov eax, 39 ; syscall ; mov [rdi], eax ; ud2 ; jmp back
    let space = rig.space(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x89, 0x07, 0x0f, 0x0b, 0xeb, 0xf3]);
    let mut context = start(CODE);
    context.regs().rdi = DATA;
    let run = |context: &mut Context| space.run(0, context, &alone);

    // Its runner has said nothing yet but that it is there.
    freeze();
    for round in 0..20 {
        let called = run(&mut context);
        assert!(matches!(called, Exit::Syscall { nr: 39, .. }), "round {round}: {called:?}");
        freeze();
        context.set_syscall_result(round);
        let fault = run(&mut context);
        assert!(
            matches!(fault, Exit::Fault { signo: libc::SIGILL, trapno: 6, .. }),
            "round {round}: {fault:?}"
        );
        assert_eq!((context.regs().rax, context.regs().rip), (round, CODE + 9));
        freeze();
        context.regs().rip = CODE + 11;
        // The mapper, asleep.
        let protect = |prot| Op::Protect { at: DATA, len: 4096, prot };
        space.update(0, &[protect(libc::PROT_READ)]).unwrap();
        freeze();
        let file = rig::memory_file();
        file.set_len(4096).unwrap();
        let at = DATA + 0x10000;
        let show = Op::MapFile {
            at,
            len: 4096,
            prot: rig::RW,
            file: std::os::fd::AsFd::as_fd(&file),
            key: round + 1,
            offset: 0,
            shared: true,
        };
        space.update(0, &[protect(rig::RW), show]).unwrap();
        if round % 4 == 1 {
            // Somebody else's registers make room for these.
            let called = run(&mut context);
            assert!(matches!(called, Exit::Syscall { nr: 39, .. }), "round {round}: {called:?}");
            freeze();
            let mut other = start(CODE);
            other.regs().rdi = DATA;
            assert!(matches!(run(&mut other), Exit::Syscall { nr: 39, .. }));
            context.set_syscall_result(7);
            assert!(matches!(run(&mut context), Exit::Fault { signo: libc::SIGILL, .. }));
            assert_eq!(context.regs().rax, 7);
            context.regs().rip = CODE;
        }
    }
    drop(space);
    freeze();
    // The next one gets the same tasks.
    let space = rig.space(rig::SYSCALL_LOOP);
    let mut context = start(CODE);
    assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 39, .. }));
}

#[test]
fn mothers_make_what_they_are_told_to() {
    let _guard = alone_with_children();
    let rig = Rig::new();
    let space = rig.space(rig::SYSCALL_LOOP);
    // Stopped tasks without a filter have stopped themselves. The first is this address space's.
    let mother = loop {
        if let Some(mother) = children().into_iter().filter(|pid| state(*pid) == ('T', false)).min() {
            break mother;
        }
        thread::yield_now();
    };
    // SAFETY: no pointers; a child that nobody reaps meanwhile.
    assert_eq!(unsafe { libc::kill(mother, libc::SIGCONT) }, 0);
    while state(mother).0 != 'T' {
        thread::yield_now();
    }
    // A runner that nobody has asked for would be taken for one of this address space's.
    let other = rig.engine.create(None).unwrap();
    let show = Op::MapRam { at: DATA, len: 4096, prot: RX, offset: 0, populate: false };
    other.update(0, &[show]).unwrap();
    for cpu in 0..3 {
        for (space, code) in [(&other, DATA), (&space, CODE)] {
            let exit = space.run(cpu, &mut start(code), &alone);
            assert!(matches!(exit, Exit::Syscall { nr: 39, .. }), "at {code:#x} on {cpu}: {exit:?}");
        }
    }
}
