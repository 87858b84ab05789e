//! Scheduling calls: policies, priorities, affinity, yielding, usage.

use crate::kit::prelude::*;

fn affinity() -> R<Vec<usize>> {
    let mut mask = [0u64; 128];
    let n = sc!(SYS_sched_getaffinity, 0, 1024, &mut mask)? as usize;
    eq!(n % 8, 0);
    Ok((0..n * 8).filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 == 1).collect())
}

fn yield_returns() -> R {
    for _ in 0..100 {
        eq!(sc!(SYS_sched_yield)?, 0);
    }
    Ok(())
}

fn default_policy_is_other() -> R {
    eq!(sc!(SYS_sched_getscheduler, 0)?, SCHED_OTHER as i64);
    let mut p = -1i32;
    sc!(SYS_sched_getparam, 0, &mut p)?;
    eq!(p, 0);
    errno_is!(sc!(SYS_sched_getscheduler, 999_999), ESRCH);
    errno_is!(sc!(SYS_sched_getscheduler, -1), EINVAL);
    errno_is!(sc!(SYS_sched_getparam, 0, 0), EINVAL);
    Ok(())
}

fn ranges_of_priorities() -> R {
    for (policy, min, max) in
        [(SCHED_OTHER, 0, 0), (SCHED_FIFO, 1, 99), (SCHED_RR, 1, 99), (SCHED_BATCH, 0, 0), (SCHED_IDLE, 0, 0)]
    {
        eq!(sc!(SYS_sched_get_priority_min, policy)?, min);
        eq!(sc!(SYS_sched_get_priority_max, policy)?, max);
    }
    errno_is!(sc!(SYS_sched_get_priority_max, 99), EINVAL);
    Ok(())
}

fn batch_and_idle_need_no_privilege() -> R {
    let zero = 0i32;
    for policy in [SCHED_BATCH, SCHED_OTHER, SCHED_IDLE] {
        sc!(SYS_sched_setscheduler, 0, policy, &zero)?;
        eq!(sc!(SYS_sched_getscheduler, 0)?, policy as i64);
    }
    errno_is!(sc!(SYS_sched_setscheduler, 0, SCHED_OTHER, &5i32), EINVAL);
    errno_is!(sc!(SYS_sched_setscheduler, 0, 77, &zero), EINVAL);
    errno_is!(sc!(SYS_sched_setscheduler, 0, SCHED_FIFO, &0i32), EINVAL);
    Ok(())
}

fn real_time_needs_privilege() -> R {
    if root() {
        sc!(SYS_setresuid, 4321, 4321, 4321)?;
    }
    sc!(SYS_prlimit64, 0, RLIMIT_RTPRIO, &rlimit { rlim_cur: 0, rlim_max: 0 }, 0)?;
    errno_is!(sc!(SYS_sched_setscheduler, 0, SCHED_FIFO, &10i32), EPERM);
    Ok(())
}

fn attributes_call() -> R {
    let mut attr = [0u64; 8];
    sc!(SYS_sched_getattr, 0, &mut attr, 56, 0)?;
    eq!(attr[0] & 0xffff_ffff, 56);
    eq!(attr[0] >> 32, SCHED_OTHER as u64);
    errno_is!(sc!(SYS_sched_getattr, 0, &mut attr, 10, 0), EINVAL);
    let set = [48u64 | (SCHED_BATCH as u64) << 32, 0, 5, 0, 0, 0];
    sc!(SYS_sched_setattr, 0, &set, 0)?;
    eq!(sc!(SYS_sched_getscheduler, 0)?, SCHED_BATCH as i64);
    eq!(sc!(SYS_getpriority, PRIO_PROCESS, 0)?, 15);
    Ok(())
}

fn round_robin_interval() -> R {
    let mut t = zeroed::<timespec>();
    sc!(SYS_sched_rr_get_interval, 0, &mut t)?;
    that!(t.tv_sec == 0 && t.tv_nsec >= 0);
    Ok(())
}

fn nice_values() -> R {
    // The raw call gives 20 - nice.
    eq!(sc!(SYS_getpriority, PRIO_PROCESS, 0)?, 20);
    sc!(SYS_setpriority, PRIO_PROCESS, 0, 5)?;
    eq!(sc!(SYS_getpriority, PRIO_PROCESS, 0)?, 15);
    sc!(SYS_setpriority, PRIO_PROCESS, 0, 100)?;
    eq!(sc!(SYS_getpriority, PRIO_PROCESS, 0)?, 1);
    child(|| {
        eq!(sc!(SYS_getpriority, PRIO_PROCESS, 0)?, 1);
        if root() {
            sc!(SYS_setresuid, 4321, 4321, 4321)?;
        }
        sc!(SYS_prlimit64, 0, RLIMIT_NICE, &rlimit { rlim_cur: 0, rlim_max: 0 }, 0)?;
        errno_is!(sc!(SYS_setpriority, PRIO_PROCESS, 0, 0), EACCES);
        Ok(())
    })?
    .ok()?;
    errno_is!(sc!(SYS_getpriority, 9, 0), EINVAL);
    errno_is!(sc!(SYS_getpriority, PRIO_PROCESS, 999_999), ESRCH);
    that!(
        text(c"/proc/self/stat")?.rsplit_once(") ").is_some_and(|(_, r)| r.split(' ').nth(16) == Some("19"))
    );
    Ok(())
}

