//! Wakes a thread that waits for file descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// Readable from a [`Waker::wake`] until the next [`Waker::reset`]. Clones are the same waker.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A waker that is not readable.
    ///
    /// # Errors
    /// The operating system's error (no file descriptor left).
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Makes it readable.
    pub fn wake(&self) {
        // The counter would have to be at its maximum of 2^64 - 2 for this to fail.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Makes it not readable. Later reads see everything that was written before the last wake.
    pub fn reset(&self) {
        // It fails if there is nothing to reset.
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
