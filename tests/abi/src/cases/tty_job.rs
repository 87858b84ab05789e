//! Terminals and jobs: controlling terminals, foreground groups, keys that signal, hang-ups.

use crate::kit::prelude::*;
use crate::kit::pty::{foreground, set_foreground};

/// Waits in this process for one of the recorded signals.
fn await_signal() -> R<i32> {
    while sig::count() == 0 {
        let mask = 0u64;
        let _ = sc!(SYS_rt_sigsuspend, &mask, 8);
    }
    Ok(sig::seen()[0].sig)
}

/// Records these, blocked until somebody waits for them.
fn expect(sigs: &[i32]) -> R {
    for s in sigs {
        sig::record(*s, 0)?;
    }
    sig::block(sigs)?;
    Ok(())
}

fn a_session_takes_a_terminal() -> R {
    let p = Pty::new()?;
    p.session(|| {
        let me = getpid();
        let mut session = -1i32;
        ioctl(p.slave, TIOCGSID, &mut session)?;
        eq!((session, foreground(p.slave)?), (me, me));
        let tty = open(c"/dev/tty", O_RDWR, 0)?;
        eq!(fstat(tty)?.st_rdev, makedev(5, 0));
        write(tty, b"via tty")?;
        let stat = text(c"/proc/self/stat")?;
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or(vec![], |(_, r)| r.split(' ').collect());
        eq!(fields[4].parse::<u64>().ok(), Some(fstat(p.slave)?.st_rdev));
        eq!(fields[5].parse::<i32>().ok(), Some(me));
        // Again is fine; another terminal is not.
        ioctl(p.slave, TIOCSCTTY, 0)?;
        let other = Pty::new()?;
        errno_is!(ioctl(other.slave, TIOCSCTTY, 0), EPERM);
        Ok(())
    })?
    .ok()?;
    eq!(p.shown(7)?, b"via tty");
    Ok(())
}

fn opening_a_terminal_takes_it_unless_noctty() -> R {
    let p = Pty::new()?;
    let path = cstring(format!("/dev/pts/{}", p.number));
    child(|| {
        sc!(SYS_setsid)?;
        open(&path, O_RDWR | O_NOCTTY, 0)?;
        errno_is!(open(c"/dev/tty", O_RDWR, 0), ENXIO);
        open(&path, O_RDWR, 0)?;
        open(c"/dev/tty", O_RDWR, 0)?;
        Ok(())
    })?
    .ok()
}

fn a_terminal_of_another_session_is_refused() -> R {
    let p = Pty::new()?;
    let (ready, done) = (Gate::new()?, Gate::new()?);
    let owner = p.session(|| {
        ready.open()?;
        done.pass()
    })?;
    ready.pass()?;
    child(|| {
        sc!(SYS_setsid)?;
        errno_is!(ioctl(p.slave, TIOCSCTTY, 0), EPERM);
        errno_is!(foreground(p.slave), ENOTTY);
        Ok(())
    })?
    .ok()?;
    // Only a session leader may have one.
    errno_is!(ioctl(Pty::new()?.slave, TIOCSCTTY, 0), EPERM);
    done.open()?;
    owner.ok()
}

fn giving_up_the_terminal() -> R {
    let p = Pty::new()?;
    p.session(|| {
        sig::dispose(SIGHUP, SIG_IGN, 0)?;
        ioctl(p.slave, TIOCNOTTY, 0)?;
        errno_is!(open(c"/dev/tty", O_RDWR, 0), ENXIO);
        errno_is!(ioctl(p.slave, TIOCNOTTY, 0), ENOTTY);
        Ok(())
    })?
    .ok()
}

fn keys_send_signals_to_the_foreground_group() -> R {
    for (key, signal, echo) in [(3u8, SIGINT, b"^C"), (28, SIGQUIT, b"^\\"), (26, SIGTSTP, b"^Z")] {
        let p = Pty::new()?;
        let ready = Gate::new()?;
        let c = p.session(|| {
            expect(&[signal])?;
            ready.open()?;
            eq!(await_signal()?, signal);
            eq!(sig::seen()[0].code, 0x80);
            Ok(())
        })?;
        ready.pass()?;
        p.typed(&[key])?;
        c.ok()?;
        eq!(p.shown(2)?, echo);
    }
    Ok(())
}

fn an_interrupt_key_drops_typed_text_unless_noflsh() -> R {
    let p = Pty::new()?;
    let ready = Gate::new()?;
    let c = p.session(|| {
        expect(&[SIGINT])?;
        ready.open()?;
        await_signal()?;
        ready.open()?;
        eq!(p.line()?, b"new\n");
        Ok(())
    })?;
    ready.pass()?;
    p.typed(b"old\x03")?;
    ready.pass()?;
    p.typed(b"new\n")?;
    c.ok()
}

