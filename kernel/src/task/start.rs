//! The start of a kernel: the root, standard streams, the first program.

use super::exec::{Program, exec, open_executable};
use super::{Cx, Session, exit, spawn_first, user_loop};
use crate::Kernel;
use crate::config::{Command, StartError};
use crate::error::Error;
use crate::fs::OpenFile;
use abi::Errno;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

impl Kernel {
    /// Makes the first process, which sets up the root and executes the configured command. It runs once the CPUs do; what goes
    /// wrong comes out of [`Kernel::exit_status`].
    pub fn start(self: &Arc<Kernel>) -> Result<(), StartError> {
        let started = spawn_first(self, |cx| match set_up(cx) {
            Ok(()) => user_loop::user_loop(cx),
            Err(error) => {
                cx.kernel.finish(Err(error));
                exit::exit_task(cx, super::ExitStatus::Exited(125));
            }
        });
        started.map(drop).map_err(|e| StartError::Setup(format!("can't make the first process: {e:?}")))
    }
}

fn set_up(cx: &Cx) -> Result<(), StartError> {
    crate::fs::mount_root(cx)?;
    let command = cx.kernel.config.command.clone();
    change_directory(cx, &command)?;
    open_streams(cx).map_err(|e| StartError::Setup(format!("can't open the standard streams: {e:?}")))?;
    run_command(cx, command)
}

fn change_directory(cx: &Cx, command: &Command) -> Result<(), StartError> {
    let Some(dir) = &command.workdir else { return Ok(()) };
    crate::fs::change_directory(cx, dir).map_err(|e| {
        StartError::Setup(format!("working directory {}: {}", String::from_utf8_lossy(dir), e.errno()))
    })
}

/// Descriptors 0 to 2: the console where the outside is a terminal, else the streams as they are.
fn open_streams(cx: &Cx) -> Result<(), Error> {
    let mut console: Option<Arc<OpenFile>> = None;
    for index in 0..3 {
        let kind = cx.kernel.machine.stream(index).map_or(hal::StreamKind::Closed, |s| s.kind());
        let file = match kind {
            hal::StreamKind::Closed => continue,
            hal::StreamKind::Terminal => match &console {
                Some(console) => console.clone(),
                None => {
                    // The first process leads a session of its own on the terminal.
                    let process = cx.process();
                    *process.session.lock() =
                        Arc::new(Session { id: process.pid, tty: crate::sync::Mutex::new(None) });
                    console.insert(crate::tty::open_console(cx)?).clone()
                }
            },
            _ => crate::ipc::open_host_stream(cx, index)?,
        };
        cx.files().replace(crate::fs::Fd(index as i32), 3, file, false)?;
    }
    Ok(())
}

fn run_command(cx: &Cx, command: Command) -> Result<(), StartError> {
    let shown = String::from_utf8_lossy(&command.program).into_owned();
    let failed = |error: Error| StartError::Exec { program: shown.clone(), errno: error.errno() };
    let (path, file) = find_program(cx, &command).map_err(failed)?;
    let program = Program { file, path, unreachable: false, args: command.args, env: command.env };
    match exec(cx, program) {
        // It has been killed already, which is its result.
        Err(_) if cx.process().family.lock().exiting.is_some() => Ok(()),
        result => result.map_err(failed),
    }
}

/// A program with a slash is a path; another is looked up in `PATH`, where the first executable file counts and a lack of
/// permission is reported only if nothing else is found (`execvp(3)`).
fn find_program(cx: &Cx, command: &Command) -> Result<(Vec<u8>, Arc<OpenFile>), Error> {
    if command.program.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    if command.program.contains(&b'/') {
        return Ok((command.program.clone(), open_executable(cx, &command.program)?));
    }
    let default: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = command.env.iter().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or(default);
    let mut error: Error = Errno::ENOENT.into();
    for dir in path.split(|&b| b == b':') {
        let mut full = if dir.is_empty() { b".".to_vec() } else { dir.to_vec() };
        full.push(b'/');
        full.extend_from_slice(&command.program);
        match open_executable(cx, &full) {
            Ok(file) => return Ok((full, file)),
            Err(e) if e.errno() == Errno::EACCES => error = e,
            Err(_) => {}
        }
    }
    Err(error)
}
