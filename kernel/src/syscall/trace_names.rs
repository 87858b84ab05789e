//! Names of flags and numbers, as user space writes them, for `--strace`.

/// Values and their names.
pub(super) type Names = &'static [(u64, &'static str)];

/// `AT_*` of the calls with a directory and a path (`uapi/linux/fcntl.h`).
pub(super) const AT: Names = &[
    (0x100, "AT_SYMLINK_NOFOLLOW"),
    (0x400, "AT_SYMLINK_FOLLOW"),
    (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"),
    (0x2000, "AT_STATX_FORCE_SYNC"),
    (0x4000, "AT_STATX_DONT_SYNC"),
];
/// `unlinkat(2)`.
pub(super) const AT_UNLINK: Names = &[(0x200, "AT_REMOVEDIR")];
/// `faccessat2(2)`.
pub(super) const AT_ACCESS: Names =
    &[(0x200, "AT_EACCESS"), (0x100, "AT_SYMLINK_NOFOLLOW"), (0x1000, "AT_EMPTY_PATH")];
/// `access(2)`.
pub(super) const ACCESS: Names = &[(4, "R_OK"), (2, "W_OK"), (1, "X_OK")];
/// `CLONE_*` (`uapi/linux/sched.h`).
pub(super) const CLONE: Names = &[
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x1000, "CLONE_PIDFD"),
    (0x2000, "CLONE_PTRACE"),
    (0x4000, "CLONE_VFORK"),
    (0x8000, "CLONE_PARENT"),
    (0x1_0000, "CLONE_THREAD"),
    (0x2_0000, "CLONE_NEWNS"),
    (0x4_0000, "CLONE_SYSVSEM"),
    (0x8_0000, "CLONE_SETTLS"),
    (0x10_0000, "CLONE_PARENT_SETTID"),
    (0x20_0000, "CLONE_CHILD_CLEARTID"),
    (0x40_0000, "CLONE_DETACHED"),
    (0x100_0000, "CLONE_CHILD_SETTID"),
    (0x200_0000, "CLONE_NEWCGROUP"),
    (0x400_0000, "CLONE_NEWUTS"),
    (0x800_0000, "CLONE_NEWIPC"),
    (0x1000_0000, "CLONE_NEWUSER"),
    (0x2000_0000, "CLONE_NEWPID"),
    (0x4000_0000, "CLONE_NEWNET"),
    (1 << 32, "CLONE_CLEAR_SIGHAND"),
];
/// Flags that calls share with `open(2)`.
pub(super) const OPEN: Names =
    &[(0o2000, "O_APPEND"), (0o4000, "O_NONBLOCK"), (0o40000, "O_DIRECT"), (0o2000000, "O_CLOEXEC")];
/// `wait4(2)` and `waitid(2)`.
pub(super) const WAIT: Names = &[
    (1, "WNOHANG"),
    (2, "WSTOPPED"),
    (4, "WEXITED"),
    (8, "WCONTINUED"),
    (0x100_0000, "WNOWAIT"),
    (0x2000_0000, "__WNOTHREAD"),
    (0x4000_0000, "__WALL"),
    (0x8000_0000, "__WCLONE"),
];
/// `poll(2)`.
pub(super) const POLL: Names = &[
    (1, "POLLIN"),
    (2, "POLLPRI"),
    (4, "POLLOUT"),
    (8, "POLLERR"),
    (0x10, "POLLHUP"),
    (0x20, "POLLNVAL"),
    (0x40, "POLLRDNORM"),
    (0x80, "POLLRDBAND"),
    (0x100, "POLLWRNORM"),
    (0x200, "POLLWRBAND"),
    (0x2000, "POLLRDHUP"),
];
/// `sa_flags` (`uapi/asm/signal.h`).
pub(super) const SA: Names = &[
    (1, "SA_NOCLDSTOP"),
    (2, "SA_NOCLDWAIT"),
    (4, "SA_SIGINFO"),
    (0x400_0000, "SA_RESTORER"),
    (0x800_0000, "SA_ONSTACK"),
    (0x1000_0000, "SA_RESTART"),
    (0x4000_0000, "SA_NODEFER"),
    (0x8000_0000, "SA_RESETHAND"),
];
/// `getrandom(2)`.
pub(super) const GRND: Names = &[(1, "GRND_NONBLOCK"), (2, "GRND_RANDOM"), (4, "GRND_INSECURE")];
/// `memfd_create(2)`.
pub(super) const MFD: Names = &[
    (1, "MFD_CLOEXEC"),
    (2, "MFD_ALLOW_SEALING"),
    (4, "MFD_HUGETLB"),
    (8, "MFD_NOEXEC_SEAL"),
    (16, "MFD_EXEC"),
];
/// `renameat2(2)`.
pub(super) const RENAME: Names = &[(1, "RENAME_NOREPLACE"), (2, "RENAME_EXCHANGE"), (4, "RENAME_WHITEOUT")];
/// `flock(2)`.
pub(super) const FLOCK: Names = &[(1, "LOCK_SH"), (2, "LOCK_EX"), (4, "LOCK_NB"), (8, "LOCK_UN")];

