//! Queue of lines between the threads that log and the one that writes. Bounded; a thread that logs never waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::system::Waker;

/// Maximum number of bytes in the queue. The writer can have as many again.
const MAX_BYTES: usize = 256 * 1024;

/// Lines that wait for the writer.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Readable when the writer must stop waiting for its output and open it again.
    waker: Waker,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// Lines that found no space since the last [`Queue::take`].
    dropped: u64,
    reopen: bool,
    /// The writer has lines that it has not written yet.
    writing: bool,
}

/// Work for the writer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Whole lines.
    pub(super) bytes: Vec<u8>,
    /// Lines that were dropped after them.
    pub(super) dropped: u64,
}

impl Queue {
    pub(super) fn new() -> io::Result<Queue> {
        Ok(Queue { state: Mutex::default(), changed: Condvar::new(), waker: Waker::new()? })
    }

    /// Appends a line, or counts it as dropped.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.bytes.len() + line.len() > MAX_BYTES {
            state.dropped += 1;
        } else {
            state.bytes.extend_from_slice(line);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Reports the last batch as written, waits for lines and takes all of them. `None` if a reopen is wanted first.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        state.writing = false;
        self.changed.notify_all();
        while state.bytes.is_empty() && state.dropped == 0 && !state.reopen {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.reopen {
            return None;
        }
        state.writing = true;
        Some(Batch { bytes: std::mem::take(&mut state.bytes), dropped: std::mem::take(&mut state.dropped) })
    }

    /// Requests that the output is opened again.
    pub(super) fn request_reopen(&self) {
        self.lock().reopen = true;
        self.changed.notify_all();
        self.waker.wake();
    }

    /// True if a reopen was requested since the last call.
    pub(super) fn take_reopen(&self) -> bool {
        self.waker.reset();
        std::mem::take(&mut self.lock().reopen)
    }

    /// Readable while a reopen is wanted.
    pub(super) fn reopen_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }

    /// Waits until everything is written; false at the timeout.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while state.writing || !state.bytes.is_empty() || state.dropped > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted() {
        let queue = Queue::new().expect("a queue");
        let line = [b'x'; 1024];
        (0..MAX_BYTES / 1024 + 7).for_each(|_| queue.push(&line));
        let batch = queue.take().expect("lines");
        assert_eq!((batch.bytes.len(), batch.dropped), (MAX_BYTES, 7));
        // They are gone from the queue, which takes others, but not written yet.
        queue.push(b"next\n");
        assert!(!queue.flush(Duration::ZERO));
        assert_eq!(queue.take(), Some(Batch { bytes: b"next\n".to_vec(), dropped: 0 }));
        assert!(!queue.flush(Duration::from_millis(1)));
    }

    #[test]
    fn a_flush_ends_when_the_writer_takes_more() {
        let queue = Queue::new().expect("a queue");
        queue.push(b"line\n");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(queue.take().is_some());
                // Waits for more, until it is to reopen.
                assert_eq!(queue.take(), None);
                assert!(queue.take_reopen() && !queue.take_reopen());
            });
            assert!(queue.flush(Duration::from_secs(10)));
            queue.request_reopen();
        });
    }
}
