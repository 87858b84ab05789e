//! Runs cases, each in a process of its own with its own process group, directory and time limit.
//!
//! The runner asks little of the kernel under test: fork, pipes, wait4 and files. Its time limit also
//! needs an interval timer and kill; without those a hanging case hangs the run.

use crate::kit::proc::{self, REPORT, Status};
use crate::kit::{Case, E, R, Stop, sig, sys};
use std::collections::BTreeMap;
use std::panic;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What the command line asks for.
pub struct Options {
    pub jobs: usize,
    pub json: bool,
    /// After this a case is killed and counts as hung.
    pub limit: Duration,
    /// Names of cases that must fail, and why.
    pub expected: BTreeMap<String, String>,
}

struct Running {
    case: &'static Case,
    pid: i32,
    report: i32,
    dir: PathBuf,
    started: Instant,
    hung: bool,
}

enum Verdict {
    Ok,
    Fail(String),
    Skip(String),
}

#[derive(Default)]
struct Totals {
    passed: usize,
    failed: usize,
    skipped: usize,
    expected: usize,
}

/// Runs the cases; whether all went as expected.
pub fn run(cases: &[&'static Case], options: &Options) -> R<bool> {
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let _ = sc!(SYS_prlimit64, 0, libc::RLIMIT_CORE, &no_core, 0);
    // What a case leaves behind comes to us, so that it can be found and ended.
    let _ = sc!(SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    // The periodic signal only interrupts wait4, to look at the limits.
    let _ = sig::record(libc::SIGALRM, 0).and_then(|()| sig::interval(200_000));
    let mut queue = cases.iter().copied();
    let mut running: Vec<Running> = Vec::new();
    let mut totals = Totals::default();
    loop {
        while running.len() < options.jobs {
            let Some(case) = queue.next() else { break };
            running.push(start(case, &running)?);
        }
        if running.is_empty() {
            break;
        }
        match proc::wait4(-1, 0) {
            Ok((pid, status)) => {
                if let Some(i) = running.iter().position(|r| r.pid == pid) {
                    let done = running.swap_remove(i);
                    let took = done.started.elapsed();
                    let case = done.case;
                    let verdict = finish(done, status);
                    if running.is_empty() {
                        end_orphans();
                    }
                    tell(case, &verdict, took, options, &mut totals);
                }
            }
            Err(E(libc::EINTR)) => {}
            Err(e) => return Err(e.into()),
        }
        for r in running.iter_mut().filter(|r| !r.hung && r.started.elapsed() > options.limit) {
            r.hung = true;
            let _ = sys::kill(-r.pid, libc::SIGKILL);
            let _ = sys::kill(r.pid, libc::SIGKILL);
        }
    }
    let extra =
        if totals.expected > 0 { format!(", {} differ as expected", totals.expected) } else { String::new() };
    if !options.json {
        println!("{} passed, {} failed, {} skipped{extra}", totals.passed, totals.failed, totals.skipped);
    }
    Ok(totals.failed == 0)
}

fn start(case: &'static Case, others: &[Running]) -> R<Running> {
    let dir = std::env::temp_dir().join(format!("vkabi-{}-{}-{}", sys::getpid(), case.family, case.name));
    std::fs::create_dir(&dir)?;
    let (r, w) = sys::pipe(libc::O_CLOEXEC | libc::O_NONBLOCK)?;
    let others: Vec<i32> = others.iter().map(|o| o.report).collect();
    let child = proc::fork(|| {
        for fd in others.into_iter().chain([r]) {
            let _ = sys::close(fd);
        }
        // High and out of the way: cases count on the lowest free descriptor.
        let high = sys::fcntl(w, libc::F_DUPFD_CLOEXEC, 200).unwrap_or(w);
        let _ = sys::close(w);
        REPORT.store(high, Ordering::Relaxed);
        within(case, &dir)
    })?;
    let _ = sc!(SYS_setpgid, child.pid, child.pid);
    sys::close(w)?;
    Ok(Running { case, pid: child.pid, report: r, dir, started: Instant::now(), hung: false })
}

/// The life of a case's process.
fn within(case: &Case, dir: &std::path::Path) -> i32 {
    let _ = sc!(SYS_setpgid, 0, 0);
    let _ = sc!(SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    let _ = sc!(SYS_umask, 0o022);
    // Ours, and what Rust's runtime sets up before main: cases begin as a C program would.
    for s in [libc::SIGALRM, libc::SIGPIPE, libc::SIGSEGV, libc::SIGBUS] {
        let _ = sig::dispose(s, libc::SIG_DFL, 0);
    }
    let no_stack = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    let _ = sc!(SYS_sigaltstack, &no_stack, 0);
    sig::reset();
    if let Ok(null) = sys::open(c"/dev/null", libc::O_RDWR, 0) {
        let _ = sc!(SYS_dup2, null, 0);
        let _ = sys::close(null);
    }
    panic::set_hook(Box::new(|_| {}));
    let ran = std::env::set_current_dir(dir).map_err(Stop::from).and_then(|()| {
        panic::catch_unwind(case.run).unwrap_or_else(|cause| {
            let text = cause.downcast_ref::<String>().map(String::as_str);
            let text = text.or(cause.downcast_ref::<&str>().copied()).unwrap_or("?");
            Err(Stop::Fail(format!("panic: {text}")))
        })
    });
    match ran {
        Ok(()) => 0,
        Err(stop) => {
            proc::report(&stop);
            1
        }
    }
}

fn finish(done: Running, status: Status) -> Verdict {
    let _ = sys::kill(-done.pid, libc::SIGKILL);
    // What was said is in the pipe by now; a leftover process may still hold the other end.
    let mut said = Vec::new();
    while let Ok(part) = sys::read_some(done.report, 4096) {
        if part.is_empty() {
            break;
        }
        said.extend(part);
    }
    let _ = sys::close(done.report);
    let tidy = std::fs::remove_dir_all(&done.dir);
    let said = String::from_utf8_lossy(&said);
    let mut lines: Vec<&str> = said.lines().collect();
    // A child's own reason comes before the parent's remark that the child failed.
    lines.dedup();
    if done.hung {
        return Verdict::Fail("hung".into());
    }
    if let Some(why) = lines.iter().find_map(|l| l.strip_prefix('S')) {
        return Verdict::Skip(why.into());
    }
    let reasons: Vec<&str> = lines.iter().map(|l| l.strip_prefix('F').unwrap_or(l)).collect();
    match status {
        Status::Exited(0) if reasons.is_empty() => match tidy {
            Ok(()) => Verdict::Ok,
            Err(e) => Verdict::Fail(format!("left a directory behind: {e}")),
        },
        Status::Exited(_) if !reasons.is_empty() => Verdict::Fail(reasons.join("; ")),
        other => Verdict::Fail(format!("{other:?} {}", reasons.join("; "))),
    }
}

/// Ends what earlier cases left behind in sessions of their own, and reaps it.
fn end_orphans() {
    let me = sys::getpid();
    let path = proc::cstring(format!("/proc/{me}/task/{me}/children"));
    let children = sys::text(&path).unwrap_or_default();
    for pid in children.split_ascii_whitespace().filter_map(|p| p.parse().ok()) {
        let _ = sys::kill(pid, libc::SIGKILL);
        let _ = proc::wait4(pid, 0);
    }
}

fn tell(case: &Case, verdict: &Verdict, took: Duration, options: &Options, totals: &mut Totals) {
    let name = format!("{}::{}", case.family, case.name);
    let expected = options.expected.get(&name);
    let (word, why) = match (verdict, expected) {
        (Verdict::Ok, None) => ("ok", String::new()),
        (Verdict::Ok, Some(why)) => ("FAIL", format!("passes, but was expected to differ: {why}")),
        (Verdict::Fail(why), None) => ("FAIL", why.clone()),
        (Verdict::Fail(_), Some(why)) => ("differs", why.clone()),
        (Verdict::Skip(why), _) => ("skip", why.clone()),
    };
    match word {
        "ok" => totals.passed += 1,
        "FAIL" => totals.failed += 1,
        "skip" => totals.skipped += 1,
        _ => totals.expected += 1,
    }
    if options.json {
        println!(
            r#"{{"name":{name:?},"result":{word:?},"why":{:?},"ms":{}}}"#,
            why.escape_default().to_string(),
            took.as_millis()
        );
    } else if why.is_empty() {
        println!("{word} {name}");
    } else {
        println!("{word} {name}: {why}");
    }
}
