//! epoll: level and edge triggering, one shot, nesting, life times.

use crate::kit::prelude::*;

fn create() -> Result<i32, E> {
    sc!(SYS_epoll_create1, EPOLL_CLOEXEC).map(|fd| fd as i32)
}

fn ctl(ep: i32, op: i32, fd: i32, events: i32) -> Result<i64, E> {
    sc!(SYS_epoll_ctl, ep, op, fd, &epoll_event { events: events as u32, u64: fd as u64 })
}

/// (descriptor, events) of what is ready, sorted; `ms` as epoll_wait takes it.
fn wait(ep: i32, ms: i32) -> Result<Vec<(i32, i32)>, E> {
    let mut buf = [epoll_event { events: 0, u64: 0 }; 16];
    let n = sc!(SYS_epoll_wait, ep, &mut buf, 16, ms)? as usize;
    let mut all: Vec<_> = buf[..n].iter().map(|e| (e.u64 as i32, e.events as i32)).collect();
    all.sort();
    Ok(all)
}

fn level_triggered_tells_until_drained() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN)?;
    eq!(wait(ep, 0)?, []);
    write(w, b"xy")?;
    eq!(wait(ep, -1)?, [(r, EPOLLIN)]);
    read_some(r, 1)?;
    eq!(wait(ep, 0)?, [(r, EPOLLIN)]);
    read_some(r, 1)?;
    eq!(wait(ep, 0)?, []);
    Ok(())
}

fn edge_triggered_tells_once_per_arrival() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLET)?;
    write(w, b"x")?;
    eq!(wait(ep, -1)?, [(r, EPOLLIN)]);
    eq!(wait(ep, 0)?, []);
    write(w, b"y")?;
    eq!(wait(ep, 0)?, [(r, EPOLLIN)]);
    eq!(wait(ep, 0)?, []);
    Ok(())
}

fn one_shot_wants_rearming() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLONESHOT)?;
    write(w, b"x")?;
    eq!(wait(ep, -1)?, [(r, EPOLLIN)]);
    eq!(wait(ep, 0)?, []);
    ctl(ep, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLONESHOT)?;
    eq!(wait(ep, 0)?, [(r, EPOLLIN)]);
    Ok(())
}

fn adding_what_is_ready_tells_at_once_even_on_edges() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    write(w, b"x")?;
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLET)?;
    eq!(wait(ep, 0)?, [(r, EPOLLIN)]);
    Ok(())
}

fn control_errors() -> R {
    let (ep, (r, _w)) = (create()?, pipe(0)?);
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN)?;
    errno_is!(ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN), EEXIST);
    errno_is!(ctl(ep, EPOLL_CTL_MOD, 0, EPOLLIN), ENOENT | EPERM);
    ctl(ep, EPOLL_CTL_DEL, r, 0)?;
    errno_is!(ctl(ep, EPOLL_CTL_DEL, r, 0), ENOENT);
    errno_is!(ctl(ep, EPOLL_CTL_ADD, ep, EPOLLIN), EINVAL);
    errno_is!(ctl(r, EPOLL_CTL_ADD, r, EPOLLIN), EINVAL);
    errno_is!(ctl(ep, EPOLL_CTL_ADD, 9999, EPOLLIN), EBADF);
    errno_is!(ctl(9999, EPOLL_CTL_ADD, r, EPOLLIN), EBADF);
    errno_is!(ctl(ep, 77, r, EPOLLIN), EINVAL);
    errno_is!(sc!(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, r, BAD), EFAULT);
    Ok(())
}

fn regular_files_cannot_be_watched() -> R {
    put(c"f", b"")?;
    let fd = open(c"f", O_RDONLY, 0)?;
    errno_is!(ctl(create()?, EPOLL_CTL_ADD, fd, EPOLLIN), EPERM);
    Ok(())
}

fn wait_errors_and_timeout() -> R {
    let ep = create()?;
    let mut e = [epoll_event { events: 0, u64: 0 }; 2];
    errno_is!(sc!(SYS_epoll_wait, ep, &mut e, 0, 0), EINVAL);
    errno_is!(sc!(SYS_epoll_wait, ep, &mut e, -1, 0), EINVAL);
    errno_is!(sc!(SYS_epoll_wait, 0, &mut e, 2, 0), EINVAL);
    let start = now(CLOCK_MONOTONIC)?;
    eq!(wait(ep, 20)?, []);
    that!(now(CLOCK_MONOTONIC)? - start >= 20 * MS);
    errno_is!(sc!(SYS_epoll_create1, 1), EINVAL);
    errno_is!(sc!(SYS_epoll_create, 0), EINVAL);
    Ok(())
}

