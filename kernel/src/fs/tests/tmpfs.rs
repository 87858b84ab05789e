use super::*;
use crate::fs::{MemFs, MemOptions, MountFlags};
use hal::{SetAttr, TimeSet};

#[test]
fn links_and_times() {
    on_tmpfs(|cx| {
        mkdir(cx, "/d");
        assert_eq!((attr(cx, "/d").nlink, attr(cx, "/d").size), (2, 40));
        mkdir(cx, "/d/e");
        write_file(cx, "/d/f", b"one");
        assert_eq!((attr(cx, "/d").nlink, attr(cx, "/d").size), (3, 80));
        hard_link(cx, "/d/f", "/d/g").unwrap();
        assert_eq!(attr(cx, "/d/f").nlink, 2);
        assert_eq!(attr(cx, "/d/f").ino, attr(cx, "/d/g").ino);
        unlink(cx, "/d/f").unwrap();
        assert_eq!(read_file(cx, "/d/g"), "one");
        assert_eq!(attr(cx, "/d/g").nlink, 1);
        assert_eq!(errno(hard_link(cx, "/d/e", "/x")), Some(Errno::EPERM));
        assert_eq!(errno(rmdir(cx, "/d")), Some(Errno::ENOTEMPTY));
        assert_eq!(errno(rmdir(cx, "/d/g")), Some(Errno::ENOTDIR));
        assert_eq!(errno(unlink(cx, "/d/e")), Some(Errno::EISDIR));
        let before = attr(cx, "/d");
        cx.sleep(Some(cx.now_ns() + 1_000_000_000));
        rmdir(cx, "/d/e").unwrap();
        let after = attr(cx, "/d");
        assert_eq!(after.nlink, 2);
        assert!(after.mtime > before.mtime && after.ctime > before.ctime && after.atime == before.atime);
    });
}

