//! Decoding and showing arguments.

use crate::fs::Fd;
use crate::task::Cx;
use crate::user::{UserCStr, UserPtr};
use alloc::format;
use alloc::string::String;

/// How strace shows an argument when it has nothing but the raw value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// Signed decimal of 32 bits.
    Int,
    /// Signed decimal of 64 bits.
    Long,
    /// Unsigned decimal.
    Unsigned,
    /// Hexadecimal.
    Hex,
    /// A descriptor.
    Fd,
    /// An address.
    Pointer,
    /// A string in user memory.
    Str,
}

/// A type that a handler can take as an argument.
pub trait Arg: Sized {
    /// How it is shown.
    const KIND: ArgKind;
    /// From the register, as Linux truncates it: a C `int` is the low 32 bits.
    fn decode(raw: u64) -> Self;
    /// For strace.
    fn show(raw: u64, cx: &Cx) -> String {
        show(Self::KIND, raw, cx)
    }
}

pub(super) fn show(kind: ArgKind, raw: u64, cx: &Cx) -> String {
    match kind {
        ArgKind::Int => format!("{}", raw as i32),
        ArgKind::Long => format!("{}", raw as i64),
        ArgKind::Unsigned => format!("{raw}"),
        ArgKind::Fd => match raw as u32 as i32 {
            -100 => String::from("AT_FDCWD"),
            fd => format!("{fd}"),
        },
        ArgKind::Hex if raw == 0 => String::from("0"),
        ArgKind::Pointer if raw == 0 => String::from("NULL"),
        ArgKind::Hex | ArgKind::Pointer => format!("{raw:#x}"),
        ArgKind::Str => match UserCStr(raw).read(cx, 256) {
            _ if raw == 0 => String::from("NULL"),
            Ok(Some(bytes)) => format!("\"{}\"", bytes.escape_ascii()),
            Ok(None) => format!("{raw:#x}…"),
            Err(_) => format!("{raw:#x}"),
        },
    }
}

macro_rules! args {
    ($($ty:ty, $kind:ident, $raw:ident => $decode:expr;)*) => {
        $(impl Arg for $ty {
            const KIND: ArgKind = ArgKind::$kind;
            fn decode($raw: u64) -> Self {
                $decode
            }
        })*
    };
}

args! {
    i32, Int, raw => raw as u32 as i32;
    u32, Hex, raw => raw as u32;
    i64, Long, raw => raw as i64;
    u64, Hex, raw => raw;
    usize, Unsigned, raw => raw as usize;
    Fd, Fd, raw => Fd(raw as u32 as i32);
    UserCStr, Str, raw => UserCStr(raw);
}

impl<T> Arg for UserPtr<T> {
    const KIND: ArgKind = ArgKind::Pointer;
    fn decode(raw: u64) -> Self {
        UserPtr::new(raw)
    }
}
