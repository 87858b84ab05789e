//! Tests of pipes, eventfd, epoll and futexes on the mock machine.

mod epoll;
mod futex;
mod pipe;
