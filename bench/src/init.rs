//! The first process of a kernel that boots (user-mode Linux): mounts what the rows need, runs a command, powers off.

use crate::sys::check;
use std::ffi::CStr;
use std::io::{Error, Result};
use std::process::Command;

/// Runs the command as its only child and powers off, whatever happens.
pub fn run(command: &[&str]) -> Result<()> {
    let result = mounts().and_then(|()| {
        let (program, args) =
            own_words(command).split_first().ok_or_else(|| Error::other("init: no command"))?;
        Command::new(program).args(args).status()
    });
    if let Err(error) = result {
        println!("{}fail {error}", crate::MARK);
    }
    // SAFETY: ends this kernel; as the first process of one that is not the host's.
    check(unsafe { libc::reboot(libc::RB_POWER_OFF) }).map(drop)
}

/// The command without what user-mode Linux puts behind the last word of its own command line.
fn own_words<'a, 'b>(words: &'a [&'b str]) -> &'a [&'b str] {
    let added = |word: &&str| word.starts_with("root=") || word.starts_with("console=");
    &words[..words.len() - words.iter().rev().take_while(|word| added(word)).count()]
}

fn mounts() -> Result<()> {
    if std::process::id() != 1 {
        return Err(Error::other("init: only as the first process"));
    }
    mount(c"proc", c"/proc")?;
    if !std::path::Path::new("/dev/null").exists() {
        mount(c"devtmpfs", c"/dev")?;
    }
    // Fails where it is there already.
    let _ = std::fs::create_dir("/dev/shm");
    mount(c"tmpfs", c"/dev/shm")
}

fn mount(kind: &CStr, at: &CStr) -> Result<()> {
    // SAFETY: C strings, no data.
    let answer = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    check(answer).map(drop).map_err(|e| Error::other(format!("mount {at:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_added_words_at_the_end_are_dropped() {
        assert_eq!(own_words(&["a", "root=1", "b", "root=98:0", "console=tty0"]), ["a", "root=1", "b"]);
        assert_eq!(own_words(&["a"]), ["a"]);
        assert!(own_words(&["root=98:0"]).is_empty());
    }
}
