//! What stays behind on the host: nothing. These look at the whole machine, so they run alone, after the others.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};
use vk_e2e_tests::{guest, patience, temp};

/// What of the machine could hold something left behind.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    mounts: String,
    shared_memory: BTreeSet<String>,
    descriptors: usize,
    ipc: String,
}

fn held() -> Held {
    let names = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Held {
        mounts: read("/proc/self/mountinfo"),
        shared_memory: names("/dev/shm"),
        descriptors: fs::read_dir("/proc/self/fd").expect("/proc is mounted").count(),
        ipc: read("/proc/sysvipc/shm") + &read("/proc/sysvipc/sem") + &read("/proc/sysvipc/msg"),
    }
}

/// KiB by name, from /proc/meminfo.
fn memory(name: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a known name");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// Our children, and every orphan below us: the tests adopt them.
fn children() -> Vec<String> {
    let mut all = Vec::new();
    for task in fs::read_dir("/proc/self/task").expect("/proc is mounted") {
        let text = fs::read_to_string(task.expect("a task").path().join("children")).unwrap_or_default();
        all.extend(text.split_whitespace().map(str::to_string));
    }
    all
}

/// Reaps what has been adopted and already ended: somebody must, and a dead process is not left behind by
/// vkernel but by the missing init.
fn reap() {
    // SAFETY: waits for any child without blocking; no test waits for a child of its own meanwhile.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

const WORK: &str = "echo $1 > /tmp/vk-left && mkdir /tmp/vk-dir && dd if=/dev/zero of=/dev/shm/vk-big bs=1M count=4 2>/dev/null; sleep 1000 & (setsid sleep 1000 &) ; mkfifo /tmp/vk-fifo; echo done";

fn one(n: u32, dir: &std::path::Path) {
    let out = guest(&["--memory", "128M"])
        .args(["sh", "-c", WORK, "sh", &n.to_string()])
        .env("TMPDIR", dir)
        .dir(dir)
        .run()
        .ok();
    assert_eq!(out.text(), "done\n");
}

#[test]
fn two_hundred_runs_in_a_row_and_twenty_side_by_side() {
    // SAFETY: sets an attribute of this process.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
    let dir = temp();
    // The first run builds or loads what is shared.
    one(0, dir.path());
    let (before, shared, free) = (held(), memory("Shmem:"), memory("MemAvailable:"));
    for n in 0..200 {
        one(n, dir.path());
    }
    std::thread::scope(|scope| {
        for n in 0..20 {
            let dir = dir.path();
            scope.spawn(move || one(n, dir));
        }
    });
    let deadline = Instant::now() + Duration::from_secs(20) * patience();
    loop {
        reap();
        let left = children();
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "processes left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(held(), before);
    assert_eq!(fs::read_dir(dir.path()).expect("our own directory").count(), 0, "files left in TMPDIR");
    assert!(
        !fs::exists("/tmp/vk-left").expect("/tmp is there")
            && !fs::exists("/tmp/vk-dir").expect("/tmp is there")
    );
    // Each run touches more than 8 MB; a leak of a tenth of that would show. The rest of the machine moves, too.
    let tolerance = 128 << 10;
    while memory("Shmem:") > shared + tolerance || memory("MemAvailable:") < free - 2 * tolerance {
        assert!(
            Instant::now() < deadline,
            "memory: Shmem {shared} -> {} KiB, MemAvailable {free} -> {} KiB",
            memory("Shmem:"),
            memory("MemAvailable:")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
