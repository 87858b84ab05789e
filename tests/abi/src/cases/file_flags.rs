//! Open flags, descriptor flags and the descriptor table.

use crate::kit::prelude::*;

fn excl_refuses_what_exists() -> R {
    put(c"f", b"")?;
    errno_is!(open(c"f", O_CREAT | O_EXCL | O_WRONLY, 0o644), EEXIST);
    symlink(c"nowhere", c"l")?;
    errno_is!(open(c"l", O_CREAT | O_EXCL | O_WRONLY, 0o644), EEXIST);
    open(c"new", O_CREAT | O_EXCL | O_WRONLY, 0o644)?;
    Ok(())
}

fn creat_through_a_dangling_symlink_makes_its_target() -> R {
    symlink(c"target", c"l")?;
    open(c"l", O_CREAT | O_WRONLY, 0o644)?;
    eq!(lstat(c"target")?.st_mode & S_IFMT, S_IFREG);
    eq!(lstat(c"l")?.st_mode & S_IFMT, S_IFLNK);
    Ok(())
}

fn access_modes_are_enforced() -> R {
    put(c"f", b"abc")?;
    let r = open(c"f", O_RDONLY, 0)?;
    errno_is!(write(r, b"x"), EBADF);
    let w = open(c"f", O_WRONLY, 0)?;
    errno_is!(read(w, &mut [0]), EBADF);
    // Access mode 3 is for ioctl only: neither reads nor writes.
    let n = open(c"f", O_ACCMODE, 0)?;
    errno_is!(read(n, &mut [0]), EBADF);
    errno_is!(write(n, b"x"), EBADF);
    Ok(())
}

fn trunc_empties() -> R {
    put(c"f", b"abc")?;
    open(c"f", O_WRONLY | O_TRUNC, 0)?;
    eq!(stat(c"f")?.st_size, 0);
    Ok(())
}

fn directory_flag() -> R {
    put(c"f", b"")?;
    errno_is!(open(c"f", O_RDONLY | O_DIRECTORY, 0), ENOTDIR);
    open(c".", O_RDONLY | O_DIRECTORY, 0)?;
    errno_is!(open(c".", O_WRONLY, 0), EISDIR);
    errno_is!(open(c".", O_RDWR, 0), EISDIR);
    errno_is!(open(c".", O_CREAT | O_RDONLY, 0o644), EISDIR);
    errno_is!(open(c"x", O_CREAT | O_DIRECTORY, 0o644), EINVAL);
    Ok(())
}

fn nofollow_refuses_a_last_symlink_only() -> R {
    mkdir(c"d", 0o755)?;
    put(c"d/f", b"x")?;
    symlink(c"d", c"ld")?;
    symlink(c"d/f", c"lf")?;
    errno_is!(open(c"lf", O_RDONLY | O_NOFOLLOW, 0), ELOOP);
    open(c"ld/f", O_RDONLY | O_NOFOLLOW, 0)?;
    errno_is!(open(c"ld", O_RDONLY | O_NOFOLLOW | O_DIRECTORY, 0), ENOTDIR | ELOOP);
    Ok(())
}

fn path_descriptors_do_no_io() -> R {
    put(c"f", b"abc")?;
    let fd = open(c"f", O_PATH, 0)?;
    errno_is!(read(fd, &mut [0]), EBADF);
    errno_is!(write(fd, b"x"), EBADF);
    errno_is!(sc!(SYS_fchmod, fd, 0o600), EBADF);
    errno_is!(ioctl(fd, FIONREAD, &mut 0), EBADF);
    errno_is!(lseek(fd, 0, SEEK_SET), EBADF);
    eq!(fstat(fd)?.st_size, 3);
    eq!(fcntl(fd, F_GETFL, 0)? & O_PATH, O_PATH);
    let path = cstring(format!("/proc/self/fd/{fd}"));
    eq!(drain(open(&path, O_RDONLY, 0)?)?, b"abc");
    Ok(())
}

