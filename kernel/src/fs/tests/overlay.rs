use super::*;
use crate::fs::Mappable;
use hal::HostFile;
use hal::mock::HostOp;

fn tree(host: &Arc<MockFs>) {
    host.add_file("/etc/conf", 0o644, b"lower");
    host.add_file("/etc/other", 0o600, b"other");
    host.add_dir("/etc/sub", 0o755);
    host.add_file("/etc/sub/deep", 0o644, b"deep");
    host.add_symlink("/link", "etc/conf");
}

#[test]
fn the_lower_layer_shows_through_unchanged() {
    on_overlay(tree, |cx, _| {
        assert_eq!(read_file(cx, "/etc/conf"), "lower");
        assert_eq!(read_file(cx, "/link"), "lower");
        let a = attr(cx, "/etc/conf");
        assert_eq!((a.dev, a.mode, a.size), (abi::fs::DeviceId::new(0, 77), 0o100644, 5));
        assert_eq!(sorted(cx, "/etc"), ["conf", "other", "sub"]);
    });
}

#[test]
fn a_write_copies_up_and_leaves_the_host_alone() {
    on_overlay(tree, |cx, host| {
        let before = attr(cx, "/etc/conf");
        let reader = open(cx, "/etc/conf", OpenFlags::empty()).unwrap();
        assert!(matches!(reader.file.mmap(cx, &reader), Ok(Mappable::Host(_))));
        let writer = open(cx, "/etc/conf", RDWR).unwrap();
        assert!(
            matches!(reader.file.mmap(cx, &reader), Ok(Mappable::Host(_))),
            "an open alone copies nothing"
        );
        put(cx, &writer, b"UP").unwrap();
        assert_eq!(get(cx, &reader), b"UPwer", "who had it open sees the write");
        assert!(matches!(reader.file.mmap(cx, &reader), Ok(Mappable::Cache(_))));
        assert_eq!(read_file(cx, "/link"), "UPwer");
        let after = attr(cx, "/etc/conf");
        assert_eq!((after.dev, after.ino, after.mode), (before.dev, before.ino, before.mode));
        drop((reader, writer));
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(read_file(cx, "/etc/conf"), "UPwer", "a change outlives the cache");
        assert_eq!(attr(cx, "/etc/conf").ino, before.ino);
        assert_eq!(host.content("/etc/conf"), b"lower");
    });
}

