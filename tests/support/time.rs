//! Waiting for something, with a bound.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds and returns how long that took.
///
/// # Panics
/// With `what` was awaited, if it does not hold within `timeout`.
#[track_caller]
pub fn eventually(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    loop {
        if condition() {
            return began.elapsed();
        }
        assert!(began.elapsed() < timeout, "not within {timeout:?}: {what}");
        std::thread::sleep(POLL);
    }
}
