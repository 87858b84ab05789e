//! Tests of the subtle parts, on the mock machine.
