//! The share of the host's processes that address spaces may be. A program of its own, because it lowers a limit of its process.

mod rig;

use std::os::fd::OwnedFd;
use vmspace::Engine;

#[test]
fn address_spaces_leave_room_for_the_host() {
    // SAFETY: plain calls on structures of ours.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit), 0);
        limit.rlim_cur = 600;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit), 0);
    }
    let engine = Engine::new(&OwnedFd::from(rig::memory_file())).unwrap();
    let mut spaces = Vec::new();
    let error = loop {
        match engine.create(None) {
            Ok(space) => spaces.push(space),
            Err(error) => break error,
        }
        assert!(spaces.len() < 200, "no limit");
    };
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    // Three host tasks each, of a third of 600.
    assert!(spaces.len() <= 66, "{}", spaces.len());
    // One that is given back makes room for one.
    spaces.truncate(spaces.len() - 1);
    spaces.push(engine.create(None).unwrap());
}
