//! Tests of the line discipline by table, and of pseudo-terminals and job control on the mock machine.

use super::ldisc::{Effects, INPUT_MAX, LineDiscipline};
use super::*;
use crate::fs::Fd;
use crate::signal::sig;
use crate::testing::run;
use crate::user::{Sink, Source};
use crate::wait::PollEvents;
use abi::tty::{InputFlags, LocalFlags, OutputFlags, Termios2, cc};
use std::string::String;
use std::vec::Vec;

/// Types `text` with settings changed by `change`: what is echoed, which signals come, and what reads give, a line each.
fn type_in(change: impl Fn(&mut Termios2), text: &[u8]) -> (String, Vec<i32>, Vec<Vec<u8>>) {
    let mut termios = Termios2::standard();
    change(&mut termios);
    let mut ldisc = LineDiscipline::new(termios);
    let mut effects = Effects::default();
    for &c in text {
        ldisc.receive(c, &mut effects);
    }
    let mut lines = Vec::new();
    while ldisc.has_input(1) {
        let mut line = Vec::new();
        ldisc.read(4096, &mut line);
        lines.push(line);
    }
    (String::from_utf8_lossy(&effects.echo).into_owned(), effects.signals, lines)
}

fn echo_of(change: impl Fn(&mut Termios2), text: &[u8]) -> String {
    type_in(change, text).0
}

fn lines_of(change: impl Fn(&mut Termios2), text: &[u8]) -> Vec<Vec<u8>> {
    type_in(change, text).2
}

fn clear(flag: LocalFlags) -> impl Fn(&mut Termios2) {
    move |t| t.lflag &= !flag.bits()
}

fn input(flag: InputFlags) -> impl Fn(&mut Termios2) {
    move |t| t.iflag |= flag.bits()
}

fn plain(_: &mut Termios2) {}

#[test]
fn lines_are_edited_before_they_are_read() {
    assert_eq!(lines_of(plain, b"ab\x7fc\r"), [b"ac\n"]);
    assert_eq!(lines_of(plain, b"one two\x17three\n"), [b"one three\n"]);
    assert_eq!(lines_of(plain, b"one two  \x17x\n"), [b"one x\n"], "a word goes with the spaces behind it");
    assert_eq!(lines_of(plain, b"gone\x15here\n"), [b"here\n"]);
    assert_eq!(lines_of(plain, b"\x7f\x7fx\n"), [b"x\n"], "nothing to erase");
    assert_eq!(lines_of(plain, b"no end"), Vec::<Vec<u8>>::new());
    assert_eq!(lines_of(plain, b"a\nb\n"), [b"a\n", b"b\n"]);
}

#[test]
fn an_end_of_file_ends_a_line_without_being_in_it() {
    assert_eq!(lines_of(plain, b"ab\x04"), [b"ab"]);
    assert_eq!(lines_of(plain, b"\x04"), [b""]);
    let mut ldisc = LineDiscipline::new(Termios2::standard());
    let mut effects = Effects::default();
    b"abc\x04d\n".iter().for_each(|&c| ldisc.receive(c, &mut effects));
    let mut out = Vec::new();
    // It goes with the bytes before it even when they fill the buffer.
    ldisc.read(3, &mut out);
    assert_eq!(out, b"abc");
    out.clear();
    ldisc.read(3, &mut out);
    assert_eq!(out, b"d\n");
}

#[test]
fn a_literal_character_loses_its_meaning() {
    assert_eq!(lines_of(plain, b"a\x16\x7fb\n"), [b"a\x7fb\n"]);
    assert_eq!(type_in(plain, b"\x16\x03").1, []);
    assert_eq!(echo_of(plain, b"\x16\x03"), "^\x08^C");
}

