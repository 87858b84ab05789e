//! Pseudo-terminals: the pair and its line discipline.

use crate::kit::prelude::*;

fn the_pair_and_its_names() -> R {
    let p = Pty::new()?;
    let st = fstat(p.slave)?;
    eq!(st.st_mode & S_IFMT, S_IFCHR);
    eq!((major(st.st_rdev), minor(st.st_rdev)), (136, p.number as u32));
    eq!(st.st_uid as i64, sc!(SYS_getuid)?);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", p.slave))?;
    eq!(link.to_string_lossy(), format!("/dev/pts/{}", p.number));
    let m = fstat(p.master)?;
    eq!((major(m.st_rdev), minor(m.st_rdev)), (5, 2));
    let again = Pty::new()?;
    that!(again.number != p.number);
    Ok(())
}

fn a_locked_slave_cannot_be_opened() -> R {
    let m = open(c"/dev/ptmx", O_RDWR | O_NOCTTY, 0)?;
    let mut n = -1i32;
    ioctl(m, TIOCGPTN, &mut n)?;
    let path = cstring(format!("/dev/pts/{n}"));
    let mut locked = -1i32;
    ioctl(m, TIOCGPTLCK, &mut locked)?;
    eq!(locked, 1);
    errno_is!(open(&path, O_RDWR | O_NOCTTY, 0), EIO);
    ioctl(m, TIOCSPTLCK, &0i32)?;
    open(&path, O_RDWR | O_NOCTTY, 0)?;
    close(m)?;
    errno_is!(open(&path, O_RDWR | O_NOCTTY, 0), ENOENT | EIO);
    Ok(())
}

fn the_peer_is_opened_by_ioctl() -> R {
    let p = Pty::new()?;
    let s = ioctl(p.master, TIOCGPTPEER, O_RDWR | O_NOCTTY)?;
    eq!(fstat(s)?.st_rdev, fstat(p.slave)?.st_rdev);
    Ok(())
}

fn default_settings() -> R {
    let t = Pty::new()?.get()?;
    eq!(t.c_iflag, ICRNL | IXON);
    eq!(t.c_oflag, OPOST | ONLCR);
    eq!(t.c_lflag, ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN);
    eq!(t.c_cflag & (CSIZE | CREAD), CS8 | CREAD);
    eq!((t.c_cc[VINTR], t.c_cc[VQUIT], t.c_cc[VERASE], t.c_cc[VKILL]), (3, 28, 127, 21));
    eq!((t.c_cc[VEOF], t.c_cc[VSUSP], t.c_cc[VSTART], t.c_cc[VSTOP]), (4, 26, 17, 19));
    eq!((t.c_cc[VMIN], t.c_cc[VTIME], t.c_cc[VEOL]), (1, 0, 0));
    Ok(())
}

fn settings_are_kept_and_shared_by_both_ends() -> R {
    let p = Pty::new()?;
    p.change(|t| t.c_lflag &= !ECHO)?;
    let mut t = zeroed::<termios>();
    ioctl(p.master, TCGETS, &mut t)?;
    eq!(t.c_lflag & (ECHO | ICANON), ICANON);
    errno_is!(ioctl(p.slave, TCSETS, BAD), EFAULT);
    errno_is!(ioctl(p.slave, TCGETS, BAD), EFAULT);
    errno_is!(ioctl(p.slave, 0x5499, 0), ENOTTY | EINVAL);
    Ok(())
}

fn a_line_comes_whole_after_enter() -> R {
    let p = Pty::new()?;
    p.typed(b"hello")?;
    // Echo shows that it was taken in; a line it is not yet.
    eq!(p.shown(5)?, b"hello");
    eq!(poll1(p.slave, POLLIN, 0)?, 0);
    p.typed(b"\r")?;
    eq!(p.line()?, b"hello\n");
    eq!(p.shown(2)?, b"\r\n");
    Ok(())
}

fn one_read_gives_one_line_or_a_part() -> R {
    let p = Pty::new()?;
    p.typed(b"one\ntwo\nthree\n")?;
    eq!(p.line()?, b"one\n");
    eq!(read_some(p.slave, 2)?, b"tw");
    eq!(p.line()?, b"o\n");
    eq!(p.line()?, b"three\n");
    Ok(())
}

