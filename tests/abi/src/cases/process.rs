//! Processes: fork, vfork, exit, waiting, parents and orphans.

use crate::kit::prelude::*;

/// Linux's options for waitid that libc does not name in this type.
fn waitid(kind: u32, id: i32, options: i32) -> Result<siginfo_t, E> {
    let mut info = zeroed::<siginfo_t>();
    sc!(SYS_waitid, kind, id, &mut info, options, 0).map(|_| info)
}

/// (si_signo, si_code, si_pid, si_status)
fn told(info: &siginfo_t) -> (i32, i32, i32, i32) {
    // SAFETY: plain memory that waitid filled, or zeroes.
    unsafe { (info.si_signo, info.si_code, info.si_pid(), info.si_status()) }
}

fn block() -> R<()> {
    loop {
        let _ = sc!(SYS_pause);
    }
}

fn fork_returns_twice() -> R {
    let me = getpid();
    let c = child(|| {
        that!(getpid() != me);
        eq!(sc!(SYS_getppid)?, me as i64);
        eq!(gettid(), getpid());
        Ok(())
    })?;
    that!(c.pid > 0 && c.pid != me);
    c.ok()
}

fn exit_codes_keep_eight_bits() -> R {
    for (code, seen) in [(0, 0), (1, 1), (255, 255), (256, 0), (-1, 255), (0x1234, 0x34)] {
        eq!(fork(|| code)?.wait()?, Status::Exited(seen));
    }
    Ok(())
}

fn killed_children_tell_the_signal() -> R {
    for s in [SIGKILL, SIGTERM, SIGHUP, SIGUSR1, 40] {
        let c = child(block)?;
        c.kill(s)?;
        eq!(c.wait()?, Status::Killed(s));
    }
    Ok(())
}

fn memory_is_copied_at_fork() -> R {
    let mut data = vec![1u8; 100_000];
    let c = child(|| {
        that!(data.iter().all(|b| *b == 1));
        Ok(())
    })?;
    data.fill(2);
    c.ok()?;
    let p = rw(4096)?;
    poke(p, 1);
    child(|| {
        poke(p, 9);
        eq!(peek(p), 9);
        Ok(())
    })?
    .ok()?;
    eq!(peek(p), 1);
    Ok(())
}

fn wait_without_children_is_echild() -> R {
    errno_is!(wait4(-1, 0), ECHILD);
    errno_is!(wait4(getpid(), 0), ECHILD);
    errno_is!(wait4(-1, WNOHANG), ECHILD);
    errno_is!(waitid(P_ALL, 0, WEXITED), ECHILD);
    let c = fork(|| 0)?;
    c.wait()?;
    errno_is!(c.wait(), ECHILD);
    Ok(())
}

fn wait_nohang_says_zero_while_it_runs() -> R {
    let c = child(block)?;
    eq!(wait4(c.pid, WNOHANG)?.0, 0);
    c.kill(SIGKILL)?;
    eq!(wait4(c.pid, 0)?, (c.pid, Status::Killed(SIGKILL)));
    Ok(())
}

fn wait_selects_by_pid_and_group() -> R {
    let a = fork(|| 1)?;
    let b = child(|| {
        sc!(SYS_setpgid, 0, 0)?;
        exit(2)
    })?;
    eq!(wait4(b.pid, 0)?, (b.pid, Status::Exited(2)));
    eq!(wait4(0, 0)?, (a.pid, Status::Exited(1)));
    let c = child(block)?;
    sc!(SYS_setpgid, c.pid, c.pid)?;
    errno_is!(wait4(0, WNOHANG), ECHILD);
    eq!(wait4(-c.pid, WNOHANG)?.0, 0);
    c.kill(SIGKILL)?;
    eq!(wait4(-c.pid, 0)?, (c.pid, Status::Killed(SIGKILL)));
    errno_is!(wait4(-1, 0x100), EINVAL);
    Ok(())
}

fn waitid_tells_exits_and_kills() -> R {
    let c = fork(|| 7)?;
    eq!(told(&waitid(P_PID, c.pid, WEXITED)?), (SIGCHLD, CLD_EXITED, c.pid, 7));
    let c = child(block)?;
    c.kill(SIGKILL)?;
    eq!(told(&waitid(P_ALL, 0, WEXITED)?), (SIGCHLD, CLD_KILLED, c.pid, SIGKILL));
    errno_is!(waitid(P_ALL, 0, 0), EINVAL);
    errno_is!(waitid(99, 0, WEXITED), EINVAL);
    Ok(())
}

