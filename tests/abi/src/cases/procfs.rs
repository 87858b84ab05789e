//! /proc as programs read it.

use crate::kit::prelude::*;

fn block() -> R<()> {
    loop {
        let _ = sc!(SYS_pause);
    }
}

/// Fields of a stat line behind the name: state is number 0.
fn stat_fields(path: &std::ffi::CStr) -> R<Vec<String>> {
    let line = text(path)?;
    let Some((_, rest)) = line.rsplit_once(") ") else { fail!("{line:?}") };
    Ok(rest.split_whitespace().map(String::from).collect())
}

fn self_is_a_link_to_the_pid() -> R {
    let mut buf = [0u8; 32];
    let n = sc!(SYS_readlink, c"/proc/self", &mut buf, 32)? as usize;
    eq!(&buf[..n], getpid().to_string().as_bytes());
    let n = sc!(SYS_readlink, c"/proc/thread-self", &mut buf, 32)? as usize;
    eq!(&buf[..n], format!("{}/task/{}", getpid(), gettid()).as_bytes());
    eq!(text(c"/proc/self/stat")?.split(' ').next(), Some(getpid().to_string().as_str()));
    Ok(())
}

fn stat_line() -> R {
    sc!(SYS_prctl, PR_SET_NAME, c"odd) name (", 0, 0, 0)?;
    let line = text(c"/proc/self/stat")?;
    that!(line.starts_with(&format!("{} (odd) name () R ", getpid())), "{line}");
    let f = stat_fields(c"/proc/self/stat")?;
    eq!(f.len(), 50);
    eq!(f[1], sc!(SYS_getppid)?.to_string());
    eq!((&f[2], &f[3]), (&getpid().to_string(), &sc!(SYS_getsid, 0)?.to_string()));
    eq!(f[17], "1");
    that!(f[19].parse::<u64>().is_ok_and(|start| start > 0), "start time");
    that!(f[20].parse::<u64>().is_ok_and(|size| size > 100_000), "size");
    Ok(())
}

fn status_lines() -> R {
    let s = text(c"/proc/self/status")?;
    let value = |key: &str| s.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim().to_string());
    eq!(value("Pid:"), Some(getpid().to_string()));
    eq!(value("Tgid:"), Some(getpid().to_string()));
    eq!(value("PPid:"), Some(sc!(SYS_getppid)?.to_string()));
    eq!(value("State:"), Some("R (running)".into()));
    eq!(value("Threads:"), Some("1".into()));
    eq!(value("Umask:"), Some("0022".into()));
    eq!(value("TracerPid:"), Some("0".into()));
    eq!(value("Seccomp:"), Some("0".into()));
    for key in ["VmSize:", "VmRSS:", "VmData:", "VmStk:", "VmPeak:", "VmHWM:"] {
        that!(value(key).is_some_and(|v| v.ends_with(" kB")), "{key}");
    }
    for key in
        ["Groups:", "SigQ:", "SigIgn:", "SigCgt:", "CapBnd:", "NoNewPrivs:", "voluntary_ctxt_switches:"]
    {
        that!(value(key).is_some(), "{key}");
    }
    Ok(())
}

fn status_shows_handlers() -> R {
    sig::dispose(SIGUSR2, SIG_IGN, 0)?;
    sig::record(SIGUSR1, 0)?;
    let s = text(c"/proc/self/status")?;
    let mask = |key: &str| {
        let hex = s.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("").trim();
        u64::from_str_radix(hex, 16).unwrap_or(0)
    };
    eq!(mask("SigIgn:") & sig::set(&[SIGUSR1, SIGUSR2]), sig::set(&[SIGUSR2]));
    eq!(mask("SigCgt:") & sig::set(&[SIGUSR1, SIGUSR2]), sig::set(&[SIGUSR1]));
    Ok(())
}

fn cmdline_and_environ() -> R {
    let (r, w) = pipe(0)?;
    let c = child(|| {
        sc!(SYS_dup2, w, 1)?;
        Err(execve(exe(), &["zero", "--helper", "block", "", "x y"], &["A=1", "B=2"]).into())
    })?;
    eq!(read_some(r, 6)?, b"ready\n");
    let path = |name: &str| cstring(format!("/proc/{}/{name}", c.pid));
    eq!(get(&path("cmdline"))?, b"zero\0--helper\0block\0\0x y\0");
    eq!(get(&path("environ"))?, b"A=1\0B=2\0");
    let exe_link = std::fs::read_link(format!("/proc/{}/exe", c.pid))?;
    eq!(exe_link.to_str(), exe().to_str().ok());
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", c.pid))?;
    eq!(cwd, std::env::current_dir()?);
    c.kill(SIGKILL)?;
    c.wait()?;
    Ok(())
}

