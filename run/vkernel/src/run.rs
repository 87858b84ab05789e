//! `vkernel run`: from options to a machine, a kernel and an exit code.

use crate::cli::{Level, RunArgs};
use crate::user::{Accounts, User};
use crate::{size, volume};
use anyhow::{Context, Result, bail};
use host_linux::{LinuxMachine, StartError as MachineError};
use kernel::task::ExitStatus;
use kernel::{Command, Config, Kernel, StartError};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Our own error.
pub const OWN_ERROR: u8 = 125;
/// The program cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
const NOT_FOUND: u8 = 127;

/// Prints each line of an error on standard error, with our name.
pub fn complain(text: &str) {
    for line in text.lines() {
        eprintln!("vkernel: {line}");
    }
}

/// Runs the command to its end; the result is the exit code.
pub fn run(args: &RunArgs) -> u8 {
    let (machine_config, kernel_config) = match configure(args) {
        Ok(configs) => configs,
        Err(error) => {
            complain(&format!("{error:#}"));
            return OWN_ERROR;
        }
    };
    let machine = match LinuxMachine::new(&machine_config) {
        Ok(machine) => machine,
        Err(MachineError { lines }) => {
            lines.iter().for_each(|line| complain(line));
            return OWN_ERROR;
        }
    };
    let kernel = Kernel::new(machine.clone(), kernel_config);
    let (ran, status) = match kernel.start() {
        Ok(()) => (machine.run_cpus(|cpu| kernel.run_cpu(cpu)), kernel.exit_status()),
        Err(error) => (Ok(()), Some(Err(error))),
    };
    kernel.shutdown();
    // The terminal is put back before anything is printed on it.
    machine.shutdown();
    // The process ends: the host takes memory and descriptors back at once, where we would look at each file that a program has seen.
    std::mem::forget((kernel, machine));
    if let Err(error) = ran {
        complain(&format!("cannot start a virtual CPU: {error}"));
        return OWN_ERROR;
    }
    exit_code(status)
}

fn exit_code(status: Option<Result<ExitStatus, StartError>>) -> u8 {
    match status {
        Some(Ok(ExitStatus::Exited(code))) => code,
        Some(Ok(ExitStatus::Signaled { signo, .. })) => 128u8.wrapping_add(signo as u8),
        Some(Err(StartError::Setup(text))) => {
            complain(&text);
            OWN_ERROR
        }
        Some(Err(StartError::Exec { program, errno: abi::Errno::ENOENT })) => {
            complain(&format!("{program}: not found"));
            NOT_FOUND
        }
        Some(Err(StartError::Exec { program, errno })) => {
            complain(&format!("{program}: cannot be executed: {errno}"));
            NOT_EXECUTABLE
        }
        None => {
            complain("the kernel ended without a result");
            OWN_ERROR
        }
    }
}

fn configure(args: &RunArgs) -> Result<(host_linux::Config, Config)> {
    let root = canonical_root(&args.root)?;
    let accounts =
        Accounts { passwd: text_in_root(&root, "etc/passwd"), group: text_in_root(&root, "etc/group") };
    let user = match &args.user {
        Some(text) => accounts.parse(text)?,
        None => caller(&accounts),
    };
    let volumes = args.volumes.iter().map(|v| volume::parse(v)).collect::<Result<Vec<_>>>()?;
    if args.hostname.is_empty() || args.hostname.len() > 64 {
        bail!("--hostname {:?}: must have 1 to 64 bytes", args.hostname);
    }
    let host_memory = host_linux::usable_memory();
    let memory = args.memory.map_or_else(|| default_memory(host_memory), |m| m.0);
    // The kernel's own tables grow with RAM.
    if memory > host_memory.saturating_mul(16) {
        let (memory, host) = (memory >> 20, host_memory >> 20);
        bail!("--memory: {memory} MiB are more than sixteen times what the host has ({host} MiB)");
    }
    let own_root = root == "/";
    let level = match (args.strace, args.log) {
        // Calls are logged at this level.
        (true, Level::Error | Level::Warn) => Level::Info,
        (_, level) => level,
    };
    let machine = host_linux::Config {
        memory_bytes: memory,
        cpus: args.cpus.map_or(0, usize::from),
        log_level: level.into(),
        own_process: true,
    };
    let kernel = Config {
        root: Some(root),
        read_only: args.read_only,
        volumes,
        user: (user.uid, user.gid, user.groups.clone()),
        hostname: args.hostname.clone(),
        limits: host_linux::guest_limits(),
        strace: args.strace,
        patch: !args.no_patch,
        command: command(args, &user, own_root)?,
    };
    Ok((machine, kernel))
}

