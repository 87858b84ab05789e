use super::*;
use abi::time::Timespec;

/// A directory of the host with two files, made long ago.
fn directory(host: &Arc<MockFs>) {
    host.set_time(Timespec { sec: -100, nsec: 0 });
    host.add_file("/dir/a", 0o644, b"");
    host.add_file("/dir/b", 0o644, b"");
}

/// The sorted names, and how many calls of the host it took.
fn listed(cx: &Cx, host: &Arc<MockFs>) -> (Vec<String>, u64) {
    let before = host.calls();
    let names = sorted(cx, "/dir");
    (names, host.calls() - before)
}

fn now_sec(cx: &Cx) -> i64 {
    Timespec::from_ns(cx.kernel.machine.clock_ns(hal::ClockId::Realtime)).sec
}

#[test]
fn a_listing_is_kept_until_the_directory_changes() {
    on_overlay(directory, |cx, host| {
        let (names, first) = listed(cx, host);
        assert_eq!(names, ["a", "b"]);
        let (again, second) = listed(cx, host);
        assert_eq!(again, names);
        assert!(second < first, "{second} calls, {first} the first time");
        host.set_time(Timespec { sec: now_sec(cx) - 50, nsec: 0 });
        host.add_file("/dir/c", 0o644, b"");
        assert_eq!(listed(cx, host).0, ["a", "b", "c"]);
        host.set_time(Timespec { sec: now_sec(cx) - 49, nsec: 0 });
        host.remove("/dir/a");
        assert_eq!(listed(cx, host).0, ["b", "c"]);
    });
}

#[test]
fn a_directory_that_has_just_changed_is_listed_anew() {
    on_overlay(directory, |cx, host| {
        host.set_time(Timespec { sec: now_sec(cx) - 1, nsec: 0 });
        host.add_file("/dir/c", 0o644, b"");
        assert_eq!(listed(cx, host).0, ["a", "b", "c"]);
        // Within the same tick of the host's clock.
        host.add_file("/dir/d", 0o644, b"");
        assert_eq!(listed(cx, host).0, ["a", "b", "c", "d"]);
    });
}

#[test]
fn own_changes_are_seen_in_what_is_kept() {
    on_overlay(directory, |cx, host| {
        listed(cx, host);
        unlink(cx, "/dir/a").unwrap();
        write_file(cx, "/dir/new", b"");
        assert_eq!(listed(cx, host).0, ["b", "new"]);
    });
}
