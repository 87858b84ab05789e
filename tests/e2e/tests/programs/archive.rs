//! Archives, compression and cryptography.

use std::fmt::Write;
use vk_e2e_tests::{guest, host, need, same, same_in, temp};

#[test]
fn an_archive_of_the_headers_has_the_hosts_bytes() {
    let out = same(&["sh", "-c", "tar c -C / usr/include 2>/dev/null | sha256sum"]);
    assert_eq!(out.text().len(), "  -\n".len() + 64);
}

/// About 8 MB that compress, but not to nothing.
fn sample() -> String {
    let mut text = String::new();
    let mut state = 1u64;
    while text.len() < 8_000_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let _ = writeln!(text, "{} line {:x}", state >> 60, state >> 40);
    }
    text
}

#[test]
fn compressors_agree_with_the_host() {
    let dir = temp();
    std::fs::write(dir.path().join("sample"), sample()).expect("our own directory");
    for program in ["xz", "zstd", "gzip"] {
        need(program);
    }
    for script in [
        "xz -1 -T2 -k sample && sha256sum sample.xz && xz -dc sample.xz | cmp - sample && xz -l --robot sample.xz | tail -1",
        "zstd -q -T2 -7 sample && sha256sum sample.zst && zstd -qdc sample.zst | cmp - sample && echo same",
        "gzip -nk sample && sha256sum sample.gz && gzip -dc sample.gz | cmp - sample && stat -c '%a %s' sample.gz",
        "mkdir a && cp -a sample a && tar czf a.tgz --sort=name a && rm -r a && tar xzf a.tgz && cmp sample a/sample && stat -c '%a %s %Y' a/sample",
    ] {
        same_in(dir.path(), &["bash", "-c", script]).exits(0);
    }
}

#[test]
fn cryptography_at_speed() {
    need("openssl");
    // The numbers differ by nature; what is asked of them is that they are there.
    let args = ["openssl", "speed", "-seconds", "1", "-bytes", "1024", "-evp", "sha256"];
    let ours = guest(&[]).args(args).run().ok();
    let theirs = host(args[0]).args(&args[1..]).run().ok();
    let kinds = |text: &str| {
        text.lines().filter_map(|l| l.split_whitespace().next().map(str::to_string)).collect::<Vec<_>>()
    };
    assert_eq!(kinds(ours.text()), kinds(theirs.text()));
    let rate = |text: &str| -> f64 {
        let last = text.lines().last().expect("a result").split_whitespace().last().expect("a number");
        last.trim_end_matches('k').parse().expect("thousands of bytes a second")
    };
    // Pure computation runs at the host's speed; a tenth leaves room for a crowded machine.
    assert!(rate(ours.text()) > rate(theirs.text()) / 10.0, "{}\n{}", ours.text(), theirs.text());
    same(&[
        "sh",
        "-c",
        "echo text | openssl enc -aes-256-ctr -K 00 -iv 00 2>/dev/null | openssl dgst -sha512",
    ]);
}