fn path_descriptor_of_a_symlink() -> R {
    symlink(c"somewhere", c"l")?;
    let fd = open(c"l", O_PATH | O_NOFOLLOW, 0)?;
    eq!(fstat(fd)?.st_mode & S_IFMT, S_IFLNK);
    let mut buf = [0u8; 20];
    eq!(sc!(SYS_readlinkat, fd, c"", &mut buf, 20)?, 9);
    eq!(&buf[..9], b"somewhere");
    Ok(())
}

fn path_descriptor_works_as_a_base() -> R {
    mkdir(c"d", 0o755)?;
    put(c"d/f", b"abc")?;
    let d = open(c"d", O_PATH | O_DIRECTORY, 0)?;
    let fd = sc!(SYS_openat, d, c"f", O_RDONLY, 0)? as i32;
    eq!(drain(fd)?, b"abc");
    sc!(SYS_fchdir, d)?;
    eq!(get(c"f")?, b"abc");
    Ok(())
}

fn tmpfile_has_no_name_until_linked() -> R {
    let fd = match open(c".", O_TMPFILE | O_RDWR, 0o600) {
        Err(E(EOPNOTSUPP)) => skip!("no O_TMPFILE on this file system"),
        fd => fd?,
    };
    write(fd, b"abc")?;
    eq!(fstat(fd)?.st_nlink, 0);
    eq!(std::fs::read_dir(".")?.count(), 0);
    let from = cstring(format!("/proc/self/fd/{fd}"));
    sc!(SYS_linkat, AT_FDCWD, from.as_c_str(), AT_FDCWD, c"named", AT_SYMLINK_FOLLOW)?;
    eq!(get(c"named")?, b"abc");
    eq!(fstat(fd)?.st_nlink, 1);
    Ok(())
}

fn tmpfile_wants_write_access_and_a_directory() -> R {
    put(c"f", b"")?;
    errno_is!(open(c".", O_TMPFILE | O_RDONLY, 0o600), EINVAL);
    errno_is!(open(c"f", O_TMPFILE | O_RDWR, 0o600), ENOTDIR);
    Ok(())
}

fn tmpfile_excl_cannot_be_linked() -> R {
    let fd = match open(c".", O_TMPFILE | O_RDWR | O_EXCL, 0o600) {
        Err(E(EOPNOTSUPP)) => skip!("no O_TMPFILE on this file system"),
        fd => fd?,
    };
    let from = cstring(format!("/proc/self/fd/{fd}"));
    errno_is!(sc!(SYS_linkat, AT_FDCWD, from.as_c_str(), AT_FDCWD, c"named", AT_SYMLINK_FOLLOW), ENOENT);
    Ok(())
}

fn lowest_free_descriptor_is_used() -> R {
    let a = open(c"/dev/null", O_RDONLY, 0)?;
    let b = open(c"/dev/null", O_RDONLY, 0)?;
    eq!(b, a + 1);
    close(a)?;
    eq!(open(c"/dev/null", O_RDONLY, 0)?, a);
    eq!(sc!(SYS_dup, a)? as i32, b + 1);
    Ok(())
}

fn dup2_replaces_and_is_silent_on_itself() -> R {
    put(c"a", b"A")?;
    put(c"b", b"B")?;
    let (a, b) = (open(c"a", O_RDONLY | O_CLOEXEC, 0)?, open(c"b", O_RDONLY, 0)?);
    eq!(sc!(SYS_dup2, a, b)? as i32, b);
    eq!(drain(b)?, b"A");
    eq!(fcntl(b, F_GETFD, 0)?, 0);
    eq!(sc!(SYS_dup2, a, a)? as i32, a);
    eq!(fcntl(a, F_GETFD, 0)?, FD_CLOEXEC);
    errno_is!(sc!(SYS_dup2, 9999, 9999), EBADF);
    errno_is!(sc!(SYS_dup2, a, -1), EBADF);
    errno_is!(sc!(SYS_dup2, a, 1 << 30), EBADF);
    Ok(())
}

fn dup3_flags() -> R {
    let a = open(c"/dev/null", O_RDONLY, 0)?;
    eq!(sc!(SYS_dup3, a, 100, O_CLOEXEC)?, 100);
    eq!(fcntl(100, F_GETFD, 0)?, FD_CLOEXEC);
    errno_is!(sc!(SYS_dup3, a, a, 0), EINVAL);
    errno_is!(sc!(SYS_dup3, a, 101, O_APPEND), EINVAL);
    Ok(())
}