fn exe_of_a_deleted_program() -> R {
    std::fs::copy(exe().to_str().unwrap_or(""), "prog")?;
    let (r, w) = pipe(0)?;
    let c = child(|| {
        sc!(SYS_dup2, w, 1)?;
        Err(execve(c"prog", &["x", "--helper", "block"], &[]).into())
    })?;
    eq!(read_some(r, 6)?, b"ready\n");
    unlink(c"prog")?;
    let link = std::fs::read_link(format!("/proc/{}/exe", c.pid))?;
    that!(link.to_string_lossy().ends_with("/prog (deleted)"), "{link:?}");
    // The link still leads to the file.
    let fd = open(&cstring(format!("/proc/{}/exe", c.pid)), O_RDONLY, 0)?;
    eq!(read_some(fd, 4)?, b"\x7fELF");
    c.kill(SIGKILL)?;
    c.wait()?;
    Ok(())
}

fn the_descriptor_directory() -> R {
    put(c"f", b"x")?;
    let fd = open(c"f", O_RDWR | O_APPEND, 0)?;
    read_some(fd, 1)?;
    let listed: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    that!([0, 1, 2, fd].iter().all(|n| listed.contains(n)), "{listed:?}");
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}"))?;
    eq!(link, std::env::current_dir()?.join("f"));
    let st = lstat(&cstring(format!("/proc/self/fd/{fd}")))?;
    eq!(st.st_mode, S_IFLNK | 0o700);
    let ro = open(c"f", O_RDONLY, 0)?;
    eq!(lstat(&cstring(format!("/proc/self/fd/{ro}")))?.st_mode, S_IFLNK | 0o500);
    let info = text(&cstring(format!("/proc/self/fdinfo/{fd}")))?;
    that!(info.starts_with("pos:\t1\nflags:\t0102002\n"), "{info}");
    errno_is!(open(c"/proc/self/fd/9999", O_RDONLY, 0), ENOENT);
    Ok(())
}

fn links_of_deleted_files_and_anonymous_ones() -> R {
    put(c"f", b"x")?;
    let fd = open(c"f", O_RDONLY, 0)?;
    unlink(c"f")?;
    let name = |fd: i32| -> R<String> {
        Ok(std::fs::read_link(format!("/proc/self/fd/{fd}"))?.to_string_lossy().into_owned())
    };
    that!(name(fd)?.ends_with("/f (deleted)"));
    eq!(name(sc!(SYS_eventfd2, 0, 0)? as i32)?, "anon_inode:[eventfd]");
    eq!(name(sc!(SYS_epoll_create1, 0)? as i32)?, "anon_inode:[eventpoll]");
    eq!(name(sc!(SYS_timerfd_create, CLOCK_MONOTONIC, 0)? as i32)?, "anon_inode:[timerfd]");
    eq!(name(sc!(SYS_signalfd4, -1, &0u64, 8, 0)? as i32)?, "anon_inode:[signalfd]");
    let s = sc!(SYS_socket, AF_UNIX, SOCK_STREAM, 0)? as i32;
    eq!(name(s)?, format!("socket:[{}]", fstat(s)?.st_ino));
    Ok(())
}

fn maps_lines_are_well_formed() -> R {
    let maps = text(c"/proc/self/maps")?;
    let mut last = 0;
    for line in maps.lines() {
        let mut f = line.split_whitespace();
        let (Some(range), Some(perm), Some(_off), Some(dev), Some(_ino)) =
            (f.next(), f.next(), f.next(), f.next(), f.next())
        else {
            fail!("{line}")
        };
        let Some((a, b)) = range.split_once('-') else { fail!("{line}") };
        let (a, b) = (u64::from_str_radix(a, 16).unwrap_or(0), u64::from_str_radix(b, 16).unwrap_or(0));
        that!(a < b && (a >= last || line.contains("[vsyscall]")), "{line}");
        that!(perm.len() == 4 && dev.contains(':'), "{line}");
        last = b;
    }
    for part in ["[stack]", "[heap]", exe().to_str().unwrap_or("?"), "r-xp"] {
        that!(maps.contains(part), "{part} not in {maps}");
    }
    Ok(())
}

fn smaps_and_statm() -> R {
    let f: Vec<u64> = text(c"/proc/self/statm")?.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    eq!(f.len(), 7);
    that!(f[0] >= f[1] && f[1] > 0, "{f:?}");
    let p = rw(8 << 20)?;
    for i in (0..8 << 20).step_by(4096) {
        poke(at(p, i), 1);
    }
    let g: Vec<u64> = text(c"/proc/self/statm")?.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    that!(g[0] >= f[0] + 2048, "{f:?} {g:?}");
    that!(g[1] >= f[1] + 1500, "{f:?} {g:?}");
    Ok(())
}

