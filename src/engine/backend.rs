//! A backend's life, as its plugin sees it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::Error;
use crate::system::{StopSignal, wait_readable};

/// A backend that can be started and stopped any number of times.
///
/// All methods are called on the target's own thread, one after another: `start`, then `wait` until it says that the
/// backend has ended or until a stop is asked for, then `stop`, always. Whether the backend is *ready* is not the
/// handler's business unless it overrides [`Target::probe`]: the configured readiness probe runs between the waits.
///
/// Nothing can interrupt a call that blocks by itself, such as a request to a slow service: give it a timeout of some
/// seconds, and look at [`TargetContext::stopping`] between two of them. The thread has 512 KiB of stack. A panic ends the
/// run as an error does: `stop` follows, and finds the handler as the panic has left it.
pub trait Target: Send {
    /// Starts the backend and returns; it need not be ready yet. Something of its last life may still be there only where
    /// `stop` has failed to end it.
    ///
    /// # Errors
    /// The target becomes inactive, shows the error, and backs off. `stop` is called all the same.
    fn start(&mut self, context: &TargetContext) -> Result<(), Error>;

    /// Returns when `until` has come, when [`TargetContext::stopping`] has become true, or when there is something to do
    /// for the handler itself; sooner is fine.
    ///
    /// A handler that must ask whether its backend still lives does so here: it waits until its next question at the
    /// latest, and asks. `until` is set only while the target is not ready yet.
    ///
    /// # Errors
    /// The backend has ended by itself, and this is why.
    fn wait(&mut self, context: &TargetContext, until: Option<Instant>) -> Result<(), Error> {
        context.wait(&[], until)?;
        Ok(())
    }

    /// Asked before the configured probe: `Some(Ok)` means ready, `Some(Err)` says what is missing, `None` leaves it to the
    /// configured probe. So a machine that boots is `Some(Err)` until it runs, and `None` from then on.
    /// The probes `auto` and `bound` pass over sockets of the daemon itself, so a backend that lives within it must say
    /// `Some(Ok)`.
    ///
    /// It is asked often: every few milliseconds at first. A handler that asks a service which counts requests does that at
    /// a pace of its own and repeats its last answer in between.
    fn probe(&mut self, _context: &TargetContext) -> Option<Result<(), Error>> {
        None
    }

    /// Stops the backend; when this returns, nothing of it is left. Called after every `start`, also a failed one, and
    /// after the backend has ended by itself.
    ///
    /// # Errors
    /// Shown as the target's `last_error`; the target becomes inactive all the same.
    fn stop(&mut self, context: &TargetContext) -> Result<(), Error>;

    /// Whether the backend lives on when the daemon ends. Then so do the flows to it. `stop` is called all the same; it
    /// cannot tell that end from a drain.
    fn external(&self) -> bool {
        false
    }

    /// Whether the handler never says, by an error of `wait`, that the backend has ended. Then the clients do: if one is refused,
    /// or not answered, and this gateway itself is not answered by any endpoint either, the target ends with that error.
    fn unwatched(&self) -> bool {
        false
    }

    /// How long `stop` can take at most. The daemon's exit waits that long for it.
    fn stop_grace(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// What a [`Target`] knows of its surroundings.
pub struct TargetContext {
    /// The target's name.
    pub name: String,
    pub(crate) stop: StopSignal,
    pub(crate) pid: Arc<AtomicU32>,
}

impl TargetContext {
    /// A context for a test of a handler. Setting the signal is what the engine does to stop the target.
    pub fn new(name: impl Into<String>, stop: StopSignal) -> TargetContext {
        TargetContext { name: name.into(), stop, pid: Arc::default() }
    }

    /// Tells people, who see it in the status, which process the backend is. It is forgotten when the run ends.
    pub fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Whether the engine has asked for the target to be stopped.
    pub fn stopping(&self) -> bool {
        self.stop.is_set()
    }

    /// Blocks until one of `fds` is readable, a stop is asked for, or `until` has come; `None` is without end.
    /// Returns which of `fds` are readable or hung up, in their order.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn wait(&self, fds: &[BorrowedFd<'_>], until: Option<Instant>) -> io::Result<Vec<bool>> {
        self.stop.wait(fds, until)
    }

    /// [`TargetContext::wait`] for [`Target::stop`]: that a stop has been asked for does not end it.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn wait_while_stopping(&self, fds: &[BorrowedFd<'_>], until: Instant) -> io::Result<Vec<bool>> {
        wait_readable(fds, Some(until))
    }
}