fn fcntl_dupfd_starts_at_a_number() -> R {
    let a = open(c"/dev/null", O_RDONLY, 0)?;
    eq!(fcntl(a, F_DUPFD, 50)?, 50);
    eq!(fcntl(a, F_DUPFD, 50)?, 51);
    eq!(fcntl(a, F_DUPFD_CLOEXEC, 60)?, 60);
    eq!(fcntl(60, F_GETFD, 0)?, FD_CLOEXEC);
    errno_is!(fcntl(a, F_DUPFD, -1), EINVAL);
    errno_is!(fcntl(a, F_DUPFD, 1 << 30), EINVAL);
    Ok(())
}

fn cloexec_is_of_the_descriptor() -> R {
    let a = open(c"/dev/null", O_RDONLY | O_CLOEXEC, 0)?;
    let b = sc!(SYS_dup, a)? as i32;
    eq!((fcntl(a, F_GETFD, 0)?, fcntl(b, F_GETFD, 0)?), (FD_CLOEXEC, 0));
    fcntl(b, F_SETFD, FD_CLOEXEC)?;
    eq!(fcntl(b, F_GETFD, 0)?, FD_CLOEXEC);
    fcntl(b, F_SETFD, 0)?;
    eq!((fcntl(a, F_GETFD, 0)?, fcntl(b, F_GETFD, 0)?), (FD_CLOEXEC, 0));
    ioctl(b, FIOCLEX, 0)?;
    eq!(fcntl(b, F_GETFD, 0)?, FD_CLOEXEC);
    ioctl(b, FIONCLEX, 0)?;
    eq!(fcntl(b, F_GETFD, 0)?, 0);
    Ok(())
}

fn status_flags_are_of_the_open_file() -> R {
    put(c"f", b"")?;
    let a = open(c"f", O_RDWR, 0)?;
    let b = sc!(SYS_dup, a)? as i32;
    fcntl(a, F_SETFL, O_APPEND | O_NONBLOCK)?;
    let flags = fcntl(b, F_GETFL, 0)?;
    eq!(flags & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_RDWR | O_APPEND | O_NONBLOCK);
    // The access mode and the creation flags cannot be changed.
    fcntl(a, F_SETFL, O_RDONLY | O_CREAT | O_EXCL)?;
    eq!(fcntl(b, F_GETFL, 0)? & (O_ACCMODE | O_APPEND | O_CREAT | O_EXCL), O_RDWR);
    Ok(())
}

fn getfl_shows_open_flags_without_creation_flags() -> R {
    let fd = open(c"f", O_CREAT | O_EXCL | O_TRUNC | O_WRONLY | O_APPEND | O_NOCTTY | O_SYNC, 0o644)?;
    let flags = fcntl(fd, F_GETFL, 0)?;
    eq!(flags & !0o100000, O_WRONLY | O_APPEND | O_SYNC);
    Ok(())
}

fn fionbio_sets_nonblock() -> R {
    let (r, _w) = pipe(0)?;
    ioctl(r, FIONBIO, &1i32)?;
    errno_is!(read(r, &mut [0]), EAGAIN);
    ioctl(r, FIONBIO, &0i32)?;
    eq!(fcntl(r, F_GETFL, 0)? & O_NONBLOCK, 0);
    Ok(())
}

fn close_range_closes_or_marks() -> R {
    let a = open(c"/dev/null", O_RDONLY, 0)?;
    for n in [20, 21, 22, 23] {
        sc!(SYS_dup2, a, n)?;
    }
    sc!(SYS_close_range, 20, 21, 0)?;
    errno_is!(fcntl(20, F_GETFD, 0), EBADF);
    errno_is!(fcntl(21, F_GETFD, 0), EBADF);
    eq!(fcntl(22, F_GETFD, 0)?, 0);
    sc!(SYS_close_range, 22, 22, CLOSE_RANGE_CLOEXEC)?;
    eq!((fcntl(22, F_GETFD, 0)?, fcntl(23, F_GETFD, 0)?), (FD_CLOEXEC, 0));
    errno_is!(sc!(SYS_close_range, 5, 4, 0), EINVAL);
    errno_is!(sc!(SYS_close_range, 5, 5, 0x100), EINVAL);
    Ok(())
}

