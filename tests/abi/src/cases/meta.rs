//! What files are: stat and statx, modes, owners, times, access checks, extended attributes, statfs.

use crate::kit::prelude::*;
use libc::statx as statx_buf;
use std::ffi::CStr;

fn chmod(path: &CStr, mode: u32) -> Result<i64, E> {
    sc!(SYS_fchmodat, AT_FDCWD, path, mode)
}

fn statx(path: &CStr, flags: i32, mask: u32) -> Result<statx_buf, E> {
    let mut sx = zeroed::<statx_buf>();
    sc!(SYS_statx, AT_FDCWD, path, flags, mask, &mut sx).map(|_| sx)
}

fn utimens(path: &CStr, times: &[timespec; 2], flags: i32) -> Result<i64, E> {
    sc!(SYS_utimensat, AT_FDCWD, path, times, flags)
}

fn tv(sec: i64, nsec: i64) -> timespec {
    timespec { tv_sec: sec, tv_nsec: nsec }
}

/// Runs as an ordinary user, whoever we are.
fn unprivileged(body: impl FnOnce() -> R) -> R {
    child(|| {
        if root() {
            sc!(SYS_fchownat, AT_FDCWD, c".", 12345, 12345, 0)?;
            sc!(SYS_setgroups, 0, 0)?;
            sc!(SYS_setresgid, 12345, 12345, 12345)?;
            sc!(SYS_setresuid, 12345, 12345, 12345)?;
        }
        body()
    })?
    .ok()
}

fn stat_of_a_regular_file() -> R {
    put(c"f", &[1; 5000])?;
    let st = stat(c"f")?;
    eq!(st.st_size, 5000);
    eq!(st.st_mode, S_IFREG | 0o644);
    eq!(st.st_uid as i64, sc!(SYS_geteuid)?);
    eq!(st.st_nlink, 1);
    that!(st.st_blksize >= 512);
    that!(st.st_blocks >= 8, "{} blocks", st.st_blocks);
    that!(st.st_ino != 0);
    Ok(())
}

fn stat_calls_agree() -> R {
    put(c"f", b"abc")?;
    let fd = open(c"f", O_RDONLY, 0)?;
    let mut a = zeroed::<stat>();
    sc!(SYS_stat, c"f", &mut a)?;
    let (b, x) = (fstat(fd)?, statx(c"f", 0, STATX_BASIC_STATS)?);
    eq!((a.st_ino, a.st_dev, a.st_size), (b.st_ino, b.st_dev, b.st_size));
    eq!((x.stx_ino, x.stx_size, x.stx_mode as u32), (a.st_ino, 3, a.st_mode));
    eq!(makedev(x.stx_dev_major, x.stx_dev_minor), a.st_dev);
    eq!((x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec as i64), (a.st_mtime, a.st_mtime_nsec));
    eq!(x.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    Ok(())
}

fn empty_path_means_the_descriptor() -> R {
    put(c"f", b"abc")?;
    let fd = open(c"f", O_RDONLY, 0)?;
    let mut st = zeroed::<stat>();
    sc!(SYS_newfstatat, fd, c"", &mut st, AT_EMPTY_PATH)?;
    eq!(st.st_size, 3);
    errno_is!(sc!(SYS_newfstatat, fd, c"", &mut st, 0), ENOENT);
    let mut sx = zeroed::<statx_buf>();
    sc!(SYS_statx, fd, c"", AT_EMPTY_PATH, STATX_SIZE, &mut sx)?;
    eq!(sx.stx_size, 3);
    sc!(SYS_newfstatat, AT_FDCWD, c"", &mut st, AT_EMPTY_PATH)?;
    eq!(st.st_mode & S_IFMT, S_IFDIR);
    Ok(())
}

fn statx_flags_are_checked() -> R {
    errno_is!(statx(c".", 0x1_0000_0000u64 as i32 | 0x4000_0000, STATX_SIZE), EINVAL);
    errno_is!(statx(c".", 0, 0x8000_0000), EINVAL);
    errno_is!(statx(c".", AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, STATX_SIZE), EINVAL);
    errno_is!(statx(c"none", 0, STATX_SIZE), ENOENT);
    errno_is!(sc!(SYS_statx, AT_FDCWD, c".", 0, STATX_SIZE, BAD), EFAULT);
    Ok(())
}

fn stat_of_pipes_and_anonymous_files() -> R {
    let (r, w) = pipe(0)?;
    eq!(fstat(r)?.st_mode & S_IFMT, S_IFIFO);
    eq!(fstat(r)?.st_ino, fstat(w)?.st_ino);
    let mut sv = [0i32; 2];
    sc!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, &mut sv)?;
    eq!(fstat(sv[0])?.st_mode & S_IFMT, S_IFSOCK);
    that!(fstat(sv[0])?.st_ino != fstat(sv[1])?.st_ino);
    Ok(())
}

