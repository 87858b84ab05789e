//! `/sys/devices/system/cpu`: one package whose cores have one thread each.

use crate::error::Result;
use crate::fs::pseudo::{Entries, LinkTarget, Node};
use crate::task::Cx;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A link with a target made at registration.
pub(super) struct Relative(pub(super) String);

impl LinkTarget for Relative {
    fn text(&self, _cx: &Cx) -> Result<Vec<u8>> {
        Ok(self.0.clone().into_bytes())
    }
}

/// All CPUs as a list.
pub(super) fn list(cpus: usize) -> String {
    if cpus <= 1 { String::from("0\n") } else { format!("0-{}\n", cpus - 1) }
}

/// All CPUs as a mask: groups of 32 bits, the highest first.
pub(super) fn map(cpus: usize) -> String {
    mask(&|cpu| cpu < cpus, cpus)
}

fn mask(has: &dyn Fn(usize) -> bool, cpus: usize) -> String {
    let mut text = String::new();
    let words = cpus.div_ceil(32).max(1);
    for word in (0..words).rev() {
        let bits = (0..32).filter(|bit| has(word * 32 + bit)).fold(0u32, |bits, bit| bits | 1 << bit);
        // The highest group is as wide as the CPUs need.
        let width = if word + 1 == words { (cpus - word * 32).div_ceil(4).max(1) } else { 8 };
        text.push_str(&format!("{bits:0width$x}"));
        text.push(if word == 0 { '\n' } else { ',' });
    }
    text
}

/// Adds the files.
pub(super) fn register(tree: &Entries, cpus: usize) -> Result<()> {
    let base = "devices/system/cpu";
    let put = |name: &str, text: String| tree.register(&format!("{base}/{name}"), Node::constant(text));
    for name in ["online", "possible", "present", "enabled"] {
        put(name, list(cpus))?;
    }
    put("offline", String::from("\n"))?;
    put("isolated", String::from("\n"))?;
    put("kernel_max", format!("{}\n", cpus.max(1) - 1))?;
    put("smt/active", String::from("0\n"))?;
    put("smt/control", String::from("notsupported\n"))?;
    tree.register(&format!("{base}/cpufreq"), Node::dir())?;
    tree.register(&format!("{base}/cpuidle"), Node::dir())?;
    tree.register(&format!("{base}/vulnerabilities"), Node::dir())?;
    for cpu in 0..cpus {
        let one = format!("{cpu}\n");
        let only = mask(&|other| other == cpu, cpus);
        let topology = |name: &str, text: &str| put(&format!("cpu{cpu}/topology/{name}"), String::from(text));
        for name in ["core_cpus", "thread_siblings", "cluster_cpus"] {
            topology(name, &only)?;
        }
        for name in ["core_cpus_list", "thread_siblings_list", "cluster_cpus_list", "core_id", "cluster_id"] {
            topology(name, &one)?;
        }
        for name in ["core_siblings", "die_cpus", "package_cpus"] {
            topology(name, &map(cpus))?;
        }
        for name in ["core_siblings_list", "die_cpus_list", "package_cpus_list"] {
            topology(name, &list(cpus))?;
        }
        topology("die_id", "0\n")?;
        topology("physical_package_id", "0\n")?;
        tree.register(&format!("{base}/cpu{cpu}/node0"), Node::link("../../node/node0"))?;
        tree.register(
            &format!("bus/cpu/devices/cpu{cpu}"),
            Node::link(Relative(format!("../../../{base}/cpu{cpu}"))),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_in_groups_of_32() {
        assert_eq!(map(1), "1\n");
        assert_eq!(map(2), "3\n");
        assert_eq!(map(33), "1,ffffffff\n");
        assert_eq!(mask(&|cpu| cpu == 40, 48), "0100,00000000\n");
        assert_eq!(list(1), "0\n");
        assert_eq!(list(8), "0-7\n");
    }
}
