//! Faults as signals, and the machine state that handlers see and change.

use crate::kit::prelude::*;
use std::arch::asm;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

/// si_code values that libc does not name.
const ILL_ILLOPN: i32 = 2;
const FPE_INTDIV: i32 = 1;
const FPE_FLTDIV: i32 = 3;
const TRAP_BRKPT: i32 = 1;
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;
const SI_KERNEL: i32 = 0x80;

static CODE: AtomicI32 = AtomicI32::new(-1);
static ADDR: AtomicUsize = AtomicUsize::new(0);
static RIP: AtomicUsize = AtomicUsize::new(0);
static SKIP: AtomicUsize = AtomicUsize::new(0);
static ERR: AtomicUsize = AtomicUsize::new(0);
static TRAP: AtomicUsize = AtomicUsize::new(0);

/// Notes the fault, and goes on `SKIP` bytes after the instruction.
extern "C" fn skipping(_: i32, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives both; the context is ours to change.
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        ADDR.store((*info).si_addr() as usize, SeqCst);
        let regs = &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs;
        RIP.store(regs[REG_RIP as usize] as usize, SeqCst);
        ERR.store(regs[REG_ERR as usize] as usize, SeqCst);
        TRAP.store(regs[REG_TRAPNO as usize] as usize, SeqCst);
        regs[REG_RIP as usize] += SKIP.load(SeqCst) as i64;
    }
}

fn expect(s: i32, skip: usize) -> R {
    SKIP.store(skip, SeqCst);
    CODE.store(-1, SeqCst);
    Ok(sig::handle(s, skipping, 0, &[])?)
}

/// (si_code, si_addr, error code of the page fault)
fn noted() -> (i32, usize, usize) {
    (CODE.load(SeqCst), ADDR.load(SeqCst), ERR.load(SeqCst))
}

/// Loads a byte with an instruction of three bytes.
fn load(addr: usize) {
    // SAFETY: an address that the case expects to fault, or a mapped one.
    unsafe { asm!("mov cl, [rax + 0x0]", "nop", in("rax") addr, out("cl") _) }
}

/// Stores a byte with an instruction of two bytes.
fn store(addr: usize) {
    // SAFETY: as for `load`.
    unsafe { asm!("mov [rax], cl", in("rax") addr, in("cl") 1u8) }
}

fn unmapped_is_maperr() -> R {
    let p = rw(4096)?;
    munmap(p, 4096)?;
    expect(SIGSEGV, 2)?;
    load(p as usize + 123);
    eq!(noted(), (SEGV_MAPERR, p as usize + 123, 4));
    store(p as usize + 5);
    eq!(noted(), (SEGV_MAPERR, p as usize + 5, 6));
    eq!(TRAP.load(SeqCst), 14);
    Ok(())
}

fn null_pointer() -> R {
    expect(SIGSEGV, 2)?;
    store(8);
    eq!(noted(), (SEGV_MAPERR, 8, 6));
    Ok(())
}

fn protection_is_accerr() -> R {
    expect(SIGSEGV, 2)?;
    let p = map(4096, PROT_READ, MAP_PRIVATE)?;
    load(p as usize);
    eq!(CODE.load(SeqCst), -1);
    store(p as usize + 9);
    eq!((noted().0, noted().1), (SEGV_ACCERR, p as usize + 9));
    that!(noted().2 & 6 == 6);
    let n = map(4096, PROT_NONE, MAP_PRIVATE)?;
    load(n as usize + 1);
    eq!((noted().0, noted().1), (SEGV_ACCERR, n as usize + 1));
    Ok(())
}

