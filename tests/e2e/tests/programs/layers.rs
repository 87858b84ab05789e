//! Where writes go: into the layer, through volumes, or nowhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use vk_e2e_tests::{Picture, guest, same_in, temp};

/// A tree with everything that a layer has to hide or copy.
fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("sub/deep")).expect("our own directory");
    for (name, text) in [("a", "first"), ("b", "second"), ("sub/c", "third"), ("sub/deep/d", "fourth")] {
        fs::write(dir.join(name), text).expect("our own directory");
    }
    fs::hard_link(dir.join("a"), dir.join("a2")).expect("our own directory");
    symlink("a", dir.join("link")).expect("our own directory");
    fs::set_permissions(dir.join("b"), fs::Permissions::from_mode(0o640)).expect("our own directory");
}

const CHANGES: &str = r"
echo more >> a; cat a; rm b; ls; mkdir b; touch b/x; ls -R; mv sub moved; cat moved/c moved/deep/d; rm -r moved/deep; ls moved
ln -s moved/c new; cat new; chmod 600 a; stat -c '%a %s %n' a; touch -d @1000 moved/c; stat -c %Y moved/c
truncate -s 3 moved/c; cat moved/c; ln moved/c hard; stat -c %h hard; mv hard moved/c2; cp -a moved moved2; rm -rf moved; ls -a
mkfifo fifo; stat -c %F fifo; rm link; ln -s / link; test -d link/usr && echo root; rmdir b 2>&1; rm b/x; rmdir b; mkdir sub; ls -la sub | wc -l
echo one > r; sed -i s/one/two/ r; cat r; mv r moved2/c; cat moved2/c; mktemp -d ./XXXXXX | wc -c; dd if=/dev/zero of=z bs=1M count=5 2>/dev/null; wc -c z";

#[test]
fn writes_stay_in_the_layer() {
    let dir = temp();
    tree(dir.path());
    let before = Picture::of(dir.path());
    let out = guest(&[]).args(["bash", "-c", CHANGES]).dir(dir.path()).run().ok();
    assert!(Picture::of(dir.path()) == before, "the host's tree has changed");
    // The same on the host itself, in the tree as it was.
    let theirs = vk_e2e_tests::host("bash").args(["-c", CHANGES]).dir(dir.path()).run().ok();
    assert_eq!(out.text(), theirs.text());
}

#[test]
fn nothing_outside_changes_when_everything_is_removed() {
    let dir = temp();
    tree(dir.path());
    let before = Picture::of(dir.path());
    // Root inside, whoever runs it.
    let out = guest(&["--user", "0:0"]).args(["sh", "-c", "rm -rf /etc/* /opt/* /srv/* \"$PWD\"/* && ls -A /etc . | wc -l; echo lost > /etc/passwd; cat /etc/passwd"]).dir(dir.path()).run();
    assert!(out.text().ends_with("lost\n"), "{} {}", out.text(), out.stderr);
    assert!(Picture::of(dir.path()) == before && fs::metadata("/etc/passwd").expect("it is there").len() > 5);
}

#[test]
fn writes_through_a_volume_arrive() {
    let (dir, plain) = (temp(), temp());
    tree(dir.path());
    tree(plain.path());
    let volume = format!("{}:/mnt", dir.path().display());
    let out = guest(&["--volume", &volume, "--workdir", "/mnt"]).args(["bash", "-c", CHANGES]).run().ok();
    let theirs = vk_e2e_tests::host("bash").args(["-c", CHANGES]).dir(plain.path()).run().ok();
    assert_eq!(out.text(), theirs.text());
    // Both trees look the same to the host afterwards; the temporary name is chance.
    let listing = [
        "sh",
        "-c",
        "find . -printf '%p %y %m %s %n %U %l\\n' | grep -vE '^\\./.{6} d' | grep -v '^\\. ' | sort; find . -type f | sort | xargs cat | sha256sum",
    ];
    let of = |path: &Path| vk_e2e_tests::host(listing[0]).args(&listing[1..]).dir(path).run().ok().stdout;
    assert_eq!(String::from_utf8_lossy(&of(dir.path())), String::from_utf8_lossy(&of(plain.path())));
}

