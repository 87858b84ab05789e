//! A shell on a pseudo-terminal: job control, signals from the keyboard, the size of the window.

use std::process::Command;
use vk_e2e_tests::{Session, vkernel};

/// A bash without the user's files, with a prompt that nothing else prints.
fn bash() -> Session {
    let mut command = Command::new(vkernel());
    command.args(["run", "--log", "error", "--", "bash", "--norc", "--noprofile", "--noediting", "-i"]);
    command.env("PS1", "vk> ").env("PS2", "").env_remove("PROMPT_COMMAND");
    let mut session = Session::start(&mut command);
    session.expect("vk> ");
    session
}

/// Types a line and gives what came before the next prompt.
#[track_caller]
fn line(session: &mut Session, text: &str) -> String {
    session.send(&format!("{text}\r"));
    session.expect("\n");
    session.expect("vk> ")
}

#[test]
fn commands_and_the_end() {
    let mut session = bash();
    assert_eq!(
        line(&mut session, "echo a''b; tty; ps -o pid= | wc -l | tr -d ' '"),
        "ab\r\n/dev/pts/0\r\n4\r\nvk> "
    );
    assert_eq!(line(&mut session, "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo ye''s"), "yes\r\nvk> ");
    session.send("exit 7\r");
    assert_eq!(session.end(), 7);
    let mut session = bash();
    // End of file on an empty line ends a shell.
    session.send("\x04");
    assert_eq!(session.end(), 0);
}

#[test]
fn interrupts_and_stops_from_the_keyboard() {
    let mut session = bash();
    // The program that prints is the one in the foreground: a key that came while the shell was still making it would be the
    // shell's, which may then wait for a program that never saw it, on any Linux.
    session.send("sh -c 'echo go\"\"es; exec sleep 1000'\r");
    session.expect("goes");
    session.send("\x03");
    session.expect("vk> ");
    assert_eq!(line(&mut session, "echo $?"), "130\r\nvk> ");
    session.send("sh -c 'trap \"echo quit; exit 3\" QUIT; echo in''side; while :; do sleep 0.02; done'\r");
    session.expect("inside");
    session.send("\x1c");
    session.expect("quit");
    session.expect("vk> ");
    assert_eq!(line(&mut session, "echo $?"), "3\r\nvk> ");
    // It says when it goes on: the shell prints the name of the job that it resumes before it hands the terminal over. And it
    // starts nothing: a shell that a stop finds in vfork(2) waits for a child that stands still, on any Linux.
    session.send(
        "perl -e '$| = 1; $SIG{CONT} = sub { print qq(res) . qq(umed\\n) }; print qq(be) . qq(gun\\n); sleep 1 while 1'\r",
    );
    session.expect("begun");
    session.send("\x1a");
    session.expect("Stopped");
    session.expect("vk> ");
    assert_eq!(line(&mut session, "echo $?"), "148\r\nvk> ");
    assert!(line(&mut session, "jobs").starts_with("[1]+  Stopped"));
    session.send("bg\r");
    session.expect("resumed\r\n");
    session.send("jobs\r");
    session.expect("[1]+  Running");
    session.send("kill -STOP %1; until jobs | grep -q Stop; do :; done; fg\r");
    session.expect("resumed\r\n");
    session.send("\x03");
    session.expect("vk> ");
    assert_eq!(line(&mut session, "jobs; echo none''left"), "noneleft\r\nvk> ");
    session.send("exit\r");
    session.end();
}

#[test]
fn a_background_reader_is_stopped() {
    let mut session = bash();
    session.send("cat & wait; echo over''\r");
    session.expect("Stopped");
    session.expect("vk> ");
    session.send("fg\r");
    session.expect("cat");
    session.send("typed\r");
    session.expect("typed\r\ntyped\r\n");
    session.send("\x04");
    session.expect("vk> ");
    line(&mut session, "stty tostop");
    session.send("(sleep 0.1; echo from''behind) &\r");
    session.expect("vk> ");
    session.send("wait; jobs; stty -tostop; echo en''d\r");
    session.expect("Stopped");
    session.expect("end");
    session.send("exit\rexit\r");
    session.end();
}

#[test]
fn settings_and_the_size_of_the_window() {
    let mut session = bash();
    assert_eq!(line(&mut session, "stty size"), "24 80\r\nvk> ");
    session.send("trap 'echo changed; stty size' WINCH; echo re''ady\r");
    session.expect("ready");
    session.expect("vk> ");
    session.resize(50, 132);
    // Bash runs the trap when the next command is read; or, where the signal finds it between the prompt and that, at once, and what is typed then may be shown in between.
    session.send("\r");
    session.expect("changed\r\n");
    session.expect("50 132");
    session.send("sh -c 'trap \"stty size; exit\" WINCH; echo wait''ing; while :; do sleep 0.02; done'\r");
    session.expect("waiting");
    session.resize(10, 20);
    session.expect("10 20");
    session.expect("vk> ");
    session.send("stty -echo; read -r x; stty echo; echo \"<$x>\"\rsecret\r");
    session.expect("<secret>");
    session.send("stty raw -echo; dd bs=1 count=3 2>/dev/null | od -An -c; stty sane\r");
    session.expect("\n");
    session.send("abc");
    session.expect("a   b   c");
    session.expect("vk> ");
    let all = line(&mut session, "stty -a");
    assert!(all.contains("intr = ^C") && all.contains("icanon") && all.contains("susp = ^Z"), "{all}");
    session.send("exit\r");
    session.end();
}

#[test]
fn line_editing_and_history() {
    let mut command = Command::new(vkernel());
    command
        .args(["run", "--log", "error", "--", "bash", "--norc", "--noprofile", "-i"])
        .env("PS1", "vk> ")
        .env("HOME", "/nonexistent");
    let mut session = Session::start(&mut command);
    session.expect("vk> ");
    // The shell ends bracketed paste before a command runs, so its output follows a carriage return.
    session.send("echo fist\x1b[D\x1b[Dr\r");
    session.expect("\rfirst\r\n");
    session.expect("vk> ");
    session.send("\x1b[A\x7fT\r");
    session.expect("\rfirsT\r\n");
    session.expect("vk> ");
    session.send("ls /usr/bin/sha256s\t\r");
    session.expect("\r/usr/bin/sha256sum\r\n");
    session.send("exit\r");
    session.end();
}
