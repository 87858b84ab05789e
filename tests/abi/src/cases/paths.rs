//! Path resolution, links, renaming, removing, directories and their listing.

use crate::kit::prelude::*;
use std::ffi::CStr;

fn rename(from: &CStr, to: &CStr, flags: u32) -> Result<i64, E> {
    sc!(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags)
}

fn link(from: &CStr, to: &CStr, flags: i32) -> Result<i64, E> {
    sc!(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, flags)
}

fn rmdir(path: &CStr) -> Result<i64, E> {
    sc!(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR)
}

fn readlink(path: &CStr) -> Result<Vec<u8>, E> {
    let mut buf = vec![0u8; 5000];
    let n = sc!(SYS_readlinkat, AT_FDCWD, path, &mut buf[..], 5000)?;
    buf.truncate(n as usize);
    Ok(buf)
}

/// (name, type) of the entries in what getdents64 gave.
fn entries(buf: &[u8]) -> R<Vec<(String, u8)>> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < buf.len() {
        let len = u16::from_ne_bytes([buf[at + 16], buf[at + 17]]) as usize;
        eq!(len % 8, 0);
        let name: Vec<u8> = buf[at + 19..at + len].iter().copied().take_while(|b| *b != 0).collect();
        all.push((String::from_utf8_lossy(&name).into_owned(), buf[at + 18]));
        at += len;
    }
    Ok(all)
}

/// Every entry of a directory, sorted.
fn list(path: &CStr) -> R<Vec<(String, u8)>> {
    let fd = open(path, O_RDONLY | O_DIRECTORY, 0)?;
    let mut all = Vec::new();
    let mut buf = [0u8; 1024];
    loop {
        let n = sc!(SYS_getdents64, fd, &mut buf, 1024)? as usize;
        if n == 0 {
            break;
        }
        all.extend(entries(&buf[..n])?);
    }
    close(fd)?;
    all.sort();
    Ok(all)
}

fn dots_and_double_slashes() -> R {
    mkdir(c"d", 0o755)?;
    put(c"d/f", b"x")?;
    for p in [c"d//f", c"./d/./f", c"d/../d/f", c"d/.//../d///f"] {
        eq!(get(p)?, b"x");
    }
    eq!(stat(c"/..")?.st_ino, stat(c"/")?.st_ino);
    eq!(stat(c"/../../..")?.st_dev, stat(c"/")?.st_dev);
    Ok(())
}

fn trailing_slash_means_directory() -> R {
    put(c"f", b"")?;
    mkdir(c"d", 0o755)?;
    symlink(c"d", c"l")?;
    errno_is!(stat(c"f/"), ENOTDIR);
    errno_is!(open(c"f/", O_RDONLY, 0), ENOTDIR);
    errno_is!(open(c"new/", O_CREAT | O_WRONLY, 0o644), EISDIR);
    eq!(lstat(c"l/")?.st_mode & S_IFMT, S_IFDIR);
    eq!(lstat(c"l")?.st_mode & S_IFMT, S_IFLNK);
    sc!(SYS_mkdirat, AT_FDCWD, c"e/", 0o755)?;
    errno_is!(unlink(c"f/"), ENOTDIR);
    Ok(())
}

fn missing_parts_are_enoent_and_files_are_enotdir() -> R {
    put(c"f", b"")?;
    errno_is!(stat(c"none/x"), ENOENT);
    errno_is!(stat(c"f/x"), ENOTDIR);
    errno_is!(stat(c"f/.."), ENOTDIR);
    errno_is!(stat(c""), ENOENT);
    errno_is!(open(c"", O_RDONLY, 0), ENOENT);
    errno_is!(mkdir(c"none/d", 0o755), ENOENT);
    Ok(())
}

