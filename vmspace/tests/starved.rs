//! A runner that the host does not let run. Alone in its test program, because it stops every child of the process.

mod rig;

use rig::{CODE, Rig, alone, children, start, status};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use vmspace::Exit;

fn stopped(pid: i32) -> bool {
    matches!(status(pid, "State:"), 'T' | 'Z')
}

fn signal_all(signo: i32) {
    for pid in children() {
        // SAFETY: no pointers; a child that nobody reaps meanwhile.
        unsafe { libc::kill(pid, signo) };
    }
}

#[test]
fn a_runner_that_gets_no_cpu_is_not_blamed_for_kicks() {
    // Jumps to itself.
    let rig = Rig::new();
    let space = Arc::new(rig.space(&[0xeb, 0xfe]));

    let (interrupted, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let driver = thread::spawn({
        let (space, interrupted, done) = (space.clone(), interrupted.clone(), done.clone());
        move || {
            let mut context = start(CODE);
            while !done.load(Ordering::SeqCst) {
                match space.run(0, &mut context, &alone) {
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
    // Again and again: spare address spaces are made meanwhile, whose tasks nobody has seen yet.
    kick_until(&|| {
        signal_all(libc::SIGSTOP);
        children().into_iter().all(stopped)
    });
    let since = Instant::now();
    kick_until(&|| since.elapsed() > Duration::from_millis(300));
    done.store(true, Ordering::SeqCst);
    signal_all(libc::SIGCONT);
    kick_until(&|| driver.is_finished());
    driver.join().unwrap().unwrap();
}
