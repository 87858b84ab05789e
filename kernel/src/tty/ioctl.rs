//! `ioctl_tty(2)`: settings, sizes, queues, sessions.

use super::terminal::{After, Terminal};
use super::{job, near, packet};
use crate::error::{Result, err};
use crate::fs::{OpenFile, OpenFlags};
use crate::signal::{SigInfo, group, sig};
use crate::task::{Cap, Cx};
use crate::user::UserPtr;
use abi::Errno;
use abi::tty::{Termio, Termios, Termios2, Winsize, cc};
use alloc::sync::Arc;

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCGETA: u32 = 0x5405;
const TCSETA: u32 = 0x5406;
const TCSETAW: u32 = 0x5407;
const TCSETAF: u32 = 0x5408;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCEXCL: u32 = 0x540c;
const TIOCNXCL: u32 = 0x540d;
const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
pub(super) const TIOCSPGRP: u32 = 0x5410;
const TIOCOUTQ: u32 = 0x5411;
const TIOCSTI: u32 = 0x5412;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541b;
const TIOCPKT: u32 = 0x5420;
const TIOCNOTTY: u32 = 0x5422;
const TIOCSETD: u32 = 0x5423;
const TIOCGETD: u32 = 0x5424;
const TCSBRKP: u32 = 0x5425;
const TIOCSBRK: u32 = 0x5427;
const TIOCCBRK: u32 = 0x5428;
const TIOCGSID: u32 = 0x5429;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSW2: u32 = 0x402c_542c;
const TCSETSF2: u32 = 0x402c_542d;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGDEV: u32 = 0x8004_5432;
const TIOCSIG: u32 = 0x4004_5436;
const TIOCVHANGUP: u32 = 0x5437;
const TIOCGPKT: u32 = 0x8004_5438;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCGEXCL: u32 = 0x8004_5440;
const TIOCGPTPEER: u32 = 0x5441;

fn put<T: zerocopy::IntoBytes + zerocopy::Immutable>(cx: &Cx, arg: u64, value: &T) -> Result<u64> {
    UserPtr::<T>::new(arg).write(cx, value)?;
    Ok(0)
}

fn get<T: zerocopy::FromBytes + zerocopy::IntoBytes>(cx: &Cx, arg: u64) -> Result<T> {
    UserPtr::<T>::new(arg).read(cx)
}

/// The calls of the near end.
pub(super) fn near(cx: &Cx, of: &OpenFile, terminal: &Arc<Terminal>, cmd: u32, arg: u64) -> Result<u64> {
    match cmd {
        FIONREAD => {
            let count = terminal.state.lock().ldisc.readable_bytes();
            put(cx, arg, &(count as u32))
        }
        // What was printed is with the far end already.
        TIOCOUTQ => {
            let count = if terminal.is_console() { terminal.state.lock().outgoing.len() } else { 0 };
            put(cx, arg, &(count as u32))
        }
        TCFLSH => {
            job::check_foreground(cx, terminal, sig::TTOU)?;
            flush(terminal, arg, true)
        }
        TCXONC => flow(cx, terminal, arg),
        TIOCSCTTY => {
            job::set_controlling(cx, terminal, of.flags().readable(), arg == 1)?;
            Ok(0)
        }
        TIOCNOTTY => {
            job::give_up(cx, terminal)?;
            Ok(0)
        }
        TIOCSTI => insert(cx, terminal, arg),
        TIOCGPTN | TIOCSPTLCK | TIOCGPTLCK | TIOCPKT | TIOCGPKT | TIOCSIG | TIOCGPTPEER => err(Errno::ENOTTY),
        _ => either(cx, terminal, cmd, arg, false),
    }
}

/// The calls of a master.
pub(super) fn far(cx: &Cx, terminal: &Arc<Terminal>, cmd: u32, arg: u64) -> Result<u64> {
    match cmd {
        TIOCGPTN => put(cx, arg, &terminal.index),
        TIOCSPTLCK => {
            let lock: i32 = get(cx, arg)?;
            terminal.state.lock().locked = lock != 0;
            Ok(0)
        }
        TIOCGPTLCK => {
            let locked = terminal.state.lock().locked;
            put(cx, arg, &i32::from(locked))
        }
        TIOCPKT => {
            let on: i32 = get(cx, arg)?;
            let mut state = terminal.state.lock();
            if on != 0 && !state.packet {
                state.status = 0;
            }
            state.packet = on != 0;
            Ok(0)
        }
        TIOCGPKT => {
            let on = terminal.state.lock().packet;
            put(cx, arg, &i32::from(on))
        }
        TIOCSIG => {
            let signo = arg as i32;
            if !matches!(signo, sig::INT | sig::QUIT | sig::TSTP) {
                return err(Errno::EINVAL);
            }
            let foreground = terminal.state.lock().foreground;
            if foreground > 0 {
                group::send_to_group(cx.kernel, foreground, SigInfo::kernel(signo));
            }
            Ok(0)
        }
        TIOCGPTPEER => peer(cx, terminal, arg),
        FIONREAD => {
            let count = terminal.state.lock().outgoing.len();
            put(cx, arg, &(count as u32))
        }
        TIOCOUTQ => {
            let count = terminal.state.lock().incoming.len();
            put(cx, arg, &(count as u32))
        }
        TCFLSH => flush(terminal, arg, false),
        // A master never becomes a controlling terminal.
        TIOCSCTTY => err(Errno::ENOTTY),
        TIOCNOTTY => err(Errno::ENOTTY),
        TIOCSTI => err(Errno::EIO),
        _ => either(cx, terminal, cmd, arg, true),
    }
}