fn umask_masks_creation_only() -> R {
    eq!(sc!(SYS_umask, 0o077)?, 0o022);
    open(c"f", O_CREAT | O_WRONLY, 0o666)?;
    eq!(stat(c"f")?.st_mode & 0o7777, 0o600);
    mkdir(c"d", 0o777)?;
    eq!(stat(c"d")?.st_mode & 0o7777, 0o700);
    chmod(c"f", 0o666)?;
    eq!(stat(c"f")?.st_mode & 0o7777, 0o666);
    eq!(sc!(SYS_umask, 0o7777_7777)?, 0o077);
    eq!(sc!(SYS_umask, 0)?, 0o777);
    Ok(())
}

fn chmod_sets_all_twelve_bits() -> R {
    put(c"f", b"")?;
    for mode in [0o000, 0o7777, 0o4755, 0o2755, 0o1600, 0o644] {
        chmod(c"f", mode)?;
        eq!(stat(c"f")?.st_mode, S_IFREG | mode);
    }
    let fd = open(c"f", O_RDONLY, 0)?;
    sc!(SYS_fchmod, fd, 0o600)?;
    eq!(fstat(fd)?.st_mode, S_IFREG | 0o600);
    errno_is!(chmod(c"none", 0o600), ENOENT);
    Ok(())
}

fn chmod_follows_symlinks() -> R {
    put(c"f", b"")?;
    symlink(c"f", c"l")?;
    chmod(c"l", 0o600)?;
    eq!(stat(c"f")?.st_mode & 0o7777, 0o600);
    eq!(lstat(c"l")?.st_mode, S_IFLNK | 0o777);
    Ok(())
}

fn fchmodat2_flags() -> R {
    put(c"f", b"")?;
    let fd = open(c"f", O_PATH, 0)?;
    match sc!(SYS_fchmodat2, fd, c"", 0o611, AT_EMPTY_PATH) {
        Err(E(ENOSYS)) => skip!("no fchmodat2"),
        got => eq!(got?, 0),
    }
    eq!(stat(c"f")?.st_mode & 0o7777, 0o611);
    errno_is!(sc!(SYS_fchmodat2, AT_FDCWD, c"f", 0o600, 0x4000), EINVAL);
    Ok(())
}

fn chown_to_ourselves_and_minus_one() -> R {
    put(c"f", b"")?;
    let (uid, gid) = (sc!(SYS_geteuid)?, sc!(SYS_getegid)?);
    sc!(SYS_fchownat, AT_FDCWD, c"f", uid, gid, 0)?;
    sc!(SYS_fchownat, AT_FDCWD, c"f", -1, -1, 0)?;
    let st = stat(c"f")?;
    eq!((st.st_uid as i64, st.st_gid as i64), (uid, gid));
    if !root() {
        errno_is!(sc!(SYS_chown, c"f", 0, 0), EPERM);
        errno_is!(sc!(SYS_chown, c"f", -1, 0), EPERM);
    }
    Ok(())
}

