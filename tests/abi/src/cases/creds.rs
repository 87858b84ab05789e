//! User and group ids, supplementary groups, capabilities.

use crate::kit::prelude::*;

fn uids() -> Result<(u32, u32, u32), E> {
    let (mut r, mut e, mut s) = (0u32, 0u32, 0u32);
    sc!(SYS_getresuid, &mut r, &mut e, &mut s).map(|_| (r, e, s))
}

fn gids() -> Result<(u32, u32, u32), E> {
    let (mut r, mut e, mut s) = (0u32, 0u32, 0u32);
    sc!(SYS_getresgid, &mut r, &mut e, &mut s).map(|_| (r, e, s))
}

/// (effective, permitted, inheritable)
fn caps() -> Result<(u64, u64, u64), E> {
    let head = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    sc!(SYS_capget, &head, &mut data)?;
    let join = |i: usize| data[i] as u64 | (data[i + 3] as u64) << 32;
    Ok((join(0), join(1), join(2)))
}

fn set_caps(effective: u64, permitted: u64, inheritable: u64) -> Result<i64, E> {
    let low = |v: u64| v as u32;
    let high = |v: u64| (v >> 32) as u32;
    let data = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    sc!(SYS_capset, &[0x2008_0522u32, 0], &data)
}

const SETUID: u64 = 1 << 7;

fn the_four_views_agree() -> R {
    let (r, e, _) = uids()?;
    eq!((sc!(SYS_getuid)?, sc!(SYS_geteuid)?), (r as i64, e as i64));
    let (r, e, _) = gids()?;
    eq!((sc!(SYS_getgid)?, sc!(SYS_getegid)?), (r as i64, e as i64));
    let status = text(c"/proc/self/status")?;
    let (u, g) = (uids()?, gids()?);
    that!(status.contains(&format!("\nUid:\t{}\t{}\t{}\t{}\n", u.0, u.1, u.2, u.1)), "{status}");
    that!(status.contains(&format!("\nGid:\t{}\t{}\t{}\t{}\n", g.0, g.1, g.2, g.1)), "{status}");
    Ok(())
}

fn ordinary_users_keep_to_their_ids() -> R {
    if root() {
        sc!(SYS_setgroups, 0, 0)?;
        sc!(SYS_setresgid, 500, 500, 500)?;
        sc!(SYS_setresuid, 500, 500, 500)?;
    }
    let (u, g) = (uids()?.0, gids()?.0);
    errno_is!(sc!(SYS_setuid, u + 1), EPERM);
    errno_is!(sc!(SYS_setgid, g + 1), EPERM);
    errno_is!(sc!(SYS_setresuid, -1, u + 1, -1), EPERM);
    errno_is!(sc!(SYS_setreuid, u + 1, -1), EPERM);
    errno_is!(sc!(SYS_setregid, g + 1, -1), EPERM);
    errno_is!(sc!(SYS_setgroups, 1, &7u32), EPERM);
    sc!(SYS_setuid, u)?;
    sc!(SYS_setresuid, -1, -1, -1)?;
    eq!(uids()?, (u, u, u));
    errno_is!(sc!(SYS_setuid, -1), EINVAL);
    Ok(())
}

fn root_sets_all_three_and_cannot_return() -> R {
    if !root() {
        skip!("needs root");
    }
    sc!(SYS_setgid, 600)?;
    eq!(gids()?, (600, 600, 600));
    sc!(SYS_setuid, 600)?;
    eq!(uids()?, (600, 600, 600));
    errno_is!(sc!(SYS_setuid, 0), EPERM);
    errno_is!(sc!(SYS_setresuid, 0, 0, 0), EPERM);
    Ok(())
}

