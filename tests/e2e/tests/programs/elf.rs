//! Hostile executables: hundreds of mutations of a real one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use vk_e2e_tests::{guest, temp};

/// splitmix64: the same mutations in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Changes mostly what the kernel itself reads: the file header and the program headers.
fn mutate(bytes: &mut Vec<u8>, chance: &mut Chance) {
    let extremes = [
        0,
        1,
        0xfff,
        0x1000,
        0x7fff_ffff,
        0xffff_ffff,
        0x7fff_ffff_f000,
        1 << 47,
        1 << 63,
        u64::MAX,
        u64::MAX - 0xfff,
    ];
    for _ in 0..1 + chance.below(4) {
        match chance.below(6) {
            0 => {
                let at = chance.below(64.min(bytes.len()));
                bytes[at] = chance.next() as u8;
            }
            // An aligned field of a program header: 56 bytes each from byte 64 on.
            1..4 => {
                let at = 64 + 8 * chance.below(7 * 12);
                let value = extremes[chance.below(extremes.len())];
                if let Some(field) = bytes.get_mut(at..at + 8) {
                    field.copy_from_slice(&value.to_le_bytes());
                }
            }
            4 => {
                let at = 64 + chance.below(56 * 12);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << chance.below(8);
                }
            }
            _ => {
                let length =
                    if chance.below(2) == 0 { chance.below(1024) } else { chance.below(bytes.len().max(1)) };
                bytes.truncate(length.max(1));
            }
        }
    }
}

#[test]
fn three_hundred_mutations_are_refused_or_run_and_the_kernel_lives_on() {
    let dir = temp();
    let original = fs::read("/bin/true").expect("it is there");
    let mut chance = Chance(0x5eed);
    for n in 0..300 {
        let mut bytes = original.clone();
        mutate(&mut bytes, &mut chance);
        let path = dir.path().join(format!("{n:03}"));
        fs::write(&path, bytes).expect("our own directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own directory");
    }
    // Each in one kernel, one after the other; a bound each, for a mutation may loop. What a mutation does once
    // it runs is chance (addresses are), so only its fate is asked for: a status, and that the kernel goes on.
    let script = "ulimit -c 0; for f in ???; do timeout -s KILL 5 ./$f </dev/null >/dev/null 2>&1; echo $f $?; done; echo alive";
    let out = guest(&[]).args(["bash", "-c", script]).dir(dir.path()).run().ok();
    assert_eq!(out.text().lines().count(), 301, "{}", out.text());
    assert!(out.text().ends_with("alive\n"));
    let statuses: Vec<i32> =
        out.text().lines().take(300).map(|l| l[4..].parse().expect("a status")).collect();
    assert!(
        statuses.iter().all(|s| matches!(s, 0..=2 | 126 | 127 | 132..=139)),
        "{}\n{}",
        out.text(),
        out.stderr
    );
    assert!(!out.stderr.contains("panic") && !out.stderr.contains("oops"), "{}", out.stderr);
    // The command's own start takes the same path; a few mutations through it.
    for n in (0..300).step_by(30) {
        let out = guest(&[]).arg(dir.path().join(format!("{n:03}"))).run();
        assert!(!out.stderr.contains("panicked"), "{n}: {}", out.stderr);
    }
}