fn auxv_is_the_vector_of_the_program() -> R {
    let data = get(c"/proc/self/auxv")?;
    eq!(data.len() % 16, 0);
    let words: Vec<u64> = data.chunks(8).map(|c| c.iter().rev().fold(0, |n, b| n << 8 | *b as u64)).collect();
    let value = |key: u64| words.chunks(2).find(|p| p[0] == key).map(|p| p[1]);
    eq!(value(AT_PAGESZ), Some(4096));
    eq!(value(AT_UID), Some(sc!(SYS_getuid)? as u64));
    eq!(value(AT_CLKTCK), Some(100));
    that!(value(AT_PHDR).is_some() && value(AT_ENTRY).is_some() && value(AT_RANDOM).is_some());
    eq!(words.chunks(2).last(), Some(&[0u64, 0][..]));
    Ok(())
}

fn mounts_name_the_root_and_proc() -> R {
    let mounts = text(c"/proc/self/mounts")?;
    let points: Vec<&str> = mounts.lines().filter_map(|l| l.split(' ').nth(1)).collect();
    that!(points.contains(&"/") && points.contains(&"/proc"), "{mounts}");
    eq!(text(c"/proc/mounts")?, mounts);
    let info = text(c"/proc/self/mountinfo")?;
    that!(info.lines().all(|l| l.contains(" - ")), "{info}");
    that!(info.lines().any(|l| l.contains(" /proc ") && l.contains(" - proc ")), "{info}");
    Ok(())
}

fn processes_are_listed() -> R {
    let c = child(block)?;
    let listed = |pid: i32| -> R<bool> {
        Ok(std::fs::read_dir("/proc")?
            .any(|e| e.is_ok_and(|e| e.file_name().to_str() == Some(&pid.to_string()))))
    };
    that!(listed(c.pid)? && listed(getpid())?);
    eq!(stat(&cstring(format!("/proc/{}", c.pid)))?.st_uid as i64, sc!(SYS_geteuid)?);
    c.asleep()?;
    eq!(stat_fields(&cstring(format!("/proc/{}/stat", c.pid)))?[1], getpid().to_string());
    c.kill(SIGKILL)?;
    c.wait()?;
    that!(!listed(c.pid)?);
    errno_is!(open(&cstring(format!("/proc/{}/stat", c.pid)), O_RDONLY, 0), ENOENT);
    Ok(())
}

fn an_open_proc_file_of_a_dead_process() -> R {
    let c = child(block)?;
    let fd = open(&cstring(format!("/proc/{}/stat", c.pid)), O_RDONLY, 0)?;
    c.kill(SIGKILL)?;
    c.wait()?;
    errno_is!(read(fd, &mut [0; 100]), ESRCH);
    Ok(())
}

fn children_file() -> R {
    let path = cstring(format!("/proc/self/task/{}/children", getpid()));
    let (a, b) = (child(block)?, child(block)?);
    eq!(text(&path)?, format!("{} {} ", a.pid, b.pid));
    for c in [a, b] {
        c.kill(SIGKILL)?;
        c.wait()?;
    }
    eq!(text(&path)?, "");
    Ok(())
}

fn system_wide_files() -> R {
    let up: Vec<f64> = text(c"/proc/uptime")?.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    eq!(up.len(), 2);
    that!(up[0] > 0.0);
    let mem = text(c"/proc/meminfo")?;
    for key in ["MemTotal:", "MemFree:", "MemAvailable:", "Buffers:", "Cached:", "SwapTotal:"] {
        that!(mem.lines().any(|l| l.starts_with(key) && l.ends_with(" kB")), "{key}");
    }
    let cpu = text(c"/proc/cpuinfo")?;
    that!(cpu.lines().any(|l| l.starts_with("processor\t: 0")), "{cpu}");
    that!(cpu.lines().any(|l| l.starts_with("flags\t\t: ") && l.contains(" sse2 ")));
    let stat = text(c"/proc/stat")?;
    that!(stat.starts_with("cpu  ") && stat.contains("\ncpu0 ") && stat.contains("\nbtime "), "{stat}");
    let load = text(c"/proc/loadavg")?;
    eq!(load.split_whitespace().count(), 5);
    that!(text(c"/proc/version")?.starts_with("Linux version "));
    that!(text(c"/proc/filesystems")?.contains("\tproc\n"));
    Ok(())
}

