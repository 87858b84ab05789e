//! `/proc/sys`: settings.
//!
//! What the kernel heeds is in [`Settings`]. Other settings have the value that describes what the kernel does, and refuse to be
//! set to another with `EINVAL`, unless the other makes no difference that a program could see: those keep what is written, within Linux's bounds.

use super::texts::number;
use crate::error::{Result, err};
use crate::fs::pseudo::{Entries, Node, Out, put};
use crate::settings::{Setting, Settings};
use crate::task::{CAP_LAST, Cx, PID_MAX};
use abi::Errno;
use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicI64, Ordering};

/// A number that can be set within bounds.
fn setting(default: i64, min: i64, max: i64) -> Node {
    let value = alloc::sync::Arc::new(AtomicI64::new(default));
    let shown = value.clone();
    Node::value(
        move |_: &Cx, out: &mut Out| {
            put!(out, "{}\n", shown.load(Ordering::Relaxed));
            Ok(())
        },
        move |_: &Cx, bytes: &[u8]| {
            let new = number(bytes)?;
            if !(min..=max).contains(&new) {
                return err(Errno::EINVAL);
            }
            value.store(new, Ordering::Relaxed);
            Ok(())
        },
    )
}

/// A number that the kernel heeds.
fn heeded(pick: impl Fn(&Settings) -> &Setting + Send + Sync + Clone + 'static, min: i64, max: i64) -> Node {
    let shown = pick.clone();
    Node::value(
        move |cx: &Cx, out: &mut Out| {
            put!(out, "{}\n", shown(&cx.kernel.settings).get());
            Ok(())
        },
        move |cx: &Cx, bytes: &[u8]| {
            let new = number(bytes)?;
            if !(min..=max).contains(&new) {
                return err(Errno::EINVAL);
            }
            pick(&cx.kernel.settings).set(new);
            Ok(())
        },
    )
}

/// `fs.pipe-max-size`: rounded up to what a pipe can have.
fn pipe_max_size() -> Node {
    Node::value(
        |cx: &Cx, out: &mut Out| {
            put!(out, "{}\n", cx.kernel.settings.pipe_max_size.get());
            Ok(())
        },
        |cx: &Cx, bytes: &[u8]| {
            let new = u64::try_from(number(bytes)?).map_err(|_| Errno::EINVAL)?;
            if new == 0 || new > 1 << 31 {
                return err(Errno::EINVAL);
            }
            cx.kernel.settings.pipe_max_size.set(new.max(4096).next_power_of_two() as i64);
            Ok(())
        },
    )
}

/// A number that is always the same but may be "set" to it.
fn fixed(value: i64) -> Node {
    setting(value, value, value)
}

/// A number that can only be read.
fn read_only(value: impl core::fmt::Display) -> Node {
    Node::constant(format!("{value}\n"))
}

/// One of the two names that `uname(2)` shows and that can be changed.
fn name(domain: bool) -> Node {
    Node::value(
        move |cx: &Cx, out: &mut Out| {
            let names = cx.kernel.names.lock().clone();
            put!(out, "{}\n", if domain { names.1 } else { names.0 });
            Ok(())
        },
        move |cx: &Cx, bytes: &[u8]| {
            if !cx.task.creds().has(crate::task::Cap::SysAdmin) {
                return err(Errno::EPERM);
            }
            let line = bytes.split(|&b| b == b'\n' || b == 0).next().unwrap_or_default();
            let cut = line.get(..line.len().min(64)).unwrap_or_default();
            let new = String::from_utf8_lossy(cut).into_owned();
            let mut names = cx.kernel.names.lock();
            if domain {
                names.1 = new;
            } else {
                names.0 = new;
            }
            Ok(())
        },
    )
}

/// Sixteen bytes as the text of a version-4 UUID.
fn uuid_text(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn uuid(cx: &Cx, out: &mut Out) -> Result<()> {
    let mut bytes = [0; 16];
    cx.kernel.machine.entropy(&mut bytes);
    put!(out, "{}\n", uuid_text(bytes));
    Ok(())
}

/// The same for the life of the kernel.
fn boot_id() -> Node {
    let id = crate::sync::Once::new();
    Node::text(move |cx: &Cx, out: &mut Out| {
        let bytes: &[u8; 16] = id.call_once(|| {
            let mut bytes = [0; 16];
            cx.kernel.machine.entropy(&mut bytes);
            bytes
        });
        put!(out, "{}\n", uuid_text(*bytes));
        Ok(())
    })
}

/// Adds the tree.
pub(super) fn register(tree: &Entries) -> Result<()> {
    kernel(tree)?;
    vm(tree)?;
    fs(tree)?;
    net(tree)?;
    tree.register("sys/abi/vsyscall32", fixed(0))?;
    tree.register("sys/debug/exception-trace", setting(0, 0, 1))?;
    tree.register("sys/dev/tty/ldisc_autoload", fixed(1))?;
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        tree.register(&format!("sys/user/max_{kind}_namespaces"), fixed(0))?;
    }
    tree.register("sys/user/max_inotify_instances", fixed(128))?;
    tree.register("sys/user/max_inotify_watches", fixed(65536))
}