fn executing_data_is_accerr() -> R {
    extern "C" fn back(_: i32, info: *mut siginfo_t, context: *mut c_void) {
        // SAFETY: as in `skipping`; the return address is on top of the stack.
        unsafe {
            CODE.store((*info).si_code, SeqCst);
            ADDR.store((*info).si_addr() as usize, SeqCst);
            let regs = &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs;
            ERR.store(regs[REG_ERR as usize] as usize, SeqCst);
            let sp = regs[REG_RSP as usize] as *const i64;
            regs[REG_RIP as usize] = *sp;
            regs[REG_RSP as usize] += 8;
        }
    }
    sig::handle(SIGSEGV, back, 0, &[])?;
    let p = rw(4096)?;
    poke(p, 0xc3);
    // SAFETY: the handler returns for it.
    unsafe { asm!("call rax", in("rax") p, clobber_abi("C")) };
    eq!((noted().0, noted().1), (SEGV_ACCERR, p as usize));
    that!(noted().2 & 0x10 != 0, "instruction fetch");
    sc!(SYS_mprotect, p, 4096, PROT_READ | PROT_EXEC)?;
    CODE.store(-1, SeqCst);
    // SAFETY: the page holds a return instruction.
    unsafe { asm!("call rax", in("rax") p, clobber_abi("C")) };
    eq!(noted().0, -1);
    Ok(())
}

fn non_canonical_is_a_general_protection_fault() -> R {
    expect(SIGSEGV, 2)?;
    store(0x8000_0000_0000_0000);
    eq!((noted().0, noted().1), (SI_KERNEL, 0));
    eq!(TRAP.load(SeqCst), 13);
    Ok(())
}

fn beyond_the_end_of_a_file_is_sigbus() -> R {
    put(c"f", b"abc")?;
    let fd = open(c"f", O_RDWR, 0)?;
    let p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
    expect(SIGBUS, 2)?;
    load(p as usize + 4000);
    eq!(CODE.load(SeqCst), -1);
    store(p as usize + 4096);
    eq!((noted().0, noted().1), (BUS_ADRERR, p as usize + 4096));
    let q = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0)?;
    store(q as usize + 5000);
    eq!((noted().0, noted().1), (BUS_ADRERR, q as usize + 5000));
    Ok(())
}

fn a_system_call_on_a_page_beyond_the_end_is_efault() -> R {
    put(c"f", b"abc")?;
    let fd = open(c"f", O_RDWR, 0)?;
    let p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
    let (r, w) = pipe(0)?;
    errno_is!(sc!(SYS_write, w, at(p, 4096), 10), EFAULT);
    write(w, b"x")?;
    errno_is!(sc!(SYS_read, r, at(p, 4096), 10), EFAULT);
    Ok(())
}

fn integer_division_by_zero() -> R {
    expect(SIGFPE, 2)?;
    // SAFETY: the handler steps over the division.
    unsafe { asm!("xor ecx, ecx", "div ecx", out("ecx") _, inout("eax") 1 => _, inout("edx") 0 => _) };
    eq!(noted().0, FPE_INTDIV);
    eq!(ADDR.load(SeqCst), RIP.load(SeqCst));
    Ok(())
}

fn floating_point_division_by_zero() -> R {
    // ldmxcsr with the divide-by-zero exception let through.
    expect(SIGFPE, 4)?;
    let (old, new) = (0x1f80u32, 0x1f80u32 & !0x200);
    // SAFETY: the state is put back; the handler steps over the division.
    unsafe {
        asm!(
            "ldmxcsr [{new}]", "xorps {z}, {z}", "divss xmm1, xmm0", "ldmxcsr [{old}]",
            new = in(reg) &new, old = in(reg) &old, z = out(xmm_reg) _,
            inout("xmm0") 0.0f32 => _, inout("xmm1") 1.0f32 => _
        );
    }
    eq!(noted().0, FPE_FLTDIV);
    Ok(())
}

fn illegal_instruction() -> R {
    expect(SIGILL, 2)?;
    // SAFETY: the handler steps over it.
    unsafe { asm!("ud2") };
    eq!(noted().0, ILL_ILLOPN);
    eq!(ADDR.load(SeqCst), RIP.load(SeqCst));
    Ok(())
}

