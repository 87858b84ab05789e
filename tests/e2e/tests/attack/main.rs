//! Hostile guest programs (`tests/attack`) under the real command, seen from the host: nothing outside the attacking processes changes, the kernel says whom
//! it killed and why, and everything else runs on.
//!
//! `VK_ATTACK_SEED` chooses other random numbers, `VK_ATTACK_MS` the time for each kind of attack.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vk_e2e_tests::{Outcome, Picture, Run, attack_program, need, patience, temp, vkernel};

/// They use the whole machine: one after the other.
static ALONE: Mutex<()> = Mutex::new(());
/// The host's limit of processes for the command, of which guests get a share: so that it is reached soon.
const PROCESSES: &str = "--nproc=3000";
/// How often the witness looks.
const LOOK: Duration = Duration::from_millis(25);
/// How many looks in a row a process must look wrong.
const LOOKS: u32 = 8;
/// Host tasks that a kernel may keep for later when its processes have ended.
const KEPT: usize = 80;

fn number(name: &str, otherwise: u64) -> String {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise).to_string()
}

/// A process of the host with the same rights, which looks after itself.
struct Canary(Child);

impl Canary {
    fn start(program: &Path) -> Canary {
        let mut command = Command::new(program);
        command.arg("canary").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut ready = [0; 6];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut ready).expect("it says so");
        assert_eq!(&ready, b"ready\n");
        Canary(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.0.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
        assert!(self.0.wait().expect("our own child").success(), "the host's canary: {said}");
        assert_eq!(said, "fine\n");
    }
}

/// What a witness saw of the processes below the command.
#[derive(Default)]
struct Seen {
    /// Everything that there was: process and its start time, program.
    programs: BTreeMap<(i32, u64), String>,
    /// Who has something open that it should not have, and in how many looks in a row.
    suspects: BTreeMap<(i32, u64), u32>,
    /// Whatever should not have been.
    wrong: BTreeSet<String>,
    /// How many at most, and at the last look.
    most: usize,
    last: usize,
}

fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    texts
        .flat_map(|text| text.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The start time of a process, in ticks since the start of the machine.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn status(pid: i32, word: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(text.lines().find_map(|line| line.strip_prefix(word))?.trim().to_string())
}

impl Seen {
    /// Looks at everything below the command: only its own helper processes, which can gain no rights.
    fn look(&mut self, command: i32) {
        let mut all = children(command);
        let mut next = 0;
        while next < all.len() {
            all.extend(children(all[next]));
            next += 1;
        }
        (self.most, self.last) = (self.most.max(all.len()), all.len());
        for pid in all {
            let (Some(start), Ok(program)) = (started(pid), fs::read_link(format!("/proc/{pid}/exe"))) else {
                continue;
            };
            let program = program.to_string_lossy().into_owned();
            let new = self.programs.insert((pid, start), program.clone()).is_none();
            let own = program.contains("vmspace-stub") || Path::new(&program) == vkernel();
            if !own {
                self.wrong.insert(format!("process {pid} runs {program}"));
            }
            // Filters and rights are set in the first moments; later looks see them.
            if !new
                && program.contains("vmspace-stub")
                && status(pid, "NoNewPrivs:").is_some_and(|v| v != "1")
            {
                self.wrong.insert(format!("process {pid} may gain rights"));
            }
            // Who runs guest code has nothing open. The mapper, which never does, has the guests' memory. A process that is on its way, or
            // ends, has what it still has: only what stays counts.
            let filtered = status(pid, "Seccomp_filters:").is_some_and(|v| v == "1");
            let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let links: Vec<PathBuf> = open.filter_map(|e| fs::read_link(e.path()).ok()).collect();
            let is_mapper = links.iter().any(|l| l.to_string_lossy().contains("memfd:"));
            let looks = self.suspects.entry((pid, start)).or_default();
            *looks = if filtered && !links.is_empty() && !is_mapper { *looks + 1 } else { 0 };
            if *looks == LOOKS {
                self.wrong.insert(format!("process {pid} has {links:?} open"));
            }
        }
    }
}

/// Runs attacks and looks at the host meanwhile.
fn attack(options: &[&str], names: &[&str], otherwise_ms: u64) -> Outcome {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    need("prlimit");
    let program = attack_program();
    let (seed, ms) = (number("VK_ATTACK_SEED", 1), number("VK_ATTACK_MS", otherwise_ms));
    let dir = temp();
    for (name, mode) in [("open", 0o666), ("closed", 0o600), ("program", 0o777)] {
        let path = dir.path().join(name);
        fs::write(&path, name.repeat(1000)).expect("our own directory");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("our own file");
    }
    let before = Picture::of(dir.path());
    let canary = Canary::start(&program);
    let run =
        Run::new("prlimit").arg(PROCESSES).arg(vkernel()).args(["run", "--log", "error", "--memory", "256M"]);
    let run = run.args(options).arg("--").arg(&program).arg("run").args(names);
    let run = run.args(["--seed", &seed, "--ms", &ms]).dir(dir.path());

    let (over, mut seen) = (AtomicBool::new(false), Seen::default());
    let outcome = std::thread::scope(|scope| {
        let witness = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let ours = children(std::process::id().cast_signed()).into_iter();
                let command = ours
                    .filter(|p| fs::read_link(format!("/proc/{p}/exe")).is_ok_and(|exe| exe == vkernel()));
                command.for_each(|pid| seen.look(pid));
                std::thread::sleep(LOOK);
            }
        });
        let outcome = run.limit(180).run();
        over.store(true, Ordering::SeqCst);
        witness.join().expect("a witness");
        outcome
    });

    let _ = std::io::stdout().write_all(&outcome.stdout);
    let outcome = outcome.ok();
    assert!(outcome.text().lines().last().is_some_and(|line| line.starts_with("fine")), "{}", outcome.text());
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    assert!(seen.most > 0, "the witness saw nothing");
    assert!(seen.last <= KEPT, "{} host tasks at the end, {} at most", seen.last, seen.most);
    let deadline = Instant::now() + Duration::from_secs(10) * patience();
    while let Some(((pid, _), program)) =
        seen.programs.iter().find(|((pid, start), _)| started(*pid) == Some(*start))
    {
        // Dead and not yet waited for by whoever adopts orphans counts as gone.
        if status(*pid, "State:").is_none_or(|state| state.starts_with('Z')) {
            break;
        }
        assert!(Instant::now() < deadline, "process {pid} ({program}) is left behind");
        std::thread::sleep(LOOK);
    }
    assert!(Picture::of(dir.path()) == before, "files of the host changed");
    canary.end();
    check_log(&outcome);
    outcome
}

/// The numbers behind a word at the start of lines.
fn numbers(text: &str, word: &str) -> BTreeSet<u32> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix(word));
    lines
        .flat_map(|rest| rest.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The log names everyone whom the kernel killed, with a reason, and nobody else.
fn check_log(outcome: &Outcome) {
    let log = &outcome.stderr;
    for word in ["oops", "panic", "overflow"] {
        assert!(!log.contains(word), "{word} in the log: {log}");
    }
    let mut killed = BTreeSet::new();
    for line in log.lines().filter(|line| line.contains("is killed")) {
        let rest = line.split_once("process ").expect("whose").1;
        let (pid, why) = rest.split_once(" is killed: ").expect("why");
        assert!(why.len() > 20, "no reason: {line}");
        killed.insert(pid.parse::<u32>().expect("a process"));
    }
    let protected = numbers(outcome.text(), "protected ");
    assert!(!protected.is_empty());
    assert!(killed.is_disjoint(&protected), "the kernel killed one of {protected:?}: {log}");
    let silent: Vec<_> = numbers(outcome.text(), "reported ").difference(&killed).copied().collect();
    assert!(silent.is_empty(), "killed without a word in the log: {silent:?}");
}

#[test]
fn nothing_but_the_attackers_is_hurt() {
    let outcome = attack(&["--cpus", "2"], &["all"], 1500);
    assert!(outcome.stderr.contains("from the stub"), "no intruder was caught: {}", outcome.stderr);
}

#[test]
fn nor_with_one_cpu_and_unpatched_code() {
    let names = ["sites", "reports", "areas", "frames", "bases"];
    let outcome = attack(&["--cpus", "1", "--no-patch"], &names, 700);
    assert!(outcome.stderr.contains("from the stub"), "no intruder was caught: {}", outcome.stderr);
}
