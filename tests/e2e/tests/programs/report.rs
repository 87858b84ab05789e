//! Programs that report on the system.

use vk_e2e_tests::{Outcome, guest, host, need, same};

fn both(argv: &[&str]) -> (Outcome, Outcome) {
    need(argv[0]);
    let ours = guest(&["--memory", "256M"]).args(argv).run().ok();
    (ours, host(argv[0]).args(&argv[1..]).run().ok())
}

fn head(outcome: &Outcome) -> String {
    outcome.text().lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn ps_lists_the_guests_processes_and_no_others() {
    // Until it has called execve it is another sh.
    let script =
        "sleep 77 & until read -r name </proc/$!/comm && [ \"$name\" = sleep ]; do :; done; ps aux; kill $!";
    let (ours, theirs) = both(&["sh", "-c", script]);
    assert_eq!(head(&ours), head(&theirs));
    let rows: Vec<Vec<&str>> = ours.text().lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
    assert!(rows.iter().all(|row| row.len() >= 11 && row[1].parse::<u32>().is_ok()), "{}", ours.text());
    let commands: Vec<String> = rows.iter().map(|row| row[10..].join(" ")).collect();
    assert!(
        commands.iter().any(|c| c == "sleep 77") && commands.iter().any(|c| c == "ps aux"),
        "{commands:?}"
    );
    assert!(commands.len() <= 5, "processes that are not the guest's: {commands:?}");
    let (ours, theirs) =
        both(&["ps", "-eo", "pid,ppid,pgid,sid,tty,stat,ni,pri,vsz,rss,etimes,time,wchan,nlwp,comm"]);
    assert_eq!(head(&ours), head(&theirs));
    assert_eq!(ours.stderr, "");
}

#[test]
fn top_prints_its_summary() {
    let (ours, theirs) = both(&["top", "-bn1"]);
    let words = |outcome: &Outcome| -> Vec<String> {
        let lines = outcome.text().lines().take(5);
        lines.map(|line| line.split([' ', ':']).next().unwrap_or_default().to_string()).collect()
    };
    assert_eq!(words(&ours), words(&theirs));
    // How wide the column of process numbers is depends on how large they may get.
    let columns = |outcome: &Outcome| outcome.text().lines().nth(6).map(|line| line.trim_start().to_string());
    assert_eq!(columns(&ours), columns(&theirs));
    assert!(
        ours.text().lines().any(|line| line.ends_with("top") || line.ends_with("top ")),
        "{}",
        ours.text()
    );
}

#[test]
fn free_shows_the_memory_of_the_kernel() {
    let (ours, theirs) = both(&["free", "-k"]);
    assert_eq!(head(&ours), head(&theirs));
    let row: Vec<u64> = ours
        .text()
        .lines()
        .nth(1)
        .expect("a row")
        .split_whitespace()
        .skip(1)
        .map(|n| n.parse().expect("a number"))
        .collect();
    let (total, used, available) = (row[0], row[1], row[5]);
    assert!((200 << 10..=256 << 10).contains(&total), "256M given, {total} KiB shown");
    assert!(used < total && available < total && available > total / 2, "{}", ours.text());
}

#[test]
fn df_shows_the_mounts() {
    let (ours, theirs) = both(&["df", "-P", "/", "/dev/shm"]);
    assert_eq!(head(&ours), head(&theirs));
    assert_eq!(ours.text().lines().count(), 3);
    assert!(ours.text().contains("% /\n") && ours.text().contains("% /dev/shm\n"), "{}", ours.text());
    assert!(both(&["df", "-a"]).0.text().contains(" /proc\n"));
}

#[test]
fn identity_and_metadata_are_the_hosts() {
    same(&["id"]);
    // Everything but the device number, which is our own kernel's, and access times, which reading moves.
    same(&[
        "stat",
        "-c",
        "%N %F %a %s %b %B %f %i %h %U %G %w %y %z %t %T",
        "/usr",
        "/usr/bin/env",
        "/etc/passwd",
        "/bin",
    ]);
    same(&["stat", "/no/such/file"]).exits(1);
}

#[test]
fn limits_versions_and_processors_are_said() {
    same(&["nproc"]);
    same(&["uname", "-sm"]);
    // Limits of users and paths are the kernel's and the file system's own; these are Linux's.
    for name in
        ["PAGESIZE", "ARG_MAX", "NGROUPS_MAX", "CLK_TCK", "_NPROCESSORS_ONLN", "IOV_MAX", "HOST_NAME_MAX"]
    {
        same(&["getconf", name]).exits(0);
    }
    same(&["locale"]);
    same(&["date", "-d", "@1700000000", "+%F %T %Z"]);
    for argv in
        [&["uptime"][..], &["lsof", "-p", "1"], &["mount"], &["vmstat"], &["lscpu"], &["dmesg", "--version"]]
    {
        need(argv[0]);
        assert!(!guest(&[]).args(argv).run().ok().stdout.is_empty(), "{argv:?}");
    }
}
