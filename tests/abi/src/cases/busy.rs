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

cases!("busy":
    ids_are_those_of_the_caller,
    every_thread_has_an_id_of_its_own,
    a_change_of_user_is_seen_at_once,
    signals_come_between_calls_and_spoil_none,
    signals_find_the_program_in_its_own_code,
    code_may_become_writable_and_go_on,
    errors_stay_errors,
);