fn name_length_limits() -> R {
    let longest = cstring("n".repeat(255));
    put(&longest, b"x")?;
    eq!(get(&longest)?, b"x");
    errno_is!(open(&cstring("n".repeat(256)), O_CREAT | O_WRONLY, 0o644), ENAMETOOLONG);
    errno_is!(stat(&cstring("n".repeat(256))), ENAMETOOLONG);
    // A path may have 4095 bytes.
    let long = cstring(format!("{}{}", "./".repeat(1920), "n".repeat(255)));
    eq!(long.as_bytes().len(), 4095);
    eq!(get(&long)?, b"x");
    errno_is!(stat(&cstring(format!("./{}", long.to_string_lossy()))), ENAMETOOLONG);
    Ok(())
}

fn names_are_bytes() -> R {
    let odd = c"\xff\xfe\x01\n \t*";
    put(odd, b"x")?;
    eq!(get(odd)?, b"x");
    eq!(list(c".")?.len(), 3);
    Ok(())
}

fn symlinks_resolve_relative_to_themselves() -> R {
    mkdir(c"d", 0o755)?;
    mkdir(c"d/e", 0o755)?;
    put(c"d/f", b"x")?;
    symlink(c"../f", c"d/e/l")?;
    eq!(get(c"d/e/l")?, b"x");
    eq!(readlink(c"d/e/l")?, b"../f");
    eq!(lstat(c"d/e/l")?.st_size, 4);
    Ok(())
}

fn absolute_symlinks() -> R {
    let here = std::env::current_dir()?;
    put(c"f", b"x")?;
    symlink(&cstring(format!("{}/f", here.display())), c"l")?;
    eq!(get(c"l")?, b"x");
    Ok(())
}

fn symlink_loops_are_eloop() -> R {
    symlink(c"b", c"a")?;
    symlink(c"a", c"b")?;
    symlink(c"self", c"self")?;
    errno_is!(open(c"a", O_RDONLY, 0), ELOOP);
    errno_is!(stat(c"self/x"), ELOOP);
    eq!(lstat(c"self")?.st_mode & S_IFMT, S_IFLNK);
    Ok(())
}

fn forty_symlinks_are_followed_and_forty_one_are_not() -> R {
    put(c"l0", b"x")?;
    for n in 1..=41 {
        symlink(&cstring(format!("l{}", n - 1)), &cstring(format!("l{n}")))?;
    }
    eq!(get(c"l40")?, b"x");
    errno_is!(open(c"l41", O_RDONLY, 0), ELOOP);
    Ok(())
}

fn readlink_truncates_and_checks() -> R {
    symlink(c"abcdef", c"l")?;
    put(c"f", b"")?;
    let mut buf = [b'.'; 4];
    eq!(sc!(SYS_readlink, c"l", &mut buf, 3)?, 3);
    eq!(&buf, b"abc.");
    errno_is!(sc!(SYS_readlink, c"f", &mut buf, 3), EINVAL);
    errno_is!(sc!(SYS_readlink, c"l", &mut buf, 0), EINVAL);
    errno_is!(sc!(SYS_readlink, c"l", BAD, 4), EFAULT);
    Ok(())
}

fn symlink_errors() -> R {
    put(c"f", b"")?;
    errno_is!(symlink(c"x", c"f"), EEXIST);
    errno_is!(symlink(c"", c"l"), ENOENT);
    errno_is!(symlink(&cstring("x".repeat(4096)), c"l"), ENAMETOOLONG);
    Ok(())
}

fn hard_links_share_the_inode() -> R {
    put(c"a", b"x")?;
    link(c"a", c"b", 0)?;
    let (a, b) = (stat(c"a")?, stat(c"b")?);
    eq!((a.st_ino, a.st_dev), (b.st_ino, b.st_dev));
    eq!(b.st_nlink, 2);
    unlink(c"a")?;
    eq!(get(c"b")?, b"x");
    eq!(stat(c"b")?.st_nlink, 1);
    Ok(())
}

fn writes_show_through_every_link() -> R {
    put(c"a", b"x")?;
    link(c"a", c"b", 0)?;
    let fd = open(c"b", O_WRONLY | O_APPEND, 0)?;
    write(fd, b"y")?;
    eq!(get(c"a")?, b"xy");
    Ok(())
}

