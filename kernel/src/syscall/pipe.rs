//! `pipe(2)`, `pipe2(2)`.

use crate::error::{Result, err};
use crate::fs::OpenFlags;
use crate::ipc::pipe_install;
use crate::task::Cx;
use crate::user::UserPtr;
use abi::Errno;

/// `pipe(2)`.
pub(super) fn pipe(cx: &Cx, fds: UserPtr<[i32; 2]>) -> Result<()> {
    pipe2(cx, fds, 0)
}

/// `pipe2(2)`: `O_CLOEXEC`, `O_NONBLOCK`, `O_DIRECT`.
pub(super) fn pipe2(cx: &Cx, fds: UserPtr<[i32; 2]>, flags: u32) -> Result<()> {
    let flags = OpenFlags::from_bits_retain(flags);
    let known = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT;
    if !(flags - known).is_empty() {
        return err(Errno::EINVAL);
    }
    let [read, write] = pipe_install(cx, flags)?;
    let result = fds.write(cx, &[read.0, write.0]);
    if result.is_err() {
        let files = cx.files();
        drop((files.remove(read), files.remove(write)));
    }
    result
}
