//! inotify: watches, event order, cookies, limits.

use crate::kit::prelude::*;
use std::ffi::CStr;

fn watcher() -> Result<i32, E> {
    sc!(SYS_inotify_init1, IN_NONBLOCK | IN_CLOEXEC).map(|fd| fd as i32)
}

fn add(fd: i32, path: &CStr, mask: u32) -> Result<i32, E> {
    sc!(SYS_inotify_add_watch, fd, path, mask).map(|wd| wd as i32)
}

#[derive(Debug, PartialEq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: String,
}

fn events(fd: i32) -> R<Vec<Event>> {
    let mut all = Vec::new();
    loop {
        let buf = match read_some(fd, 4096) {
            Err(E(EAGAIN)) => return Ok(all),
            got => got?,
        };
        let word = |i: usize| u32::from_ne_bytes([buf[i], buf[i + 1], buf[i + 2], buf[i + 3]]);
        let mut i = 0;
        while i < buf.len() {
            let len = word(i + 12) as usize;
            let name: Vec<u8> = buf[i + 16..i + 16 + len].iter().copied().take_while(|b| *b != 0).collect();
            let name = String::from_utf8_lossy(&name).into_owned();
            all.push(Event { wd: word(i) as i32, mask: word(i + 4), cookie: word(i + 8), name });
            i += 16 + len;
        }
    }
}

fn masks(fd: i32) -> R<Vec<u32>> {
    Ok(events(fd)?.iter().map(|e| e.mask).collect())
}

fn life_of_a_file_in_a_watched_directory() -> R {
    let fd = watcher()?;
    let wd = add(fd, c".", IN_ALL_EVENTS & !(IN_ACCESS | IN_ATTRIB))?;
    let f = open(c"f", O_CREAT | O_WRONLY, 0o644)?;
    write(f, b"x")?;
    close(f)?;
    unlink(c"f")?;
    let all = events(fd)?;
    that!(all.iter().all(|e| e.wd == wd && e.name == "f" && e.cookie == 0), "{all:?}");
    let masks: Vec<u32> = all.iter().map(|e| e.mask).collect();
    eq!(masks, [IN_CREATE, IN_OPEN, IN_MODIFY, IN_CLOSE_WRITE, IN_DELETE]);
    Ok(())
}

fn renames_come_in_pairs_with_a_cookie() -> R {
    put(c"a", b"")?;
    let fd = watcher()?;
    add(fd, c".", IN_MOVE)?;
    sc!(SYS_rename, c"a", c"b")?;
    let all = events(fd)?;
    eq!(all.len(), 2);
    eq!((all[0].mask, all[0].name.as_str()), (IN_MOVED_FROM, "a"));
    eq!((all[1].mask, all[1].name.as_str()), (IN_MOVED_TO, "b"));
    that!(all[0].cookie != 0 && all[0].cookie == all[1].cookie);
    Ok(())
}

fn directories_are_marked() -> R {
    let fd = watcher()?;
    add(fd, c".", IN_CREATE | IN_DELETE)?;
    mkdir(c"d", 0o755)?;
    sc!(SYS_rmdir, c"d")?;
    eq!(masks(fd)?, [IN_CREATE | IN_ISDIR, IN_DELETE | IN_ISDIR]);
    Ok(())
}

fn a_watched_file_tells_its_own_end() -> R {
    put(c"f", b"")?;
    let fd = watcher()?;
    add(fd, c"f", IN_ATTRIB | IN_DELETE_SELF)?;
    sc!(SYS_chmod, c"f", 0o600)?;
    unlink(c"f")?;
    // The link count changes too: an IN_ATTRIB that merges with the first.
    eq!(masks(fd)?, [IN_ATTRIB, IN_DELETE_SELF, IN_IGNORED]);
    Ok(())
}

fn move_self() -> R {
    put(c"f", b"")?;
    let fd = watcher()?;
    add(fd, c"f", IN_MOVE_SELF)?;
    sc!(SYS_rename, c"f", c"g")?;
    eq!(masks(fd)?, [IN_MOVE_SELF]);
    Ok(())
}

fn reading_and_closing() -> R {
    put(c"f", b"x")?;
    let fd = watcher()?;
    add(fd, c"f", IN_ACCESS | IN_OPEN | IN_CLOSE_NOWRITE)?;
    get(c"f")?;
    let seen = masks(fd)?;
    eq!(seen.first(), Some(&IN_OPEN));
    that!(seen.contains(&IN_ACCESS), "{seen:?}");
    eq!(seen.last(), Some(&IN_CLOSE_NOWRITE));
    Ok(())
}

