//! Calls that a program makes over and over: a kernel that answers them in a shorter way must not be seen to.

use crate::kit::prelude::*;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

/// More often than anybody waits before he takes a shorter way.
const MANY: i64 = 500;

fn ids() -> Result<[i64; 6], E> {
    Ok([
        sc!(SYS_getpid)?,
        sc!(SYS_gettid)?,
        sc!(SYS_getuid)?,
        sc!(SYS_geteuid)?,
        sc!(SYS_getgid)?,
        sc!(SYS_getegid)?,
    ])
}

fn ids_are_those_of_the_caller() -> R {
    let mine = ids()?;
    for _ in 0..MANY {
        eq!(ids()?, mine);
    }
    child(|| {
        let [pid, tid, rest @ ..] = ids()?;
        for _ in 0..MANY {
            eq!(ids()?[..2], [pid, tid]);
        }
        that!(pid == tid && pid != mine[0], "{pid} {tid}");
        eq!(rest[..], mine[2..]);
        eq!(sc!(SYS_getppid)?, mine[0]);
        Ok(())
    })?
    .ok()?;
    eq!(ids()?, mine);
    Ok(())
}

fn every_thread_has_an_id_of_its_own() -> R {
    let mine = ids()?;
    let ask = move || -> Result<i64, E> {
        let first = ids()?;
        for _ in 0..MANY {
            if ids()? != first || first[0] != mine[0] {
                return Err(E(EINVAL));
            }
        }
        Ok(first[1])
    };
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(ask)).collect();
    let mut seen = vec![mine[1]];
    for thread in threads {
        seen.push(thread.join().map_err(|_| E(EFAULT))??);
    }
    seen.sort_unstable();
    seen.dedup();
    eq!(seen.len(), 5);
    Ok(())
}

fn a_change_of_user_is_seen_at_once() -> R {
    if !root() {
        skip!("needs root");
    }
    child(|| {
        for _ in 0..MANY {
            eq!(ids()?[2..], [0, 0, 0, 0]);
        }
        sc!(SYS_setresgid, 7, 8, 8)?;
        eq!(ids()?[2..], [0, 0, 7, 8]);
        sc!(SYS_setresuid, 5, 6, 6)?;
        for _ in 0..MANY {
            eq!(ids()?[2..], [5, 6, 7, 8]);
        }
        Ok(())
    })?
    .ok()
}

fn signals_come_between_calls_and_spoil_none() -> R {
    put(c"f", b"")?;
    let fd = open(c"f", O_RDWR, 0)?;
    sig::reset();
    sig::tick(SA_RESTART)?;
    sig::interval(1000)?;
    let mut at = 0;
    while sig::count() < 50 {
        at += 1;
        eq!(lseek(fd, at, SEEK_SET)?, at);
        eq!(lseek(fd, 0, SEEK_CUR)?, at);
        eq!(sc!(SYS_getpid)?, i64::from(std::process::id() as i32));
    }
    sig::interval(0)?;
    close(fd)?;
    Ok(())
}

fn signals_find_the_program_in_its_own_code() -> R {
    static PLACES: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn note(_: i32, _: *mut siginfo_t, context: *mut c_void) {
        // SAFETY: the third argument of a handler with SA_SIGINFO.
        let ip = unsafe { (*context.cast::<ucontext_t>()).uc_mcontext.gregs[REG_RIP as usize] };
        PLACES[SEEN.fetch_add(1, SeqCst) % PLACES.len()].store(ip as u64, SeqCst);
    }
    sig::handle(SIGALRM, note, 0, &[])?;
    sig::interval(200)?;
    while SEEN.load(SeqCst) < PLACES.len() {
        sc!(SYS_getpid)?;
        sc!(SYS_umask, 0o22)?;
    }
    sig::interval(0)?;
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|_| E(EIO))?;
    let code: Vec<_> = maps
        .lines()
        .filter(|line| line.contains("r-xp") && (line.contains('/') || line.contains("[vdso]")))
        .filter_map(|line| line.split(' ').next()?.split_once('-'))
        .filter_map(|(start, end)| {
            Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
        })
        .collect();
    for place in &PLACES {
        let ip = place.load(SeqCst);
        that!(code.iter().any(|range| range.contains(&ip)), "{ip:#x} {maps}");
    }
    Ok(())
}

fn code_may_become_writable_and_go_on() -> R {
    let page = syscall as *const () as usize & !4095;
    sc!(SYS_umask, 0o22)?;
    for _ in 0..3 {
        for _ in 0..MANY {
            eq!(sc!(SYS_umask, 0o22)?, 0o22);
        }
        sc!(SYS_mprotect, page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)?;
        for _ in 0..MANY {
            eq!(sc!(SYS_umask, 0o22)?, 0o22);
        }
        sc!(SYS_mprotect, page, 8192, PROT_READ | PROT_EXEC)?;
    }
    Ok(())
}

fn errors_stay_errors() -> R {
    for _ in 0..MANY {
        errno_is!(sc!(SYS_read, -1, BAD, 1), EBADF);
        errno_is!(sc!(SYS_lseek, 0, 0, 77), EINVAL);
        errno_is!(sc!(SYS_getcwd, BAD, 100), EFAULT);
    }
    Ok(())
}

