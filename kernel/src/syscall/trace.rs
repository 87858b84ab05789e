//! What `--strace` prints of a call: arguments by name, strings, and the structures that one looks for first.
//!
//! What a call reads is shown as it was before the call (after `execve` it would be gone), what it fills in as it is afterwards. User
//! memory that cannot be read is shown as its address. Where nothing is said here, the argument's type shows it.

use super::dispatch::{Entry, SysRet};
use super::poll::PollFd;
use super::trace_names::{self as names, Names};
use crate::error::{Error, Result};
use crate::task::{Cx, Rlimit};
use crate::user::{UserCStr, UserPtr};
use abi::fs::Stat;
use abi::signal::Sigaction;
use abi::time::{Timespec, Timeval};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use zerocopy::{FromBytes, IntoBytes};

/// Most bytes of a string that are shown, and most elements of a list.
const SHOWN: usize = 32;
/// `O_CREAT`, and the bit that tells `O_TMPFILE` from `O_DIRECTORY`.
const MAKES_FILE: u64 = 0o100 | 0o20000000;

/// A call being traced.
pub(super) struct Trace<'a> {
    pub cx: &'a Cx<'a>,
    pub row: &'static Entry,
    pub raw: &'a [u64; 6],
}

impl Trace<'_> {
    /// The arguments before the call; `None` for what it fills in.
    pub(super) fn before(&self) -> Vec<Option<String>> {
        self.args()
            .map(|(name, raw, show)| {
                if is_output(self.row.name, name) {
                    None
                } else {
                    Some(self.input(name, raw).unwrap_or_else(|| show(raw, self.cx)))
                }
            })
            .collect()
    }

    /// The whole line.
    pub(super) fn line(&self, before: Vec<Option<String>>, result: &Result<SysRet>) -> String {
        let value = match result {
            Ok(SysRet::Value(value)) => Some(*value),
            _ => None,
        };
        let mut line = format!("[{}] {}(", self.cx.task.tid(), self.row.name);
        let mut first = true;
        for ((name, raw, show), text) in self.args().zip(before) {
            if self.is_unused(name) {
                continue;
            }
            if !core::mem::take(&mut first) {
                line.push_str(", ");
            }
            let filled = || value.and_then(|value| self.output(name, raw, value));
            line.push_str(&text.or_else(filled).unwrap_or_else(|| show(raw, self.cx)));
        }
        line.push_str(") = ");
        line.push_str(&self.result(result));
        line
    }

    fn args(&self) -> impl Iterator<Item = (&'static str, u64, super::dispatch::Show)> {
        self.row.args.iter().zip(self.raw).map(|((name, show), raw)| (*name, *raw, *show))
    }

    /// Another argument of the same call.
    fn arg(&self, name: &str) -> u64 {
        self.args().find(|a| a.0 == name).map_or(0, |a| a.1)
    }

    /// Arguments that this call does not look at.
    fn is_unused(&self, name: &str) -> bool {
        let makes = self.arg("flags") & MAKES_FILE != 0;
        match (self.row.name, name) {
            ("open" | "openat" | "mq_open", "mode" | "attr") => !makes,
            // F_DUPFD_CLOEXEC and the like take one; F_GETFD, F_GETFL, F_GETOWN, F_GETSIG, the pipe's size and the seals do not.
            ("fcntl", "arg") => matches!(self.arg("cmd") as u32, 1 | 3 | 9 | 11 | 1032 | 1034),
            ("prctl", "arg3" | "arg4" | "arg5") => self.arg("option") < 23,
            _ => false,
        }
    }

    fn result(&self, result: &Result<SysRet>) -> String {
        match result {
            Ok(SysRet::Value(value)) => match self.row.name {
                "mmap" | "brk" | "mremap" | "shmat" => format!("{value:#x}"),
                "umask" => format!("0{value:02o}"),
                _ => format!("{}", *value as i64),
            },
            Ok(SysRet::Keep) if self.row.name.starts_with("exec") => "0".to_string(),
            Ok(SysRet::Keep | SysRet::Exit) => "?".to_string(),
            Err(Error::Interrupted(_)) => "? (interrupted)".to_string(),
            Err(Error::Errno { errno, why: "" }) => format!("-1 {errno:?} ({errno})"),
            Err(Error::Errno { errno, why }) => format!("-1 {errno:?} ({errno}: {why})"),
        }
    }

    /// What the call reads.
    fn input(&self, name: &str, raw: u64) -> Option<String> {
        let call = self.row.name;
        if let Some(name) = names::number(call, name, raw) {
            return Some(name.to_string());
        }
        match (call, name) {
            ("access" | "faccessat" | "faccessat2", "mode") => Some(flags(raw, names::ACCESS, "F_OK")),
            (_, "mode") | ("umask", "mask") if !call.contains("mempolicy") && call != "mbind" => {
                Some(format!("0{:02o}", raw as u32))
            }
            (_, "signo") => Some(signal(raw)),
            ("write" | "pwrite64" | "sendto" | "setxattr" | "lsetxattr" | "fsetxattr", "buf" | "value") => {
                self.bytes(raw, self.arg("count").max(self.arg("len")).max(self.arg("size")))
            }
            ("execve" | "execveat", "args") => self.strings(raw),
            ("execve" | "execveat", "env") => {
                let count = (0..1 << 16)
                    .take_while(|&i| self.read(raw + 8 * i).is_some_and(|at: u64| at != 0))
                    .count();
                Some(format!("{raw:#x} /* {count} vars */"))
            }
            ("rt_sigaction", "new") => self.sigaction(raw),
            ("rt_sigprocmask" | "rt_sigtimedwait", "set") | ("rt_sigsuspend", "mask") => self.sigset(raw),
            ("nanosleep" | "clock_nanosleep" | "clock_settime", "time")
            | (
                "ppoll" | "pselect6" | "epoll_pwait2" | "rt_sigtimedwait" | "semtimedop" | "futex_wait",
                "timeout",
            ) => self.timespec(raw),
            ("futex", "timeout") if matches!(self.arg("op") & 0x7f, 0 | 6 | 9 | 11 | 13) => {
                self.timespec(raw)
            }
            ("select", "timeout") => {
                self.read(raw).map(|t: Timeval| format!("{{tv_sec={}, tv_usec={}}}", t.sec, t.usec))
            }
            ("clone", "flags") => {
                let exit = raw as u32 & 0xff;
                let rest = flags(raw & !0xff, names::CLONE, "");
                Some(
                    [rest, if exit == 0 { String::new() } else { signal(u64::from(exit)) }]
                        .iter()
                        .filter(|s| !s.is_empty())
                        .cloned()
                        .collect::<Vec<_>>()
                        .join("|"),
                )
            }
            ("unshare", "flags") => Some(flags(raw, names::CLONE, "0")),
            ("futex", "op") => {
                let name = names::FUTEX.get((raw & 0x7f) as usize)?;
                let private = if raw & 0x80 != 0 { "_PRIVATE" } else { "" };
                let clock = if raw & 0x100 != 0 { "|FUTEX_CLOCK_REALTIME" } else { "" };
                Some(format!("{name}{private}{clock}"))
            }
            ("wait4" | "waitid", "options") => Some(
                flags(raw, names::WAIT, "0")
                    .replace("WSTOPPED", if call == "wait4" { "WUNTRACED" } else { "WSTOPPED" }),
            ),
            ("setrlimit", "rlim") | ("prlimit64", "new") => self.rlimit(raw),
            ("unlinkat", "flags") => Some(flags(raw, names::AT_UNLINK, "0")),
            ("faccessat2", "flags") => Some(flags(raw, names::AT_ACCESS, "0")),
            (
                "newfstatat" | "statx" | "linkat" | "fchownat" | "utimensat" | "execveat" | "fchmodat2",
                "flags",
            ) => Some(flags(raw, names::AT, "0")),
            (
                "pipe2" | "dup3" | "inotify_init1" | "epoll_create1" | "eventfd2" | "signalfd4"
                | "timerfd_create",
                "flags",
            ) => Some(flags(raw, names::OPEN, "0")),
            ("getrandom", "flags") => Some(flags(raw, names::GRND, "0")),
            ("memfd_create", "flags") => Some(flags(raw, names::MFD, "0")),
            ("renameat2", "flags") => Some(flags(raw, names::RENAME, "0")),
            ("flock", "operation") => Some(flags(raw, names::FLOCK, "0")),
            ("connect" | "bind", "addr") => self.address(raw, self.arg("len")),
            ("sendto", "addr") => self.address(raw, self.arg("addr_len")),
            ("fcntl", "arg") => Some(match self.arg("cmd") as u32 {
                2 if raw == 1 => "FD_CLOEXEC".to_string(),
                4 => flags(raw & !3, names::OPEN, "0"),
                5..=7 | 12.. if raw > 0xffff => format!("{raw:#x}"),
                _ => format!("{}", raw as i64),
            }),
            (
                "mmap" | "munmap" | "mprotect" | "madvise" | "mremap" | "msync" | "mlock",
                "len" | "old_len" | "new_len",
            ) => Some(format!("{raw}")),
            (_, "addr" | "to" | "stack" | "parent_tid" | "child_tid" | "tls") if raw == 0 => {
                Some("NULL".to_string())
            }
            _ => None,
        }
    }

    /// What the call has filled in.
    fn output(&self, name: &str, raw: u64, value: u64) -> Option<String> {
        if raw == 0 {
            return Some("NULL".to_string());
        }
        match (self.row.name, name) {
            (_, "buf") if is_stat(self.row.name) => self.read(raw).map(|stat: Stat| show_stat(&stat)),
            ("getcwd", "buf") => self.bytes(raw, value.saturating_sub(1)),
            (_, "buf") => self.bytes(raw, value),
            ("pipe" | "pipe2" | "socketpair", "fds") => {
                self.read(raw).map(|fds: [i32; 2]| format!("[{}, {}]", fds[0], fds[1]))
            }
            ("poll" | "ppoll", "fds") => {
                let count = (self.arg("count") as usize).min(SHOWN);
                let fds: Vec<PollFd> = UserPtr::new(raw).read_array(self.cx, count).ok()?;
                Some(format!("[{}]", fds.iter().map(show_poll).collect::<Vec<_>>().join(", ")))
            }
            ("wait4", "status") if value == 0 => Some(format!("{raw:#x}")),
            ("wait4", "status") => self.read(raw).map(wait_status),
            ("rt_sigaction", "old") => self.sigaction(raw),
            ("rt_sigprocmask", "old") => self.sigset(raw),
            ("getrlimit", "rlim") | ("prlimit64", "old") => self.rlimit(raw),
            ("clock_gettime" | "clock_getres", "time" | "resolution") => self.timespec(raw),
            _ => None,
        }
    }

    fn read<T: FromBytes + IntoBytes>(&self, addr: u64) -> Option<T> {
        UserPtr::new(addr).non_null()?.read(self.cx).ok()
    }

    fn bytes(&self, addr: u64, len: u64) -> Option<String> {
        let shown = usize::try_from(len).unwrap_or(usize::MAX).min(SHOWN);
        let bytes = UserPtr::<u8>::new(addr).read_vec(self.cx, shown).ok()?;
        Some(format!("\"{}\"{}", bytes.escape_ascii(), if shown as u64 == len { "" } else { "..." }))
    }

    fn strings(&self, array: u64) -> Option<String> {
        let mut shown = Vec::new();
        for i in 0.. {
            match self.read::<u64>(array.checked_add(8 * i)?)? {
                0 => break,
                _ if shown.len() == SHOWN => {
                    shown.push("...".to_string());
                    break;
                }
                at => {
                    let text = UserCStr(at).read(self.cx, 128).ok()?;
                    shown.push(text.map_or_else(
                        || "\"...\"".to_string(),
                        |text| format!("\"{}\"", text.escape_ascii()),
                    ));
                }
            }
        }
        Some(format!("[{}]", shown.join(", ")))
    }

    fn timespec(&self, addr: u64) -> Option<String> {
        self.read(addr).map(|t: Timespec| format!("{{tv_sec={}, tv_nsec={}}}", t.sec, t.nsec))
    }

    fn rlimit(&self, addr: u64) -> Option<String> {
        let text =
            |limit: u64| if limit == u64::MAX { "RLIM64_INFINITY".to_string() } else { format!("{limit}") };
        self.read(addr).map(|l: Rlimit| format!("{{rlim_cur={}, rlim_max={}}}", text(l.cur), text(l.max)))
    }

    fn sigset(&self, addr: u64) -> Option<String> {
        self.read(addr).map(signals)
    }

    fn sigaction(&self, addr: u64) -> Option<String> {
        let action: Sigaction = self.read(addr)?;
        let handler = match action.handler {
            0 => "SIG_DFL".to_string(),
            1 => "SIG_IGN".to_string(),
            at => format!("{at:#x}"),
        };
        let sa = flags(action.flags & 0xffff_ffff, names::SA, "0");
        Some(format!("{{sa_handler={handler}, sa_mask={}, sa_flags={sa}}}", signals(action.mask)))
    }

    fn address(&self, addr: u64, len: u64) -> Option<String> {
        let len = usize::try_from(len).ok().filter(|&len| (2..=128).contains(&len))?;
        let bytes = UserPtr::<u8>::new(addr).non_null()?.read_vec(self.cx, len).ok()?;
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        match (u16::from_le_bytes(*family), rest) {
            (1, [0, name @ ..]) => {
                Some(format!("{{sa_family=AF_UNIX, sun_path=@\"{}\"}}", name.escape_ascii()))
            }
            (1, path) => {
                let path = path.split(|&b| b == 0).next().unwrap_or_default();
                Some(format!("{{sa_family=AF_UNIX, sun_path=\"{}\"}}", path.escape_ascii()))
            }
            (2, _) => Some("{sa_family=AF_INET, ...}".to_string()),
            (10, _) => Some("{sa_family=AF_INET6, ...}".to_string()),
            (family, _) => Some(format!("{{sa_family={family}, ...}}")),
        }
    }
}

