//! Address spaces that an unprivileged Linux process creates, maps, runs and destroys: the `vmspace` system calls for Linux.
//!
//! An [`Engine`] makes [`Vmspace`]s. Each is a host process of its own whose memory is what its owner maps into it ([`Vmspace::update`]), and whose code
//! runs until it makes a system call, faults or is kicked ([`Vmspace::run`]). The registers of a guest thread are a [`Context`].
//!
//! How it works, what it costs and what is trusted: `docs/adr/0002-vmspace-transport.md`. Neighbours: `host/linux` builds the machine's
//! address spaces on this crate. It is x86_64 only so far; what depends on it is in [`mod@stub`], [`layout`] and [`context`].

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("vmspace runs on x86_64 Linux");

mod area;
mod body;
mod context;
mod engine;
mod filter;
mod frame;
mod gate;
mod layout;
mod limit;
mod mapper;
mod pace;
mod places;
mod rivals;
mod runner;
mod seat;
mod shown;
mod space;
mod stub;
mod switch;
mod sys;
mod tempo;
mod trust;
mod turns;
mod zygote;

pub use context::{Context, DefaultActions, FileView, Offers, Regs, StatOffer, Views, Withdrawal};
pub use engine::{Beginning, Engine};
pub use space::{Exit, Op, Stock, UpdateError, Vmspace};
pub use sys::{own_cpus, use_cpus, use_short_slices};