fn saved_ids_allow_the_way_back() -> R {
    if !root() {
        skip!("needs root");
    }
    sc!(SYS_setresuid, -1, 700, 0)?;
    eq!(uids()?, (0, 700, 0));
    sc!(SYS_setresuid, 700, 700, -1)?;
    eq!(uids()?, (700, 700, 0));
    sc!(SYS_setuid, 0)?;
    eq!(uids()?, (700, 0, 0));
    sc!(SYS_setreuid, 800, 801)?;
    eq!(uids()?, (800, 801, 801));
    Ok(())
}

fn fsuid_follows_and_is_set_alone() -> R {
    if !root() {
        // Returns the old one whether or not it changed.
        let u = uids()?.0 as i64;
        eq!(sc!(SYS_setfsuid, 0)?, u);
        eq!(sc!(SYS_setfsuid, -1)?, u);
        return Ok(());
    }
    sc!(SYS_chmod, c".", 0o777)?;
    eq!(sc!(SYS_setfsuid, 900)?, 0);
    eq!(sc!(SYS_setfsuid, -1)?, 900);
    put(c"f", b"")?;
    eq!(stat(c"f")?.st_uid, 900);
    eq!(uids()?, (0, 0, 0));
    sc!(SYS_setresuid, -1, 0, -1)?;
    eq!(sc!(SYS_setfsuid, -1)?, 0);
    Ok(())
}

fn supplementary_groups() -> R {
    if root() {
        sc!(SYS_setgroups, 3, &[30u32, 10, 20])?;
        let mut got = [0u32; 8];
        eq!(sc!(SYS_getgroups, 8, &mut got)?, 3);
        // Kept sorted since Linux 4.6 or so.
        eq!(&got[..3], [10, 20, 30]);
        eq!(sc!(SYS_getgroups, 0, 0)?, 3);
        errno_is!(sc!(SYS_getgroups, 2, &mut got), EINVAL);
        errno_is!(sc!(SYS_setgroups, 65_537, &mut got), EINVAL);
    }
    errno_is!(sc!(SYS_getgroups, -1, 0), EINVAL);
    Ok(())
}

fn group_membership_decides_access() -> R {
    if !root() {
        skip!("needs root");
    }
    put(c"f", b"x")?;
    sc!(SYS_chown, c"f", 0, 1234)?;
    sc!(SYS_chmod, c"f", 0o640)?;
    for (group, can) in [(1234u32, true), (1235, false)] {
        child(|| {
            sc!(SYS_setgroups, 1, &group)?;
            sc!(SYS_setresgid, 99, 99, 99)?;
            sc!(SYS_setresuid, 99, 99, 99)?;
            eq!(open(c"f", O_RDONLY, 0).is_ok(), can);
            Ok(())
        })?
        .ok()?;
    }
    Ok(())
}

fn capabilities_of_root_and_others() -> R {
    let (e, p, _) = caps()?;
    if root() {
        that!(e & SETUID != 0 && p & SETUID != 0);
    } else {
        eq!((e, p), (0, 0));
        errno_is!(set_caps(1, 1, 0), EPERM);
    }
    let status = text(c"/proc/self/status")?;
    that!(status.contains(&format!("\nCapEff:\t{e:016x}\n")), "{status}");
    Ok(())
}

fn capget_versions() -> R {
    let mut head = [0u32, 0];
    errno_is!(sc!(SYS_capget, &mut head, &mut [0u32; 6]), EINVAL);
    eq!(head[0], 0x2008_0522);
    // Asking for the version only is not an error.
    let mut head = [0u32, 0];
    eq!(sc!(SYS_capget, &mut head, 0)?, 0);
    errno_is!(sc!(SYS_capget, &[0x2008_0522u32, 999_999], &mut [0u32; 6]), ESRCH);
    errno_is!(sc!(SYS_capget, BAD, 0), EFAULT);
    Ok(())
}

