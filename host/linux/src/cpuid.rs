//! What the `cpuid` instruction says (Intel SDM vol. 2A, AMD APM vol. 3, appendix E).

use hal::CpuidAnswer;
use std::arch::x86_64::__cpuid_count;
use std::time::{Duration, Instant};

/// From so long an answer on the host is a virtual machine, whose hypervisor gives it.
const SLOW: Duration = Duration::from_micros(1);
/// How many subleaves of a list are asked for at most.
const MOST_SUBLEAVES: u32 = 8;
const INTEL: u32 = u32::from_le_bytes(*b"Genu");
/// Leaf 7, subleaf 0, `edx`: the CPUs of this machine are of different kinds.
const HYBRID: u32 = 1 << 15;

fn ask(leaf: u32, subleaf: u32) -> [u32; 4] {
    let said = __cpuid_count(leaf, subleaf);
    [said.eax, said.ebx, said.ecx, said.edx]
}

/// Answers that C libraries want when a program starts, if the instruction is slow. Those that hold the number of the CPU that is asked are not among
/// them: leaves 1, 11, 31 and what is like them of AMD's.
pub(crate) fn answers() -> Vec<CpuidAnswer> {
    let begin = Instant::now();
    let [last, vendor, ..] = ask(0, 0);
    let slow = begin.elapsed() > SLOW && {
        let begin = Instant::now();
        ask(0, 0);
        begin.elapsed() > SLOW
    };
    if !slow || last < 7 || ask(7, 0)[3] & HYBRID != 0 {
        return Vec::new();
    }
    let mut all = Vec::new();
    let mut add = |leaf, subleaf: Option<u32>| {
        let regs = ask(leaf, subleaf.unwrap_or(0));
        all.push(CpuidAnswer { leaf, subleaf, regs });
        regs
    };
    // Lists of caches, which end with one of no type.
    let mut caches = |leaf| (0..MOST_SUBLEAVES).find(|&i| add(leaf, Some(i))[0] & 0x1f == 0);
    caches(4);
    let extended = ask(0x8000_0000, 0)[0];
    if vendor != INTEL && extended >= 0x8000_001d {
        caches(0x8000_001d);
    }
    add(2, None);
    add(0, None);
    let more = add(7, Some(0))[0];
    if more >= 1 {
        add(7, Some(1));
    }
    if last >= 0xd {
        for i in 0..MOST_SUBLEAVES {
            add(0xd, Some(i));
        }
    }
    for leaf in [0x14, 0x19] {
        if last >= leaf {
            add(leaf, Some(0));
        }
    }
    for leaf in [0x8000_0000, 0x8000_0001, 0x8000_0005, 0x8000_0006, 0x8000_0007, 0x8000_0008] {
        let amd = matches!(leaf, 0x8000_0005 | 0x8000_0006);
        if leaf <= extended && (!amd || vendor != INTEL) {
            add(leaf, None);
        }
    }
    all
}
