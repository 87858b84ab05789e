//! Threads: clone and clone3 flags, thread ids, TLS, exit of threads, many threads, rseq.

use crate::kit::prelude::*;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::thread;

const STACK: usize = 256 << 10;

/// clone through libc's wrapper, which switches stacks: the child runs `body` with `arg`.
fn clone(
    flags: i32,
    body: extern "C" fn(*mut c_void) -> i32,
    arg: usize,
    ids: [*mut i32; 2],
    tls: usize,
) -> Result<i32, E> {
    let stack = rw(STACK)?;
    // SAFETY: a fresh stack; the child keeps to system calls and atomics. The cases that share memory
    // without threads also have the parent wait.
    let pid =
        unsafe { libc::clone(body, at(stack, STACK).cast(), flags, arg as *mut c_void, ids[0], tls, ids[1]) };
    if pid == -1 { Err(sys::last()) } else { Ok(pid) }
}

const NO_IDS: [*mut i32; 2] = [std::ptr::null_mut(); 2];

extern "C" fn store(arg: *mut c_void) -> i32 {
    // SAFETY: the case passes the address of a live cell.
    unsafe { &*arg.cast::<AtomicU32>() }.store(77, SeqCst);
    3
}

extern "C" fn close_seven(_: *mut c_void) -> i32 {
    // SAFETY: raw close of a number.
    unsafe { libc::close(7) }
}

fn shared_memory_without_a_thread() -> R {
    let cell = AtomicU32::new(0);
    let pid = clone(CLONE_VM | CLONE_VFORK | SIGCHLD, store, &raw const cell as usize, NO_IDS, 0)?;
    eq!(wait4(pid, 0)?.1, Status::Exited(3));
    eq!(cell.load(SeqCst), 77);
    Ok(())
}

fn private_memory_without_clone_vm() -> R {
    let cell = AtomicU32::new(0);
    let pid = clone(SIGCHLD, store, &raw const cell as usize, NO_IDS, 0)?;
    eq!(wait4(pid, 0)?.1, Status::Exited(3));
    eq!(cell.load(SeqCst), 0);
    Ok(())
}

fn shared_and_copied_descriptor_tables() -> R {
    sc!(SYS_dup2, 0, 7)?;
    let pid = clone(SIGCHLD, close_seven, 0, NO_IDS, 0)?;
    wait4(pid, 0)?;
    fcntl(7, F_GETFD, 0)?;
    let pid = clone(CLONE_FILES | SIGCHLD, close_seven, 0, NO_IDS, 0)?;
    wait4(pid, 0)?;
    errno_is!(fcntl(7, F_GETFD, 0), EBADF);
    Ok(())
}

extern "C" fn change_directory(_: *mut c_void) -> i32 {
    i32::from(sc!(SYS_chdir, c"/").is_err() || sc!(SYS_umask, 0o055).is_err())
}

fn shared_working_directory() -> R {
    let here = std::env::current_dir()?;
    let pid = clone(SIGCHLD, change_directory, 0, NO_IDS, 0)?;
    wait4(pid, 0)?;
    eq!(std::env::current_dir()?, here);
    let pid = clone(CLONE_FS | SIGCHLD, change_directory, 0, NO_IDS, 0)?;
    wait4(pid, 0)?;
    eq!(std::env::current_dir()?, std::path::Path::new("/"));
    eq!(sc!(SYS_umask, 0)?, 0o055);
    std::env::set_current_dir(here)?;
    Ok(())
}

fn unshare_ends_the_sharing() -> R {
    let t = thread::spawn(|| -> R {
        sc!(SYS_unshare, CLONE_FS | CLONE_FILES)?;
        sc!(SYS_chdir, c"/")?;
        close(0)?;
        Ok(())
    });
    let here = std::env::current_dir()?;
    match t.join() {
        Ok(r) => r?,
        Err(_) => fail!("panic"),
    }
    eq!(std::env::current_dir()?, here);
    fcntl(0, F_GETFD, 0)?;
    errno_is!(sc!(SYS_unshare, 0x1), EINVAL);
    Ok(())
}

fn settid_and_cleartid() -> R {
    let (parent, child_tid) = (AtomicI32::new(-1), AtomicI32::new(-1));
    let flags =
        CLONE_VM | CLONE_VFORK | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
    let cell = AtomicU32::new(0);
    let pid = clone(flags, store, &raw const cell as usize, [parent.as_ptr(), child_tid.as_ptr()], 0)?;
    wait4(pid, 0)?;
    eq!(parent.load(SeqCst), pid);
    // Set, and cleared when the child went.
    eq!(child_tid.load(SeqCst), 0);
    Ok(())
}