fn without_isig_keys_are_data() -> R {
    let p = Pty::new()?;
    p.session(|| {
        p.change(|t| t.c_lflag &= !ISIG)?;
        write(p.slave, b"!")?;
        eq!(p.line()?, b"\x03\x1a\n");
        Ok(())
    })
    .map_err(Into::into)
    .and_then(|c| {
        eq!(p.shown(1)?, b"!");
        p.typed(b"\x03\x1a\n")?;
        c.ok()
    })
}

fn only_the_foreground_group_hears_keys() -> R {
    let p = Pty::new()?;
    let ready = Gate::new()?;
    let c = p.session(|| {
        sig::dispose(SIGTTOU, SIG_IGN, 0)?;
        expect(&[SIGINT])?;
        let job = child(|| {
            sc!(SYS_setpgid, 0, 0)?;
            set_foreground(p.slave, getpid())?;
            ready.open()?;
            eq!(await_signal()?, SIGINT);
            Ok(())
        })?;
        job.ok()?;
        eq!((sig::count(), sig::pending()?), (0, 0));
        Ok(())
    })?;
    ready.pass()?;
    p.typed(b"\x03")?;
    c.ok()
}

fn window_changes_send_sigwinch() -> R {
    let p = Pty::new()?;
    let ready = Gate::new()?;
    let c = p.session(|| {
        expect(&[SIGWINCH])?;
        ready.open()?;
        eq!(await_signal()?, SIGWINCH);
        let mut w = zeroed::<winsize>();
        ioctl(p.slave, TIOCGWINSZ, &mut w)?;
        eq!((w.ws_row, w.ws_col), (50, 100));
        Ok(())
    })?;
    ready.pass()?;
    ioctl(p.master, TIOCSWINSZ, &winsize { ws_row: 50, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 })?;
    c.ok()
}

/// In a session on `p`, with a second group in the foreground, runs `body` in the background.
fn in_background(p: Pty, body: impl FnOnce() -> R) -> R {
    p.session(|| {
        let c = child(|| {
            sc!(SYS_setpgid, 0, 0)?;
            body()
        })?;
        let _ = sc!(SYS_setpgid, c.pid, c.pid);
        // The leader's own group stays in the foreground; what the job does is for us to see.
        let (_, status) = wait4(c.pid, WUNTRACED)?;
        if let Status::Stopped(s) = status {
            c.kill(SIGKILL)?;
            c.wait()?;
            exit(s);
        }
        eq!(status, Status::Exited(0));
        Ok(())
    })
    .map_err(Into::into)
    .and_then(|c| match c.wait()? {
        Status::Exited(0) => Ok(()),
        Status::Exited(s) => fail!("{s}"),
        other => fail!("{other:?}"),
    })
}

/// The signal that stopped the job.
fn stopped_by(p: Pty, body: impl FnOnce() -> R) -> R<String> {
    match in_background(p, body) {
        Ok(()) => Ok("nothing".into()),
        Err(crate::kit::Stop::Fail(why)) => Ok(why.rsplit(' ').next().unwrap_or("").to_string()),
        Err(other) => Err(other),
    }
}

fn reading_in_the_background_stops() -> R {
    let p = Pty::new()?;
    eq!(
        stopped_by(p, || {
            p.line()?;
            Ok(())
        })?,
        SIGTTIN.to_string()
    );
    Ok(())
}

fn reading_in_the_background_with_sigttin_ignored_is_eio() -> R {
    let p = Pty::new()?;
    in_background(p, || {
        sig::dispose(SIGTTIN, SIG_IGN, 0)?;
        errno_is!(p.line(), EIO);
        sig::dispose(SIGTTIN, SIG_DFL, 0)?;
        sig::block(&[SIGTTIN])?;
        errno_is!(p.line(), EIO);
        Ok(())
    })
}

fn writing_in_the_background_stops_only_with_tostop() -> R {
    let p = Pty::new()?;
    in_background(p, || {
        write(p.slave, b"fine")?;
        Ok(())
    })?;
    let p = Pty::new()?;
    p.change(|t| t.c_lflag |= TOSTOP)?;
    eq!(
        stopped_by(p, || {
            write(p.slave, b"stop")?;
            Ok(())
        })?,
        SIGTTOU.to_string()
    );
    let p = Pty::new()?;
    p.change(|t| t.c_lflag |= TOSTOP)?;
    in_background(p, || {
        sig::dispose(SIGTTOU, SIG_IGN, 0)?;
        write(p.slave, b"fine")?;
        Ok(())
    })
}

fn changing_settings_in_the_background_stops() -> R {
    let p = Pty::new()?;
    eq!(stopped_by(p, || Ok(p.change(|t| t.c_lflag &= !ECHO)?))?, SIGTTOU.to_string());
    let p = Pty::new()?;
    eq!(stopped_by(p, || Ok(set_foreground(p.slave, sc!(SYS_getpgid, 0)? as i32)?))?, SIGTTOU.to_string());
    let p = Pty::new()?;
    in_background(p, || {
        sig::dispose(SIGTTOU, SIG_IGN, 0)?;
        set_foreground(p.slave, sc!(SYS_getpgid, 0)? as i32)?;
        eq!(foreground(p.slave)?, getpid());
        Ok(())
    })
}

