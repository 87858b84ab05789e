//! The macro that turns the table's rows into entries.

/// Rows are `NR name(arg: Type, …) => path::to::handler, Full;` or `…, Partial, "what is missing";`, and
/// `NR name() => none;` for a call that is not implemented.
macro_rules! system_calls {
    ($($nr:literal $name:ident($($arg:ident: $ty:ty),*) => $handler:tt $(:: $rest:ident)* $(, $support:ident $(, $note:literal)?)?;)*) => {
        /// All system calls of the architecture in order of their numbers.
        pub(super) static TABLE: &[$crate::syscall::Entry] = &[
            $(system_calls!(@entry $nr $name($($arg: $ty),*) [$handler $(:: $rest)*] $(, $support $(, $note)?)?),)*
        ];
    };
    (@entry $nr:literal $name:ident() [none]) => {
        $crate::syscall::Entry {
            nr: $nr,
            name: stringify!($name),
            args: &[],
            handler: None,
            support: $crate::syscall::Support::None,
            note: "",
        }
    };
    (@entry $nr:literal $name:ident($($arg:ident: $ty:ty),*) [$($handler:tt)*], $support:ident $(, $note:literal)?) => {
        $crate::syscall::Entry {
            nr: $nr,
            name: stringify!($name),
            args: &[$((stringify!($arg), <$ty as $crate::syscall::Arg>::show)),*],
            handler: Some(|_cx, _raw| {
                let mut _raw = _raw.iter().copied();
                $(let $arg = <$ty as $crate::syscall::Arg>::decode(_raw.next().unwrap_or(0));)*
                super::$($handler)*(_cx $(, $arg)*).map(Into::into)
            }),
            support: $crate::syscall::Support::$support,
            note: concat!("" $(, $note)?),
        }
    };
}
