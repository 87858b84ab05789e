//! Inter-process communication: pipes, FIFOs, eventfd, epoll, futexes and their kin.
