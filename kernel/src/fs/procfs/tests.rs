//! Tests of `/proc` and of generated trees through the VFS.

use crate::error::Result;
use crate::fs::pseudo::Node;
use crate::fs::{AT_FDCWD, OpenFile, OpenFlags, mount_root, open_path, walk};
use crate::task::Cx;
use crate::testing;
use crate::user::{Sink, Source};
use abi::Errno;
use std::string::{String, ToString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::vec::Vec;

fn run<T: Send + 'static>(body: impl FnOnce(&Cx) -> T + Send + 'static) -> T {
    testing::run(|cx| {
        mount_root(cx).expect("a root");
        body(cx)
    })
}

fn open(cx: &Cx, path: &str, flags: OpenFlags) -> Result<Arc<OpenFile>> {
    open_path(cx, AT_FDCWD, path.as_bytes(), flags, 0)
}

fn read_at(cx: &Cx, of: &OpenFile, mut pos: u64, max: usize) -> Result<Vec<u8>> {
    let mut buf = std::vec![0; max];
    let mut rest: &mut [u8] = &mut buf;
    let len = of.file.read(cx, of, &mut pos, &mut rest as &mut dyn Sink)?;
    buf.truncate(len);
    Ok(buf)
}

fn text(cx: &Cx, path: &str) -> Result<String> {
    let of = open(cx, path, OpenFlags::empty())?;
    Ok(String::from_utf8_lossy(&read_at(cx, &of, 0, 1 << 16)?).into_owned())
}

fn store(cx: &Cx, path: &str, mut bytes: &[u8]) -> Result<usize> {
    let of = open(cx, path, OpenFlags::WRONLY | OpenFlags::TRUNC)?;
    of.file.write(cx, &of, &mut 0, &mut bytes as &mut dyn Source)
}

/// Why something does not open.
fn refused(cx: &Cx, path: &str, flags: OpenFlags) -> Errno {
    match open(cx, path, flags) {
        Ok(_) => panic!("{path} opened"),
        Err(e) => e.errno(),
    }
}

fn link(cx: &Cx, path: &str) -> Result<String> {
    let at = walk::resolve(cx, AT_FDCWD, path.as_bytes(), walk::Lookup::NOFOLLOW)?;
    Ok(String::from_utf8_lossy(&at.dentry.inode.read_link(cx)?).into_owned())
}

#[test]
fn stat_has_all_its_fields_whatever_the_name() {
    run(|cx| {
        *cx.task.name.lock() = b"a) b (c".to_vec();
        let stat = text(cx, "/proc/self/stat").unwrap();
        assert!(stat.starts_with("2 (a) b (c) R 1 "), "{stat}");
        let rest = &stat[stat.rfind(')').unwrap() + 2..];
        assert_eq!(rest.trim_end().split(' ').count(), 50);
        assert_eq!(text(cx, "/proc/self/comm").unwrap(), "a) b (c\n");
        store(cx, "/proc/self/comm", b"a name that is too long\n").unwrap();
        assert_eq!(text(cx, "/proc/2/task/2/comm").unwrap(), "a name that is \n");
    });
}

#[test]
fn processes_are_found_by_their_numbers_only() {
    run(|cx| {
        assert_eq!(link(cx, "/proc/self").unwrap(), "2");
        assert_eq!(link(cx, "/proc/thread-self").unwrap(), "2/task/2");
        for path in ["/proc/3", "/proc/02", "/proc/+2", "/proc/-1", "/proc/2x", "/proc/self/task/1"] {
            assert_eq!(refused(cx, path, OpenFlags::empty()), Errno::ENOENT, "{path}");
        }
        assert!(text(cx, "/proc/1/status").unwrap().contains("\nState:\tS (sleeping)\n"));
    });
}

#[test]
fn a_place_in_proc_stays_while_others_look_it_up() {
    run(|cx| {
        walk::change_directory(cx, b"/proc/2/task").unwrap();
        text(cx, "/proc/2/task/2/stat").unwrap();
        let cwd = walk::cwd(cx).unwrap();
        assert!(!cwd.dentry.is_deleted());
        assert_eq!(link(cx, "/proc/self/cwd").unwrap(), "/proc/2/task");
    });
}

#[test]
fn descriptors_are_links_that_can_be_opened_again() {
    run(|cx| {
        let of = open(cx, "/dev/null", OpenFlags::RDWR).unwrap();
        let fd = cx.install(of, false).unwrap();
        let path = std::format!("/proc/self/fd/{}", fd.0);
        assert_eq!(link(cx, &path).unwrap(), "/dev/null");
        assert!(open(cx, &path, OpenFlags::RDWR).is_ok());
        let info = text(cx, &std::format!("/proc/self/fdinfo/{}", fd.0)).unwrap();
        assert!(info.starts_with("pos:\t0\nflags:\t0100002\nmnt_id:\t"), "{info}");
        cx.files().remove(fd).unwrap();
        assert_eq!(refused(cx, &path, OpenFlags::empty()), Errno::ENOENT);
    });
}

#[test]
fn a_text_is_made_anew_at_its_start_and_kept_in_between() {
    run(|cx| {
        let count = Arc::new(AtomicU32::new(0));
        let shown = count.clone();
        let node = Node::text(move |_, out| {
            out.text(&std::format!("text {}", shown.fetch_add(1, Ordering::Relaxed)));
            Ok(())
        });
        cx.kernel.proc.entries().register("driver/made/here", node).unwrap();
        let of = open(cx, "/proc/driver/made/here", OpenFlags::empty()).unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 0, "not before it is read");
        assert_eq!(read_at(cx, &of, 0, 5).unwrap(), b"text ");
        assert_eq!(read_at(cx, &of, 5, 5).unwrap(), b"0");
        assert_eq!(read_at(cx, &of, 0, 99).unwrap(), b"text 1");
        assert_eq!(read_at(cx, &of, 6, 99).unwrap(), b"");
        assert_eq!(
            cx.kernel.proc.entries().register("driver/made", Node::dir()).unwrap_err().errno(),
            Errno::EEXIST
        );
        cx.kernel.proc.entries().unregister("driver/made/here").unwrap();
        assert!(open(cx, "/proc/driver/made/here", OpenFlags::empty()).is_err());
    });
}