fn is_stat(call: &str) -> bool {
    matches!(call, "stat" | "fstat" | "lstat" | "newfstatat")
}

fn is_output(call: &str, arg: &str) -> bool {
    match arg {
        "buf" => {
            is_stat(call)
                || matches!(
                    call,
                    "read"
                        | "pread64"
                        | "recvfrom"
                        | "readlink"
                        | "readlinkat"
                        | "getcwd"
                        | "getrandom"
                        | "getxattr"
                        | "lgetxattr"
                        | "fgetxattr"
                        | "listxattr"
                        | "llistxattr"
                        | "flistxattr"
                )
        }
        "fds" => matches!(call, "pipe" | "pipe2" | "socketpair" | "poll" | "ppoll"),
        "status" => call == "wait4",
        "old" => matches!(call, "rt_sigaction" | "rt_sigprocmask" | "prlimit64"),
        "rlim" => call == "getrlimit",
        "time" | "resolution" => matches!(call, "clock_gettime" | "clock_getres"),
        _ => false,
    }
}

/// Names of the bits that are set, and the rest as a number; `none` when no bit is.
fn flags(raw: u64, names: Names, none: &str) -> String {
    let mut rest = raw;
    let mut parts: Vec<String> = Vec::new();
    for (bit, name) in names {
        if rest & bit == *bit {
            parts.push((*name).to_string());
            rest &= !bit;
        }
    }
    if rest != 0 {
        parts.push(format!("{rest:#x}"));
    }
    if parts.is_empty() { none.to_string() } else { parts.join("|") }
}