fn erasing_characters_words_and_lines() -> R {
    let p = Pty::new()?;
    p.typed(b"abc\x7f\x7fd\n")?;
    eq!(p.line()?, b"ad\n");
    eq!(p.shown(12)?, b"abc\x08 \x08\x08 \x08d\r\n"[..12]);
    p.typed(b"one two\x17x\n")?;
    eq!(p.line()?, b"one x\n");
    p.typed(b"wrong\x15right\n")?;
    eq!(p.line()?, b"right\n");
    p.typed(b"\x7f\x7fa\n")?;
    eq!(p.line()?, b"a\n");
    Ok(())
}

fn end_of_file_key() -> R {
    let p = Pty::new()?;
    p.typed(b"part\x04")?;
    eq!(p.line()?, b"part");
    p.typed(b"\x04")?;
    eq!(p.line()?, b"");
    p.typed(b"more\n")?;
    eq!(p.line()?, b"more\n");
    Ok(())
}

fn literal_next_and_control_echo() -> R {
    let p = Pty::new()?;
    p.typed(b"\x16\x03\x01\n")?;
    eq!(p.line()?, b"\x03\x01\n");
    // ^V shows as a caret that the next character overwrites.
    eq!(p.shown(8)?, b"^\x08^C^A\r\n");
    Ok(())
}

fn end_of_line_characters() -> R {
    let p = Pty::new()?;
    p.change(|t| t.c_cc[VEOL] = b';')?;
    p.typed(b"ab;cd\n")?;
    eq!(p.line()?, b"ab;");
    eq!(p.line()?, b"cd\n");
    Ok(())
}

fn no_echo() -> R {
    let p = Pty::new()?;
    p.change(|t| t.c_lflag &= !ECHO)?;
    p.typed(b"secret\n")?;
    eq!(p.line()?, b"secret\n");
    write(p.slave, b"prompt")?;
    eq!(p.shown(6)?, b"prompt");
    // With ECHONL the newline shows all the same.
    p.change(|t| t.c_lflag |= ECHONL)?;
    p.typed(b"x\n")?;
    eq!(p.line()?, b"x\n");
    eq!(p.shown(2)?, b"\r\n");
    Ok(())
}

fn input_translation() -> R {
    let p = Pty::raw()?;
    let input = |flags: u32, keys: &[u8], wanted: &[u8]| -> R {
        p.change(|t| t.c_iflag = flags)?;
        p.typed(keys)?;
        let mut got = Vec::new();
        while got.len() < wanted.len() {
            got.extend(p.line()?);
        }
        eq!(got, wanted);
        Ok(())
    };
    input(0, b"\r\n", b"\r\n")?;
    input(ICRNL, b"\r\n", b"\n\n")?;
    input(INLCR, b"\r\n", b"\r\r")?;
    input(IGNCR, b"a\rb\n", b"ab\n")?;
    input(ISTRIP, b"\xe1", b"a")
}

fn output_translation() -> R {
    // One each: the discipline counts columns.
    let output = |flags: u32, text: &[u8], wanted: &[u8]| -> R {
        let p = Pty::raw()?;
        p.change(|t| t.c_oflag = flags)?;
        eq!(write(p.slave, text)?, text.len());
        eq!(p.shown(wanted.len())?, wanted);
        Ok(())
    };
    output(0, b"a\nb", b"a\nb")?;
    output(OPOST | ONLCR, b"a\nb", b"a\r\nb")?;
    output(ONLCR, b"a\n", b"a\n")?;
    output(OPOST | OCRNL, b"a\r", b"a\n")?;
    output(OPOST | XTABS, b"ab\tc", b"ab      c")
}

fn raw_mode_passes_everything() -> R {
    let p = Pty::raw()?;
    let all: Vec<u8> = (0..=255).collect();
    p.typed(&all)?;
    let mut got = Vec::new();
    while got.len() < 256 {
        got.extend(p.line()?);
    }
    eq!(got, all);
    write(p.slave, &all)?;
    eq!(p.shown(256)?, all);
    Ok(())
}

fn vmin_counts_bytes() -> R {
    let p = Pty::raw()?;
    p.change(|t| t.c_cc[VMIN] = 3)?;
    let c = child(|| {
        eq!(p.line()?.len(), 3);
        Ok(())
    })?;
    c.asleep()?;
    p.typed(b"ab")?;
    eq!(poll1(p.slave, POLLIN, 0)?, 0);
    p.typed(b"c")?;
    c.ok()
}