fn hang_up_and_error_come_unasked() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    ctl(ep, EPOLL_CTL_ADD, r, 0)?;
    close(w)?;
    eq!(wait(ep, 0)?, [(r, EPOLLHUP)]);
    Ok(())
}

fn closing_the_last_descriptor_removes_it() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN)?;
    let copy = sc!(SYS_dup, r)? as i32;
    write(w, b"x")?;
    close(r)?;
    // The open file lives on in the copy, and is still told of by its old number.
    eq!(wait(ep, 0)?, [(r, EPOLLIN)]);
    close(copy)?;
    eq!(wait(ep, 0)?, []);
    Ok(())
}

fn one_file_under_two_descriptors() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    let copy = sc!(SYS_dup, r)? as i32;
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN)?;
    ctl(ep, EPOLL_CTL_ADD, copy, EPOLLIN)?;
    write(w, b"x")?;
    eq!(wait(ep, 0)?, [(r, EPOLLIN), (copy, EPOLLIN)]);
    Ok(())
}

fn modify_changes_what_is_asked() -> R {
    let (ep, (_r, w)) = (create()?, pipe(0)?);
    ctl(ep, EPOLL_CTL_ADD, w, 0)?;
    eq!(wait(ep, 0)?, []);
    ctl(ep, EPOLL_CTL_MOD, w, EPOLLOUT)?;
    eq!(wait(ep, 0)?, [(w, EPOLLOUT)]);
    ctl(ep, EPOLL_CTL_MOD, w, EPOLLIN)?;
    eq!(wait(ep, 0)?, []);
    Ok(())
}

fn max_events_rotate() -> R {
    let ep = create()?;
    let mut fds = Vec::new();
    for _ in 0..4 {
        let (r, w) = pipe(0)?;
        write(w, b"x")?;
        ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN)?;
        fds.push(r);
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut e = [epoll_event { events: 0, u64: 0 }; 1];
        eq!(sc!(SYS_epoll_wait, ep, &mut e, 1, 0)?, 1);
        seen.push(e[0].u64 as i32);
    }
    seen.sort();
    eq!(seen, fds);
    Ok(())
}

fn nested_epoll_is_readable_when_it_has_events() -> R {
    let (outer, inner, (r, w)) = (create()?, create()?, pipe(0)?);
    ctl(inner, EPOLL_CTL_ADD, r, EPOLLIN)?;
    ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN)?;
    eq!(wait(outer, 0)?, []);
    eq!(poll1(inner, POLLIN, 0)?, 0);
    write(w, b"x")?;
    eq!(wait(outer, -1)?, [(inner, EPOLLIN)]);
    eq!(poll1(inner, POLLIN, 0)?, POLLIN);
    eq!(wait(inner, 0)?, [(r, EPOLLIN)]);
    read_some(r, 1)?;
    eq!(wait(outer, 0)?, []);
    Ok(())
}

fn nesting_loops_are_refused() -> R {
    let (a, b) = (create()?, create()?);
    ctl(a, EPOLL_CTL_ADD, b, EPOLLIN)?;
    errno_is!(ctl(b, EPOLL_CTL_ADD, a, EPOLLIN), ELOOP);
    let mut chain = vec![create()?];
    let refused = loop {
        let next = create()?;
        match ctl(next, EPOLL_CTL_ADD, chain[chain.len() - 1], EPOLLIN) {
            Ok(_) => chain.push(next),
            Err(e) => break e,
        }
        that!(chain.len() < 20);
    };
    that!(refused == E(ELOOP) || refused == E(EINVAL), "{refused}");
    eq!(chain.len(), 5);
    Ok(())
}

fn wait_wakes_for_a_later_event() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN)?;
    let waiter = child(|| {
        eq!(wait(ep, -1)?, [(r, EPOLLIN)]);
        Ok(())
    })?;
    waiter.asleep()?;
    write(w, b"x")?;
    waiter.ok()
}