/// Half of the host's memory, in whole MiB: the kernel takes it only as it is touched. RAM is a file, so it is not larger than a file may
/// be (`RLIMIT_FSIZE`), unless that is too little for anything.
fn default_memory(host: u64) -> u64 {
    const FSIZE: u32 = 1;
    let usual = ((host / 2) & !0xf_ffff).clamp(256 << 20, 1 << 40).max(size::MINIMUM);
    let largest = host_linux::guest_limits().iter().find(|(resource, ..)| *resource == FSIZE).map(|l| l.2);
    largest.filter(|most| *most >= size::MINIMUM).map_or(usual, |most| usual.min(most & !0xfff))
}

fn canonical_root(text: &str) -> Result<String> {
    let root = std::fs::canonicalize(text).with_context(|| format!("--root {text}"))?;
    if !root.is_dir() {
        bail!("--root {text}: not a directory");
    }
    match root.to_str() {
        Some(root) => Ok(root.to_string()),
        None => bail!("--root {text}: the path is not UTF-8"),
    }
}

/// A text file below the root; empty when it cannot be read.
fn text_in_root(root: &str, path: &str) -> String {
    let bytes = host_linux::read_in_root(root, path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The user that called us.
fn caller(accounts: &Accounts) -> User {
    let (uid, gid, groups) = host_linux::caller_ids();
    accounts.by_ids(uid, gid, groups)
}

fn command(args: &RunArgs, user: &User, own_root: bool) -> Result<Command> {
    let mut env: Vec<Vec<u8>> = Vec::new();
    let mut set = |name: &[u8], value: &[u8]| {
        env.retain(|e| !(e.starts_with(name) && e.get(name.len()) == Some(&b'=')));
        env.push([name, b"=", value].concat());
    };
    for (name, value) in std::env::vars_os() {
        set(name.as_bytes(), value.as_bytes());
    }
    let login = args.command.is_empty();
    if login || args.user.is_some() {
        set(b"HOME", user.home.as_bytes());
        set(b"SHELL", user.shell.as_bytes());
        for name in [&b"USER"[..], b"LOGNAME"] {
            set(name, user.name.as_deref().unwrap_or("nobody").as_bytes());
        }
    }
    for text in &args.env {
        let bytes = text.as_bytes();
        match bytes.iter().position(|b| *b == b'=') {
            Some(at) if at > 0 => set(&bytes[..at], &bytes[at + 1..]),
            _ => bail!("--env {}: must be NAME=VALUE", text.display()),
        }
    }
    if !env.iter().any(|e| e.starts_with(b"PATH=")) {
        env.push(b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_vec());
    }
    let current = || std::env::current_dir().ok().filter(|_| own_root).map(|d| d.into_os_string().into_vec());
    let workdir = match &args.workdir {
        Some(dir) if dir.as_bytes().starts_with(b"/") => Some(dir.as_bytes().to_vec()),
        Some(dir) => bail!("--workdir {}: must be absolute", dir.display()),
        None if login => Some(user.home.clone().into_bytes()),
        None => current(),
    };
    let (program, args) = match args.command.split_first() {
        Some((program, _)) if program.is_empty() => bail!("the command is empty"),
        Some((program, _)) => {
            let args = args.command.iter().map(|a| a.as_bytes().to_vec()).collect();
            (program.as_bytes().to_vec(), args)
        }
        None => {
            // A dash in front makes a shell a login shell.
            let name = user.shell.rsplit('/').next().unwrap_or("sh");
            (user.shell.clone().into_bytes(), vec![format!("-{name}").into_bytes()])
        }
    };
    Ok(Command { program, args, env, workdir })
}
