//! flock, POSIX record locks and open-file-description locks.

use crate::kit::prelude::*;

fn lk(kind: i32, start: i64, len: i64) -> flock {
    flock { l_type: kind as i16, l_whence: SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}

fn set(fd: i32, kind: i32, start: i64, len: i64) -> Result<i32, E> {
    fcntl(fd, F_SETLK, &lk(kind, start, len))
}

/// What F_GETLK says to a would-be writer: the type of what is in the way.
fn probe(fd: i32, start: i64, len: i64) -> Result<flock, E> {
    let mut l = lk(F_WRLCK, start, len);
    fcntl(fd, F_GETLK, &mut l)?;
    Ok(l)
}

fn file() -> Result<i32, E> {
    open(c"f", O_CREAT | O_RDWR, 0o644)
}

fn flock_excludes_another_open_file() -> R {
    let (a, b) = (file()?, file()?);
    sc!(SYS_flock, a, LOCK_EX)?;
    errno_is!(sc!(SYS_flock, b, LOCK_EX | LOCK_NB), EAGAIN);
    errno_is!(sc!(SYS_flock, b, LOCK_SH | LOCK_NB), EAGAIN);
    sc!(SYS_flock, a, LOCK_SH)?;
    sc!(SYS_flock, b, LOCK_SH | LOCK_NB)?;
    errno_is!(sc!(SYS_flock, a, LOCK_EX | LOCK_NB), EAGAIN);
    sc!(SYS_flock, b, LOCK_UN)?;
    Ok(())
}

fn flock_lives_as_long_as_the_open_file() -> R {
    let (a, b) = (file()?, file()?);
    let copy = sc!(SYS_dup, a)? as i32;
    sc!(SYS_flock, a, LOCK_EX)?;
    close(a)?;
    errno_is!(sc!(SYS_flock, b, LOCK_EX | LOCK_NB), EAGAIN);
    close(copy)?;
    sc!(SYS_flock, b, LOCK_EX | LOCK_NB)?;
    Ok(())
}

fn flock_waits_and_is_woken() -> R {
    let (a, b) = (file()?, file()?);
    sc!(SYS_flock, a, LOCK_EX)?;
    let waiter = child(|| {
        sc!(SYS_flock, b, LOCK_EX)?;
        Ok(())
    })?;
    waiter.asleep()?;
    sc!(SYS_flock, a, LOCK_UN)?;
    waiter.ok()
}

fn flock_errors() -> R {
    let a = file()?;
    errno_is!(sc!(SYS_flock, a, 0), EINVAL);
    errno_is!(sc!(SYS_flock, 9999, LOCK_EX), EBADF);
    Ok(())
}

fn posix_locks_exclude_other_processes_by_range() -> R {
    let fd = file()?;
    set(fd, F_WRLCK, 10, 10)?;
    let me = getpid();
    child(|| {
        errno_is!(set(fd, F_WRLCK, 15, 1), EAGAIN | EACCES);
        errno_is!(set(fd, F_RDLCK, 5, 6), EAGAIN | EACCES);
        set(fd, F_WRLCK, 0, 10)?;
        set(fd, F_WRLCK, 20, 0)?;
        let l = probe(fd, 0, 0)?;
        eq!((l.l_type as i32, l.l_start, l.l_len, l.l_pid), (F_WRLCK, 10, 10, me));
        Ok(())
    })?
    .ok()?;
    // The child's locks ended with it.
    eq!(probe(fd, 0, 0)?.l_type as i32, F_UNLCK);
    Ok(())
}

fn posix_locks_split_and_merge() -> R {
    let fd = file()?;
    set(fd, F_WRLCK, 0, 100)?;
    set(fd, F_UNLCK, 40, 20)?;
    child(|| {
        eq!(probe(fd, 0, 1)?.l_len, 40);
        eq!(probe(fd, 45, 5)?.l_type as i32, F_UNLCK);
        let l = probe(fd, 50, 100)?;
        eq!((l.l_start, l.l_len), (60, 40));
        Ok(())
    })?
    .ok()?;
    set(fd, F_WRLCK, 40, 20)?;
    child(|| {
        let l = probe(fd, 50, 1)?;
        eq!((l.l_start, l.l_len), (0, 100));
        Ok(())
    })?
    .ok()
}

fn posix_locks_are_dropped_by_any_close() -> R {
    let (a, b) = (file()?, file()?);
    set(a, F_WRLCK, 0, 0)?;
    close(b)?;
    child(|| {
        eq!(probe(a, 0, 0)?.l_type as i32, F_UNLCK);
        Ok(())
    })?
    .ok()
}

fn posix_locks_wait() -> R {
    let fd = file()?;
    set(fd, F_WRLCK, 0, 0)?;
    let waiter = child(|| {
        fcntl(fd, F_SETLKW, &lk(F_RDLCK, 0, 0))?;
        Ok(())
    })?;
    waiter.asleep()?;
    set(fd, F_UNLCK, 0, 0)?;
    waiter.ok()
}

fn posix_lock_deadlock_is_edeadlk() -> R {
    let fd = file()?;
    let (got, go) = (Gate::new()?, Gate::new()?);
    set(fd, F_WRLCK, 0, 1)?;
    let other = child(|| {
        set(fd, F_WRLCK, 1, 1)?;
        got.open()?;
        go.pass()?;
        fcntl(fd, F_SETLKW, &lk(F_WRLCK, 0, 1))?;
        Ok(())
    })?;
    got.pass()?;
    go.open()?;
    other.asleep()?;
    errno_is!(fcntl(fd, F_SETLKW, &lk(F_WRLCK, 1, 1)), EDEADLK);
    set(fd, F_UNLCK, 0, 1)?;
    other.ok()
}

fn lock_modes_want_matching_descriptors() -> R {
    file()?;
    let (r, w) = (open(c"f", O_RDONLY, 0)?, open(c"f", O_WRONLY, 0)?);
    errno_is!(set(r, F_WRLCK, 0, 0), EBADF);
    errno_is!(set(w, F_RDLCK, 0, 0), EBADF);
    set(r, F_RDLCK, 0, 0)?;
    errno_is!(set(r, 99, 0, 0), EINVAL);
    errno_is!(set(r, F_RDLCK, -5, 1), EINVAL);
    errno_is!(fcntl(r, F_SETLK, BAD), EFAULT);
    Ok(())
}

fn locks_from_the_current_offset_and_negative_length() -> R {
    let fd = file()?;
    lseek(fd, 50, SEEK_SET)?;
    let l = flock { l_type: F_WRLCK as i16, l_whence: SEEK_CUR as i16, l_start: 0, l_len: -10, l_pid: 0 };
    fcntl(fd, F_SETLK, &l)?;
    child(|| {
        let l = probe(fd, 0, 0)?;
        eq!((l.l_start, l.l_len), (40, 10));
        Ok(())
    })?
    .ok()
}

fn ofd_locks_belong_to_the_open_file() -> R {
    let (a, b) = (file()?, file()?);
    fcntl(a, F_OFD_SETLK, &lk(F_WRLCK, 0, 10))?;
    errno_is!(fcntl(b, F_OFD_SETLK, &lk(F_WRLCK, 0, 10)), EAGAIN);
    // A forked child shares it, and closing another descriptor keeps it.
    child(|| {
        fcntl(a, F_OFD_SETLK, &lk(F_WRLCK, 0, 20))?;
        Ok(())
    })?
    .ok()?;
    let c = file()?;
    close(c)?;
    let mut l = lk(F_WRLCK, 0, 0);
    fcntl(b, F_OFD_GETLK, &mut l)?;
    eq!((l.l_type as i32, l.l_len, l.l_pid), (F_WRLCK, 20, -1));
    close(a)?;
    fcntl(b, F_OFD_SETLK, &lk(F_WRLCK, 0, 10))?;
    Ok(())
}

fn ofd_locks_want_pid_zero_and_clash_with_posix_locks() -> R {
    let (a, b) = (file()?, file()?);
    let mut l = lk(F_WRLCK, 0, 10);
    l.l_pid = 5;
    errno_is!(fcntl(a, F_OFD_SETLK, &l), EINVAL);
    set(a, F_WRLCK, 0, 10)?;
    errno_is!(fcntl(b, F_OFD_SETLK, &lk(F_WRLCK, 0, 10)), EAGAIN);
    Ok(())
}

fn leases_and_locks_in_proc() -> R {
    let fd = file()?;
    set(fd, F_WRLCK, 3, 4)?;
    let ino = fstat(fd)?.st_ino;
    let locks = text(c"/proc/locks")?;
    let line = locks.lines().find(|l| l.contains(&format!(":{ino} ")) && l.contains("POSIX"));
    let Some(line) = line else { fail!("no line for inode {ino} in {locks:?}") };
    that!(line.ends_with(" 3 6"), "{line}");
    Ok(())
}

cases!("lock":
    flock_excludes_another_open_file, flock_lives_as_long_as_the_open_file, flock_waits_and_is_woken,
    flock_errors, posix_locks_exclude_other_processes_by_range, posix_locks_split_and_merge,
    posix_locks_are_dropped_by_any_close, posix_locks_wait, posix_lock_deadlock_is_edeadlk,
    lock_modes_want_matching_descriptors, locks_from_the_current_offset_and_negative_length,
    ofd_locks_belong_to_the_open_file, ofd_locks_want_pid_zero_and_clash_with_posix_locks,
    leases_and_locks_in_proc,
);
