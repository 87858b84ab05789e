//! Beside the host in one run: rows of [`crate::micro`], the start of a program, idle memory.

use crate::run::{cargo, step, workspace};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What must hold on a machine with two CPUs: row, limit, and whether the limit is a ratio or absolute.
const FLOORS: [(&str, f64); 2] = [("getppid", 40.0), ("fork, exit, wait", 3.0)];
const COLD_START_MS: f64 = 60.0;
const IDLE_MIB: f64 = 25.0;

/// Builds, measures `n` times interleaved, prints medians.
pub fn run(n: usize) -> Result<()> {
    step("build", &mut cargo(&["build", "--release", "-p", "vkernel", "-p", "xtask"]))?;
    let bin = workspace().join("target/release");
    let (vkernel, xtask) = (bin.join("vkernel"), bin.join("xtask"));
    let mut native: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut pinned: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut guest: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut order = Vec::new();
    let mut cold = Vec::new();
    for round in 0..n.max(1) {
        eprintln!("round {} of {}", round + 1, n.max(1));
        let micro = |prefix: &[&Path]| -> Result<Vec<(String, f64)>> {
            let mut words: Vec<PathBuf> = prefix.iter().map(PathBuf::from).collect();
            words.extend([xtask.clone(), "micro".into()]);
            let output = Command::new(&words[0]).args(&words[1..]).stderr(Stdio::inherit()).output()?;
            if !output.status.success() {
                bail!("{words:?} ended with {}", output.status);
            }
            parse(&String::from_utf8_lossy(&output.stdout))
        };
        for (name, ns) in micro(&[])? {
            if !order.contains(&name) {
                order.push(name.clone());
            }
            native.entry(name).or_default().push(ns);
        }
        for (name, ns) in micro(&["taskset".as_ref(), "-c".as_ref(), "0".as_ref()])? {
            pinned.entry(name).or_default().push(ns);
        }
        for (name, ns) in micro(&[&vkernel, "run".as_ref(), "--".as_ref()])? {
            guest.entry(name).or_default().push(ns);
        }
        let start = Instant::now();
        let status = Command::new(&vkernel).args(["run", "--", "/bin/true"]).status()?;
        cold.push(start.elapsed().as_secs_f64() * 1000.0);
        if !status.success() {
            bail!("/bin/true under vkernel ended with {status}");
        }
    }
    let mut missed = Vec::new();
    println!("{:<36} {:>12} {:>12} {:>12} {:>8}", "", "native", "native-1cpu", "vkernel", "ratio");
    for name in &order {
        let get = |map: &BTreeMap<String, Vec<f64>>| map.get(name).map_or(f64::NAN, |v| median(v));
        let (a, b, c) = (get(&native), get(&pinned), get(&guest));
        let ratio = c / a.min(b);
        println!("{name:<36} {:>12} {:>12} {:>12} {ratio:>8.2}", show(a), show(b), show(c));
        if let Some((_, limit)) = FLOORS.iter().find(|f| f.0 == name && ratio > f.1) {
            missed.push(format!("{name}: {ratio:.1}× native, the floor is {limit}×"));
        }
    }
    let cold = median(&cold);
    let idle = idle_mib(&vkernel)?;
    println!("{:<36} {cold:>38.1} ms", "cold start of /bin/true");
    println!("{:<36} {idle:>38.1} MiB", "idle, resident, all processes");
    if cold > COLD_START_MS {
        missed.push(format!("cold start: {cold:.1} ms, the floor is {COLD_START_MS} ms"));
    }
    if idle > IDLE_MIB {
        missed.push(format!("idle memory: {idle:.1} MiB, the floor is {IDLE_MIB} MiB"));
    }
    for line in &missed {
        println!("missed: {line}");
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<(String, f64)>> {
    let line = |l: &str| {
        let (name, ns) = l.split_once('\t')?;
        Some((name.to_string(), ns.parse().ok()?))
    };
    text.lines().map(|l| line(l).with_context(|| format!("unexpected line {l:?}"))).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn show(ns: f64) -> String {
    match ns {
        ns if ns < 10_000.0 => format!("{ns:.0} ns"),
        ns if ns < 10_000_000.0 => format!("{:.1} µs", ns / 1000.0),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

/// Resident memory of the command and its children while a guest sleeps. Shared pages count once for each process, so it is an upper
/// bound.
fn idle_mib(vkernel: &Path) -> Result<f64> {
    let mut child = Command::new(vkernel).args(["run", "--", "sleep", "3"]).spawn()?;
    // It is idle when its CPU time stops growing.
    let mut last = None;
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
        let fields: Vec<String> =
            stat.rsplit(')').next().unwrap_or("").split(' ').map(String::from).collect();
        let cpu = fields.get(12).zip(fields.get(13)).map(|(a, b)| (a.clone(), b.clone()));
        if cpu.is_some() && cpu == last {
            break;
        }
        last = cpu;
    }
    let mut kib = rss_kib(child.id());
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent =
            stat.rsplit(')').next().and_then(|s| s.split(' ').nth(2)).and_then(|p| p.parse::<u32>().ok());
        if parent == Some(child.id()) {
            kib += rss_kib(pid);
        }
    }
    child.wait()?;
    Ok(kib as f64 / 1024.0)
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}