type Action = [u64; 4];

fn action(signo: i64, new: Option<Action>) -> Result<Action, E> {
    let mut old = [!0u64; 4];
    let new = new.as_ref().map_or(std::ptr::null(), |new| new.as_ptr());
    sc!(SYS_rt_sigaction, signo, new, old.as_mut_ptr(), 8)?;
    Ok(old)
}

fn actions_without_handlers_are_shown_as_they_were_set() -> R {
    const SA_RESTORER: u64 = 0x400_0000;
    let null = std::ptr::null::<u64>();
    let signals = || (1..=64i64).filter(|signo| ![SIGKILL, SIGSTOP].map(i64::from).contains(signo));
    let plain = |restorer| -> Action { [0, SA_RESTORER, restorer, 0] };
    for round in 0..20u64 {
        for signo in signals() {
            // Mostly the same, and now and then something else.
            let new = match (round + signo as u64) % 8 {
                0 => [0; 4],
                1 => plain(0x5000),
                2 => [0, SA_RESTORER, 0x4000, 0x200],
                3 => [0, SA_RESTORER | 0x1000_0000, 0x4000, 0],
                _ => plain(0x4000),
            };
            sc!(SYS_rt_sigaction, signo, new.as_ptr(), null, 8)?;
            eq!(action(signo, None)?, new);
            eq!(action(signo, Some(plain(0x4000)))?, new);
            eq!(action(signo, None)?, plain(0x4000));
        }
        for signo in [SIGKILL, SIGSTOP].map(i64::from) {
            eq!(action(signo, None)?, [0; 4]);
            errno_is!(sc!(SYS_rt_sigaction, signo, plain(0x4000).as_ptr(), null, 8), EINVAL);
        }
        for (signo, size) in [(0, 8), (65, 8), (-1, 8), (1, 4)] {
            errno_is!(sc!(SYS_rt_sigaction, signo, null, null, size), EINVAL);
        }
        errno_is!(sc!(SYS_rt_sigaction, 1, 8, null, 8), EFAULT);
        errno_is!(sc!(SYS_rt_sigaction, 1, null, 8, 8), EFAULT);
    }
    // A child begins with the same ones. To set one takes away a pending signal that it ignores.
    child(move || {
        for signo in signals() {
            eq!(action(signo, None)?, plain(0x4000));
        }
        let blocked = 1u64 << (SIGCHLD - 1);
        sc!(SYS_rt_sigprocmask, SIG_BLOCK, &raw const blocked, null, 8)?;
        let mut pending = 0u64;
        for _ in 0..20 {
            sc!(SYS_kill, sc!(SYS_getpid)?, SIGCHLD)?;
            sc!(SYS_rt_sigpending, &raw mut pending, 8)?;
            eq!(pending, blocked);
            sc!(SYS_rt_sigaction, SIGCHLD, plain(0x4000).as_ptr(), null, 8)?;
            sc!(SYS_rt_sigpending, &raw mut pending, 8)?;
            eq!(pending, 0);
        }
        Ok(())
    })?
    .ok()
}

/// What `cpuid` says, and whether everything else stayed as it was: the other registers, and memory below the stack pointer.
#[inline(never)]
fn ask_cpu(leaf: u32, subleaf: u32) -> ([u32; 4], bool) {
    const A: u64 = 0x1122_3344_5566_7788;
    let mut regs = [0u32; 4];
    let changed: u64;
    // SAFETY: reads and writes what it says; the words below the stack pointer belong to nobody.
    unsafe {
        std::arch::asm!(
            "push rbx",
            "mov [rsp - 8], rsi",
            "mov [rsp - 128], rsi",
            "cpuid",
            "mov [r8], eax",
            "mov [r8 + 4], ebx",
            "mov [r8 + 8], ecx",
            "mov [r8 + 12], edx",
            // The instruction clears the upper halves.
            "mov edi, ebx", "xor rdi, rbx", "mov r10, rdi",
            "mov edi, eax", "xor rdi, rax", "or r10, rdi",
            "mov edi, ecx", "xor rdi, rcx", "or r10, rdi",
            "mov edi, edx", "xor rdi, rdx", "or r10, rdi",
            "mov rdi, [rsp - 8]", "xor rdi, r9", "or r10, rdi",
            "mov rdi, [rsp - 128]", "xor rdi, r9", "or r10, rdi",
            "xor rsi, r9", "or r10, rsi",
            "xor r11, r9", "or r10, r11",
            "pop rbx",
            inout("eax") leaf => _, inout("ecx") subleaf => _, out("edx") _,
            inout("rsi") A => _, out("rdi") _, in("r8") regs.as_mut_ptr(), in("r9") A, out("r10") changed,
            inout("r11") A => _,
        );
    }
    (regs, changed == 0)
}

