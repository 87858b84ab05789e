//! Address spaces that are made ahead of need. Alone in its test program, because it counts the children of the process.

mod rig;

use rig::{Rig, SYSCALL_LOOP, alone, children, start};
use std::thread;
use std::time::{Duration, Instant};
use vmspace::{Exit, Op};

/// The zygote, and a mother, a mapper and a runner for each space.
fn tasks(spaces: usize) -> usize {
    1 + 3 * spaces
}

fn wait_for(count: usize) {
    let begin = Instant::now();
    while children().len() != count {
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}, not {count}", children());
        thread::yield_now();
    }
}

#[test]
fn whoever_takes_the_last_one_has_the_next_made() {
    let rig = Rig::new();
    assert_eq!(children().len(), tasks(1));
    let ahead = usize::from(thread::available_parallelism().unwrap().get() > 1);
    let mut spaces = Vec::new();
    for count in 1..=5 {
        spaces.push(rig.space(SYSCALL_LOOP));
        wait_for(tasks(count + ahead));
    }
    for space in &spaces {
        let exit = space.run(0, &mut start(rig::CODE), &alone);
        assert!(matches!(exit, Exit::Syscall { nr: 39, .. }), "{exit:?}");
    }
    // One that comes back serves the next, and nothing is begun.
    spaces.pop();
    spaces.push(rig.space(SYSCALL_LOOP));
    assert_eq!(children().len(), tasks(5 + ahead));
    drop(spaces);
    rig.engine.shutdown();
    assert_eq!(children(), []);

    // What is left for the next copy is not for anybody else: the last but that is the last.
    let rig = Rig::new();
    let original = rig.space(SYSCALL_LOOP);
    let copy = rig.engine.create_copy(&original, Some(0)).unwrap();
    let code = Op::MapRam { at: rig::CODE, len: 4096, prot: rig::RX, offset: rig::CODE, populate: false };
    copy.update(0, &[code]).unwrap();
    drop(copy);
    wait_for(tasks(2 + ahead));
    let other = rig.engine.create(Some(0)).unwrap();
    wait_for(tasks(3 + ahead));
    drop((original, other));
    rig.engine.shutdown();
    assert_eq!(children(), []);
}
