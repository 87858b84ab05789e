//! Against a real directory: what matters is what the host's kernel does.

use super::*;
use abi::fs::DeviceId;
use abi::time::Timespec;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("vkernel-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        TempDir(path)
    }
    fn node(&self) -> Arc<dyn HostNode> {
        LinuxFs::new().unwrap().open_path(self.0.to_str().unwrap()).unwrap()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn err<T>(result: Result<T, Errno>) -> Option<Errno> {
    result.err()
}

#[test]
fn nothing_leaves_the_directory() {
    let dir = TempDir::new("leave");
    symlink("/etc", dir.0.join("out")).unwrap();
    symlink("/etc/passwd", dir.0.join("file")).unwrap();
    let node = dir.node();
    for bad in [&b".."[..], b".", b"", b"out/passwd", b"/etc", b"a\0b"] {
        assert_eq!(err(node.lookup(bad)), Some(Errno::EINVAL), "{bad:?}");
        assert_eq!(err(node.create(bad, NewNode::File, 0o600)), Some(Errno::EINVAL));
        assert_eq!(err(node.unlink(bad, false)), Some(Errno::EINVAL));
        assert_eq!(err(node.rename(b"file", &*node, bad, 0)), Some(Errno::EINVAL));
        assert_eq!(err(node.link(bad, &*node)), Some(Errno::EINVAL));
    }
    let out = node.lookup(b"out").unwrap();
    assert_eq!(out.attr().unwrap().file_type(), FileType::Symlink);
    assert_eq!(out.read_link().unwrap(), b"/etc");
    assert_eq!(err(out.lookup(b"passwd")), Some(Errno::ENOTDIR));
    assert_eq!(err(out.read_dir()), Some(Errno::ENOTDIR));
    let file = node.lookup(b"file").unwrap();
    assert_eq!(err(file.open(OpenMode::Read)), Some(Errno::ELOOP));
    assert_eq!(err(file.set_attr(&SetAttr { size: Some(0), ..SetAttr::default() })), Some(Errno::EINVAL));
    assert_eq!(
        err(file.set_attr(&SetAttr { mode: Some(0o777), ..SetAttr::default() })),
        Some(Errno::EOPNOTSUPP)
    );
    assert_eq!(err(node.create(b"file", NewNode::File, 0o600)), Some(Errno::EEXIST));
}

#[test]
fn attributes_of_a_symlink_are_its_own() {
    let dir = TempDir::new("symlink");
    fs::write(dir.0.join("target"), "x").unwrap();
    let node = dir.node();
    let link = node.create(b"link", NewNode::Symlink(b"target"), 0).unwrap();
    let target = node.lookup(b"target").unwrap();
    let before = target.attr().unwrap();
    let at = TimeSet::At(Timespec { sec: 1000, nsec: 7 });
    link.set_attr(&SetAttr { atime: Some(at), mtime: Some(at), ..SetAttr::default() }).unwrap();
    assert_eq!(link.attr().unwrap().mtime, Timespec { sec: 1000, nsec: 7 });
    node.link(b"second", &*link).unwrap();
    assert_eq!(node.lookup(b"second").unwrap().attr().unwrap().ino, link.attr().unwrap().ino);
    let a = link.attr().unwrap();
    link.set_attr(&SetAttr { uid: Some(a.uid), gid: Some(a.gid), ..SetAttr::default() }).unwrap();
    assert_eq!(link.get_xattr(b"user.x").err(), Some(Errno::ENODATA));
    assert_eq!(target.attr().unwrap(), before);
}

#[test]
fn files_are_made_read_written_and_removed() {
    let dir = TempDir::new("files");
    let node = dir.node();
    let file = node.create(b"f", NewNode::File, 0o640).unwrap();
    let open = file.open(OpenMode::ReadWrite).unwrap();
    assert_eq!(open.write_at(5, b"hello"), Ok(5));
    let mut buf = [9; 20];
    assert_eq!(open.read_at(0, &mut buf), Ok(10));
    assert_eq!(&buf[..10], b"\0\0\0\0\0hello");
    assert_eq!(open.size(), Ok(10));
    assert_eq!(open.seek_extent(0, true), Ok(10));
    assert_eq!(open.seek_extent(99, false), Err(Errno::ENXIO));
    open.sync(true).unwrap();
    assert_eq!(file.open(OpenMode::Read).unwrap().write_at(0, b"x"), Err(Errno::EBADF));
    file.set_attr(&SetAttr { size: Some(3), mode: Some(0o4711), ..SetAttr::default() }).unwrap();
    let attr = file.attr().unwrap();
    assert_eq!((attr.size, attr.mode), (3, 0o104711));
    assert_eq!(fs::metadata(dir.0.join("f")).unwrap().permissions().mode(), 0o104711);
    node.link(b"g", &*file).unwrap();
    assert_eq!(file.attr().unwrap().nlink, 2);
    node.rename(b"g", &*node, b"h", 0).unwrap();
    assert_eq!(node.rename(b"f", &*node, b"h", 1), Err(Errno::EEXIST));
    let sub = node.create(b"d", NewNode::Directory, 0o3755).unwrap();
    assert_eq!(sub.attr().unwrap().mode, 0o043755);
    node.rename(b"h", &*sub, b"h", 0).unwrap();
    assert_eq!(node.unlink(b"d", true), Err(Errno::ENOTEMPTY));
    assert_eq!(node.unlink(b"d", false), Err(Errno::EISDIR));
    sub.unlink(b"h", false).unwrap();
    node.unlink(b"d", true).unwrap();
    node.unlink(b"f", false).unwrap();
    assert_eq!(file.attr().unwrap().nlink, 0);
    assert_eq!(open.read_at(0, &mut buf), Ok(3), "an open file outlives its name");
    node.create(b"fifo", NewNode::Special(FileType::Fifo, DeviceId::default()), 0o600).unwrap();
    let fifo = node.lookup(b"fifo").unwrap();
    assert_eq!(err(fifo.open(OpenMode::Read)), Some(Errno::ENXIO), "never blocks");
    let names: Vec<_> = node.read_dir().unwrap().into_iter().map(|e| (e.name, e.file_type)).collect();
    assert_eq!(names, [(b"fifo".to_vec(), FileType::Fifo)]);
}

#[test]
fn files_are_read_straight_into_ram() {
    use hal::{PhysAddr, Progress, Ram};
    let dir = TempDir::new("straight");
    fs::write(dir.0.join("f"), b"0123456789").unwrap();
    let file = dir.node().lookup(b"f").unwrap().open(OpenMode::Read).unwrap();
    let ram = crate::ram::LinuxRam::new(1 << 20).unwrap();
    let to = [(PhysAddr(8190), 4), (PhysAddr(100), 3), (PhysAddr(0), 9)];
    let read = |offset, to: &[_]| ram.read_file(&*file, offset, to).map(|Progress { done, .. }| done);
    assert_eq!(read(1, &to[..2]), Ok(7));
    let shown = |at, len| {
        let mut buf = vec![0; len];
        ram.read(PhysAddr(at), &mut buf);
        buf
    };
    assert_eq!((shown(8189, 6), shown(100, 4)), (b"\x001234\0".to_vec(), b"567\0".to_vec()));
    assert_eq!((read(8, &to), shown(8190, 4)), (Ok(2), b"8934".to_vec()), "as far as the file goes");
    assert_eq!(read(10, &to), Ok(0));
    assert_eq!(read(u64::MAX, &to), Err(Errno::EINVAL));
    let one = [(PhysAddr(0), 1); 100];
    assert_eq!(read(0, &one), Ok(10));
}

#[test]
fn a_large_directory_is_read_whole() {
    let dir = TempDir::new("large");
    for i in 0..1500 {
        fs::write(dir.0.join(format!("a file with a rather long name, number {i}")), "").unwrap();
    }
    let entries = dir.node().read_dir().unwrap();
    assert_eq!(entries.len(), 1500);
    assert!(entries.iter().all(|e| e.file_type == FileType::Regular && e.ino != 0));
}

#[test]
fn extended_attributes_come_back() {
    let dir = TempDir::new("xattr");
    let node = dir.node();
    let file = node.create(b"f", NewNode::File, 0o600).unwrap();
    match file.set_xattr(b"user.a", &[7; 1000], 0) {
        Err(Errno::EOPNOTSUPP) => return eprintln!("skipped: the file system has no user attributes"),
        result => result.unwrap(),
    }
    assert_eq!(file.get_xattr(b"user.a").unwrap(), [7; 1000]);
    assert_eq!(file.list_xattr().unwrap(), [b"user.a".to_vec()]);
    assert_eq!(file.set_xattr(b"user.a", b"", 1), Err(Errno::EEXIST));
    file.remove_xattr(b"user.a").unwrap();
    assert_eq!(err(file.get_xattr(b"user.a")), Some(Errno::ENODATA));
}

#[test]
fn statfs_and_description() {
    let dir = TempDir::new("statfs");
    let node = dir.node();
    let statfs = node.statfs().unwrap();
    assert!(statfs.bsize > 0 && statfs.namelen > 0 && statfs.fs_type != 0);
    assert_eq!(node.describe(), fs::canonicalize(&dir.0).unwrap().to_str().unwrap());
}

#[test]
fn a_found_node_is_lost_when_the_host_replaces_it() {
    let dir = TempDir::new("found");
    let path = |name: &str| dir.0.join(name);
    let node = dir.node();
    let find = |name: &[u8]| node.clone().find(name).unwrap();
    for name in ["held", "open", "gone", "other", "fifo", "link"] {
        fs::write(path(name), name).unwrap();
    }
    fs::create_dir_all(path("sub/in")).unwrap();
    let ((held, attr), (opened, _), (gone, _), (other, _)) =
        (find(b"held"), find(b"open"), find(b"gone"), find(b"other"));
    let ((fifo, _), (link, _), (sub, _)) = (find(b"fifo"), find(b"link"), find(b"sub"));
    assert_eq!(attr, node.lookup(b"held").unwrap().attr().unwrap());
    assert_eq!(err(node.clone().find(b"none")), Some(Errno::ENOENT));
    assert_eq!(err(held.clone().find(b"x")), Some(Errno::ENOTDIR));
    held.hold().unwrap();
    let (file, _) = opened.open_read().unwrap();
    let (inner, _) = sub.clone().find(b"in").unwrap();
    assert!(inner.read_dir().unwrap().is_empty());
    for name in ["held", "open", "other", "fifo", "link"] {
        fs::write(path("new"), "another").unwrap();
        fs::rename(path("new"), path(name)).unwrap();
    }
    fs::remove_file(path("gone")).unwrap();
    fs::remove_file(path("link")).unwrap();
    symlink("held", path("link")).unwrap();
    fs::remove_file(path("fifo")).unwrap();
    node.create(b"fifo", NewNode::Special(FileType::Fifo, DeviceId::default()), 0o600).unwrap();
    fs::rename(path("sub"), path("moved")).unwrap();
    fs::create_dir(path("sub")).unwrap();

    let mut buf = [0; 8];
    assert_eq!(held.open_read().unwrap().0.read_at(0, &mut buf), Ok(4));
    assert_eq!((&buf[..4], held.attr().unwrap().nlink), (&b"held"[..], 0));
    assert_eq!(file.read_at(0, &mut buf), Ok(4), "what is open stays");
    for (lost, name) in [(&gone, "gone"), (&other, "other"), (&fifo, "fifo"), (&link, "link")] {
        assert_eq!(err(lost.open_read()), Some(Errno::ESTALE), "{name}");
        assert_eq!(err(lost.attr()), Some(Errno::ESTALE), "{name}");
        assert_eq!(lost.hold(), Err(Errno::ESTALE), "{name}");
    }
    assert_eq!(err(sub.lookup(b"in")), None, "it was opened for the look into it");
    assert_eq!(err(inner.open(OpenMode::Read)), Some(Errno::EISDIR));
}

#[test]
fn a_deep_chain_of_found_nodes_is_dropped() {
    let dir = TempDir::new("deep");
    let mut node = dir.node();
    for _ in 0..500 {
        node.create(b"d", NewNode::Directory, 0o755).unwrap();
        node = node.find(b"d").unwrap().0;
    }
    let small = std::thread::Builder::new().stack_size(16 << 10);
    small.spawn(move || drop(node)).unwrap().join().unwrap();
    let clean = || std::process::Command::new("rm").arg("-rf").arg(&dir.0).status();
    assert!(clean().unwrap().success());
}
