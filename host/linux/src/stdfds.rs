//! Which of descriptors 0 to 2 were closed when the process started.
//!
//! Rust's runtime opens `/dev/null` in their place before `main`, which is right (none of our own descriptors
//! may become 0 to 2) but hides it. So it is recorded earlier, by a function that the dynamic loader calls.

use std::sync::atomic::{AtomicU8, Ordering};

static CLOSED: AtomicU8 = AtomicU8::new(0);

extern "C" fn record() {
    for fd in 0..3 {
        // SAFETY: asks for a flag of a descriptor, which need not be open.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            CLOSED.fetch_or(1 << fd, Ordering::SeqCst);
        }
    }
}

// SAFETY: an entry of .init_array is the address of a C function, and this one needs nothing of Rust's runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

/// Whether the standard descriptor was closed.
pub(crate) fn was_closed(fd: usize) -> bool {
    CLOSED.load(Ordering::SeqCst) & (1 << fd) != 0
}
