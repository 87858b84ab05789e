//! `execve(2)` and `execveat(2)`.

use super::SysRet;
use crate::error::{Result, err};
use crate::fs::{AT_FDCWD, Fd};
use crate::task::Cx;
use crate::task::exec::{self, Program};
use crate::user::{UserCStr, UserPtr};
use abi::Errno;
use alloc::vec;
use alloc::vec::Vec;

/// Most arguments and, apart from them, environment strings (`MAX_ARG_STRINGS` is larger than what the sizes let through).
const MAX_STRINGS: usize = 1 << 20;
/// Longest single string with its terminator (`MAX_ARG_STRLEN`).
const MAX_STRING: usize = 32 * hal::PAGE_SIZE as usize;
/// Most bytes of all strings; the limit that depends on the stack's is checked when the stack is built.
const MAX_BYTES: usize = 6 << 20;

/// `execve(2)`.
pub(super) fn execve(cx: &Cx, path: UserCStr, args: UserPtr<u64>, env: UserPtr<u64>) -> Result<SysRet> {
    execveat(cx, AT_FDCWD, path, args, env, 0)
}

/// `execveat(2)`.
pub(super) fn execveat(
    cx: &Cx,
    dir: Fd,
    path: UserCStr,
    args: UserPtr<u64>,
    env: UserPtr<u64>,
    flags: u32,
) -> Result<SysRet> {
    let path = path.read_path(cx)?;
    let source = exec::open_for_exec(cx, dir, &path, flags)?;
    let mut budget = MAX_BYTES;
    let mut args = strings(cx, args, &mut budget)?;
    if args.is_empty() {
        // As Linux since 5.18: a program always has a zeroth argument.
        args = vec![Vec::new()];
    }
    let env = strings(cx, env, &mut budget)?;
    exec::exec(cx, Program { args, env, ..source })?;
    Ok(SysRet::Keep)
}

/// Copies in a `NULL`-terminated array of strings; `NULL` is an empty array.
fn strings(cx: &Cx, array: UserPtr<u64>, budget: &mut usize) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    if array.is_null() {
        return Ok(all);
    }
    loop {
        let at = array.add(all.len()).read(cx)?;
        if at == 0 {
            return Ok(all);
        }
        let string = UserCStr(at).read(cx, MAX_STRING.min(*budget))?;
        let Some(string) = string.filter(|_| all.len() < MAX_STRINGS) else { return err(Errno::E2BIG) };
        *budget = budget.saturating_sub(string.len() + 1);
        all.push(string);
    }
}
