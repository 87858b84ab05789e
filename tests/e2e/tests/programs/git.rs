//! Version control of a tree of 2,000 files.

use vk_e2e_tests::{Picture, need, same_in, temp};

const SCRIPT: &str = r#"
set -e
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000'
git config --global user.name Tester; git config --global user.email tester@example.org
git init -q -b main repo; cd repo; cp -r ../tree/. .
git add .; git commit -q -m 'Add the tree'; git rev-parse HEAD; git ls-files | wc -l
for n in 1 2 3 4 5; do echo change >> d$n/f$n; done; git rm -q d6/f6; git mv d7/f7 d7/moved; git status --short
git commit -q -a -m 'Change some'; git log --stat --format='%H %an %at %s' | cat
git branch side HEAD~1; git checkout -q side; echo other > new; git add new; git commit -q -m 'On the side'
git checkout -q main; git merge -q --no-edit side; git rev-parse HEAD^{tree}; git diff --stat HEAD~2 | tail -1
cd ..; git clone -q repo copy; git -C copy log --oneline | wc -l; git clone -q --no-local repo far; diff -r copy far -x .git
cd repo; git gc -q; git count-objects -v | grep -E 'count|in-pack|packs'; git fsck --full 2>&1 | sort; git stash list; git grep -c change | sort
git archive HEAD | sha256sum; git blame -s d1/f1 | tail -1
"#;

#[test]
fn a_repository_of_2000_files() {
    need("git");
    let dir = temp();
    let tree = dir.path().join("tree");
    for d in 0..40 {
        let sub = tree.join(format!("d{d}"));
        std::fs::create_dir_all(&sub).expect("our own directory");
        for f in 0..50 {
            let text = (0..f % 20 + 1).map(|n| format!("file {f} of {d}, line {n}\n")).collect::<String>();
            std::fs::write(sub.join(format!("f{f}")), text).expect("our own directory");
        }
    }
    std::fs::write(dir.path().join("script"), SCRIPT).expect("our own directory");
    let before = Picture::of(dir.path());
    let ours = vk_e2e_tests::guest(&[]).args(["bash", "script"]).dir(dir.path()).run().ok();
    assert!(before == Picture::of(dir.path()), "the host's tree has changed");
    // The host's own run is the reference; it does change the tree.
    let theirs = vk_e2e_tests::host("bash").arg("script").dir(dir.path()).run().ok();
    assert_eq!(ours.text(), theirs.text());
    // A repository that the host has made, read by the guest.
    same_in(&dir.path().join("repo"), &["git", "-c", "safe.directory=*", "log", "--stat"]).exits(0);
}