fn privileged_instruction_is_sigsegv() -> R {
    expect(SIGSEGV, 1)?;
    // SAFETY: as above.
    unsafe { asm!("hlt") };
    eq!((noted().0, noted().1), (SI_KERNEL, 0));
    Ok(())
}

fn breakpoint_is_sigtrap_after_the_instruction() -> R {
    expect(SIGTRAP, 0)?;
    let here: usize;
    // SAFETY: nothing to step over: the trap is reported behind the instruction.
    unsafe { asm!("lea {}, [rip + 2f]", "int3", "2:", out(reg) here) };
    eq!(noted().0, SI_KERNEL);
    eq!(RIP.load(SeqCst), here);
    Ok(())
}

fn single_stepping() -> R {
    extern "C" fn stop_stepping(_: i32, info: *mut siginfo_t, context: *mut c_void) {
        // SAFETY: as in `skipping`.
        unsafe {
            CODE.store((*info).si_code, SeqCst);
            let regs = &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs;
            ADDR.store(ADDR.load(SeqCst) + 1, SeqCst);
            if ADDR.load(SeqCst) == 3 {
                regs[REG_EFL as usize] &= !0x100;
            }
        }
    }
    sig::handle(SIGTRAP, stop_stepping, 0, &[])?;
    ADDR.store(0, SeqCst);
    // SAFETY: sets the trap flag; the handler clears it after three steps.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop", "nop", "nop") };
    eq!((CODE.load(SeqCst), ADDR.load(SeqCst)), (TRAP_BRKPT + 1, 3));
    Ok(())
}

fn faults_that_are_not_handled_kill() -> R {
    let c = child(|| {
        store(8);
        Ok(())
    })?;
    eq!(c.wait()?, Status::Killed(SIGSEGV));
    // Blocked or ignored does not help.
    for ignore in [false, true] {
        let c = child(|| {
            if ignore {
                sig::dispose(SIGSEGV, SIG_IGN, 0)?;
            } else {
                sig::record(SIGSEGV, 0)?;
                sig::block(&[SIGSEGV])?;
            }
            store(8);
            Ok(())
        })?;
        eq!(c.wait()?, Status::Killed(SIGSEGV));
    }
    Ok(())
}

fn a_fault_in_a_handler_of_the_same_signal_kills() -> R {
    extern "C" fn again(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        store(16);
    }
    let c = child(|| {
        sig::handle(SIGSEGV, again, 0, &[])?;
        store(8);
        Ok(())
    })?;
    eq!(c.wait()?, Status::Killed(SIGSEGV));
    Ok(())
}

fn stack_overflow_is_caught_on_an_alternate_stack() -> R {
    extern "C" fn out_of_stack(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        exit(21);
    }
    fn deeper(n: u64) -> u64 {
        if n == u64::MAX {
            return 0;
        }
        let big = std::hint::black_box([n; 512]);
        deeper(n + 1) + big[7]
    }
    sc!(SYS_prlimit64, 0, RLIMIT_STACK, &rlimit { rlim_cur: 1 << 20, rlim_max: RLIM_INFINITY }, 0)?;
    let c = child(|| {
        let p = rw(65536)?;
        sc!(SYS_sigaltstack, &stack_t { ss_sp: p.cast(), ss_flags: 0, ss_size: 65536 }, 0)?;
        sig::handle(SIGSEGV, out_of_stack, SA_ONSTACK, &[])?;
        eq!(deeper(0), 0);
        Ok(())
    })?;
    eq!(c.wait()?, Status::Exited(21));
    Ok(())
}