fn affinity_is_read_and_narrowed() -> R {
    let cpus = affinity()?;
    that!(!cpus.is_empty());
    let cpu = cpus[cpus.len() - 1];
    let mut mask = [0u64; 16];
    mask[cpu / 64] = 1 << (cpu % 64);
    sc!(SYS_sched_setaffinity, 0, 128, &mask)?;
    eq!(affinity()?, [cpu]);
    let (mut on, mut node) = (0u32, 0u32);
    sc!(SYS_getcpu, &mut on, &mut node, 0)?;
    eq!(on as usize, cpu);
    child(|| {
        eq!(affinity()?, [cpu]);
        Ok(())
    })?
    .ok()?;
    that!(text(c"/proc/self/status")?.contains(&format!("Cpus_allowed_list:\t{cpu}\n")));
    Ok(())
}

fn affinity_errors() -> R {
    errno_is!(sc!(SYS_sched_setaffinity, 0, 128, &[0u64; 16]), EINVAL);
    let mut none = [0u64; 128];
    none[127] = 1 << 63;
    errno_is!(sc!(SYS_sched_setaffinity, 0, 1024, &none), EINVAL);
    errno_is!(sc!(SYS_sched_getaffinity, 0, 0, &mut none), EINVAL);
    errno_is!(sc!(SYS_sched_getaffinity, 0, 9, &mut none), EINVAL);
    errno_is!(sc!(SYS_sched_getaffinity, 999_999, 1024, &mut none), ESRCH);
    errno_is!(sc!(SYS_sched_getaffinity, 0, 1024, BAD), EFAULT);
    Ok(())
}

fn usage_grows_with_work() -> R {
    let usage = |who: i32| -> R<rusage> {
        let mut u = zeroed::<rusage>();
        sc!(SYS_getrusage, who, &mut u)?;
        Ok(u)
    };
    let usec = |t: timeval| t.tv_sec * 1_000_000 + t.tv_usec;
    let (self_before, thread_before) = (usage(RUSAGE_SELF)?, usage(RUSAGE_THREAD)?);
    let start = now(CLOCK_THREAD_CPUTIME_ID)?;
    while now(CLOCK_THREAD_CPUTIME_ID)? - start < 40 * MS {}
    let total = |u: &rusage| usec(u.ru_utime) + usec(u.ru_stime);
    that!(total(&usage(RUSAGE_SELF)?) - total(&self_before) >= 20_000);
    that!(total(&usage(RUSAGE_THREAD)?) - total(&thread_before) >= 20_000);
    that!(usage(RUSAGE_SELF)?.ru_maxrss > 0);
    errno_is!(sc!(SYS_getrusage, 7, &mut zeroed::<rusage>()), EINVAL);
    errno_is!(sc!(SYS_getrusage, RUSAGE_SELF, BAD), EFAULT);
    Ok(())
}

fn page_faults_are_counted() -> R {
    let faults = || -> R<i64> {
        let mut u = zeroed::<rusage>();
        sc!(SYS_getrusage, RUSAGE_SELF, &mut u)?;
        Ok(u.ru_minflt)
    };
    let before = faults()?;
    let p = rw(64 << 20)?;
    for i in (0..64 << 20).step_by(1 << 21) {
        poke(at(p, i), 1);
    }
    that!(faults()? > before);
    Ok(())
}

fn two_busy_processes_on_one_cpu_both_advance() -> R {
    let cpu = affinity()?[0];
    let mut mask = [0u64; 16];
    mask[cpu / 64] = 1 << (cpu % 64);
    sc!(SYS_sched_setaffinity, 0, 128, &mask)?;
    let counters = shared(4096)?;
    let spin = |i: usize| {
        child(move || {
            let mine = cell(at(counters, i * 64));
            loop {
                mine.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        })
    };
    let (a, b) = (spin(0)?, spin(1)?);
    // The parent shares the CPU too; it looks from time to time.
    let value = |i: usize| cell(at(counters, i * 64)).load(std::sync::atomic::Ordering::Relaxed);
    let target = 1000;
    while value(0) < target || value(1) < target {
        sc!(SYS_nanosleep, &ts(MS), 0)?;
    }
    a.kill(SIGKILL)?;
    b.kill(SIGKILL)?;
    a.wait()?;
    b.wait()?;
    Ok(())
}

cases!("sched":
    yield_returns, default_policy_is_other, ranges_of_priorities, batch_and_idle_need_no_privilege,
    real_time_needs_privilege, attributes_call, round_robin_interval, nice_values,
    affinity_is_read_and_narrowed, affinity_errors, usage_grows_with_work, page_faults_are_counted,
    two_busy_processes_on_one_cpu_both_advance,
);
