use super::*;

#[test]
fn dots_and_slashes() {
    on_tmpfs(|cx| {
        mkdir(cx, "/a");
        mkdir(cx, "/a/b");
        write_file(cx, "/a/f", b"x");
        for path in ["/a/b", "//a//b/", "/a/./b/.", "/a/b/../b", "/../../a/b", "/a/b/../../a/b/"] {
            assert_eq!(full_path(cx, &at(cx, path).expect(path)), "/a/b", "{path}");
        }
        assert_eq!(full_path(cx, &at(cx, "/..").unwrap()), "/");
        assert_eq!(errno(at(cx, "/a/f/")), Some(Errno::ENOTDIR));
        assert_eq!(errno(at(cx, "/a/f/.")), Some(Errno::ENOTDIR));
        assert_eq!(errno(at(cx, "/a/f/..")), Some(Errno::ENOTDIR));
        assert_eq!(errno(at(cx, "/a/none")), Some(Errno::ENOENT));
        assert_eq!(errno(at(cx, "")), Some(Errno::ENOENT));
        let long = std::format!("/{}", "n".repeat(256));
        assert_eq!(errno(at(cx, &long)), Some(Errno::ENAMETOOLONG));
    });
}

#[test]
fn symbolic_links() {
    on_tmpfs(|cx| {
        mkdir(cx, "/d");
        write_file(cx, "/d/f", b"content");
        symlink(cx, "f", "/d/rel");
        symlink(cx, "/d/f", "/abs");
        symlink(cx, "d", "/dir");
        symlink(cx, "loop2", "/loop1");
        symlink(cx, "loop1", "/loop2");
        symlink(cx, "../d/../dir/rel", "/d/chain");
        for path in ["/d/rel", "/abs", "/dir/rel", "/dir/chain", "/dir/../abs"] {
            assert_eq!(read_file(cx, path), "content", "{path}");
        }
        assert_eq!(errno(at(cx, "/loop1")), Some(Errno::ELOOP));
        assert_eq!(errno(open(cx, "/abs", OpenFlags::NOFOLLOW)), Some(Errno::ELOOP));
        // A slash after a link asks for what it leads to.
        assert_eq!(attr(cx, "/dir").file_type(), abi::fs::FileType::Symlink);
        assert_eq!(attr(cx, "/dir/").file_type(), abi::fs::FileType::Directory);
        // Creation through a dangling link makes its target.
        symlink(cx, "d/new", "/dangling");
        write_file(cx, "/dangling", b"made");
        assert_eq!(read_file(cx, "/d/new"), "made");
        assert_eq!(errno(open(cx, "/dangling", CREATE | OpenFlags::EXCL)), Some(Errno::EEXIST));
    });
}

#[test]
fn forty_links_and_no_more() {
    on_tmpfs(|cx| {
        write_file(cx, "/l0", b"end");
        for i in 1..=41 {
            symlink(cx, &std::format!("l{}", i - 1), &std::format!("/l{i}"));
        }
        assert_eq!(read_file(cx, "/l40"), "end");
        assert_eq!(errno(at(cx, "/l41")), Some(Errno::ELOOP));
    });
}

#[test]
fn restricted_walks() {
    on_tmpfs(|cx| {
        mkdir(cx, "/box");
        mkdir(cx, "/box/in");
        write_file(cx, "/box/f", b"in the box");
        write_file(cx, "/f", b"outside");
        symlink(cx, "/f", "/box/out");
        symlink(cx, "../f", "/box/in/up");
        symlink(cx, "../../f", "/box/in/upup");
        let dir = cx.install(open(cx, "/box", OpenFlags::DIRECTORY).unwrap(), false).unwrap();
        let walk = |path: &str, flags| {
            path_walk::resolve(cx, dir, path.as_bytes(), flags).map(|p| full_path(cx, &p))
        };
        assert_eq!(walk("in/up", Lookup::BENEATH).unwrap(), "/box/f");
        assert_eq!(errno(walk("in/upup", Lookup::BENEATH)), Some(Errno::EXDEV));
        assert_eq!(errno(walk("out", Lookup::BENEATH)), Some(Errno::EXDEV));
        assert_eq!(errno(walk("/f", Lookup::BENEATH)), Some(Errno::EXDEV));
        assert_eq!(errno(walk("..", Lookup::BENEATH)), Some(Errno::EXDEV));
        assert_eq!(walk("out", Lookup::IN_ROOT).unwrap(), "/box/f");
        assert_eq!(walk("in/upup", Lookup::IN_ROOT).unwrap(), "/box/f");
        assert_eq!(walk("/in/../..", Lookup::IN_ROOT).unwrap(), "/box");
        assert_eq!(errno(walk("out", Lookup::NO_SYMLINKS)), Some(Errno::ELOOP));
        assert_eq!(errno(walk("../dev/shm", Lookup::NO_XDEV)), Some(Errno::EXDEV));
    });
}

