//! `ioctl(2)`: what works on every file, then what the file itself knows.

use super::io::plain;
use crate::error::{Result, err};
use crate::fs::{Fd, OpenFlags};
use crate::task::Cx;
use crate::user::UserPtr;
use abi::Errno;
use abi::fs::FileType;

const FIGETBSZ: u32 = 0x2;
const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIOASYNC: u32 = 0x5452;
const FIOQSIZE: u32 = 0x5460;
const FICLONE: u32 = 0x4004_9409;
const FICLONERANGE: u32 = 0x4020_940d;

pub(super) fn ioctl(cx: &Cx, fd: Fd, cmd: u32, arg: u64) -> Result<u64> {
    let of = plain(cx, fd)?;
    let set = |flag: OpenFlags, on: bool| {
        let mut flags = of.flags();
        flags.set(flag, on);
        of.set_status(flags);
    };
    match cmd {
        FIOCLEX | FIONCLEX => {
            cx.files().set_cloexec(fd, cmd == FIOCLEX)?;
            return Ok(0);
        }
        FIONBIO => {
            set(OpenFlags::NONBLOCK, UserPtr::<i32>::new(arg).read(cx)? != 0);
            return Ok(0);
        }
        FIOASYNC => {
            let on = UserPtr::<i32>::new(arg).read(cx)? != 0;
            let answer = of.file.ioctl(cx, &of, cmd, arg);
            if on && of.inode.is_some() && answer.as_ref().is_err_and(|e| e.errno() == Errno::ENOTTY) {
                return err(Errno::ENOTTY);
            }
            crate::fs::set_async(cx, &of, fd.0, on)?;
            return Ok(0);
        }
        _ => {}
    }
    let Some(inode) = &of.inode else { return of.file.ioctl(cx, &of, cmd, arg) };
    let attr = inode.attr()?;
    let regular = attr.file_type() == FileType::Regular;
    match cmd {
        FIONREAD if regular => {
            let left = attr.size.saturating_sub(of.pos()).min(i32::MAX as u64) as i32;
            UserPtr::<i32>::new(arg).write(cx, &left)?;
            Ok(0)
        }
        FIOQSIZE if regular || attr.file_type() == FileType::Directory => {
            UserPtr::<u64>::new(arg).write(cx, &attr.size)?;
            Ok(0)
        }
        FIGETBSZ if regular || attr.file_type() == FileType::Directory => {
            UserPtr::<u32>::new(arg).write(cx, &attr.blksize)?;
            Ok(0)
        }
        FICLONE | FICLONERANGE => err(Errno::EOPNOTSUPP),
        _ => of.file.ioctl(cx, &of, cmd, arg),
    }
}
