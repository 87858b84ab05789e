//! `/proc/PID/sched` and `schedstat`.

use super::{Target, stat};
use crate::error::Result;
use crate::fs::pseudo::{Out, put};
use crate::task::Cx;
use core::sync::atomic::Ordering;

pub(super) fn sched(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let process = target.process()?;
    let task = target.live_task()?;
    out.bytes(&stat::name(target)?);
    put!(out, " ({}, #threads: {})\n", target.tid, process.threads().len());
    out.text("-------------------------------------------------------------------\n");
    let policy = *task.policy.lock();
    let voluntary = task.sched.switches[0].load(Ordering::Relaxed);
    let involuntary = task.sched.switches[1].load(Ordering::Relaxed);
    let ms = |ns: u64| alloc::format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
    let lines = [
        ("se.exec_start", ms(cx.now_ns())),
        ("se.vruntime", ms(task.sched.vruntime.load(Ordering::Relaxed))),
        ("se.sum_exec_runtime", ms(cx.kernel.sched.run_ns(&task))),
        ("nr_switches", alloc::format!("{}", voluntary + involuntary)),
        ("nr_voluntary_switches", alloc::format!("{voluntary}")),
        ("nr_involuntary_switches", alloc::format!("{involuntary}")),
        ("se.load.weight", alloc::format!("{}", task.sched.weight.load(Ordering::Relaxed) << 10)),
        ("policy", alloc::format!("{}", policy.policy)),
        ("prio", alloc::format!("{}", 120 + policy.nice)),
    ];
    for (name, value) in lines {
        put!(out, "{name:<45}:{value:>21}\n");
    }
    Ok(())
}

pub(super) fn schedstat(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    target.process()?;
    let task = target.live_task()?;
    let times: u64 = task.sched.switches.iter().map(|s| s.load(Ordering::Relaxed)).sum();
    put!(out, "{} 0 {times}\n", cx.kernel.sched.run_ns(&task));
    Ok(())
}
