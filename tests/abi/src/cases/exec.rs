//! Executing programs: execve, execveat, `#!` scripts, what survives and what does not.

use crate::kit::prelude::*;
use std::ffi::CStr;

/// What the helper prints.
fn helper(args: &[&str], env: &[&str]) -> R<String> {
    let (out, status) = captured(|| Err(exec_helper(args, env).into()))?;
    eq!(status, Status::Exited(0));
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// What executing `path` prints.
fn run(path: &CStr, args: &[&str]) -> R<String> {
    let (out, status) = captured(|| Err(execve(path, args, &[]).into()))?;
    eq!(status, Status::Exited(0));
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn script(path: &CStr, first_line: &str) -> R {
    put(path, first_line.as_bytes())?;
    sc!(SYS_chmod, path, 0o755)?;
    Ok(())
}

/// The path of this program as text.
fn me() -> &'static str {
    exe().to_str().unwrap_or("")
}

fn arguments_and_environment_arrive_exactly() -> R {
    eq!(helper(&["args", "one", "", "two words", "\u{e9}\u{1}"], &[])?, "one\n\ntwo words\n\u{e9}\u{1}\n");
    eq!(helper(&["env"], &["A=1", "B=two words", "EMPTY="])?, "A=1\nB=two words\nEMPTY=\n");
    Ok(())
}

fn exit_status_of_the_new_program() -> R {
    let c = child(|| Err(exec_helper(&["exit", "42"], &[]).into()))?;
    eq!(c.wait()?, Status::Exited(42));
    Ok(())
}

fn large_arguments() -> R {
    let big = "x".repeat(100_000);
    let out = helper(&["args", &big, &big, &big], &[])?;
    eq!(out.len(), 3 * 100_001);
    let many: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    let args: Vec<&str> = ["args"].into_iter().chain(many.iter().map(String::as_str)).collect();
    eq!(helper(&args, &[])?.lines().count(), 5000);
    Ok(())
}

fn too_large_arguments_are_e2big() -> R {
    // One string may have 32 pages; all together a quarter of the stack limit.
    let huge = "x".repeat(131_072);
    eq!(exec_helper(&["args", &huge], &[]), E(E2BIG));
    let big = "x".repeat(100_000);
    eq!(exec_helper(&[&big[..]; 100], &[]), E(E2BIG));
    Ok(())
}

fn pid_and_parent_stay() -> R {
    let (out, _) = captured(|| {
        print_id()?;
        Err(exec_helper(&["ids"], &[]).into())
    })?;
    let out = String::from_utf8_lossy(&out).into_owned();
    let (before, after) = out.split_once('\n').unwrap_or_default();
    eq!(before, after.trim());
    Ok(())
}

fn print_id() -> R<()> {
    let (ppid, pgid, sid) = (sc!(SYS_getppid)?, sc!(SYS_getpgid, 0)?, sc!(SYS_getsid, 0)?);
    write(1, format!("{} {ppid} {pgid} {sid}\n", getpid()).as_bytes())?;
    Ok(())
}

fn cloexec_descriptors_close_and_others_stay() -> R {
    let (kept, gone) = (open(c"/dev/null", O_RDONLY, 0)?, open(c"/dev/null", O_RDONLY | O_CLOEXEC, 0)?);
    let status = |fd: i32| -> R<Status> {
        let n = fd.to_string();
        Ok(child(|| Err(exec_helper(&["fd", &n], &[]).into()))?.wait()?)
    };
    eq!((status(kept)?, status(gone)?), (Status::Exited(0), Status::Exited(1)));
    Ok(())
}

fn a_failed_exec_closes_nothing() -> R {
    let fd = open(c"/dev/null", O_RDONLY | O_CLOEXEC, 0)?;
    eq!(execve(c"none", &["x"], &[]), E(ENOENT));
    fcntl(fd, F_GETFD, 0)?;
    Ok(())
}

/// This program with a field of it changed, executed by a child.
fn executed_with(at: usize, value: &[u8]) -> R<Status> {
    let mut elf = get(exe())?;
    elf[at..at + value.len()].copy_from_slice(value);
    put(c"changed", &elf)?;
    sc!(SYS_chmod, c"changed", 0o755)?;
    let run = || {
        eq!(execve(c"changed", &["changed", "--helper", "exit", "42"], &[]), E(ENOEXEC));
        Ok(())
    };
    Ok(child(run)?.wait()?)
}

fn a_malformed_program_is_enoexec_or_the_end() -> R {
    let elf = get(exe())?;
    let load = (64..).step_by(56).find(|&at| elf[at..at + 4] == [1, 0, 0, 0]).unwrap_or(64);
    eq!(executed_with(16, &[9, 0])?, Status::Exited(0));
    eq!(executed_with(54, &[57, 0])?, Status::Exited(0));
    // Class, byte order and version are not looked at.
    eq!(executed_with(4, &[9, 9, 9])?, Status::Exited(42));
    // What is wrong in the segments comes out when the old program is gone.
    eq!(executed_with(load + 8, &[1])?, Status::Killed(SIGSEGV));
    eq!(executed_with(load + 40, &[0; 8])?, Status::Killed(SIGSEGV));
    Ok(())
}

fn signal_state_across_exec() -> R {
    // Handlers become default; ignored stays ignored; mask and pending stay.
    let (out, _) = captured(|| {
        sig::record(SIGUSR1, 0)?;
        sig::block(&[SIGUSR2])?;
        kill(getpid(), SIGUSR2)?;
        Err(exec_helper(&["signals", "10"], &[]).into())
    })?;
    eq!(String::from_utf8_lossy(&out), "800 800 0\n");
    let (out, _) = captured(|| {
        sig::dispose(SIGUSR1, SIG_IGN, 0)?;
        Err(exec_helper(&["signals", "10"], &[]).into())
    })?;
    eq!(String::from_utf8_lossy(&out), "0 0 1\n");
    Ok(())
}

fn name_cwd_and_umask() -> R {
    let base = exe().to_bytes().rsplit(|b| *b == b'/').next().unwrap_or(b"");
    let expected = String::from_utf8_lossy(&base[..base.len().min(15)]).into_owned();
    eq!(helper(&["comm"], &[])?, format!("{expected}\n"));
    eq!(helper(&["cwd"], &[])?, format!("{}\n", std::env::current_dir()?.display()));
    sc!(SYS_umask, 0o013)?;
    eq!(helper(&["umask"], &[])?, "13\n");
    Ok(())
}

fn auxiliary_vector() -> R {
    eq!(helper(&["auxv"], &[])?, format!("{} 4096 0 true\n", me()));
    Ok(())
}

fn errors_of_paths_and_permissions() -> R {
    put(c"plain", b"data")?;
    mkdir(c"d", 0o755)?;
    symlink(c"loop", c"loop")?;
    eq!(execve(c"none", &["x"], &[]), E(ENOENT));
    eq!(execve(c"", &["x"], &[]), E(ENOENT));
    eq!(execve(c"plain", &["x"], &[]), E(EACCES));
    eq!(execve(c"d", &["x"], &[]), E(EACCES));
    eq!(execve(c"plain/x", &["x"], &[]), E(ENOTDIR));
    eq!(execve(c"loop", &["x"], &[]), E(ELOOP));
    errno_is!(sc!(SYS_execve, BAD, 0, 0), EFAULT);
    errno_is!(sc!(SYS_execve, exe(), BAD, 0), EFAULT);
    errno_is!(sc!(SYS_execve, exe(), &[BAD, 0], 0), EFAULT);
    Ok(())
}

fn errors_of_contents() -> R {
    for (n, data) in [&b""[..], b"text", b"\x7fELF", &[0; 200], b"#! \n", b"#!\n"].iter().enumerate() {
        let path = cstring(format!("p{n}"));
        put(&path, data)?;
        sc!(SYS_chmod, path.as_c_str(), 0o755)?;
        eq!(execve(&path, &["x"], &[]), E(ENOEXEC));
    }
    Ok(())
}

fn a_file_open_for_writing_is_etxtbsy() -> R {
    std::fs::copy(me(), "prog")?;
    let w = open(c"prog", O_WRONLY, 0)?;
    // Its success would end this process, with a status that is a failure.
    eq!(execve(c"prog", &["x", "--helper", "exit", "3"], &[]), E(ETXTBSY));
    close(w)?;
    let (gate, (r, w)) = (Gate::new()?, pipe(0)?);
    let c = child(|| {
        sc!(SYS_dup2, w, 1)?;
        gate.pass()?;
        Err(execve(c"prog", &["abi-tests", "--helper", "block"], &[]).into())
    })?;
    gate.open()?;
    eq!(read_some(r, 6)?, b"ready\n");
    errno_is!(open(c"prog", O_WRONLY, 0), ETXTBSY);
    errno_is!(sc!(SYS_truncate, c"prog", 0), ETXTBSY);
    c.kill(SIGKILL)?;
    c.wait()?;
    open(c"prog", O_WRONLY, 0)?;
    Ok(())
}

fn scripts_run_their_interpreter() -> R {
    script(c"s", &format!("#!{} --helper\nrest is not read\n", me()))?;
    // The interpreter gets its argument, the script's path, then ours: the helper's name is the script.
    put(c"t", b"")?;
    script(c"t", &format!("#! \t{}  --helper\t\n", me()))?;
    let link = c"cmdline";
    symlink(c"t", link)?;
    let out = run(c"cmdline", &["zero", "one", "two"])?;
    eq!(out, format!("{}\n--helper\ncmdline\none\ntwo\n\n", me()));
    Ok(())
}

fn a_script_argument_is_one_word() -> R {
    script(c"s", "#!/bin/echo one two  three \n")?;
    eq!(run(c"./s", &["x", "four"])?, "one two  three ./s four\n");
    script(c"n", "#!/bin/echo")?;
    eq!(run(c"./n", &["x", "four"])?, "./n four\n");
    Ok(())
}

fn scripts_of_scripts_up_to_a_depth() -> R {
    let here = std::env::current_dir()?;
    script(c"s0", "#!/bin/echo\n")?;
    for n in 1..=5 {
        let line = format!("#!{}/s{}\n", here.display(), n - 1);
        script(&cstring(format!("s{n}")), &line)?;
    }
    that!(run(c"s4", &["x"])?.ends_with("/s3 s4\n"));
    eq!(execve(c"s5", &["x"], &[]), E(ELOOP));
    Ok(())
}

fn a_script_with_a_missing_interpreter_is_enoent() -> R {
    script(c"s", "#!/no/such/thing\n")?;
    eq!(execve(c"s", &["x"], &[]), E(ENOENT));
    script(c"t", "#!/tmp\n")?;
    eq!(execve(c"t", &["x"], &[]), E(EACCES));
    Ok(())
}

fn execveat_of_a_descriptor() -> R {
    let fd = open(exe(), O_PATH | O_CLOEXEC, 0)?;
    let (out, status) = captured(|| {
        let (argv, env) = (Argv::new(["x", "--helper", "args", "hi"]), Argv::new([""; 0]));
        Err(sc!(SYS_execveat, fd, c"", argv.ptr(), env.ptr(), AT_EMPTY_PATH).err().unwrap_or(E(0)).into())
    })?;
    eq!((out.as_slice(), status), (&b"hi\n"[..], Status::Exited(0)));
    Ok(())
}

fn execveat_relative_and_nofollow() -> R {
    symlink(exe(), c"l")?;
    let d = open(c".", O_RDONLY, 0)?;
    let at = |flags: i32| {
        let (argv, env) = (Argv::new(["x", "--helper", "exit", "3"]), Argv::new([""; 0]));
        sc!(SYS_execveat, d, c"l", argv.ptr(), env.ptr(), flags)
    };
    errno_is!(at(AT_SYMLINK_NOFOLLOW), ELOOP);
    errno_is!(at(0x40), EINVAL);
    let c = child(|| Err(at(0).err().unwrap_or(E(0)).into()))?;
    eq!(c.wait()?, Status::Exited(3));
    Ok(())
}

fn a_script_by_descriptor_names_dev_fd() -> R {
    script(c"s", "#!/bin/echo\n")?;
    let fd = open(c"s", O_RDONLY, 0)?;
    let (out, _) = captured(|| {
        let (argv, env) = (Argv::new(["x", "arg"]), Argv::new([""; 0]));
        Err(sc!(SYS_execveat, fd, c"", argv.ptr(), env.ptr(), AT_EMPTY_PATH).err().unwrap_or(E(0)).into())
    })?;
    eq!(String::from_utf8_lossy(&out), format!("/dev/fd/{fd} arg\n"));
    // An interpreter could not open a descriptor that is about to close.
    fcntl(fd, F_SETFD, FD_CLOEXEC)?;
    let (argv, env) = (Argv::new(["x"]), Argv::new([""; 0]));
    errno_is!(sc!(SYS_execveat, fd, c"", argv.ptr(), env.ptr(), AT_EMPTY_PATH), ENOENT);
    Ok(())
}

fn an_empty_argument_list_becomes_one_empty_string() -> R {
    // argv = {NULL}: Linux puts in an empty argv[0] (since 5.18).
    let (out, _) = captured(|| {
        let none = [0usize];
        Err(sc!(SYS_execve, c"/bin/cat", &none, &none).err().unwrap_or(E(0)).into())
    })?;
    eq!(out, b"");
    Ok(())
}

fn dynamic_programs_run() -> R {
    eq!(run(c"/bin/echo", &["echo", "hello"])?, "hello\n");
    let (out, status) =
        captured(|| Err(execve(c"/bin/sh", &["sh", "-c", "echo $((6*7)); exit 3"], &[]).into()))?;
    eq!((out.as_slice(), status), (&b"42\n"[..], Status::Exited(3)));
    Ok(())
}

fn exec_from_a_thread_ends_the_others() -> R {
    let (out, status) = captured(|| {
        for _ in 0..4 {
            std::thread::spawn(block_forever);
        }
        let me = getpid();
        let failed = std::thread::spawn(|| exec_helper(&["ids"], &[])).join();
        fail!("exec: {failed:?} in {me}")
    })?;
    eq!(status, Status::Exited(0));
    // The new program has the process's id, whichever thread asked.
    let out = String::from_utf8_lossy(&out).into_owned();
    let ids: Vec<i64> = out.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    eq!(ids[1], getpid() as i64);
    Ok(())
}

fn block_forever() {
    loop {
        let _ = sc!(SYS_pause);
    }
}

fn address_space_is_replaced() -> R {
    let p = rw(1 << 20)?;
    poke(p, 1);
    let (out, _) = captured(|| Err(execve(c"/bin/cat", &["cat", "/proc/self/maps"], &[]).into()))?;
    let maps = String::from_utf8_lossy(&out).into_owned();
    that!(!maps.contains(me()), "{maps}");
    that!(maps.contains("[stack]") && maps.contains("/cat"), "{maps}");
    Ok(())
}

fn vfork_parent_waits_for_exec_or_exit() -> R {
    // clone(CLONE_VM | CLONE_VFORK) as posix_spawn uses it.
    let status = std::process::Command::new(me()).args(["--helper", "exit", "9"]).status()?;
    eq!(status.code(), Some(9));
    let missing = std::process::Command::new("./no-such-program").status();
    eq!(missing.err().and_then(|e| e.raw_os_error()), Some(ENOENT));
    Ok(())
}

cases!("exec":
    arguments_and_environment_arrive_exactly, exit_status_of_the_new_program, large_arguments,
    too_large_arguments_are_e2big, pid_and_parent_stay, cloexec_descriptors_close_and_others_stay,
    a_failed_exec_closes_nothing, signal_state_across_exec, name_cwd_and_umask, auxiliary_vector,
    errors_of_paths_and_permissions, errors_of_contents, a_malformed_program_is_enoexec_or_the_end, a_file_open_for_writing_is_etxtbsy,
    scripts_run_their_interpreter, a_script_argument_is_one_word, scripts_of_scripts_up_to_a_depth,
    a_script_with_a_missing_interpreter_is_enoent, execveat_of_a_descriptor, execveat_relative_and_nofollow,
    a_script_by_descriptor_names_dev_fd, an_empty_argument_list_becomes_one_empty_string,
    dynamic_programs_run, exec_from_a_thread_ends_the_others, address_space_is_replaced,
    vfork_parent_waits_for_exec_or_exit,
);
