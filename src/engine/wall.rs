//! Wall clock times, for status and explanations.

use std::time::{Duration, Instant, SystemTime};

/// Difference between the wall clock and its expected time beyond which it counts as set.
const MAX_CLOCK_SKEW: Duration = Duration::from_millis(500);

/// Converts instants to wall clock times. An instant keeps its time until the clock is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wall {
    instant: Instant,
    time: SystemTime,
}

impl Wall {
    /// A conversion by the present time of the wall clock.
    pub(super) fn new(now: Instant, time: SystemTime) -> Wall {
        Wall { instant: now, time }
    }

    /// Adjusts the conversion if the clock has been set.
    pub(super) fn update(&mut self, now: Instant, time: SystemTime) {
        let expected = self.at(now);
        let skew = time.duration_since(expected).unwrap_or_else(|error| error.duration());
        if skew > MAX_CLOCK_SKEW {
            *self = Wall::new(now, time);
        }
    }

    /// Wall clock time of an instant.
    pub(super) fn at(&self, instant: Instant) -> SystemTime {
        let time = match self.instant.checked_duration_since(instant) {
            Some(before) => self.time.checked_sub(before),
            None => self.time.checked_add(instant - self.instant),
        };
        time.unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH)
    }

    /// Wall clock time of an instant in UTC (RFC 3339).
    pub(super) fn text(&self, instant: Instant) -> String {
        humantime::format_rfc3339_millis(self.at(instant)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stay_until_the_clock_is_set() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let time = SystemTime::UNIX_EPOCH + 1_800_000_000 * second;
        let mut wall = Wall::new(start, time);
        assert_eq!(wall.text(start + second), "2027-01-15T08:00:01.000Z");
        wall.update(start + 10 * second, time + 10 * second + Duration::from_millis(3));
        assert_eq!(wall.text(start + second), "2027-01-15T08:00:01.000Z");
        wall.update(start + 10 * second, time - 3590 * second);
        assert_eq!(wall.text(start + second), "2027-01-15T07:00:01.000Z");
        wall.update(start + 20 * second, SystemTime::UNIX_EPOCH);
        assert_eq!(wall.text(start), "1970-01-01T00:00:00.000Z");
    }
}