fn nofile_limit_is_emfile() -> R {
    sc!(SYS_prlimit64, 0, RLIMIT_NOFILE, &rlimit { rlim_cur: 10, rlim_max: 100 }, 0)?;
    let mut last = 0;
    loop {
        match open(c"/dev/null", O_RDONLY, 0) {
            Ok(fd) => last = fd,
            Err(E(EMFILE)) => break,
            Err(e) => fail!("{e}"),
        }
    }
    eq!(last, 9);
    errno_is!(pipe(0), EMFILE);
    errno_is!(sc!(SYS_dup, 0), EMFILE);
    errno_is!(sc!(SYS_dup2, 0, 10), EBADF);
    errno_is!(fcntl(0, F_DUPFD, 10), EINVAL);
    errno_is!(fcntl(0, F_DUPFD, 9), EMFILE);
    Ok(())
}

fn closed_descriptors_are_ebadf() -> R {
    let a = open(c"/dev/null", O_RDONLY, 0)?;
    close(a)?;
    errno_is!(close(a), EBADF);
    errno_is!(read(a, &mut [0]), EBADF);
    errno_is!(close(-1), EBADF);
    errno_is!(fstat(a), EBADF);
    Ok(())
}

fn unknown_open_flags_are_ignored_by_openat_and_refused_by_openat2() -> R {
    put(c"f", b"")?;
    let odd = 1 << 30;
    open(c"f", O_RDONLY | odd, 0)?;
    let how = [odd as u64, 0, 0];
    errno_is!(sc!(SYS_openat2, AT_FDCWD, c"f", &how, 24), EINVAL);
    Ok(())
}

fn openat2(path: &std::ffi::CStr, flags: i32, resolve: u64) -> Result<i64, E> {
    sc!(SYS_openat2, AT_FDCWD, path, &[flags as u64, 0, resolve], 24)
}

fn openat2_resolve_no_symlinks() -> R {
    mkdir(c"d", 0o755)?;
    put(c"d/f", b"")?;
    symlink(c"d", c"l")?;
    openat2(c"d/f", O_RDONLY, RESOLVE_NO_SYMLINKS)?;
    errno_is!(openat2(c"l/f", O_RDONLY, RESOLVE_NO_SYMLINKS), ELOOP);
    errno_is!(openat2(c"l", O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS), ELOOP);
    openat2(c"l/f", O_RDONLY, RESOLVE_NO_MAGICLINKS)?;
    errno_is!(openat2(c"/proc/self/cwd/d/f", O_RDONLY, RESOLVE_NO_MAGICLINKS), ELOOP);
    Ok(())
}

fn openat2_resolve_beneath() -> R {
    mkdir(c"d", 0o755)?;
    put(c"f", b"")?;
    put(c"d/g", b"")?;
    symlink(c"/etc", c"abs")?;
    symlink(c"../f", c"d/up")?;
    openat2(c"d/g", O_RDONLY, RESOLVE_BENEATH)?;
    openat2(c"d/../f", O_RDONLY, RESOLVE_BENEATH)?;
    openat2(c"d/up", O_RDONLY, RESOLVE_BENEATH)?;
    errno_is!(openat2(c"..", O_PATH, RESOLVE_BENEATH), EXDEV);
    errno_is!(openat2(c"d/../../x", O_PATH, RESOLVE_BENEATH), EXDEV);
    errno_is!(openat2(c"/etc", O_PATH, RESOLVE_BENEATH), EXDEV);
    errno_is!(openat2(c"abs", O_PATH, RESOLVE_BENEATH), EXDEV);
    Ok(())
}