#[test]
fn settings_keep_to_their_bounds() {
    run(|cx| {
        let path = "/proc/sys/vm/swappiness";
        assert_eq!(text(cx, path).unwrap(), "60\n");
        store(cx, path, b" 10\n").unwrap();
        assert_eq!(text(cx, path).unwrap(), "10\n");
        assert_eq!(store(cx, path, b"300").unwrap_err().errno(), Errno::EINVAL);
        assert_eq!(store(cx, path, b"ten").unwrap_err().errno(), Errno::EINVAL);
        store(cx, "/proc/sys/kernel/hostname", b"other\n").unwrap();
        assert_eq!(cx.kernel.names.lock().0, "other");
        let id = text(cx, "/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(id, text(cx, "/proc/sys/kernel/random/boot_id").unwrap());
        assert_ne!(id, text(cx, "/proc/sys/kernel/random/uuid").unwrap());
    });
}

#[test]
fn the_score_of_the_oom_killer_has_its_rules() {
    run(|cx| {
        let path = "/proc/self/oom_score_adj";
        store(cx, path, b"-500").unwrap();
        assert_eq!(text(cx, path).unwrap(), "-500\n");
        assert_eq!(store(cx, path, b"1001").unwrap_err().errno(), Errno::EINVAL);
    });
}

#[test]
fn mounts_are_listed_where_they_are() {
    run(|cx| {
        let mounts = text(cx, "/proc/mounts").unwrap();
        let points: Vec<String> =
            mounts.lines().map(|line| line.split(' ').nth(1).unwrap_or_default().to_string()).collect();
        for point in ["/", "/dev", "/dev/pts", "/dev/shm", "/proc", "/sys"] {
            assert!(points.iter().any(|p| p == point), "{point} in {mounts}");
        }
        let info = text(cx, "/proc/self/mountinfo").unwrap();
        assert!(info.lines().all(|line| line.contains(" / ") && line.contains(" - ")), "{info}");
    });
}

#[test]
fn what_nobody_may_write_says_so() {
    run(|cx| {
        // Root's capabilities get past the permission bits, so it is the file that refuses.
        assert_eq!(store(cx, "/proc/uptime", b"1").unwrap_err().errno(), Errno::EIO);
        assert_eq!(store(cx, "/proc/self/stat", b"1").unwrap_err().errno(), Errno::EINVAL);
        assert_eq!(store(cx, "/proc/self/loginuid", b"1").unwrap_err().errno(), Errno::EPERM);
        assert_eq!(refused(cx, "/proc/new", OpenFlags::CREAT | OpenFlags::WRONLY), Errno::ENOENT);
    });
}

#[test]
fn settings_act_or_refuse() {
    run(|cx| {
        store(cx, "/proc/sys/fs/pipe-max-size", b"5000\n").unwrap();
        assert_eq!(text(cx, "/proc/sys/fs/pipe-max-size").unwrap(), "8192\n");
        let (read, _write) = crate::ipc::pipe_new(cx, OpenFlags::empty());
        const SET_SIZE: u32 = 1031;
        *cx.task.creds.lock() = Arc::new(crate::task::Creds::new(1, 1, Vec::new()));
        let resized = |size| read.file.fcntl(cx, &read, SET_SIZE, size).map_err(|e| e.errno());
        assert_eq!((resized(8192), resized(131_072)), (Ok(8192), Err(Errno::EPERM)));
        *cx.task.creds.lock() = Arc::new(crate::task::Creds::new(0, 0, Vec::new()));

        store(cx, "/proc/sys/vm/max_map_count", b"0").unwrap();
        let request = |len| crate::mm::MapRequest {
            addr: 0,
            len,
            prot: hal::Prot::READ | hal::Prot::WRITE,
            flags: crate::mm::MapFlags::empty(),
            object: None,
            file: None,
            offset: 0,
            name: "",
        };
        let map = |len| cx.mm().map(cx, request(len)).map(|_| ()).map_err(|e| e.errno());
        assert_eq!(map(4096), Err(Errno::ENOMEM));
        store(cx, "/proc/sys/vm/max_map_count", b"65530").unwrap();
        // More than all of RAM.
        assert_eq!((map(4096), map(1 << 30)), (Ok(()), Err(Errno::ENOMEM)));
        store(cx, "/proc/sys/vm/overcommit_memory", b"1").unwrap();
        assert_eq!(map(1 << 30), Ok(()));
        assert_eq!(store(cx, "/proc/sys/vm/overcommit_memory", b"2").unwrap_err().errno(), Errno::EINVAL);

        store(cx, "/proc/sys/kernel/pid_max", b"301").unwrap();
        let pids: Vec<i32> =
            (0..400).filter_map(|_| cx.kernel.pids.allocate(0, 400, &cx.kernel.settings).ok()).collect();
        assert!(pids.iter().all(|pid| *pid <= 301), "{pids:?}");

        let nr = text(cx, "/proc/sys/fs/file-nr").unwrap();
        assert!(nr.split('\t').next().unwrap().parse::<u64>().unwrap() >= 2, "{nr}");
        assert_eq!(store(cx, "/proc/sys/fs/protected_symlinks", b"1").unwrap_err().errno(), Errno::EINVAL);
    });
}
