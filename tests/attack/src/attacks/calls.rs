//! Calls of all kinds that a process makes while something is wrong.

use crate::rng::Rng;
use crate::sys;

/// A function with one system call, as a compiler makes it; its table of frames says where it starts.
macro_rules! site {
    ($name:ident, $($before:literal),*) => {
        std::arch::global_asm!(
            concat!(".pushsection .text.", stringify!($name), ",\"ax\",@progbits"),
            concat!(".globl ", stringify!($name)),
            concat!(".type ", stringify!($name), ",@function"),
            concat!(stringify!($name), ":"),
            ".cfi_startproc",
            $($before,)*
            "syscall",
            "ret",
            ".cfi_endproc",
            concat!(".size ", stringify!($name), ",.-", stringify!($name)),
            ".balign 64",
            ".popsection",
        );
        unsafe extern "C" {
            fn $name(a: u64, b: u64, c: u64, d: u64) -> i64;
        }
    };
}
pub(super) use site;

site!(attack_read, "mov r10, rcx", "mov eax, 0");
site!(attack_write, "mov r10, rcx", "mov eax, 1");
site!(attack_sigprocmask, "mov r10, rcx", "mov eax, 14");
site!(attack_yield, "mov eax, 24");
site!(attack_getpid, "mov eax, 39");
site!(attack_getuid, "mov eax, 102");
site!(attack_getppid, "mov eax, 110");
site!(attack_gettid, "mov eax, 186");
site!(attack_futex, "mov r10, rcx", "mov eax, 202");
site!(attack_clock, "mov eax, 228");

/// Makes calls that are worth being patched, until they have been.
pub fn warm_up() {
    let mut words = [0u64; 8];
    let at = words.as_mut_ptr() as u64;
    let calls: [&dyn Fn() -> i64; 10] = unsafe {
        [
            &|| attack_read(u64::MAX, at, 8, 0),
            &|| attack_write(u64::MAX, at, 8, 0),
            &|| attack_sigprocmask(0, 0, at, 8),
            &|| attack_yield(0, 0, 0, 0),
            &|| attack_getpid(0, 0, 0, 0),
            &|| attack_getuid(0, 0, 0, 0),
            &|| attack_getppid(0, 0, 0, 0),
            &|| attack_gettid(0, 0, 0, 0),
            &|| attack_futex(at, libc::FUTEX_WAKE as u64, 1, 0),
            &|| attack_clock(1, at, 0, 0),
        ]
    };
    calls.iter().for_each(|call| repeat(64, call));
}

/// Makes a call so many times.
pub fn repeat(times: usize, call: impl Fn() -> i64) {
    for _ in 0..times {
        std::hint::black_box(call());
    }
}

extern "C" fn ignore(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// One of many things that need the kernel: constant answers, calls through the gate, faults, signals, children, threads, waiting.
pub fn some_call(rng: &mut Rng) {
    unsafe {
        match rng.below(16) {
            0 | 1 => repeat(20, || attack_getppid(0, 0, 0, 0)),
            2 => repeat(20, || attack_gettid(0, 0, 0, 0) + attack_getpid(0, 0, 0, 0)),
            3 => {
                attack_yield(0, 0, 0, 0);
            }
            4 => {
                let at = sys::pages(1 << 14, false);
                (0..1 << 14).step_by(4096).for_each(|i| at.add(i).write_volatile(1));
                libc::munmap(at.cast(), 1 << 14);
            }
            5 => {
                if let Ok(pid) = sys::fork(|| 0) {
                    sys::wait(pid);
                }
            }
            6 => {
                sys::handle(&[libc::SIGUSR2], ignore);
                libc::raise(libc::SIGUSR2);
            }
            7 => {
                let mut time = [0u64; 2];
                let at = time.as_mut_ptr() as u64;
                attack_clock(rng.below(13), if rng.once_in(9) { 8 } else { at }, 0, 0);
            }
            8 => {
                // SIGALRM stays: the timer may be what ends this.
                let (new, mut old) = (rng.next() & !(1 << 13), 0u64);
                attack_sigprocmask(rng.below(4), &raw const new as u64, &raw mut old as u64, 8);
                attack_sigprocmask(2, &raw const old as u64, 0, 8);
            }
            9 => {
                let time = libc::timespec { tv_sec: 0, tv_nsec: 20_000 };
                libc::nanosleep(&raw const time, std::ptr::null_mut());
            }
            10 => {
                let mut byte = [0u8; 64];
                attack_write(4, byte.as_ptr() as u64, 1, 0);
                attack_read(1, byte.as_mut_ptr() as u64, 64, 0);
            }
            11 => {
                // A divide error and an invalid instruction in a child.
                if let Ok(pid) = sys::fork(|| {
                    core::arch::asm!("ud2");
                    0
                }) {
                    sys::wait(pid);
                }
            }
            12 => {
                let mut stat: libc::stat = std::mem::zeroed();
                libc::stat(c"/tmp".as_ptr(), &raw mut stat);
            }
            13 => {
                let word = 0u32;
                let time = libc::timespec { tv_sec: 0, tv_nsec: 1000 };
                attack_futex(&raw const word as u64, libc::FUTEX_WAIT as u64, 0, &raw const time as u64);
            }
            14 => {
                attack_getuid(0, 0, 0, 0);
                libc::syscall(libc::SYS_geteuid);
            }
            _ => {
                let stack: libc::stack_t =
                    libc::stack_t { ss_sp: sys::pages(8192, false).cast(), ss_flags: 0, ss_size: 8192 };
                libc::sigaltstack(&raw const stack, std::ptr::null_mut());
            }
        }
    }
}
