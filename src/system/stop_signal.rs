//! A flag that a thread can wait for together with file descriptors.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Waker;

/// Set once, from any thread; waiting for it costs no wake-up before that. Clones are the same signal.
#[derive(Debug, Clone)]
pub struct StopSignal(Waker);

impl StopSignal {
    /// A signal that is not set.
    ///
    /// # Errors
    /// The operating system's error (no file descriptor left).
    pub fn new() -> io::Result<StopSignal> {
        Waker::new().map(StopSignal)
    }

    /// Sets the signal, for good.
    pub fn set(&self) {
        self.0.wake();
    }

    /// True if the signal is set.
    pub fn is_set(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
    }

    /// Blocks until the signal is set, one of `fds` is readable or hung up, or `until` has come; returns which of `fds`
    /// are. An interrupting system signal ends the wait early.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn wait(&self, fds: &[BorrowedFd<'_>], until: Option<Instant>) -> io::Result<Vec<bool>> {
        let all: Vec<BorrowedFd<'_>> = std::iter::once(self.0.as_fd()).chain(fds.iter().copied()).collect();
        let mut readable = wait_readable(&all, until)?;
        readable.remove(0);
        Ok(readable)
    }
}

/// Blocks until one of `fds` is readable or hung up, or `until` has come; returns which of them are. An interrupting system
/// signal ends the wait early.
///
/// # Errors
/// The operating system's error.
pub fn wait_readable(fds: &[BorrowedFd<'_>], until: Option<Instant>) -> io::Result<Vec<bool>> {
    let mut set: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = until.map(|until| {
        let left = until.saturating_duration_since(Instant::now());
        // The seconds of a bounded wait fit; the type is the kernel's.
        Timespec { tv_sec: left.as_secs().min(1 << 30) as _, tv_nsec: left.subsec_nanos().into() }
    });
    match poll(&mut set, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(set.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(error) => Err(error.into()),
    }
}