fn vmin_zero_never_waits_and_vtime_waits_so_long() -> R {
    let p = Pty::raw()?;
    p.change(|t| t.c_cc[VMIN] = 0)?;
    eq!(p.line()?, b"");
    p.change(|t| t.c_cc[VTIME] = 1)?;
    let start = now(CLOCK_MONOTONIC)?;
    eq!(p.line()?, b"");
    that!(now(CLOCK_MONOTONIC)? - start >= 90 * MS);
    p.typed(b"x")?;
    eq!(p.line()?, b"x");
    Ok(())
}

fn vtime_between_bytes() -> R {
    let p = Pty::raw()?;
    p.change(|t| (t.c_cc[VMIN], t.c_cc[VTIME]) = (5, 1))?;
    p.typed(b"ab")?;
    // Two of five, and then silence for a tenth of a second.
    eq!(p.line()?, b"ab");
    Ok(())
}

fn nonblocking_ends() -> R {
    let p = Pty::raw()?;
    for fd in [p.master, p.slave] {
        fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK)?;
        errno_is!(read(fd, &mut [0; 9]), EAGAIN);
    }
    p.typed(b"x")?;
    eq!(poll1(p.slave, POLLIN, -1)?, POLLIN);
    eq!(p.line()?, b"x");
    eq!(poll1(p.slave, POLLIN | POLLOUT, 0)?, POLLOUT);
    Ok(())
}

fn canonical_to_raw_makes_a_part_readable() -> R {
    let p = Pty::new()?;
    p.typed(b"part")?;
    eq!(p.shown(4)?, b"part");
    p.change(|t| t.c_lflag &= !ICANON)?;
    eq!(poll1(p.slave, POLLIN, -1)?, POLLIN);
    eq!(p.line()?, b"part");
    Ok(())
}

fn queue_counts_and_flushing() -> R {
    let p = Pty::new()?;
    p.typed(b"abc\n")?;
    eq!(poll1(p.slave, POLLIN, -1)?, POLLIN);
    let mut n = -1i32;
    ioctl(p.slave, FIONREAD, &mut n)?;
    eq!(n, 4);
    ioctl(p.slave, TCFLSH, TCIFLUSH)?;
    ioctl(p.slave, FIONREAD, &mut n)?;
    eq!(n, 0);
    p.typed(b"x\n")?;
    eq!(poll1(p.slave, POLLIN, -1)?, POLLIN);
    // TCSETSF drops what was not read.
    ioctl(p.slave, TCSETSF, &p.get()?)?;
    eq!(poll1(p.slave, POLLIN, 0)?, 0);
    errno_is!(ioctl(p.slave, TCFLSH, 9), EINVAL);
    ioctl(p.slave, TCSBRK, 1)?;
    Ok(())
}

fn window_size_is_shared() -> R {
    let p = Pty::new()?;
    let mut w = zeroed::<winsize>();
    ioctl(p.slave, TIOCGWINSZ, &mut w)?;
    eq!((w.ws_row, w.ws_col), (0, 0));
    ioctl(p.master, TIOCSWINSZ, &winsize { ws_row: 24, ws_col: 80, ws_xpixel: 1, ws_ypixel: 2 })?;
    ioctl(p.slave, TIOCGWINSZ, &mut w)?;
    eq!((w.ws_row, w.ws_col, w.ws_xpixel, w.ws_ypixel), (24, 80, 1, 2));
    Ok(())
}

fn stop_and_start_keys_hold_output() -> R {
    let p = Pty::new()?;
    p.typed(b"\x13")?;
    // The stop arrives when it is processed: ask until output is held.
    let writer = child(|| {
        loop {
            write(p.slave, b".")?;
        }
    })?;
    loop {
        writer.asleep()?;
        // Held, nothing more comes.
        if poll1(p.master, POLLIN, 50)? == 0 {
            break;
        }
        read_some(p.master, 5000)?;
    }
    p.typed(b"\x11")?;
    eq!(poll1(p.master, POLLIN, -1)?, POLLIN);
    writer.kill(SIGKILL)?;
    writer.wait()?;
    Ok(())
}

