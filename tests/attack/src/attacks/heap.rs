//! Memory that is taken without the kernel, behind the heap and for mappings: where it begins and how far it goes is said in memory that the attacker can write, and he says what he likes, opens
//! what he was not given, and has the kernel change what is there meanwhile. He must find nothing there but zeros and what he wrote himself.

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

/// Maps new memory anywhere.
fn map(len: u64) -> u64 {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    sys::call(libc::SYS_mmap, [0, len, 3, flags, u64::MAX, 0]) as u64
}

/// What an attacker knows.
struct Known {
    /// Words of the stub that change when memory is taken.
    words: Vec<u64>,
    /// Where the heap began.
    heap: u64,
    /// Where memory was mapped last.
    maps: u64,
}

/// Takes memory again and again. Then it is found where the stub keeps what it says of it.
fn find_words() -> Known {
    // Whoever has its memory as a file has it, too.
    sys::call(libc::SYS_close_range, [0, u32::MAX.into(), 0, 0, 0, 0]);
    let hidden = Hidden::find().writable();
    let [mut words, mut others] = [(); 2].map(|()| Vec::with_capacity(hidden.len() * 512));
    // From here on nobody else takes memory from the heap.
    let start = brk(0).next_multiple_of(PAGE);
    for i in 0..OFTEN {
        brk(start + i * STEP);
        map(8 * PAGE);
    }
    words.extend(hidden.iter().flat_map(|page| (*page..page + PAGE).step_by(8)));
    others.extend(&words);
    let mut maps = 0;
    for i in 0..3 {
        let end = brk(start + OFTEN * STEP + i * 8);
        words.retain(|at| unsafe { (*at as *const u64).read_volatile() } == end);
        maps = map(PAGE);
        others.retain(|at| unsafe { (*at as *const u64).read_volatile() } == maps);
    }
    words.extend(&others);
    Known { words, heap: start, maps }
}

/// Whether all that can be read there is his own.
fn is_own(known: &Known) -> bool {
    let marks = u64::from_ne_bytes([MARK; 8]);
    let own = |word: Option<u64>| word.is_none_or(|word| word == 0 || word == marks);
    let maps = known.maps.saturating_sub(FAR)..known.maps;
    let mut pages = (known.heap..known.heap + FAR).chain(maps).step_by(PAGE as usize);
    pages.all(|page| own(jump::peek(page)) && own(jump::peek(page + 2048)))
}

/// Lies and tries in one of several ways.
fn lie(known: &Known, rng: &mut Rng) {
    let Known { words, heap, maps } = known;
    let start = if rng.once_in(2) { *heap } else { maps.saturating_sub(FAR) };
    let near = start + rng.below(FAR);
    let page = near / PAGE * PAGE;
    let some =
        *rng.pick(&[0, 1, start, near, page, start + FAR, u64::MAX, 1 << 63, 1 << 47, (1 << 47) - PAGE]);
    let len = (1 + rng.below(40)) * PAGE;
    match rng.below(16) {
        // Where it ends, and what lies beside that.
        0..=4 if !words.is_empty() => put(rng.pick(words) + rng.below(3) * 8, some),
        0..=6 => {
            brk(some);
        }
        7..=8 => {
            let at = map(len);
            put(at, u64::from_ne_bytes([MARK; 8]));
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
                i32::from(!is_own(known))
            });
            if other.is_ok_and(|pid| sys::wait(pid) == 256) {
                sys::exit(3);
            }
        }
    }
}

fn liar(seed: u64) -> i32 {
    jump::catch();
    let known = find_words();
    let mut rng = Rng::new(seed, 0);
    let begin = Instant::now();
    while begin.elapsed() < TIME {
        (0..20).for_each(|_| lie(&known, &mut rng));
        if !is_own(&known) {
            return 3;
        }
    }
    0
}

/// Whether a process of this program can find such words.
fn finds_words() -> i32 {
    jump::catch();
    i32::from(find_words().words.len() < 2)
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    let pid = warden.start_greedy(finds_words)?;
    let found = warden.await_end(pid, TIME * 100)? == End::Exited(0);
    println!(
        "  where memory is taken {}",
        if found { "the stub's memory says" } else { "is not to be found" }
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
