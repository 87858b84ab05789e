//! Taking all there is: processes, threads, mappings, descriptors, pipes, memory, timers, signals, watches, waiters. Afterwards all of it is there again.

use crate::sys;
use crate::warden::{End, Warden};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(6);
/// More than any limit, and what is enough when there is little time.
const MANY: u64 = 100_000;
const ENOUGH: u64 = 4_000;
/// The time per attack from which on there is much.
const MUCH_MS: u64 = 10_000;

/// Takes all there is of something, or at most so many.
type Take = fn(u64);

/// What can be taken, and how. These attackers have the limits that the kernel begins with.
const KINDS: [(&str, Take); 14] = [
    ("processes", processes),
    ("threads", threads),
    ("mappings", mappings),
    ("scattered pages", scattered),
    ("memory", memory),
    ("shared memory", shared_memory),
    ("files in memory", files),
    ("descriptors", descriptors),
    ("pipes", pipes),
    ("sockets with descriptors in flight", in_flight),
    ("timers", timers),
    ("signals", signals),
    ("watches", watches),
    ("waiters", waiters),
];

fn processes(many: u64) {
    for _ in 0..many {
        match unsafe { libc::fork() } {
            0 => loop {
                unsafe { libc::pause() };
            },
            -1 => break,
            _ => {}
        }
    }
}

extern "C" fn idle(_: *mut libc::c_void) -> i32 {
    loop {
        unsafe { libc::pause() };
    }
}

/// Starts threads until there are so many, or no more can be had.
fn start_threads(many: u64, body: extern "C" fn(*mut libc::c_void) -> i32) {
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    for _ in 0..many {
        let stack = sys::pages(4096, false);
        if unsafe { libc::clone(body, stack.add(4096).cast(), flags, std::ptr::null_mut()) } < 0 {
            break;
        }
    }
}

fn threads(many: u64) {
    start_threads(many, idle);
}

fn map(len: u64, prot: i32) -> i64 {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    sys::call(libc::SYS_mmap, [0, len, prot as u64, flags, u64::MAX, 0])
}

fn mappings(many: u64) {
    // Neighbours with different rights are not joined.
    for i in 0..many {
        let at = map(4096, if i % 2 == 0 { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE });
        if at < 0 {
            break;
        }
        if i % 2 == 1 {
            unsafe { (at as *mut u8).write_volatile(1) };
        }
    }
}

fn scattered(many: u64) {
    // A page here and there: each needs page tables of its own.
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    for i in 0..many.min(6000) {
        let at = (1 << 40) + i * (1 << 31);
        if sys::call(libc::SYS_mmap, [at, 4096, 3, flags, u64::MAX, 0]) < 0 {
            break;
        }
        unsafe { (at as *mut u8).write_volatile(1) };
    }
}

fn memory(many: u64) {
    for _ in 0..many {
        let at = map(1 << 20, libc::PROT_READ | libc::PROT_WRITE);
        if at < 0 {
            break;
        }
        (0..1 << 20).step_by(4096).for_each(|i| unsafe { (at as *mut u8).add(i).write_volatile(1) });
    }
}

fn shared_memory(_many: u64) {
    for _ in 0..200 {
        let id = sys::call(libc::SYS_shmget, [0, 1 << 20, 0o1600, 0, 0, 0]);
        let at = sys::call(libc::SYS_shmat, [id as u64, 0, 0, 0, 0, 0]);
        // It goes away with its last user.
        sys::call(libc::SYS_shmctl, [id as u64, 0, 0, 0, 0, 0]);
        if at < 0 {
            break;
        }
        (0..1 << 20).step_by(4096).for_each(|i| unsafe { (at as *mut u8).add(i).write_volatile(1) });
    }
}

fn files(many: u64) {
    unsafe {
        let block = vec![1u8; 1 << 16];
        for _ in 0..many {
            let fd = libc::memfd_create(c"attack".as_ptr(), 0);
            if fd < 0 || libc::write(fd, block.as_ptr().cast(), block.len()) < 0 {
                break;
            }
        }
    }
}

fn descriptors(_many: u64) {
    while unsafe { libc::dup(0) } >= 0 {}
    // And what hangs on one: records of locks.
    for i in 0..2000 {
        let lock =
            libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: i * 2, l_len: 1, l_pid: 0 };
        unsafe { libc::fcntl(16, libc::F_SETLK, &raw const lock) };
    }
}