fn chown_by_root() -> R {
    if !root() {
        skip!("needs root");
    }
    put(c"f", b"")?;
    symlink(c"f", c"l")?;
    sc!(SYS_chown, c"l", 123, 456)?;
    let st = stat(c"f")?;
    eq!((st.st_uid, st.st_gid), (123, 456));
    sc!(SYS_lchown, c"l", 7, -1)?;
    eq!(lstat(c"l")?.st_uid, 7);
    eq!(stat(c"f")?.st_uid, 123);
    let fd = open(c"f", O_RDONLY, 0)?;
    sc!(SYS_fchown, fd, -1, 9)?;
    eq!((fstat(fd)?.st_uid, fstat(fd)?.st_gid), (123, 9));
    Ok(())
}

fn chown_clears_set_id_bits() -> R {
    put(c"f", b"")?;
    chmod(c"f", 0o6755)?;
    let uid = sc!(SYS_geteuid)?;
    sc!(SYS_chown, c"f", uid, -1)?;
    eq!(stat(c"f")?.st_mode & 0o7777, 0o755);
    Ok(())
}

fn writing_clears_set_id_bits_for_ordinary_users() -> R {
    unprivileged(|| {
        put(c"f", b"")?;
        chmod(c"f", 0o6755)?;
        let fd = open(c"f", O_WRONLY, 0)?;
        write(fd, b"x")?;
        eq!(fstat(fd)?.st_mode & 0o7777, 0o755);
        Ok(())
    })
}

fn setgid_directories_pass_their_group_on() -> R {
    if !root() {
        skip!("needs root");
    }
    mkdir(c"d", 0o755)?;
    sc!(SYS_chown, c"d", -1, 4321)?;
    chmod(c"d", 0o2755)?;
    put(c"d/f", b"")?;
    mkdir(c"d/e", 0o755)?;
    eq!(stat(c"d/f")?.st_gid, 4321);
    eq!((stat(c"d/e")?.st_gid, stat(c"d/e")?.st_mode & 0o7777), (4321, 0o2755));
    Ok(())
}

fn permission_bits_stop_ordinary_users() -> R {
    unprivileged(|| {
        put(c"f", b"x")?;
        mkdir(c"d", 0o755)?;
        put(c"d/f", b"x")?;
        chmod(c"f", 0o000)?;
        errno_is!(open(c"f", O_RDONLY, 0), EACCES);
        errno_is!(open(c"f", O_WRONLY, 0), EACCES);
        open(c"f", O_PATH, 0)?;
        chmod(c"f", 0o200)?;
        open(c"f", O_WRONLY, 0)?;
        // No search permission; then no write permission on the directory; then no read.
        chmod(c"d", 0o600)?;
        errno_is!(stat(c"d/f"), EACCES);
        chmod(c"d", 0o500)?;
        stat(c"d/f")?;
        errno_is!(unlink(c"d/f"), EACCES);
        errno_is!(open(c"d/g", O_CREAT | O_WRONLY, 0o644), EACCES);
        chmod(c"d", 0o300)?;
        errno_is!(open(c"d", O_RDONLY, 0), EACCES);
        unlink(c"d/f")?;
        chmod(c"d", 0o700)?;
        Ok(())
    })
}

fn only_the_owner_changes_mode_and_times() -> R {
    if !root() {
        errno_is!(chmod(c"/", 0o777), EPERM);
        errno_is!(utimens(c"/", &[tv(1, 0), tv(1, 0)], 0), EPERM);
        return Ok(());
    }
    put(c"f", b"")?;
    chmod(c".", 0o777)?;
    unprivileged(|| {
        errno_is!(chmod(c"f", 0o777), EPERM);
        errno_is!(utimens(c"f", &[tv(1, 0), tv(1, 0)], 0), EPERM);
        errno_is!(utimens(c"f", &[tv(0, UTIME_NOW), tv(0, UTIME_NOW)], 0), EACCES);
        Ok(())
    })
}

