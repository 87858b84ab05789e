//! An ordinary user without privileges gets the same.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use vk_e2e_tests::{Run, copy_program, is_root, temp, vkernel};

const USER: u32 = 65534;

/// The command and a directory of the user's; as the superuser, a copy that the user can reach.
fn setting() -> (tempfile::TempDir, PathBuf) {
    let dir = temp();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("our own directory");
    let copy = dir.path().join("vkernel");
    copy_program(vkernel(), &copy);
    (dir, copy)
}

fn ordinary(run: Run) -> Run {
    let run = run.env("HOME", "/").env("PATH", "/usr/local/bin:/usr/bin:/bin");
    if is_root() { run.user(USER) } else { run }
}

#[test]
fn the_same_as_an_ordinary_user() {
    let (dir, vk) = setting();
    for script in [
        "id; umask; cat /etc/shadow; echo $?; ls -ld /root /usr; test -w /etc && echo writable; touch /etc/x; echo $?",
        "for i in 1 2 3; do /bin/true; done; seq 1000 | sort -rn | head -3 | md5sum",
        "grep -E '^(Uid|Gid|Groups|CapEff|CapPrm|NoNewPrivs)' /proc/self/status",
        "/usr/bin/python3 -c 'import os,subprocess; print(os.getresuid(), subprocess.check_output([\"id\", \"-u\"]))'",
        "mkdir d && cd d && echo x > f && chmod 700 f && ./f; chown 0 f; echo $?; stat -c '%U %a' f; ls -la | wc -l",
    ] {
        let ours = ordinary(Run::new(&vk))
            .args(["run", "--log", "error", "--", "sh", "-c", script])
            .dir(dir.path())
            .run();
        let theirs = ordinary(Run::new("sh")).args(["-c", script]).dir(dir.path()).run();
        assert_eq!(ours.code, theirs.code, "{script}: {}", ours.stderr);
        assert_eq!(ours.text(), theirs.text(), "{script}\n{}", ours.stderr);
    }
}

#[test]
fn an_ordinary_user_is_root_in_his_layer_when_asked_for() {
    let (dir, vk) = setting();
    // Writing to the layer is the guest root's right; reading what the host's user may not read is not.
    let script = "id -u; echo new > /etc/motd2 && cat /etc/motd2; cat /etc/shadow 2>/dev/null | wc -c";
    let ours = ordinary(Run::new(&vk))
        .args(["run", "--log", "error", "--user", "0:0", "--", "sh", "-c", script])
        .dir(dir.path())
        .run()
        .ok();
    let lines: Vec<&str> = ours.text().lines().collect();
    assert_eq!(lines[..2], ["0", "new"], "{}", ours.stderr);
    assert_eq!(lines[2], "0", "the host's secret is readable");
    assert!(!std::path::Path::new("/etc/motd2").exists());
}

#[test]
fn writes_through_a_volume_are_the_users() {
    use std::os::unix::fs::MetadataExt;
    let (dir, vk) = setting();
    let volume = format!("{}:/mnt", dir.path().display());
    let out = ordinary(Run::new(&vk))
        .args([
            "run",
            "--log",
            "error",
            "--volume",
            &volume,
            "--",
            "sh",
            "-c",
            "echo x > /mnt/f; stat -c %a /mnt/f",
        ])
        .dir("/")
        .run()
        .ok();
    assert_eq!(out.text(), "644\n");
    let owner = std::fs::metadata(dir.path().join("f")).expect("it arrived").uid();
    let me = std::fs::metadata("/proc/self").expect("/proc is mounted").uid();
    assert_eq!(owner, if is_root() { USER } else { me });
}
