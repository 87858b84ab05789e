//! Programs that take the terminal for themselves.

use std::path::Path;
use std::process::Command;
use vk_e2e_tests::{Session, need, temp, vkernel};

fn start(options: &[&str], dir: &Path, argv: &[&str]) -> Session {
    need(argv[0]);
    let mut command = Command::new(vkernel());
    command.args(["run", "--log", "error"]).args(options).arg("--").args(argv).current_dir(dir);
    command.env("HOME", "/nonexistent").env("LESS", "").env("PYTHON_HISTORY", "/dev/null");
    Session::start(&mut command)
}

#[test]
fn an_editor_writes_what_is_typed() {
    let dir = temp();
    let volume = format!("{}:/mnt", dir.path().display());
    let mut session = start(&["--volume", &volume], Path::new("/"), &["vi", "/mnt/text"]);
    session.expect("text");
    session.send("ihello\rworld\x1bkA there\x1b");
    session.send(":wq\r");
    assert_eq!(session.end(), 0);
    assert_eq!(
        std::fs::read_to_string(dir.path().join("text")).expect("it was written"),
        "hello there\nworld\n"
    );
}

#[test]
fn a_pager_turns_pages() {
    let dir = temp();
    let text: String = (1..=200).map(|n| format!("row {n}.\n")).collect();
    std::fs::write(dir.path().join("long"), text).expect("our own directory");
    let mut session = start(&[], dir.path(), &["less", "long"]);
    session.expect("row 23.");
    session.send(" ");
    session.expect("row 46.");
    session.send("/row 150\r");
    session.expect("150");
    session.expect("row 160.");
    session.send("G");
    session.expect("row 200.");
    // No change of the window here: the pager notices one that comes just before it waits for a key only with that key.
    session.send("g");
    session.expect("row 1.");
    session.send("q");
    assert_eq!(session.end(), 0);
}

#[test]
fn a_process_monitor_refreshes() {
    let mut session = start(&[], Path::new("/"), &["top", "-d", "0.3"]);
    session.expect("load average");
    session.expect("PID");
    session.expect("load average");
    session.send("q");
    assert_eq!(session.end(), 0);
}

#[test]
fn an_interactive_python() {
    let mut session = start(&[], Path::new("/"), &["/usr/bin/python3", "-q"]);
    session.expect(">>> ");
    session.send("6 * 7\r");
    session.expect("\n42\r\n");
    session.expect(">>> ");
    // Not before the program runs: readline swallows an interrupt that comes while it hands the line over, on any Linux. In short steps: one that comes just before a
    // sleep is only noted, and does not end it.
    session.send("import time; print('sle' + 'eping'); [time.sleep(0.01) for _ in range(100000)]\r");
    session.expect("sleeping\r\n");
    session.send("\x03");
    session.expect("KeyboardInterrupt");
    session.expect(">>> ");
    session.send("input('na' + 'me? ')\r");
    session.expect("name? ");
    session.send("me\r");
    session.expect("'me'\r\n");
    // Not before the prompt: an end of file typed while the terminal still collects lines is lost when it stops doing so.
    session.expect(">>> ");
    session.send("\x04");
    assert_eq!(session.end(), 0);
}
