//! Hostile programs: whatever the file says, `exec` gives an errno or a program, never a panic.

use super::image::Failure;
use super::{Program, open_executable, replace};
use crate::fs::{Fd, OpenFlags, mount_root, open_path};
use crate::task::Cx;
use crate::testing;
use abi::Errno;
use std::vec;
use std::vec::Vec;

const PATH: &[u8] = b"/prog";

fn put(bytes: &mut [u8], at: usize, value: u64, len: usize) {
    bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// A static program of two segments: code of a page, data of 16 bytes with a bss of more than a page.
fn valid() -> Vec<u8> {
    let mut elf = vec![0u8; 0x1010];
    elf[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    put(&mut elf, 16, 2, 2);
    put(&mut elf, 18, if cfg!(target_arch = "aarch64") { 183 } else { 62 }, 2);
    put(&mut elf, 20, 1, 4);
    put(&mut elf, 24, 0x40_0100, 8);
    put(&mut elf, 32, 64, 8);
    put(&mut elf, 52, 64, 2);
    put(&mut elf, 54, 56, 2);
    put(&mut elf, 56, 2, 2);
    for (at, flags, offset, addr, file, memory) in
        [(64, 5, 0, 0x40_0000, 0x1000, 0x1000), (120, 6, 0x1000, 0x40_1000, 0x10, 0x2000)]
    {
        put(&mut elf, at, 1, 4);
        put(&mut elf, at + 4, flags, 4);
        put(&mut elf, at + 8, offset, 8);
        put(&mut elf, at + 16, addr, 8);
        put(&mut elf, at + 32, file, 8);
        put(&mut elf, at + 40, memory, 8);
        put(&mut elf, at + 48, 0x1000, 8);
    }
    elf
}

/// Makes the program with these bytes.
fn write_program(cx: &Cx, mut bytes: &[u8]) {
    // The file of the last time can't be written while the task runs it.
    cx.process().image.lock().running = None;
    let flags = OpenFlags::RDWR | OpenFlags::CREAT | OpenFlags::TRUNC;
    let file = open_path(cx, Fd::CWD, PATH, flags, 0o755).expect("a file in memory");
    crate::fs::write(cx, &file, Some(0), &mut bytes).expect("room for a small file");
    crate::fs::close(cx, file).expect("closed");
}

/// Executes a file with these bytes; the registers are then the new program's.
fn run(cx: &Cx, bytes: &[u8]) -> Result<u64, Errno> {
    write_program(cx, bytes);
    let file = open_executable(cx, PATH).map_err(|e| e.errno())?;
    let program =
        Program { file, path: PATH.to_vec(), unreachable: false, args: vec![PATH.to_vec()], env: Vec::new() };
    replace(cx, program).map_err(|failure| match failure {
        Failure::Refused(error) | Failure::Fatal(error) => error.errno(),
    })?;
    Ok(cx.user.borrow_mut().regs().rip)
}

fn on_files<T: Send + 'static>(body: impl FnOnce(&Cx) -> T + Send + 'static) -> T {
    testing::run(|cx| {
        mount_root(cx).expect("a root");
        body(cx)
    })
}

#[test]
fn a_valid_program_is_executed() {
    assert_eq!(on_files(|cx| run(cx, &valid())), Ok(0x40_0100));
}

#[test]
fn what_is_no_program_is_enoexec() {
    on_files(|cx| {
        let cases: [&[u8]; 5] = [b"", b"\x7fELF", b"#!", b"text\n", &valid()[..100]];
        for case in cases {
            assert_eq!(run(cx, case), Err(Errno::ENOEXEC), "{}", case.escape_ascii());
        }
        let mut other = valid();
        put(&mut other, 18, 40, 2);
        assert_eq!(run(cx, &other), Err(Errno::ENOEXEC), "another machine");
    });
}

#[test]
fn every_field_of_the_headers_may_lie() {
    on_files(|cx| {
        let good = valid();
        let page = hal::PAGE_SIZE;
        let values = [
            0,
            1,
            7,
            page - 1,
            page,
            page + 1,
            0x7fff_ffff,
            0xffff_ffff,
            1 << 47,
            u64::MAX / 2,
            u64::MAX - page,
            u64::MAX,
        ];
        let mut results = [0; 2];
        for at in (16..176).step_by(2) {
            for len in [2, 4, 8] {
                for value in values {
                    let mut bad = good.clone();
                    put(&mut bad, at, value, len);
                    results[usize::from(run(cx, &bad).is_err())] += 1;
                }
            }
        }
        assert!(results[0] > 100 && results[1] > 500, "{results:?}");
        assert_eq!(run(cx, &good), Ok(0x40_0100), "the task is as good as before");
    });
}

#[test]
fn random_bytes_and_cut_files_are_survived() {
    on_files(|cx| {
        let good = valid();
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        for _ in 0..500 {
            let mut bad = good.clone();
            for _ in 0..1 + random() % 8 {
                let at = 4 + random() as usize % 172;
                bad[at] = random() as u8;
            }
            bad.truncate(if random() % 4 == 0 { random() as usize % good.len() } else { good.len() });
            let _ = run(cx, &bad);
        }
        assert_eq!(run(cx, &good), Ok(0x40_0100));
    });
}

#[test]
fn scripts_lead_to_their_interpreter_but_not_for_ever() {
    on_files(|cx| {
        assert_eq!(run(cx, b"#!/missing\n"), Err(Errno::ENOENT));
        assert_eq!(run(cx, b"#!/prog\n"), Err(Errno::ELOOP));
    });
}

#[test]
fn which_lies_are_told_and_which_are_fatal_is_linuxs_choice() {
    on_files(|cx| {
        let fate = |bytes: &[u8]| {
            write_program(cx, bytes);
            let file = open_executable(cx, PATH).expect("a program");
            let args = vec![PATH.to_vec()];
            let program = Program { file, path: PATH.to_vec(), unreachable: false, args, env: Vec::new() };
            match replace(cx, program) {
                Ok(()) => "runs",
                Err(Failure::Refused(_)) => "refused",
                Err(Failure::Fatal(_)) => "fatal",
            }
        };
        let with = |at: usize, value: u64, len: usize| {
            let mut elf = valid();
            put(&mut elf, at, value, len);
            fate(&elf)
        };
        assert_eq!(with(4, 0x0707_0701, 4), "runs", "class, byte order and version");
        assert_eq!(with(16, 9, 2), "refused", "type");
        assert_eq!(with(54, 57, 2), "refused", "size of a program header");
        assert_eq!(with(32, 0x10_0000, 8), "refused", "headers behind the end");
        assert_eq!(with(64 + 8, 1, 8), "fatal", "an offset that does not fit the address");
        assert_eq!(with(64 + 16, 1 << 63, 8), "fatal", "an address of the kernel");
        assert_eq!(with(120 + 40, 1, 8), "fatal", "more in the file than in memory");
        assert_eq!(with(24, 1 << 63, 8), "fatal", "an entry of the kernel");
        assert_eq!(fate(&valid()), "runs");
    });
}

#[test]
fn segments_that_want_an_alignment_get_it() {
    on_files(|cx| {
        let align = 1 << 21;
        let mut elf = valid();
        put(&mut elf, 16, 3, 2);
        put(&mut elf, 24, 0x100, 8);
        for at in [64, 120] {
            let addr = if at == 64 { 0 } else { 0x1000 };
            put(&mut elf, at + 16, addr, 8);
            put(&mut elf, at + 48, align, 8);
        }
        for _ in 0..8 {
            assert_eq!(run(cx, &elf).unwrap() % align, 0x100);
        }
    });
}