#[test]
fn echo_shows_what_happens() {
    assert_eq!(echo_of(plain, b"ab\n"), "ab\r\n");
    assert_eq!(echo_of(plain, b"a\x01"), "a^A");
    assert_eq!(echo_of(plain, b"ab\x7f"), "ab\x08 \x08");
    assert_eq!(echo_of(plain, b"\x01\x7f"), "^A\x08 \x08\x08 \x08");
    assert_eq!(echo_of(plain, b"ab\x15"), "ab\x08 \x08\x08 \x08");
    assert_eq!(echo_of(plain, b"ab\x12"), "ab^R\r\nab");
    assert_eq!(echo_of(plain, b"\x04"), "", "the end of file is silent");
    assert_eq!(echo_of(clear(LocalFlags::ECHO), b"ab\x7f\n"), "");
    assert_eq!(echo_of(clear(LocalFlags::ECHOE), b"ab\x7f"), "ab^?");
    assert_eq!(echo_of(clear(LocalFlags::ECHOKE), b"ab\x15"), "ab^U\r\n");
    assert_eq!(echo_of(clear(LocalFlags::ECHOCTL), b"\x01"), "\x01");
    let only_newline = |t: &mut Termios2| {
        t.lflag = t.lflag & !LocalFlags::ECHO.bits() | LocalFlags::ECHONL.bits();
    };
    assert_eq!(echo_of(only_newline, b"ab\n"), "\r\n");
}

#[test]
fn a_tab_is_erased_as_far_as_it_went() {
    assert_eq!(echo_of(plain, b"ab\t\x7f"), "ab\t\x08\x08\x08\x08\x08\x08");
    assert_eq!(echo_of(plain, b"\t\t\x7f"), "\t\t\x08\x08\x08\x08\x08\x08\x08\x08");
    // A prompt of three columns stands before the line.
    let mut ldisc = LineDiscipline::new(Termios2::standard());
    let mut out = Vec::new();
    b">> ".iter().for_each(|&c| ldisc.print(c, &mut out));
    let mut effects = Effects::default();
    b"\t\x7f".iter().for_each(|&c| ldisc.receive(c, &mut effects));
    assert_eq!(effects.echo, b"\t\x08\x08\x08\x08\x08");
}

#[test]
fn a_printing_terminal_shows_what_was_erased() {
    let print = |t: &mut Termios2| t.lflag |= LocalFlags::ECHOPRT.bits();
    assert_eq!(echo_of(print, b"abc\x7f\x7fx"), "abc\\cb/x");
}

#[test]
fn utf8_characters_are_erased_whole() {
    assert_eq!(lines_of(input(InputFlags::IUTF8), "aé\x7fb\n".as_bytes()), [b"ab\n"]);
    assert_eq!(echo_of(input(InputFlags::IUTF8), "é\x7f".as_bytes()), "é\x08 \x08");
    assert_eq!(lines_of(plain, "é\x7f\n".as_bytes()), [b"\xc3\n"]);
}

#[test]
fn carriage_returns_and_newlines_are_mapped() {
    assert_eq!(lines_of(plain, b"a\r"), [b"a\n"]);
    assert_eq!(lines_of(input(InputFlags::IGNCR), b"a\rb\n"), [b"ab\n"]);
    let swap = |t: &mut Termios2| {
        t.iflag = InputFlags::INLCR.bits();
        t.lflag = 0;
        t.cc[cc::VMIN] = 1;
    };
    assert_eq!(lines_of(swap, b"\n"), [b"\r"]);
    assert_eq!(lines_of(input(InputFlags::ISTRIP), b"\xe1\n"), [b"a\n"]);
    let mark = |t: &mut Termios2| t.iflag |= InputFlags::PARMRK.bits();
    assert_eq!(lines_of(mark, b"\xff\n"), [b"\xff\xff\n"]);
}

#[test]
fn signal_characters_signal_and_flush() {
    let (echo, signals, lines) = type_in(plain, b"typed\x03ok\n");
    assert_eq!((signals, lines), (Vec::from([sig::INT]), Vec::from([b"ok\n".to_vec()])));
    assert_eq!(echo, "^Cok\r\n", "what was echoed and not yet shown is flushed, too");
    assert_eq!(type_in(plain, b"\x1c\x1a").1, [sig::QUIT, sig::TSTP]);
    let keep = |t: &mut Termios2| t.lflag |= LocalFlags::NOFLSH.bits();
    assert_eq!(lines_of(keep, b"ab\x03c\n"), [b"abc\n"]);
    let (_, signals, lines) = type_in(clear(LocalFlags::ISIG), b"\x03\n");
    assert_eq!((signals.len(), lines), (0, Vec::from([b"\x03\n".to_vec()])));
    let disabled = |t: &mut Termios2| t.cc[cc::VINTR] = 0;
    assert_eq!(type_in(disabled, b"\0\n").1, [], "0 switches a character off");
}

