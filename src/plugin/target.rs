//! A backend's life, as its plugin sees it.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::Error;
use crate::system::StopSignal;

/// A backend that can be started and stopped any number of times.
///
/// All methods are called on the target's own thread, one after another: `start`, then `wait` until it says that the
/// backend has ended or until a stop is asked for, then `stop`, always. Whether the backend is *ready* is not the
/// handler's business unless it overrides [`Target::probe`]: the configured readiness probe runs between the waits.
pub trait Target: Send {
    /// Starts the backend and returns; it need not be ready yet.
    ///
    /// # Errors
    /// The target becomes inactive, shows the error, and backs off. `stop` is called all the same.
    fn start(&mut self, context: &TargetContext) -> Result<(), Error>;

    /// Returns when `until` has come, when [`TargetContext::stopping`] has become true, or when there is something to do
    /// for the handler itself; sooner is fine.
    ///
    /// # Errors
    /// The backend has ended by itself, and this is why.
    fn wait(&mut self, context: &TargetContext, until: Option<Instant>) -> Result<(), Error> {
        context.wait(&[], until)?;
        Ok(())
    }

    /// Asked instead of the configured probe, if it returns something: `Ok` means ready, `Err` says what is missing.
    fn probe(&mut self, _context: &TargetContext) -> Option<Result<(), Error>> {
        None
    }

    /// Stops the backend; when this returns, nothing of it is left. Called after every `start`, also a failed one, and
    /// after the backend has ended by itself.
    ///
    /// # Errors
    /// Shown as the target's `last_error`; the target becomes inactive all the same.
    fn stop(&mut self, context: &TargetContext) -> Result<(), Error>;

    /// Whether the backend lives on when the daemon ends. Then so do the flows to it.
    fn external(&self) -> bool {
        false
    }

    /// How long `stop` can take at the most. The daemon's exit waits that long for it.
    fn stop_grace(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// What a [`Target`] knows of its surroundings.
pub struct TargetContext {
    /// The target's name.
    pub name: String,
    pub(crate) stop: StopSignal,
}

impl TargetContext {
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
}
