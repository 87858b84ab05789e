//! What programs see: each area compares the same commands as guests and on the host.

mod abi;
mod archive;
mod bad_input;
mod build;
mod elf;
mod ends;
mod git;
mod job_control;
mod layers;
mod python;
mod report;
mod runtime;
mod screen;
mod shell;
mod text;
mod user;
