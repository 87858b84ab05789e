//! Files on a memory-backed file system and on the host's.

use crate::Context;
use crate::clock::each;
use crate::sys::{check, exactly};
use crate::workdir::WorkDir;
use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file that every Linux has.
const HOST: &str = "/etc/passwd";
const PAGE: usize = 4096;
const ENTRIES: usize = 100;

fn c(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A file of one page in the row's own directory.
fn on_tmpfs<T>(cx: &Context, body: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let dir = WorkDir::new(cx)?;
    let path = dir.join("page");
    std::fs::write(&path, [7; PAGE])?;
    body(&path)
}

fn pread(cx: &Context, path: &Path) -> Result<f64> {
    let (file, mut page) = (File::open(path)?, [0u8; PAGE]);
    each(cx.time, || {
        // SAFETY: at most a page into a page.
        exactly(unsafe { libc::pread(file.as_raw_fd(), page.as_mut_ptr().cast(), PAGE, 0) }, PAGE)
    })
}

pub fn pread_tmpfs(cx: &Context) -> Result<f64> {
    on_tmpfs(cx, |path| pread(cx, path))
}

/// Our own executable: a host file that is long enough.
pub fn pread_host(cx: &Context) -> Result<f64> {
    pread(cx, &std::env::current_exe()?)
}

fn open_close(cx: &Context, path: &Path) -> Result<f64> {
    let path = c(path)?;
    // SAFETY: a C string; the descriptor is closed at once.
    each(cx.time, || unsafe {
        check(libc::close(check(libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC))?)).map(drop)
    })
}

pub fn open_close_tmpfs(cx: &Context) -> Result<f64> {
    on_tmpfs(cx, |path| open_close(cx, path))
}

pub fn open_close_host(cx: &Context) -> Result<f64> {
    open_close(cx, HOST.as_ref())
}

fn stat(cx: &Context, path: &Path) -> Result<f64> {
    let path = c(path)?;
    // SAFETY: a C string, and a structure of the right type to write to.
    each(cx.time, || unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        check(libc::stat(path.as_ptr(), &raw mut found)).map(drop)
    })
}

pub fn stat_tmpfs(cx: &Context) -> Result<f64> {
    on_tmpfs(cx, |path| stat(cx, path))
}

pub fn stat_host(cx: &Context) -> Result<f64> {
    stat(cx, HOST.as_ref())
}

pub fn create_write_unlink(cx: &Context) -> Result<f64> {
    let (dir, page) = (WorkDir::new(cx)?, [7u8; PAGE]);
    let path = c(&dir.join("new"))?;
    each(cx.time, || {
        // SAFETY: a C string and a page to read from; the descriptor is closed.
        unsafe {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
            let fd = check(libc::open(path.as_ptr(), flags, 0o600 as libc::c_uint))?;
            exactly(libc::write(fd, page.as_ptr().cast(), PAGE), PAGE)?;
            check(libc::close(fd))?;
            check(libc::unlink(path.as_ptr())).map(drop)
        }
    })
}

/// Rewind a directory and read all of it.
pub fn getdents_100(cx: &Context) -> Result<f64> {
    let dir = WorkDir::new(cx)?;
    for n in 0..ENTRIES {
        File::create(dir.join(format!("entry-{n:03}")))?;
    }
    let (file, mut buffer) = (File::open(&*dir)?, vec![0u8; 32 << 10]);
    let fd = file.as_raw_fd();
    each(cx.time, || {
        let mut total = 0;
        // SAFETY: the buffer is as long as is said.
        unsafe {
            check(libc::lseek(fd, 0, libc::SEEK_SET))?;
            loop {
                match check(libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()))? {
                    0 => break,
                    bytes => total += bytes,
                }
            }
        }
        // An entry of nine bytes of name takes 32.
        if total < ENTRIES as i64 * 32 {
            Err(Error::other(format!("{total} bytes of entries")))
        } else {
            Ok(())
        }
    })
}
