//! The endpoint that a warming target waits for, shared between its own thread, which probes, and the engine, which reports
//! it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time that a target may warm before the log names its missing endpoint; half of its deadline if that is shorter.
const NOTICE: Duration = Duration::from_secs(5);

/// Result of the last probe of a target that is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The endpoint, and what it lacks.
    pub what: String,
    /// Since when each probe has had this result.
    pub since: Instant,
}

/// The last result, while the target warms. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting(Arc<Mutex<Option<Missing>>>);

impl Waiting {
    /// The endpoint that the target waits for; `None` if it does not warm, or was not probed yet.
    pub(crate) fn get(&self) -> Option<Missing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the result of a probe at `now`; `None` if no endpoint is missing, or the target no longer warms.
    pub(crate) fn set(&self, now: Instant, what: Option<&str>) {
        let mut missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (what, &*missing) {
            (Some(what), Some(before)) if before.what == what => {}
            (Some(what), _) => *missing = Some(Missing { what: what.to_owned(), since: now }),
            (None, _) => *missing = None,
        }
    }
}

/// Decides when the log names the endpoint that a target waits for: once, after a while. (The core logs it at the deadline.)
#[derive(Debug)]
pub(crate) struct Notice {
    began: Instant,
    after: Duration,
    given: bool,
}

impl Notice {
    /// Notice about a target that began to warm at `began`, and must be ready within `deadline`.
    pub(crate) fn new(began: Instant, deadline: Duration) -> Notice {
        Notice { began, after: NOTICE.min(deadline / 2), given: false }
    }

    /// A probe has failed at `now`. Returns for how long the target has not been ready, if the log must report it.
    pub(crate) fn missed(&mut self, now: Instant) -> Option<Duration> {
        let due = !self.given && now.saturating_duration_since(self.began) >= self.after;
        self.given |= due;
        due.then_some(self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_time_counts_from_the_first_of_equal_results() {
        let waiting = Waiting::default();
        let now = Instant::now();
        assert_eq!(waiting.get(), None);
        for (second, what) in [(0, "a"), (1, "a"), (2, "b"), (3, "b"), (4, "a")] {
            waiting.clone().set(now + second * SECOND, Some(what));
        }
        assert_eq!(waiting.get(), Some(Missing { what: "a".to_owned(), since: now + 4 * SECOND }));
        waiting.set(now + 5 * SECOND, Some("a"));
        assert_eq!(waiting.get().map(|missing| missing.since), Some(now + 4 * SECOND));
        waiting.set(now + 6 * SECOND, None);
        assert_eq!(waiting.get(), None);
    }

    #[test]
    fn the_log_names_it_once_after_a_while() {
        let now = Instant::now();
        for (deadline, after) in [(30 * SECOND, 5 * SECOND), (4 * SECOND, 2 * SECOND)] {
            let mut notice = Notice::new(now, deadline);
            let at = |millis: u64| now + Duration::from_millis(millis);
            let lines: Vec<_> = (0..deadline.as_millis() as u64)
                .filter_map(|millis| Some((millis, notice.missed(at(millis))?)))
                .collect();
            assert_eq!(lines, [(after.as_millis() as u64, after)]);
        }
    }
}
