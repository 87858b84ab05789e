//! Everything else: names, random bytes, barriers, numbers and pointers that make no sense.

use crate::kit::prelude::*;

fn uname_says_linux() -> R {
    let mut u = zeroed::<utsname>();
    sc!(SYS_uname, &mut u)?;
    let field =
        |f: &[c_char]| f.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect::<String>();
    eq!(field(&u.sysname), "Linux");
    eq!(field(&u.machine), "x86_64");
    let release = field(&u.release);
    that!(release.split('.').next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n >= 4), "{release}");
    that!(!field(&u.nodename).is_empty());
    errno_is!(sc!(SYS_uname, BAD), EFAULT);
    Ok(())
}

fn setting_the_host_name_needs_privilege() -> R {
    if root() {
        skip!("root would change the machine");
    }
    errno_is!(sc!(SYS_sethostname, c"x", 1), EPERM);
    errno_is!(sc!(SYS_setdomainname, c"x", 1), EPERM);
    errno_is!(sc!(SYS_reboot, 0xfee1_deadu32, 0x2812_1969u32, 0, 0), EPERM);
    errno_is!(sc!(SYS_mount, c"none", c".", c"tmpfs", 0, 0), EPERM);
    errno_is!(sc!(SYS_swapoff, c"none"), EPERM);
    Ok(())
}

fn sysinfo_is_plausible() -> R {
    let mut s = zeroed::<sysinfo>();
    sc!(SYS_sysinfo, &mut s)?;
    that!(s.uptime >= 0 && s.totalram > 0 && s.freeram <= s.totalram && s.procs > 0 && s.mem_unit > 0);
    errno_is!(sc!(SYS_sysinfo, BAD), EFAULT);
    Ok(())
}

fn getrandom_fills_and_checks() -> R {
    let (mut a, mut b) = ([0u8; 64], [0u8; 64]);
    eq!(sc!(SYS_getrandom, &mut a, 64, 0)?, 64);
    eq!(sc!(SYS_getrandom, &mut b, 64, GRND_NONBLOCK)?, 64);
    that!(a != b && a != [0; 64]);
    eq!(sc!(SYS_getrandom, &mut a, 0, 0)?, 0);
    let mut big = vec![0u8; 300_000];
    eq!(sc!(SYS_getrandom, &mut big[..], 300_000, GRND_RANDOM)?, 300_000);
    errno_is!(sc!(SYS_getrandom, &mut a, 10, 0x100), EINVAL);
    errno_is!(sc!(SYS_getrandom, BAD, 10, 0), EFAULT);
    Ok(())
}

fn getcpu_names_a_cpu() -> R {
    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    sc!(SYS_getcpu, &mut cpu, &mut node, 0)?;
    that!(cpu < 4096 && node < 1024);
    sc!(SYS_getcpu, 0, 0, 0)?;
    errno_is!(sc!(SYS_getcpu, BAD, 0, 0), EFAULT);
    Ok(())
}

fn membarrier_private_expedited() -> R {
    let offered = match sc!(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0) {
        Err(E(ENOSYS)) => skip!("no membarrier"),
        v => v? as i32,
    };
    that!(offered & MEMBARRIER_CMD_PRIVATE_EXPEDITED != 0);
    errno_is!(sc!(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), EPERM);
    sc!(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0)?;
    sc!(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0)?;
    errno_is!(sc!(SYS_membarrier, 0x4000_0000, 0, 0), EINVAL);
    Ok(())
}

fn numbers_without_a_call_are_enosys() -> R {
    for nr in [400, 423, 999, 4095, 100_000, i64::MAX, -2] {
        eq!(sys::raw(nr, &[1, 2, 3]), Err(E(ENOSYS)));
    }
    // Calls that Linux has dropped keep their numbers and answer the same.
    // (create_module, get_kernel_syms, query_module, nfsservctl, security, vserver)
    for nr in [174, 177, 178, 180, 185, 236] {
        eq!(sys::raw(nr, &[]), Err(E(ENOSYS)));
    }
    Ok(())
}