fn waitid_nowait_leaves_the_zombie() -> R {
    let c = fork(|| 3)?;
    eq!(told(&waitid(P_PID, c.pid, WEXITED | WNOWAIT)?).3, 3);
    eq!(proc::state(c.pid, c.pid)?, 'Z');
    eq!(told(&waitid(P_PID, c.pid, WEXITED | WNOWAIT)?).3, 3);
    eq!(c.wait()?, Status::Exited(3));
    kill(c.pid, 0).err().map_or(Ok(()), |e| if e == E(ESRCH) { Ok(()) } else { Err(e) })?;
    Ok(())
}

fn waitid_nohang_gives_a_zero_pid() -> R {
    let c = child(block)?;
    eq!(told(&waitid(P_PID, c.pid, WEXITED | WNOHANG)?), (0, 0, 0, 0));
    c.kill(SIGKILL)?;
    c.wait()?;
    Ok(())
}

fn waitid_of_a_pidfd() -> R {
    let c = fork(|| 5)?;
    let fd = sc!(SYS_pidfd_open, c.pid, 0)? as i32;
    eq!(fcntl(fd, F_GETFD, 0)?, FD_CLOEXEC);
    eq!(poll1(fd, POLLIN, -1)?, POLLIN);
    eq!(told(&waitid(P_PIDFD, fd, WEXITED)?), (SIGCHLD, CLD_EXITED, c.pid, 5));
    errno_is!(sc!(SYS_pidfd_send_signal, fd, 0, 0, 0), ESRCH);
    Ok(())
}

fn pidfd_signals_and_readiness() -> R {
    let c = child(block)?;
    let fd = sc!(SYS_pidfd_open, c.pid, 0)? as i32;
    eq!(poll1(fd, POLLIN, 0)?, 0);
    sc!(SYS_pidfd_send_signal, fd, SIGKILL, 0, 0)?;
    eq!(poll1(fd, POLLIN, -1)?, POLLIN);
    eq!(c.wait()?, Status::Killed(SIGKILL));
    errno_is!(sc!(SYS_pidfd_open, 0, 0), EINVAL);
    errno_is!(sc!(SYS_pidfd_open, -1, 0), EINVAL);
    errno_is!(sc!(SYS_pidfd_open, getpid(), 0x10), EINVAL);
    Ok(())
}

fn a_directory_of_proc_is_a_pidfd_for_signals() -> R {
    let c = child(block)?;
    let path = std::ffi::CString::new(format!("/proc/{}", c.pid)).unwrap_or_default();
    let fd = open(&path, O_RDONLY | O_DIRECTORY, 0)?;
    let task = std::ffi::CString::new(format!("/proc/{}/task", c.pid)).unwrap_or_default();
    errno_is!(sc!(SYS_pidfd_send_signal, open(&task, O_RDONLY, 0)?, 0, 0, 0), EBADF);
    errno_is!(sc!(SYS_pidfd_send_signal, open(c"/proc", O_RDONLY, 0)?, 0, 0, 0), EBADF);
    sc!(SYS_pidfd_send_signal, fd, 0, 0, 0)?;
    sc!(SYS_pidfd_send_signal, fd, SIGKILL, 0, 0)?;
    eq!(c.wait()?, Status::Killed(SIGKILL));
    errno_is!(sc!(SYS_pidfd_send_signal, fd, 0, 0, 0), ESRCH);
    Ok(())
}

fn stopped_and_continued_children() -> R {
    let c = child(block)?;
    c.kill(SIGSTOP)?;
    eq!(wait4(c.pid, WUNTRACED)?, (c.pid, Status::Stopped(SIGSTOP)));
    eq!(proc::state(c.pid, c.pid)?, 'T');
    eq!(wait4(c.pid, WUNTRACED | WNOHANG)?.0, 0);
    c.kill(SIGCONT)?;
    eq!(wait4(c.pid, WCONTINUED)?, (c.pid, Status::Continued));
    c.kill(SIGTSTP)?;
    eq!(told(&waitid(P_PID, c.pid, WSTOPPED)?), (SIGCHLD, CLD_STOPPED, c.pid, SIGTSTP));
    c.kill(SIGCONT)?;
    eq!(told(&waitid(P_PID, c.pid, WCONTINUED)?), (SIGCHLD, CLD_CONTINUED, c.pid, SIGCONT));
    c.kill(SIGKILL)?;
    eq!(c.wait()?, Status::Killed(SIGKILL));
    Ok(())
}

