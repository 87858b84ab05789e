//! The crate graph: a lower crate never uses a higher one, and nothing below the hosts needs std, libc or unsafe code.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Layers from the bottom up; a crate may use crates of lower layers only.
const LAYERS: [&[&str]; 6] = [
    &["vk-abi"],
    &["vk-hal", "vmspace"],
    &["vk-kernel"],
    &["vk-host-linux"],
    &["vkernel", "vk-bench"],
    &["vk-abi-tests", "vk-attack", "vk-e2e-tests", "vk-layer-tests", "xtask"],
];
/// Crates that must build without std.
const BARE: [&str; 3] = ["vk-abi", "vk-hal", "vk-kernel"];
/// Crates that a bare crate must not lead to.
const HOSTED: [&str; 4] = ["libc", "rustix", "std", "vmspace"];

struct Graph {
    members: BTreeMap<String, String>,
    /// Normal dependencies by name.
    edges: BTreeMap<String, BTreeSet<String>>,
}

fn graph() -> Graph {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let names: BTreeMap<String, (String, String)> = list(&metadata["packages"])
        .iter()
        .map(|p| (text(&p["id"]), (text(&p["name"]), text(&p["manifest_path"]))))
        .collect();
    let members =
        list(&metadata["workspace_members"]).iter().filter_map(|id| names.get(&text(id)).cloned()).collect();
    let mut edges = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let Some((from, _)) = names.get(&text(&node["id"])) else { continue };
        let normal = |d: &&Value| list(&d["dep_kinds"]).iter().any(|k| k["kind"].is_null());
        let deps = list(&node["deps"]);
        let to = deps.iter().filter(normal).filter_map(|d| names.get(&text(&d["pkg"])).map(|n| n.0.clone()));
        edges.entry(from.clone()).or_insert_with(BTreeSet::new).extend(to);
    }
    Graph { members, edges }
}

#[test]
fn no_crate_uses_a_higher_layer() {
    let graph = graph();
    let layer = |name: &str| LAYERS.iter().position(|l| l.contains(&name));
    for from in graph.members.keys() {
        let own = layer(from).unwrap_or_else(|| panic!("{from} has no layer: add it to this test"));
        for to in graph.edges.get(from).into_iter().flatten() {
            if let Some(other) = layer(to) {
                assert!(other < own, "{from} (layer {own}) uses {to} (layer {other})");
            }
        }
    }
}

#[test]
fn kernel_crates_lead_to_no_host() {
    let graph = graph();
    for start in BARE {
        let mut seen = BTreeSet::new();
        let mut todo = vec![start.to_string()];
        while let Some(name) = todo.pop() {
            assert!(!HOSTED.contains(&name.as_str()), "{start} leads to {name}");
            let next = graph.edges.get(&name).into_iter().flatten();
            todo.extend(next.filter(|n| seen.insert((*n).clone())).cloned());
        }
    }
}

#[test]
fn kernel_crates_forbid_std_and_unsafe() {
    let graph = graph();
    for name in BARE {
        let manifest = graph.members.get(name).unwrap_or_else(|| panic!("{name} is not in the workspace"));
        let lib = std::path::Path::new(manifest).with_file_name("src").join("lib.rs");
        let source = std::fs::read_to_string(&lib).expect("lib.rs can be read");
        for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            assert!(source.lines().any(|l| l.trim() == attribute), "{} lacks {attribute}", lib.display());
        }
    }
}
