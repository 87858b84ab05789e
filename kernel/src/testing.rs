//! Helpers for the kernel's own unit tests.