#[test]
fn content() {
    on_tmpfs(|cx| {
        let of = open(cx, "/f", CREATE).unwrap();
        put(cx, &of, b"hello").unwrap();
        let mut source: &[u8] = b"X";
        crate::fs::write(cx, &of, Some(10_000), &mut source).unwrap();
        assert_eq!(of.attr().unwrap().size, 10_001);
        let content = get(cx, &of);
        assert!(content.starts_with(b"hello\0\0") && content.ends_with(b"\0X"));
        ops::ftruncate(cx, &of, 3).unwrap();
        ops::ftruncate(cx, &of, 6).unwrap();
        assert_eq!(get(cx, &of), b"hel\0\0\0");
        let append = open(cx, "/f", RDWR | OpenFlags::APPEND).unwrap();
        put(cx, &append, b"end").unwrap();
        assert_eq!(get(cx, &of), b"hel\0\0\0end");
        assert_eq!(append.pos(), 9);
        drop(open(cx, "/f", OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap());
        assert_eq!(get(cx, &of), b"");
        // Reading needs a descriptor that reads.
        let write_only = open(cx, "/f", OpenFlags::WRONLY).unwrap();
        let mut buf = [0u8; 4];
        let mut sink: &mut [u8] = &mut buf;
        assert_eq!(errno(crate::fs::read(cx, &write_only, None, &mut sink)), Some(Errno::EBADF));
    });
}

#[test]
fn renames() {
    on_tmpfs(|cx| {
        let at_first = attr(cx, "/").nlink;
        mkdir(cx, "/a");
        mkdir(cx, "/a/b");
        mkdir(cx, "/c");
        write_file(cx, "/f", b"f");
        write_file(cx, "/g", b"g");
        rename(cx, "/f", "/g").unwrap();
        assert_eq!(read_file(cx, "/g"), "f");
        assert_eq!(errno(rename(cx, "/a", "/a/b/x")), Some(Errno::EINVAL));
        assert_eq!(errno(rename(cx, "/a/b", "/a")), Some(Errno::ENOTEMPTY));
        assert_eq!(errno(rename(cx, "/a", "/g")), Some(Errno::ENOTDIR));
        assert_eq!(errno(rename(cx, "/g", "/a")), Some(Errno::EISDIR));
        assert_eq!(errno(rename(cx, "/c", "/a")), Some(Errno::ENOTEMPTY));
        rename(cx, "/c", "/a/b").unwrap();
        assert_eq!(attr(cx, "/a").nlink, 3);
        assert_eq!(attr(cx, "/").nlink, at_first + 1, "a, but no longer c");
        let flags = |old: &str, new: &str, flags| {
            ops::rename(cx, Fd::CWD, old.as_bytes(), Fd::CWD, new.as_bytes(), flags)
        };
        assert_eq!(errno(flags("/g", "/a", ops::RENAME_NOREPLACE)), Some(Errno::EEXIST));
        flags("/g", "/a", ops::RENAME_EXCHANGE).unwrap();
        assert_eq!(read_file(cx, "/a"), "f");
        assert_eq!(sorted(cx, "/g"), ["b"]);
        // Two names of one file: nothing happens.
        hard_link(cx, "/a", "/h").unwrap();
        rename(cx, "/a", "/h").unwrap();
        assert_eq!(read_file(cx, "/a"), "f");
        flags("/a", "/z", ops::RENAME_WHITEOUT).unwrap();
        let whiteout = attr(cx, "/a");
        assert_eq!((whiteout.mode & 0o170000, whiteout.rdev.encode()), (0o020000, 0));
    });
}

#[test]
fn a_listing_survives_changes() {
    on_tmpfs(|cx| {
        mkdir(cx, "/d");
        for i in 0..200 {
            write_file(cx, &std::format!("/d/{i}"), b"");
        }
        // Read ten at a time, and remove what was read, as `rm -r` does.
        let of = open(cx, "/d", OpenFlags::DIRECTORY).unwrap();
        let mut seen = 0;
        let mut pos = 0;
        loop {
            let mut batch = Vec::new();
            of.file
                .read_dir(cx, &of, pos, &mut |e| {
                    if batch.len() == 10 {
                        return false;
                    }
                    pos = e.next;
                    batch.push(e.name.to_vec());
                    true
                })
                .unwrap();
            if batch.is_empty() {
                break;
            }
            for name in batch.iter().filter(|n| *n != b"." && *n != b"..") {
                seen += 1;
                unlink(cx, &std::format!("/d/{}", core::str::from_utf8(name).unwrap())).unwrap();
            }
        }
        assert_eq!(seen, 200);
        rmdir(cx, "/d").unwrap();
    });
}

#[test]
fn limits() {
    on_tmpfs(|cx| {
        mkdir(cx, "/m");
        let options = MemOptions { size: 8192, inodes: 3, ..MemOptions::default() };
        let fs = MemFs::tmpfs(cx.kernel, &options);
        let mount =
            cx.kernel.vfs.ns.mount(fs, "none", Some(&at(cx, "/m").unwrap()), MountFlags::empty()).unwrap();
        let of = open(cx, "/m/f", CREATE).unwrap();
        assert_eq!(put(cx, &of, &[1; 10_000]).unwrap(), 8192);
        assert_eq!(errno(put(cx, &of, b"x")), Some(Errno::ENOSPC));
        assert_eq!(mount.fs.statfs().unwrap().bfree, 0);
        ops::ftruncate(cx, &of, 4096).unwrap();
        assert_eq!(mount.fs.statfs().unwrap().bfree, 1);
        of.set_pos(4096);
        assert_eq!(put(cx, &of, b"x").unwrap(), 1);
        write_file(cx, "/m/g", b"");
        assert_eq!(errno(open(cx, "/m/h", CREATE)), Some(Errno::ENOSPC));
        unlink(cx, "/m/g").unwrap();
        cx.kernel.vfs.dentries.shrink(0);
        drop(open(cx, "/m/h", CREATE).unwrap());
        mount.set_flags(MountFlags::RDONLY);
        assert_eq!(errno(open(cx, "/m/f", RDWR)), Some(Errno::EROFS));
        assert_eq!(errno(unlink(cx, "/m/f")), Some(Errno::EROFS));
    });
}

#[test]
fn files_without_names() {
    on_tmpfs(|cx| {
        let flags = RDWR | OpenFlags::TMPFILE_BIT | OpenFlags::DIRECTORY;
        let of = open(cx, "/", flags).unwrap();
        put(cx, &of, b"nameless").unwrap();
        assert_eq!(of.attr().unwrap().nlink, 0);
        ops::link(cx, of.path.as_ref().unwrap(), Fd::CWD, b"/named").unwrap();
        assert_eq!(read_file(cx, "/named"), "nameless");
        assert_eq!(attr(cx, "/named").nlink, 1);
    });
}

#[test]
fn attributes() {
    on_tmpfs(|cx| {
        write_file(cx, "/f", b"x");
        let f = at(cx, "/f").unwrap();
        ops::chmod(cx, &f, 0o6755).unwrap();
        ops::chown(cx, &f, Some(5), Some(6)).unwrap();
        let changed = attr(cx, "/f");
        assert_eq!((changed.uid, changed.gid, changed.mode & 0o7777), (5, 6, 0o755));
        let time = abi::time::Timespec { sec: 12345, nsec: 6789 };
        ops::set_times(cx, &f, Some(TimeSet::At(time)), None).unwrap();
        assert_eq!(attr(cx, "/f").atime, time);
        assert_ne!(attr(cx, "/f").mtime, time);
        become_user(cx, 5);
        ops::chmod(cx, &f, 0o4777).unwrap();
        become_user(cx, 9);
        let of = open(cx, "/f", RDWR).unwrap();
        put(cx, &of, b"y").unwrap();
        assert_eq!(attr(cx, "/f").mode & 0o7777, 0o777, "a write takes set-user-ID away");
        let set = SetAttr { mode: Some(0), ..SetAttr::default() };
        f.dentry.inode.set_attr(cx, &set).unwrap();
        assert_eq!(errno(open(cx, "/f", OpenFlags::empty())), Some(Errno::EACCES));
    });
}

#[test]
fn extended_attributes() {
    use crate::fs::xattr;
    on_tmpfs(|cx| {
        write_file(cx, "/f", b"x");
        symlink(cx, "f", "/l");
        let f = at(cx, "/f").unwrap();
        xattr::set(cx, &f, b"user.a", b"1", 0).unwrap();
        assert_eq!(errno(xattr::set(cx, &f, b"user.a", b"2", 1)), Some(Errno::EEXIST));
        assert_eq!(errno(xattr::set(cx, &f, b"user.b", b"2", 2)), Some(Errno::ENODATA));
        xattr::set(cx, &f, b"trusted.t", b"3", 0).unwrap();
        assert_eq!(xattr::list(cx, &f).unwrap(), b"trusted.t\0user.a\0");
        assert_eq!(errno(xattr::set(cx, &link_at(cx, "/l").unwrap(), b"user.a", b"", 0)), Some(Errno::EPERM));
        assert_eq!(errno(xattr::set(cx, &f, b"odd.a", b"", 0)), Some(Errno::EOPNOTSUPP));
        become_user(cx, 7);
        assert_eq!(xattr::list(cx, &f).unwrap(), b"user.a\0");
        assert_eq!(xattr::get(cx, &f, b"user.a").unwrap(), b"1");
        assert_eq!(errno(xattr::get(cx, &f, b"trusted.t")), Some(Errno::ENODATA));
        assert_eq!(errno(xattr::set(cx, &f, b"user.a", b"", 0)), Some(Errno::EACCES));
    });
}
