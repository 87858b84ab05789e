//! Shell loops and pipelines over large trees.

use vk_e2e_tests::{guest, same, same_in, temp};

#[test]
fn a_loop_of_300_programs() {
    same(&["bash", "-c", "for i in $(seq 300); do /bin/true; done; echo done"]);
}

#[test]
fn hashes_of_2000_files_through_a_pipeline() {
    let script = "set -o pipefail; find /usr -type f 2>/dev/null | sort | head -2000 | xargs sha256sum | tee >(wc -l >&2)";
    let out = same(&["bash", "-c", script]);
    assert!(out.text().lines().count() > 1000, "{} lines", out.text().lines().count());
}

#[test]
fn a_recursive_listing_with_all_metadata() {
    let out = same(&["ls", "-lR", "/usr/share"]);
    assert!(out.text().lines().count() > 1000);
}

#[test]
fn the_same_files_by_number_and_time() {
    // Links, sizes, numbers, owners and times to the nanosecond, of a tree that the host does not change now.
    same(&[
        "sh",
        "-c",
        "find /usr/lib/python3 /etc -xdev -printf '%p %y %i %n %m %U %G %s %b %T@ %C@ %l\\n' | sort",
    ]);
}

#[test]
fn job_pipelines_traps_and_here_documents() {
    let dir = temp();
    let script = r#"
trap 'echo usr1' USR1; kill -USR1 $$
(sleep 0.05; exit 7) & wait $!; echo status $?
diff <(seq 1 5) <(seq 2 6); echo diff $?
cat <<EOF | tr a-z A-Z
here $((6 * 7))
EOF
coproc up { while read -r l; do echo "got $l"; done; }
echo one >&"${up[1]}"; read -r reply <&"${up[0]}"; echo "$reply"; eval "exec ${up[1]}>&-"; wait
mkfifo f; (echo through > f) & cat f; wait
for n in 1 2 3 4; do (echo $n > file$n) & done; wait; cat file*
timeout -s KILL 0.2 sleep 100; echo timeout $?
set -o pipefail; yes | head -1000 | wc -l; echo ${PIPESTATUS[@]}
exec 9< <(exit 3); cat <&9; ulimit -c; umask
"#;
    std::fs::write(dir.path().join("script"), script).expect("our own directory");
    same_in(dir.path(), &["bash", "script"]).exits(0);
}

#[test]
fn large_and_binary_streams_pass_exactly() {
    let bytes: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    let out = guest(&[]).args(["sh", "-c", "cat | cat"]).stdin(bytes.clone()).run().ok();
    assert!(out.stdout == bytes, "{} bytes of {}", out.stdout.len(), bytes.len());
}
