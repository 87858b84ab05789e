#![no_std]
//! Placeholder head, filled in by the first module.