fn foreground_group_errors() -> R {
    let p = Pty::new()?;
    p.session(|| {
        errno_is!(set_foreground(p.slave, 1), EPERM | ESRCH);
        errno_is!(set_foreground(p.slave, 999_999), ESRCH);
        errno_is!(set_foreground(p.slave, -1), EINVAL);
        Ok(())
    })?
    .ok()?;
    errno_is!(set_foreground(p.slave, getpid()), ENOTTY);
    errno_is!(foreground(0), ENOTTY);
    Ok(())
}

fn an_orphaned_background_group_is_not_stopped() -> R {
    let p = Pty::new()?;
    p.session(|| {
        sc!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)?;
        let c = child(|| {
            // A group of its own, whose remaining member's parent will be outside the session.
            sc!(SYS_setpgid, 0, 0)?;
            let before = getpid() as i64;
            fork(|| {
                while sc!(SYS_getppid) == Ok(before) {
                    let _ = sc!(SYS_sched_yield);
                }
                let answer = match read(p.slave, &mut [0; 9]) {
                    Err(E(EIO)) => b"e",
                    _ => b"?",
                };
                let _ = write(p.slave, answer);
                0
            })?;
            Ok(())
        })?;
        c.ok()?;
        // The session's leader waits for the orphan's word on the screen, which the runner reads.
        sig::dispose(SIGHUP, SIG_IGN, 0)?;
        loop {
            let _ = sc!(SYS_pause);
        }
    })
    .map_err(Into::into)
    .and_then(|leader| {
        eq!(p.shown(1)?, b"e");
        leader.kill(SIGKILL)?;
        leader.wait()?;
        Ok(())
    })
}

fn closing_the_master_sends_sighup_to_the_leader() -> R {
    let p = Pty::new()?;
    let ready = Gate::new()?;
    let c = p.session(|| {
        expect(&[SIGHUP])?;
        ready.open()?;
        eq!(await_signal()?, SIGHUP);
        errno_is!(open(c"/dev/tty", O_RDWR, 0), ENXIO);
        Ok(())
    })?;
    ready.pass()?;
    close(p.master)?;
    c.ok()
}

fn the_leaders_death_signals_the_foreground_group() -> R {
    let p = Pty::new()?;
    let (r, w) = pipe(0)?;
    sc!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let c = p.session(|| {
        let ready = Gate::new()?;
        fork(|| {
            let _ = expect(&[SIGHUP]);
            let _ = ready.open();
            let got = await_signal().unwrap_or(0);
            // (A pseudo-terminal itself is not hung up by this, only a hardware one.)
            let _ = write(w, &[got as u8]);
            0
        })?;
        ready.pass()
    })?;
    c.ok()?;
    eq!(read_some(r, 2)?, [SIGHUP as u8]);
    eq!(wait4(-1, 0)?.1, Status::Exited(0));
    Ok(())
}

fn a_stopped_job_is_resumed_in_the_foreground() -> R {
    let p = Pty::new()?;
    let ready = Gate::new()?;
    let shell = p.session(|| {
        sig::dispose(SIGTTOU, SIG_IGN, 0)?;
        let job = child(|| {
            sc!(SYS_setpgid, 0, 0)?;
            set_foreground(p.slave, getpid())?;
            sig::dispose(SIGTTOU, SIG_DFL, 0)?;
            ready.open()?;
            eq!(p.line()?, b"after\n");
            Ok(())
        })?;
        eq!(wait4(job.pid, WUNTRACED)?.1, Status::Stopped(SIGTSTP));
        set_foreground(p.slave, getpid())?;
        write(p.slave, b"$")?;
        eq!(p.line()?, b"fg\n");
        set_foreground(p.slave, job.pid)?;
        kill(-job.pid, SIGCONT)?;
        write(p.slave, b"$")?;
        job.ok()
    })?;
    ready.pass()?;
    p.typed(b"\x1a")?;
    eq!(p.shown(3)?, b"^Z$");
    p.typed(b"fg\n")?;
    let shown = p.shown(5)?;
    that!(shown.contains(&b'$'), "{shown:?}");
    p.typed(b"after\n")?;
    shell.ok()
}

cases!("job":
    a_session_takes_a_terminal, opening_a_terminal_takes_it_unless_noctty,
    a_terminal_of_another_session_is_refused, giving_up_the_terminal,
    keys_send_signals_to_the_foreground_group, an_interrupt_key_drops_typed_text_unless_noflsh,
    without_isig_keys_are_data, only_the_foreground_group_hears_keys, window_changes_send_sigwinch,
    reading_in_the_background_stops, reading_in_the_background_with_sigttin_ignored_is_eio,
    writing_in_the_background_stops_only_with_tostop, changing_settings_in_the_background_stops,
    foreground_group_errors, an_orphaned_background_group_is_not_stopped,
    closing_the_master_sends_sighup_to_the_leader, the_leaders_death_signals_the_foreground_group,
    a_stopped_job_is_resumed_in_the_foreground,
);
