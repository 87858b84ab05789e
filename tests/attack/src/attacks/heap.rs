//! A heap that grows without the kernel: where it ends and how far it may is said in memory that the attacker can write, and he says what he likes, opens what he was not given, and has the kernel
//! change what is there meanwhile. He must find nothing there but zeros and what he wrote himself.

use crate::rng::Rng;
use crate::stub::{Hidden, PAGE};
use crate::warden::{End, Warden};
use crate::{jump, sys};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_millis(60);
/// What a C library asks for at a time, and how often it takes to be lent something.
const STEP: u64 = 33 * PAGE;
const OFTEN: u64 = 40;
/// The only byte besides zero that an attacker writes.
const MARK: u8 = 0xa5;
/// How far behind its start the heap is looked at.
const FAR: u64 = 1000 * PAGE;

fn brk(to: u64) -> u64 {
    sys::call(libc::SYS_brk, [to, 0, 0, 0, 0, 0]) as u64
}

fn put(at: u64, value: u64) {
    if jump::can_write(at) {
        unsafe { (at as *mut u64).write_volatile(value) };
    }
}

/// Has the heap grow in steps. Then it is found where the stub keeps its end, and where the heap began: words that change with it.
fn find_words() -> (Vec<u64>, u64) {
    // Whoever has its memory as a file has it, too.
    sys::call(libc::SYS_close_range, [0, u32::MAX.into(), 0, 0, 0, 0]);
    let hidden = Hidden::find().writable();
    let mut words = Vec::with_capacity(hidden.len() * 512);
    // From here on nobody else takes memory from the heap.
    let start = brk(0).next_multiple_of(PAGE);
    for i in 0..OFTEN {
        brk(start + i * STEP);
    }
    words.extend(hidden.iter().flat_map(|page| (*page..page + PAGE).step_by(8)));
    for i in 0..3 {
        let end = brk(start + OFTEN * STEP + i * 8);
        words.retain(|at| unsafe { (*at as *const u64).read_volatile() } == end);
    }
    (words, start)
}

/// Whether all that can be read there is his own.
fn is_own(start: u64) -> bool {
    let marks = u64::from_ne_bytes([MARK; 8]);
    let own = |word: Option<u64>| word.is_none_or(|word| word == 0 || word == marks);
    (start..start + FAR)
        .step_by(PAGE as usize)
        .all(|page| own(jump::peek(page)) && own(jump::peek(page + 2048)))
}

/// Lies and tries in one of several ways.
fn lie(words: &[u64], start: u64, rng: &mut Rng) {
    let near = start + rng.below(FAR);
    let page = near / PAGE * PAGE;
    let some =
        *rng.pick(&[0, 1, start, near, page, start + FAR, u64::MAX, 1 << 63, 1 << 47, (1 << 47) - PAGE]);
    let len = (1 + rng.below(40)) * PAGE;
    match rng.below(16) {
        // Where it ends, and what lies beside that.
        0..=4 if !words.is_empty() => put(rng.pick(words) + rng.below(3) * 8, some),
        0..=8 => {
            brk(some);
        }
        9 => put(page, u64::from_ne_bytes([MARK; 8])),
        10 => {
            sys::call(libc::SYS_munmap, [page, len, 0, 0, 0, 0]);
        }
        11 => {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            sys::call(libc::SYS_mmap, [page, len, 3, flags as u64, u64::MAX, 0]);
        }
        12 => {
            sys::call(libc::SYS_mprotect, [page, len, rng.below(4), 0, 0, 0]);
        }
        13 => {
            let advice = *rng.pick(&[4, 9, 10, 11, 18, 22, 23, 102, 103]);
            sys::call(libc::SYS_madvise, [page, len, advice, 0, 0, 0]);
        }
        14 => {
            sys::call(libc::SYS_mremap, [page, len, 2 * len, 1, 0, 0]);
        }
        _ => {
            let other = sys::fork(|| {
                (0..20).for_each(|i| put(start + i * 50 * PAGE, u64::from_ne_bytes([MARK; 8])));
                i32::from(!is_own(start))
            });
            if other.is_ok_and(|pid| sys::wait(pid) == 256) {
                sys::exit(3);
            }
        }
    }
}

fn liar(seed: u64) -> i32 {
    jump::catch();
    let (words, start) = find_words();
    let mut rng = Rng::new(seed, 0);
    let begin = Instant::now();
    while begin.elapsed() < TIME {
        (0..20).for_each(|_| lie(&words, start, &mut rng));
        if !is_own(start) {
            return 3;
        }
    }
    0
}

/// Whether a process of this program can find such words.
fn finds_words() -> i32 {
    jump::catch();
    i32::from(find_words().0.is_empty())
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    let pid = warden.start_greedy(finds_words)?;
    let found = warden.await_end(pid, TIME * 100)? == End::Exited(0);
    println!(
        "  the end of the heap {}",
        if found { "is in the stub's memory" } else { "is not to be found" }
    );
    let (first, last) = warden.options.only.map_or((0, u64::MAX), |n| (n, n + 1));
    for n in first..last {
        if n >= 10 && warden.elapsed() > warden.time() {
            break;
        }
        let seed = Rng::new(warden.options.seed, n).next();
        let pid = warden.start_greedy(|| liar(seed))?;
        let end = warden.await_end(pid, TIME * 100)?;
        warden.note(end);
        match end {
            End::Exited(3) => return Err(format!("an attacker found what is not his (try {n})")),
            // He is caught opening more than anybody is lent.
            End::Exited(0) | End::Killed(libc::SIGKILL) => {}
            other => return Err(format!("lies about the heap ended in {other:?} (try {n})")),
        }
        warden.innocents(1)?;
    }
    Ok(())
}
