//! What the tests of real address spaces share: RAM, an engine, a space with a page of code and one of data.

// Each test program uses some of it.
#![allow(dead_code)]

use std::fs::{self, File};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vmspace::{Context, Engine, Exit, Op, Vmspace};

/// Where code is: RAM from offset 0.
pub const CODE: u64 = 0x40_0000;
/// Where data are, in memory and in RAM.
pub const DATA: u64 = 0x50_0000;
pub const DATA_OFFSET: u64 = 0x10000;
pub const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// `mov eax, 39 ; syscall ; jmp back`.
pub const SYSCALL_LOOP: &[u8] = &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];

/// A system call that the tests make.
pub const NR: u64 = 39;

/// An empty memory file.
pub fn memory_file() -> File {
    // SAFETY: the name is a C string and the descriptor is new.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) };
    File::from(fd)
}

/// There is no other host CPU.
pub fn alone() -> Option<usize> {
    None
}

/// A CPU that the calling thread is not bound to; the tests need two.
pub fn other_cpu() -> Option<usize> {
    // SAFETY: no arguments.
    let here = unsafe { libc::sched_getcpu() } as usize;
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (count > 1).then(|| (here + 1) % count)
}

/// A call through the gate, as a patched site makes it.
pub fn call(engine: &Engine, nr: u64) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, nr
    code.extend((nr as u32).to_le_bytes());
    code.extend([0x48, 0x8d, 0x0d, 13, 0, 0, 0]); // lea rcx, [rip + 13]
    code.extend([0x49, 0xbb]); // movabs r11, gate
    code.extend(engine.gate().unwrap().to_le_bytes());
    code.extend([0x41, 0xff, 0xe3]); // jmp r11
    code.extend([0x0f, 0x05]); // syscall
    code
}

/// A short jump to the beginning of the code.
pub fn jump_back(code: &mut Vec<u8>, opcode: u8) {
    code.push(opcode);
    code.push((-(code.len() as i8 + 1)) as u8);
}

/// Binds the calling thread to these CPUs.
pub fn bind(cpus: impl IntoIterator<Item = usize>) {
    // SAFETY: the set is plain data, and read whole; CPU_SET checks the index.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.into_iter().for_each(|cpu| libc::CPU_SET(cpu, &mut set));
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
    }
}

/// Jumps to the start of the code, however far that is, by a jump with this opcode.
pub fn jump_far_back(code: &mut Vec<u8>, opcode: &[u8]) {
    code.extend(opcode);
    code.extend((-(code.len() as i32 + 4)).to_le_bytes());
}

/// An endless loop of these calls through the gate, with three arguments each. The results are or'ed into `rbx`, and `r12` counts the rounds.
pub fn loop_of_calls(engine: &Engine, nr: u64, calls: &[[u64; 3]]) -> Vec<u8> {
    let mut code = Vec::new();
    for args in calls {
        for (prefix, value) in [0xbf, 0xbe, 0xba].into_iter().zip(args) {
            code.push(prefix); // mov edi, esi, edx
            code.extend((*value as u32).to_le_bytes());
        }
        code.extend(call(engine, nr));
        code.extend([0x48, 0x09, 0xc3]); // or rbx, rax
    }
    code.extend([0x49, 0xff, 0xc4]); // inc r12
    jump_far_back(&mut code, &[0xe9]); // jmp
    code
}

/// Kicks virtual CPU 0 at irregular times while `work` goes on.
pub fn while_kicked<T>(space: &Arc<Vmspace>, work: impl FnOnce() -> T) -> T {
    let done = Arc::new(AtomicBool::new(false));
    let kicker = std::thread::spawn({
        let (space, done) = (space.clone(), done.clone());
        move || {
            bind(0..1024);
            for i in 0u64.. {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                space.kick(0);
                for _ in 0..i % 977 * 9 {
                    std::hint::spin_loop();
                }
            }
        }
    });
    let result = work();
    done.store(true, Ordering::SeqCst);
    kicker.join().unwrap();
    result
}

/// Has a session begin for the thread of [`Rig::busy`].
pub fn keep_busy(space: &Vmspace, context: &mut Context) {
    for _ in 0..60 {
        assert!(matches!(space.run(0, context, &other_cpu), Exit::Syscall { nr: NR, .. }));
        context.set_syscall_result(0);
    }
}

/// Ids of all children of this process.
pub fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let lists =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>())
        .collect()
}

/// The first letter of a field of a task's status, `State:` for one; `X` when there is no such task.
pub fn status(pid: i32, field: &str) -> char {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().chars().next()).unwrap_or('X')
}

/// Registers of a thread that starts here.
pub fn start(ip: u64) -> Context {
    let mut context = Context::new();
    let regs = context.regs();
    (regs.rip, regs.eflags) = (ip, 0x202);
    context
}

pub struct Rig {
    pub ram: File,
    pub engine: Arc<Engine>,
}

impl Rig {
    pub fn new() -> Rig {
        let ram = memory_file();
        ram.set_len(1 << 24).unwrap();
        let engine = Engine::new(&OwnedFd::from(ram.try_clone().unwrap())).unwrap();
        Rig { ram, engine }
    }

    /// An address space with this code and a page of data.
    pub fn space(&self, code: &[u8]) -> Vmspace {
        self.ram.write_all_at(code, 0).unwrap();
        let space = self.engine.create(None).unwrap();
        let map = |at, prot, offset| Op::MapRam { at, len: 4096, prot, offset, populate: false };
        space.update(0, &[map(CODE, RX, 0), map(DATA, RW, DATA_OFFSET)]).unwrap();
        space
    }

    /// A space whose calls come fast, and a thread in it.
    pub fn busy(&self) -> (Vmspace, Context) {
        let mut code = call(&self.engine, NR);
        jump_back(&mut code, 0xeb);
        (self.space(&code), start(CODE))
    }

    /// What guest code can read of the stub's code, found by having guest code read it.
    pub fn text_page(&self) -> Vec<u8> {
        // rep movsb ; mov eax, 1 ; syscall
        let space = self.space(&[0xf3, 0xa4, 0xb8, 1, 0, 0, 0, 0x0f, 0x05]);
        let mut context = start(CODE);
        let regs = context.regs();
        (regs.rsi, regs.rdi, regs.rcx) = (self.engine.user_limit(), DATA, 4096);
        assert!(matches!(space.run(0, &mut context, &alone), Exit::Syscall { nr: 1, .. }));
        let mut page = vec![0; 4096];
        self.ram.read_exact_at(&mut page, DATA_OFFSET).unwrap();
        page
    }
}