#[test]
fn flow_control_stops_and_starts() {
    let mut ldisc = LineDiscipline::new(Termios2::standard());
    let mut effects = Effects::default();
    ldisc.receive(0x13, &mut effects);
    assert_eq!(effects.flow, Some(true));
    ldisc.receive(b'x', &mut effects);
    assert!(ldisc.stopped, "without IXANY only ^Q starts again");
    ldisc.receive(0x11, &mut effects);
    assert_eq!(effects.flow, Some(false));
    let mut termios = Termios2::standard();
    termios.iflag |= InputFlags::IXANY.bits();
    ldisc.set_termios(termios);
    ldisc.receive(0x13, &mut effects);
    ldisc.receive(b'x', &mut effects);
    assert!(!ldisc.stopped);
}

#[test]
fn output_is_processed() {
    let print = |change: &dyn Fn(&mut Termios2), text: &[u8]| {
        let mut termios = Termios2::standard();
        change(&mut termios);
        let mut ldisc = LineDiscipline::new(termios);
        let mut out = Vec::new();
        text.iter().for_each(|&c| ldisc.print(c, &mut out));
        String::from_utf8(out).unwrap()
    };
    assert_eq!(print(&plain, b"a\nb"), "a\r\nb");
    assert_eq!(print(&|t| t.oflag = 0, b"a\nb"), "a\nb");
    let with = |flag: OutputFlags| move |t: &mut Termios2| t.oflag |= flag.bits();
    assert_eq!(print(&with(OutputFlags::TAB3), b"ab\tc\t"), "ab      c       ");
    assert_eq!(print(&with(OutputFlags::OCRNL), b"a\rb"), "a\nb");
    assert_eq!(print(&with(OutputFlags::ONOCR), b"\ra\r"), "a\r");
    assert_eq!(print(&with(OutputFlags::OLCUC), b"aB"), "AB");
}

#[test]
fn a_line_that_is_too_long_keeps_its_end() {
    let mut text = std::vec![b'x'; 5000];
    text.push(b'\n');
    let lines = lines_of(plain, &text);
    assert_eq!(lines.len(), 1);
    // As on Linux: this many characters, and the newline.
    assert_eq!(lines[0].len(), INPUT_MAX + 1);
    assert_eq!(lines[0].last(), Some(&b'\n'));
}

#[test]
fn a_change_of_mode_keeps_what_was_typed() {
    let mut ldisc = LineDiscipline::new(Termios2::standard());
    let mut effects = Effects::default();
    b"part".iter().for_each(|&c| ldisc.receive(c, &mut effects));
    assert!(!ldisc.has_input(1));
    let mut raw = Termios2::standard();
    raw.lflag = 0;
    ldisc.set_termios(raw);
    assert!(ldisc.has_input(4) && !ldisc.has_input(5));
    ldisc.set_termios(Termios2::standard());
    let mut out = Vec::new();
    assert!(ldisc.read(100, &mut out), "it counts as a line");
    assert_eq!(out, b"part");
}

/// A new pair: the master and the other end, both open.
fn pair(cx: &Cx) -> (Arc<OpenFile>, Arc<OpenFile>) {
    let master = OpenFile::new(cx.kernel, open_master(cx).unwrap(), None, None, OpenFlags::RDWR);
    let terminal = master.downcast::<far::FarEnd>().unwrap().terminal.clone();
    terminal.state.lock().locked = false;
    let flags = OpenFlags::RDWR | OpenFlags::NOCTTY;
    let file = open_terminal(cx, &terminal, flags).unwrap();
    (master, OpenFile::new(cx.kernel, file, None, None, flags))
}

