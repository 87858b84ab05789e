//! `/sys` as far as common programs look (`sysfs(5)`): CPUs, the one memory node, huge-page policy, and the directories that
//! programs expect to find empty.
//!
//! The tree of fixed entries is [`crate::Kernel::sys`]; drivers register what they have there.
//! Differs from Linux: no kernel objects stand behind it, so there are no `uevent` files and few `power` and `subsystem` entries.

mod cpu;

use super::pseudo::{Entries, Node, PseudoFs, SYS_DEV, Tree, put};
use crate::Kernel;
use crate::error::Result;
use crate::fs::FileSystem;
use crate::fs::pseudo::Out;
use crate::task::Cx;
use abi::time::Timespec;
use alloc::sync::Arc;

/// `SYSFS_MAGIC`.
const MAGIC: i64 = 0x6265_6572;

/// `/sys` as a file system to mount.
pub fn new(kernel: &Kernel) -> Arc<dyn FileSystem> {
    Arc::new(PseudoFs { fs_type: "sysfs", magic: MAGIC, root: kernel.sys.root(), options: "" })
}

/// The tree of a new kernel with this many CPUs.
pub(crate) fn tree(now: Timespec, cpus: usize) -> Tree {
    // Paths are constants of this module, each registered once, so nothing can be in the way.
    Tree::new(SYS_DEV, now, None, move |entries| fill(entries, cpus).unwrap_or_default())
}

/// Directories in which nothing is.
const EMPTY: [&str; 24] = [
    "block",
    "bus/cpu/devices",
    "bus/pci/devices",
    "bus/usb/devices",
    "class/block",
    "class/dmi",
    "class/drm",
    "class/hwmon",
    "class/input",
    "class/mem",
    "class/misc",
    "class/power_supply",
    "class/thermal",
    "class/tty",
    "class/powercap",
    "dev/block",
    "dev/char",
    "devices/virtual",
    "firmware",
    "fs/cgroup",
    "kernel/security",
    "kernel/debug",
    "module",
    "power",
];

fn fill(tree: &Entries, cpus: usize) -> Result<()> {
    for path in EMPTY {
        tree.register(path, Node::dir())?;
    }
    loopback(tree)?;
    cpu::register(tree, cpus)?;
    node(tree, cpus)?;
    let mm = "kernel/mm/transparent_hugepage";
    tree.register(&alloc::format!("{mm}/enabled"), Node::constant("always madvise [never]\n").mode(0o644))?;
    tree.register(
        &alloc::format!("{mm}/defrag"),
        Node::constant("always defer defer+madvise madvise [never]\n").mode(0o644),
    )?;
    tree.register(
        &alloc::format!("{mm}/shmem_enabled"),
        Node::constant("always within_size advise [never] deny force\n").mode(0o644),
    )?;
    tree.register(&alloc::format!("{mm}/hpage_pmd_size"), Node::constant("2097152\n"))?;
    tree.register(&alloc::format!("{mm}/use_zero_page"), Node::constant("0\n").mode(0o644))?;
    tree.register("kernel/mm/hugepages", Node::dir())?;
    tree.register("kernel/mm/ksm/run", Node::constant("0\n").mode(0o644))?;
    tree.register("kernel/address_bits", Node::constant("64\n"))?;
    tree.register("kernel/cpu_byteorder", Node::constant("little\n"))?;
    tree.register("kernel/profiling", Node::constant("0\n").mode(0o644))?;
    tree.register("kernel/fscaps", Node::constant("1\n"))?;
    tree.register("kernel/uevent_seqnum", Node::constant("0\n"))
}

/// The only interface (`class/net`).
fn loopback(tree: &Entries) -> Result<()> {
    let values = [
        ("address", "00:00:00:00:00:00"),
        ("broadcast", "00:00:00:00:00:00"),
        ("addr_len", "6"),
        ("flags", "0x9"),
        ("ifindex", "1"),
        ("iflink", "1"),
        ("mtu", "65536"),
        ("operstate", "unknown"),
        ("carrier", "1"),
        ("tx_queue_len", "1000"),
        ("type", "772"),
    ];
    for (name, value) in values {
        let path = alloc::format!("devices/virtual/net/lo/{name}");
        tree.register(&path, Node::constant(alloc::format!("{value}\n")))?;
    }
    for name in [
        "rx_bytes",
        "rx_packets",
        "rx_errors",
        "rx_dropped",
        "tx_bytes",
        "tx_packets",
        "tx_errors",
        "tx_dropped",
    ] {
        tree.register(&alloc::format!("devices/virtual/net/lo/statistics/{name}"), Node::constant("0\n"))?;
    }
    tree.register("class/net/lo", Node::link("../../devices/virtual/net/lo"))
}

/// One memory node with all CPUs.
fn node(tree: &Entries, cpus: usize) -> Result<()> {
    let base = "devices/system/node";
    for name in ["online", "possible", "has_cpu", "has_memory", "has_normal_memory"] {
        tree.register(&alloc::format!("{base}/{name}"), Node::constant("0\n"))?;
    }
    tree.register(&alloc::format!("{base}/node0/cpulist"), Node::constant(cpu::list(cpus)))?;
    tree.register(&alloc::format!("{base}/node0/cpumap"), Node::constant(cpu::map(cpus)))?;
    tree.register(&alloc::format!("{base}/node0/distance"), Node::constant("10\n"))?;
    tree.register(&alloc::format!("{base}/node0/meminfo"), Node::text(node_memory))?;
    tree.register(
        &alloc::format!("{base}/node0/numastat"),
        Node::constant(
            "numa_hit 0\nnuma_miss 0\nnuma_foreign 0\ninterleave_hit 0\nlocal_node 0\nother_node 0\n",
        ),
    )?;
    for i in 0..cpus {
        let path = alloc::format!("{base}/node0/cpu{i}");
        tree.register(&path, Node::link(cpu::Relative(alloc::format!("../../cpu/cpu{i}"))))?;
    }
    Ok(())
}

fn node_memory(cx: &Cx, out: &mut Out) -> Result<()> {
    let kb = |pages: u64| pages * (hal::PAGE_SIZE / 1024);
    let (total, free) = (cx.kernel.frames.total(), cx.kernel.frames.available());
    for (name, pages) in [("MemTotal", total), ("MemFree", free), ("MemUsed", total - free.min(total))] {
        put!(out, "Node 0 {:<15}{:>8} kB\n", alloc::format!("{name}:"), kb(pages));
    }
    Ok(())
}
