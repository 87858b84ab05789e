//! Process groups, sessions, names, personality and resource limits.

use crate::kit::prelude::*;

fn limit(which: u32) -> Result<rlimit, E> {
    let mut l = zeroed::<rlimit>();
    sc!(SYS_prlimit64, 0, which, 0, &mut l).map(|_| l)
}

fn set_limit(which: u32, cur: u64, max: u64) -> Result<i64, E> {
    sc!(SYS_prlimit64, 0, which, &rlimit { rlim_cur: cur, rlim_max: max }, 0)
}

fn block() -> R<()> {
    loop {
        let _ = sc!(SYS_pause);
    }
}

fn setpgid_makes_and_joins_groups() -> R {
    let a = child(block)?;
    let b = child(block)?;
    sc!(SYS_setpgid, a.pid, 0)?;
    eq!(sc!(SYS_getpgid, a.pid)?, a.pid as i64);
    sc!(SYS_setpgid, b.pid, a.pid)?;
    eq!(sc!(SYS_getpgid, b.pid)?, a.pid as i64);
    eq!(sc!(SYS_getpgrp)?, getpid() as i64);
    // One signal to the group reaches both.
    kill(-a.pid, SIGKILL)?;
    eq!((a.wait()?, b.wait()?), (Status::Killed(SIGKILL), Status::Killed(SIGKILL)));
    errno_is!(kill(-a.pid, 0), ESRCH);
    Ok(())
}

fn setpgid_errors() -> R {
    let c = child(block)?;
    errno_is!(sc!(SYS_setpgid, c.pid, -1), EINVAL);
    errno_is!(sc!(SYS_setpgid, -1, 0), EINVAL | ESRCH);
    errno_is!(sc!(SYS_setpgid, 1, 0), ESRCH);
    errno_is!(sc!(SYS_setpgid, c.pid, 999_999), EPERM);
    errno_is!(sc!(SYS_getpgid, 999_999), ESRCH);
    errno_is!(sc!(SYS_getsid, 999_999), ESRCH);
    c.kill(SIGKILL)?;
    c.wait()?;
    Ok(())
}

fn setpgid_after_exec_is_eacces() -> R {
    let (r, w) = pipe(0)?;
    let c = child(|| {
        sc!(SYS_dup2, w, 1)?;
        Err(exec_helper(&["block"], &[]).into())
    })?;
    eq!(read_some(r, 6)?, b"ready\n");
    errno_is!(sc!(SYS_setpgid, c.pid, c.pid), EACCES);
    c.kill(SIGKILL)?;
    c.wait()?;
    Ok(())
}

fn setsid_makes_a_session_and_a_group() -> R {
    child(|| {
        eq!(sc!(SYS_setsid)?, getpid() as i64);
        eq!((sc!(SYS_getsid, 0)?, sc!(SYS_getpgid, 0)?), (getpid() as i64, getpid() as i64));
        // A leader cannot do it again, nor leave its group.
        errno_is!(sc!(SYS_setsid), EPERM);
        errno_is!(sc!(SYS_setpgid, 0, 0), EPERM);
        errno_is!(open(c"/dev/tty", O_RDWR, 0), ENXIO);
        Ok(())
    })?
    .ok()?;
    errno_is!(sc!(SYS_setsid), EPERM);
    Ok(())
}

fn children_of_another_session_cannot_be_moved() -> R {
    let ready = Gate::new()?;
    let c = child(|| {
        sc!(SYS_setsid)?;
        ready.open()?;
        block()
    })?;
    ready.pass()?;
    errno_is!(sc!(SYS_setpgid, c.pid, getpid()), EPERM);
    c.kill(SIGKILL)?;
    c.wait()?;
    Ok(())
}

fn an_orphaned_stopped_group_is_hung_up() -> R {
    // A stopped group whose last tie to its session's other groups ends gets SIGHUP and SIGCONT.
    sc!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let (r, w) = pipe(0)?;
    let session = child(|| {
        sc!(SYS_setsid)?;
        let c = child(|| {
            sc!(SYS_setpgid, 0, 0)?;
            sig::dispose(SIGHUP, SIG_DFL, 0)?;
            block()
        })?;
        let _ = sc!(SYS_setpgid, c.pid, c.pid);
        c.kill(SIGSTOP)?;
        wait4(c.pid, WUNTRACED)?;
        write(w, &c.pid.to_ne_bytes())?;
        Ok(())
    })?;
    let mut pid = [0; 4];
    read(r, &mut pid)?;
    session.ok()?;
    eq!(wait4(i32::from_ne_bytes(pid), 0)?.1, Status::Killed(SIGHUP));
    Ok(())
}

fn thread_names() -> R {
    let mut name = [0u8; 16];
    sc!(SYS_prctl, PR_SET_NAME, c"a name that is too long", 0, 0, 0)?;
    sc!(SYS_prctl, PR_GET_NAME, &mut name, 0, 0, 0)?;
    eq!(&name, b"a name that is \0");
    eq!(text(c"/proc/self/comm")?, "a name that is \n");
    let other = std::thread::spawn(|| -> R<String> {
        sc!(SYS_prctl, PR_SET_NAME, c"other", 0, 0, 0)?;
        text(&cstring(format!("/proc/self/task/{}/comm", gettid())))
    });
    let Ok(got) = other.join() else { fail!("panic") };
    eq!(got?, "other\n");
    eq!(text(c"/proc/self/comm")?, "a name that is \n");
    put(c"/proc/self/comm", b"written")?;
    eq!(text(c"/proc/self/comm")?, "written\n");
    Ok(())
}