fn no_room_for_the_frame_kills() -> R {
    let c = child(|| {
        sig::record(SIGUSR1, 0)?;
        let (pid, tid) = (getpid(), gettid());
        // SAFETY: the process ends here: the stack pointer goes nowhere, then a signal comes.
        unsafe {
            asm!(
                "mov rsp, 4096", "syscall",
                in("rax") SYS_tgkill, in("rdi") pid, in("rsi") tid, in("rdx") SIGUSR1, options(noreturn)
            )
        }
    })?;
    eq!(c.wait()?, Status::Killed(SIGSEGV));
    Ok(())
}

fn registers_survive_a_handler() -> R {
    sig::record(SIGUSR1, 0)?;
    let (pid, tid) = (getpid(), gettid());
    let mut out = [0u64; 8];
    // SAFETY: a system call that raises a signal; every register that it keeps is checked.
    unsafe {
        asm!(
            "mov r8, 8", "mov r9, 9", "mov r10, 10", "mov r12, 12", "mov r13, 13", "mov r14, 14", "mov r15, 15",
            "syscall",
            "mov [{o}], r8", "mov [{o} + 8], r9", "mov [{o} + 16], r10", "mov [{o} + 24], r12",
            "mov [{o} + 32], r13", "mov [{o} + 40], r14", "mov [{o} + 48], r15", "mov [{o} + 56], rax",
            o = in(reg) &mut out,
            inout("rax") SYS_tgkill => _, in("rdi") pid, in("rsi") tid, in("rdx") SIGUSR1,
            out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _,
            out("r14") _, out("r15") _
        );
    }
    eq!(out, [8, 9, 10, 12, 13, 14, 15, 0]);
    eq!(sig::count(), 1);
    Ok(())
}

/// Ruins the vector registers.
extern "C" fn ruin_vectors(_: i32, _: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the registers are the kernel's to put back.
    unsafe {
        asm!("pcmpeqd xmm0, xmm0", "pcmpeqd xmm7, xmm7", "pcmpeqd xmm15, xmm15",
             out("xmm0") _, out("xmm7") _, out("xmm15") _);
        if std::is_x86_feature_detected!("avx") {
            asm!("vxorps ymm3, ymm3, ymm3", "vxorps ymm12, ymm12, ymm12", out("ymm3") _, out("ymm12") _);
        }
        if std::is_x86_feature_detected!("avx512f") {
            asm!("vpxorq zmm20, zmm20, zmm20", "kxorw k3, k3, k3", out("zmm20") _, out("k3") _);
        }
    }
}

fn vector_registers_survive_a_handler() -> R {
    sig::handle(SIGUSR1, ruin_vectors, 0, &[])?;
    let (pid, tid) = (getpid(), gettid());
    let pattern: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
    let (mut sse, mut avx, mut zmm, mut mask) = ([0u64; 2], [0u64; 4], [0u64; 8], 0u64);
    // SAFETY: each block loads, has a signal come, and stores the registers.
    unsafe {
        asm!("movups xmm7, [{p}]", "syscall", "movups [{o}], xmm7", p = in(reg) &pattern, o = in(reg) &mut sse,
             inout("rax") SYS_tgkill => _, in("rdi") pid, in("rsi") tid, in("rdx") SIGUSR1,
             out("rcx") _, out("r11") _, out("xmm7") _);
        if std::is_x86_feature_detected!("avx") {
            asm!("vmovups ymm12, [{p}]", "syscall", "vmovups [{o}], ymm12", p = in(reg) &pattern, o = in(reg) &mut avx,
                 inout("rax") SYS_tgkill => _, in("rdi") pid, in("rsi") tid, in("rdx") SIGUSR1,
                 out("rcx") _, out("r11") _, out("ymm12") _);
        }
        if std::is_x86_feature_detected!("avx512f") {
            asm!("vmovups zmm20, [{p}]", "mov ecx, 0x5a5a", "kmovw k3, ecx", "syscall",
                 "vmovups [{o}], zmm20", "kmovw ecx, k3", "mov [{m}], rcx",
                 p = in(reg) &pattern, o = in(reg) &mut zmm, m = in(reg) &mut mask,
                 inout("rax") SYS_tgkill => _, in("rdi") pid, in("rsi") tid, in("rdx") SIGUSR1,
                 out("rcx") _, out("r11") _, out("zmm20") _, out("k3") _);
        }
    }
    eq!(sse, pattern[..2]);
    if std::is_x86_feature_detected!("avx") {
        eq!(avx, pattern[..4]);
    }
    if std::is_x86_feature_detected!("avx512f") {
        eq!(zmm, pattern);
        eq!(mask, 0x5a5a);
    }
    Ok(())
}

