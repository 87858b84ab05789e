//! `#!` scripts (`execve(2)`, "Interpreter scripts").

use super::Program;
use crate::error::{Result, err};
use crate::task::Cx;
use abi::Errno;
use alloc::vec::Vec;

/// How much of a file decides what it is (`BINPRM_BUF_SIZE`).
pub(super) const HEAD_LEN: usize = 256;

/// A `#!` line.
pub(super) struct Line {
    interpreter: Vec<u8>,
    argument: Option<Vec<u8>>,
}

fn blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim(line: &[u8]) -> &[u8] {
    let Some(start) = line.iter().position(|b| !blank(b)) else { return &[] };
    let end = line.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    line.get(start..end).unwrap_or_default()
}

/// The line of a script; `None` when the file is none.
pub(super) fn parse(head: &[u8]) -> Result<Option<Line>> {
    let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
    let end = rest.iter().position(|&b| b == b'\n' || b == 0);
    let line = match end {
        Some(end) => rest.get(..end).unwrap_or_default(),
        // Cut off: fine as long as the interpreter's path is whole.
        None if rest.len() + 2 < HEAD_LEN => rest,
        None => {
            let start = rest.iter().position(|b| !blank(b)).unwrap_or(rest.len());
            if !rest.get(start..).unwrap_or_default().iter().any(blank) {
                return err(Errno::ENOEXEC);
            }
            // Linux keeps the last byte for itself.
            rest.get(..rest.len() - 1).unwrap_or_default()
        }
    };
    // Blanks are trimmed, other white space is part of a name: a carriage return at the end of the line, for one.
    let line = trim(line);
    if line.is_empty() {
        return err(Errno::ENOEXEC);
    }
    let split = line.iter().position(blank).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(split);
    let argument = trim(argument);
    Ok(Some(Line {
        interpreter: interpreter.to_vec(),
        argument: (!argument.is_empty()).then(|| argument.to_vec()),
    }))
}

/// Most interpreters that `#!` lines may lead through (`BINPRM_MAX_RECURSION`).
const MAX_SCRIPTS: usize = 5;

/// Turns a script into its interpreter with the script as an argument, as often as needed; the head of the file that is executed in the
/// end. The path stays the script's: it is what `AT_EXECFN` and the task's name come from.
pub(super) fn follow(cx: &Cx, program: &mut Program) -> Result<Vec<u8>> {
    let mut name = program.path.clone();
    for scripts in 0.. {
        let head = super::read_at(cx, &program.file, 0, HEAD_LEN)?;
        let Some(line) = parse(&head)? else { return Ok(head) };
        if scripts == MAX_SCRIPTS {
            break;
        }
        if program.unreachable {
            return err(Errno::ENOENT);
        }
        program.file = super::open_executable(cx, &line.interpreter)?;
        let mut args = Vec::with_capacity(program.args.len() + 2);
        args.push(line.interpreter.clone());
        args.extend(line.argument);
        args.push(core::mem::replace(&mut name, line.interpreter));
        args.extend(program.args.drain(..).skip(1));
        program.args = args;
    }
    err(Errno::ELOOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        parse(head).unwrap().map(|l| (l.interpreter, l.argument))
    }

    #[test]
    fn the_rest_of_the_line_is_one_argument() {
        assert_eq!(parsed(b"#! /bin/sh -e -x \nfoo"), Some((b"/bin/sh".to_vec(), Some(b"-e -x".to_vec()))));
        assert_eq!(parsed(b"#!/bin/sh\n"), Some((b"/bin/sh".to_vec(), None)));
        assert_eq!(parsed(b"#!/bin/sh\r\n"), Some((b"/bin/sh\r".to_vec(), None)));
        assert_eq!(parsed(b"\x7fELF"), None);
    }

    #[test]
    fn an_empty_line_is_no_program() {
        assert!(parse(b"#!\n").is_err());
        assert!(parse(b"#!   \n").is_err());
    }

    #[test]
    fn a_long_line_is_cut() {
        let mut head = b"#!/bin/echo ".to_vec();
        head.resize(HEAD_LEN, b'7');
        assert_eq!(parsed(&head).unwrap().1.unwrap().len(), HEAD_LEN - 13);
    }

    #[test]
    fn an_interpreter_that_does_not_end_is_refused() {
        let mut head = b"#!/".to_vec();
        head.resize(HEAD_LEN, b'a');
        assert!(parse(&head).is_err());
    }
}