fn link_errors() -> R {
    put(c"a", b"")?;
    mkdir(c"d", 0o755)?;
    errno_is!(link(c"a", c"a", 0), EEXIST);
    errno_is!(link(c"none", c"b", 0), ENOENT);
    errno_is!(link(c"d", c"e", 0), EPERM);
    errno_is!(link(c"a", c"b", 0x40), EINVAL);
    Ok(())
}

fn link_of_a_symlink_links_the_link_unless_told() -> R {
    put(c"f", b"")?;
    symlink(c"f", c"l")?;
    link(c"l", c"l2", 0)?;
    eq!(lstat(c"l2")?.st_mode & S_IFMT, S_IFLNK);
    link(c"l", c"f2", AT_SYMLINK_FOLLOW)?;
    eq!(lstat(c"f2")?.st_ino, stat(c"f")?.st_ino);
    Ok(())
}

fn unlink_errors() -> R {
    mkdir(c"d", 0o755)?;
    errno_is!(unlink(c"none"), ENOENT);
    errno_is!(unlink(c"d"), EISDIR);
    put(c"f", b"")?;
    errno_is!(rmdir(c"f"), ENOTDIR);
    errno_is!(sc!(SYS_unlinkat, AT_FDCWD, c"f", 0x1000_0000), EINVAL);
    Ok(())
}

fn unlink_of_a_symlink_leaves_the_target() -> R {
    put(c"f", b"")?;
    symlink(c"f", c"l")?;
    unlink(c"l")?;
    stat(c"f")?;
    Ok(())
}

fn rmdir_wants_an_empty_directory() -> R {
    mkdir(c"d", 0o755)?;
    put(c"d/f", b"")?;
    errno_is!(rmdir(c"d"), ENOTEMPTY);
    unlink(c"d/f")?;
    errno_is!(rmdir(c"d/."), EINVAL);
    errno_is!(rmdir(c"d/.."), ENOTEMPTY);
    rmdir(c"d")?;
    errno_is!(rmdir(c"d"), ENOENT);
    errno_is!(rmdir(c"/"), EBUSY | EACCES | EPERM | EROFS);
    Ok(())
}

fn directory_link_counts() -> R {
    mkdir(c"d", 0o755)?;
    eq!(stat(c"d")?.st_nlink, 2);
    mkdir(c"d/e", 0o755)?;
    eq!(stat(c"d")?.st_nlink, 3);
    rmdir(c"d/e")?;
    eq!(stat(c"d")?.st_nlink, 2);
    Ok(())
}

fn a_removed_working_directory_is_empty_for_good() -> R {
    mkdir(c"d", 0o755)?;
    sc!(SYS_chdir, c"d")?;
    rmdir(c"../d")?;
    errno_is!(open(c"f", O_CREAT | O_WRONLY, 0o644), ENOENT);
    errno_is!(sc!(SYS_getcwd, &mut [0u8; 4096], 4096), ENOENT);
    let d = open(c".", O_RDONLY, 0)?;
    errno_is!(sc!(SYS_getdents64, d, &mut [0u8; 512], 512), ENOENT);
    Ok(())
}

fn mkdir_errors_and_mode() -> R {
    mkdir(c"d", 0o1777)?;
    eq!(stat(c"d")?.st_mode & 0o7777, 0o1755);
    errno_is!(mkdir(c"d", 0o755), EEXIST);
    errno_is!(mkdir(c".", 0o755), EEXIST);
    errno_is!(mkdir(c"/", 0o755), EEXIST);
    symlink(c"nowhere", c"l")?;
    errno_is!(mkdir(c"l", 0o755), EEXIST);
    Ok(())
}

fn rename_replaces_a_file_atomically() -> R {
    put(c"a", b"A")?;
    put(c"b", b"B")?;
    let old = open(c"b", O_RDONLY, 0)?;
    rename(c"a", c"b", 0)?;
    eq!(get(c"b")?, b"A");
    eq!(drain(old)?, b"B");
    errno_is!(stat(c"a"), ENOENT);
    Ok(())
}

