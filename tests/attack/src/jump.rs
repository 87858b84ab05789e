//! Going anywhere with any registers, and coming back.
//!
//! [`Regs::launch`] jumps; whoever returns through the stack that [`landing_stack`] gives, faults, or is caught by the timer comes back to the caller. What the code
//! in between did to FS base, flags and floating-point control words is undone.

use crate::sys;
use std::arch::global_asm;

/// General registers, flags and where to go.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rflags: u64,
    pub rip: u64,
}

global_asm!(
    r#"
    .pushsection .data.attack, "aw"
    .balign 8
attack_sp: .quad 0
attack_fs: .quad 0
attack_gs: .quad 0
attack_target: .quad 0
    .globl attack_live
attack_live: .quad 0
attack_mxcsr: .long 0x1f80
    .popsection
    .pushsection .text.attack, "ax"
    .globl attack_launch
attack_launch:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + attack_sp], rsp
    rdfsbase rax
    mov [rip + attack_fs], rax
    rdgsbase rax
    mov [rip + attack_gs], rax
    mov rax, [rdi + 136]
    mov [rip + attack_target], rax
    mov qword ptr [rip + attack_live], 1
    push qword ptr [rdi + 128]
    mov rax, [rdi]
    mov rbx, [rdi + 8]
    mov rcx, [rdi + 16]
    mov rdx, [rdi + 24]
    mov rsi, [rdi + 32]
    mov rbp, [rdi + 48]
    mov r8, [rdi + 64]
    mov r9, [rdi + 72]
    mov r10, [rdi + 80]
    mov r11, [rdi + 88]
    mov r12, [rdi + 96]
    mov r13, [rdi + 104]
    mov r14, [rdi + 112]
    mov r15, [rdi + 120]
    popfq
    mov rsp, [rdi + 56]
    mov rdi, [rdi + 40]
    jmp [rip + attack_target]
    .globl attack_landing
attack_landing:
    mov qword ptr [rip + attack_live], 0
    mov rsp, [rip + attack_sp]
    push 0x202
    popfq
    mov rax, [rip + attack_fs]
    wrfsbase rax
    // A GS base that is not where it was before, give or take a thread's place, goes.
    rdgsbase rax
    xor rax, [rip + attack_gs]
    shr rax, 24
    jz 1f
    xor eax, eax
    wrgsbase rax
1:  fninit
    ldmxcsr [rip + attack_mxcsr]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .popsection
    "#
);

unsafe extern "C" {
    fn attack_launch(regs: *const Regs);
    fn attack_landing();
    static mut attack_live: u64;
}

/// Signals that end a jump.
const CAUGHT: [i32; 8] = [
    libc::SIGABRT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGALRM,
];

extern "C" fn caught(signo: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // Nothing here may use FS: its base can be anything.
    unsafe {
        if (&raw const attack_live).read_volatile() == 0 {
            if signo == libc::SIGALRM {
                return;
            }
            // The jumps before have broken this very program: the next process goes on.
            sys::call(libc::SYS_exit_group, [98, 0, 0, 0, 0, 0]);
        }
        let context = &mut *context.cast::<libc::ucontext_t>();
        let mask = (&raw mut context.uc_sigmask).cast::<u64>();
        mask.write(0);
        context.uc_mcontext.gregs[libc::REG_RIP as usize] = attack_landing as *const () as i64;
        context.uc_mcontext.gregs[libc::REG_EFL as usize] = 0x202;
    }
}

/// Catches what ends a jump. For the process's only thread.
pub fn catch() {
    const LEN: usize = 1 << 16;
    let stack = libc::stack_t { ss_sp: sys::pages(LEN, false).cast(), ss_flags: 0, ss_size: LEN };
    unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    sys::handle(&CAUGHT, caught);
    tick();
}

/// Starts the timer (anew) that ends jumps which don't come back.
pub fn tick() {
    let every = libc::timeval { tv_sec: 0, tv_usec: 8000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
}

impl Regs {
    /// Goes there.
    pub fn launch(&self) {
        unsafe { attack_launch(self) };
    }
}

/// A stack pointer from which every return leads back.
pub fn landing_stack() -> u64 {
    const LEN: usize = 1 << 15;
    let at = sys::pages(LEN, false).cast::<u64>();
    for i in 0..LEN / 8 {
        unsafe { at.add(i).write(attack_landing as *const () as u64) };
    }
    at as u64 + LEN as u64 / 2
}

/// Where jumps come back to.
pub fn landing() -> u64 {
    attack_landing as *const () as u64
}

/// The bytes at an address, if they can be read, by reading them.
pub fn peek(at: u64) -> Option<u64> {
    let (mut regs, mut value) = (Regs::default(), 0u64);
    regs.rip = attack_peek as *const () as u64;
    (regs.rdi, regs.rsi, regs.rsp) = (at, &raw mut value as u64, probe_stack());
    (regs.rdx, regs.rflags) = (&raw mut value as u64, 0x202);
    let mut done = 0u64;
    regs.r8 = &raw mut done as u64;
    regs.launch();
    (unsafe { (&raw const done).read_volatile() } == 1)
        .then_some(unsafe { (&raw const value).read_volatile() })
}

/// Whether a word can be written, by writing what is there.
pub fn can_write(at: u64) -> bool {
    let (mut regs, mut done) = (Regs::default(), 0u64);
    regs.rip = attack_poke as *const () as u64;
    (regs.rdi, regs.rsp, regs.r8) = (at, probe_stack(), &raw mut done as u64);
    regs.rflags = 0x202;
    regs.launch();
    unsafe { (&raw const done).read_volatile() == 1 }
}

/// The same one each time.
pub fn landing_stack_kept() -> u64 {
    probe_stack()
}

fn probe_stack() -> u64 {
    static STACK: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *STACK.get_or_init(landing_stack)
}

global_asm!(
    r#"
    .pushsection .text.attack, "ax"
    .globl attack_peek
attack_peek:
    mov rax, [rdi]
    mov [rsi], rax
    mov qword ptr [r8], 1
    jmp attack_landing
    .globl attack_poke
attack_poke:
    lock or dword ptr [rdi], 0
    mov qword ptr [r8], 1
    jmp attack_landing
    .popsection
    "#
);

unsafe extern "C" {
    fn attack_peek();
    fn attack_poke();
}
