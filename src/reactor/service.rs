//! Services, and the restart of those that have failed.
//!
//! Invariants: a failure of a service ends neither the daemon nor another handler; a restart waits for at least
//! [`FIRST_PAUSE`]; a restarted service receives the current state of every target that it missed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::ids::FrontendId;
use crate::plugin::Handler;

/// Pause before the first restart. Each further one takes twice as long.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause before a restart.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(8);

/// Time after which a service counts as healthy: its next failure is a first one again.
const HEALTHY: Duration = Duration::from_secs(60);

/// A handler that belongs to no frontend and runs as long as the daemon.
pub struct Service {
    /// Name in log messages.
    pub name: String,
    /// Its sockets and what it does with them.
    pub handler: Box<dyn Handler>,
}

impl Service {
    /// A service under a name.
    pub fn new(name: &str, handler: impl Handler + 'static) -> Service {
        Service { name: name.to_owned(), handler: Box::new(handler) }
    }
}

/// Supervision of one service.
pub(super) struct Supervision {
    pub(super) name: String,
    /// Frontends whose last change the service has not received.
    pub(super) missed: BTreeSet<FrontendId>,
    pause: Duration,
    /// Time of its last successful start, if it has not failed since.
    started: Option<Instant>,
}

impl Supervision {
    pub(super) fn new(name: String) -> Supervision {
        Supervision { name, missed: BTreeSet::new(), pause: FIRST_PAUSE, started: None }
    }

    /// Records a successful start.
    pub(super) fn started(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// Records a failure; returns the pause before the next start.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        if self.started.take().is_some_and(|started| now - started >= HEALTHY) {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_start_over_once_healthy() {
        let mut service = Supervision::new("test".to_owned());
        let mut now = Instant::now();
        let mut fail_after = |time| {
            service.started(now);
            now += time;
            service.failed(now)
        };
        let pauses: Vec<_> = (0..6).map(|_| fail_after(Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 8000]);
        assert_eq!(fail_after(HEALTHY), FIRST_PAUSE);
        assert_eq!(fail_after(HEALTHY - Duration::from_millis(1)), 2 * FIRST_PAUSE);
    }

    #[test]
    fn failed_restarts_count_as_failures() {
        let mut service = Supervision::new("test".to_owned());
        let now = Instant::now();
        service.started(now);
        assert_eq!(service.failed(now + HEALTHY), FIRST_PAUSE);
        // It was not started in between.
        assert_eq!(service.failed(now + 3 * HEALTHY), 2 * FIRST_PAUSE);
    }
}
