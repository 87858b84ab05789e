//! The seccomp filters of runners and mappers (`seccomp(2)`, classic BPF).
//!
//! A mapper never runs guest code: its filter lets everything pass but the call that it waits with. Runners:
//! every system call of guest code ends in the owner's hands: in a notification, or, where he wants all registers anyway, in the signal handler. Three calls pass without it, each from one instruction of the text page and,
//! where it has arguments that matter, with constant ones: `rt_sigreturn`, which changes only the caller's own registers and signal mask;
//! and the two by which a new runner gives its listener away and closes its descriptors, which have no effect when repeated.

use crate::layout::{TEXT, fd, nr};
use crate::stub::{Addresses, data};

const LD_W_ABS: u16 = 0x20;
const JEQ_K: u16 = 0x15;
const RET_K: u16 = 0x06;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;
/// Calls that copy, replace or end the caller's registers: a notification does not show them, and a kick out of it costs more than a frame.
const WHOLE: [libc::c_long; 9] = [
    libc::SYS_rt_sigreturn,
    libc::SYS_clone,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
/// This instruction set in a filter's data and in `siginfo_t`.
pub(crate) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const IP: u32 = 8;
const ARGS: u32 = 16;

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> u64 {
    u64::from(code) | u64::from(jt) << 16 | u64::from(jf) << 24 | u64::from(k) << 32
}

/// The mappers' filter, an instruction a word.
pub fn mapper() -> Vec<u64> {
    vec![
        instruction(LD_W_ABS, 0, 0, NR),
        instruction(JEQ_K, 0, 1, nr::DONE as u32),
        instruction(RET_K, 0, 0, NOTIFY),
        instruction(RET_K, 0, 0, ALLOW),
    ]
}

/// The runners' filter, an instruction a word.
pub fn runner(addresses: &Addresses) -> Vec<u64> {
    let sigreturn = vec![(IP, addresses.returned), (NR, 15)];
    let send = vec![
        (IP, addresses.sent),
        (NR, libc::SYS_sendmsg as u64),
        (ARGS, fd::HAND_OVER as u64),
        (ARGS + 8, TEXT + data::MSGHDR),
        (ARGS + 16, 0),
    ];
    let close = vec![
        (IP, addresses.closed),
        (NR, libc::SYS_close_range as u64),
        (ARGS, 0),
        (ARGS + 8, 0xffff_ffff),
        (ARGS + 16, 0),
    ];
    let mut program = vec![
        instruction(LD_W_ABS, 0, 0, ARCH),
        instruction(JEQ_K, 1, 0, AUDIT_ARCH_X86_64),
        // Another instruction set's call (int 0x80): a signal, which becomes a fault of the guest.
        instruction(RET_K, 0, 0, TRAP),
    ];
    for rule in [sigreturn, send, close] {
        append(&mut program, &rule);
    }
    program.push(instruction(LD_W_ABS, 0, 0, NR));
    for (i, number) in WHOLE.iter().enumerate() {
        // To the TRAP behind the NOTIFY.
        program.push(instruction(JEQ_K, (WHOLE.len() - i) as u8, 0, *number as u32));
    }
    program.push(instruction(RET_K, 0, 0, NOTIFY));
    program.push(instruction(RET_K, 0, 0, TRAP));
    program
}

/// Adds "if all of these 64-bit fields have these values, allow" (the number is a 32-bit field).
fn append(program: &mut Vec<u64>, rule: &[(u32, u64)]) {
    let mut words = Vec::new();
    for &(offset, value) in rule {
        words.push((offset, value as u32));
        if offset != NR {
            words.push((offset + 4, (value >> 32) as u32));
        }
    }
    let len = words.len();
    for (i, (offset, value)) in words.into_iter().enumerate() {
        program.push(instruction(LD_W_ABS, 0, 0, offset));
        // On a mismatch: over the remaining pairs and the ALLOW.
        let over = ((len - 1 - i) * 2 + 1) as u8;
        program.push(instruction(JEQ_K, 0, over, value));
    }
    program.push(instruction(RET_K, 0, 0, ALLOW));
}