fn rename_onto_itself_or_its_link_does_nothing() -> R {
    put(c"a", b"A")?;
    link(c"a", c"b", 0)?;
    rename(c"a", c"a", 0)?;
    rename(c"a", c"b", 0)?;
    eq!(stat(c"a")?.st_nlink, 2);
    Ok(())
}

fn rename_of_directories() -> R {
    mkdir(c"a", 0o755)?;
    put(c"a/f", b"x")?;
    mkdir(c"b", 0o755)?;
    rename(c"a", c"b", 0)?;
    eq!(get(c"b/f")?, b"x");
    mkdir(c"c", 0o755)?;
    errno_is!(rename(c"c", c"b", 0), ENOTEMPTY);
    put(c"f", b"")?;
    errno_is!(rename(c"f", c"c", 0), EISDIR);
    errno_is!(rename(c"c", c"f", 0), ENOTDIR);
    errno_is!(rename(c"b", c"b/sub", 0), EINVAL);
    errno_is!(rename(c"none", c"x", 0), ENOENT);
    errno_is!(rename(c"c/.", c"x", 0), EBUSY | EINVAL);
    Ok(())
}

fn rename_moves_dotdot_along() -> R {
    mkdir(c"a", 0o755)?;
    mkdir(c"b", 0o755)?;
    mkdir(c"a/d", 0o755)?;
    let d = open(c"a/d", O_PATH, 0)?;
    rename(c"a/d", c"b/d", 0)?;
    let up = sc!(SYS_openat, d, c"..", O_PATH, 0)? as i32;
    eq!(fstat(up)?.st_ino, stat(c"b")?.st_ino);
    eq!((stat(c"a")?.st_nlink, stat(c"b")?.st_nlink), (2, 3));
    Ok(())
}

fn rename_noreplace() -> R {
    put(c"a", b"A")?;
    put(c"b", b"B")?;
    errno_is!(rename(c"a", c"b", RENAME_NOREPLACE), EEXIST);
    rename(c"a", c"c", RENAME_NOREPLACE)?;
    eq!(get(c"c")?, b"A");
    Ok(())
}