fn signal(raw: u64) -> String {
    match usize::try_from(raw as u32).ok().and_then(|n| names::SIGNALS.get(n.checked_sub(1)?)) {
        Some(name) => format!("SIG{name}"),
        None if (32..=64).contains(&(raw as u32)) => format!("SIGRT_{}", raw as u32 - 32),
        None => format!("{}", raw as i32),
    }
}

/// A signal set as strace shows it, without `SIG`; one with more members than not by what it lacks.
fn signals(set: u64) -> String {
    let inverted = set.count_ones() > 32;
    let shown = if inverted { !set } else { set };
    let list: Vec<String> = (1..=64u64)
        .filter(|n| shown >> (n - 1) & 1 == 1)
        .map(|n| signal(n).trim_start_matches("SIG").to_string())
        .collect();
    format!("{}[{}]", if inverted { "~" } else { "" }, list.join(" "))
}

fn show_stat(stat: &Stat) -> String {
    let kind = match stat.mode & 0o170000 {
        0o010000 => "S_IFIFO",
        0o020000 => "S_IFCHR",
        0o040000 => "S_IFDIR",
        0o060000 => "S_IFBLK",
        0o100000 => "S_IFREG",
        0o120000 => "S_IFLNK",
        _ => "S_IFSOCK",
    };
    format!("{{st_mode={kind}|0{:o}, st_size={}, ...}}", stat.mode & 0o7777, stat.size)
}