/// One of several numbers; `None` where the call or the number has no names.
pub(super) fn number(call: &str, arg: &str, raw: u64) -> Option<&'static str> {
    let names: &[&str] = match (call, arg) {
        (_, "whence") => &["SEEK_SET", "SEEK_CUR", "SEEK_END", "SEEK_DATA", "SEEK_HOLE"],
        ("rt_sigprocmask", "how") => &["SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK"],
        ("shutdown", "how") => &["SHUT_RD", "SHUT_WR", "SHUT_RDWR"],
        ("epoll_ctl", "op") => &["", "EPOLL_CTL_ADD", "EPOLL_CTL_DEL", "EPOLL_CTL_MOD"],
        ("getitimer" | "setitimer", "which") => &["ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"],
        ("getpriority" | "setpriority", "which") => &["PRIO_PROCESS", "PRIO_PGRP", "PRIO_USER"],
        ("waitid", "kind") => &["P_ALL", "P_PID", "P_PGID", "P_PIDFD"],
        (_, "resource") => &[
            "RLIMIT_CPU",
            "RLIMIT_FSIZE",
            "RLIMIT_DATA",
            "RLIMIT_STACK",
            "RLIMIT_CORE",
            "RLIMIT_RSS",
            "RLIMIT_NPROC",
            "RLIMIT_NOFILE",
            "RLIMIT_MEMLOCK",
            "RLIMIT_AS",
            "RLIMIT_LOCKS",
            "RLIMIT_SIGPENDING",
            "RLIMIT_MSGQUEUE",
            "RLIMIT_NICE",
            "RLIMIT_RTPRIO",
            "RLIMIT_RTTIME",
        ],
        ("arch_prctl", "code") => match raw {
            0x1001 => return Some("ARCH_SET_GS"),
            0x1002 => return Some("ARCH_SET_FS"),
            0x1003 => return Some("ARCH_GET_FS"),
            0x1004 => return Some("ARCH_GET_GS"),
            _ => return None,
        },
        ("prctl", "option") => return prctl(raw),
        ("ioctl", "cmd") => return ioctl(raw),
        _ => return None,
    };
    let name = names.get(usize::try_from(raw as u32).ok()?).copied()?;
    (!name.is_empty()).then_some(name)
}

fn prctl(option: u64) -> Option<&'static str> {
    Some(match option {
        1 => "PR_SET_PDEATHSIG",
        2 => "PR_GET_PDEATHSIG",
        3 => "PR_GET_DUMPABLE",
        4 => "PR_SET_DUMPABLE",
        8 => "PR_SET_KEEPCAPS",
        15 => "PR_SET_NAME",
        16 => "PR_GET_NAME",
        22 => "PR_SET_SECCOMP",
        23 => "PR_CAPBSET_READ",
        24 => "PR_CAPBSET_DROP",
        29 => "PR_SET_TIMERSLACK",
        36 => "PR_SET_CHILD_SUBREAPER",
        38 => "PR_SET_NO_NEW_PRIVS",
        39 => "PR_GET_NO_NEW_PRIVS",
        47 => "PR_CAP_AMBIENT",
        0x5356_4d41 => "PR_SET_VMA",
        _ => return None,
    })
}

fn ioctl(cmd: u64) -> Option<&'static str> {
    Some(match cmd as u32 {
        0x5401 => "TCGETS",
        0x5402 => "TCSETS",
        0x5403 => "TCSETSW",
        0x5404 => "TCSETSF",
        0x540b => "TCFLSH",
        0x540e => "TIOCSCTTY",
        0x540f => "TIOCGPGRP",
        0x5410 => "TIOCSPGRP",
        0x5413 => "TIOCGWINSZ",
        0x5414 => "TIOCSWINSZ",
        0x541b => "FIONREAD",
        0x5421 => "FIONBIO",
        0x5422 => "TIOCNOTTY",
        0x5429 => "TIOCGSID",
        0x5450 => "FIONCLEX",
        0x5451 => "FIOCLEX",
        0x8004_5430 => "TIOCGPTN",
        0x4004_5431 => "TIOCSPTLCK",
        0x5441 => "TIOCGPTPEER",
        0x4004_9409 => "FICLONE",
        _ => return None,
    })
}

/// The operations of `futex(2)`.
pub(super) const FUTEX: &[&str] = &[
    "FUTEX_WAIT",
    "FUTEX_WAKE",
    "FUTEX_FD",
    "FUTEX_REQUEUE",
    "FUTEX_CMP_REQUEUE",
    "FUTEX_WAKE_OP",
    "FUTEX_LOCK_PI",
    "FUTEX_UNLOCK_PI",
    "FUTEX_TRYLOCK_PI",
    "FUTEX_WAIT_BITSET",
    "FUTEX_WAKE_BITSET",
    "FUTEX_WAIT_REQUEUE_PI",
    "FUTEX_CMP_REQUEUE_PI",
    "FUTEX_LOCK_PI2",
];

/// Signals 1 to 31 without `SIG`.
pub(super) const SIGNALS: &[&str] = &[
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
