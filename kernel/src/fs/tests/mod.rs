//! Tests of the VFS and its file systems on the mock machine.

mod ahead;
mod lend;
mod listing;
mod overlay;
mod tmpfs;
mod transfer;
mod view;
mod volume;
mod walk;

use super::{Fd, OpenFile, OpenFlags, Path, mount_root, ops, walk as path_walk};
use crate::VolumeConfig;
use crate::error::Result;
use crate::task::{Creds, Cx};
use crate::testing;
use abi::Errno;
use abi::fs::Attr;
use hal::mock::{MockFs, MockMachine};
use path_walk::Lookup;
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

const RDWR: OpenFlags = OpenFlags::RDWR;
const CREATE: OpenFlags = OpenFlags::RDWR.union(OpenFlags::CREAT);

/// Runs on an empty root in memory.
fn on_tmpfs<T: Send + 'static>(body: impl FnOnce(&Cx) -> T + Send + 'static) -> T {
    testing::run(|cx| {
        mount_root(cx).expect("a root");
        body(cx)
    })
}

/// Runs on an overlay of a host directory that `fill` fills; the host's files are handed on to look at.
fn on_overlay<T: Send + 'static>(
    fill: impl FnOnce(&Arc<MockFs>),
    body: impl FnOnce(&Cx, &Arc<MockFs>) -> T + Send + 'static,
) -> T {
    let machine = MockMachine::builder().build();
    fill(machine.mock_fs());
    let host = machine.mock_fs().clone();
    let mut config = testing::config();
    config.root = Some(String::from("/"));
    testing::run_on(machine, config, move |cx| {
        mount_root(cx).expect("a root");
        body(cx, &host)
    })
}

fn on_volume<T: Send + 'static>(
    fill: impl FnOnce(&Arc<MockFs>),
    body: impl FnOnce(&Cx, &Arc<MockFs>) -> T + Send + 'static,
) -> T {
    let machine = MockMachine::builder().build();
    fill(machine.mock_fs());
    let host = machine.mock_fs().clone();
    let mut config = testing::config();
    config.volumes.push(VolumeConfig { host: "/shared".into(), guest: "/v".into(), read_only: false });
    testing::run_on(machine, config, move |cx| {
        mount_root(cx).expect("a root");
        body(cx, &host)
    })
}

fn at(cx: &Cx, path: &str) -> Result<Path> {
    path_walk::resolve(cx, Fd::CWD, path.as_bytes(), Lookup::empty())
}

fn link_at(cx: &Cx, path: &str) -> Result<Path> {
    path_walk::resolve(cx, Fd::CWD, path.as_bytes(), Lookup::NOFOLLOW)
}

fn attr(cx: &Cx, path: &str) -> Attr {
    link_at(cx, path).and_then(|p| p.dentry.inode.attr()).expect(path)
}

fn open(cx: &Cx, path: &str, flags: OpenFlags) -> Result<Arc<OpenFile>> {
    super::open_path(cx, Fd::CWD, path.as_bytes(), flags, 0o644)
}

fn errno<T>(result: Result<T>) -> Option<Errno> {
    result.err().map(|e| e.errno())
}

fn put(cx: &Cx, of: &Arc<OpenFile>, bytes: &[u8]) -> Result<usize> {
    let mut source = bytes;
    super::write(cx, of, None, &mut source)
}

fn write_file(cx: &Cx, path: &str, bytes: &[u8]) {
    let of = open(cx, path, CREATE | OpenFlags::TRUNC).expect(path);
    assert_eq!(put(cx, &of, bytes).expect(path), bytes.len());
}

fn get(cx: &Cx, of: &Arc<OpenFile>) -> Vec<u8> {
    let mut out = std::vec![0u8; 1 << 16];
    let mut at = 0;
    loop {
        let mut room = &mut out[at..];
        match super::read(cx, of, Some(at as u64), &mut room).expect("a read") {
            0 => break,
            n => at += n,
        }
    }
    out.truncate(at);
    out
}

fn read_file(cx: &Cx, path: &str) -> String {
    let of = open(cx, path, OpenFlags::empty()).expect(path);
    String::from_utf8(get(cx, &of)).expect("text")
}

/// Names in a directory in the order in which it lists them, without `.` and `..`.
fn names(cx: &Cx, path: &str) -> Vec<String> {
    let of = open(cx, path, OpenFlags::DIRECTORY).expect(path);
    let mut names = Vec::new();
    of.file
        .read_dir(cx, &of, 0, &mut |entry| {
            names.push(String::from_utf8(entry.name.to_vec()).expect("text"));
            true
        })
        .expect("a listing");
    names.retain(|n| n != "." && n != "..");
    names
}

fn sorted(cx: &Cx, path: &str) -> Vec<String> {
    let mut names = names(cx, path);
    names.sort();
    names
}

fn mkdir(cx: &Cx, path: &str) {
    ops::mkdir(cx, Fd::CWD, path.as_bytes(), 0o755).expect(path);
}

fn rename(cx: &Cx, old: &str, new: &str) -> Result<()> {
    ops::rename(cx, Fd::CWD, old.as_bytes(), Fd::CWD, new.as_bytes(), 0)
}

fn unlink(cx: &Cx, path: &str) -> Result<()> {
    ops::unlink(cx, Fd::CWD, path.as_bytes())
}

fn rmdir(cx: &Cx, path: &str) -> Result<()> {
    ops::rmdir(cx, Fd::CWD, path.as_bytes())
}

fn hard_link(cx: &Cx, old: &str, new: &str) -> Result<()> {
    ops::link(cx, &link_at(cx, old)?, Fd::CWD, new.as_bytes())
}

fn symlink(cx: &Cx, target: &str, path: &str) {
    ops::symlink(cx, target.as_bytes(), Fd::CWD, path.as_bytes()).expect(path);
}

fn become_user(cx: &Cx, uid: u32) {
    *cx.task.creds.lock() = Arc::new(Creds::new(uid, uid, Vec::new()));
}

fn full_path(cx: &Cx, at: &Path) -> String {
    String::from_utf8(path_walk::path_string(&path_walk::root(cx).expect("a root"), at)).expect("text")
}
