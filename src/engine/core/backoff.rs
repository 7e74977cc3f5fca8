//! Pauses before a failing target or frontend is tried again.

use std::time::{Duration, Instant};

/// Pause after the first failure; it doubles with each further one.
pub(super) const FIRST: Duration = Duration::from_millis(500);

/// Longest pause.
pub(super) const MAX: Duration = Duration::from_secs(60);

/// Uptime after which a start was a success: the next failure is a first one again.
const STEADY: Duration = Duration::from_secs(10);

/// Counts failures in a row. Exponential, bounded, reset by success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Counts a failed start; returns the time of the next try.
    pub(super) fn failed(&mut self, now: Instant) -> Instant {
        self.failures = self.failures.saturating_add(1);
        let doublings = (self.failures - 1).min(16);
        let until = now + (FIRST * 2u32.pow(doublings)).min(MAX);
        self.until = Some(until);
        until
    }

    /// Counts a start whose backend ended on its own after `uptime`. The first one may be tried again at once.
    pub(super) fn died(&mut self, now: Instant, uptime: Duration) {
        if uptime >= STEADY {
            self.reset();
        } else if self.failures == 0 {
            self.failures = 1;
            self.until = None;
        } else {
            _ = self.failed(now);
        }
    }

    /// Ends the row of failures.
    pub(super) fn reset(&mut self) {
        *self = Backoff::default();
    }

    /// Time of the next try, if it is not allowed at once.
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
        assert!(waits[7..].iter().all(|wait| *wait == MAX));
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