fn sysctl_files() -> R {
    let number = |p: &std::ffi::CStr| -> R<i64> { Ok(text(p)?.trim().parse().unwrap_or(-1)) };
    that!(number(c"/proc/sys/kernel/pid_max")? > 300);
    that!(number(c"/proc/sys/fs/file-max")? > 100);
    that!(number(c"/proc/sys/kernel/ngroups_max")? == 65536);
    that!((0..=2).contains(&number(c"/proc/sys/vm/overcommit_memory")?));
    let mut names = zeroed::<utsname>();
    sc!(SYS_uname, &mut names)?;
    // SAFETY: the kernel ends it with a null.
    let host = unsafe { std::ffi::CStr::from_ptr(names.nodename.as_ptr()) }.to_string_lossy().into_owned();
    eq!(text(c"/proc/sys/kernel/hostname")?.trim(), host);
    eq!(text(c"/proc/sys/kernel/ostype")?, "Linux\n");
    let a = text(c"/proc/sys/kernel/random/uuid")?;
    that!(a.len() == 37 && a != text(c"/proc/sys/kernel/random/uuid")?);
    Ok(())
}

fn proc_files_seek_and_read_in_parts() -> R {
    let whole = get(c"/proc/self/limits")?;
    let fd = open(c"/proc/self/limits", O_RDONLY, 0)?;
    let mut parts = Vec::new();
    loop {
        let part = read_some(fd, 7)?;
        if part.is_empty() {
            break;
        }
        parts.extend(part);
    }
    eq!(parts, whole);
    let mut some = [0u8; 10];
    eq!(sc!(SYS_pread64, fd, &mut some, 10, 20)?, 10);
    eq!(some, whole[20..30]);
    lseek(fd, 5, SEEK_SET)?;
    eq!(read_some(fd, 5)?, whole[5..10]);
    eq!(fstat(fd)?.st_size, 0);
    Ok(())
}

fn proc_is_not_writable_in_general() -> R {
    errno_is!(open(c"/proc/newfile", O_CREAT | O_WRONLY, 0o644), ENOENT | EACCES | EPERM);
    errno_is!(mkdir(c"/proc/newdir", 0o755), ENOENT | EACCES | EPERM);
    errno_is!(unlink(c"/proc/self/stat"), EPERM | EACCES);
    Ok(())
}

fn memory_through_proc() -> R {
    let p = rw(4096)?;
    poke(p, 33);
    let fd = open(c"/proc/self/mem", O_RDWR, 0)?;
    let mut one = [0u8];
    eq!(sc!(SYS_pread64, fd, &mut one, 1, p)?, 1);
    eq!(one, [33]);
    eq!(sc!(SYS_pwrite64, fd, &44u8, 1, p)?, 1);
    eq!(peek(p), 44);
    errno_is!(sc!(SYS_pread64, fd, &mut one, 1, 8), EIO);
    Ok(())
}

fn the_vdso_is_shown_and_can_be_read() -> R {
    let auxv = std::fs::read("/proc/self/auxv")?;
    let words: Vec<u64> =
        auxv.chunks_exact(8).map(|c| c.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))).collect();
    // AT_SYSINFO_EHDR
    let Some(pair) = words.chunks_exact(2).find(|pair| pair[0] == 33) else { return Ok(()) };
    let start = pair[1];
    let maps = text(c"/proc/self/maps")?;
    let line = maps.lines().find(|l| l.ends_with("[vdso]"));
    that!(
        line.is_some_and(|l| l.starts_with(&format!("{start:x}-")) && l.contains(" r-xp 00000000 00:00 0 "))
    );
    let mut head = [0u8; 4];
    let (to, from) = (
        iovec { iov_base: head.as_mut_ptr().cast(), iov_len: 4 },
        iovec { iov_base: start as _, iov_len: 4 },
    );
    eq!(sc!(SYS_process_vm_readv, getpid(), &to, 1, &from, 1, 0)?, 4);
    eq!(head, *b"\x7fELF");
    let mem = open(c"/proc/self/mem", O_RDONLY, 0)?;
    let mut head = [0u8; 4];
    eq!(sc!(SYS_pread64, mem, &mut head, 4, start)?, 4);
    eq!(head, *b"\x7fELF");
    Ok(())
}

cases!("proc":
    the_vdso_is_shown_and_can_be_read,
    self_is_a_link_to_the_pid, stat_line, status_lines, status_shows_handlers, cmdline_and_environ,
    exe_of_a_deleted_program, the_descriptor_directory, links_of_deleted_files_and_anonymous_ones,
    maps_lines_are_well_formed, smaps_and_statm, auxv_is_the_vector_of_the_program,
    mounts_name_the_root_and_proc, processes_are_listed, an_open_proc_file_of_a_dead_process, children_file,
    system_wide_files, sysctl_files, proc_files_seek_and_read_in_parts, proc_is_not_writable_in_general,
    memory_through_proc,
);