/// The same by code that has just been made.
fn ask_cpu_elsewhere(code: *mut u8, leaf: u32, subleaf: u32) -> [u32; 4] {
    // push rbx ; mov eax, edi ; mov ecx, esi ; mov r8, rdx ; cpuid ; four times mov [r8 + …] ; pop rbx ; ret
    const CODE: [u8; 27] = [
        0x53, 0x89, 0xf8, 0x89, 0xf1, 0x49, 0x89, 0xd0, 0x0f, 0xa2, 0x41, 0x89, 0x00, 0x41, 0x89, 0x58, 4,
        0x41, 0x89, 0x48, 8, 0x41, 0x89, 0x50, 12, 0x5b, 0xc3,
    ];
    let mut regs = [0u32; 4];
    // SAFETY: the memory is there and executable, and the code is a function of this type.
    unsafe {
        code.copy_from(CODE.as_ptr(), CODE.len());
        let ask: extern "C" fn(u32, u32, *mut u32) = std::mem::transmute(code);
        ask(leaf, subleaf, regs.as_mut_ptr());
    }
    regs
}

/// What the helper `cpuid` does.
pub fn ask_the_cpu_everywhere() -> R {
    let code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
    let leaves = (0..0x20).chain(0x8000_0000..0x8000_0020).chain([0x4000_0000, u32::MAX]);
    for (leaf, subleaf) in
        leaves.flat_map(|leaf| [0, 1, 2, 3, 4, 5, 9, u32::MAX].map(|subleaf| (leaf, subleaf)))
    {
        let (mut here, kept) = ask_cpu(leaf, subleaf);
        let mut there = ask_cpu_elsewhere(code, leaf, subleaf);
        // Which CPU is asked, and what it has counted, differs from time to time.
        for regs in [&mut here, &mut there] {
            match leaf {
                1 => regs[1] &= 0x00ff_ffff,
                0xb | 0x1f | 0x8000_0026 => regs[3] = 0,
                0x8000_001e => *regs = [0; 4],
                _ => {}
            }
        }
        that!(kept, "leaf {leaf:#x}, {subleaf}");
        that!(here == there, "leaf {leaf:#x}, {subleaf}: {here:x?}, {there:x?}");
    }
    Ok(())
}

fn the_cpu_says_the_same_wherever_it_is_asked() -> R {
    // A program that is executed again and again may be treated as one.
    for _ in 0..5 {
        let c = child(|| Err(exec_helper(&["cpuid"], &[]).into()))?;
        eq!(c.wait()?, Status::Exited(0));
    }
    Ok(())
}

fn files_are_what_they_are_each_time() -> R {
    // The program's own file: one that nobody writes to.
    let path = c"/proc/self/exe";
    let st = stat(path)?;
    let same =
        |other: &stat| (other.st_ino, other.st_size, other.st_mode) == (st.st_ino, st.st_size, st.st_mode);
    for round in 0..MANY {
        let fd = open(path, O_RDONLY, 0)?;
        that!(same(&fstat(fd)?));
        let mut by_path = zeroed::<stat>();
        sc!(SYS_newfstatat, fd, c"", &mut by_path, AT_EMPTY_PATH)?;
        that!(same(&by_path));
        errno_is!(sc!(SYS_fstat, fd, 8), EFAULT);
        match round % 5 {
            // A second descriptor keeps the description.
            0 => {
                let second = sc!(SYS_dup, fd)? as i32;
                close(fd)?;
                that!(same(&fstat(second)?));
                close(second)?;
            }
            // Another file under the same number.
            1 => {
                let (r, w) = pipe(0)?;
                sc!(SYS_dup2, r, fd)?;
                that!(!same(&fstat(fd)?));
                close(r)?;
                close(w)?;
                close(fd)?;
            }
            // A child has its own.
            2 => {
                child(|| {
                    that!(same(&fstat(fd)?));
                    close(fd)?;
                    errno_is!(fstat(fd), EBADF);
                    Ok(())
                })?
                .ok()?;
                that!(same(&fstat(fd)?));
                close(fd)?;
            }
            _ => close(fd)?,
        }
        errno_is!(fstat(fd), EBADF);
        errno_is!(close(fd), EBADF);
        eq!(open(path, O_RDONLY, 0)?, fd);
        close(fd)?;
    }
    Ok(())
}

fn threads_close_for_each_other() -> R {
    for _ in 0..MANY / 20 {
        let fd = open(c"/proc/self/exe", O_RDONLY, 0)?;
        that!(fstat(fd).is_ok());
        let other = thread::spawn(move || close(fd));
        other.join().map_err(|_| E(EFAULT))??;
        errno_is!(fstat(fd), EBADF);
        errno_is!(close(fd), EBADF);
    }
    Ok(())
}

cases!("busy":
    ids_are_those_of_the_caller,
    every_thread_has_an_id_of_its_own,
    a_change_of_user_is_seen_at_once,
    signals_come_between_calls_and_spoil_none,
    signals_find_the_program_in_its_own_code,
    code_may_become_writable_and_go_on,
    errors_stay_errors,
    files_are_what_they_are_each_time,
    threads_close_for_each_other,
    the_cpu_says_the_same_wherever_it_is_asked,
    actions_without_handlers_are_shown_as_they_were_set,
);