/// The calls that both ends have.
fn either(cx: &Cx, terminal: &Arc<Terminal>, cmd: u32, arg: u64, from_master: bool) -> Result<u64> {
    let termios = || *terminal.state.lock().ldisc.termios();
    match cmd {
        TCGETS => put(cx, arg, &termios().short()),
        TCGETS2 => put(cx, arg, &termios()),
        TCGETA => put(cx, arg, &old_termio(&termios())),
        TCSETS | TCSETSW | TCSETSF => {
            let new: Termios = get(cx, arg)?;
            set(cx, terminal, with_speed(termios().with(&new)), cmd == TCSETSF)
        }
        TCSETS2 | TCSETSW2 | TCSETSF2 => {
            let new: Termios2 = get(cx, arg)?;
            set(cx, terminal, with_speed(new), cmd == TCSETSF2)
        }
        TCSETA | TCSETAW | TCSETAF => {
            let new: Termio = get(cx, arg)?;
            set(cx, terminal, with_speed(from_old(termios(), &new)), cmd == TCSETAF)
        }
        // Output is handed on as it comes, so there is nothing to wait for; a break has no meaning here.
        TCSBRK | TCSBRKP | TIOCSBRK => {
            job::check_foreground(cx, terminal, sig::TTOU)?;
            Ok(0)
        }
        TIOCCBRK => Ok(0),
        TIOCEXCL | TIOCNXCL => {
            terminal.state.lock().exclusive = cmd == TIOCEXCL;
            Ok(0)
        }
        TIOCGEXCL => {
            let exclusive = terminal.state.lock().exclusive;
            put(cx, arg, &i32::from(exclusive))
        }
        TIOCGPGRP => put(cx, arg, &job::foreground(cx, terminal, from_master)?),
        TIOCSPGRP => {
            let pgid: i32 = get(cx, arg)?;
            job::set_foreground(cx, terminal, pgid)?;
            Ok(0)
        }
        TIOCGSID => put(cx, arg, &job::session_of(cx, terminal, from_master)?),
        TIOCGWINSZ => {
            let window = terminal.state.lock().window;
            put(cx, arg, &window)
        }
        TIOCSWINSZ => {
            let window: Winsize = get(cx, arg)?;
            terminal.set_window(window);
            Ok(0)
        }
        TIOCGETD => put(cx, arg, &0i32),
        TIOCSETD => {
            let discipline: i32 = get(cx, arg)?;
            if discipline == 0 { Ok(0) } else { err(Errno::EINVAL) }
        }
        TIOCGDEV => put(cx, arg, &(terminal.device().encode() as u32)),
        TIOCVHANGUP => {
            if !cx.task.creds().has(Cap::SysAdmin) {
                return err(Errno::EPERM);
            }
            terminal.hang_up(false);
            Ok(0)
        }
        _ => err(Errno::ENOTTY),
    }
}

fn set(cx: &Cx, terminal: &Terminal, termios: Termios2, flush_input: bool) -> Result<u64> {
    job::check_foreground(cx, terminal, sig::TTOU)?;
    terminal.set_termios(termios, flush_input);
    Ok(0)
}

/// Bits of `c_cflag` (`uapi/asm-generic/termbits.h`).
const CSIZE: u32 = 0o60;
const CS8: u32 = 0o60;
const CREAD: u32 = 0o200;
const PARENB: u32 = 0o400;
const CBAUD: u32 = 0o10017;
const CBAUDEX: u32 = 0o10000;

/// Speeds by their code, without and with `CBAUDEX`. Code 0 with it is `BOTHER`: the speed stands beside the flags.
const SPEEDS: [u32; 16] =
    [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400];
const SPEEDS_EX: [u32; 16] = [
    0, 57600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000,
    2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
];

