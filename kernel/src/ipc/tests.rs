//! Tests of pipes, splice, eventfd, epoll, futexes and standard streams on the mock machine.

mod epoll;
mod futex;
mod pipe;
mod streams;
