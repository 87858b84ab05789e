//! Terminal structures and flags (`termios(3)`, `ioctl_tty(2)`, `uapi/asm-generic/termbits.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of control characters that the kernel keeps.
pub const NCCS: usize = 19;

/// `struct termios` as `TCGETS` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
}

/// `struct termios2` as `TCGETS2` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Termios2 {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
    pub ispeed: u32,
    pub ospeed: u32,
}

/// `struct termio` as `TCGETA` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Termio {
    pub iflag: u16,
    pub oflag: u16,
    pub cflag: u16,
    pub lflag: u16,
    pub line: u8,
    pub cc: [u8; 8],
    pub pad: u8,
}

/// `struct winsize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Winsize {
    pub row: u16,
    pub col: u16,
    pub xpixel: u16,
    pub ypixel: u16,
}

mod flags {
    // The names are those of termios(3).
    #![allow(missing_docs)]

    use bitflags::bitflags;

    bitflags! {
        /// `c_iflag`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct InputFlags: u32 {
            const IGNBRK = 0o1;
            const BRKINT = 0o2;
            const IGNPAR = 0o4;
            const PARMRK = 0o10;
            const INPCK = 0o20;
            const ISTRIP = 0o40;
            const INLCR = 0o100;
            const IGNCR = 0o200;
            const ICRNL = 0o400;
            const IUCLC = 0o1000;
            const IXON = 0o2000;
            const IXANY = 0o4000;
            const IXOFF = 0o10000;
            const IMAXBEL = 0o20000;
            const IUTF8 = 0o40000;
        }

        /// `c_oflag`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct OutputFlags: u32 {
            const OPOST = 0o1;
            const OLCUC = 0o2;
            const ONLCR = 0o4;
            const OCRNL = 0o10;
            const ONOCR = 0o20;
            const ONLRET = 0o40;
            /// All bits of `TABDLY`: `TAB3`, tabs become spaces.
            const TAB3 = 0o14000;
        }

        /// `c_lflag`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct LocalFlags: u32 {
            const ISIG = 0o1;
            const ICANON = 0o2;
            const ECHO = 0o10;
            const ECHOE = 0o20;
            const ECHOK = 0o40;
            const ECHONL = 0o100;
            const NOFLSH = 0o200;
            const TOSTOP = 0o400;
            const ECHOCTL = 0o1000;
            const ECHOPRT = 0o2000;
            const ECHOKE = 0o4000;
            const FLUSHO = 0o10000;
            const PENDIN = 0o40000;
            const IEXTEN = 0o100000;
            const EXTPROC = 0o200000;
        }
    }
}

pub use flags::{InputFlags, LocalFlags, OutputFlags};

/// Indices into `c_cc`.
#[allow(missing_docs)]
pub mod cc {
    pub const VINTR: usize = 0;
    pub const VQUIT: usize = 1;
    pub const VERASE: usize = 2;
    pub const VKILL: usize = 3;
    pub const VEOF: usize = 4;
    pub const VTIME: usize = 5;
    pub const VMIN: usize = 6;
    pub const VSTART: usize = 8;
    pub const VSTOP: usize = 9;
    pub const VSUSP: usize = 10;
    pub const VEOL: usize = 11;
    pub const VREPRINT: usize = 12;
    pub const VWERASE: usize = 14;
    pub const VLNEXT: usize = 15;
    pub const VEOL2: usize = 16;
}

impl Termios2 {
    /// What Linux gives a new terminal (`tty_std_termios`), with UTF-8 input as a terminal emulator sets it.
    pub const fn standard() -> Termios2 {
        Termios2 {
            // ICRNL | IXON
            iflag: 0o400 | 0o2000,
            // OPOST | ONLCR
            oflag: 0o1 | 0o4,
            // B38400 | CS8 | CREAD
            cflag: 0o17 | 0o60 | 0o200,
            // ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN
            lflag: 0o1 | 0o2 | 0o10 | 0o20 | 0o40 | 0o1000 | 0o4000 | 0o100000,
            line: 0,
            cc: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
            ispeed: 38400,
            ospeed: 38400,
        }
    }

    /// Input flags.
    pub const fn input(&self) -> InputFlags {
        InputFlags::from_bits_retain(self.iflag)
    }
    /// Output flags.
    pub const fn output(&self) -> OutputFlags {
        OutputFlags::from_bits_retain(self.oflag)
    }
    /// Local flags.
    pub const fn local(&self) -> LocalFlags {
        LocalFlags::from_bits_retain(self.lflag)
    }

    /// Without the speeds.
    pub const fn short(&self) -> Termios {
        Termios {
            iflag: self.iflag,
            oflag: self.oflag,
            cflag: self.cflag,
            lflag: self.lflag,
            line: self.line,
            cc: self.cc,
        }
    }

    /// With everything but the speeds replaced.
    pub const fn with(&self, new: &Termios) -> Termios2 {
        Termios2 {
            iflag: new.iflag,
            oflag: new.oflag,
            cflag: new.cflag,
            lflag: new.lflag,
            line: new.line,
            cc: new.cc,
            ispeed: self.ispeed,
            ospeed: self.ospeed,
        }
    }
}