fn pipes(_many: u64) {
    unsafe {
        let block = vec![1u8; 1 << 16];
        loop {
            let mut pair = [0; 2];
            if libc::pipe2(pair.as_mut_ptr(), libc::O_NONBLOCK) < 0 {
                break;
            }
            libc::fcntl(pair[1], libc::F_SETPIPE_SZ, 1 << 20);
            while libc::write(pair[1], block.as_ptr().cast(), block.len()) > 0 {}
        }
    }
}

fn in_flight(_many: u64) {
    unsafe {
        for _ in 0..2000 {
            let mut pair = [0i32; 2];
            if libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0, pair.as_mut_ptr())
                < 0
            {
                break;
            }
            // Each carries the other: a ring that only a collector finds.
            for _ in 0..4 {
                let mut control = [20u64, 1 | 1 << 32, pair[1] as u64 & 0xffff_ffff];
                let mut byte = 0u8;
                let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
                let mut message: libc::msghdr = std::mem::zeroed();
                (message.msg_iov, message.msg_iovlen) = (&raw mut iov, 1);
                (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), 24);
                libc::sendmsg(pair[0], &raw const message, libc::MSG_NOSIGNAL);
            }
            libc::close(pair[0]);
            libc::close(pair[1]);
        }
    }
}

fn timers(many: u64) {
    for _ in 0..many {
        let mut id = 0u32;
        let mut event = [0u64; 8];
        // SIGEV_NONE
        event[1] = 1 << 32;
        let args = [1, event.as_ptr() as u64, &raw mut id as u64, 0, 0, 0];
        if sys::call(libc::SYS_timer_create, args) < 0 {
            break;
        }
        let spec = [0u64, 1000, 0, 1000];
        sys::call(libc::SYS_timer_settime, [u64::from(id), 0, spec.as_ptr() as u64, 0, 0, 0]);
    }
}

fn signals(many: u64) {
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
        for _ in 0..many {
            if libc::sigqueue(libc::getpid(), 40, value) < 0 {
                break;
            }
        }
    }
}

fn watches(_many: u64) {
    unsafe {
        for i in 0..2000 {
            let path = format!("/tmp/attack-watch-{i}\0");
            if libc::mkdir(path.as_ptr().cast(), 0o700) < 0
                || libc::inotify_add_watch(13, path.as_ptr().cast(), 0xfff) < 0
            {
                break;
            }
        }
        for i in 0..2000 {
            libc::rmdir(format!("/tmp/attack-watch-{i}\0").as_ptr().cast());
        }
        // Sets in sets.
        let mut last = libc::eventfd(1, 0);
        loop {
            let next = libc::epoll_create1(0);
            let mut event = libc::epoll_event { events: 1, u64: 0 };
            if next < 0 || libc::epoll_ctl(next, libc::EPOLL_CTL_ADD, last, &raw mut event) < 0 {
                break;
            }
            last = next;
        }
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        libc::epoll_wait(last, &raw mut event, 1, 0);
    }
}

fn waiters(many: u64) {
    static WORD: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    extern "C" fn wait(none: *mut libc::c_void) -> i32 {
        sys::call(libc::SYS_futex, [WORD.as_ptr() as u64, 128, 0, 0, 0, 0]);
        idle(none)
    }
    start_threads(many, wait);
    sys::call(libc::SYS_futex, [WORD.as_ptr() as u64, 4 | 128, 1, 1 << 30, WORD.as_ptr() as u64 + 4, 0]);
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    let many = if warden.options.ms < MUCH_MS { ENOUGH } else { MANY };
    for (n, (what, take)) in KINDS.into_iter().enumerate() {
        if warden.options.only.is_some_and(|only| only != n as u64) {
            continue;
        }
        let start = warden.elapsed();
        let pid = warden.start_greedy(|| {
            take(many);
            // All taken: the warden looks, and ends it.
            unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
            0
        })?;
        let end = warden.await_stop(pid, LIMIT)?;
        warden.pulse().map_err(|why| format!("{why}, with all {what} taken"))?;
        if end.is_none() {
            warden.kill(pid)?;
        }
        warden.note(end.unwrap_or(End::TimeUp));
        warden.look_around().map_err(|why| format!("{why}, after all {what} had been taken"))?;
        println!("  {what}: {} ms", (warden.elapsed() - start).as_millis());
    }
    println!("given back");
    Ok(())
}