/// With the speeds that the flags name, and the line settings that a pseudo-terminal always has.
fn with_speed(mut termios: Termios2) -> Termios2 {
    let code = (termios.cflag & 0o17) as usize;
    let table = if termios.cflag & CBAUDEX != 0 { &SPEEDS_EX } else { &SPEEDS };
    if termios.cflag & CBAUD != CBAUDEX {
        let speed = table.get(code).copied().unwrap_or(38400);
        termios.ospeed = speed;
        termios.ispeed = speed;
    }
    termios.cflag = termios.cflag & !(CSIZE | PARENB) | CS8 | CREAD;
    termios
}

fn old_termio(termios: &Termios2) -> Termio {
    let mut old = [0; 8];
    for (to, from) in old.iter_mut().zip(termios.cc) {
        *to = from;
    }
    Termio {
        iflag: termios.iflag as u16,
        oflag: termios.oflag as u16,
        cflag: termios.cflag as u16,
        lflag: termios.lflag as u16,
        line: termios.line,
        cc: old,
        pad: 0,
    }
}

fn from_old(mut termios: Termios2, old: &Termio) -> Termios2 {
    let low = |now: u32, new: u16| now & 0xffff_0000 | u32::from(new);
    termios.iflag = low(termios.iflag, old.iflag);
    termios.oflag = low(termios.oflag, old.oflag);
    termios.cflag = low(termios.cflag, old.cflag);
    termios.lflag = low(termios.lflag, old.lflag);
    termios.line = old.line;
    for (to, from) in termios.cc.iter_mut().zip(old.cc) {
        *to = from;
    }
    termios
}

/// `tcflush(3)`: 0 what came in, 1 what goes out, 2 both, as this end sees it.
fn flush(terminal: &Terminal, which: u64, near: bool) -> Result<u64> {
    let (input, output) = match which {
        0 => (true, false),
        1 => (false, true),
        2 => (true, true),
        _ => return err(Errno::EINVAL),
    };
    // One end's input is the other's output.
    let (typed, printed) = if near { (input, output) } else { (output, input) };
    {
        let mut state = terminal.state.lock();
        if typed {
            state.ldisc.flush_input();
            state.incoming.clear();
            state.status |= packet::FLUSH_READ;
        }
        if printed {
            state.outgoing.clear();
            state.status |= packet::FLUSH_WRITE;
        }
    }
    terminal.apply(After { wake_writers: true, wake_far: true, ..After::default() });
    Ok(0)
}

/// `tcflow(3)`.
fn flow(cx: &Cx, terminal: &Terminal, action: u64) -> Result<u64> {
    job::check_foreground(cx, terminal, sig::TTOU)?;
    let mut after = After { wake_far: true, ..After::default() };
    {
        let mut state = terminal.state.lock();
        match action {
            0 | 1 => {
                state.ldisc.stopped = action == 0;
                state.status &= !(packet::STOP | packet::START);
                state.status |= if action == 0 { packet::STOP } else { packet::START };
                after.wake_writers = action == 1;
            }
            // Asks the far end to stop or start sending, with its own characters.
            2 | 3 => {
                let index = if action == 2 { cc::VSTOP } else { cc::VSTART };
                let c = state.ldisc.termios().cc.get(index).copied().unwrap_or(0);
                if c != 0 {
                    state.outgoing.push_back(c);
                    terminal.drain(&mut state, &mut after);
                }
            }
            _ => return err(Errno::EINVAL),
        }
    }
    terminal.apply(after);
    Ok(0)
}

/// `TIOCSTI`: only for the privileged, as Linux has it since 6.2 (`dev.tty.legacy_tiocsti`).
fn insert(cx: &Cx, terminal: &Terminal, arg: u64) -> Result<u64> {
    if !cx.task.creds().has(Cap::SysAdmin) {
        return err(Errno::EIO);
    }
    let c: u8 = get(cx, arg)?;
    terminal.receive(&[c]);
    Ok(0)
}

/// `TIOCGPTPEER`: opens the other end without going by its name.
fn peer(cx: &Cx, terminal: &Arc<Terminal>, arg: u64) -> Result<u64> {
    let flags = OpenFlags::from_bits_retain(arg as u32);
    let file = near::open(cx, terminal, flags)?;
    let name = alloc::format!("/dev/pts/{}", terminal.index);
    // The path is for `ttyname(3)`; without it the descriptor works all the same.
    let path = super::place_of(cx, name.as_bytes());
    let inode = path.as_ref().map(|path| path.dentry.inode.clone());
    let open = OpenFile::new(cx.kernel, file, inode, path, flags);
    let fd = cx.install(open, flags.contains(OpenFlags::CLOEXEC))?;
    Ok(fd.0 as u64)
}