fn dropped_capabilities_do_not_come_back() -> R {
    if !root() {
        skip!("needs root");
    }
    let (_, p, _) = caps()?;
    set_caps(p & !SETUID, p, 0)?;
    errno_is!(sc!(SYS_setresuid, 5, 5, 5), EPERM);
    set_caps(p, p, 0)?;
    set_caps(p & !SETUID, p & !SETUID, 0)?;
    errno_is!(set_caps(p, p, 0), EPERM);
    Ok(())
}

fn leaving_root_clears_capabilities_unless_kept() -> R {
    if !root() {
        skip!("needs root");
    }
    child(|| {
        sc!(SYS_setresuid, 5, 5, 5)?;
        eq!((caps()?.0, caps()?.1), (0, 0));
        Ok(())
    })?
    .ok()?;
    child(|| {
        let (_, p, _) = caps()?;
        sc!(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0)?;
        sc!(SYS_setresuid, 5, 5, 5)?;
        eq!((caps()?.0, caps()?.1), (0, p));
        Ok(())
    })?
    .ok()?;
    // A change of the effective id alone clears and restores the effective set.
    let (e, ..) = caps()?;
    sc!(SYS_setresuid, -1, 5, -1)?;
    eq!(caps()?.0, 0);
    sc!(SYS_setresuid, -1, 0, -1)?;
    eq!(caps()?.0, e);
    Ok(())
}

fn bounding_and_ambient_sets() -> R {
    eq!(sc!(SYS_prctl, PR_CAPBSET_READ, 7, 0, 0, 0)?, 1);
    errno_is!(sc!(SYS_prctl, PR_CAPBSET_READ, 63, 0, 0, 0), EINVAL);
    eq!(sc!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 7, 0, 0)?, 0);
    if root() {
        sc!(SYS_prctl, PR_CAPBSET_DROP, 7, 0, 0, 0)?;
        eq!(sc!(SYS_prctl, PR_CAPBSET_READ, 7, 0, 0, 0)?, 0);
    } else {
        errno_is!(sc!(SYS_prctl, PR_CAPBSET_DROP, 7, 0, 0, 0), EPERM);
    }
    Ok(())
}

fn signals_to_other_users_are_refused() -> R {
    if !root() {
        errno_is!(kill(1, 0), EPERM);
        return Ok(());
    }
    let target = getpid();
    child(|| {
        sc!(SYS_setresuid, 77, 77, 77)?;
        errno_is!(kill(target, 0), EPERM);
        errno_is!(kill(target, SIGCONT + 1), EPERM);
        Ok(())
    })?
    .ok()
}

fn set_id_programs_change_the_effective_user() -> R {
    if !root() {
        skip!("needs root");
    }
    std::fs::copy(exe().to_str().unwrap_or(""), "prog")?;
    sc!(SYS_chown, c"prog", 4444, 4445)?;
    sc!(SYS_chmod, c"prog", 0o6755)?;
    sc!(SYS_chmod, c".", 0o755)?;
    let ids = |nnp: bool| {
        captured(|| {
            if nnp {
                sc!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
            }
            sc!(SYS_setresgid, 99, 99, 99)?;
            sc!(SYS_setresuid, 99, 99, 99)?;
            Err(execve(c"prog", &["x", "--helper", "uids"], &[]).into())
        })
    };
    eq!(String::from_utf8_lossy(&ids(false)?.0), "99 4444 99 4445\n");
    eq!(String::from_utf8_lossy(&ids(true)?.0), "99 99 99 99\n");
    Ok(())
}

cases!("credentials":
    the_four_views_agree, ordinary_users_keep_to_their_ids, root_sets_all_three_and_cannot_return,
    saved_ids_allow_the_way_back, fsuid_follows_and_is_set_alone, supplementary_groups,
    group_membership_decides_access, capabilities_of_root_and_others, capget_versions,
    dropped_capabilities_do_not_come_back, leaving_root_clears_capabilities_unless_kept,
    bounding_and_ambient_sets, signals_to_other_users_are_refused,
    set_id_programs_change_the_effective_user,
);