fn sticky_directories_protect_entries_of_others() -> R {
    if !root() {
        skip!("needs root");
    }
    put(c"f", b"")?;
    mkdir(c"s", 0o755)?;
    put(c"s/f", b"")?;
    chmod(c"s", 0o1777)?;
    unprivileged(|| {
        errno_is!(unlink(c"s/f"), EPERM);
        errno_is!(sc!(SYS_rename, c"s/f", c"s/g"), EPERM);
        put(c"s/mine", b"")?;
        unlink(c"s/mine")?;
        Ok(())
    })
}

fn access_checks_the_real_user() -> R {
    put(c"f", b"")?;
    chmod(c"f", 0o600)?;
    sc!(SYS_access, c"f", F_OK)?;
    sc!(SYS_access, c"f", R_OK | W_OK)?;
    errno_is!(sc!(SYS_access, c"f", X_OK), EACCES);
    errno_is!(sc!(SYS_access, c"none", F_OK), ENOENT);
    errno_is!(sc!(SYS_access, c"f", 8), EINVAL);
    chmod(c"f", 0o100)?;
    sc!(SYS_access, c"f", X_OK)?;
    if root() {
        sc!(SYS_access, c"f", R_OK)?;
    } else {
        errno_is!(sc!(SYS_access, c"f", R_OK), EACCES);
    }
    Ok(())
}

fn faccessat2_flags() -> R {
    put(c"f", b"")?;
    symlink(c"none", c"l")?;
    errno_is!(sc!(SYS_faccessat2, AT_FDCWD, c"l", F_OK, 0), ENOENT);
    sc!(SYS_faccessat2, AT_FDCWD, c"l", F_OK, AT_SYMLINK_NOFOLLOW)?;
    sc!(SYS_faccessat2, AT_FDCWD, c"f", R_OK, AT_EACCESS)?;
    errno_is!(sc!(SYS_faccessat2, AT_FDCWD, c"f", R_OK, 0x8000), EINVAL);
    let fd = open(c"f", O_RDONLY, 0)?;
    sc!(SYS_faccessat2, fd, c"", R_OK, AT_EMPTY_PATH)?;
    Ok(())
}

fn access_uses_real_ids_not_effective_ones() -> R {
    if !root() {
        skip!("needs root");
    }
    put(c"f", b"")?;
    chmod(c"f", 0o600)?;
    child(|| {
        sc!(SYS_setresuid, 12345, 0, 0)?;
        errno_is!(sc!(SYS_access, c"f", R_OK), EACCES);
        sc!(SYS_faccessat2, AT_FDCWD, c"f", R_OK, AT_EACCESS)?;
        Ok(())
    })?
    .ok()
}

fn utimensat_sets_exact_times() -> R {
    put(c"f", b"")?;
    utimens(c"f", &[tv(1_000_000_000, 123_456_789), tv(5, 1)], 0)?;
    let st = stat(c"f")?;
    eq!((st.st_atime, st.st_atime_nsec), (1_000_000_000, 123_456_789));
    eq!((st.st_mtime, st.st_mtime_nsec), (5, 1));
    utimens(c"f", &[tv(0, UTIME_OMIT), tv(0, UTIME_NOW)], 0)?;
    let st = stat(c"f")?;
    eq!(st.st_atime, 1_000_000_000);
    that!(st.st_mtime > 1_000_000_000);
    errno_is!(utimens(c"f", &[tv(0, 1_000_000_000), tv(0, 0)], 0), EINVAL);
    errno_is!(utimens(c"none", &[tv(0, 0), tv(0, 0)], 0), ENOENT);
    Ok(())
}