fn write(cx: &Cx, of: &OpenFile, mut bytes: &[u8]) -> Result<usize> {
    of.file.write(cx, of, &mut 0, &mut bytes as &mut dyn Source)
}

fn read(cx: &Cx, of: &OpenFile, max: usize) -> Result<Vec<u8>> {
    let mut buf = std::vec![0; max];
    let mut rest: &mut [u8] = &mut buf;
    let len = of.file.read(cx, of, &mut 0, &mut rest as &mut dyn Sink)?;
    buf.truncate(len);
    Ok(buf)
}

fn nonblocking(of: &OpenFile) {
    of.set_status(OpenFlags::NONBLOCK);
}

fn raw(cx: &Cx, of: &OpenFile, min: u8, time: u8) {
    let _ = cx;
    let near = of.downcast::<near::NearEnd>().unwrap();
    let mut termios = *near.terminal.state.lock().ldisc.termios();
    termios.lflag = 0;
    termios.iflag = 0;
    termios.cc[cc::VMIN] = min;
    termios.cc[cc::VTIME] = time;
    near.terminal.set_termios(termios, false);
}

#[test]
fn bytes_go_both_ways() {
    run(|cx| {
        let (master, slave) = pair(cx);
        write(cx, &slave, b"hello\n").unwrap();
        assert_eq!(read(cx, &master, 100).unwrap(), b"hello\r\n");
        write(cx, &master, b"answer\r").unwrap();
        assert_eq!(read(cx, &slave, 3).unwrap(), b"ans");
        assert_eq!(read(cx, &slave, 100).unwrap(), b"wer\n");
        assert_eq!(read(cx, &master, 100).unwrap(), b"answer\r\n", "the echo");
        nonblocking(&slave);
        assert_eq!(read(cx, &slave, 1).unwrap_err().errno(), Errno::EAGAIN);
    });
}

#[test]
fn raw_reads_follow_min_and_time() {
    run(|cx| {
        let (master, slave) = pair(cx);
        raw(cx, &slave, 0, 0);
        assert_eq!(read(cx, &slave, 10).unwrap(), b"", "nothing is an answer");
        raw(cx, &slave, 0, 5);
        let before = cx.now_ns();
        assert_eq!(read(cx, &slave, 10).unwrap(), b"");
        assert_eq!(cx.now_ns() - before, 500_000_000);
        // The timer between bytes starts with the first.
        raw(cx, &slave, 3, 2);
        write(cx, &master, b"ab").unwrap();
        assert_eq!(read(cx, &slave, 10).unwrap(), b"ab");
        write(cx, &master, b"abcd").unwrap();
        assert_eq!(read(cx, &slave, 10).unwrap(), b"abcd");
        // MIN beyond what the caller wants does not hold it up.
        write(cx, &master, b"xy").unwrap();
        assert_eq!(read(cx, &slave, 2).unwrap(), b"xy");
    });
}

#[test]
fn poll_says_what_a_read_would_find() {
    run(|cx| {
        let (master, slave) = pair(cx);
        let poll = |of: &Arc<OpenFile>| of.file.poll(cx, of, None);
        write(cx, &master, b"no line yet").unwrap();
        assert_eq!(poll(&slave), PollEvents::WRITABLE);
        write(cx, &master, b"\n").unwrap();
        assert_eq!(poll(&slave), PollEvents::WRITABLE | PollEvents::READABLE);
        assert!(poll(&master).contains(PollEvents::IN), "the echo");
        drop(slave);
        assert!(poll(&master).contains(PollEvents::HUP));
    });
}

#[test]
fn the_end_of_the_near_side_is_an_error_for_the_master() {
    run(|cx| {
        let (master, slave) = pair(cx);
        write(cx, &slave, b"last words").unwrap();
        let terminal = master.downcast::<far::FarEnd>().unwrap().terminal.clone();
        drop(slave);
        assert_eq!(read(cx, &master, 100).unwrap(), b"last words");
        assert_eq!(read(cx, &master, 100).unwrap_err().errno(), Errno::EIO);
        // It may be opened again.
        let again = open_terminal(cx, &terminal, OpenFlags::RDWR | OpenFlags::NOCTTY).unwrap();
        nonblocking(&master);
        assert_eq!(read(cx, &master, 100).unwrap_err().errno(), Errno::EAGAIN);
        drop(again);
    });
}

