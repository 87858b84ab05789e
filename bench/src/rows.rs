//! The rows by name.

use crate::{Context, apps, calls, files, ipc, memory, process};
use std::io::{Error, ErrorKind, Result};

/// A row: its name, and the function that measures it. Time rows answer nanoseconds for one operation, `pipe_bandwidth` bytes a
/// second.
pub type Row = (&'static str, fn(&Context) -> Result<f64>);

/// Every row that runs inside.
pub const ROWS: &[Row] = &[
    ("control", calls::control),
    ("getppid", calls::getppid),
    ("getpid", calls::getpid),
    ("gettid", calls::gettid),
    ("getuid", calls::getuid),
    ("clock_gettime_raw", calls::clock_gettime_raw),
    ("sched_yield", calls::sched_yield),
    ("sigprocmask", calls::sigprocmask),
    ("clock_gettime", calls::clock_gettime),
    ("read_zero", calls::read_zero),
    ("write_null", calls::write_null),
    ("epoll_eventfd", calls::epoll_eventfd),
    ("signal_self", calls::signal_self),
    ("pread_tmpfs", files::pread_tmpfs),
    ("pread_host", files::pread_host),
    ("open_close_tmpfs", files::open_close_tmpfs),
    ("open_close_host", files::open_close_host),
    ("stat_tmpfs", files::stat_tmpfs),
    ("stat_host", files::stat_host),
    ("create_write_unlink", files::create_write_unlink),
    ("getdents_100", files::getdents_100),
    ("map_touch_unmap", memory::map_touch_unmap),
    ("page_fault", memory::page_fault),
    ("pipe_pingpong", ipc::pipe_pingpong),
    ("unix_pingpong", ipc::unix_pingpong),
    ("futex_pingpong", ipc::futex_pingpong),
    ("context_switch", ipc::context_switch),
    ("pipe_bandwidth", ipc::pipe_bandwidth),
    ("thread_create_join", process::thread_create_join),
    ("std_thread", process::std_thread),
    ("fork_exit_wait", process::fork_exit_wait),
    ("vfork_exec", process::vfork_exec),
    ("vfork_exec_after_forks", process::vfork_exec_after_forks),
    ("spawn_true", process::spawn_true),
    ("bash_200_true", apps::bash_200_true),
    ("python_start", apps::python_start),
    ("tar_2000", apps::tar_2000),
    ("find_2000", apps::find_2000),
    ("find_2000_first", apps::find_2000_first),
    ("gcc_1000_lines", apps::gcc_1000_lines),
    ("git_commit_1000", apps::git_commit_1000),
    ("sqlite_2000_commits", apps::sqlite_2000_commits),
    ("sqlite_bulk", apps::sqlite_bulk),
];

/// Measures one row.
pub fn run(id: &str, context: &Context) -> Result<f64> {
    let row = ROWS.iter().find(|row| row.0 == id);
    let row = row.ok_or_else(|| Error::new(ErrorKind::InvalidInput, format!("no row {id}")))?;
    row.1(context)
}
