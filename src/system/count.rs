//! Counts that several threads share.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A count that is written by one thread and read by others, the same on every platform.
///
/// Not an `AtomicU64`, which 32-bit PowerPC, MIPS and ARMv5 lack; on 32 bits an `AtomicUsize` could wrap within days.
/// The lock is never held for longer than an addition: it is for what is counted a few times per packet or request.
#[derive(Debug, Default)]
pub struct Count(Mutex<u64>);

impl Count {
    /// The value now.
    pub fn get(&self) -> u64 {
        *self.lock()
    }

    /// Adds `more` to the value.
    pub fn add(&self, more: u64) {
        *self.lock() += more;
    }

    /// Sets the value.
    pub fn set(&self, value: u64) {
        *self.lock() = value;
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
