//! What this program does when a case executes it: `abi-tests --helper NAME [ARGS…]`.

use crate::kit::proc::exit;
use crate::kit::{sig, sys};
use std::process::ExitCode;

/// Runs the named helper.
pub fn run(args: &[String]) -> ExitCode {
    let (name, rest) = args.split_first().map_or(("", args), |(n, r)| (n.as_str(), r));
    let number = |i: usize| rest.get(i).and_then(|n| n.parse::<i32>().ok()).unwrap_or(-1);
    match name {
        // Ends with the status that it is told.
        "exit" => exit(number(0)),
        // Every argument on a line.
        "args" => rest.iter().for_each(|a| println!("{a}")),
        // The whole environment, a line each.
        "env" => std::env::vars().for_each(|(k, v)| println!("{k}={v}")),
        // Every argument that the kernel gave, from /proc.
        "cmdline" => {
            let line = sys::get(c"/proc/self/cmdline").unwrap_or_default();
            line.split(|b| *b == 0).for_each(|a| println!("{}", String::from_utf8_lossy(a)));
        }
        // 0 if the descriptor is open, 1 if not.
        "fd" => exit(i32::from(sys::fcntl(number(0), libc::F_GETFD, 0).is_err())),
        // Mask, pending set, and whether a signal is ignored.
        "signals" => {
            let mut old = sys::zeroed::<libc::sigaction>();
            // SAFETY: a live structure.
            unsafe { libc::sigaction(number(0), std::ptr::null(), &mut old) };
            println!(
                "{:x} {:x} {}",
                sig::current().unwrap_or(!0),
                sig::pending().unwrap_or(!0),
                old.sa_sigaction
            );
        }
        "ids" => println!(
            "{} {} {} {}",
            sys::getpid(),
            sc!(SYS_getppid).unwrap_or(-1),
            sc!(SYS_getpgid, 0).unwrap_or(-1),
            sc!(SYS_getsid, 0).unwrap_or(-1)
        ),
        "uids" => println!(
            "{} {} {} {}",
            sc!(SYS_getuid).unwrap_or(-1),
            sc!(SYS_geteuid).unwrap_or(-1),
            sc!(SYS_getgid).unwrap_or(-1),
            sc!(SYS_getegid).unwrap_or(-1)
        ),
        "comm" => print!("{}", sys::text(c"/proc/self/comm").unwrap_or_default()),
        "cwd" => println!("{}", std::env::current_dir().unwrap_or_default().display()),
        "nnp" => println!("{}", sc!(SYS_prctl, libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0).unwrap_or(-1)),
        "umask" => println!("{:o}", sc!(SYS_umask, 0).unwrap_or(-1)),
        "auxv" => {
            // SAFETY: AT_EXECFN and AT_RANDOM are pointers that the kernel gave, or null.
            let (name, random) = unsafe {
                let name = libc::getauxval(libc::AT_EXECFN) as *const i8;
                let random = libc::getauxval(libc::AT_RANDOM) as *const [u8; 16];
                (std::ffi::CStr::from_ptr(name), *random)
            };
            // SAFETY: plain look-ups.
            let (page, secure) =
                unsafe { (libc::getauxval(libc::AT_PAGESZ), libc::getauxval(libc::AT_SECURE)) };
            println!("{} {page} {secure} {}", name.to_string_lossy(), random.iter().any(|b| *b != 0));
        }
        // What the CPU says of itself must not depend on where it is asked.
        "cpuid" => {
            if let Err(why) = crate::cases::busy::ask_the_cpu_everywhere() {
                eprintln!("abi-tests: {why:?}");
                exit(1);
            }
        }
        // Says that it runs, then blocks until killed.
        "block" => {
            println!("ready");
            loop {
                let _ = sc!(SYS_pause);
            }
        }
        _ => {
            eprintln!("abi-tests: no helper {name:?}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
