//! Time: the timer queue. Clocks come from the machine.

mod queue;

pub use queue::{TimerHook, TimerId, TimerQueue};