#[test]
fn a_file_is_a_volume_too_and_read_only_is_kept() {
    let dir = temp();
    tree(dir.path());
    let file = format!("{}:/etc/hostname", dir.path().join("a").display());
    let closed = format!("{}:/srv:ro", dir.path().display());
    let script = "cat /etc/hostname; echo new > /etc/hostname; cat /srv/a; for c in 'rm /srv/a' 'touch /srv/x' 'mkdir /srv/y' 'chmod 0 /srv/b' 'mv /srv/a /srv/z'; do $c 2>&1 | grep -o 'Read-only file system'; done";
    let out = guest(&["--volume", &file, "--volume", &closed]).args(["sh", "-c", script]).run().ok();
    assert_eq!(out.text(), format!("firstnew\n{}", "Read-only file system\n".repeat(5)));
    assert_eq!(fs::read(dir.path().join("a2")).expect("the other name"), b"new\n");
}

#[test]
fn a_read_only_root_refuses_with_erofs() {
    let dir = temp();
    tree(dir.path());
    let before = Picture::of(dir.path());
    let script = "for c in 'rm a' 'touch x' 'mkdir y' 'chmod 0 b' 'ln a q' 'ln -s a q' 'mv a z' 'truncate -s 0 a' 'mkfifo p'; do $c 2>&1 | grep -o 'Read-only file system'; done; cat a; echo shm > /dev/shm/x && cat /dev/shm/x; echo n > /dev/null";
    let out = guest(&["--read-only"]).args(["sh", "-c", script]).dir(dir.path()).run().ok();
    assert_eq!(out.text(), format!("{}firstshm\n", "Read-only file system\n".repeat(9)));
    assert!(Picture::of(dir.path()) == before);
}

#[test]
fn another_root() {
    let dir = temp();
    let busybox = "cp \"$(command -v busybox)\" . && mkdir bin && mv busybox bin/ && ln -s busybox bin/sh && ln -s /etc/passwd outside && ln -s ../../../etc/passwd up";
    vk_e2e_tests::need("busybox");
    vk_e2e_tests::host("sh").args(["-c", busybox]).dir(dir.path()).run().ok();
    let root = dir.path().to_str().expect("UTF-8");
    let out = guest(&["--root", root])
        .args([
            "/bin/sh",
            "-c",
            "pwd; cat /outside /up 2>/dev/null || echo inside; cd ..; busybox ls | busybox grep -c usr",
        ])
        .run();
    assert_eq!(out.text(), "/\ninside\n0\n", "{}", out.stderr);
}

#[test]
fn a_limit_on_file_sizes_is_said_in_one_line() {
    // The kernel's RAM is a file for the host; where it cannot be, nothing starts.
    let dir = temp();
    let vk = vk_e2e_tests::vkernel().display();
    // Who may raise the hard limit (CAP_SYS_RESOURCE) is not stopped by it.
    let script = format!("ulimit -f 100; ulimit -f 200 2>/dev/null && exit 42; '{vk}' run -- true");
    let out = vk_e2e_tests::host("bash").args(["-c", &script]).run();
    if out.code != 42 {
        let out = out.exits(125);
        assert!(out.stderr.lines().count() == 1 && out.stderr.contains("ulimit -f"), "{}", out.stderr);
    }
    // A soft limit is the guest's, like the others.
    let script = "ulimit -f -n; head -c 300000 /dev/zero > file; echo $?; wc -c < file";
    let limits = "ulimit -S -f 100; ulimit -S -n 321";
    let native = format!("{limits}; cd '{}'; bash -c '{script}' 2>/dev/null", dir.path().display());
    let guest = format!("{limits}; '{vk}' run --workdir /tmp -- bash -c '{script}' 2>/dev/null");
    let [native, guest] = [native, guest].map(|s| vk_e2e_tests::host("bash").args(["-c", &s]).run().ok());
    assert_eq!(guest.text(), native.text());
    assert!(guest.text().contains("102400"), "{}", guest.text());
    same_in(dir.path(), &["sh", "-c", "echo x > /dev/full; echo $?"]).exits(0);
}

#[test]
fn a_full_file_system_is_an_error_that_programs_see() {
    // A small file system of its own needs a mount name space: the superuser's, or one of a user name space.
    let dir = temp();
    let inner = format!(
        "mount -t tmpfs -o size=1M none {d} && exec '{vk}' run --log error --memory 128M --volume {d}:/mnt -- sh -c 'dd if=/dev/zero of=/mnt/f bs=64k count=100 2>&1 | grep -o \"No space left on device\"; cat /mnt/f | wc -c; echo x > /mnt/g; echo $?; rm /mnt/f; echo fits > /mnt/g; cat /mnt/g'",
        d = dir.path().display(),
        vk = vk_e2e_tests::vkernel().display()
    );
    let out = vk_e2e_tests::host("unshare").args(["-m", "-r", "sh", "-c", &inner]).run().ok();
    assert_eq!(out.text(), "No space left on device\n1048576\n1\nfits\n", "{}", out.stderr);
}
