//! Dispatch and strace.

use super::table::TABLE;
use super::trace::Trace;
use crate::error::Result;
use crate::fs::Fd;
use crate::task::Cx;
use abi::Errno;
use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;
use hal::{LogLevel, VirtAddr};

/// What a system call leaves behind when it does not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysRet {
    /// The result register gets this value.
    Value(u64),
    /// The registers are already as they must be (`rt_sigreturn`, `execve`).
    Keep,
    /// The task ends; the user loop must not go back to guest code.
    Exit,
}

impl From<()> for SysRet {
    fn from((): ()) -> SysRet {
        SysRet::Value(0)
    }
}
impl From<u64> for SysRet {
    fn from(value: u64) -> SysRet {
        SysRet::Value(value)
    }
}
impl From<usize> for SysRet {
    fn from(value: usize) -> SysRet {
        SysRet::Value(value as u64)
    }
}
impl From<i32> for SysRet {
    fn from(value: i32) -> SysRet {
        SysRet::Value(i64::from(value) as u64)
    }
}
impl From<u32> for SysRet {
    fn from(value: u32) -> SysRet {
        SysRet::Value(u64::from(value))
    }
}
impl From<i64> for SysRet {
    fn from(value: i64) -> SysRet {
        SysRet::Value(value as u64)
    }
}
impl From<Fd> for SysRet {
    fn from(fd: Fd) -> SysRet {
        SysRet::from(fd.0)
    }
}
impl From<VirtAddr> for SysRet {
    fn from(addr: VirtAddr) -> SysRet {
        SysRet::Value(addr.0)
    }
}

/// How much of a system call works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Everything that programs use.
    Full,
    /// Some; the note says what not.
    Partial,
    /// Nothing: `ENOSYS`.
    None,
}

/// A handler with its arguments still in registers.
pub type Handler = fn(&Cx, &[u64; 6]) -> Result<SysRet>;
/// Shows a raw argument.
pub type Show = fn(u64, &Cx) -> String;

/// A row of the table.
pub struct Entry {
    /// Number.
    pub nr: u32,
    /// Name.
    pub name: &'static str,
    /// Arguments: name, and how strace shows them.
    pub args: &'static [(&'static str, Show)],
    /// What serves it.
    pub handler: Option<Handler>,
    /// How much works.
    pub support: Support,
    /// What does not, or a remark.
    pub note: &'static str,
}

/// All rows in order of their numbers.
pub fn entries() -> &'static [Entry] {
    TABLE
}

/// The row of a number.
pub fn entry(nr: u64) -> Option<&'static Entry> {
    // Numbers below 335 have no gaps, so a row is found where it belongs.
    if let Some(entry) = TABLE.get(usize::try_from(nr).ok()?) {
        if u64::from(entry.nr) == nr {
            return Some(entry);
        }
    }
    TABLE.binary_search_by_key(&nr, |e| u64::from(e.nr)).ok().and_then(|i| TABLE.get(i))
}

/// The name of a number.
pub fn name_of(nr: u64) -> Option<&'static str> {
    entry(nr).map(|e| e.name)
}

/// Serves a system call.
pub fn dispatch(cx: &Cx, nr: u64, raw: &[u64; 6]) -> Result<SysRet> {
    cx.task.in_syscall.store(nr, Ordering::Relaxed);
    let row = entry(nr);
    let result = match row.and_then(|e| e.handler) {
        Some(handler) if !cx.kernel.config.strace => handler(cx, raw),
        Some(handler) => traced(cx, row, handler, raw),
        None => missing(cx, nr),
    };
    cx.task.in_syscall.store(u64::MAX, Ordering::Relaxed);
    result
}

fn missing(cx: &Cx, nr: u64) -> Result<SysRet> {
    if cx.kernel.missing_logged.lock().insert(nr) {
        let name = name_of(nr).unwrap_or("unknown");
        cx.kernel.log(LogLevel::Warn, &format!("system call {nr} ({name}) is not implemented: ENOSYS"));
    }
    Err(Errno::ENOSYS.into())
}

fn traced(cx: &Cx, row: Option<&'static Entry>, handler: Handler, raw: &[u64; 6]) -> Result<SysRet> {
    let Some(row) = row else { return handler(cx, raw) };
    let trace = Trace { cx, row, raw };
    let before = trace.before();
    let result = handler(cx, raw);
    cx.kernel.machine.log(LogLevel::Info, &trace.line(before, &result));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dispatch finds a row by its place or by binary search: both need the order.
    #[test]
    fn rows_are_in_order() {
        for pair in TABLE.windows(2) {
            assert!(
                pair[0].nr < pair[1].nr,
                "{} {} before {} {}",
                pair[0].nr,
                pair[0].name,
                pair[1].nr,
                pair[1].name
            );
        }
    }
}