fn calls_on_closed_descriptors_are_ebadf() -> R {
    let mut b = [0u64; 64];
    for fd in [9999, -1, i32::MAX] {
        errno_is!(sc!(SYS_read, fd, &mut b, 8), EBADF);
        errno_is!(sc!(SYS_write, fd, &b, 8), EBADF);
        errno_is!(sc!(SYS_readv, fd, &b, 0), EBADF);
        errno_is!(sc!(SYS_pread64, fd, &mut b, 8, 0), EBADF);
        errno_is!(sc!(SYS_lseek, fd, 0, 0), EBADF);
        errno_is!(sc!(SYS_fstat, fd, &mut b), EBADF);
        errno_is!(sc!(SYS_fcntl, fd, F_GETFL), EBADF);
        errno_is!(sc!(SYS_ioctl, fd, TIOCGWINSZ, &mut b), EBADF);
        errno_is!(sc!(SYS_dup, fd), EBADF);
        errno_is!(sc!(SYS_dup2, fd, 5), EBADF);
        errno_is!(sc!(SYS_fsync, fd), EBADF);
        errno_is!(sc!(SYS_ftruncate, fd, 0), EBADF);
        errno_is!(sc!(SYS_fallocate, fd, 0, 0, 1), EBADF);
        errno_is!(sc!(SYS_fchmod, fd, 0o600), EBADF);
        errno_is!(sc!(SYS_fchown, fd, -1, -1), EBADF);
        errno_is!(sc!(SYS_fchdir, fd), EBADF);
        errno_is!(sc!(SYS_getdents64, fd, &mut b, 512), EBADF);
        errno_is!(sc!(SYS_fstatfs, fd, &mut b), EBADF);
        errno_is!(sc!(SYS_flock, fd, LOCK_SH), EBADF);
        errno_is!(sc!(SYS_fgetxattr, fd, c"user.x", 0, 0), EBADF);
        errno_is!(sc!(SYS_sendto, fd, &b, 1, 0, 0, 0), EBADF);
        errno_is!(sc!(SYS_recvfrom, fd, &mut b, 1, 0, 0, 0), EBADF);
        errno_is!(sc!(SYS_connect, fd, &b, 16), EBADF);
        errno_is!(sc!(SYS_accept, fd, 0, 0), EBADF);
        errno_is!(sc!(SYS_shutdown, fd, 0), EBADF);
        errno_is!(sc!(SYS_epoll_wait, fd, &mut b, 1, 0), EBADF);
        errno_is!(sc!(SYS_timerfd_gettime, fd, &mut b), EBADF);
        errno_is!(sc!(SYS_inotify_rm_watch, fd, 1), EBADF);
        errno_is!(sc!(SYS_sendfile, fd, 0, 0, 1), EBADF);
        errno_is!(sc!(SYS_splice, fd, 0, fd, 0, 1, 0), EBADF);
        errno_is!(sc!(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, fd, 0), EBADF);
        errno_is!(sc!(SYS_pidfd_send_signal, fd, 0, 0, 0), EBADF);
    }
    for fd in [9999, -1] {
        errno_is!(sc!(SYS_openat, fd, c"x", O_RDONLY, 0), EBADF);
        errno_is!(sc!(SYS_mkdirat, fd, c"x", 0o755), EBADF);
        errno_is!(sc!(SYS_unlinkat, fd, c"x", 0), EBADF);
        errno_is!(sc!(SYS_newfstatat, fd, c"x", &mut b, 0), EBADF);
        errno_is!(sc!(SYS_readlinkat, fd, c"x", &mut b, 9), EBADF);
        errno_is!(sc!(SYS_faccessat, fd, c"x", 0), EBADF);
        errno_is!(sc!(SYS_renameat, fd, c"x", AT_FDCWD, c"y"), EBADF);
        errno_is!(sc!(SYS_symlinkat, c"t", fd, c"x"), EBADF);
        errno_is!(sc!(SYS_fchmodat, fd, c"x", 0o600), EBADF);
    }
    Ok(())
}

