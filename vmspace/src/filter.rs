//! The seccomp filters of runners and mappers (`seccomp(2)`, classic BPF).
//!
//! A mapper never runs guest code: its filter lets everything pass but the call that it waits with. Runners:
//! every system call of guest code ends in the owner's hands: in a notification, or, where he wants all registers anyway and while he listens, in the signal handler. Six calls pass without it, each from one instruction of the text, or two, and,
//! where it has arguments that matter, with constant ones: `rt_sigreturn`, which changes only the caller's own registers and signal mask;
//! `sched_yield`, by which a runner leaves its CPU to its owner or to another one of the same virtual CPU; `mprotect` where it leaves no right, or that to read, to memory below the stub region; `madvise` where it takes guards away from memory, or fills page tables; and the two by which a
//! new runner gives its listener away and closes its descriptors, which have no effect when repeated.

use crate::layout::{MOST_OPENED, MOST_WITHDRAWN, REGION, TEXT, fd, nr};
use crate::stub::{Addresses, data};
use crate::sys;

const LD_W_ABS: u16 = 0x20;
const JEQ_K: u16 = 0x15;
const JGT_K: u16 = 0x25;
const RET_K: u16 = 0x06;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;
/// Calls that copy, replace, end or look at more of the caller's registers: a notification does not show them, and a kick out of it costs more than a frame.
const WHOLE: [libc::c_long; 11] = [
    libc::SYS_rt_sigreturn,
    libc::SYS_clone,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_arch_prctl,
    libc::SYS_sigaltstack,
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
    let aside = |ip| vec![(IP, ip), (NR, libc::SYS_sched_yield as u64)];
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
    for rule in [sigreturn, aside(addresses.gate.yielded), aside(addresses.yielded), send, close] {
        append(&mut program, &rule, &[instruction(RET_K, 0, 0, ALLOW)]);
    }
    let withdraw = [(IP, addresses.gate.withdrawn), (NR, libc::SYS_mprotect as u64)];
    append(&mut program, &withdraw, &if_it_only_takes());
    let open = [(IP, addresses.gate.opened), (NR, libc::SYS_madvise as u64)];
    append(&mut program, &open, &if_it_only_opens());
    program.push(instruction(LD_W_ABS, 0, 0, NR));
    for (i, number) in WHOLE.iter().enumerate() {
        // To the TRAP behind the NOTIFY.
        program.push(instruction(JEQ_K, (WHOLE.len() - i) as u8, 0, *number as u32));
    }
    program.push(instruction(RET_K, 0, 0, NOTIFY));
    program.push(instruction(RET_K, 0, 0, TRAP));
    program
}

/// Allows a call whose range, the first two arguments, is not longer than [`MOST_WITHDRAWN`] and ends below [`REGION`], with no rights but `PROT_READ` in the third.
fn if_it_only_takes() -> [u64; 14] {
    let (high, low) = (|value: u64| (value >> 32) as u32, |value: u64| value as u32);
    let last = REGION - MOST_WITHDRAWN - 1;
    [
        instruction(LD_W_ABS, 0, 0, ARGS + 20),
        instruction(JEQ_K, 0, 12, 0),
        instruction(LD_W_ABS, 0, 0, ARGS + 16),
        instruction(JGT_K, 10, 0, libc::PROT_READ as u32),
        instruction(LD_W_ABS, 0, 0, ARGS + 12),
        instruction(JEQ_K, 0, 8, high(MOST_WITHDRAWN)),
        instruction(LD_W_ABS, 0, 0, ARGS + 8),
        instruction(JGT_K, 6, 0, low(MOST_WITHDRAWN)),
        instruction(LD_W_ABS, 0, 0, ARGS + 4),
        instruction(JGT_K, 4, 0, high(last)),
        instruction(JEQ_K, 0, 2, high(last)),
        instruction(LD_W_ABS, 0, 0, ARGS),
        instruction(JGT_K, 1, 0, low(last)),
        instruction(RET_K, 0, 0, ALLOW),
    ]
}

/// Allows a call whose range is not longer than [`MOST_OPENED`], and whose advice, the third argument, is to take guards away or to fill page tables: with what guest code would reach there if it
/// did.
fn if_it_only_opens() -> [u64; 10] {
    [
        instruction(LD_W_ABS, 0, 0, ARGS + 20),
        instruction(JEQ_K, 0, 8, 0),
        instruction(LD_W_ABS, 0, 0, ARGS + 16),
        instruction(JEQ_K, 1, 0, sys::MADV_GUARD_REMOVE as u32),
        instruction(JEQ_K, 0, 5, libc::MADV_POPULATE_READ as u32),
        instruction(LD_W_ABS, 0, 0, ARGS + 12),
        instruction(JEQ_K, 0, 3, 0),
        instruction(LD_W_ABS, 0, 0, ARGS + 8),
        instruction(JGT_K, 1, 0, MOST_OPENED as u32),
        instruction(RET_K, 0, 0, ALLOW),
    ]
}

