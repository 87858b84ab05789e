//! Kinds of executables and what runtimes ask of the kernel: static, static-PIE, many threads, preemption by
//! signals, many processes, a process limit.

use vk_e2e_tests::{abi_program, guest, host, need, same, same_in, temp};

#[test]
fn a_static_program() {
    need("busybox");
    same(&["busybox", "sh", "-c", "for i in 1 2 3; do busybox echo $i | busybox sed s/^/n/; done; busybox id -u; busybox ls /usr; busybox sha256sum /usr/bin/env"])
        .exits(0);
    // Static means that no interpreter is named; otherwise this shows nothing.
    let kind = host("sh").args(["-c", "readelf -lW \"$(command -v busybox)\" | grep -c INTERP"]).run();
    assert_eq!(kind.text(), "0\n", "the dynamic busybox is installed: apt-get install busybox-static");
}

const SOURCE: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <time.h>
static __thread int local = 5;
static int relocated = 9; static int *pointer = &relocated;
static void *run(void *arg) { local += *(int *)arg; return (void *)(long)local; }
int main(int argc, char **argv) {
    pthread_t t; int n = 37; void *r; struct timespec ts;
    pthread_create(&t, 0, run, &n); pthread_join(t, &r);
    printf("%d %ld %d %d %s\n", local, (long)r, *pointer, argc, argv[1]);
    printf("%lu %d %d\n", getauxval(AT_PAGESZ), getauxval(AT_PHDR) != 0, getauxval(AT_ENTRY) != 0);
    printf("%d %d\n", clock_gettime(CLOCK_MONOTONIC, &ts), getauxval(AT_RANDOM) != 0);
    char *big = malloc(64 << 20); memset(big, 1, 64 << 20); printf("%d\n", big[60 << 20]); free(big);
    return 21;
}
"#;

#[test]
fn every_kind_of_executable() {
    let dir = temp();
    std::fs::write(dir.path().join("p.c"), SOURCE).expect("our own directory");
    for kind in ["-static-pie", "-static", "-pie", "-no-pie"] {
        let out = dir.path().join(format!("p{kind}"));
        host("gcc").args(["-O1", kind, "-pthread", "p.c", "-o"]).arg(&out).dir(dir.path()).run().ok();
        same_in(dir.path(), &[out.to_str().expect("UTF-8"), "argument"]).exits(21);
    }
}

#[track_caller]
fn abi(name: &str, args: &[&str]) -> String {
    let path = abi_program(name);
    let argv: Vec<&str> =
        std::iter::once(path.to_str().expect("UTF-8")).chain(args.iter().copied()).collect();
    same(&argv).exits(0).text().to_string()
}

#[test]
fn a_thousand_threads() {
    assert_eq!(abi("threads1000", &[]), "1000 threads\n");
}

#[test]
fn preemption_by_signals_with_own_stacks() {
    // How many preemptions there are differs by nature.
    let path = abi_program("sigurg");
    for run in [guest(&[]).arg(&path), host("env").arg(&path)] {
        let out = run.run().ok();
        let count = out.text().split(' ').next().and_then(|n| n.parse::<u32>().ok());
        assert!(count.is_some_and(|n| n > 0), "{}", out.text());
    }
}

#[test]
fn two_thousand_short_processes() {
    assert_eq!(abi("shortprocs", &["2000"]), "2000 processes\n");
    assert_eq!(abi("shortprocs", &["--exec", "100"]), "100 processes\n");
}

#[test]
fn a_fork_bomb_meets_its_limit_and_the_kernel_lives_on() {
    let bomb = abi_program("forkbomb");
    // Only the guest is bombed: a limit on the host counts what else the user runs there.
    let script = format!(
        "'{}' 200 && echo alive && (ulimit -u 100; '{}'); echo $?; seq 3 | sort -r",
        bomb.display(),
        bomb.display()
    );
    let out = guest(&["--user", "1234:1234"]).args(["bash", "-c", &script]).run().ok();
    let lines: Vec<&str> = out.text().lines().collect();
    assert!(lines[0].ends_with(" processes, then EAGAIN") && lines[1] == "alive", "{}", out.text());
    assert!(
        lines[2].ends_with(" processes, then EAGAIN") && lines[3..] == ["0", "3", "2", "1"],
        "{}",
        out.text()
    );
}

#[test]
fn a_spinning_program_starves_nobody() {
    let spin = abi_program("spin");
    let script = format!(
        "'{}' & '{}' & for i in $(seq 20); do /bin/true; done; kill %1 %2; wait; echo done",
        spin.display(),
        spin.display()
    );
    let out = guest(&["--cpus", "1"]).args(["bash", "-c", &script]).run().ok();
    assert_eq!(out.text(), "done\n");
}
