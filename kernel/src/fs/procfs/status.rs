//! `/proc/PID/status`.

use super::{Target, stat};
use crate::error::Result;
use crate::fs::pseudo::{Out, put};
use crate::signal::SigSet;
use crate::task::{Cx, Resource};
use alloc::string::String;
use core::sync::atomic::Ordering;
use hal::PAGE_SIZE;

/// A mask of CPUs as a list, `0-3,5`.
pub(super) fn cpu_list(mask: u64) -> String {
    let mut text = String::new();
    let mut cpu = 0;
    while cpu < 64 {
        if mask & (1 << cpu) == 0 {
            cpu += 1;
            continue;
        }
        let first = cpu;
        while cpu < 63 && mask & (1 << (cpu + 1)) != 0 {
            cpu += 1;
        }
        if !text.is_empty() {
            text.push(',');
        }
        if first == cpu {
            text.push_str(&alloc::format!("{first}"));
        } else {
            text.push_str(&alloc::format!("{first}-{cpu}"));
        }
        cpu += 1;
    }
    text
}

/// All CPUs of the machine as a mask.
pub(super) fn all_cpus(cx: &Cx) -> u64 {
    let count = cx.kernel.machine.cpu().count();
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

pub(super) fn status(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let process = target.process()?;
    let task = target.task();
    let creds = target.creds();
    let family = process.family.lock();
    let threads = family.threads.len();
    drop(family);
    let (letter, words) = stat::state(&process, task.as_ref());

    out.text("Name:\t");
    out.escaped(&stat::name(target)?, b"\n");
    if let Some(task) = &task {
        put!(out, "\nUmask:\t{:04o}", task.fs.lock().umask.load(Ordering::Relaxed));
    }
    put!(out, "\nState:\t{letter} ({words})\nTgid:\t{}\nNgid:\t0\nPid:\t{}\n", target.pid, target.tid);
    put!(out, "PPid:\t{}\nTracerPid:\t0\n", process.ppid());
    put!(out, "Uid:\t{}\t{}\t{}\t{}\n", creds.uid, creds.euid, creds.suid, creds.fsuid);
    put!(out, "Gid:\t{}\t{}\t{}\t{}\n", creds.gid, creds.egid, creds.sgid, creds.fsgid);
    let highest = task.as_ref().and_then(|t| t.files.lock().list().last().map(|(fd, _)| fd.0)).unwrap_or(0);
    // Linux shows the capacity of the table, which starts at 64 and doubles.
    put!(out, "FDSize:\t{}\nGroups:\t", (highest as u32 + 1).next_power_of_two().max(64));
    for group in &creds.groups {
        put!(out, "{group} ");
    }
    if creds.groups.is_empty() {
        out.text(" ");
    }
    put!(out, "\nNStgid:\t{}\nNSpid:\t{}\n", target.pid, target.tid);
    put!(out, "NSpgid:\t{}\n", process.pgid.load(Ordering::Relaxed));
    put!(out, "NSsid:\t{}\nKthread:\t0\n", process.session.lock().id);

    if let Some(mm) = target.mm() {
        let usage = super::memory::usage(&mm);
        let kb = |pages: u64| pages * (PAGE_SIZE / 1024);
        let lines = [
            ("VmPeak", usage.peak_size),
            ("VmSize", usage.size),
            ("VmLck", usage.locked),
            ("VmPin", 0),
            ("VmHWM", usage.peak_resident),
            ("VmRSS", usage.resident),
            ("RssAnon", usage.anon),
            ("RssFile", usage.file),
            ("RssShmem", usage.shmem),
            ("VmData", usage.data),
            ("VmStk", usage.stack),
            ("VmExe", usage.code),
            ("VmLib", usage.library),
            ("VmPTE", usage.tables),
            ("VmSwap", 0),
            ("HugetlbPages", 0),
        ];
        for (name, pages) in lines {
            put!(out, "{name}:\t{:>8} kB\n", kb(pages));
        }
        out.text("CoreDumping:\t0\nTHP_enabled:\t0\nuntag_mask:\t0xffffffffffffffff\n");
    }

    put!(out, "Threads:\t{threads}\n");
    let shared = process.signals.shared.lock();
    let (queued, shared_set) = (shared.len(), shared.set());
    drop(shared);
    let (own_queued, own_set, mask) = match &task {
        Some(task) => {
            let signals = task.signals.lock();
            (signals.pending.len(), signals.pending.set(), signals.mask)
        }
        None => (0, SigSet::EMPTY, SigSet::EMPTY),
    };
    put!(out, "SigQ:\t{}/{}\n", queued + own_queued, process.limit(Resource::Sigpending));
    let (ignored, caught) = stat::handled(&process);
    let sets = [
        ("SigPnd", own_set),
        ("ShdPnd", shared_set),
        ("SigBlk", mask),
        ("SigIgn", ignored),
        ("SigCgt", caught),
    ];
    for (name, set) in sets {
        put!(out, "{name}:\t{:016x}\n", set.0);
    }
    let caps = [
        ("CapInh", creds.inheritable),
        ("CapPrm", creds.permitted),
        ("CapEff", creds.effective),
        ("CapBnd", creds.bounding),
        ("CapAmb", creds.ambient),
    ];
    for (name, set) in caps {
        put!(out, "{name}:\t{set:016x}\n");
    }
    let no_new_privs = task.as_ref().is_some_and(|t| t.no_new_privs.load(Ordering::Relaxed));
    put!(out, "NoNewPrivs:\t{}\nSeccomp:\t0\nSeccomp_filters:\t0\n", u8::from(no_new_privs));
    out.text("Speculation_Store_Bypass:\tunknown\nSpeculationIndirectBranch:\tunknown\n");
    let allowed = task.as_ref().map_or(u64::MAX, |t| t.sched.allowed.load(Ordering::Relaxed)) & all_cpus(cx);
    let digits = cx.kernel.machine.cpu().count().div_ceil(4).max(1);
    put!(out, "Cpus_allowed:\t{allowed:0digits$x}\nCpus_allowed_list:\t{}\n", cpu_list(allowed));
    out.text("Mems_allowed:\t1\nMems_allowed_list:\t0\n");
    let switches = |i: usize| task.as_ref().map_or(0, |t| t.sched.switches[i].load(Ordering::Relaxed));
    put!(out, "voluntary_ctxt_switches:\t{}\n", switches(0));
    put!(out, "nonvoluntary_ctxt_switches:\t{}\n", switches(1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::cpu_list;

    #[test]
    fn cpus_are_listed_as_ranges() {
        assert_eq!(cpu_list(0), "");
        assert_eq!(cpu_list(0b1), "0");
        assert_eq!(cpu_list(0b1011_0111), "0-2,4-5,7");
        assert_eq!(cpu_list(u64::MAX), "0-63");
        assert_eq!(cpu_list(1 << 63), "63");
    }
}
