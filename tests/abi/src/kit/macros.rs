//! The checks that cases are written with. Each leaves the case on a wrong answer.

/// Fails the case with a formatted reason.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::kit::Stop::Fail(format!("{}:{}: {}", file!(), line!(), format!($($arg)*))))
    };
}

/// Leaves the case as not runnable here, with the privilege or feature that is missing.
macro_rules! skip {
    ($($arg:tt)*) => { return Err($crate::kit::Stop::Skip(format!($($arg)*))) };
}

/// Two values are equal.
macro_rules! eq {
    ($left:expr, $right:expr $(,)?) => {
        match (&$left, &$right) {
            (left, right) => {
                if *left != *right {
                    fail!("{} = {:?}, wanted {:?}", stringify!($left), left, right);
                }
            }
        }
    };
}

/// A condition holds; the rest, if any, is what to say when it does not.
macro_rules! that {
    ($cond:expr $(,)?) => { match $cond { true => {} false => fail!("not so: {}", stringify!($cond)) } };
    ($cond:expr, $($arg:tt)+) => {
        match $cond { true => {} false => fail!("not so: {}: {}", stringify!($cond), format!($($arg)+)) }
    };
}

/// A call fails with one of the errnos.
macro_rules! errno_is {
    ($call:expr, $($errno:ident)|+) => {
        match $call {
            Err($crate::kit::E(e)) if [$(libc::$errno),+].contains(&e) => {}
            Err(e) => fail!("{}: {e}, wanted {}", stringify!($call), stringify!($($errno)|+)),
            Ok(v) => fail!("{} = {v:?}, wanted {}", stringify!($call), stringify!($($errno)|+)),
        }
    };
}

/// One raw system call: `sc!(SYS_read, fd, &mut buf, 10)`. Arguments are numbers, references
/// and pointers; the result is the value or the errno.
macro_rules! sc {
    ($nr:ident $(, $arg:expr)* $(,)?) => {
        $crate::kit::sys::raw(libc::$nr, &[$($crate::kit::sys::Arg::arg($arg)),*])
    };
}

/// Names the cases of a family, in the order in which they run.
macro_rules! cases {
    ($family:literal: $($name:ident),* $(,)?) => {
        pub const CASES: &[$crate::kit::Case] =
            &[$($crate::kit::Case { family: $family, name: stringify!($name), run: $name }),*];
    };
}