fn openat2_resolve_in_root() -> R {
    mkdir(c"d", 0o755)?;
    put(c"f", b"in")?;
    symlink(c"/f", c"d/l")?;
    let fd = openat2(c"/d/l", O_RDONLY, RESOLVE_IN_ROOT)? as i32;
    eq!(drain(fd)?, b"in");
    let fd = openat2(c"../../../f", O_RDONLY, RESOLVE_IN_ROOT)? as i32;
    eq!(drain(fd)?, b"in");
    errno_is!(openat2(c"f", O_RDONLY, RESOLVE_IN_ROOT | RESOLVE_BENEATH), EINVAL);
    Ok(())
}

fn openat2_resolve_no_xdev() -> R {
    put(c"f", b"")?;
    openat2(c"f", O_RDONLY, RESOLVE_NO_XDEV)?;
    errno_is!(openat2(c"/proc/self/stat", O_RDONLY, RESOLVE_NO_XDEV), EXDEV);
    Ok(())
}

fn openat2_checks_its_structure() -> R {
    put(c"f", b"")?;
    errno_is!(sc!(SYS_openat2, AT_FDCWD, c"f", &[0u64; 3], 16), EINVAL);
    errno_is!(sc!(SYS_openat2, AT_FDCWD, c"f", &[0u64, 0, 0, 1], 32), E2BIG);
    sc!(SYS_openat2, AT_FDCWD, c"f", &[0u64, 0, 0, 0], 32)?;
    errno_is!(sc!(SYS_openat2, AT_FDCWD, c"f", BAD, 24), EFAULT);
    errno_is!(sc!(SYS_openat2, AT_FDCWD, c"f", &[0u64, 0, 1 << 40], 24), EINVAL);
    errno_is!(sc!(SYS_openat2, AT_FDCWD, c"f", &[0u64, 0o644, 0], 24), EINVAL);
    Ok(())
}

fn opening_a_socket_file_is_enxio() -> R {
    sc!(SYS_mknodat, AT_FDCWD, c"s", S_IFSOCK | 0o600, 0)?;
    errno_is!(open(c"s", O_RDWR, 0), ENXIO);
    open(c"s", O_PATH, 0)?;
    Ok(())
}

fn reopening_through_proc_fd_gives_a_new_offset_and_mode() -> R {
    put(c"f", b"abc")?;
    let fd = open(c"f", O_RDONLY, 0)?;
    read_some(fd, 2)?;
    let again = open(&cstring(format!("/proc/self/fd/{fd}")), O_RDWR, 0)?;
    eq!(drain(again)?, b"abc");
    eq!(write(again, b"d")?, 1);
    Ok(())
}

fn dup_to_a_high_descriptor_and_many_descriptors() -> R {
    let a = open(c"/dev/null", O_RDONLY, 0)?;
    for n in 300..900 {
        eq!(sc!(SYS_dup2, a, n)?, n);
    }
    for n in 300..900 {
        close(n)?;
    }
    eq!(fcntl(a, F_DUPFD, 300)?, 300);
    Ok(())
}

cases!("open":
    excl_refuses_what_exists, creat_through_a_dangling_symlink_makes_its_target, access_modes_are_enforced,
    trunc_empties, directory_flag, nofollow_refuses_a_last_symlink_only, path_descriptors_do_no_io,
    path_descriptor_of_a_symlink, path_descriptor_works_as_a_base, tmpfile_has_no_name_until_linked,
    tmpfile_wants_write_access_and_a_directory, tmpfile_excl_cannot_be_linked,
    lowest_free_descriptor_is_used, dup2_replaces_and_is_silent_on_itself, dup3_flags,
    fcntl_dupfd_starts_at_a_number, cloexec_is_of_the_descriptor, status_flags_are_of_the_open_file,
    getfl_shows_open_flags_without_creation_flags, fionbio_sets_nonblock, close_range_closes_or_marks,
    nofile_limit_is_emfile, closed_descriptors_are_ebadf,
    unknown_open_flags_are_ignored_by_openat_and_refused_by_openat2, openat2_resolve_no_symlinks,
    openat2_resolve_beneath, openat2_resolve_in_root, openat2_resolve_no_xdev, openat2_checks_its_structure,
    opening_a_socket_file_is_enxio, reopening_through_proc_fd_gives_a_new_offset_and_mode,
    dup_to_a_high_descriptor_and_many_descriptors,
);