fn pointers_to_nowhere_are_efault() -> R {
    let (r, w) = pipe(0)?;
    put(c"f", b"abc")?;
    let f = open(c"f", O_RDWR, 0)?;
    for bad in [BAD, 1, usize::MAX, 0xffff_8000_0000_0000, 0x8000_0000_0000] {
        errno_is!(sc!(SYS_write, w, bad, 8), EFAULT);
        errno_is!(sc!(SYS_read, f, bad, 3), EFAULT);
        errno_is!(sc!(SYS_openat, AT_FDCWD, bad, 0, 0), EFAULT);
        errno_is!(sc!(SYS_newfstatat, AT_FDCWD, c"f", bad, 0), EFAULT);
        errno_is!(sc!(SYS_fstat, f, bad), EFAULT);
        errno_is!(sc!(SYS_pipe2, bad, 0), EFAULT);
        errno_is!(sc!(SYS_poll, bad, 1, 0), EFAULT);
        errno_is!(sc!(SYS_select, 1, bad, 0, 0, 0), EFAULT);
        errno_is!(sc!(SYS_getcwd, bad, 4096), EFAULT);
        errno_is!(sc!(SYS_clock_gettime, CLOCK_MONOTONIC, bad), EFAULT);
        errno_is!(sc!(SYS_gettimeofday, bad, 0), EFAULT);
        errno_is!(sc!(SYS_nanosleep, bad, 0), EFAULT);
        errno_is!(sc!(SYS_rt_sigaction, SIGUSR1, bad, 0, 8), EFAULT);
        errno_is!(sc!(SYS_rt_sigprocmask, SIG_BLOCK, bad, 0, 8), EFAULT);
        errno_is!(sc!(SYS_rt_sigpending, bad, 8), EFAULT);
        errno_is!(sc!(SYS_sigaltstack, 0, bad), EFAULT);
        errno_is!(sc!(SYS_readv, f, bad, 1), EFAULT);
        errno_is!(sc!(SYS_prlimit64, 0, RLIMIT_CPU, 0, bad), EFAULT);
        errno_is!(sc!(SYS_getresuid, bad, bad, bad), EFAULT);
        errno_is!(sc!(SYS_uname, bad), EFAULT);
        errno_is!(sc!(SYS_getrusage, RUSAGE_SELF, bad), EFAULT);
        errno_is!(sc!(SYS_fcntl, f, F_GETLK, bad), EFAULT);
        errno_is!(sc!(SYS_ioctl, r, FIONREAD, bad), EFAULT);
        errno_is!(sc!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, bad), EFAULT);
        errno_is!(sc!(SYS_statfs, c"f", bad), EFAULT);
        errno_is!(sc!(SYS_utimensat, AT_FDCWD, c"f", bad, 0), EFAULT);
        errno_is!(sc!(SYS_getitimer, ITIMER_REAL, bad), EFAULT);
        errno_is!(sc!(SYS_sched_getaffinity, 0, 128, bad), EFAULT);
        errno_is!(sc!(SYS_timer_create, CLOCK_MONOTONIC, bad, bad), EFAULT);
        errno_is!(sc!(SYS_execve, bad, 0, 0), EFAULT);
        errno_is!(sc!(SYS_rename, c"f", bad), EFAULT);
        errno_is!(sc!(SYS_symlink, bad, c"x"), EFAULT);
        errno_is!(sc!(SYS_chdir, bad), EFAULT);
        errno_is!(sc!(SYS_getrandom, bad, 8, 0), EFAULT);
        errno_is!(sc!(SYS_clone3, bad, 64), EFAULT);
    }
    Ok(())
}

fn wait_with_a_bad_pointer_still_reaps() -> R {
    let c = fork(|| 3)?;
    errno_is!(sc!(SYS_wait4, c.pid, BAD, 0, 0), EFAULT);
    errno_is!(c.wait(), ECHILD);
    Ok(())
}

fn registers_of_a_system_call() -> R {
    // rcx and r11 are taken by the instruction itself; the rest stays.
    let (rcx, r11, r8, r9, r10): (u64, u64, u64, u64, u64);
    let (rdi, rsi, rdx): (u64, u64, u64);
    let here: u64;
    // SAFETY: getpid.
    unsafe {
        std::arch::asm!(
            "lea {here}, [rip + 2f]", "syscall", "2:", here = out(reg) here,
            inout("rax") SYS_getpid => _, inout("rdi") 1u64 => rdi, inout("rsi") 2u64 => rsi, inout("rdx") 3u64 => rdx,
            inout("r8") 4u64 => r8, inout("r9") 5u64 => r9, inout("r10") 6u64 => r10, out("rcx") rcx, out("r11") r11
        );
    }
    eq!((rdi, rsi, rdx, r8, r9, r10), (1, 2, 3, 4, 5, 6));
    eq!(rcx, here);
    that!(r11 & 0x202 == 0x202, "{r11:#x}");
    Ok(())
}

fn flags_survive_a_system_call() -> R {
    let flags: u64;
    // SAFETY: sets the carry and direction flags, calls getpid, and clears direction.
    unsafe {
        std::arch::asm!(
            "stc", "std", "syscall", "pushfq", "pop {f}", "cld", f = out(reg) flags,
            inout("rax") SYS_getpid => _, out("rcx") _, out("r11") _
        );
    }
    eq!(flags & 0x401, 0x401);
    Ok(())
}

fn high_bits_of_int_arguments_are_ignored() -> R {
    put(c"f", b"abc")?;
    let fd = open(c"f", O_RDONLY, 0)? as usize;
    let mut b = [0u8; 3];
    eq!(sc!(SYS_read, fd | 0x7_0000_0000, &mut b, 3)?, 3);
    eq!(sc!(SYS_kill, getpid() as usize | 0x5_0000_0000, 0)?, 0);
    Ok(())
}