#[test]
fn mounts_and_their_parents() {
    on_tmpfs(|cx| {
        mkdir(cx, "/m");
        write_file(cx, "/m/hidden", b"x");
        let fs = crate::fs::MemFs::tmpfs(cx.kernel, &crate::fs::MemOptions::default());
        let ns = &cx.kernel.vfs.ns;
        ns.mount(fs, "none", Some(&at(cx, "/m").unwrap()), crate::fs::MountFlags::empty()).unwrap();
        assert_eq!(errno(at(cx, "/m/hidden")), Some(Errno::ENOENT));
        mkdir(cx, "/m/sub");
        assert_eq!(full_path(cx, &at(cx, "/m/sub").unwrap()), "/m/sub");
        assert_eq!(full_path(cx, &at(cx, "/m/..").unwrap()), "/");
        assert_eq!(errno(rmdir(cx, "/m")), Some(Errno::EBUSY));
        assert_eq!(errno(rename(cx, "/m", "/n")), Some(Errno::EBUSY));
        assert_eq!(errno(rename(cx, "/m/sub", "/sub")), Some(Errno::EXDEV));
        ns.bind(&at(cx, "/m/sub").unwrap(), &at(cx, "/dev").unwrap(), Default::default()).unwrap();
        write_file(cx, "/dev/bound", b"seen twice");
        assert_eq!(read_file(cx, "/m/sub/bound"), "seen twice");
        ns.unmount(&at(cx, "/dev").unwrap(), false).unwrap();
        ns.unmount(&at(cx, "/m").unwrap(), false).unwrap();
        assert_eq!(read_file(cx, "/m/hidden"), "x");
    });
}

#[test]
fn permissions() {
    on_tmpfs(|cx| {
        mkdir(cx, "/private");
        write_file(cx, "/private/f", b"x");
        ops::chmod(cx, &at(cx, "/private").unwrap(), 0o700).unwrap();
        ops::mkdir(cx, Fd::CWD, b"/sticky", 0o1777).unwrap();
        ops::chmod(cx, &at(cx, "/sticky").unwrap(), 0o1777).unwrap();
        write_file(cx, "/sticky/roots", b"x");
        mkdir(cx, "/setgid");
        ops::chown(cx, &at(cx, "/setgid").unwrap(), None, Some(77)).unwrap();
        ops::chmod(cx, &at(cx, "/setgid").unwrap(), 0o2777).unwrap();
        become_user(cx, 1000);
        assert_eq!(errno(at(cx, "/private/f")), Some(Errno::EACCES));
        assert_eq!(errno(open(cx, "/new", CREATE)), Some(Errno::EACCES));
        assert_eq!(errno(unlink(cx, "/sticky/roots")), Some(Errno::EPERM));
        write_file(cx, "/sticky/mine", b"x");
        unlink(cx, "/sticky/mine").unwrap();
        mkdir(cx, "/setgid/d");
        let made = attr(cx, "/setgid/d");
        assert_eq!((made.gid, made.mode & 0o7000), (77, 0o2000));
        assert_eq!(errno(ops::chmod(cx, &at(cx, "/sticky").unwrap(), 0o777)), Some(Errno::EPERM));
        assert_eq!(errno(ops::chown(cx, &at(cx, "/setgid/d").unwrap(), Some(0), None)), Some(Errno::EPERM));
    });
}

#[test]
fn removed_names() {
    on_tmpfs(|cx| {
        write_file(cx, "/f", b"still here");
        let of = open(cx, "/f", RDWR).unwrap();
        unlink(cx, "/f").unwrap();
        assert_eq!(get(cx, &of), b"still here");
        assert_eq!(of.attr().unwrap().nlink, 0);
        assert_eq!(full_path(cx, of.path.as_ref().unwrap()), "/f (deleted)");
        mkdir(cx, "/d");
        crate::fs::change_directory(cx, b"/d").unwrap();
        rmdir(cx, "/d").unwrap();
        assert_eq!(errno(open(cx, "x", CREATE)), Some(Errno::ENOENT));
        assert_eq!(full_path(cx, &at(cx, "..").unwrap()), "/");
        // A moved directory's path is its new one.
        mkdir(cx, "/old");
        crate::fs::change_directory(cx, b"/old").unwrap();
        rename(cx, "/old", "/new").unwrap();
        assert_eq!(full_path(cx, &path_walk::cwd(cx).unwrap()), "/new");
    });
}

#[test]
fn a_deep_tree_is_dropped_without_recursion() {
    on_tmpfs(|cx| {
        for _ in 0..3000 {
            mkdir(cx, "d");
            crate::fs::change_directory(cx, b"d").unwrap();
        }
        crate::fs::change_directory(cx, b"/").unwrap();
    });
}

#[test]
fn the_cache_forgets_what_is_not_used() {
    let fill = |host: &Arc<MockFs>| {
        for i in 0..40 {
            host.add_file(&std::format!("/d/f{i}"), 0o644, b"x");
        }
    };
    on_overlay(fill, |cx, host| {
        let look = || (0..40).for_each(|i| drop(at(cx, &std::format!("/d/f{i}")).unwrap()));
        look();
        let before = host.calls();
        look();
        assert_eq!(host.calls(), before, "known names cost no host call");
        assert_eq!(errno(at(cx, "/d/none")), Some(Errno::ENOENT));
        let before = host.calls();
        assert_eq!(errno(at(cx, "/d/none")), Some(Errno::ENOENT));
        assert_eq!(host.calls(), before, "nor do those known not to exist");
        cx.kernel.vfs.dentries.shrink(0);
        let before = host.calls();
        look();
        assert!(host.calls() > before);
    });
}