fn set_tid_address_returns_the_thread_id() -> R {
    let cell = shared(4096)?;
    let word = sys::cell(cell);
    word.store(5, SeqCst);
    let c = child(|| {
        eq!(sc!(SYS_set_tid_address, cell)?, getpid() as i64);
        Ok(())
    })?;
    c.ok()?;
    // Cleared only if somebody else still has the memory: a forked child is alone with its copy.
    eq!(word.load(SeqCst), 5);
    Ok(())
}

fn flag_combinations_that_make_no_sense() -> R {
    for flags in [
        CLONE_THREAD,
        CLONE_THREAD | CLONE_VM,
        CLONE_SIGHAND,
        CLONE_FS | CLONE_NEWNS,
        CLONE_VM | CLONE_SIGHAND | CLONE_CLEAR_SIGHAND_32,
    ] {
        match sc!(SYS_clone, flags, 0, 0, 0, 0) {
            Err(E(EINVAL)) => {}
            Ok(0) => exit(0),
            other => fail!("{flags:#x}: {other:?}"),
        }
    }
    Ok(())
}

/// A bit that clone (not clone3) takes for the exit signal's byte or refuses.
const CLONE_CLEAR_SIGHAND_32: i32 = CLONE_NEWUSER | CLONE_FS;

fn clone3_is_fork_with_a_structure() -> R {
    let args = [0u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0];
    let pid = sc!(SYS_clone3, &args, 64)?;
    if pid == 0 {
        exit(9);
    }
    eq!(wait4(pid as i32, 0)?.1, Status::Exited(9));
    Ok(())
}

fn clone3_gives_a_pidfd() -> R {
    let mut fd = -1i32;
    let args = [CLONE_PIDFD as u64, &raw mut fd as u64, 0, 0, SIGCHLD as u64, 0, 0, 0];
    let pid = sc!(SYS_clone3, &args, 64)?;
    if pid == 0 {
        exit(9);
    }
    eq!(poll1(fd, POLLIN, -1)?, POLLIN);
    eq!(wait4(pid as i32, 0)?.1, Status::Exited(9));
    Ok(())
}

fn clone3_resets_handlers_when_asked() -> R {
    sig::record(SIGUSR1, 0)?;
    sig::dispose(SIGUSR2, SIG_IGN, 0)?;
    let args = [0x1_0000_0000u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0];
    let pid = sc!(SYS_clone3, &args, 64)?;
    if pid == 0 {
        let mut a = zeroed::<sigaction>();
        // SAFETY: a live structure.
        unsafe { sigaction(SIGUSR1, std::ptr::null(), &mut a) };
        let first = a.sa_sigaction;
        // SAFETY: as above.
        unsafe { sigaction(SIGUSR2, std::ptr::null(), &mut a) };
        exit(if first == SIG_DFL && a.sa_sigaction == SIG_IGN { 0 } else { 1 });
    }
    eq!(wait4(pid as i32, 0)?.1, Status::Exited(0));
    Ok(())
}

fn clone3_checks_its_structure() -> R {
    let args = [0u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0];
    errno_is!(sc!(SYS_clone3, &args, 63), EINVAL);
    errno_is!(sc!(SYS_clone3, BAD, 64), EFAULT);
    errno_is!(sc!(SYS_clone3, &[0u64, 0, 0, 0, 999, 0, 0, 0], 64), EINVAL);
    // A stack without a size, and unknown flags.
    errno_is!(sc!(SYS_clone3, &[0u64, 0, 0, 0, 17, 4096, 0, 0], 64), EINVAL);
    errno_is!(sc!(SYS_clone3, &[1u64 << 60, 0, 0, 0, 17, 0, 0, 0], 64), EINVAL);
    errno_is!(sc!(SYS_clone3, &[0u64, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 1], 96), E2BIG);
    Ok(())
}

fn clone_parent_makes_a_sibling() -> R {
    let c = child(|| {
        let pid = clone(CLONE_PARENT | SIGCHLD, report_parent, 0, NO_IDS, 0)?;
        errno_is!(wait4(pid, 0), ECHILD);
        Ok(())
    })?;
    // The grandchild is ours, too.
    let mut codes = [wait4(-1, 0)?, wait4(-1, 0)?];
    codes.sort_by_key(|(pid, _)| *pid != c.pid);
    eq!(codes[0], (c.pid, Status::Exited(0)));
    eq!(codes[1].1, Status::Exited(getpid() & 0xff));
    Ok(())
}

