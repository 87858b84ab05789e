//! Runs N short processes one after the other (2000, or the number given), each of which exits with a
//! status of its own, and checks every status. Prints `N processes` and exits 0.
//!
//! With `--exec` each child executes this program again instead of exiting at once.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, code] = args.as_slice()
        && flag == "--exit"
    {
        return ExitCode::from(code.parse::<u8>().unwrap_or(255));
    }
    let exec = args.iter().any(|a| a == "--exec");
    let wanted = args.iter().find_map(|n| n.parse().ok()).unwrap_or(2000u32);
    for n in 0..wanted {
        let code = (n % 200) as i32;
        let got = if exec { execute(code) } else { fork(code) };
        if got != Some(code) {
            eprintln!("shortprocs: process {n} gave {got:?}, wanted {code}");
            return ExitCode::FAILURE;
        }
    }
    println!("{wanted} processes");
    ExitCode::SUCCESS
}

fn execute(code: i32) -> Option<i32> {
    let me = std::env::current_exe().ok()?;
    Command::new(me).args(["--exit", &code.to_string()]).status().ok()?.code()
}

fn fork(code: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: this process has one thread; the child only exits.
    unsafe {
        match libc::fork() {
            -1 => None,
            0 => libc::_exit(code),
            pid => {
                let reaped = libc::waitpid(pid, &mut status, 0) == pid && libc::WIFEXITED(status);
                reaped.then(|| libc::WEXITSTATUS(status))
            }
        }
    }
}