fn vector_registers_survive_system_calls_and_switches() -> R {
    // Two processes on one CPU, each with its own pattern, yielding to each other.
    let keep = |seed: u64| {
        child(move || {
            let pattern = [seed; 8];
            for _ in 0..300 {
                let mut out = [0u64; 4];
                // SAFETY: loads, yields, stores.
                unsafe {
                    asm!("movups xmm5, [{p}]", "movups xmm9, [{p}]", "syscall", "movups [{o}], xmm5",
                         "movups [{o} + 16], xmm9", p = in(reg) &pattern, o = in(reg) &mut out,
                         inout("rax") SYS_sched_yield => _, out("rcx") _, out("r11") _, out("xmm5") _, out("xmm9") _);
                }
                eq!(out, [seed; 4]);
                if std::is_x86_feature_detected!("avx") {
                    // SAFETY: as above.
                    unsafe {
                        asm!("vmovups ymm5, [{p}]", "syscall", "vmovups [{o}], ymm5",
                             p = in(reg) &pattern, o = in(reg) &mut out,
                             inout("rax") SYS_sched_yield => _, out("rcx") _, out("r11") _, out("ymm5") _);
                    }
                    eq!(out, [seed; 4]);
                }
            }
            Ok(())
        })
    };
    let all = [keep(0x1111)?, keep(0x2222)?, keep(0x3333)?];
    for c in all {
        c.ok()?;
    }
    Ok(())
}

fn a_handler_can_change_registers() -> R {
    extern "C" fn set_rbx(_: i32, _: *mut siginfo_t, context: *mut c_void) {
        // SAFETY: as in `skipping`.
        unsafe { (*context.cast::<ucontext_t>()).uc_mcontext.gregs[REG_R12 as usize] = 4242 };
    }
    sig::handle(SIGUSR1, set_rbx, 0, &[])?;
    let (pid, tid) = (getpid(), gettid());
    let got: u64;
    // SAFETY: a signal comes in the call; the handler changes r12.
    unsafe {
        asm!("syscall", inout("rax") SYS_tgkill => _, in("rdi") pid, in("rsi") tid, in("rdx") SIGUSR1,
             inout("r12") 1u64 => got, out("rcx") _, out("r11") _);
    }
    eq!(got, 4242);
    Ok(())
}

fn a_handler_can_change_the_mask_to_return_to() -> R {
    extern "C" fn block_usr2(_: i32, _: *mut siginfo_t, context: *mut c_void) {
        // SAFETY: as in `skipping`.
        unsafe { sigaddset(&mut (*context.cast::<ucontext_t>()).uc_sigmask, SIGUSR2) };
    }
    sig::handle(SIGUSR1, block_usr2, 0, &[])?;
    kill(getpid(), SIGUSR1)?;
    eq!(sig::current()?, sig::set(&[SIGUSR2]));
    Ok(())
}

