//! A runner that the host does not let run. Alone in its test program, because it stops every child of the process.

use std::fs::{self, File};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use vmspace::{Context, Engine, Exit, Op};

const CODE: u64 = 0x40_0000;

/// Ids of all children of this process.
fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let lists =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>())
        .collect()
}

fn stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('T') || rest.starts_with('Z'))
}

fn signal_all(signo: i32) {
    for pid in children() {
        // SAFETY: no pointers; a child that nobody reaps meanwhile.
        unsafe { libc::kill(pid, signo) };
    }
}

#[test]
fn a_runner_that_gets_no_cpu_is_not_blamed_for_kicks() {
    // SAFETY: the name is a C string and the descriptor is new.
    let ram =
        File::from(unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"ram".as_ptr(), libc::MFD_CLOEXEC)) });
    ram.set_len(1 << 20).unwrap();
    // Jumps to itself.
    ram.write_all_at(&[0xeb, 0xfe], 0).unwrap();
    let engine = Engine::new(&OwnedFd::from(ram.try_clone().unwrap())).unwrap();
    let space = Arc::new(engine.create().unwrap());
    let prot = libc::PROT_READ | libc::PROT_EXEC;
    space.update(0, &[Op::MapRam { at: CODE, len: 4096, prot, offset: 0, populate: false }]).unwrap();

    let (interrupted, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let driver = thread::spawn({
        let (space, interrupted, done) = (space.clone(), interrupted.clone(), done.clone());
        move || {
            let mut context = Context::new();
            context.regs().rip = CODE;
            context.regs().eflags = 0x202;
            while !done.load(Ordering::SeqCst) {
                match space.run(0, &mut context, &|| None) {
                    Exit::Interrupted => interrupted.fetch_add(1, Ordering::SeqCst),
                    exit => return Err(format!("{exit:?}")),
                };
            }
            Ok(())
        }
    });
    let kick_until = |end: &dyn Fn() -> bool| {
        while !end() {
            space.kick(0);
            thread::yield_now();
        }
    };
    kick_until(&|| interrupted.load(Ordering::SeqCst) >= 3);
    signal_all(libc::SIGSTOP);
    kick_until(&|| children().into_iter().all(stopped));
    let since = Instant::now();
    kick_until(&|| since.elapsed() > Duration::from_millis(300));
    done.store(true, Ordering::SeqCst);
    signal_all(libc::SIGCONT);
    kick_until(&|| driver.is_finished());
    driver.join().unwrap().unwrap();
}
