//! Ways to run a program: as it is, bound to one CPU, under vkernel, under the peers that are installed.

use super::report::Launched;
use std::path::{Path, PathBuf};

/// A way to run a program.
#[derive(Clone, Debug)]
pub struct Launcher {
    pub name: String,
    /// What stands before the command.
    pub prefix: Vec<String>,
}

impl Launcher {
    fn new(name: &str, prefix: &[&str]) -> Launcher {
        Launcher { name: name.into(), prefix: prefix.iter().map(|word| (*word).to_string()).collect() }
    }

    /// The same, bound to one CPU.
    fn pinned(&self, cpu: usize) -> Launcher {
        let mut prefix: Vec<String> = ["taskset", "-c", &cpu.to_string()].map(String::from).into();
        prefix.extend(self.prefix.iter().cloned());
        Launcher { name: format!("{}-1cpu", self.name), prefix }
    }

    /// The whole command.
    pub fn command(&self, words: &[&str]) -> Vec<String> {
        self.prefix.iter().cloned().chain(words.iter().map(|word| (*word).to_string())).collect()
    }

    /// For the report.
    pub fn launched(&self) -> Launched {
        Launched { name: self.name.clone(), prefix: self.prefix.clone() }
    }
}

/// Where the programs are that launch.
#[derive(Debug)]
pub struct Programs<'a> {
    pub vkernel: &'a Path,
    /// gVisor's; found in PATH where it is not named.
    pub runsc: Option<PathBuf>,
    /// User-mode Linux's kernel; found in PATH where it is not named.
    pub uml: Option<PathBuf>,
    /// The measured program, which is also user-mode Linux's first process.
    pub inside: &'a Path,
    /// The CPU for what is bound to one.
    pub cpu: usize,
}

/// The first CPU that we may use.
pub fn first_cpu() -> usize {
    let may = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| may.is_set(*cpu)).unwrap_or(0)
}

/// Everything that can be launched here; with `pinned`, each sandbox also bound to one CPU.
pub fn launchers(programs: &Programs<'_>, pinned: bool, root: bool) -> Vec<Launcher> {
    let text = |path: &Path| path.display().to_string();
    let native = Launcher::new("native", &[]);
    let mut all =
        vec![native.pinned(programs.cpu), Launcher::new("vkernel", &[&text(programs.vkernel), "run", "--"])];
    if let Some(runsc) = named_or_found(programs.runsc.as_deref(), &["runsc"]) {
        let rootless = if root { "--rootless=false" } else { "--rootless=true" };
        let runsc = text(&runsc);
        let prefix =
            [runsc.as_str(), rootless, "--network=none", "--ignore-cgroups", "--platform=systrap", "do"];
        all.push(Launcher::new("gvisor", &prefix));
    }
    if let Some(uml) = named_or_found(programs.uml.as_deref(), &["linux.uml", "linux"]) {
        // The host's root, read-only; its console is our standard output; what follows `--` are the first process's arguments.
        let (uml, init) = (text(&uml), format!("init={}", text(programs.inside)));
        let mut prefix = vec![uml.as_str(), "mem=2G", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"];
        prefix.extend(["con=null", "con0=null,fd:1", "seccomp=on", &init, "--", "init"]);
        all.push(Launcher::new("uml", &prefix));
    }
    if pinned {
        let forms: Vec<Launcher> = all[1..].iter().map(|launcher| launcher.pinned(programs.cpu)).collect();
        all.extend(forms);
    }
    all.insert(0, native);
    all
}

fn named_or_found(named: Option<&Path>, names: &[&str]) -> Option<PathBuf> {
    named.map(Path::to_path_buf).or_else(|| names.iter().find_map(|name| find(name)))
}

/// A program in the path that the measured programs use.
pub fn find(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    vk_bench::PATH.split(':').map(|dir| Path::new(dir).join(name)).find(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pinned: bool, peer: Option<&str>) -> Vec<String> {
        let programs = Programs {
            vkernel: "/v".as_ref(),
            runsc: peer.map(PathBuf::from),
            uml: peer.map(PathBuf::from),
            inside: "/i".as_ref(),
            cpu: 3,
        };
        launchers(&programs, pinned, true).into_iter().map(|l| l.name).collect()
    }

    #[test]
    fn native_stands_first_and_is_never_pinned_twice() {
        let all = names(true, Some("/p"));
        let expected =
            ["native", "native-1cpu", "vkernel", "gvisor", "uml", "vkernel-1cpu", "gvisor-1cpu", "uml-1cpu"];
        assert_eq!(all, expected);
        assert_eq!(names(false, None)[..3], expected[..3]);
    }

    #[test]
    fn a_pinned_command_is_bound_outside_the_launcher() {
        let vkernel = Launcher::new("vkernel", &["/v", "run", "--"]).pinned(3);
        assert_eq!(vkernel.command(&["true"]).join(" "), "taskset -c 3 /v run -- true");
    }

    #[test]
    fn a_program_is_found_where_it_runs() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
    }
}
