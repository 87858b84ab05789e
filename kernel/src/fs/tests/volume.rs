use super::*;

fn shared(host: &Arc<MockFs>) {
    host.add_file("/shared/f", 0o644, b"host");
    host.add_dir("/shared/d", 0o755);
    host.add_file("/secret", 0o644, b"secret");
    host.add_symlink("/shared/out", "../secret");
}

#[test]
fn changes_go_both_ways() {
    on_volume(shared, |cx, host| {
        write_file(cx, "/v/f", b"guest");
        assert_eq!(host.content("/shared/f"), b"guest");
        write_file(cx, "/v/d/new", b"new");
        assert_eq!(host.content("/shared/d/new"), b"new");
        assert_eq!(errno(at(cx, "/v/later")), Some(Errno::ENOENT));
        host.add_file("/shared/later", 0o644, b"by the host");
        assert_eq!(read_file(cx, "/v/later"), "by the host");
        host.remove("/shared/later");
        assert_eq!(errno(at(cx, "/v/later")), Some(Errno::ENOENT));
        rename(cx, "/v/d", "/v/e").unwrap();
        assert_eq!(sorted(cx, "/v/e"), ["new"]);
        unlink(cx, "/v/e/new").unwrap();
        rmdir(cx, "/v/e").unwrap();
        assert!(!host.exists("/shared/e"));
        hard_link(cx, "/v/f", "/v/g").unwrap();
        assert_eq!(attr(cx, "/v/g").nlink, 2);
        assert_eq!(errno(rename(cx, "/v/f", "/f")), Some(Errno::EXDEV));
    });
}

#[test]
fn links_out_of_a_volume_stay_in_the_guest() {
    on_volume(shared, |cx, _| {
        assert_eq!(errno(open(cx, "/v/out", OpenFlags::empty())), Some(Errno::ENOENT));
        write_file(cx, "/secret", b"the guest's own");
        assert_eq!(read_file(cx, "/v/out"), "the guest's own");
    });
}

#[test]
fn new_files_get_the_guests_owner_where_the_host_allows() {
    on_volume(shared, |cx, host| {
        ops::chmod(cx, &at(cx, "/v").unwrap(), 0o777).unwrap();
        become_user(cx, 1234);
        write_file(cx, "/v/mine", b"");
        assert_eq!(attr(cx, "/v/mine").uid, 1234);
        host.fail(hal::mock::HostOp::SetAttr, 0, Errno::EPERM);
        write_file(cx, "/v/theirs", b"");
        assert_eq!(attr(cx, "/v/theirs").uid, 0);
    });
}

#[test]
fn bad_volumes_are_named() {
    let machine = MockMachine::builder().build();
    let mut config = testing::config();
    config.volumes.push(VolumeConfig { host: "/missing".into(), guest: "/v".into(), read_only: true });
    let error = testing::run_on(machine, config, |cx| mount_root(cx).unwrap_err());
    let crate::StartError::Setup(text) = error else { panic!("{error:?}") };
    assert!(text.contains("/missing"), "{text}");
}

#[test]
fn a_file_can_be_a_volume() {
    let machine = MockMachine::builder().build();
    machine.mock_fs().add_file("/one", 0o644, b"content");
    let mut config = testing::config();
    config.volumes.push(VolumeConfig { host: "/one".into(), guest: "/etc/x".into(), read_only: true });
    testing::run_on(machine, config, |cx| {
        mount_root(cx).unwrap();
        assert_eq!(read_file(cx, "/etc/x"), "content");
        assert_eq!(errno(open(cx, "/etc/x", RDWR)), Some(Errno::EROFS));
    });
}