extern "C" fn report_parent(_: *mut c_void) -> i32 {
    sc!(SYS_getppid).unwrap_or(0) as i32
}

fn clone_without_a_signal_wants_a_special_wait() -> R {
    let pid = clone(0, report_parent, 0, NO_IDS, 0)?;
    errno_is!(wait4(-1, 0), ECHILD);
    eq!(wait4(-1, __WALL)?.0, pid);
    sig::record(SIGUSR1, SA_RESTART)?;
    let pid = clone(SIGUSR1, report_parent, 0, NO_IDS, 0)?;
    eq!(wait4(pid, __WCLONE)?.0, pid);
    eq!(sig::numbers(), [SIGUSR1]);
    Ok(())
}

fn threads_share_the_process() -> R {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    let me = getpid();
    let t = thread::spawn(move || -> R {
        eq!(getpid(), me);
        that!(gettid() != me);
        SEEN.store(1, SeqCst);
        open(c"f", O_CREAT | O_RDWR, 0o644)?;
        Ok(())
    });
    let Ok(r) = t.join() else { fail!("panic") };
    r?;
    eq!(SEEN.load(SeqCst), 1);
    eq!(drain(1 + 1 + 1)?, b"");
    Ok(())
}

fn threads_are_listed_in_proc() -> R {
    let (gate, done) = (Gate::new()?, Gate::new()?);
    let threads: Vec<_> = (0..3)
        .map(|_| {
            thread::spawn(move || -> R<i32> {
                done.open()?;
                gate.pass()?;
                Ok(gettid())
            })
        })
        .collect();
    for _ in 0..3 {
        done.pass()?;
    }
    let mut tids: Vec<i32> = std::fs::read_dir("/proc/self/task")?
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    that!(text(c"/proc/self/status")?.contains("\nThreads:\t4\n"));
    for _ in 0..3 {
        gate.open()?;
    }
    let mut want = vec![getpid()];
    for t in threads {
        let Ok(tid) = t.join() else { fail!("panic") };
        want.push(tid?);
    }
    tids.sort();
    want.sort();
    eq!(tids, want);
    Ok(())
}

fn thread_local_storage_is_separate() -> R {
    thread_local!(static MINE: std::cell::Cell<u32> = const { std::cell::Cell::new(1) });
    MINE.set(5);
    let t = thread::spawn(|| {
        let before = MINE.get();
        MINE.set(9);
        before
    });
    eq!(t.join().ok(), Some(1));
    eq!(MINE.get(), 5);
    Ok(())
}

fn the_fs_base_is_read_and_set() -> R {
    let mut before = 0usize;
    sc!(SYS_arch_prctl, 0x1003, &mut before)?;
    that!(before != 0);
    errno_is!(sc!(SYS_arch_prctl, 0x1002, 1usize << 63), EPERM);
    errno_is!(sc!(SYS_arch_prctl, 0x9999, 0), EINVAL);
    let area = rw(4096)?;
    sc!(SYS_arch_prctl, 0x1001, area)?;
    poke(at(area, 16), 42);
    let got: u8;
    // SAFETY: reads the byte that was just written, through the GS base that was just set.
    unsafe { std::arch::asm!("mov {}, gs:[16]", out(reg_byte) got) };
    eq!(got, 42);
    let mut gs = 0usize;
    sc!(SYS_arch_prctl, 0x1004, &mut gs)?;
    eq!(gs, area as usize);
    Ok(())
}

fn exit_of_the_last_thread_ends_the_process() -> R {
    let c = child(|| {
        let main = getpid();
        thread::spawn(move || {
            // The leader ends first and becomes a zombie; the process lives on.
            while proc::state(main, main).unwrap_or('?') != 'Z' {
                let _ = sc!(SYS_sched_yield);
            }
            let _ = sc!(SYS_exit, 12);
        });
        sc!(SYS_exit, 11)?;
        Ok(())
    })?;
    // The code of the thread that went last (since Linux 5.17; the leader's before).
    eq!(c.wait()?, Status::Exited(12));
    Ok(())
}

