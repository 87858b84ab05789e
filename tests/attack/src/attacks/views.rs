//! Files whose content the kernel has put into the attacker's memory, because he reads and writes them often: what he says of them is a lie, and what he may not write he
//! writes, while others cut them, look at them, and take them away.

use crate::rng::Rng;
use crate::stub::PAGE;
use crate::warden::{End, Warden};
use crate::{jump, sys};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const TIME: Duration = Duration::from_millis(60);
/// More calls than it takes.
const OFTEN: u64 = 64;
/// The only byte besides zero that an attacker writes.
const MARK: u8 = 0xa5;
/// How large a file may become without a call, in bytes.
const LARGEST: u64 = 32 << 20;

/// What the kernel has put there: headers and contents in turns.
fn views() -> Vec<sys::Area> {
    sys::maps().into_iter().filter(|area| area.name.contains("view")).collect()
}

/// Reads and writes a file by position until its content is in memory, if that is ever done.
fn wear(file: &File, writes: bool) -> Vec<sys::Area> {
    let mut page = [MARK; PAGE as usize];
    for i in 0..OFTEN {
        if writes {
            let _ = file.write_at(&page, i % 4 * PAGE);
        }
        let _ = file.read_at(&mut page, i % 4 * PAGE);
    }
    views()
}

/// Lies and tries in one of several ways.
fn lie(areas: &[sys::Area], rng: &mut Rng) {
    let Some(area) = areas.get(rng.below(areas.len().max(1) as u64) as usize) else { return };
    let (at, len) = (area.start, area.end - area.start);
    let put = |at: u64, value: u64| {
        if jump::can_write(at) {
            unsafe { (at as *mut u64).write_volatile(value) };
        }
    };
    let marks = u64::from_ne_bytes([MARK; 8]);
    let number = *rng.pick(&[
        0,
        1,
        PAGE,
        4 * PAGE,
        1 << 24,
        u64::MAX,
        1 << 63,
        u64::from(u32::MAX),
        rng.clone().next(),
    ]);
    match rng.below(8) {
        // A header: size and capacity, times.
        0..=2 if len == PAGE => put(at + rng.below(4) * 8, number),
        // Content, up to where there is any, before and behind the end of the file.
        0..=3 if len > PAGE => put(at + rng.below(64 * PAGE) / 8 * 8, marks),
        4 => {
            sys::call(libc::SYS_munmap, [at, len, 0, 0, 0, 0]);
        }
        5 => {
            sys::call(libc::SYS_mprotect, [at, len, rng.below(8), 0, 0, 0]);
        }
        6 => {
            sys::call(libc::SYS_mremap, [at, PAGE, 4 * PAGE, 1, 0, 0]);
        }
        _ => {
            sys::call(libc::SYS_madvise, [at, len, *rng.pick(&[4, 9, 10, 11, 22, 23]), 0, 0, 0]);
        }
    }
}

/// What everybody may expect of a file, whatever its writer says: a size that there is room for, times that have been, and no bytes but those that were written.
fn sound(path: &PathBuf, since: SystemTime) -> bool {
    let Ok(meta) = fs::metadata(path) else { return true };
    // A clock of the kernel's may be some milliseconds behind.
    let been = |time: SystemTime| time + Duration::from_secs(1) > since && time <= SystemTime::now();
    let Ok(content) = fs::read(path) else { return true };
    meta.len() <= LARGEST
        && meta.modified().is_ok_and(been)
        && content.iter().all(|&byte| byte == 0 || byte == MARK)
}

