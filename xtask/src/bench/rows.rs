//! The rows: what each is, what it needs, and how many times the host's own time it may take. This table is the only place where
//! the marks stand.

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Nanoseconds for one operation; less is better.
    Nanoseconds,
    /// Bytes a second; more is better.
    BytesPerSecond,
    /// Bytes of memory; less is better.
    Bytes,
}

/// How a row is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By `vk-bench`, inside.
    Inside,
    /// From outside: a whole launcher that runs /bin/true, from its start to its end.
    ColdStart,
    /// From outside: proportional memory of all processes of a launcher that runs an idle program.
    Idle,
}

/// The mark.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AtMost {
    /// So many times the better native figure.
    Times(f64),
    /// As [`AtMost::Times`], where a host CPU is spare and where none is.
    TimesBySpareCpu(f64, f64),
    /// A figure in the row's unit.
    Absolute(f64),
    /// No mark: shown for comparison, or to see whether the machine was disturbed.
    Nothing,
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    pub id: &'static str,
    pub title: &'static str,
    pub group: &'static str,
    pub unit: Unit,
    pub method: Method,
    pub at_most: AtMost,
    /// Worse than this is a defect, not a mark that is still to reach; in the terms of `at_most`.
    pub floor: Option<f64>,
    /// Programs that it runs.
    pub needs: &'static [&'static str],
}

use AtMost::{Absolute, Nothing, Times, TimesBySpareCpu};

const CALLS: &str = "System calls";
const FILES: &str = "Files";
const MEMORY: &str = "Memory";
const TALK: &str = "Two tasks";
const TASKS: &str = "Threads and processes";
const APPS: &str = "Programs";
const WHOLE: &str = "The sandbox";

const fn row(id: &'static str, title: &'static str, group: &'static str, at_most: AtMost) -> Row {
    let (unit, method) = (Unit::Nanoseconds, Method::Inside);
    Row { id, title, group, unit, method, at_most, floor: None, needs: &[] }
}

const fn app(id: &'static str, title: &'static str, times: f64, needs: &'static [&'static str]) -> Row {
    Row { needs, ..row(id, title, APPS, Times(times)) }
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    row("control", "control: arithmetic, no system call", CALLS, Nothing),
    Row { floor: Some(40.0), ..row("getppid", "getppid", CALLS, TimesBySpareCpu(8.0, 25.0)) },
    row("getpid", "getpid", CALLS, Times(1.0)),
    row("gettid", "gettid", CALLS, Times(1.0)),
    row("getuid", "getuid", CALLS, Times(1.0)),
    row("clock_gettime_raw", "clock_gettime, the system call", CALLS, Times(1.0)),
    row("sched_yield", "sched_yield", CALLS, Times(1.0)),
    row("sigprocmask", "sigprocmask", CALLS, Times(1.0)),
    row("clock_gettime", "clock_gettime, through libc", CALLS, Times(1.05)),
    row("read_zero", "read 1 byte of /dev/zero", CALLS, Times(15.0)),
    row("write_null", "write 1 byte to /dev/null", CALLS, Times(12.0)),
    row("epoll_eventfd", "eventfd: write, epoll_wait, read", CALLS, Times(8.0)),
    row("signal_self", "signal to self", CALLS, Times(4.0)),
    row("pread_tmpfs", "pread 4 KiB, tmpfs", FILES, Times(10.0)),
    row("pread_host", "pread 4 KiB, host layer", FILES, Times(10.0)),
    row("open_close_tmpfs", "open and close, tmpfs", FILES, Times(5.0)),
    row("open_close_host", "open and close, host layer", FILES, Times(7.0)),
    row("stat_tmpfs", "stat, tmpfs", FILES, Times(5.0)),
    row("stat_host", "stat, host layer", FILES, Times(6.0)),
    row("create_write_unlink", "create, write 4 KiB, unlink, tmpfs", FILES, Times(2.0)),
    row("getdents_100", "getdents of 100 entries, tmpfs", FILES, Times(1.5)),
    row("map_touch_unmap", "map, touch and unmap 16 KiB", MEMORY, Times(2.0)),
    row("page_fault", "page fault, anonymous memory", MEMORY, Times(1.2)),
    row("pipe_pingpong", "pipe round trip, processes", TALK, Times(3.0)),
    row("unix_pingpong", "AF_UNIX round trip, processes", TALK, Times(2.0)),
    row("futex_pingpong", "futex round trip, threads", TALK, Times(3.0)),
    row("context_switch", "context switch on one CPU", TALK, Times(3.0)),
    Row {
        unit: Unit::BytesPerSecond,
        ..row("pipe_bandwidth", "pipe bandwidth, processes", TALK, Times(1.0))
    },
    row("thread_create_join", "thread: pthread_create and pthread_join", TASKS, Times(1.0)),
    row("std_thread", "thread of Rust's standard library", TASKS, Nothing),
    Row { floor: Some(3.0), ..row("fork_exit_wait", "fork, exit, wait", TASKS, Times(2.5)) },
    row("vfork_exec", "vfork and exec of a static program", TASKS, Times(1.0)),
    row("vfork_exec_after_forks", "the same, after 500 forks", TASKS, Times(1.0)),
    row("spawn_true", "spawn /bin/true", TASKS, Nothing),
    app("bash_200_true", "bash: 200 times /bin/true", 1.2, &["bash"]),
    app("python_start", "python3: start and end", 1.3, &["python3"]),
    app("tar_2000", "tar of 2,000 files", 2.0, &["tar"]),
    app("find_2000", "find and stat of 2,000 files", 2.0, &["find"]),
    Row { needs: &["find"], ..row("find_2000_first", "the same, files not seen before", APPS, Nothing) },
    app("gcc_1000_lines", "gcc -O2 of 1,000 lines", 1.0, &["gcc"]),
    app("git_commit_1000", "git add and commit of 1,000 files", 1.3, &["git"]),
    app("sqlite_2000_commits", "sqlite: 2,000 commits", 2.0, &["sqlite3"]),
    app("sqlite_bulk", "sqlite: bulk insert and query", 1.05, &["sqlite3"]),
    Row {
        method: Method::ColdStart,
        floor: Some(60e6),
        ..row("cold_start", "cold start of /bin/true", WHOLE, Absolute(12e6))
    },
    Row {
        method: Method::Idle,
        unit: Unit::Bytes,
        floor: Some(25.0 * 1048576.0),
        ..row("idle_pss", "idle: proportional memory", WHOLE, Absolute(6.0 * 1048576.0))
    },
];