/// Adds "if all of these 64-bit fields have these values, do `then`" (the number is a 32-bit field).
fn append(program: &mut Vec<u64>, rule: &[(u32, u64)], then: &[u64]) {
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
        // On a mismatch: over the remaining pairs and what they are for.
        let over = ((len - 1 - i) * 2 + then.len()) as u8;
        program.push(instruction(JEQ_K, 0, over, value));
    }
    program.extend(then);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::TEXT_LEN;

    /// What the filter gets to see of a call: words of `struct seccomp_data`.
    #[derive(Clone, Copy)]
    struct Call {
        nr: u32,
        arch: u32,
        ip: u64,
        args: [u64; 6],
    }

    impl Call {
        fn word(&self, offset: u32) -> u32 {
            let half = |value: u64| (value >> ((offset % 8) * 8)) as u32;
            match offset {
                NR => self.nr,
                ARCH => self.arch,
                IP..ARGS => half(self.ip),
                _ => half(self.args[(offset - ARGS) as usize / 8]),
            }
        }
    }

    /// Runs a filter as the host does; it may only use the four instructions that are built here.
    fn verdict(program: &[u64], call: &Call) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let code = program[at] as u16;
            let (jt, jf, k) =
                ((program[at] >> 16) as u8, (program[at] >> 24) as u8, (program[at] >> 32) as u32);
            at += 1;
            match code {
                LD_W_ABS => word = call.word(k),
                JEQ_K => at += usize::from(if word == k { jt } else { jf }),
                JGT_K => at += usize::from(if word > k { jt } else { jf }),
                RET_K => return k,
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    /// Addresses that a call can come from: every byte of the stub's page, the ends of the address space, a guest's code.
    fn addresses() -> impl Iterator<Item = u64> {
        let others = [0, 0x40_1000, TEXT - 1, TEXT + TEXT_LEN, 1 << 47, 0xffff_ffff_ff60_0000, u64::MAX];
        // The lower halves alone must not be enough.
        let halves = |ip: u64| [ip & 0xffff_ffff, ip | 1 << 63, ip ^ 1 << 32];
        let a = Addresses::get();
        let near = [a.returned, a.gate.yielded, a.yielded, a.sent, a.closed, a.gate.withdrawn, a.gate.opened]
            .into_iter()
            .flat_map(halves);
        (TEXT..TEXT + TEXT_LEN).chain(others).chain(near)
    }

    /// All numbers that mean something where a call passes, and from guest code; a few elsewhere.
    fn numbers(ip: u64) -> Vec<u32> {
        let a = Addresses::get();
        let few = [
            0,
            9,
            15,
            24,
            46,
            56,
            59,
            62,
            101,
            131,
            157,
            231,
            317,
            436,
            1000,
            1001,
            1002,
            0x4000_000f,
            u32::MAX,
        ];
        let all = [
            a.returned,
            a.gate.yielded,
            a.yielded,
            a.sent,
            a.closed,
            a.gate.withdrawn,
            a.gate.opened,
            a.trapped,
            0x40_1000,
        ];
        if !all.contains(&ip) {
            return few.to_vec();
        }
        (0..1100).chain(0x4000_0000..0x4000_0230).chain([u32::MAX, 1 << 31, i32::MAX as u32]).collect()
    }

    #[test]
    fn six_calls_of_the_stub_pass_and_no_other() {
        let a = Addresses::get();
        let program = runner(&a);
        let handed_over = [fd::HAND_OVER as u64, TEXT + data::MSGHDR, 0, 7, 7, 7];
        let closing = [0, 0xffff_ffff, 0, 7, 7, 7];
        let withdrawing = [0x40_0000, 0x1000, 0, 7, 7, 7];
        let protecting = [0x40_0000, 0x1000, 1, 7, 7, 7];
        let opening = [0x40_0000, 0x1000, 103, 7, 7, 7];
        let filling = [0, MOST_OPENED, 22, 7, 7, 7];
        let all = [[0; 6], [7; 6], handed_over, closing, withdrawing, protecting, opening, filling];
        let mut passed = Vec::new();
        for args in all {
            for ip in addresses() {
                for nr in numbers(ip) {
                    let call = Call { nr, arch: AUDIT_ARCH_X86_64, ip, args };
                    match verdict(&program, &call) {
                        ALLOW => passed.push((ip, nr, args)),
                        NOTIFY => assert!(!WHOLE.iter().any(|whole| *whole as u32 == nr)),
                        TRAP => assert!(WHOLE.iter().any(|whole| *whole as u32 == nr), "call {nr}"),
                        other => panic!("{other:#x}"),
                    }
                }
            }
        }
        const YIELD: u32 = libc::SYS_sched_yield as u32;
        let free = [(a.returned, 15), (a.gate.yielded, YIELD), (a.yielded, YIELD)];
        let mut expected: Vec<_> = free.iter().flat_map(|&(ip, nr)| all.map(|args| (ip, nr, args))).collect();
        expected.push((a.sent, libc::SYS_sendmsg as u32, handed_over));
        expected.push((a.closed, libc::SYS_close_range as u32, closing));
        for args in [[0; 6], withdrawing, protecting] {
            expected.push((a.gate.withdrawn, libc::SYS_mprotect as u32, args));
        }
        for args in [opening, filling] {
            expected.push((a.gate.opened, libc::SYS_madvise as u32, args));
        }
        passed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(passed, expected);
    }

    #[test]
    fn every_argument_that_matters_is_compared_whole() {
        let a = Addresses::get();
        let program = runner(&a);
        let sending = Call {
            nr: libc::SYS_sendmsg as u32,
            arch: AUDIT_ARCH_X86_64,
            ip: a.sent,
            args: [fd::HAND_OVER as u64, TEXT + data::MSGHDR, 0, 0, 0, 0],
        };
        let closing = Call {
            nr: libc::SYS_close_range as u32,
            ip: a.closed,
            args: [0, 0xffff_ffff, 0, 0, 0, 0],
            ..sending
        };
        for call in [sending, closing] {
            assert_eq!(verdict(&program, &call), ALLOW);
            for (arg, bit) in (0..3).flat_map(|arg| (0..64).map(move |bit| (arg, bit))) {
                let mut other = call;
                other.args[arg] ^= 1 << bit;
                assert_eq!(verdict(&program, &other), NOTIFY, "argument {arg}, bit {bit}");
            }
            for bit in 0..64 {
                let other = Call { ip: call.ip ^ 1 << bit, ..call };
                assert_eq!(verdict(&program, &other), NOTIFY, "address, bit {bit}");
            }
        }
    }

    #[test]
    fn rights_are_taken_below_the_stub_region_only() {
        let a = Addresses::get();
        let program = runner(&a);
        let verdict = |at: u64, len: u64, prot: u64| {
            let args = [at, len, prot, 0, 0, 0];
            let (nr, ip) = (libc::SYS_mprotect as u32, a.gate.withdrawn);
            verdict(&program, &Call { nr, arch: AUDIT_ARCH_X86_64, ip, args })
        };
        let edges = |at: u64| {
            [at.wrapping_sub(4096), at.wrapping_sub(1), at, at.wrapping_add(1), at.wrapping_add(4096)]
        };
        let near =
            [0, 1 << 32, REGION & !0xffff_ffff, REGION - MOST_WITHDRAWN - 1, REGION, TEXT, 1 << 47, 1 << 63];
        let lens =
            [0, 1, 4096, MOST_WITHDRAWN, MOST_WITHDRAWN + 1, 1 << 32, 1 << 32 | 4096, 1 << 63, u64::MAX];
        for at in near.into_iter().flat_map(edges) {
            for len in lens {
                let allowed = at < REGION - MOST_WITHDRAWN && len <= MOST_WITHDRAWN;
                for prot in [0, 1] {
                    assert_eq!(verdict(at, len, prot) == ALLOW, allowed, "{at:#x} and {len:#x} bytes");
                    for bit in 1..64 {
                        let prot = prot | 1 << bit;
                        assert_eq!(verdict(at, len, prot), NOTIFY, "rights {prot:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn pages_are_opened_and_filled_and_nothing_else_is_advised() {
        let a = Addresses::get();
        let program = runner(&a);
        let verdict = |len: u64, advice: u64| {
            let args = [0x40_0000, len, advice, 0, 0, 0];
            let (nr, ip) = (libc::SYS_madvise as u32, a.gate.opened);
            verdict(&program, &Call { nr, arch: AUDIT_ARCH_X86_64, ip, args })
        };
        for advice in (0..200).chain([1 << 32 | 103, 1 << 32 | 22, 1 << 63, u64::MAX]) {
            let good = [sys::MADV_GUARD_REMOVE as u64, libc::MADV_POPULATE_READ as u64].contains(&advice);
            for len in [0, 4096, MOST_OPENED, MOST_OPENED + 1, 1 << 32, 1 << 32 | 4096, 1 << 63, u64::MAX] {
                let allowed = good && len <= MOST_OPENED;
                assert_eq!(verdict(len, advice) == ALLOW, allowed, "advice {advice:#x} for {len:#x} bytes");
            }
        }
    }

    #[test]
    fn calls_of_other_instruction_sets_never_get_anywhere() {
        let program = runner(&Addresses::get());
        for arch in [0x4000_0003, 0, u32::MAX, AUDIT_ARCH_X86_64 ^ 1] {
            for ip in addresses() {
                for nr in [1, 11, 15, 46, 119, 173, 436] {
                    let call = Call { nr, arch, ip, args: [0; 6] };
                    assert_eq!(verdict(&program, &call), TRAP);
                }
            }
        }
    }
}