/// Lies about a file of his own, which others change meanwhile.
fn liar(path: &PathBuf, seed: u64) -> i32 {
    jump::catch();
    let since = SystemTime::now();
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(path);
    let Ok(mut file) = open() else { return 2 };
    let mut areas = wear(&file, true);
    let other = sys::fork(|| {
        let mut rng = Rng::new(seed, 1);
        for _ in 0..200 {
            let Ok(file) = File::options().write(true).open(path) else { break };
            match rng.below(6) {
                0 => drop(file.set_len(rng.below(8) * 3000)),
                1 => drop(fs::set_permissions(
                    path,
                    fs::Permissions::from_mode(0o644 + 0o20 * rng.below(2) as u32),
                )),
                2 => drop(file.write_at(&[MARK; 5000], rng.below(20_000))),
                _ => {}
            }
            if !sound(path, since) {
                return 3;
            }
        }
        0
    });
    let Ok(other) = other else { return 2 };
    let start = std::time::Instant::now();
    let mut rng = Rng::new(seed, 0);
    while start.elapsed() < TIME {
        for _ in 0..20 {
            lie(&areas, &mut rng);
            if rng.once_in(16) && !sound(path, since) {
                return 3;
            }
            let _ = file.write_at(&[MARK; 300], rng.below(40_000));
            let _ = file.read_at(&mut [0; 3000], rng.below(40_000));
        }
        if rng.once_in(8) {
            // Another descriptor: the content of the one before is not there any more.
            drop(file);
            sys::call(libc::SYS_getppid, [0; 6]);
            if areas.iter().any(|area| jump::peek(area.start).is_some()) {
                return 4;
            }
            match open() {
                Ok(new) => file = new,
                Err(_) => return 2,
            }
            areas = wear(&file, true);
        }
    }
    let status = sys::wait(other);
    if status == 0 && sound(path, since) { 0 } else { 3 }
}

/// Writes what he may only read.
fn reader(path: &PathBuf, seed: u64) -> i32 {
    jump::catch();
    let Ok(file) = File::open(path) else { return 2 };
    let areas = wear(&file, false);
    let mut rng = Rng::new(seed, 0);
    let start = std::time::Instant::now();
    while start.elapsed() < TIME {
        lie(&areas, &mut rng);
        let _ = file.write_at(&[MARK; 300], rng.below(20_000));
        let _ = file.read_at(&mut [0; 3000], rng.below(20_000));
    }
    0
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    let dir = PathBuf::from("/tmp/vk-attack-views");
    let wrong = |what: &str, error: std::io::Error| format!("{what}: {error}");
    fs::create_dir_all(&dir).map_err(|e| wrong("a directory", e))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(|e| wrong("its rights", e))?;
    let kept = dir.join("kept");
    let content: Vec<u8> = (0..5 * PAGE).map(|i| (i / 3) as u8).collect();
    fs::write(&kept, &content).map_err(|e| wrong("a file", e))?;
    let before = fs::metadata(&kept).map_err(|e| wrong("a file", e))?;
    let here = File::open(&kept).map(|file| wear(&file, false)).map_err(|e| wrong("a file", e))?;
    println!("  {} areas", here.len());
    let (first, last) = warden.options.only.map_or((0, u64::MAX), |n| (n, n + 1));
    for n in first..last {
        if n >= 10 && warden.elapsed() > warden.time() {
            break;
        }
        let seed = Rng::new(warden.options.seed, n).next();
        let own = dir.join(format!("own{n}"));
        let work = || if n % 2 == 0 { liar(&own, seed) } else { reader(&kept, seed) };
        let pid = warden.start_greedy(work)?;
        let end = warden.await_end(pid, TIME * 100)?;
        warden.note(end);
        // Where it writes there may be nothing any more.
        if ![End::Exited(0), End::Exited(98)].contains(&end) {
            return Err(format!("lies about files ended in {end:?} (try {n})"));
        }
        let now = fs::metadata(&kept).map_err(|e| wrong("the file", e))?;
        let same = |meta: &fs::Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.blocks());
        if same(&now) != same(&before) || fs::read(&kept).ok().as_ref() != Some(&content) {
            return Err(format!("a file changed that an attacker may only read (try {n})"));
        }
        let _ = fs::remove_file(&own);
        warden.innocents(1)?;
    }
    fs::remove_dir_all(&dir).map_err(|e| wrong("the directory", e))
}