fn a_long_line_is_cut_at_4095() -> R {
    let p = Pty::new()?;
    p.change(|t| t.c_lflag &= !ECHO)?;
    let c = child(|| {
        let line = p.line()?;
        eq!((line.len(), line.last()), (4096, Some(&b'\n')));
        Ok(())
    })?;
    for _ in 0..50 {
        p.typed(&[b'x'; 100])?;
    }
    p.typed(b"\n")?;
    c.ok()
}

fn closing_the_slave_hangs_up_the_master() -> R {
    let p = Pty::raw()?;
    write(p.slave, b"last words")?;
    close(p.slave)?;
    eq!(p.shown(10)?, b"last words");
    errno_is!(read(p.master, &mut [0; 9]), EIO);
    eq!(poll1(p.master, POLLIN, 0)?, POLLHUP);
    // Opened again it lives again.
    let s = open(&cstring(format!("/dev/pts/{}", p.number)), O_RDWR | O_NOCTTY, 0)?;
    write(s, b"back")?;
    eq!(p.shown(4)?, b"back");
    Ok(())
}

fn closing_the_master_hangs_up_the_slave() -> R {
    let p = Pty::raw()?;
    close(p.master)?;
    eq!(p.line()?, b"");
    errno_is!(write(p.slave, b"x"), EIO);
    that!(poll1(p.slave, POLLIN, 0)? & POLLHUP != 0);
    errno_is!(ioctl(p.slave, TCGETS, &mut zeroed::<termios>()), EIO);
    Ok(())
}

fn closing_the_master_wakes_a_reader() -> R {
    let p = Pty::raw()?;
    let c = child(|| {
        close(p.master)?;
        // The read that is under way fails; later ones find the end.
        errno_is!(p.line(), EIO);
        eq!(p.line()?, b"");
        Ok(())
    })?;
    c.asleep()?;
    close(p.master)?;
    c.ok()
}

fn packet_mode_marks_data() -> R {
    let p = Pty::raw()?;
    ioctl(p.master, TIOCPKT, &1i32)?;
    write(p.slave, b"data")?;
    eq!(p.shown(5)?, b"\0data");
    ioctl(p.slave, TCFLSH, TCIFLUSH)?;
    // TIOCPKT_FLUSHREAD of asm-generic/ioctls.h.
    eq!(p.shown(1)?[0] & 1, 1);
    Ok(())
}

fn a_shell_in_a_terminal() -> R {
    let p = Pty::new()?;
    let shell = p.session(|| {
        for n in 0..3 {
            sc!(SYS_dup2, p.slave, n)?;
        }
        Err(execve(c"/bin/sh", &["sh"], &["PS1=> ", "PATH=/bin:/usr/bin"]).into())
    })?;
    let mut screen = Vec::new();
    let mut until = |text: &[u8]| -> R {
        while !screen.ends_with(text) {
            screen.extend(p.shown(1)?);
        }
        screen.clear();
        Ok(())
    };
    until(b"> ")?;
    p.typed(b"echo $((40+2))\r")?;
    until(b"\r\n42\r\n> ")?;
    p.typed(b"read x; echo got $x\r")?;
    until(b"got $x\r\n")?;
    p.typed(b"thing\r")?;
    until(b"got thing\r\n> ")?;
    p.typed(b"exit 7\r")?;
    eq!(shell.wait()?, Status::Exited(7));
    Ok(())
}

cases!("tty":
    the_pair_and_its_names, a_locked_slave_cannot_be_opened, the_peer_is_opened_by_ioctl, default_settings,
    settings_are_kept_and_shared_by_both_ends, a_line_comes_whole_after_enter,
    one_read_gives_one_line_or_a_part, erasing_characters_words_and_lines, end_of_file_key,
    literal_next_and_control_echo, end_of_line_characters, no_echo, input_translation, output_translation,
    raw_mode_passes_everything, vmin_counts_bytes, vmin_zero_never_waits_and_vtime_waits_so_long,
    vtime_between_bytes, nonblocking_ends, canonical_to_raw_makes_a_part_readable,
    queue_counts_and_flushing, window_size_is_shared, stop_and_start_keys_hold_output,
    a_long_line_is_cut_at_4095, closing_the_slave_hangs_up_the_master,
    closing_the_master_hangs_up_the_slave, closing_the_master_wakes_a_reader, packet_mode_marks_data,
    a_shell_in_a_terminal,
);