#[test]
fn the_end_of_the_master_hangs_up() {
    run(|cx| {
        let (master, slave) = pair(cx);
        let terminal = slave.downcast::<near::NearEnd>().unwrap().terminal.clone();
        assert_eq!(cx.kernel.terminals.pty_count(), 1);
        drop(master);
        assert_eq!(cx.kernel.terminals.pty_count(), 0);
        assert_eq!(read(cx, &slave, 1).unwrap(), b"");
        assert_eq!(write(cx, &slave, b"x").unwrap_err().errno(), Errno::EIO);
        assert!(slave.file.poll(cx, &slave, None).contains(PollEvents::HUP | PollEvents::ERR));
        assert!(open_terminal(cx, &terminal, OpenFlags::RDWR).is_err());
    });
}

#[test]
fn a_locked_terminal_does_not_open() {
    run(|cx| {
        let master = OpenFile::new(cx.kernel, open_master(cx).unwrap(), None, None, OpenFlags::RDWR);
        let terminal = master.downcast::<far::FarEnd>().unwrap().terminal.clone();
        let Err(e) = open_terminal(cx, &terminal, OpenFlags::RDWR) else { panic!("opened") };
        assert_eq!(e.errno(), Errno::EIO);
        assert_eq!(open_master(cx).map(|_| cx.kernel.terminals.pty_count()).unwrap(), 2);
        assert_eq!(cx.kernel.terminals.pty_count(), 1, "numbers come back");
    });
}

#[test]
fn packet_mode_marks_data_and_tells_of_flow() {
    run(|cx| {
        let (master, slave) = pair(cx);
        master.downcast::<far::FarEnd>().unwrap().terminal.state.lock().packet = true;
        write(cx, &slave, b"hi").unwrap();
        assert_eq!(read(cx, &master, 100).unwrap(), b"\0hi");
        write(cx, &master, b"\x13").unwrap();
        assert_eq!(read(cx, &master, 100).unwrap(), [packet::STOP]);
        nonblocking(&slave);
        assert_eq!(write(cx, &slave, b"x").unwrap_err().errno(), Errno::EAGAIN);
        write(cx, &master, b"\x11").unwrap();
        assert_eq!(read(cx, &master, 100).unwrap(), [packet::START]);
    });
}

/// Has the caller lead a session of its own.
fn lead_session(cx: &Cx) {
    let process = cx.process();
    *process.session.lock() = Arc::new(Session { id: process.pid, tty: Mutex::new(None) });
    process.pgid.store(process.pid, core::sync::atomic::Ordering::Relaxed);
}

#[test]
fn a_leader_gets_the_terminal_that_it_opens() {
    run(|cx| {
        lead_session(cx);
        let (_master, slave) = pair(cx);
        let terminal = slave.downcast::<near::NearEnd>().unwrap().terminal.clone();
        assert!(job::of_caller(cx).is_none(), "O_NOCTTY");
        assert!(open_controlling(cx, OpenFlags::RDWR).is_err());
        let _open = open_terminal(cx, &terminal, OpenFlags::RDWR).unwrap();
        assert!(job::of_caller(cx).is_some());
        assert!(open_controlling(cx, OpenFlags::RDWR).is_ok());
        let pid = cx.process().pid;
        assert_eq!(job::foreground(cx, &terminal, false).unwrap(), pid);
        assert_eq!(job::session_of(cx, &terminal, false).unwrap(), pid);
        let session = cx.process().session.lock().clone();
        assert_eq!(stat_numbers(&session), (136 << 8, pid));
        assert_eq!(job::set_foreground(cx, &terminal, 4711).unwrap_err().errno(), Errno::ESRCH);
        session_ended(cx.kernel, &session);
        assert!(job::of_caller(cx).is_none());
        let pending = cx.process().signals.shared.lock().set();
        assert!(pending.has(sig::HUP));
    });
}

