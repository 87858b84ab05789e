use super::*;
use crate::fs::ahead;

fn tree(host: &Arc<MockFs>) {
    for name in ["a", "b", "c", "d", "e"] {
        host.add_file(&std::format!("/dir/{name}"), 0o644, name.as_bytes());
    }
}

/// Lists a directory as `getdents64(2)` does; the names in the order of the listing.
fn list(cx: &Cx, path: &str) -> Vec<String> {
    let mut records = Vec::new();
    for name in names(cx, path) {
        let len = (19 + name.len() + 1).next_multiple_of(8);
        let start = records.len();
        records.extend([0; 16]);
        records.extend((len as u16).to_ne_bytes());
        records.push(8);
        records.extend(name.as_bytes());
        records.resize(start + len, 0);
    }
    cx.ahead.borrow_mut().listed(&at(cx, path).unwrap().dentry, false, records);
    names(cx, path)
}

/// How many calls of the host a look at a file takes.
fn calls(cx: &Cx, host: &Arc<MockFs>, path: &str) -> u64 {
    let before = host.calls();
    attr(cx, path);
    host.calls() - before
}

#[test]
fn the_next_entry_is_there_already() {
    on_overlay(tree, |cx, host| {
        let names = list(cx, "/dir");
        let path = |i: usize| std::format!("/dir/{}", names[i]);
        ahead::look_ahead(cx);
        assert_ne!(calls(cx, host, &path(0)), 0, "nothing is looked at before somebody begins");
        for (i, name) in names.iter().enumerate().skip(1) {
            ahead::look_ahead(cx);
            ahead::look_ahead(cx);
            assert_eq!(calls(cx, host, &path(i)), 0);
            assert_eq!(read_file(cx, &path(i)), *name);
        }
        let before = host.calls();
        ahead::look_ahead(cx);
        assert_eq!(host.calls(), before, "behind the last one there is none");
    });
}

#[test]
fn known_names_are_passed_over() {
    on_overlay(tree, |cx, host| {
        let names = list(cx, "/dir");
        let path = |i: usize| std::format!("/dir/{}", names[i]);
        attr(cx, &path(1));
        list(cx, "/dir");
        attr(cx, &path(0));
        ahead::look_ahead(cx);
        assert_eq!(calls(cx, host, &path(1)), 0);
        assert_eq!(calls(cx, host, &path(2)), 0);
    });
}

#[test]
fn a_look_ages() {
    on_overlay(tree, |cx, host| {
        let names = list(cx, "/dir");
        let path = |i: usize| std::format!("/dir/{}", names[i]);
        attr(cx, &path(0));
        ahead::look_ahead(cx);
        cx.sleep(Some(cx.now_ns() + 100_001));
        host.remove(&path(1));
        assert_eq!(errno(link_at(cx, &path(1))), Some(Errno::ENOENT));
    });
}

#[test]
fn a_change_of_the_directory_is_seen() {
    on_overlay(tree, |cx, host| {
        let names = list(cx, "/dir");
        let path = |i: usize| std::format!("/dir/{}", names[i]);
        attr(cx, &path(0));
        ahead::look_ahead(cx);
        rename(cx, &path(2), &path(1)).unwrap();
        assert_eq!(read_file(cx, &path(1)), names[2]);
        ahead::look_ahead(cx);
        mkdir(cx, "/dir/new");
        host.remove(&path(3));
        assert_eq!(errno(link_at(cx, &path(3))), Some(Errno::ENOENT));
    });
}
