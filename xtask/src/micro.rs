//! Small measurements that run natively and as a guest.

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// Prints a line for each row.
pub fn run(ms: u64) {
    let time = Duration::from_millis(ms);
    row("getppid", time, || {
        // SAFETY: no arguments.
        unsafe { libc::syscall(libc::SYS_getppid) };
    });
    let mut zero = open(c"/dev/zero", libc::O_RDONLY);
    row("read 1 byte of /dev/zero", time, || {
        let mut byte = [0u8];
        let _ = black_box(zero.read(&mut byte));
    });
    row("open and close a host file", time, || drop(open(c"/etc/passwd", libc::O_RDONLY)));
    row("stat a host file", time, || {
        let _ = black_box(std::fs::metadata("/etc/passwd"));
    });
    let path = format!("/tmp/vkernel-micro-{}", std::process::id());
    row("create, write 4 KiB, unlink", time, || {
        let _ = std::fs::write(&path, [7u8; 4096]);
        let _ = std::fs::remove_file(&path);
    });
    row("map, touch and unmap 16 KiB", time, map_touch);
    pingpong(time);
    row("thread create and join", time, || {
        let _ = std::thread::spawn(|| ()).join();
    });
    row("fork, exit, wait", time, fork_exit_wait);
    row("spawn /bin/true", time, || {
        let _ = Command::new("/bin/true").status();
    });
}

fn row(name: &str, time: Duration, mut body: impl FnMut()) {
    body();
    let (mut rounds, start) = (0u64, Instant::now());
    while start.elapsed() < time {
        for _ in 0..8 {
            body();
        }
        rounds += 8;
    }
    println!("{name}\t{}", start.elapsed().as_nanos() as u64 / rounds.max(1));
}

fn open(path: &std::ffi::CStr, flags: libc::c_int) -> std::fs::File {
    use std::os::fd::FromRawFd;
    // SAFETY: a C string; the descriptor is new (a failed open makes later reads fail, which only this row shows).
    unsafe { std::fs::File::from_raw_fd(libc::open(path.as_ptr(), flags).max(0)) }
}

fn map_touch() {
    const LEN: usize = 16 << 10;
    // SAFETY: a fresh anonymous mapping that is used within its length and removed.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if at != libc::MAP_FAILED {
            for page in 0..LEN / 4096 {
                at.cast::<u8>().add(page * 4096).write_volatile(1);
            }
            libc::munmap(at, LEN);
        }
    }
}

fn pingpong(time: Duration) {
    let Ok((mut a, mut b)) = UnixStream::pair() else { return };
    let echo = std::thread::spawn(move || {
        let mut byte = [0u8];
        while b.read_exact(&mut byte).is_ok() && b.write_all(&byte).is_ok() {}
    });
    row("socket ping-pong between threads", time, || {
        let mut byte = [1u8];
        let _ = a.write_all(&byte);
        let _ = a.read_exact(&mut byte);
    });
    drop(a);
    let _ = echo.join();
}

fn fork_exit_wait() {
    // SAFETY: the child only exits.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(0),
            pid if pid > 0 => {
                let mut status = 0;
                libc::waitpid(pid, &raw mut status, 0);
            }
            _ => {}
        }
    }
}