fn utimensat_on_links_and_descriptors() -> R {
    put(c"f", b"")?;
    symlink(c"f", c"l")?;
    utimens(c"l", &[tv(7, 0), tv(8, 0)], AT_SYMLINK_NOFOLLOW)?;
    eq!(lstat(c"l")?.st_mtime, 8);
    that!(stat(c"f")?.st_mtime > 8);
    let fd = open(c"f", O_RDONLY, 0)?;
    sc!(SYS_utimensat, fd, 0, &[tv(1, 0), tv(2, 0)], 0)?;
    eq!(stat(c"f")?.st_mtime, 2);
    sc!(SYS_utimensat, AT_FDCWD, c"f", 0, 0)?;
    that!(stat(c"f")?.st_mtime > 2);
    Ok(())
}

fn old_time_calls() -> R {
    put(c"f", b"")?;
    sc!(SYS_utime, c"f", &utimbuf { actime: 11, modtime: 12 })?;
    eq!((stat(c"f")?.st_atime, stat(c"f")?.st_mtime), (11, 12));
    let t = [timeval { tv_sec: 21, tv_usec: 5 }, timeval { tv_sec: 22, tv_usec: 6 }];
    sc!(SYS_utimes, c"f", &t)?;
    eq!((stat(c"f")?.st_atime, stat(c"f")?.st_mtime, stat(c"f")?.st_mtime_nsec), (21, 22, 6000));
    Ok(())
}

fn writing_moves_mtime_and_ctime() -> R {
    put(c"f", b"")?;
    utimens(c"f", &[tv(1, 0), tv(1, 0)], 0)?;
    let fd = open(c"f", O_WRONLY, 0)?;
    write(fd, b"x")?;
    let st = stat(c"f")?;
    that!(st.st_mtime > 1);
    eq!((st.st_mtime, st.st_mtime_nsec), (st.st_ctime, st.st_ctime_nsec));
    utimens(c"f", &[tv(1, 0), tv(1, 0)], 0)?;
    sc!(SYS_ftruncate, fd, 0)?;
    that!(stat(c"f")?.st_mtime > 1);
    Ok(())
}

fn directory_mtime_moves_with_its_entries() -> R {
    mkdir(c"d", 0o755)?;
    let old = [tv(1, 0), tv(1, 0)];
    utimens(c"d", &old, 0)?;
    put(c"d/f", b"")?;
    that!(stat(c"d")?.st_mtime > 1);
    utimens(c"d", &old, 0)?;
    sc!(SYS_rename, c"d/f", c"d/g")?;
    that!(stat(c"d")?.st_mtime > 1);
    utimens(c"d", &old, 0)?;
    unlink(c"d/g")?;
    that!(stat(c"d")?.st_mtime > 1);
    Ok(())
}

fn xattr_user_attributes() -> R {
    put(c"f", b"")?;
    match sc!(SYS_setxattr, c"f", c"user.one", c"value", 5, 0) {
        Err(E(EOPNOTSUPP)) => skip!("no user attributes on this file system"),
        got => eq!(got?, 0),
    }
    let mut buf = [0u8; 64];
    eq!(sc!(SYS_getxattr, c"f", c"user.one", &mut buf, 64)?, 5);
    eq!(&buf[..5], b"value");
    eq!(sc!(SYS_getxattr, c"f", c"user.one", 0, 0)?, 5);
    errno_is!(sc!(SYS_getxattr, c"f", c"user.one", &mut buf, 4), ERANGE);
    errno_is!(sc!(SYS_getxattr, c"f", c"user.two", &mut buf, 64), ENODATA);
    errno_is!(sc!(SYS_setxattr, c"f", c"user.one", c"v", 1, XATTR_CREATE), EEXIST);
    errno_is!(sc!(SYS_setxattr, c"f", c"user.two", c"v", 1, XATTR_REPLACE), ENODATA);
    let fd = open(c"f", O_RDONLY, 0)?;
    sc!(SYS_fsetxattr, fd, c"user.two", c"", 0, 0)?;
    let n = sc!(SYS_flistxattr, fd, &mut buf, 64)? as usize;
    let mut names: Vec<&[u8]> = buf[..n].split(|b| *b == 0).filter(|n| n.starts_with(b"user.")).collect();
    names.sort();
    eq!(names, [&b"user.one"[..], b"user.two"]);
    sc!(SYS_removexattr, c"f", c"user.one")?;
    errno_is!(sc!(SYS_removexattr, c"f", c"user.one"), ENODATA);
    Ok(())
}