fn equal_events_merge() -> R {
    put(c"f", b"")?;
    let fd = watcher()?;
    add(fd, c"f", IN_MODIFY)?;
    let f = open(c"f", O_WRONLY, 0)?;
    for _ in 0..5 {
        write(f, b"x")?;
    }
    eq!(masks(fd)?, [IN_MODIFY]);
    Ok(())
}

fn removing_a_watch_says_ignored() -> R {
    let fd = watcher()?;
    let wd = add(fd, c".", IN_CREATE)?;
    sc!(SYS_inotify_rm_watch, fd, wd)?;
    put(c"f", b"")?;
    let all = events(fd)?;
    eq!(all.len(), 1);
    eq!((all[0].wd, all[0].mask), (wd, IN_IGNORED));
    errno_is!(sc!(SYS_inotify_rm_watch, fd, wd), EINVAL);
    Ok(())
}

fn adding_again_replaces_or_extends_the_mask() -> R {
    let fd = watcher()?;
    let wd = add(fd, c".", IN_CREATE)?;
    eq!(add(fd, c".", IN_DELETE)?, wd);
    put(c"f", b"")?;
    eq!(masks(fd)?, []);
    eq!(add(fd, c".", IN_CREATE | IN_MASK_ADD)?, wd);
    unlink(c"f")?;
    put(c"g", b"")?;
    eq!(masks(fd)?, [IN_DELETE, IN_CREATE]);
    errno_is!(add(fd, c".", IN_CREATE | IN_MASK_CREATE), EEXIST);
    Ok(())
}

fn oneshot_watches_end_after_one_event() -> R {
    let fd = watcher()?;
    add(fd, c".", IN_CREATE | IN_ONESHOT)?;
    put(c"a", b"")?;
    put(c"b", b"")?;
    eq!(masks(fd)?, [IN_CREATE, IN_IGNORED]);
    Ok(())
}

fn onlydir_and_dont_follow() -> R {
    put(c"f", b"")?;
    symlink(c"f", c"l")?;
    let fd = watcher()?;
    errno_is!(add(fd, c"f", IN_OPEN | IN_ONLYDIR), ENOTDIR);
    let a = add(fd, c"l", IN_OPEN)?;
    let b = add(fd, c"l", IN_OPEN | IN_DONT_FOLLOW)?;
    that!(a != b);
    Ok(())
}

fn errors() -> R {
    let fd = watcher()?;
    errno_is!(add(fd, c"none", IN_OPEN), ENOENT);
    errno_is!(add(fd, c".", 0), EINVAL);
    errno_is!(add(0, c".", IN_OPEN), EINVAL);
    errno_is!(add(9999, c".", IN_OPEN), EBADF);
    errno_is!(sc!(SYS_inotify_init1, 5), EINVAL);
    errno_is!(read(fd, &mut [0; 100]), EAGAIN);
    Ok(())
}

fn a_small_buffer_is_einval_and_loses_nothing() -> R {
    let fd = watcher()?;
    add(fd, c".", IN_CREATE)?;
    put(c"f", b"")?;
    errno_is!(read(fd, &mut [0; 16]), EINVAL);
    let mut n = 0;
    ioctl(fd, FIONREAD, &mut n)?;
    eq!(n, 32);
    eq!(events(fd)?.len(), 1);
    Ok(())
}

fn poll_tells_when_there_are_events() -> R {
    let fd = watcher()?;
    add(fd, c".", IN_CREATE)?;
    eq!(poll1(fd, POLLIN, 0)?, 0);
    put(c"f", b"")?;
    eq!(poll1(fd, POLLIN, 0)?, POLLIN);
    Ok(())
}

cases!("inotify":
    life_of_a_file_in_a_watched_directory, renames_come_in_pairs_with_a_cookie, directories_are_marked,
    a_watched_file_tells_its_own_end, move_self, reading_and_closing, equal_events_merge,
    removing_a_watch_says_ignored, adding_again_replaces_or_extends_the_mask,
    oneshot_watches_end_after_one_event, onlydir_and_dont_follow, errors,
    a_small_buffer_is_einval_and_loses_nothing, poll_tells_when_there_are_events,
);