fn show_poll(poll: &PollFd) -> String {
    let events = |events: i16| flags(u64::from(events.cast_unsigned()), names::POLL, "0");
    format!("{{fd={}, events={}, revents={}}}", poll.fd, events(poll.events), events(poll.revents))
}

fn wait_status(status: i32) -> String {
    let (low, high) = (status & 0x7f, status >> 8 & 0xff);
    match low {
        0 => format!("[{{WIFEXITED(s) && WEXITSTATUS(s) == {high}}}]"),
        0x7f if status == 0xffff => "[{WIFCONTINUED(s)}]".to_string(),
        0x7f => format!("[{{WIFSTOPPED(s) && WSTOPSIG(s) == {}}}]", signal(high as u64)),
        _ => {
            let core = if status & 0x80 != 0 { " && WCOREDUMP(s)" } else { "" };
            format!("[{{WIFSIGNALED(s) && WTERMSIG(s) == {}{core}}}]", signal(low as u64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bits_and_what_is_left() {
        assert_eq!(flags(5, names::ACCESS, "F_OK"), "R_OK|X_OK");
        assert_eq!(flags(0, names::ACCESS, "F_OK"), "F_OK");
        assert_eq!(flags(0x1010, names::AT, "0"), "AT_EMPTY_PATH|0x10");
    }

    #[test]
    fn signals_and_sets() {
        assert_eq!(
            (signal(11).as_str(), signal(34).as_str(), signal(0).as_str()),
            ("SIGSEGV", "SIGRT_2", "0")
        );
        assert_eq!(signals(1 << 16 | 2), "[INT CHLD]");
        assert_eq!(signals(!(1 << 8)), "~[KILL]");
    }

    #[test]
    fn wait_statuses() {
        assert_eq!(wait_status(3 << 8), "[{WIFEXITED(s) && WEXITSTATUS(s) == 3}]");
        assert_eq!(wait_status(0x8b), "[{WIFSIGNALED(s) && WTERMSIG(s) == SIGSEGV && WCOREDUMP(s)}]");
        assert_eq!(wait_status(20 << 8 | 0x7f), "[{WIFSTOPPED(s) && WSTOPSIG(s) == SIGTSTP}]");
        assert_eq!(wait_status(0xffff), "[{WIFCONTINUED(s)}]");
    }
}