#[test]
fn truncation_copies_nothing() {
    on_overlay(tree, |cx, host| {
        host.fail(HostOp::ReadAt, 0, Errno::EIO);
        drop(open(cx, "/etc/conf", OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap());
        assert_eq!(attr(cx, "/etc/conf").size, 0);
        // A copy that fails leaves the file as it was.
        let of = open(cx, "/etc/other", RDWR).unwrap();
        assert_eq!(errno(put(cx, &of, b"x")), Some(Errno::EIO));
        assert_eq!(get(cx, &of), b"other");
        put(cx, &of, b"x").unwrap();
        assert_eq!(get(cx, &of), b"xther");
    });
}

#[test]
fn attributes_change_without_content() {
    on_overlay(tree, |cx, host| {
        ops::chmod(cx, &at(cx, "/etc/conf").unwrap(), 0o400).unwrap();
        ops::chown(cx, &at(cx, "/etc/sub").unwrap(), Some(5), None).unwrap();
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(attr(cx, "/etc/conf").mode & 0o777, 0o400);
        assert_eq!(attr(cx, "/etc/sub").uid, 5);
        let of = open(cx, "/etc/conf", OpenFlags::empty()).unwrap();
        assert!(matches!(of.file.mmap(cx, &of), Ok(Mappable::Host(_))));
        assert!(host.exists("/etc/conf"));
    });
}

#[test]
fn whiteouts() {
    on_overlay(tree, |cx, host| {
        unlink(cx, "/etc/conf").unwrap();
        assert_eq!(errno(at(cx, "/etc/conf")), Some(Errno::ENOENT));
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(errno(at(cx, "/etc/conf")), Some(Errno::ENOENT));
        assert_eq!(sorted(cx, "/etc"), ["other", "sub"]);
        write_file(cx, "/etc/conf", b"again");
        assert_eq!(read_file(cx, "/etc/conf"), "again");
        assert_eq!(sorted(cx, "/etc"), ["conf", "other", "sub"]);
        unlink(cx, "/etc/conf").unwrap();
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(errno(at(cx, "/etc/conf")), Some(Errno::ENOENT), "the whiteout came back");
        assert!(host.exists("/etc/conf"));
    });
}

#[test]
fn a_new_directory_in_the_place_of_a_lower_one_is_empty() {
    on_overlay(tree, |cx, _| {
        assert_eq!(errno(rmdir(cx, "/etc/sub")), Some(Errno::ENOTEMPTY));
        unlink(cx, "/etc/sub/deep").unwrap();
        rmdir(cx, "/etc/sub").unwrap();
        mkdir(cx, "/etc/sub");
        assert!(names(cx, "/etc/sub").is_empty());
        assert_eq!(errno(at(cx, "/etc/sub/deep")), Some(Errno::ENOENT));
    });
}

#[test]
fn directories_move_with_what_is_in_them() {
    on_overlay(tree, |cx, host| {
        let ino = attr(cx, "/etc/sub/deep").ino;
        mkdir(cx, "/new");
        rename(cx, "/etc", "/new/etc").unwrap();
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(errno(at(cx, "/etc")), Some(Errno::ENOENT));
        assert_eq!(read_file(cx, "/new/etc/sub/deep"), "deep");
        assert_eq!(attr(cx, "/new/etc/sub/deep").ino, ino);
        assert_eq!(errno(open(cx, "/link", OpenFlags::empty())), Some(Errno::ENOENT));
        write_file(cx, "/new/etc/sub/deep", b"changed");
        rename(cx, "/new/etc", "/etc").unwrap();
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(read_file(cx, "/etc/sub/deep"), "changed");
        assert_eq!(read_file(cx, "/link"), "lower");
        assert_eq!(host.content("/etc/sub/deep"), b"deep");
        // Over an existing lower file.
        rename(cx, "/etc/other", "/etc/conf").unwrap();
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(read_file(cx, "/etc/conf"), "other");
        assert_eq!(sorted(cx, "/etc"), ["conf", "sub"]);
    });
}

#[test]
fn an_exchange_of_lower_files() {
    on_overlay(tree, |cx, _| {
        ops::rename(cx, Fd::CWD, b"/etc/conf", Fd::CWD, b"/etc/sub/deep", ops::RENAME_EXCHANGE).unwrap();
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(read_file(cx, "/etc/conf"), "deep");
        assert_eq!(read_file(cx, "/etc/sub/deep"), "lower");
        unlink(cx, "/etc/conf").unwrap();
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(errno(at(cx, "/etc/conf")), Some(Errno::ENOENT));
    });
}

#[test]
fn hard_links_stay_one_file() {
    let fill = |host: &Arc<MockFs>| {
        tree(host);
        let node = host.add_file("/one", 0o644, b"same");
        use hal::{HostFs, HostNode};
        host.open_path("/").unwrap().link(b"two", &node as &dyn HostNode).unwrap();
    };
    on_overlay(fill, |cx, host| {
        assert_eq!(attr(cx, "/one").ino, attr(cx, "/two").ino);
        write_file(cx, "/one", b"both");
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(read_file(cx, "/two"), "both", "the lower link leads to the changed file");
        unlink(cx, "/one").unwrap();
        assert_eq!(attr(cx, "/two").nlink, 1);
        hard_link(cx, "/two", "/three").unwrap();
        write_file(cx, "/three", b"all");
        cx.kernel.vfs.dentries.shrink(0);
        assert_eq!(read_file(cx, "/two"), "all");
        assert_eq!(host.content("/one"), b"same");
    });
}

#[test]
fn a_removed_lower_file_stays_readable_while_open() {
    on_overlay(tree, |cx, _| {
        let of = open(cx, "/etc/conf", RDWR).unwrap();
        unlink(cx, "/etc/conf").unwrap();
        assert_eq!(get(cx, &of), b"lower");
        put(cx, &of, b"L").unwrap();
        assert_eq!(get(cx, &of), b"Lower");
        assert_eq!(of.attr().unwrap().nlink, 0);
    });
}

#[test]
fn new_files_share_the_device_of_their_directory_and_no_number() {
    on_overlay(tree, |cx, _| {
        write_file(cx, "/etc/new", b"");
        let (new, dir, old) = (attr(cx, "/etc/new"), attr(cx, "/etc"), attr(cx, "/etc/conf"));
        assert_eq!(new.dev, dir.dev);
        assert!(new.ino != old.ino && new.ino > u64::from(u32::MAX));
    });
}

#[test]
fn descriptors_of_the_host_run_out() {
    on_overlay(tree, |cx, host| {
        host.fail(HostOp::Lookup, 0, Errno::EMFILE);
        assert_eq!(read_file(cx, "/etc/conf"), "lower", "the cache is emptied and the lookup tried again");
        host.fail(HostOp::Open, 0, Errno::EMFILE);
        assert_eq!(read_file(cx, "/etc/other"), "other");
    });
}

#[test]
fn a_file_that_the_host_makes_longer_is_read_whole() {
    on_overlay(tree, |cx, host| {
        let of = open(cx, "/etc/conf", OpenFlags::empty()).unwrap();
        host.file("/etc/conf").write_at(5, &[b'x'; 20_000]).unwrap();
        let mut buf = std::vec![0; 100_000];
        let mut room: &mut [u8] = &mut buf;
        assert_eq!(crate::fs::read(cx, &of, Some(0), &mut room), Ok(20_005));
        assert!(buf.starts_with(b"lowerxxx") && buf.get(20_004..20_006) == Some(b"x\0"));
    });
}

#[test]
fn what_the_host_replaced_is_looked_up_again() {
    on_overlay(tree, |cx, host| {
        let before = attr(cx, "/etc/conf").ino;
        host.remove("/etc/conf");
        host.add_file("/etc/conf", 0o644, b"another");
        assert_eq!(attr(cx, "/etc/conf").ino, before, "names are cached");
        // What a host says of a node that it has only looked at.
        host.fail(HostOp::Open, 0, Errno::ESTALE);
        assert_eq!(read_file(cx, "/etc/conf"), "another");
        assert_ne!(attr(cx, "/etc/conf").ino, before);
        host.fail(HostOp::Lookup, 0, Errno::ESTALE);
        assert_eq!(read_file(cx, "/etc/sub/deep"), "deep", "a directory on the way");
        host.fail(HostOp::ReadLink, 0, Errno::ESTALE);
        assert_eq!(read_file(cx, "/link"), "another");
        host.fail(HostOp::Open, 0, Errno::ESTALE);
        host.fail(HostOp::Open, 0, Errno::ESTALE);
        assert_eq!(errno(open(cx, "/etc/other", OpenFlags::empty())), Some(Errno::ESTALE), "not for ever");
    });
}

#[test]
fn read_only_roots_refuse_everything() {
    let machine = MockMachine::builder().build();
    tree(machine.mock_fs());
    let mut config = testing::config();
    (config.root, config.read_only) = (Some("/".into()), true);
    testing::run_on(machine, config, |cx| {
        mount_root(cx).unwrap();
        assert_eq!(read_file(cx, "/etc/conf"), "lower");
        assert_eq!(errno(open(cx, "/etc/conf", RDWR)), Some(Errno::EROFS));
        assert_eq!(errno(open(cx, "/new", CREATE)), Some(Errno::EROFS));
        assert_eq!(errno(unlink(cx, "/etc/conf")), Some(Errno::EROFS));
        assert_eq!(errno(rename(cx, "/etc", "/x")), Some(Errno::EROFS));
        assert_eq!(errno(ops::chmod(cx, &at(cx, "/etc").unwrap(), 0)), Some(Errno::EROFS));
        write_file(cx, "/dev/shm/x", b"not on the root");
    });
}

#[test]
fn lower_devices_are_not_the_hosts() {
    let fill = |host: &Arc<MockFs>| {
        let device = abi::fs::DeviceId::new(250, 9);
        host.add_special("/odd", abi::fs::FileType::CharDevice, 0o666, device);
        host.add_special("/sock", abi::fs::FileType::Socket, 0o666, Default::default());
    };
    on_overlay(fill, |cx, _| {
        assert_eq!(errno(open(cx, "/odd", RDWR)), Some(Errno::ENXIO));
        assert_eq!(errno(open(cx, "/sock", RDWR)), Some(Errno::ENXIO));
    });
}