fn a_fresh_process_has_the_three_descriptors() -> R {
    for fd in 0..3 {
        fcntl(fd, F_GETFD, 0)?;
    }
    that!(fcntl(3, F_GETFD, 0).is_err());
    Ok(())
}

/// One operation of `semop(2)`.
fn semop(id: i64, op: i16, flags: i32) -> Result<i64, E> {
    let op = sembuf { sem_num: 0, sem_op: op, sem_flg: flags as i16 };
    sc!(SYS_semop, id, &op, 1)
}

fn semaphore_operations_happen_before_the_set_goes() -> R {
    const GETZCNT: i32 = 15;
    const GETNCNT: i32 = 14;
    let id = sc!(SYS_semget, IPC_PRIVATE, 1, 0o600)?;
    sc!(SYS_semctl, id, 0, SETVAL, 1)?;
    let waits = |op: i16| child(move || semop(id, op, 0).map(|_| ()).map_err(Into::into));
    let zero = [waits(0)?, waits(0)?, waits(0)?];
    while sc!(SYS_semctl, id, 0, GETZCNT, 0)? < 3 {
        sc!(SYS_sched_yield)?;
    }
    errno_is!(semop(id, 0, IPC_NOWAIT), EAGAIN);
    // All three have what they wait for from here on, though the set is gone before they run.
    semop(id, -1, 0)?;
    eq!(sc!(SYS_semctl, id, 0, GETZCNT, 0)?, 0);
    sc!(SYS_semctl, id, 0, IPC_RMID, 0)?;
    for c in zero {
        c.ok()?;
    }
    let id = sc!(SYS_semget, IPC_PRIVATE, 1, 0o600)?;
    let more = child(move || {
        errno_is!(semop(id, -2, 0), EIDRM);
        Ok(())
    })?;
    while sc!(SYS_semctl, id, 0, GETNCNT, 0)? < 1 {
        sc!(SYS_sched_yield)?;
    }
    semop(id, 1, 0)?;
    sc!(SYS_semctl, id, 0, IPC_RMID, 0)?;
    more.ok()
}

fn a_sent_message_arrives_though_the_queue_goes() -> R {
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Text {
        kind: i64,
        text: [u8; 8],
    }
    let receive = |id: i64, kind: i64, max: usize| {
        let mut text = Text { kind: 0, text: [0; 8] };
        sc!(SYS_msgrcv, id, &mut text, max, kind, 0).map(|n| (n, text.kind, text.text))
    };
    let send = |id: i64, kind: i64| sc!(SYS_msgsnd, id, &Text { kind, text: *b"12345678" }, 8, 0);
    let id = sc!(SYS_msgget, IPC_PRIVATE, 0o600)?;
    let waits = |kind: i64, max: usize, wanted: Result<i64, E>| {
        child(move || {
            let got = receive(id, kind, max).map(|(n, kind, _)| n * 100 + kind);
            that!(got == wanted, "{got:?}, wanted {wanted:?}");
            Ok(())
        })
    };
    let all = [
        waits(7, 8, Ok(807))?,
        waits(-4, 8, Ok(803))?,
        waits(5, 2, Err(E(E2BIG)))?,
        waits(6, 8, Err(E(EIDRM)))?,
    ];
    for c in &all {
        while proc::state(c.pid, c.pid)? != 'S' {
            sc!(SYS_sched_yield)?;
        }
    }
    for kind in [7, 3, 5] {
        send(id, kind)?;
    }
    sc!(SYS_msgctl, id, IPC_RMID, 0)?;
    for c in all {
        c.ok()?;
    }
    Ok(())
}

fn kcmp_of_a_process_with_itself() -> R {
    let me = getpid();
    for kind in 0..7 {
        eq!(sc!(SYS_kcmp, me, me, kind, 0, 0)?, 0);
    }
    that!(sc!(SYS_kcmp, me, me, 0, 0, 99).is_err());
    let c = child(|| sc!(SYS_pause).map(drop).map_err(Into::into))?;
    for kind in 1..5 {
        that!(sc!(SYS_kcmp, me, c.pid, kind, 0, 0)? != 0);
    }
    // Neither has any.
    eq!((sc!(SYS_kcmp, me, c.pid, 5, 0, 0)?, sc!(SYS_kcmp, me, c.pid, 6, 0, 0)?), (0, 0));
    c.kill(SIGKILL)?;
    c.wait()?;
    errno_is!(sc!(SYS_kcmp, me, me, 8, 0, 0), EINVAL);
    Ok(())
}