fn prctl_basics() -> R {
    let mut v = -1i32;
    sc!(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR1, 0, 0, 0)?;
    sc!(SYS_prctl, PR_GET_PDEATHSIG, &mut v, 0, 0, 0)?;
    eq!(v, SIGUSR1);
    errno_is!(sc!(SYS_prctl, PR_SET_PDEATHSIG, 99, 0, 0, 0), EINVAL);
    eq!(sc!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)?, 1);
    sc!(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)?;
    eq!(sc!(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0)?, 0);
    errno_is!(sc!(SYS_prctl, PR_SET_DUMPABLE, 7, 0, 0, 0), EINVAL);
    eq!(sc!(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0)?, 50_000);
    sc!(SYS_prctl, PR_SET_TIMERSLACK, 1234, 0, 0, 0)?;
    eq!(sc!(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0)?, 1234);
    errno_is!(sc!(SYS_prctl, 987_654, 0, 0, 0, 0), EINVAL);
    errno_is!(sc!(SYS_prctl, PR_SET_NAME, BAD, 0, 0, 0), EFAULT);
    Ok(())
}

fn no_new_privs_is_one_way_and_inherited() -> R {
    eq!(sc!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)?, 0);
    errno_is!(sc!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
    errno_is!(sc!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0), EINVAL);
    sc!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    eq!(sc!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)?, 1);
    let (out, _) = captured(|| Err(exec_helper(&["nnp"], &[]).into()))?;
    eq!(out, b"1\n");
    Ok(())
}

fn personality_is_read_and_set() -> R {
    eq!(sc!(SYS_personality, 0xffff_ffffu32)?, 0);
    eq!(sc!(SYS_personality, ADDR_NO_RANDOMIZE)?, 0);
    eq!(sc!(SYS_personality, 0xffff_ffffu32)?, ADDR_NO_RANDOMIZE as i64);
    child(|| {
        eq!(sc!(SYS_personality, 0xffff_ffffu32)?, ADDR_NO_RANDOMIZE as i64);
        Ok(())
    })?
    .ok()
}

fn limits_are_read_set_and_inherited() -> R {
    let before = limit(RLIMIT_NOFILE)?;
    set_limit(RLIMIT_NOFILE, 123, before.rlim_max)?;
    eq!(limit(RLIMIT_NOFILE)?.rlim_cur, 123);
    let mut old = zeroed::<rlimit>();
    sc!(SYS_getrlimit, RLIMIT_NOFILE, &mut old)?;
    eq!((old.rlim_cur, old.rlim_max), (123, before.rlim_max));
    sc!(SYS_setrlimit, RLIMIT_NOFILE, &rlimit { rlim_cur: 124, rlim_max: before.rlim_max })?;
    child(|| {
        eq!(limit(RLIMIT_NOFILE)?.rlim_cur, 124);
        Ok(())
    })?
    .ok()?;
    that!(
        text(c"/proc/self/limits")?.lines().any(|l| l.starts_with("Max open files") && l.contains(" 124 "))
    );
    Ok(())
}

fn limit_errors() -> R {
    errno_is!(set_limit(RLIMIT_CPU, 10, 5), EINVAL);
    errno_is!(set_limit(99, 1, 1), EINVAL);
    errno_is!(sc!(SYS_prlimit64, 0, RLIMIT_CPU, BAD, 0), EFAULT);
    errno_is!(sc!(SYS_prlimit64, 999_999, RLIMIT_CPU, 0, 0), ESRCH);
    if root() {
        sc!(SYS_setresuid, 4321, 4321, 4321)?;
    }
    set_limit(RLIMIT_STACK, 1 << 20, 1 << 22)?;
    errno_is!(set_limit(RLIMIT_STACK, 1 << 20, 1 << 23), EPERM);
    Ok(())
}

fn limits_of_another_process() -> R {
    let c = child(block)?;
    let mut l = zeroed::<rlimit>();
    sc!(SYS_prlimit64, c.pid, RLIMIT_CORE, &rlimit { rlim_cur: 0, rlim_max: 0 }, 0)?;
    sc!(SYS_prlimit64, c.pid, RLIMIT_CORE, 0, &mut l)?;
    eq!((l.rlim_cur, l.rlim_max), (0, 0));
    c.kill(SIGKILL)?;
    c.wait()?;
    Ok(())
}

fn cpu_limit_sends_sigxcpu() -> R {
    let c = child(|| {
        set_limit(RLIMIT_CPU, 1, 3)?;
        loop {
            std::hint::spin_loop();
        }
    })?;
    eq!(c.wait()?, Status::Killed(SIGXCPU));
    Ok(())
}

fn address_space_limit_is_enomem() -> R {
    set_limit(RLIMIT_AS, 1 << 30, RLIM_INFINITY)?;
    errno_is!(rw(2 << 30), ENOMEM);
    rw(1 << 20)?;
    Ok(())
}

cases!("session":
    setpgid_makes_and_joins_groups, setpgid_errors, setpgid_after_exec_is_eacces,
    setsid_makes_a_session_and_a_group, children_of_another_session_cannot_be_moved,
    an_orphaned_stopped_group_is_hung_up, thread_names, prctl_basics, no_new_privs_is_one_way_and_inherited,
    personality_is_read_and_set, limits_are_read_set_and_inherited, limit_errors, limits_of_another_process,
    cpu_limit_sends_sigxcpu, address_space_limit_is_enomem,
);