fn kernel(tree: &Entries) -> Result<()> {
    let put = |name: &str, node: Node| tree.register(&format!("sys/kernel/{name}"), node);
    put("hostname", name(false))?;
    put("domainname", name(true))?;
    put("ostype", read_only(crate::version::SYSNAME))?;
    put("osrelease", read_only(crate::version::RELEASE))?;
    put("version", read_only(crate::version::VERSION))?;
    put("arch", read_only(crate::version::MACHINE))?;
    put("pid_max", heeded(|s| &s.pid_max, 301, i64::from(PID_MAX)))?;
    put("threads-max", heeded(|s| &s.threads_max, 1, 1 << 20))?;
    put(
        "ns_last_pid",
        Node::text(|cx: &Cx, out: &mut Out| {
            put!(out, "{}\n", cx.kernel.pids.last());
            Ok(())
        })
        .mode(0o666),
    )?;
    put("random/uuid", Node::text(uuid))?;
    put("random/boot_id", boot_id())?;
    put("random/entropy_avail", read_only(256))?;
    put("random/poolsize", read_only(256))?;
    put("random/urandom_min_reseed_secs", setting(60, 0, i64::from(i32::MAX)))?;
    put("random/write_wakeup_threshold", setting(256, 0, 256))?;
    put("ngroups_max", read_only(65536))?;
    put("cap_last_cap", read_only(CAP_LAST))?;
    put("core_pattern", Node::constant("core\n").mode(0o644))?;
    put("core_uses_pid", fixed(0))?;
    put("core_pipe_limit", setting(0, 0, i64::from(i32::MAX)))?;
    put("overflowuid", fixed(65534))?;
    put("overflowgid", fixed(65534))?;
    put("randomize_va_space", heeded(|s| &s.randomize_va_space, 0, 2))?;
    put("printk", Node::constant("4\t4\t1\t7\n").mode(0o644))?;
    put("printk_ratelimit", setting(5, 0, i64::from(i32::MAX)))?;
    put("tainted", fixed(0))?;
    put("panic", setting(0, -1, i64::from(i32::MAX)))?;
    put("panic_on_oops", fixed(0))?;
    put("kptr_restrict", setting(0, 0, 2))?;
    put("dmesg_restrict", setting(1, 0, 1))?;
    put("perf_event_paranoid", setting(4, -1, 4))?;
    put("unprivileged_bpf_disabled", fixed(2))?;
    put("io_uring_disabled", fixed(2))?;
    put("sched_autogroup_enabled", fixed(0))?;
    put("sched_rr_timeslice_ms", fixed(100))?;
    put("sched_rt_period_us", setting(1_000_000, 1, i64::from(i32::MAX)))?;
    put("sched_rt_runtime_us", setting(950_000, -1, i64::from(i32::MAX)))?;
    put("sem", Node::constant("32000\t1024000000\t500\t32000\n").mode(0o644))?;
    put("msgmax", fixed(8192))?;
    put("msgmnb", fixed(16384))?;
    put("msgmni", fixed(32000))?;
    put("shmmax", read_only(18_446_744_073_692_774_399u64).mode(0o644))?;
    put("shmall", read_only(18_446_744_073_692_774_399u64).mode(0o644))?;
    put("shmmni", fixed(4096))?;
    put("shm_rmid_forced", fixed(0))?;
    put("seccomp/actions_avail", Node::constant("\n"))?;
    put("pty/max", fixed(4096))?;
    put("pty/reserve", fixed(1024))?;
    put(
        "pty/nr",
        Node::text(|cx: &Cx, out: &mut Out| {
            put!(out, "{}\n", cx.kernel.terminals.pty_count());
            Ok(())
        }),
    )?;
    put("keys/maxkeys", fixed(200))?;
    put("ctrl-alt-del", setting(0, 0, 1))?;
    put("modprobe", Node::constant("\n").mode(0o644))?;
    put("modules_disabled", fixed(1))?;
    put("hung_task_timeout_secs", setting(0, 0, i64::from(i32::MAX)))?;
    put("sysctl_writes_strict", setting(1, -1, 1))?;
    put("yama/ptrace_scope", fixed(0))
}

