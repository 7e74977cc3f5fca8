//! How long a failing thing waits before it is tried again.

use std::time::{Duration, Instant};

/// The wait after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(500);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// A backend that has been active for so long was a success: what ends it afterwards is a first failure again.
const STEADY: Duration = Duration::from_secs(10);

/// Counts failures in a row. Exponential, bounded, reset by success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// It did not start.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let doublings = (self.failures - 1).min(16);
        self.until = Some(now + (FIRST * 2u32.pow(doublings)).min(LONGEST));
    }

    /// It started, and died by itself after `uptime`. The first time it may be tried again at once.
    pub(super) fn died(&mut self, now: Instant, uptime: Duration) {
        if uptime >= STEADY {
            self.reset();
        } else if self.failures == 0 {
            self.failures = 1;
            self.until = None;
        } else {
            self.failed(now);
        }
    }

    /// It went well.
    pub(super) fn reset(&mut self) {
        *self = Backoff::default();
    }

    /// When the next try is allowed, if not at once.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_bound_and_is_reset_by_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until(now), None);
        let mut waits = Vec::new();
        for _ in 0..40 {
            backoff.failed(now);
            waits.push(backoff.until(now).expect("a failure backs off") - now);
        }
        assert_eq!(waits[..4], [500, 1000, 2000, 4000].map(Duration::from_millis));
        assert!(waits[7..].iter().all(|wait| *wait == LONGEST));
        backoff.reset();
        assert_eq!(backoff.until(now), None);
    }

    #[test]
    fn a_first_death_may_be_retried_at_once_and_a_crash_loop_may_not() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.died(now, Duration::from_secs(1));
        assert_eq!(backoff.until(now), None);
        backoff.died(now, Duration::from_secs(1));
        assert_eq!(backoff.until(now), Some(now + Duration::from_secs(1)));
        backoff.died(now, STEADY);
        assert_eq!(backoff.until(now), None);
    }
}