fn rename_exchange() -> R {
    put(c"a", b"A")?;
    mkdir(c"d", 0o755)?;
    rename(c"a", c"d", RENAME_EXCHANGE)?;
    eq!(get(c"d")?, b"A");
    eq!(stat(c"a")?.st_mode & S_IFMT, S_IFDIR);
    errno_is!(rename(c"a", c"none", RENAME_EXCHANGE), ENOENT);
    errno_is!(rename(c"a", c"d", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
    errno_is!(rename(c"a", c"d", 0x80), EINVAL);
    Ok(())
}

fn rename_of_a_symlink_moves_the_link() -> R {
    put(c"f", b"")?;
    symlink(c"f", c"l")?;
    rename(c"l", c"m", 0)?;
    eq!(readlink(c"m")?, b"f");
    stat(c"f")?;
    Ok(())
}

fn rename_across_file_systems_is_exdev() -> R {
    put(c"f", b"")?;
    if stat(c"/dev/shm")?.st_dev == stat(c".")?.st_dev {
        skip!("/dev/shm is not another file system");
    }
    errno_is!(rename(c"f", c"/dev/shm/vkabi-x", 0), EXDEV);
    errno_is!(link(c"f", c"/dev/shm/vkabi-x", 0), EXDEV);
    Ok(())
}

fn at_calls_resolve_from_a_directory_descriptor() -> R {
    mkdir(c"d", 0o755)?;
    let d = open(c"d", O_RDONLY | O_DIRECTORY, 0)?;
    sc!(SYS_mkdirat, d, c"e", 0o755)?;
    let fd = sc!(SYS_openat, d, c"f", O_CREAT | O_WRONLY, 0o644)? as i32;
    sc!(SYS_renameat, d, c"f", d, c"g")?;
    stat(c"d/g")?;
    sc!(SYS_unlinkat, d, c"g", 0)?;
    errno_is!(sc!(SYS_openat, fd, c"x", O_RDONLY, 0), ENOTDIR);
    errno_is!(sc!(SYS_openat, 9999, c"x", O_RDONLY, 0), EBADF);
    // An absolute path ignores the descriptor.
    sc!(SYS_openat, 9999, c"/dev/null", O_RDONLY, 0)?;
    Ok(())
}

fn getcwd_and_chdir() -> R {
    mkdir(c"d", 0o755)?;
    let mut buf = [0u8; 4096];
    let before = sc!(SYS_getcwd, &mut buf, 4096)? as usize;
    sc!(SYS_chdir, c"d")?;
    let n = sc!(SYS_getcwd, &mut buf, 4096)? as usize;
    eq!(n, before + 2);
    eq!(&buf[n - 3..n], b"/d\0");
    errno_is!(sc!(SYS_getcwd, &mut buf, n - 1), ERANGE);
    put(c"f", b"")?;
    errno_is!(sc!(SYS_chdir, c"f"), ENOTDIR);
    errno_is!(sc!(SYS_chdir, c"none"), ENOENT);
    let f = open(c"f", O_RDONLY, 0)?;
    errno_is!(sc!(SYS_fchdir, f), ENOTDIR);
    Ok(())
}

fn getdents_lists_names_and_types() -> R {
    put(c"f", b"")?;
    mkdir(c"d", 0o755)?;
    symlink(c"f", c"l")?;
    mkfifo(c"p")?;
    let all = list(c".")?;
    let names: Vec<&str> = all.iter().map(|e| e.0.as_str()).collect();
    eq!(names, [".", "..", "d", "f", "l", "p"]);
    let types: Vec<u8> = all.iter().map(|e| e.1).collect();
    eq!(types, [DT_DIR, DT_DIR, DT_DIR, DT_REG, DT_LNK, DT_FIFO]);
    Ok(())
}

fn getdents_of_a_large_directory_is_complete_and_rewinds() -> R {
    for n in 0..500 {
        put(&cstring(format!("entry-{n:04}")), b"")?;
    }
    eq!(list(c".")?.len(), 502);
    let fd = open(c".", O_RDONLY, 0)?;
    let mut buf = [0u8; 512];
    let first = sc!(SYS_getdents64, fd, &mut buf, 512)?;
    let copy = buf;
    sc!(SYS_getdents64, fd, &mut buf, 512)?;
    lseek(fd, 0, SEEK_SET)?;
    eq!(sc!(SYS_getdents64, fd, &mut buf, 512)?, first);
    that!(copy[..8] == buf[..8], "the same first entry");
    Ok(())
}

fn getdents_errors() -> R {
    put(c"f", b"")?;
    let f = open(c"f", O_RDONLY, 0)?;
    let mut buf = [0u8; 512];
    errno_is!(sc!(SYS_getdents64, f, &mut buf, 512), ENOTDIR);
    let d = open(c".", O_RDONLY, 0)?;
    errno_is!(sc!(SYS_getdents64, d, &mut buf, 5), EINVAL);
    errno_is!(sc!(SYS_getdents64, d, BAD, 512), EFAULT);
    Ok(())
}

fn removing_entries_while_listing() -> R {
    for n in 0..200 {
        put(&cstring(format!("f{n}")), b"")?;
    }
    // As rm -r: read some, remove them, read on. Repeated, because a directory may list less while it changes.
    let mut rounds = 0;
    while list(c".")?.len() > 2 {
        let d = open(c".", O_RDONLY, 0)?;
        let mut buf = [0u8; 400];
        loop {
            let n = sc!(SYS_getdents64, d, &mut buf, 400)? as usize;
            if n == 0 {
                break;
            }
            for (name, _) in entries(&buf[..n])? {
                if !name.starts_with('.') {
                    unlink(&cstring(name))?;
                }
            }
        }
        close(d)?;
        rounds += 1;
        that!(rounds < 500);
    }
    Ok(())
}

fn mknod_makes_files_and_fifos() -> R {
    sc!(SYS_mknodat, AT_FDCWD, c"f", S_IFREG | 0o640, 0)?;
    eq!(stat(c"f")?.st_mode, S_IFREG | 0o640);
    sc!(SYS_mknod, c"z", 0o600, 0)?;
    eq!(stat(c"z")?.st_mode, S_IFREG | 0o600);
    mkfifo(c"p")?;
    eq!(stat(c"p")?.st_mode, S_IFIFO | 0o600);
    errno_is!(mkfifo(c"p"), EEXIST);
    errno_is!(sc!(SYS_mknodat, AT_FDCWD, c"d", S_IFDIR | 0o755, 0), EPERM);
    if !root() {
        errno_is!(sc!(SYS_mknodat, AT_FDCWD, c"c", S_IFCHR | 0o600, makedev(1, 3)), EPERM);
    }
    Ok(())
}

fn paths_that_are_bad_pointers_are_efault() -> R {
    errno_is!(sc!(SYS_openat, AT_FDCWD, BAD, O_RDONLY, 0), EFAULT);
    errno_is!(sc!(SYS_openat, AT_FDCWD, 0, O_RDONLY, 0), EFAULT);
    errno_is!(sc!(SYS_mkdirat, AT_FDCWD, BAD, 0o755), EFAULT);
    errno_is!(sc!(SYS_renameat, AT_FDCWD, c"x", AT_FDCWD, BAD), EFAULT);
    // A string that runs into a hole.
    let p = rw(8192)?;
    munmap(at(p, 4096), 4096)?;
    poke(at(p, 4095), b'f');
    errno_is!(sc!(SYS_openat, AT_FDCWD, at(p, 4095), O_RDONLY, 0), EFAULT);
    // One that ends just before it.
    put(c"f", b"x")?;
    poke(at(p, 4094), b'f');
    poke(at(p, 4095), 0);
    sc!(SYS_openat, AT_FDCWD, at(p, 4094), O_RDONLY, 0)?;
    Ok(())
}

fn chroot_wants_privilege_and_confines() -> R {
    mkdir(c"d", 0o755)?;
    put(c"d/f", b"in")?;
    if !root() {
        errno_is!(sc!(SYS_chroot, c"d"), EPERM);
        return Ok(());
    }
    child(|| {
        sc!(SYS_chroot, c"d")?;
        sc!(SYS_chdir, c"/")?;
        eq!(get(c"/f")?, b"in");
        eq!(get(c"/../../f")?, b"in");
        errno_is!(stat(c"/etc"), ENOENT);
        Ok(())
    })?
    .ok()
}

cases!("path":
    dots_and_double_slashes, trailing_slash_means_directory, missing_parts_are_enoent_and_files_are_enotdir,
    name_length_limits, names_are_bytes, symlinks_resolve_relative_to_themselves, absolute_symlinks,
    symlink_loops_are_eloop, forty_symlinks_are_followed_and_forty_one_are_not,
    readlink_truncates_and_checks, symlink_errors, hard_links_share_the_inode,
    writes_show_through_every_link, link_errors, link_of_a_symlink_links_the_link_unless_told,
    unlink_errors, unlink_of_a_symlink_leaves_the_target, rmdir_wants_an_empty_directory,
    directory_link_counts, a_removed_working_directory_is_empty_for_good, mkdir_errors_and_mode,
    rename_replaces_a_file_atomically, rename_onto_itself_or_its_link_does_nothing, rename_of_directories,
    rename_moves_dotdot_along, rename_noreplace, rename_exchange, rename_of_a_symlink_moves_the_link,
    rename_across_file_systems_is_exdev, at_calls_resolve_from_a_directory_descriptor, getcwd_and_chdir,
    getdents_lists_names_and_types, getdents_of_a_large_directory_is_complete_and_rewinds, getdents_errors,
    removing_entries_while_listing, mknod_makes_files_and_fifos, paths_that_are_bad_pointers_are_efault,
    chroot_wants_privilege_and_confines,
);
