//! What the directory of a process or thread holds.

use super::process::{Target, Threads};
use super::{fds, memory, mounts, name_spaces, net, sched, stat, status, texts};
use crate::error::Result;
use crate::fs::pseudo::{DirSource, Meta, Out};
use crate::fs::{Inode, Path};
use crate::task::Cx;
use abi::fs::FileType;
use alloc::sync::Arc;

type Show = fn(&Cx, &Target, &mut Out) -> Result<()>;
type Store = fn(&Cx, &Target, &[u8]) -> Result<()>;

/// What an entry is.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A text.
    Text(Show),
    /// A text that only those who may look into the process can open.
    Guarded(Show),
    /// A text that can be written.
    Value(Show, Store),
    /// A magic link to a place.
    Link(fn(&Cx, &Target) -> Result<Path>),
    /// A computed directory.
    Dir(fn(Arc<Target>) -> Arc<dyn DirSource>),
    /// A directory of more rows, with the slot of the first.
    Table(&'static [Row], u64),
    /// Something of its own.
    Special(fn(Arc<Target>, Meta) -> Arc<dyn Inode>),
}

use Kind::{Dir, Guarded, Link, Special, Table, Text, Value};

impl Kind {
    pub(super) fn file_type(&self) -> FileType {
        match self {
            Text(_) | Guarded(_) | Value(..) | Special(_) => FileType::Regular,
            Link(_) => FileType::Symlink,
            Dir(_) | Table(..) => FileType::Directory,
        }
    }
}

/// Where an entry appears.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Both,
    Process,
    Thread,
}

/// One entry.
pub(super) struct Row {
    pub name: &'static str,
    pub mode: u32,
    pub scope: Scope,
    pub kind: Kind,
}

const fn both(name: &'static str, mode: u32, kind: Kind) -> Row {
    Row { name, mode, scope: Scope::Both, kind }
}
const fn process(name: &'static str, mode: u32, kind: Kind) -> Row {
    Row { name, mode, scope: Scope::Process, kind }
}
const fn thread(name: &'static str, mode: u32, kind: Kind) -> Row {
    Row { name, mode, scope: Scope::Thread, kind }
}

/// `/proc/PID` and `/proc/PID/task/TID`.
pub(super) static ROOT: &[Row] = &[
    process("task", 0o555, Dir(|target| Arc::new(Threads(target)))),
    both("fd", 0o500, Dir(|target| Arc::new(fds::Fds::links(target)))),
    both("fdinfo", 0o555, Dir(|target| Arc::new(fds::Fds::infos(target)))),
    both("ns", 0o511, Dir(|target| Arc::new(name_spaces::Links(target)))),
    both("net", 0o555, Table(net::FILES, 100)),
    both("environ", 0o400, Guarded(memory::environ)),
    both("auxv", 0o400, Guarded(memory::auxv)),
    both("status", 0o444, Text(status::status)),
    both("personality", 0o400, Guarded(texts::personality)),
    both("limits", 0o444, Text(texts::limits)),
    both("sched", 0o644, Value(sched::sched, texts::ignore)),
    both("comm", 0o644, Value(texts::comm, texts::set_comm)),
    both("syscall", 0o400, Guarded(texts::syscall)),
    both("cmdline", 0o444, Text(memory::cmdline)),
    both("stat", 0o444, Text(stat::stat)),
    both("statm", 0o444, Text(memory::statm)),
    both("maps", 0o444, Guarded(memory::maps)),
    thread("children", 0o444, Text(texts::children)),
    both("numa_maps", 0o444, Guarded(memory::numa_maps)),
    both("mem", 0o600, Special(memory::mem)),
    both("cwd", 0o777, Link(texts::cwd)),
    both("root", 0o777, Link(texts::root)),
    both("exe", 0o777, Link(texts::exe)),
    both("mounts", 0o444, Text(mounts::mounts)),
    both("mountinfo", 0o444, Text(mounts::mountinfo)),
    process("mountstats", 0o400, Text(mounts::mountstats)),
    process("clear_refs", 0o200, Value(texts::nothing, texts::ignore)),
    both("smaps", 0o444, Guarded(memory::smaps)),
    both("smaps_rollup", 0o444, Guarded(memory::smaps_rollup)),
    both("pagemap", 0o400, Special(memory::pagemap)),
    both("attr", 0o555, Table(ATTR, 140)),
    both("wchan", 0o444, Text(texts::wchan)),
    both("stack", 0o400, Guarded(texts::nothing)),
    both("schedstat", 0o444, Text(sched::schedstat)),
    both("cpuset", 0o444, Text(texts::cpuset)),
    both("cgroup", 0o444, Text(texts::cgroup)),
    both("oom_score", 0o444, Text(texts::oom_score)),
    both("oom_adj", 0o644, Value(texts::oom_adj, texts::set_oom_adj)),
    both("oom_score_adj", 0o644, Value(texts::oom_score_adj, texts::set_oom_score_adj)),
    both("loginuid", 0o644, Value(texts::unset_id, texts::refuse)),
    both("sessionid", 0o444, Text(texts::unset_id)),
    process("coredump_filter", 0o644, Value(texts::coredump_filter, texts::ignore)),
    both("io", 0o400, Guarded(texts::io)),
    both("uid_map", 0o644, Value(texts::id_map, texts::refuse)),
    both("gid_map", 0o644, Value(texts::id_map, texts::refuse)),
    both("projid_map", 0o644, Value(texts::id_map, texts::refuse)),
    both("setgroups", 0o644, Value(texts::setgroups, texts::refuse)),
    process("timers", 0o444, Text(texts::nothing)),
    process("timerslack_ns", 0o666, Value(texts::timerslack, texts::set_timerslack)),
];

/// `/proc/PID/attr`: no security module is there, which reads say as Linux does.
static ATTR: &[Row] = &[
    both("current", 0o666, Value(texts::no_module, texts::refuse_module)),
    both("prev", 0o444, Text(texts::no_module)),
    both("exec", 0o666, Value(texts::no_module, texts::refuse_module)),
    both("fscreate", 0o666, Value(texts::no_module, texts::refuse_module)),
    both("keycreate", 0o666, Value(texts::no_module, texts::refuse_module)),
    both("sockcreate", 0o666, Value(texts::no_module, texts::refuse_module)),
];
