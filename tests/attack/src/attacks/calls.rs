//! Calls of all kinds that a process makes while something is wrong.

use crate::rng::Rng;
use crate::sys;

/// Makes calls that are worth being patched, until they have been.
pub fn warm_up() {
    for _ in 0..64 {
        unsafe {
            libc::getppid();
            libc::syscall(libc::SYS_getppid);
            libc::sched_yield();
            libc::close(-1);
        }
    }
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
            0 | 1 => repeat(20, || libc::getppid() as i64),
            2 => repeat(20, || libc::syscall(libc::SYS_gettid)),
            3 => {
                libc::sched_yield();
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
                let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
                libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut time);
            }
            8 => {
                let mut old = 0u64;
                let new = rng.next() & !(1 << 13);
                libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const new, &raw mut old, 8);
                libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const old, 0, 8);
            }
            9 => {
                let time = libc::timespec { tv_sec: 0, tv_nsec: 20_000 };
                libc::nanosleep(&raw const time, std::ptr::null_mut());
            }
            10 => {
                let mut byte = [0u8; 64];
                libc::write(4, byte.as_ptr().cast(), 1);
                libc::read(1, byte.as_mut_ptr().cast(), 64);
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
                libc::syscall(libc::SYS_futex, &raw const word, libc::FUTEX_WAIT, 0, &raw const time);
            }
            14 => {
                libc::syscall(libc::SYS_getuid);
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