fn reboot_looks_at_its_magic_numbers() -> R {
    errno_is!(sc!(SYS_reboot, 1, 2, 3, 0), EINVAL | EPERM);
    if root() {
        errno_is!(sc!(SYS_reboot, 0xfee1_deadu32, 2, 3, 0), EINVAL);
    }
    Ok(())
}

fn kcmp_and_bpf_and_friends_answer_something() -> R {
    // Privileged or rare calls: any errno is honest, success as well; the kernel survives.
    let nrs = [
        SYS_kcmp,
        SYS_bpf,
        SYS_perf_event_open,
        SYS_userfaultfd,
        SYS_io_uring_setup,
        SYS_fanotify_init,
        SYS_keyctl,
        SYS_add_key,
        SYS_quotactl,
        SYS_lookup_dcookie,
        SYS_move_pages,
        SYS_mbind,
        SYS_get_mempolicy,
        SYS_set_mempolicy,
        SYS_migrate_pages,
        SYS_ioprio_get,
        SYS_ioprio_set,
        SYS_io_setup,
        SYS_mq_open,
        SYS_semget,
        SYS_shmget,
        SYS_msgget,
        SYS_ptrace,
        SYS_pkey_alloc,
        SYS_landlock_create_ruleset,
        SYS_memfd_secret,
        SYS_process_madvise,
        SYS_name_to_handle_at,
        SYS_open_by_handle_at,
        SYS_finit_module,
        SYS_kexec_load,
    ];
    for nr in nrs {
        let _ = sys::raw(nr, &[usize::MAX; 6]);
    }
    Ok(())
}

fn random_arguments_break_nothing() -> R {
    // A fixed pseudo-random walk over calls that cannot end, stop, block or leave this process for long.
    let c = child(|| {
        let calls = [
            SYS_read,
            SYS_write,
            SYS_lseek,
            SYS_mprotect,
            SYS_madvise,
            SYS_fcntl,
            SYS_dup,
            SYS_getcwd,
            SYS_fstat,
            SYS_rt_sigprocmask,
            SYS_rt_sigaction,
            SYS_epoll_ctl,
            SYS_pipe2,
            SYS_eventfd2,
            SYS_socket,
            SYS_getsockopt,
            SYS_setsockopt,
            SYS_mremap,
            SYS_mincore,
            SYS_prctl,
            SYS_sched_getaffinity,
            SYS_timer_create,
            SYS_getdents64,
            SYS_statx,
            SYS_openat,
            SYS_readlinkat,
            SYS_fallocate,
            SYS_prlimit64,
            SYS_getrandom,
            SYS_clock_getres,
        ];
        let mut x = 88_172_645_463_325_252u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        // Memory calls aim above this, where nothing of ours is.
        for _ in 0..3000 {
            let nr = calls[next() as usize % calls.len()];
            let mut args = [0usize; 6];
            for a in &mut args {
                *a = match next() % 5 {
                    0 => next() as usize % 64 + 64,
                    1 => next() as usize | 1 << 62,
                    2 => BAD,
                    3 => usize::MAX - next() as usize % 16,
                    _ => 1 << (next() % 64),
                };
            }
            // Descriptors of the runner and low addresses stay out of it.
            args[0] |= 64;
            let _ = sys::raw(nr, &args);
        }
        Ok(())
    })?;
    match c.wait()? {
        // A random mprotect or mremap may take something away from under us: that is our own end only.
        Status::Exited(0) | Status::Killed(SIGSEGV) => {}
        other => fail!("{other:?}"),
    }
    eq!(fork(|| 0)?.wait()?, Status::Exited(0));
    Ok(())
}

cases!("misc":
    uname_says_linux, setting_the_host_name_needs_privilege, sysinfo_is_plausible,
    getrandom_fills_and_checks, getcpu_names_a_cpu, membarrier_private_expedited,
    numbers_without_a_call_are_enosys, calls_on_closed_descriptors_are_ebadf,
    pointers_to_nowhere_are_efault, wait_with_a_bad_pointer_still_reaps, registers_of_a_system_call,
    flags_survive_a_system_call, high_bits_of_int_arguments_are_ignored,
    a_fresh_process_has_the_three_descriptors, semaphore_operations_happen_before_the_set_goes,
    a_sent_message_arrives_though_the_queue_goes, kcmp_of_a_process_with_itself,
    reboot_looks_at_its_magic_numbers, kcmp_and_bpf_and_friends_answer_something,
    random_arguments_break_nothing,
);