fn kill_ends_a_stopped_process() -> R {
    let c = child(block)?;
    c.kill(SIGSTOP)?;
    wait4(c.pid, WUNTRACED)?;
    c.kill(SIGTERM)?;
    eq!(wait4(c.pid, WNOHANG)?.0, 0);
    c.kill(SIGKILL)?;
    eq!(c.wait()?, Status::Killed(SIGKILL));
    Ok(())
}

fn wait_returns_every_child_once() -> R {
    let mut pids: Vec<i32> = Vec::new();
    for n in 0..30 {
        pids.push(fork(|| n)?.pid);
    }
    let mut sum = 0;
    for _ in 0..30 {
        let (pid, status) = wait4(-1, 0)?;
        that!(pids.contains(&pid));
        pids.retain(|p| *p != pid);
        let Status::Exited(n) = status else { fail!("{status:?}") };
        sum += n;
    }
    eq!((sum, pids.len()), (435, 0));
    errno_is!(wait4(-1, 0), ECHILD);
    Ok(())
}

fn wait_blocks_until_the_child_ends() -> R {
    let gate = Gate::new()?;
    let me = getpid();
    let c = child(|| {
        gate.pass()?;
        exit(4)
    })?;
    child(|| {
        asleep(me, me)?;
        gate.open()?;
        Ok(())
    })?;
    eq!(wait4(c.pid, 0)?.1, Status::Exited(4));
    wait4(-1, 0)?;
    Ok(())
}

fn wait_reports_usage() -> R {
    let c = child(|| {
        let start = now(CLOCK_PROCESS_CPUTIME_ID)?;
        while now(CLOCK_PROCESS_CPUTIME_ID)? - start < 30 * MS {}
        Ok(())
    })?;
    let (mut status, mut used) = (0i32, zeroed::<rusage>());
    eq!(sc!(SYS_wait4, c.pid, &mut status, 0, &mut used)?, c.pid as i64);
    let usec = |t: timeval| t.tv_sec * 1_000_000 + t.tv_usec;
    that!(usec(used.ru_utime) + usec(used.ru_stime) >= 20_000, "{} us", usec(used.ru_utime));
    let mut all = zeroed::<rusage>();
    sc!(SYS_getrusage, RUSAGE_CHILDREN, &mut all)?;
    that!(usec(all.ru_utime) + usec(all.ru_stime) >= usec(used.ru_utime) + usec(used.ru_stime));
    Ok(())
}

fn orphans_go_to_the_nearest_subreaper() -> R {
    eq!(
        {
            let mut v = -1i32;
            sc!(SYS_prctl, PR_GET_CHILD_SUBREAPER, &mut v, 0, 0, 0)?;
            v
        },
        0
    );
    sc!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let (r, w) = pipe(0)?;
    let parent = child(|| {
        let before = getpid() as i64;
        fork(|| {
            // Until the parent has gone.
            while sc!(SYS_getppid) == Ok(before) {
                let _ = sc!(SYS_sched_yield);
            }
            let new = sc!(SYS_getppid).unwrap_or(-1) as i32;
            let _ = write(w, &new.to_ne_bytes());
            6
        })?;
        Ok(())
    })?;
    parent.ok()?;
    eq!(read_some(r, 4)?, getpid().to_ne_bytes());
    eq!(wait4(-1, 0)?.1, Status::Exited(6));
    Ok(())
}

fn the_subreaper_attribute_is_not_inherited() -> R {
    sc!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    child(|| {
        let mut v = -1i32;
        sc!(SYS_prctl, PR_GET_CHILD_SUBREAPER, &mut v, 0, 0, 0)?;
        eq!(v, 0);
        Ok(())
    })?
    .ok()
}

fn parent_death_signal() -> R {
    sc!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let ready = Gate::new()?;
    let parent = child(|| {
        fork(|| {
            let _ = sc!(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR2, 0, 0, 0);
            let _ = ready.open();
            loop {
                let _ = sc!(SYS_pause);
            }
        })?;
        ready.pass()
    })?;
    parent.ok()?;
    eq!(wait4(-1, 0)?.1, Status::Killed(SIGUSR2));
    Ok(())
}

fn sigchld_ignored_means_no_zombies() -> R {
    sig::dispose(SIGCHLD, SIG_IGN, 0)?;
    let c = fork(|| 1)?;
    // The wait lasts until it is gone, and then there is no child.
    errno_is!(c.wait(), ECHILD);
    errno_is!(kill(c.pid, 0), ESRCH);
    Ok(())
}

