//! Tests of timers on the virtual clock.