fn exit_group_ends_every_thread() -> R {
    let c = child(|| {
        for _ in 0..5 {
            thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        thread::spawn(|| exit(13));
        loop {
            let _ = sc!(SYS_pause);
        }
    })?;
    eq!(c.wait()?, Status::Exited(13));
    Ok(())
}

fn a_fatal_signal_to_one_thread_ends_all() -> R {
    let c = child(|| {
        let t = thread::spawn(|| {
            loop {
                let _ = sc!(SYS_pause);
            }
        });
        thread::spawn(|| {
            let _ = sc!(SYS_tgkill, getpid(), gettid(), SIGTERM);
        });
        t.join().map_err(|_| E(0))?;
        Ok(())
    })?;
    eq!(c.wait()?, Status::Killed(SIGTERM));
    Ok(())
}

fn fork_in_a_thread_copies_only_that_thread() -> R {
    let t = thread::spawn(|| -> R {
        let tid = gettid();
        child(|| {
            eq!(getpid(), gettid());
            that!(getpid() != tid);
            eq!(std::fs::read_dir("/proc/self/task")?.count(), 1);
            Ok(())
        })?
        .ok()
    });
    let Ok(r) = t.join() else { fail!("panic") };
    r
}

fn any_thread_can_wait_for_a_child() -> R {
    let c = fork(|| 5)?;
    let t = thread::spawn(move || c.wait());
    let Ok(r) = t.join() else { fail!("panic") };
    eq!(r?, Status::Exited(5));
    Ok(())
}

fn a_thousand_threads() -> R {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    // Nobody ends before all are there.
    let here = std::sync::Arc::new(std::sync::Barrier::new(1000));
    let mut all = Vec::new();
    for _ in 0..1000 {
        let here = here.clone();
        let t = thread::Builder::new().stack_size(32 << 10).spawn(move || {
            RUN.fetch_add(1, SeqCst);
            here.wait();
        })?;
        all.push(t);
    }
    for t in all {
        that!(t.join().is_ok());
    }
    eq!(RUN.load(SeqCst), 1000);
    Ok(())
}

#[repr(C, align(32))]
struct Rseq([u32; 8]);

extern "C" fn register_rseq(arg: *mut c_void) -> i32 {
    const SIGNATURE: u32 = 0x5305_3053;
    let r = arg as usize;
    // cpu_id (the second word) is -1 until registered and a CPU number after.
    if sc!(SYS_rseq, r + 4, 32, 0, SIGNATURE) != Err(E(EINVAL)) {
        return 1;
    }
    if sc!(SYS_rseq, r, 32, 0, SIGNATURE) != Ok(0) {
        return 2;
    }
    // SAFETY: the case's cell, which the kernel writes.
    if unsafe { (r as *const u32).add(1).read_volatile() } > 4096 {
        return 3;
    }
    if sc!(SYS_rseq, r, 32, 0, SIGNATURE) != Err(E(EBUSY)) {
        return 4;
    }
    if sc!(SYS_rseq, r, 32, 0, SIGNATURE + 1) != Err(E(EPERM)) {
        return 5;
    }
    if sc!(SYS_rseq, r, 32, 1, SIGNATURE + 1) != Err(E(EPERM)) {
        return 6;
    }
    if sc!(SYS_rseq, r, 32, 1, SIGNATURE) != Ok(0) {
        return 7;
    }
    // SAFETY: as above.
    if unsafe { (r as *const u32).add(1).read_volatile() } != u32::MAX {
        return 8;
    }
    0
}

fn rseq_registration() -> R {
    // In a process that shares our memory, which has no registration yet.
    let mut area = Rseq([0, u32::MAX, 0, 0, 0, 0, 0, 0]);
    let pid = clone(CLONE_VM | CLONE_VFORK | SIGCHLD, register_rseq, &raw mut area as usize, NO_IDS, 0)?;
    eq!(wait4(pid, 0)?.1, Status::Exited(0));
    Ok(())
}

cases!("thread":
    shared_memory_without_a_thread, private_memory_without_clone_vm, shared_and_copied_descriptor_tables,
    shared_working_directory, unshare_ends_the_sharing, settid_and_cleartid,
    set_tid_address_returns_the_thread_id, flag_combinations_that_make_no_sense,
    clone3_is_fork_with_a_structure, clone3_gives_a_pidfd, clone3_resets_handlers_when_asked,
    clone3_checks_its_structure, clone_parent_makes_a_sibling, clone_without_a_signal_wants_a_special_wait,
    threads_share_the_process, threads_are_listed_in_proc, thread_local_storage_is_separate,
    the_fs_base_is_read_and_set, exit_of_the_last_thread_ends_the_process, exit_group_ends_every_thread,
    a_fatal_signal_to_one_thread_ends_all, fork_in_a_thread_copies_only_that_thread,
    any_thread_can_wait_for_a_child, a_thousand_threads, rseq_registration,
);
