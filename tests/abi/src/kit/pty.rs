//! Pseudo-terminals and sessions that have one as their controlling terminal.

use super::proc::{Child, child, cstring};
use super::{E, R, sys};
use libc::*;

/// A pseudo-terminal pair with both ends open.
#[derive(Clone, Copy)]
pub struct Pty {
    pub master: i32,
    pub slave: i32,
    pub number: i32,
}

impl Pty {
    pub fn new() -> R<Pty> {
        let master = sys::open(c"/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC, 0)?;
        sys::ioctl(master, TIOCSPTLCK, &0i32)?;
        let mut number = -1i32;
        sys::ioctl(master, TIOCGPTN, &mut number)?;
        let slave = sys::open(&cstring(format!("/dev/pts/{number}")), O_RDWR | O_NOCTTY, 0)?;
        Ok(Pty { master, slave, number })
    }

    /// One without line editing, echo, signals or output changes.
    pub fn raw() -> R<Pty> {
        let p = Pty::new()?;
        p.change(|t| {
            t.c_iflag = 0;
            t.c_oflag = 0;
            t.c_lflag = 0;
            (t.c_cc[VMIN], t.c_cc[VTIME]) = (1, 0);
        })?;
        Ok(p)
    }

    pub fn get(&self) -> Result<termios, E> {
        let mut t = sys::zeroed::<termios>();
        sys::ioctl(self.slave, TCGETS, &mut t).map(|_| t)
    }

    pub fn change(&self, edit: impl FnOnce(&mut termios)) -> Result<(), E> {
        let mut t = self.get()?;
        edit(&mut t);
        sys::ioctl(self.slave, TCSETS, &t).map(drop)
    }

    /// What somebody types.
    pub fn typed(&self, keys: &[u8]) -> R {
        eq!(sys::write(self.master, keys)?, keys.len());
        Ok(())
    }

    /// Exactly `n` bytes of what the screen shows.
    pub fn shown(&self, n: usize) -> R<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < n {
            all.extend(sys::read_some(self.master, n - all.len())?);
        }
        Ok(all)
    }

    /// One read by the program.
    pub fn line(&self) -> Result<Vec<u8>, E> {
        sys::read_some(self.slave, 5000)
    }

    /// Forks a leader of a new session that has this as its controlling terminal.
    pub fn session(&self, body: impl FnOnce() -> R) -> Result<Child, E> {
        child(|| {
            sys::close(self.master)?;
            sc!(SYS_setsid)?;
            sys::ioctl(self.slave, TIOCSCTTY, 0)?;
            body()
        })
    }
}

/// The foreground group of a terminal.
pub fn foreground(fd: i32) -> Result<i32, E> {
    let mut group = -1i32;
    sys::ioctl(fd, TIOCGPGRP, &mut group).map(|_| group)
}

pub fn set_foreground(fd: i32, group: i32) -> Result<(), E> {
    sys::ioctl(fd, TIOCSPGRP, &group).map(drop)
}