impl Row {
    /// Whether a pattern names it: part of its name, title or group, whatever the case.
    pub fn matches(&self, pattern: &str) -> bool {
        let pattern = pattern.to_lowercase();
        [self.id, self.title, self.group].iter().any(|text| text.to_lowercase().contains(&pattern))
    }
}

impl AtMost {
    /// The mark as a ratio, where it is one.
    pub fn times(self, spare_cpu: bool) -> Option<f64> {
        match self {
            Times(times) => Some(times),
            TimesBySpareCpu(spare, none) => Some(if spare_cpu { spare } else { none }),
            Absolute(_) | Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_and_the_program_inside_have_the_same_rows() {
        let ours: BTreeSet<_> = ROWS.iter().filter(|r| r.method == Method::Inside).map(|r| r.id).collect();
        let theirs: BTreeSet<_> = vk_bench::rows::ROWS.iter().map(|r| r.0).collect();
        assert_eq!(ours, theirs);
        assert_eq!(ROWS.iter().map(|r| r.id).collect::<BTreeSet<_>>().len(), ROWS.len(), "a name twice");
    }

    #[test]
    fn the_rows_of_a_group_stand_together() {
        let mut groups: Vec<_> = ROWS.iter().map(|r| r.group).collect();
        groups.dedup();
        assert_eq!(groups.iter().collect::<BTreeSet<_>>().len(), groups.len());
    }

    #[test]
    fn a_pattern_finds_name_title_and_group() {
        let found =
            |pattern: &str| ROWS.iter().filter(|r| r.matches(pattern)).map(|r| r.id).collect::<Vec<_>>();
        assert_eq!(found("getppid"), ["getppid"]);
        assert_eq!(found("PYTHON3"), ["python_start"]);
        assert_eq!(found("sandbox"), ["cold_start", "idle_pss"]);
        assert!(found("no such row").is_empty());
    }

    #[test]
    fn the_mark_depends_on_a_spare_cpu() {
        assert_eq!(TimesBySpareCpu(8.0, 25.0).times(true), Some(8.0));
        assert_eq!(TimesBySpareCpu(8.0, 25.0).times(false), Some(25.0));
        assert_eq!(Absolute(1.0).times(true), None);
    }
}
