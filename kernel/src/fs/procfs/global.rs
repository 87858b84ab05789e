//! Files about the kernel as a whole: memory, CPU time, load, file systems.

use super::ticks;
use crate::error::Result;
use crate::fs::lock::{LockKind, Range};
use crate::fs::pseudo::{Entries, Node, Out, put};
use crate::task::Cx;
use abi::fs::DeviceId;
use core::sync::atomic::Ordering;
use hal::PAGE_SIZE;

/// Adds the files.
pub(super) fn register(tree: &Entries) -> Result<()> {
    tree.register("cmdline", Node::constant("vkernel\n"))?;
    tree.register("filesystems", Node::text(filesystems))?;
    tree.register("loadavg", Node::text(loadavg))?;
    tree.register("locks", Node::text(locks))?;
    tree.register("meminfo", Node::text(meminfo))?;
    tree.register("stat", Node::text(stat))?;
    tree.register("swaps", Node::constant("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"))?;
    tree.register("uptime", Node::text(uptime))?;
    tree.register("version", Node::text(version))?;
    tree.register("vmstat", Node::text(vmstat))?;
    tree.register("zoneinfo", Node::text(zoneinfo))?;
    tree.register("buddyinfo", Node::text(buddyinfo))?;
    tree.register("modules", Node::constant(""))?;
    tree.register("cgroups", Node::constant("#subsys_name\thierarchy\tnum_cgroups\tenabled\n"))?;
    tree.register("consoles", Node::constant("tty0                 -WU (EC  p  )    4:1\n"))?;
    tree.register("kallsyms", Node::constant(""))?;
    tree.register("key-users", Node::constant(""))?;
    tree.register("keys", Node::constant(""))?;
    tree.register("crypto", Node::constant(""))?;
    tree.register("execdomains", Node::constant("0-0\tLinux           \t[kernel]\n"))?;
    for resource in ["cpu", "io", "memory"] {
        tree.register(&alloc::format!("pressure/{resource}"), Node::constant(PRESSURE))?;
    }
    tree.register("fs", Node::dir())?;
    tree.register("driver", Node::dir())?;
    tree.register("bus", Node::dir())?;
    tree.register("irq", Node::dir())?;
    tree.register("acpi", Node::dir())?;
    tree.register("tty/drivers", Node::constant(TTY_DRIVERS))
}

const PRESSURE: &str =
    "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
const TTY_DRIVERS: &str = "/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
";

fn filesystems(cx: &Cx, out: &mut Out) -> Result<()> {
    for name in cx.kernel.vfs.types.names() {
        put!(out, "nodev\t{name}\n");
    }
    Ok(())
}

fn locks(cx: &Cx, out: &mut Out) -> Result<()> {
    for (i, lock) in cx.kernel.locks.list().into_iter().enumerate() {
        let kind = match lock.kind {
            LockKind::Shared => "READ ",
            LockKind::Exclusive => "WRITE",
        };
        let dev = DeviceId::decode(lock.file.0);
        put!(out, "{}: {:<6} ADVISORY  {kind} {} ", i + 1, lock.class, lock.pid);
        put!(out, "{:02x}:{:02x}:{} {} ", dev.major, dev.minor, lock.file.1, lock.range.start);
        match lock.range.end {
            Range::MAX => out.text("EOF\n"),
            end => put!(out, "{end}\n"),
        }
    }
    Ok(())
}

fn loadavg(cx: &Cx, out: &mut Out) -> Result<()> {
    let loads = cx.kernel.sched.load_averages(cx.now_ns());
    for load in loads {
        // Fixed point with 11 bits of fraction, as in sysinfo(2), rounded to hundredths.
        let load = load + (1 << 11) / 200;
        put!(out, "{}.{:02} ", load >> 11, ((load & ((1 << 11) - 1)) * 100) >> 11);
    }
    let runnable = cx.kernel.sched.runnable();
    put!(out, "{runnable}/{} {}\n", cx.kernel.pids.task_count(), cx.kernel.pids.last());
    Ok(())
}

/// RAM in use by kind, in pages.
#[derive(Default)]
struct Ram {
    total: u64,
    free: u64,
    anon: u64,
    mapped: u64,
    shmem: u64,
    committed: u64,
}

fn ram(cx: &Cx) -> Ram {
    let frames = &cx.kernel.frames;
    let mut ram = Ram { total: frames.total(), free: frames.available(), ..Ram::default() };
    for process in cx.kernel.pids.processes() {
        let Some(task) = process.threads().first().cloned() else { continue };
        let Some(mm) = task.mm.lock().clone() else { continue };
        let usage = super::memory::usage(&mm);
        ram.anon += usage.anon;
        ram.mapped += usage.file + usage.shmem;
        ram.committed += usage.data + usage.stack;
    }
    let used = ram.total - ram.free;
    ram.anon = ram.anon.min(used);
    // What is neither free nor anonymous is content of files in memory.
    ram.shmem = used - ram.anon;
    ram
}

