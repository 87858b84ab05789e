//! Files about the machine: CPUs, devices, interrupts.

use crate::error::Result;
use crate::fs::pseudo::{Entries, Node, Out, put};
use crate::task::Cx;

/// Adds the files.
pub(super) fn register(tree: &Entries) -> Result<()> {
    tree.register("cpuinfo", Node::text(cpuinfo))?;
    tree.register("devices", Node::constant(DEVICES))?;
    tree.register("diskstats", Node::constant(""))?;
    tree.register("dma", Node::constant(""))?;
    tree.register("interrupts", Node::text(interrupts))?;
    tree.register("iomem", Node::text(iomem))?;
    tree.register("ioports", Node::constant(""))?;
    tree.register("misc", Node::constant(""))?;
    tree.register("partitions", Node::constant("major minor  #blocks  name\n\n"))?;
    tree.register("softirqs", Node::text(softirqs))
}

const DEVICES: &str = "Character devices:
  1 mem
  5 /dev/tty
  5 /dev/console
  5 /dev/ptmx
 10 misc
128 ptm
136 pts

Block devices:
";

fn cpuinfo(cx: &Cx, out: &mut Out) -> Result<()> {
    let machine = &cx.kernel.machine;
    let info = machine.cpu_info();
    let count = machine.cpu().count();
    for cpu in 0..count {
        put!(out, "processor\t: {cpu}\n");
        for line in info.lines().filter(|line| !line.is_empty()) {
            // What differs by CPU, and how many there are, is the kernel's to say.
            let key = line.split('\t').next().unwrap_or_default();
            match key {
                "processor" => {}
                "core id" | "apicid" | "initial apicid" => {
                    let label = line.split(':').next().unwrap_or_default();
                    put!(out, "{label}: {cpu}\n");
                }
                "siblings" | "cpu cores" => {
                    let label = line.split(':').next().unwrap_or_default();
                    put!(out, "{label}: {count}\n");
                }
                "physical id" => out.text("physical id\t: 0\n"),
                _ => put!(out, "{line}\n"),
            }
        }
        out.text("\n");
    }
    Ok(())
}

fn cpu_header(cx: &Cx, out: &mut Out, indent: usize, width: usize) {
    for _ in 0..indent {
        out.text(" ");
    }
    for cpu in 0..cx.kernel.machine.cpu().count() {
        put!(out, "{:<width$}", alloc::format!("CPU{cpu}"));
    }
    out.text("\n");
}

/// A virtual CPU has no interrupt lines of its own: the table is empty but has its columns.
fn interrupts(cx: &Cx, out: &mut Out) -> Result<()> {
    cpu_header(cx, out, 11, 11);
    Ok(())
}

fn softirqs(cx: &Cx, out: &mut Out) -> Result<()> {
    cpu_header(cx, out, 20, 11);
    let names =
        ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];
    for name in names {
        put!(out, "{name:>12}:");
        for _ in 0..cx.kernel.machine.cpu().count() {
            put!(out, " {:>10}", 0);
        }
        out.text("\n");
    }
    Ok(())
}

fn iomem(cx: &Cx, out: &mut Out) -> Result<()> {
    put!(out, "00000000-{:08x} : System RAM\n", cx.kernel.machine.ram().size() - 1);
    Ok(())
}
