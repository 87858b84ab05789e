//! What is worth knowing about the machine and the source.

use super::report::Host;
use std::process::Command;

/// The machine as it is now.
pub fn host() -> Host {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    Host {
        name: text(name.nodename()),
        cpu_model: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: field(&read("/proc/meminfo"), "MemTotal").and_then(|kib| kibibytes(&kib)).unwrap_or(0),
        kernel: format!("{} {}", text(name.release()), text(name.version())),
        load: load(&read("/proc/loadavg")).unwrap_or(0.0),
    }
}

/// The value of the first `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_string())
}

fn kibibytes(value: &str) -> Option<u64> {
    Some(value.strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The first of the load averages.
fn load(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The commit of the working copy.
pub fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(crate::run::workspace());
    match git.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 207\nmodel name\t: A CPU: fast\nmodel name\t: another\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A CPU: fast"));
        assert_eq!(field(text, "name"), None);
        assert_eq!(kibibytes("24684084 kB"), Some(24684084 * 1024));
        assert_eq!(load("0.50 0.20 0.10 1/100 4242\n"), Some(0.5));
        assert_eq!(load(""), None);
    }

    #[test]
    fn this_machine_has_cpus_and_memory() {
        let host = host();
        assert!(host.cpus > 0 && host.memory_bytes > 0 && !host.kernel.is_empty());
    }
}