fn adding_while_another_waits_wakes_it() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    write(w, b"x")?;
    let waiter = child(|| {
        eq!(wait(ep, -1)?, [(r, EPOLLIN)]);
        Ok(())
    })?;
    waiter.asleep()?;
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN)?;
    waiter.ok()
}

fn an_edge_wakes_one_waiter() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    let (done, go) = (Gate::new()?, Gate::new()?);
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLET)?;
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            child(|| {
                eq!(wait(ep, -1)?, [(r, EPOLLIN)]);
                done.open()?;
                go.pass()
            })
        })
        .collect::<Result<_, _>>()?;
    for c in &waiters {
        c.asleep()?;
    }
    write(w, b"x")?;
    done.pass()?;
    // The other still waits: a second arrival is what wakes it.
    write(w, b"y")?;
    done.pass()?;
    go.open()?;
    go.open()?;
    for c in waiters {
        c.ok()?;
    }
    Ok(())
}

fn pwait_takes_a_mask() -> R {
    let ep = create()?;
    sig::record(SIGUSR1, 0)?;
    sig::block(&[SIGUSR1])?;
    kill(getpid(), SIGUSR1)?;
    let empty: sig::Set = 0;
    let mut e = [epoll_event { events: 0, u64: 0 }; 1];
    errno_is!(sc!(SYS_epoll_pwait, ep, &mut e, 1, -1, &empty, 8), EINTR);
    eq!(sig::numbers(), [SIGUSR1]);
    eq!(sc!(SYS_epoll_pwait2, ep, &mut e, 1, &ts(MS), 0, 8)?, 0);
    Ok(())
}

fn exclusive_flag_rules() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN | EPOLLEXCLUSIVE)?;
    errno_is!(ctl(ep, EPOLL_CTL_MOD, r, EPOLLIN), EINVAL);
    write(w, b"x")?;
    eq!(wait(ep, 0)?, [(r, EPOLLIN)]);
    let (r2, _w2) = pipe(0)?;
    errno_is!(ctl(ep, EPOLL_CTL_ADD, r2, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT), EINVAL);
    Ok(())
}

fn rdhup_of_a_socket_pair() -> R {
    let mut sv = [0i32; 2];
    sc!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, &mut sv)?;
    let ep = create()?;
    ctl(ep, EPOLL_CTL_ADD, sv[0], EPOLLIN | EPOLLRDHUP)?;
    sc!(SYS_shutdown, sv[1], SHUT_WR)?;
    eq!(wait(ep, 0)?, [(sv[0], EPOLLIN | EPOLLRDHUP)]);
    close(sv[1])?;
    eq!(wait(ep, 0)?, [(sv[0], EPOLLIN | EPOLLRDHUP | EPOLLHUP)]);
    Ok(())
}

fn eventfd_edges_on_every_write() -> R {
    let ep = create()?;
    let fd = sc!(SYS_eventfd2, 0, EFD_NONBLOCK)? as i32;
    ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET)?;
    for _ in 0..3 {
        write(fd, &1u64.to_ne_bytes())?;
        eq!(wait(ep, 0)?, [(fd, EPOLLIN)]);
    }
    eq!(wait(ep, 0)?, []);
    Ok(())
}

fn a_set_survives_fork_shared() -> R {
    let (ep, (r, w)) = (create()?, pipe(0)?);
    child(|| {
        ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN)?;
        Ok(())
    })?
    .ok()?;
    write(w, b"x")?;
    eq!(wait(ep, 0)?, [(r, EPOLLIN)]);
    Ok(())
}

cases!("epoll":
    level_triggered_tells_until_drained, edge_triggered_tells_once_per_arrival, one_shot_wants_rearming,
    adding_what_is_ready_tells_at_once_even_on_edges, control_errors, regular_files_cannot_be_watched,
    wait_errors_and_timeout, hang_up_and_error_come_unasked, closing_the_last_descriptor_removes_it,
    one_file_under_two_descriptors, modify_changes_what_is_asked, max_events_rotate,
    nested_epoll_is_readable_when_it_has_events, nesting_loops_are_refused, wait_wakes_for_a_later_event,
    adding_while_another_waits_wakes_it, an_edge_wakes_one_waiter, pwait_takes_a_mask, exclusive_flag_rules,
    rdhup_of_a_socket_pair, eventfd_edges_on_every_write, a_set_survives_fork_shared,
);