fn xattr_names_are_checked() -> R {
    put(c"f", b"")?;
    errno_is!(sc!(SYS_setxattr, c"f", c"nonsense", c"v", 1, 0), EOPNOTSUPP);
    errno_is!(sc!(SYS_setxattr, c"f", c"user.a", c"v", 1, 99), EINVAL);
    errno_is!(sc!(SYS_setxattr, c"f", c"", c"v", 1, 0), ERANGE);
    errno_is!(sc!(SYS_getxattr, c"none", c"user.a", 0, 0), ENOENT);
    symlink(c"f", c"l")?;
    errno_is!(sc!(SYS_lsetxattr, c"l", c"user.a", c"v", 1, 0), EPERM | EOPNOTSUPP);
    if !root() {
        errno_is!(sc!(SYS_setxattr, c"f", c"trusted.a", c"v", 1, 0), EPERM);
    }
    Ok(())
}

fn statfs_describes_the_file_system() -> R {
    put(c"f", b"")?;
    let mut a = zeroed::<statfs>();
    sc!(SYS_statfs, c"f", &mut a)?;
    that!(a.f_bsize > 0 && a.f_blocks > 0 && a.f_bfree <= a.f_blocks && a.f_bavail <= a.f_bfree);
    that!(a.f_namelen >= 255);
    let fd = open(c"f", O_RDONLY, 0)?;
    let mut b = zeroed::<statfs>();
    sc!(SYS_fstatfs, fd, &mut b)?;
    eq!(a.f_type, b.f_type);
    sc!(SYS_statfs, c"/proc", &mut a)?;
    eq!(a.f_type, PROC_SUPER_MAGIC);
    sc!(SYS_statfs, c"/dev/shm", &mut a)?;
    eq!(a.f_type, TMPFS_MAGIC);
    errno_is!(sc!(SYS_statfs, c"none", &mut a), ENOENT);
    errno_is!(sc!(SYS_statfs, c"f", BAD), EFAULT);
    Ok(())
}

fn inode_numbers_are_stable_and_distinct() -> R {
    put(c"a", b"")?;
    put(c"b", b"")?;
    let ino = stat(c"a")?.st_ino;
    that!(ino != stat(c"b")?.st_ino);
    sc!(SYS_rename, c"a", c"c")?;
    eq!(stat(c"c")?.st_ino, ino);
    chmod(c"c", 0o600)?;
    let fd = open(c"c", O_RDWR, 0)?;
    write(fd, b"x")?;
    eq!(stat(c"c")?.st_ino, ino);
    eq!(fstat(fd)?.st_ino, ino);
    Ok(())
}

cases!("meta":
    stat_of_a_regular_file, stat_calls_agree, empty_path_means_the_descriptor, statx_flags_are_checked,
    stat_of_pipes_and_anonymous_files, umask_masks_creation_only, chmod_sets_all_twelve_bits,
    chmod_follows_symlinks, fchmodat2_flags, chown_to_ourselves_and_minus_one, chown_by_root,
    chown_clears_set_id_bits, writing_clears_set_id_bits_for_ordinary_users,
    setgid_directories_pass_their_group_on, permission_bits_stop_ordinary_users,
    only_the_owner_changes_mode_and_times, sticky_directories_protect_entries_of_others,
    access_checks_the_real_user, faccessat2_flags, access_uses_real_ids_not_effective_ones,
    utimensat_sets_exact_times, utimensat_on_links_and_descriptors, old_time_calls,
    writing_moves_mtime_and_ctime, directory_mtime_moves_with_its_entries, xattr_user_attributes,
    xattr_names_are_checked, statfs_describes_the_file_system, inode_numbers_are_stable_and_distinct,
);
