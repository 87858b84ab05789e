//! The system-call cases: what passes on the host passes under vkernel, but for the list of differences.

use std::collections::{BTreeMap, BTreeSet};
use vk_e2e_tests::{Outcome, Run, abi_program, copy_program, guest, host, is_root, temp, workspace};

/// Verdict by case: the first word of its line.
fn verdicts(outcome: &Outcome) -> BTreeMap<String, (String, String)> {
    let lines = outcome.text().lines().filter(|l| l.contains("::"));
    let split = lines.filter_map(|line| {
        let mut words = line.splitn(3, ' ');
        let (verdict, name) = (words.next()?, words.next()?.trim_end_matches(':'));
        Some((name.to_string(), (verdict.to_string(), words.next().unwrap_or_default().to_string())))
    });
    split.collect()
}

/// The known differences; each needs a reason.
fn expected() -> BTreeSet<String> {
    let path = workspace().join("tests/abi/expected.toml");
    let text = std::fs::read_to_string(path).expect("the list is there");
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']) && !line.trim().is_empty());
    lines
        .map(|line| {
            let (name, reason) = line.split_once('=').expect("name = reason");
            assert!(reason.trim().trim_matches('"').len() > 10, "no reason: {line}");
            name.trim().trim_matches('"').to_string()
        })
        .collect()
}

fn compare(ours: Run, theirs: Run) {
    let (ours, theirs) = (verdicts(&ours.limit(300).run()), verdicts(&theirs.limit(300).run()));
    assert!(theirs.len() >= 250, "only {} cases", theirs.len());
    let known = expected();
    let mut wrong = Vec::new();
    for (name, (verdict, why)) in &theirs {
        if verdict == "FAIL" {
            wrong.push(format!("{name} fails on the host: {why}"));
        }
        let (mine, reason) = ours.get(name).cloned().unwrap_or(("gone".into(), String::new()));
        if (mine == *verdict) == known.contains(name) {
            wrong.push(format!("{name}: host {verdict}, guest {mine} {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), theirs.len(), wrong.join("\n"));
}

#[test]
fn the_cases_agree_with_the_host() {
    let path = abi_program("abi-tests");
    let dir = temp();
    compare(guest(&[]).arg(&path).dir(dir.path()), Run::new(&path).dir(dir.path()));
}

#[test]
fn the_cases_agree_for_an_ordinary_user() {
    if !is_root() {
        return the_cases_agree_with_the_host();
    }
    // A copy that the user can reach, wherever the workspace is.
    let dir = temp();
    let copy = dir.path().join("abi-tests");
    copy_program(&abi_program("abi-tests"), &copy);
    let theirs =
        host("setpriv").args(["--reuid=1234", "--regid=1234", "--clear-groups"]).arg(&copy).dir("/tmp");
    compare(guest(&["--user", "1234:1234"]).arg(&copy).dir("/tmp"), theirs);
}
