//! `/proc/sysvipc`: the System V objects, for `ipcs(1)`. As on Linux everybody sees all of them.

use crate::error::Result;
use crate::fs::pseudo::{Entries, Node, Out, put};
use crate::ipc::sysv::shm;
use crate::task::Cx;
use abi::ipc::IpcPerm;
use hal::PAGE_SIZE;

/// Adds the files.
pub(super) fn register(tree: &Entries) -> Result<()> {
    tree.register("sysvipc/msg", Node::text(messages))?;
    tree.register("sysvipc/sem", Node::text(semaphores))?;
    tree.register("sysvipc/shm", Node::text(segments))
}

fn key_and_mode(out: &mut Out, perm: &IpcPerm, id: i32) {
    put!(out, "{:10} {:10}  {:4o}", perm.key, id, perm.mode);
}

fn owners(out: &mut Out, perm: &IpcPerm) {
    put!(out, " {:5} {:5} {:5} {:5}", perm.uid, perm.gid, perm.cuid, perm.cgid);
}

fn messages(cx: &Cx, out: &mut Out) -> Result<()> {
    out.text("       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid");
    out.text("      stime      rtime      ctime\n");
    for (id, queue) in cx.kernel.sysv.msg.list() {
        let s = queue.status(id);
        key_and_mode(out, &s.perm, id);
        put!(out, "  {:10} {:10} {:5} {:5}", s.cbytes, s.qnum, s.lspid, s.lrpid);
        owners(out, &s.perm);
        put!(out, " {:10} {:10} {:10}\n", s.stime, s.rtime, s.ctime);
    }
    Ok(())
}

fn semaphores(cx: &Cx, out: &mut Out) -> Result<()> {
    out.text("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
    for (id, set) in cx.kernel.sysv.sem.list() {
        let s = set.status(id);
        key_and_mode(out, &s.perm, id);
        put!(out, " {:10}", s.nsems);
        owners(out, &s.perm);
        put!(out, " {:10} {:10}\n", s.otime, s.ctime);
    }
    Ok(())
}

fn segments(cx: &Cx, out: &mut Out) -> Result<()> {
    shm::sweep(cx);
    out.text("       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid");
    out.text("  cgid      atime      dtime      ctime                   rss                  swap\n");
    for (id, segment) in cx.kernel.sysv.shm.list() {
        let s = segment.status(id);
        key_and_mode(out, &s.perm, id);
        put!(out, " {:21} {:5} {:5}  {:5}", s.segsz, s.cpid, s.lpid, s.nattch);
        owners(out, &s.perm);
        put!(out, " {:10} {:10} {:10}", s.atime, s.dtime, s.ctime);
        put!(out, " {:21} {:21}\n", segment.resident_pages() * PAGE_SIZE, 0);
    }
    Ok(())
}
