//! Moments by the clock on the wall, for people.

use std::time::{Duration, Instant, SystemTime};

/// By how much the clock on the wall may have gone astray before it counts as having been set.
const ASTRAY: Duration = Duration::from_millis(500);

/// Turns moments into times. The same moment stays the same time until somebody sets the clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wall {
    moment: Instant,
    time: SystemTime,
}

impl Wall {
    /// As the clock goes now.
    pub(super) fn new(now: Instant, time: SystemTime) -> Wall {
        Wall { moment: now, time }
    }

    /// Looks whether the clock has been set.
    pub(super) fn update(&mut self, now: Instant, time: SystemTime) {
        let expected = self.at(now);
        let astray = time.duration_since(expected).unwrap_or_else(|error| error.duration());
        if astray > ASTRAY {
            *self = Wall::new(now, time);
        }
    }

    /// The time of a moment.
    pub(super) fn at(&self, moment: Instant) -> SystemTime {
        let time = match self.moment.checked_duration_since(moment) {
            Some(before) => self.time.checked_sub(before),
            None => self.time.checked_add(moment - self.moment),
        };
        time.unwrap_or(SystemTime::UNIX_EPOCH).max(SystemTime::UNIX_EPOCH)
    }

    /// The time of a moment as RFC 3339 has it, in UTC.
    pub(super) fn text(&self, moment: Instant) -> String {
        humantime::format_rfc3339_millis(self.at(moment)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_stays_the_same_time_until_the_clock_is_set() {
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
