//! The initial stack: arguments, environment, auxiliary vector (System V ABI, figure 3.9; `getauxval(3)`).

use super::Program;
use super::image::Image;
use crate::error::{Result, err};
use crate::mm::{MapFlags, MapRequest, Mm};
use crate::task::{Creds, Cx, Resource};
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hal::{PAGE_SIZE, Prot, VirtAddr};

/// What was put where.
pub(super) struct Stack {
    pub sp: u64,
    pub args: (u64, u64),
    pub env: (u64, u64),
    pub auxv: Vec<u8>,
}

/// Longest single argument (`MAX_ARG_STRLEN`).
const MAX_ARG: usize = 32 * PAGE_SIZE as usize;
/// How much of it is made before anything is written, in pages, at most.
const FIRST_PAGES: u64 = 16;
/// How much of the stack is mapped at first; the rest grows on demand.
const INITIAL: u64 = 132 * 1024;

/// Auxiliary vector types (`uapi/linux/auxvec.h`).
mod at {
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
    pub const MINSIGSTKSZ: u64 = 51;
}

/// The last component of a path, cut to what a task's name holds.
pub(super) fn comm(path: &[u8]) -> Vec<u8> {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    name.get(..name.len().min(15)).unwrap_or_default().to_vec()
}

/// Maps a stack into `mm` and fills it. The sizes were checked.
pub(super) fn build(cx: &Cx, mm: &Arc<Mm>, program: &Program, image: &Image, creds: &Creds) -> Result<Stack> {
    let top = stack_top(cx)?;
    let strings: usize = program.args.iter().chain(&program.env).map(|s| s.len() + 1).sum();
    let pointers = (program.args.len() + program.env.len() + 64) * 8;
    let wanted = (strings + program.path.len() + pointers) as u64 + 4 * PAGE_SIZE;
    let size = wanted.max(INITIAL).next_multiple_of(PAGE_SIZE);
    let mut prot = Prot::READ | Prot::WRITE;
    prot.set(Prot::EXEC, image.exec_stack);
    mm.map(
        cx,
        MapRequest {
            addr: top - size,
            len: size,
            prot,
            flags: MapFlags::FIXED | MapFlags::GROWSDOWN,
            object: None,
            file: None,
            offset: 0,
            name: "[stack]",
        },
    )?;

    mm.make_data(top - wanted.min(FIRST_PAGES * PAGE_SIZE)..top);
    // Strings from the top down, then random bytes, then the vectors.
    let mut bytes: Vec<u8> = Vec::with_capacity(strings + 256);
    let block_len = strings + program.path.len() + 1 + PLATFORM.len() + 8;
    let base = top - block_len as u64;
    let mut put = |s: &[u8]| {
        let addr = base + bytes.len() as u64;
        bytes.extend_from_slice(s);
        bytes.push(0);
        addr
    };
    let args: Vec<u64> = program.args.iter().map(|s| put(s)).collect();
    let args_end = args.last().zip(program.args.last()).map_or(base, |(a, s)| a + s.len() as u64 + 1);
    let env: Vec<u64> = program.env.iter().map(|s| put(s)).collect();
    let env_end = env.last().zip(program.env.last()).map_or(args_end, |(a, s)| a + s.len() as u64 + 1);
    let path = put(&program.path);
    let platform = put(PLATFORM);
    let random_at = (base - 16) & !15;
    let mut random = [0u8; 16];
    cx.kernel.machine.entropy(&mut random);

    let auxv = auxv(cx, image, creds, random_at, path, platform);
    let mut words: Vec<u64> = Vec::new();
    words.push(args.len() as u64);
    words.extend(&args);
    words.push(0);
    words.extend(&env);
    words.push(0);
    words.extend(&auxv);
    let sp = (random_at - words.len() as u64 * 8) & !15;
    let word_bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    mm.write_bytes(cx, VirtAddr(base), &bytes)?;
    mm.write_bytes(cx, VirtAddr(random_at), &random)?;
    mm.write_bytes(cx, VirtAddr(sp), &word_bytes)?;
    let first = args.first().copied().unwrap_or(base);
    Ok(Stack {
        sp,
        args: (first, args_end),
        env: (args_end, env_end),
        auxv: auxv.iter().flat_map(|w| w.to_le_bytes()).collect(),
    })
}

const PLATFORM: &[u8] = if cfg!(target_arch = "aarch64") { b"aarch64" } else { b"x86_64" };

/// `E2BIG` when arguments and environment are too large (`execve(2)`, "Limits").
pub(super) fn check_sizes(cx: &Cx, program: &Program) -> Result<()> {
    let all = || program.args.iter().chain(&program.env);
    if all().any(|s| s.len() >= MAX_ARG) {
        return err(Errno::E2BIG);
    }
    // A quarter of the stack limit, at least 128 KiB and at most 6 MiB.
    let limit = (cx.process().limit(Resource::Stack) / 4).clamp(32 * PAGE_SIZE, 6 << 20);
    let total: u64 = all().map(|s| s.len() as u64 + 9).sum();
    if total + program.path.len() as u64 > limit { err(Errno::E2BIG) } else { Ok(()) }
}

/// A little below the end of the space, with a random offset of up to 16 GiB and within the page.
fn stack_top(cx: &Cx) -> Result<u64> {
    const NO_RANDOMIZE: u32 = 0x004_0000;
    let limit = cx.kernel.machine.user_limit() & !(PAGE_SIZE - 1);
    let personality = cx.process().personality.load(core::sync::atomic::Ordering::Relaxed);
    if personality & NO_RANDOMIZE != 0 {
        return Ok(limit - PAGE_SIZE);
    }
    let mut bytes = [0u8; 8];
    cx.kernel.machine.entropy(&mut bytes);
    let pages = u64::from_le_bytes(bytes) & 0x3f_ffff;
    Ok(limit - PAGE_SIZE - pages * PAGE_SIZE)
}

fn auxv(cx: &Cx, image: &Image, creds: &Creds, random: u64, path: u64, platform: u64) -> Vec<u64> {
    let machine = &cx.kernel.machine;
    let (hwcap, hwcap2) = machine.hwcap();
    let mut out = Vec::with_capacity(48);
    let mut put = |kind: u64, value: u64| out.extend([kind, value]);
    if let Some(vdso) = machine.vdso() {
        put(at::SYSINFO_EHDR, vdso);
    }
    put(at::MINSIGSTKSZ, machine.fpu_size() as u64 + 1024);
    put(at::HWCAP, hwcap);
    put(at::PAGESZ, PAGE_SIZE);
    put(at::CLKTCK, 100);
    put(at::PHDR, image.phdr);
    put(at::PHENT, 56);
    put(at::PHNUM, image.phnum);
    put(at::BASE, image.interp_base);
    put(at::FLAGS, 0);
    put(at::ENTRY, image.entry);
    put(at::UID, u64::from(creds.uid));
    put(at::EUID, u64::from(creds.euid));
    put(at::GID, u64::from(creds.gid));
    put(at::EGID, u64::from(creds.egid));
    put(at::SECURE, u64::from(creds.uid != creds.euid || creds.gid != creds.egid));
    put(at::RANDOM, random);
    put(at::HWCAP2, hwcap2);
    put(at::EXECFN, path);
    put(at::PLATFORM, platform);
    put(at::NULL, 0);
    out
}