fn meminfo(cx: &Cx, out: &mut Out) -> Result<()> {
    let ram = ram(cx);
    let lines: [(&str, u64); 42] = [
        ("MemTotal", ram.total),
        ("MemFree", ram.free),
        ("MemAvailable", ram.free),
        ("Buffers", 0),
        ("Cached", ram.shmem),
        ("SwapCached", 0),
        ("Active", ram.anon),
        ("Inactive", ram.shmem),
        ("Active(anon)", ram.anon),
        ("Inactive(anon)", ram.shmem),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", ram.anon),
        ("Mapped", ram.mapped),
        ("Shmem", ram.shmem),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("SecPageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", ram.total / 2),
        ("Committed_AS", ram.committed),
        ("VmallocTotal", 0),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("AnonHugePages", 0),
        ("ShmemHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FileHugePages", 0),
        ("FilePmdMapped", 0),
    ];
    for (name, pages) in lines {
        put!(out, "{:<16}{:>8} kB\n", alloc::format!("{name}:"), pages * (PAGE_SIZE / 1024));
    }
    out.text("HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\n");
    out.text("HugePages_Surp:        0\nHugepagesize:       2048 kB\nHugetlb:               0 kB\n");
    Ok(())
}

/// Time of each CPU in guest code, in the kernel and idle, in nanoseconds since the clock started.
fn cpu_times(cx: &Cx) -> alloc::vec::Vec<(u64, u64, u64)> {
    let now = cx.now_ns();
    cx.kernel
        .sched
        .cpu_times()
        .into_iter()
        .map(|(user, busy)| (user.min(busy), busy.saturating_sub(user), now.saturating_sub(busy)))
        .collect()
}

fn stat(cx: &Cx, out: &mut Out) -> Result<()> {
    let times = cpu_times(cx);
    let total = times.iter().fold((0, 0, 0), |sum, t| (sum.0 + t.0, sum.1 + t.1, sum.2 + t.2));
    let mut line = |name: &str, (user, system, idle): (u64, u64, u64)| {
        put!(out, "{name} {} 0 {} {} 0 0 0 0 0 0\n", ticks(user), ticks(system), ticks(idle));
    };
    line("cpu ", total);
    for (i, times) in times.into_iter().enumerate() {
        line(&alloc::format!("cpu{i}"), times);
    }
    let switches = cx.kernel.sched.switches.load(Ordering::Relaxed);
    let boot = cx.realtime_ns().saturating_sub(cx.now_ns()) / 1_000_000_000;
    put!(out, "intr 0\nctxt {switches}\nbtime {boot}\nprocesses {}\n", cx.kernel.pids.last());
    put!(out, "procs_running {}\nprocs_blocked 0\n", cx.kernel.sched.runnable());
    out.text("softirq 0 0 0 0 0 0 0 0 0 0 0\n");
    Ok(())
}

fn uptime(cx: &Cx, out: &mut Out) -> Result<()> {
    let idle: u64 = cpu_times(cx).iter().map(|t| t.2).sum();
    for (ns, end) in [(cx.now_ns(), ' '), (idle, '\n')] {
        put!(out, "{}.{:02}{end}", ns / 1_000_000_000, ns / 10_000_000 % 100);
    }
    Ok(())
}

fn version(_cx: &Cx, out: &mut Out) -> Result<()> {
    put!(out, "Linux version {} (vkernel) {}\n", crate::version::RELEASE, crate::version::VERSION);
    Ok(())
}

fn vmstat(cx: &Cx, out: &mut Out) -> Result<()> {
    let ram = ram(cx);
    let (mut minor, mut major) = (0, 0);
    for process in cx.kernel.pids.processes() {
        for task in process.threads() {
            minor += task.faults[0].load(Ordering::Relaxed);
            major += task.faults[1].load(Ordering::Relaxed);
        }
    }
    let lines = [
        ("nr_free_pages", ram.free),
        ("nr_zone_inactive_anon", ram.shmem),
        ("nr_zone_active_anon", ram.anon),
        ("nr_zone_inactive_file", 0),
        ("nr_zone_active_file", 0),
        ("nr_mlock", 0),
        ("nr_inactive_anon", ram.shmem),
        ("nr_active_anon", ram.anon),
        ("nr_inactive_file", 0),
        ("nr_active_file", 0),
        ("nr_anon_pages", ram.anon),
        ("nr_mapped", ram.mapped),
        ("nr_file_pages", ram.shmem),
        ("nr_dirty", 0),
        ("nr_writeback", 0),
        ("nr_shmem", ram.shmem),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgfault", minor + major),
        ("pgmajfault", major),
        ("pgsteal_kswapd", 0),
        ("pgsteal_direct", 0),
        ("pgscan_kswapd", 0),
        ("pgscan_direct", 0),
        ("oom_kill", 0),
    ];
    for (name, value) in lines {
        put!(out, "{name} {value}\n");
    }
    Ok(())
}

fn zoneinfo(cx: &Cx, out: &mut Out) -> Result<()> {
    let ram = ram(cx);
    put!(out, "Node 0, zone   Normal\n  per-node stats\n      nr_anon_pages {}\n", ram.anon);
    put!(out, "  pages free     {}\n        boost    0\n        min      0\n        low      0\n", ram.free);
    put!(out, "        high     0\n        spanned  {0}\n        present  {0}\n", ram.total);
    put!(out, "        managed  {}\n", ram.total);
    Ok(())
}

fn buddyinfo(cx: &Cx, out: &mut Out) -> Result<()> {
    out.text("Node 0, zone   Normal");
    put!(out, " {:>6}", cx.kernel.frames.available());
    for _ in 1..11 {
        out.text("      0");
    }
    out.text(" \n");
    Ok(())
}
