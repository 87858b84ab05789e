//! Behaves as Go's runtime does towards the kernel: worker threads compute in tight loops on stacks of
//! their own making; a monitor thread preempts them with SIGURG (tgkill) every few hundred microseconds;
//! the handler runs on each thread's alternate stack, looks at the interrupted registers, and makes the
//! thread go on in a scheduler function on another stack, which later switches back.
//!
//! `sigurg [MILLISECONDS [THREADS]]` (500, 8). Prints `N preemptions` and exits 0 when every worker made
//! progress, was preempted, and ended with the right result.

use std::arch::global_asm;
use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const STACK: usize = 64 << 10;
const MAX: usize = 64;

static STOP: AtomicBool = AtomicBool::new(false);
static TIDS: [AtomicI32; MAX] = [const { AtomicI32::new(0) }; MAX];
static PREEMPTED: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
static PROGRESS: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
    /// While set, the thread is where it may be preempted: in the computation, on its own stack.
    static PREEMPTIBLE: Cell<bool> = const { Cell::new(false) };
}

// `on_stack(top, f)`: calls f on another stack. `preempt_entry`: what the handler makes the thread go on
// with, as if the interrupted code had called it: keeps every register, calls `preempted`, returns to the
// interrupted instruction. The red zone below the interrupted stack pointer is left alone by the handler.
global_asm!(
    ".globl vk_on_stack",
    "vk_on_stack:",
    "push rbp",
    "mov rbp, rsp",
    "mov rsp, rdi",
    "call rsi",
    "mov rsp, rbp",
    "pop rbp",
    "ret",
    ".globl vk_preempt_entry",
    "vk_preempt_entry:",
    "pushfq",
    "push rax",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push rbx",
    "push rbp",
    "mov rbp, rsp",
    "sub rsp, 528",
    "and rsp, -16",
    "fxsave64 [rsp]",
    "cld",
    "call {preempted}",
    "fxrstor64 [rsp]",
    "mov rsp, rbp",
    "pop rbp",
    "pop rbx",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "popfq",
    "ret 128",
    preempted = sym preempted,
);

unsafe extern "C" {
    fn vk_on_stack(top: *mut u8, f: extern "C" fn());
    fn vk_preempt_entry();
}

/// Runs on the worker's own stack, as if called by the interrupted code: the place of Go's scheduler.
extern "C" fn preempted() {
    PREEMPTIBLE.set(false);
    PREEMPTED[INDEX.get()].fetch_add(1, SeqCst);
    // A switch to yet another stack, and a system call there.
    let mut stack = vec![0u8; 16 << 10];
    let top = stack.as_mut_ptr_range().end.map_addr(|a| a & !15);
    // SAFETY: a fresh stack, aligned, that lives until the call returns.
    unsafe { vk_on_stack(top, yield_now) };
    PREEMPTIBLE.set(true);
}

extern "C" fn yield_now() {
    thread::yield_now();
}

extern "C" fn on_sigurg(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if !PREEMPTIBLE.get() {
        return;
    }
    // SAFETY: the kernel's context of the interrupted code, which is the computation below: a return address
    // is pushed below its red zone, and `ret 128` takes both away again.
    unsafe {
        let regs = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let sp = regs[libc::REG_RSP as usize] - 128 - 8;
        (sp as *mut i64).write(regs[libc::REG_RIP as usize]);
        regs[libc::REG_RSP as usize] = sp;
        regs[libc::REG_RIP as usize] = vk_preempt_entry as *const () as i64;
    }
}

/// A computation without calls, whose result tells whether anything was disturbed.
extern "C" fn compute() {
    let index = INDEX.get();
    let reference = round(1);
    PREEMPTIBLE.set(true);
    while !STOP.load(SeqCst) {
        if round(1) != reference {
            eprintln!("sigurg: worker {index}: a wrong result");
            std::process::abort();
        }
        PROGRESS[index].fetch_add(1, SeqCst);
    }
    PREEMPTIBLE.set(false);
}

#[inline(never)]
fn round(seed: u64) -> (u64, u64) {
    let (mut x, mut f) = (seed, 1.5f64);
    for i in 0..20_000u64 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i);
        f = f * 1.000_000_1 + (x >> 60) as f64 * 1e-9;
    }
    (x, f.to_bits())
}

fn worker(index: usize) {
    INDEX.set(index);
    let mut alternate = vec![0u8; STACK];
    let mut own = vec![0u8; STACK];
    let stack = libc::stack_t { ss_sp: alternate.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK };
    // SAFETY: both stacks live until the thread has left them; the alternate one is given up at the end.
    unsafe {
        libc::sigaltstack(&stack, std::ptr::null_mut());
        TIDS[index].store(libc::gettid(), SeqCst);
        vk_on_stack(own.as_mut_ptr_range().end.map_addr(|a| a & !15), compute);
        TIDS[index].store(0, SeqCst);
        let off = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        libc::sigaltstack(&off, std::ptr::null_mut());
    }
}

fn main() -> ExitCode {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let time = Duration::from_millis(args.first().copied().unwrap_or(500));
    let workers = args.get(1).map_or(8, |n| (*n as usize).clamp(1, MAX));
    // SAFETY: a handler that only touches thread-locals without destructors and the context.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigurg as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut());
    }
    let threads: Vec<_> = (0..workers).map(|n| thread::spawn(move || worker(n))).collect();
    let start = Instant::now();
    let done = |index: usize| PREEMPTED[index].load(SeqCst) >= 3 && PROGRESS[index].load(SeqCst) >= 3;
    // At least the time asked for, and until everybody was preempted and went on.
    while start.elapsed() < time || !(0..workers).all(done) {
        for tid in TIDS.iter().map(|t| t.load(SeqCst)).filter(|t| *t != 0) {
            // SAFETY: one of our threads, or one that has just ended, for which this fails.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGURG) };
        }
        thread::sleep(Duration::from_micros(300));
    }
    STOP.store(true, SeqCst);
    let ended = threads.into_iter().filter_map(|t| t.join().ok()).count();
    let total: u64 = PREEMPTED.iter().map(|n| n.load(SeqCst)).sum();
    if ended != workers {
        eprintln!("sigurg: {ended} of {workers} threads ended well");
        return ExitCode::FAILURE;
    }
    println!("{total} preemptions");
    ExitCode::SUCCESS
}
