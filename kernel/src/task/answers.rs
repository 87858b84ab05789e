//! System calls whose results a task knows in advance: who it is.

use super::Cx;
use abi::raw;

/// Tells the machine what it may answer for this task, if it is time. Whoever changes one of these sets [`Cx::answers_stale`].
pub(super) fn update(cx: &Cx) {
    if !cx.kernel.patches() || !cx.answers_stale.replace(false) {
        return;
    }
    let creds = cx.task.creds();
    let answers = [
        (raw::__NR_getpid, cx.process().pid as u32),
        (raw::__NR_gettid, cx.task.tid() as u32),
        (raw::__NR_getuid, creds.uid),
        (raw::__NR_geteuid, creds.euid),
        (raw::__NR_getgid, creds.gid),
        (raw::__NR_getegid, creds.egid),
    ];
    cx.user.borrow_mut().set_answers(&answers.map(|(nr, value)| (nr as u8, u64::from(value))));
}
