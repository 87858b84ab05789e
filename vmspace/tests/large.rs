//! When what was shown in large address spaces is taken out after their end. Alone in its test program, because it looks at all children of the process.

mod rig;

use rig::{RW, Rig, SYSCALL_LOOP, alone, children, start};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};
use vmspace::{Exit, Op, Vmspace};

/// Where the memory of large spaces is.
const MEMORY: [u64; 3] = [0x1000_0000, 0x2000_0000, 0x3000_0000];

/// A space that shows much there.
fn large(rig: &Rig, at: u64) -> Vmspace {
    let space = rig.space(SYSCALL_LOOP);
    space.update(0, &[Op::MapRam { at, len: 12 << 20, prot: RW, offset: 0, populate: false }]).unwrap();
    space
}

/// Whether any address space shows something there.
fn is_shown(at: u64) -> bool {
    let start = format!("{at:08x}-");
    let maps = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    children().iter().map(maps).any(|maps| maps.lines().any(|line| line.starts_with(&start)))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        thread::yield_now();
    }
}

#[test]
fn they_wait_for_a_quiet_moment_and_not_for_each_other() {
    let rig = Rig::new();
    let [first, second, third] = MEMORY;
    let other = rig.space(SYSCALL_LOOP);
    drop(large(&rig, first));
    assert!(is_shown(first), "it waits");
    // For the next that are wanted it is not kept back.
    let more: Vec<_> = (0..3).map(|_| rig.engine.create(Some(0)).unwrap()).collect();
    assert!(is_shown(first), "it was not taken");
    drop(more);

    // A second one does not wait beside it.
    drop(large(&rig, second));
    wait_until("the first one is emptied", || !is_shown(first));
    assert!(is_shown(second));

    // Guest code that runs without a session leaves a host CPU to it.
    let mut context = start(rig::CODE);
    wait_until("the second one is emptied", || {
        let exit = other.run(0, &mut context, &alone);
        assert!(matches!(exit, Exit::Syscall { nr: 39, .. }), "{exit:?}");
        !is_shown(second)
    });

    // And so does a virtual CPU without work.
    drop(large(&rig, third));
    assert!(is_shown(third));
    rig.engine.tidy();
    wait_until("the third one is emptied", || !is_shown(third));
    // What has been one serves the next.
    let before = children().len();
    let space = rig.space(SYSCALL_LOOP);
    let exit = space.run(0, &mut start(rig::CODE), &alone);
    assert!(matches!(exit, Exit::Syscall { nr: 39, .. }), "{exit:?}");
    assert!(children().len() <= before, "nothing is made");
    drop((space, other));
    rig.engine.shutdown();
    assert_eq!(children(), []);
}