fn vm(tree: &Entries) -> Result<()> {
    let put = |name: &str, node: Node| tree.register(&format!("sys/vm/{name}"), node);
    put("overcommit_memory", heeded(|s| &s.overcommit_memory, 0, 1))?;
    put("overcommit_ratio", fixed(50))?;
    put("overcommit_kbytes", fixed(0))?;
    put("max_map_count", heeded(|s| &s.max_map_count, 0, i64::from(i32::MAX)))?;
    put("mmap_min_addr", fixed(65536))?;
    put("swappiness", setting(60, 0, 200))?;
    put("vfs_cache_pressure", setting(100, 0, i64::from(i32::MAX)))?;
    put("dirty_ratio", setting(20, 0, 100))?;
    put("dirty_background_ratio", setting(10, 0, 100))?;
    put("dirty_bytes", setting(0, 0, i64::MAX))?;
    put("dirty_background_bytes", setting(0, 0, i64::MAX))?;
    put("dirty_expire_centisecs", setting(3000, 0, i64::from(i32::MAX)))?;
    put("dirty_writeback_centisecs", setting(500, 0, i64::from(i32::MAX)))?;
    put("drop_caches", setting(0, 1, 4).mode(0o200))?;
    put("compact_memory", setting(0, 1, 1).mode(0o200))?;
    put("min_free_kbytes", setting(0, 0, i64::from(i32::MAX)))?;
    put("nr_hugepages", fixed(0))?;
    put("nr_overcommit_hugepages", fixed(0))?;
    put("oom_dump_tasks", setting(1, 0, 1))?;
    put("oom_kill_allocating_task", fixed(0))?;
    put("panic_on_oom", fixed(0))?;
    put("page-cluster", setting(3, 0, 31))?;
    put("admin_reserve_kbytes", setting(0, 0, i64::MAX))?;
    put("user_reserve_kbytes", setting(0, 0, i64::MAX))?;
    put("zone_reclaim_mode", setting(0, 0, 7))?;
    put("laptop_mode", setting(0, 0, i64::from(i32::MAX)))?;
    put("legacy_va_layout", fixed(0))?;
    put("stat_interval", setting(1, 1, i64::from(i32::MAX)))?;
    put("memfd_noexec", fixed(0))?;
    put("unprivileged_userfaultfd", fixed(0))
}

fn fs(tree: &Entries) -> Result<()> {
    let put = |name: &str, node: Node| tree.register(&format!("sys/fs/{name}"), node);
    put("file-max", heeded(|s| &s.file_max, 0, i64::MAX))?;
    put(
        "file-nr",
        Node::text(|cx: &Cx, out: &mut Out| {
            let open = cx.kernel.open_files.load(Ordering::Relaxed);
            let max = cx.kernel.settings.file_max.get();
            put!(out, "{open}\t0\t{max}\n");
            Ok(())
        }),
    )?;
    put("nr_open", heeded(|s| &s.nr_open, 64, 1 << 30))?;
    put("pipe-max-size", pipe_max_size())?;
    put("pipe-user-pages-hard", fixed(0))?;
    put("pipe-user-pages-soft", fixed(0))?;
    put("inotify/max_queued_events", fixed(16384))?;
    put("inotify/max_user_instances", heeded(|s| &s.inotify_instances, 0, i64::from(i32::MAX)))?;
    put("inotify/max_user_watches", heeded(|s| &s.inotify_watches, 0, i64::from(i32::MAX)))?;
    put("epoll/max_user_watches", fixed(1 << 20))?;
    put("mqueue/msg_default", fixed(10))?;
    put("mqueue/msg_max", heeded(|s| &s.mqueue_msg_max, 1, 65536))?;
    put("mqueue/msgsize_default", fixed(8192))?;
    put("mqueue/msgsize_max", heeded(|s| &s.mqueue_msgsize_max, 128, 16 << 20))?;
    put("mqueue/queues_max", heeded(|s| &s.mqueue_queues_max, 0, i64::from(i32::MAX)))?;
    put("aio-max-nr", setting(65536, 0, i64::MAX))?;
    put("aio-nr", read_only(0))?;
    put("overflowuid", fixed(65534))?;
    put("overflowgid", fixed(65534))?;
    put("protected_fifos", fixed(0))?;
    put("protected_hardlinks", fixed(0))?;
    put("protected_regular", fixed(0))?;
    put("protected_symlinks", fixed(0))?;
    put("suid_dumpable", fixed(0))?;
    put("lease-break-time", setting(45, 0, i64::from(i32::MAX)))?;
    put("leases-enable", fixed(0))?;
    put("dir-notify-enable", fixed(0))?;
    put("mount-max", setting(100_000, 1, i64::from(i32::MAX)))?;
    put("dentry-state", Node::constant("0\t0\t45\t0\t0\t0\n"))?;
    put("inode-nr", Node::constant("0\t0\n"))?;
    put("inode-state", Node::constant("0\t0\t0\t0\t0\t0\t0\n"))
}

fn net(tree: &Entries) -> Result<()> {
    let put = |name: &str, node: Node| tree.register(&format!("sys/net/{name}"), node);
    put("core/somaxconn", heeded(|s| &s.somaxconn, 0, i64::from(i32::MAX)))?;
    put("core/rmem_default", fixed(212_992))?;
    put("core/rmem_max", heeded(|s| &s.rmem_max, 2304, i64::from(i32::MAX)))?;
    put("core/wmem_default", fixed(212_992))?;
    put("core/wmem_max", heeded(|s| &s.wmem_max, 4608, i64::from(i32::MAX)))?;
    put("core/optmem_max", setting(131_072, 0, i64::from(i32::MAX)))?;
    put("unix/max_dgram_qlen", fixed(10))
}

#[cfg(test)]
mod tests {
    use super::uuid_text;

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        assert_eq!(uuid_text([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid_text([0; 16]), "00000000-0000-4000-8000-000000000000");
    }
}
