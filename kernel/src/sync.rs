//! Locks.
//!
//! [`Mutex`] and [`RwLock`] spin: they are held for short, non-blocking sections only and never across
//! [`crate::task::Cx::wait`] or any other call that may suspend the fiber. Where two are held at once, the module
//! heads name the order.

/// A spin lock.
pub type Mutex<T> = spin::mutex::SpinMutex<T>;
/// The guard of a [`Mutex`].
pub type MutexGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;
/// A spinning reader/writer lock.
pub type RwLock<T> = spin::rwlock::RwLock<T>;
pub use spin::Once;
