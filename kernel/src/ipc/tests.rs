//! Tests of pipes, eventfd and epoll on the mock machine.

mod epoll;
mod pipe;