#[test]
fn a_background_process_is_told_to_wait() {
    run(|cx| {
        lead_session(cx);
        let (_master, slave) = pair(cx);
        let terminal = slave.downcast::<near::NearEnd>().unwrap().terminal.clone();
        let _open = open_terminal(cx, &terminal, OpenFlags::RDWR).unwrap();
        terminal.state.lock().foreground = cx.process().pid + 1;
        // Its group is orphaned: nobody could continue it, so it gets an error.
        assert_eq!(read(cx, &slave, 1).unwrap_err().errno(), Errno::EIO);
        // Writing is allowed until TOSTOP says otherwise.
        assert_eq!(write(cx, &slave, b"x").unwrap(), 1);
        let mut termios = *terminal.state.lock().ldisc.termios();
        termios.lflag |= LocalFlags::TOSTOP.bits();
        terminal.set_termios(termios, false);
        assert_eq!(write(cx, &slave, b"x").unwrap_err().errno(), Errno::EIO);
        // With SIGTTOU blocked it may.
        cx.task.signals.lock().mask.add(sig::TTOU);
        assert_eq!(write(cx, &slave, b"x").unwrap(), 1);
    });
}

#[test]
fn keys_signal_the_foreground_group() {
    run(|cx| {
        lead_session(cx);
        // Blocked, so that the signals stay to be looked at.
        cx.task.signals.lock().mask = crate::signal::SigSet::ALL.as_mask();
        let (master, slave) = pair(cx);
        let terminal = slave.downcast::<near::NearEnd>().unwrap().terminal.clone();
        let _open = open_terminal(cx, &terminal, OpenFlags::RDWR).unwrap();
        write(cx, &master, b"\x03").unwrap();
        terminal.set_window(abi::tty::Winsize { row: 1, col: 2, xpixel: 0, ypixel: 0 });
        let pending = cx.process().signals.shared.lock().set();
        assert!(pending.has(sig::INT) && pending.has(sig::WINCH) && !pending.has(sig::QUIT));
        drop(master);
        let pending = cx.process().signals.shared.lock().set();
        assert!(pending.has(sig::HUP), "the leader hears of the hang-up");
        assert!(job::of_caller(cx).is_none());
    });
}

#[test]
fn the_console_is_the_outside() {
    use hal::mock::MockMachine;
    let machine = MockMachine::builder().build();
    for i in 0..3 {
        machine.mock_stream(i).set_kind(hal::StreamKind::Terminal);
    }
    let outside = machine.clone();
    crate::testing::run_on(machine, crate::testing::config(), move |cx| {
        lead_session(cx);
        let console = open_console(cx).unwrap();
        assert_eq!(cx.kernel.terminals.pty_count(), 0);
        assert!(cx.kernel.terminals.get(0).is_some());
        write(cx, &console, b"hi\n").unwrap();
        outside.mock_stream(0).feed(b"line\r");
        assert_eq!(read(cx, &console, 100).unwrap(), b"line\n");
        let shown = outside.mock_stream(1).take_output();
        assert_eq!(String::from_utf8_lossy(&shown), "hi\r\nline\r\n");
        // What is typed behind a change of the window does not overtake it, whoever serves the events.
        let terminal = cx.kernel.terminals.console().unwrap();
        let window = || {
            let window = terminal.state.lock().window;
            (window.row, window.col)
        };
        outside.mock_stream(1).resize(hal::WindowSize { rows: 50, cols: 132, xpixel: 0, ypixel: 0 });
        outside.mock_stream(0).feed(b"x");
        console::ready(&terminal);
        assert_eq!(window(), (50, 132));
        // A size that a program has set stays until the outside changes.
        terminal.set_window(abi::tty::Winsize { row: 1, col: 2, xpixel: 0, ypixel: 0 });
        outside.mock_stream(0).feed(b"y");
        console::ready(&terminal);
        assert_eq!(window(), (1, 2));
        let fd = cx.install(console, false).unwrap();
        assert_eq!(fd, Fd(0));
    });
}