fn the_context_shows_the_interrupted_mask_and_stack() -> R {
    extern "C" fn look(_: i32, _: *mut siginfo_t, context: *mut c_void) {
        // SAFETY: as in `skipping`.
        unsafe {
            let c = &*context.cast::<ucontext_t>();
            let member = sigismember(&c.uc_sigmask, SIGUSR2) == 1 && sigismember(&c.uc_sigmask, SIGUSR1) == 0;
            CODE.store(i32::from(member), SeqCst);
            ADDR.store(c.uc_mcontext.gregs[REG_RSP as usize] as usize, SeqCst);
            RIP.store(c.uc_stack.ss_size, SeqCst);
        }
    }
    let p = rw(65536)?;
    sc!(SYS_sigaltstack, &stack_t { ss_sp: p.cast(), ss_flags: 0, ss_size: 65536 }, 0)?;
    sig::handle(SIGUSR1, look, SA_ONSTACK, &[])?;
    sig::block(&[SIGUSR2])?;
    kill(getpid(), SIGUSR1)?;
    let here = 0u8;
    eq!((CODE.load(SeqCst), RIP.load(SeqCst)), (1, 65536));
    let distance = (&raw const here as usize).abs_diff(ADDR.load(SeqCst));
    that!(distance < 65536, "{distance}");
    Ok(())
}

fn fixing_the_page_in_the_handler_resumes() -> R {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn allow(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        let _ = sc!(SYS_mprotect, PAGE.load(SeqCst), 4096, PROT_READ | PROT_WRITE);
        CODE.store(CODE.load(SeqCst) + 1, SeqCst);
    }
    let p = map(4096, PROT_NONE, MAP_PRIVATE)?;
    PAGE.store(p as usize, SeqCst);
    CODE.store(0, SeqCst);
    sig::handle(SIGSEGV, allow, 0, &[])?;
    poke(p, 77);
    eq!((peek(p), CODE.load(SeqCst)), (77, 1));
    Ok(())
}

fn x87_and_mxcsr_control_survive() -> R {
    extern "C" fn reset(_: i32, _: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: the control words are the kernel's to put back.
        unsafe { asm!("fninit", "ldmxcsr [{}]", in(reg) &0x1f80u32) };
    }
    sig::handle(SIGUSR1, reset, 0, &[])?;
    let (pid, tid) = (getpid(), gettid());
    let (cw, mx) = (0x0f7fu16, 0x7f80u32);
    let (mut cw2, mut mx2) = (0u16, 0u32);
    // SAFETY: sets both, has a signal come, reads both, and puts the defaults back.
    unsafe {
        asm!("fldcw [{cw}]", "ldmxcsr [{mx}]", "syscall", "fnstcw [{cw2}]", "stmxcsr [{mx2}]", "fninit",
             "ldmxcsr [{def}]", cw = in(reg) &cw, mx = in(reg) &mx, cw2 = in(reg) &mut cw2, mx2 = in(reg) &mut mx2,
             def = in(reg) &0x1f80u32, inout("rax") SYS_tgkill => _, in("rdi") pid, in("rsi") tid,
             in("rdx") SIGUSR1, out("rcx") _, out("r11") _);
    }
    eq!((cw2, mx2), (cw, mx));
    Ok(())
}

cases!("fault":
    unmapped_is_maperr, null_pointer, protection_is_accerr, executing_data_is_accerr,
    non_canonical_is_a_general_protection_fault, beyond_the_end_of_a_file_is_sigbus,
    a_system_call_on_a_page_beyond_the_end_is_efault, integer_division_by_zero,
    floating_point_division_by_zero, illegal_instruction, privileged_instruction_is_sigsegv,
    breakpoint_is_sigtrap_after_the_instruction, single_stepping, faults_that_are_not_handled_kill,
    a_fault_in_a_handler_of_the_same_signal_kills, stack_overflow_is_caught_on_an_alternate_stack,
    no_room_for_the_frame_kills, registers_survive_a_handler, vector_registers_survive_a_handler,
    vector_registers_survive_system_calls_and_switches, a_handler_can_change_registers,
    a_handler_can_change_the_mask_to_return_to, the_context_shows_the_interrupted_mask_and_stack,
    fixing_the_page_in_the_handler_resumes, x87_and_mxcsr_control_survive,
);
