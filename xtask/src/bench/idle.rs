//! The memory of a sandbox that does nothing.

use super::child::Running;
use super::interrupt::Interrupt;
use super::launcher::Launcher;
use super::processes;
use anyhow::{Result, bail};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Looks this often at how much CPU time was used.
const STEP: Duration = Duration::from_millis(200);

/// Proportional memory, in bytes, of all processes of a launcher while the program inside sleeps.
pub fn pss(launcher: &Launcher, limit: Duration, interrupt: &Interrupt) -> Result<f64> {
    let mut running = Running::start(&launcher.command(&["/bin/sleep", "300"]), Stdio::null())?;
    settle(&mut running, limit, interrupt)?;
    let bytes = processes::pss_bytes(&processes::descendants(processes::own()));
    // It must still be there, or it was not the sleeper that was measured.
    if let Some(status) = running.child().try_wait()? {
        bail!("it ended with {status}{}", running.tail());
    }
    if bytes == 0 { bail!("no memory is accounted for") } else { Ok(bytes as f64) }
}

/// Waits until its processes take no CPU time over two steps.
pub fn settle(running: &mut Running, limit: Duration, interrupt: &Interrupt) -> Result<()> {
    let deadline = Instant::now() + limit;
    let (mut last, mut quiet) = (None, 0);
    while quiet < 2 {
        std::thread::sleep(STEP);
        if interrupt.is_set() {
            bail!("interrupted");
        }
        if Instant::now() > deadline {
            bail!("it is not idle after {} s{}", limit.as_secs(), running.tail());
        }
        let ticks = processes::cpu_ticks(processes::own());
        quiet = if last == Some(ticks) { quiet + 1 } else { 0 };
        last = Some(ticks);
    }
    Ok(())
}