fn nocldwait_means_no_zombies_but_a_signal() -> R {
    sig::record(SIGCHLD, SA_NOCLDWAIT | SA_RESTART)?;
    let c = fork(|| 1)?;
    errno_is!(c.wait(), ECHILD);
    eq!(sig::numbers(), [SIGCHLD]);
    Ok(())
}

fn zombies_keep_their_pid_until_waited_for() -> R {
    let c = fork(|| 0)?;
    waitid(P_PID, c.pid, WEXITED | WNOWAIT)?;
    kill(c.pid, 0)?;
    kill(c.pid, SIGKILL)?;
    let link = cstring(format!("/proc/{}/exe", c.pid));
    errno_is!(sc!(SYS_readlink, link.as_c_str(), &mut [0u8; 99], 99), ENOENT);
    c.ok()?;
    errno_is!(kill(c.pid, 0), ESRCH);
    Ok(())
}

fn fork_inherits_what_it_should() -> R {
    sc!(SYS_umask, 0o027)?;
    sc!(SYS_prctl, PR_SET_NAME, c"inherited", 0, 0, 0)?;
    sig::block(&[SIGUSR1])?;
    kill(getpid(), SIGUSR1)?;
    let (group, session) = (sc!(SYS_getpgid, 0)?, sc!(SYS_getsid, 0)?);
    child(|| {
        eq!(sc!(SYS_umask, 0)?, 0o027);
        eq!(text(c"/proc/self/comm")?, "inherited\n");
        eq!(sig::current()?, sig::set(&[SIGUSR1]));
        // Pending signals are not inherited.
        eq!(sig::pending()?, 0);
        eq!((sc!(SYS_getpgid, 0)?, sc!(SYS_getsid, 0)?), (group, session));
        Ok(())
    })?
    .ok()
}

fn timers_and_usage_are_not_inherited() -> R {
    let t = timeval { tv_sec: 100, tv_usec: 0 };
    sc!(SYS_setitimer, ITIMER_REAL, &itimerval { it_interval: t, it_value: t }, 0)?;
    child(|| {
        eq!(sc!(SYS_alarm, 0)?, 0);
        that!(now(CLOCK_PROCESS_CPUTIME_ID)? < 10_000 * MS);
        let mut t = zeroed::<tms>();
        sc!(SYS_times, &mut t)?;
        eq!(t.tms_cutime, 0);
        Ok(())
    })?
    .ok()
}

fn process_limit_is_eagain() -> R {
    if root() {
        // The superuser is above this limit; act as somebody else.
        sc!(SYS_setresuid, 54321, 54321, 54321)?;
    }
    sc!(SYS_prlimit64, 0, RLIMIT_NPROC, &rlimit { rlim_cur: 0, rlim_max: 0 }, 0)?;
    errno_is!(fork(|| 0), EAGAIN);
    Ok(())
}

fn a_deep_chain_of_processes() -> R {
    fn go(depth: i32) -> R {
        if depth == 0 {
            return Ok(());
        }
        child(|| go(depth - 1))?.ok()
    }
    go(40)
}

fn two_hundred_short_processes() -> R {
    for n in 0..200 {
        eq!(fork(|| n)?.wait()?, Status::Exited(n));
    }
    Ok(())
}

cases!("process":
    fork_returns_twice, exit_codes_keep_eight_bits, killed_children_tell_the_signal,
    memory_is_copied_at_fork, wait_without_children_is_echild, wait_nohang_says_zero_while_it_runs,
    wait_selects_by_pid_and_group, waitid_tells_exits_and_kills, waitid_nowait_leaves_the_zombie,
    waitid_nohang_gives_a_zero_pid, waitid_of_a_pidfd, pidfd_signals_and_readiness, a_directory_of_proc_is_a_pidfd_for_signals,
    stopped_and_continued_children, kill_ends_a_stopped_process, wait_returns_every_child_once,
    wait_blocks_until_the_child_ends, wait_reports_usage, orphans_go_to_the_nearest_subreaper,
    the_subreaper_attribute_is_not_inherited, parent_death_signal, sigchld_ignored_means_no_zombies,
    nocldwait_means_no_zombies_but_a_signal, zombies_keep_their_pid_until_waited_for,
    fork_inherits_what_it_should, timers_and_usage_are_not_inherited, process_limit_is_eagain,
    a_deep_chain_of_processes, two_hundred_short_processes,
);
