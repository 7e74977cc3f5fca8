//! Interface between the engine and the handler of a target.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::Error;
use crate::system::{StopSignal, wait_readable};

/// A backend that can be started and stopped any number of times.
///
/// The engine calls all methods on the target's own thread, one after another: `start`, then `wait` until the backend has
/// ended or has to stop, then `stop`, always. Between the waits it runs the configured readiness probe, unless the handler
/// overrides [`Target::probe`].
///
/// No call can be interrupted: give a request to a slow service a timeout of some seconds, and check
/// [`TargetContext::stopping`] between two of them. The thread has 512 KiB of stack. A panic ends the run as an error does:
/// `stop` follows, and finds the handler as the panic has left it.
pub trait Target: Send {
    /// Starts the backend and returns; it need not be ready yet. Parts of its last run may still exist only if `stop` has
    /// failed.
    ///
    /// # Errors
    /// The target becomes inactive, shows the error, and backs off. `stop` is called anyway.
    fn start(&mut self, context: &TargetContext) -> Result<(), Error>;

    /// Waits until `until`, until [`TargetContext::stopping`], or until the handler itself has work; may return sooner.
    ///
    /// A handler that has to poll its backend does so here, at its own interval. `until` is set only while the target is not
    /// ready.
    ///
    /// # Errors
    /// The reason why the backend has ended on its own.
    fn wait(&mut self, context: &TargetContext, until: Option<Instant>) -> Result<(), Error> {
        context.wait(&[], until)?;
        Ok(())
    }

    /// Probe of the handler's own, before the configured one: `Some(Ok)` means ready, `Some(Err)` names the missing
    /// condition, `None` leaves it to the configured probe. For example, a machine that boots is `Some(Err)` until it runs, and
    /// `None` from then on. The probes `auto` and `bound` ignore sockets of the daemon itself, so a backend within the daemon
    /// must return `Some(Ok)`.
    ///
    /// Called every few milliseconds at first. If the service behind it limits requests, query it less often and return the
    /// last result in between.
    fn probe(&mut self, _context: &TargetContext) -> Option<Result<(), Error>> {
        None
    }

    /// Stops the backend; when this returns, nothing of it is left. Called after every `start`, also after a failed one, and
    /// after the backend has ended on its own.
    ///
    /// # Errors
    /// The target shows the error as its `last_error`, and becomes inactive anyway.
    fn stop(&mut self, context: &TargetContext) -> Result<(), Error>;

    /// Whether the backend, and so the flows to it, outlive the daemon. `stop` is called anyway, as for a drain.
    fn external(&self) -> bool {
        false
    }

    /// Whether `wait` never reports the end of the backend. Then its clients do: if one is refused or unanswered, and no
    /// endpoint answers the gateway either, the target ends with that error.
    fn unwatched(&self) -> bool {
        false
    }

    /// Maximum duration of `stop`. A shutdown of the daemon waits that long.
    fn stop_grace(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// The context of a [`Target`]'s calls.
pub struct TargetContext {
    /// The target's name.
    pub name: String,
    pub(crate) stop: StopSignal,
    pub(crate) pid: Arc<AtomicU32>,
}

impl TargetContext {
    /// A context for a test of a handler. The engine sets the signal to stop the target.
    pub fn new(name: impl Into<String>, stop: StopSignal) -> TargetContext {
        TargetContext { name: name.into(), stop, pid: Arc::default() }
    }

    /// Sets the backend's process, which the status shows until the run ends.
    pub fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Whether the target has to stop.
    pub fn stopping(&self) -> bool {
        self.stop.is_set()
    }

    /// Blocks until one of `fds` is readable, the target has to stop, or `until`; `None` means no time limit.
    /// Returns for each of `fds` whether it is readable or hung up.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn wait(&self, fds: &[BorrowedFd<'_>], until: Option<Instant>) -> io::Result<Vec<bool>> {
        self.stop.wait(fds, until)
    }

    /// [`TargetContext::wait`] for [`Target::stop`]: the signal to stop does not end it.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn wait_while_stopping(&self, fds: &[BorrowedFd<'_>], until: Instant) -> io::Result<Vec<bool>> {
        wait_readable(fds, Some(until))
    }
}
