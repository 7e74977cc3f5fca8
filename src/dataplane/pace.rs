//! Times of repairs of our table: at once, then with growing delays while another program keeps changing it. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Number of repairs within [`WINDOW`] that are not delayed.
const AT_ONCE: usize = 3;

/// Time within which repairs are counted. After as long without a repair, the next one comes at once again.
const WINDOW: Duration = Duration::from_secs(10);

/// Delay after the repairs that came at once. It doubles with each further repair.
const MIN_DELAY: Duration = Duration::from_secs(1);

/// Longest delay.
const MAX_DELAY: Duration = Duration::from_secs(8);

/// The times of repairs.
#[derive(Debug, Default)]
pub struct Pace {
    due: Option<Instant>,
    /// The last repairs, at most [`AT_ONCE`].
    repairs: VecDeque<Instant>,
    /// The delay before the next repair, while another program keeps changing the table.
    delay: Option<Duration>,
}

impl Pace {
    /// Records that the table was changed. Returns the delay of the repair if it is the first one that is delayed.
    pub fn noticed(&mut self, now: Instant) -> Option<Duration> {
        if self.due.is_some() {
            return None;
        }
        let recent = |at: &Instant| now.saturating_duration_since(*at) < WINDOW;
        if !self.repairs.back().is_some_and(recent) {
            self.delay = None;
            self.repairs.clear();
        }
        let before = self.delay;
        let many = self.repairs.len() == AT_ONCE && self.repairs.iter().all(recent);
        self.delay = before.map(|delay| (delay * 2).min(MAX_DELAY)).or(many.then_some(MIN_DELAY));
        self.due = Some(now + self.delay.unwrap_or_default());
        self.delay.filter(|_| before.is_none())
    }

    /// Records that a repair failed: it is tried again after the current delay, or the shortest.
    pub fn failed(&mut self, now: Instant) {
        self.due = Some(now + self.delay.unwrap_or(MIN_DELAY));
    }

    /// Time of the next repair, if one is needed.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a repair is due. If so, it counts as done.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.due = None;
        if self.repairs.len() == AT_ONCE {
            self.repairs.pop_front();
        }
        self.repairs.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The times of repairs in so many seconds, when the table is changed again right after each.
    fn fight(pace: &mut Pace, start: Instant, seconds: u64) -> (Vec<Duration>, usize) {
        let (mut now, mut repairs, mut begun) = (start, Vec::new(), 0);
        while now < start + Duration::from_secs(seconds) {
            begun += usize::from(pace.noticed(now).is_some());
            now = pace.due().expect("a repair is due");
            assert!(pace.take(now) && pace.due().is_none());
            repairs.push(now - start);
            now += Duration::from_millis(1);
        }
        (repairs, begun)
    }

    #[test]
    fn three_repairs_come_at_once_and_later_ones_are_delayed() {
        let (repairs, begun) = fight(&mut Pace::default(), Instant::now(), 60);
        assert!(repairs[2] < SECOND / 10, "{repairs:?}");
        let gaps: Vec<u64> = repairs.windows(2).skip(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(gaps[..5], [1, 2, 4, 8, 8], "{repairs:?}");
        assert_eq!(begun, 1, "one fight");
        assert!(repairs.len() < 15 && *repairs.last().expect("some") > 40 * SECOND, "never given up");
    }

    #[test]
    fn after_a_quiet_time_repairs_come_at_once_again() {
        let mut pace = Pace::default();
        let start = Instant::now();
        fight(&mut pace, start, 30);
        let later = start + 60 * SECOND;
        assert_eq!(pace.noticed(later), None);
        assert_eq!(pace.due(), Some(later));
        let (repairs, begun) = fight(&mut pace, later, 5);
        assert!(repairs[2] < SECOND / 10 && begun == 1, "{repairs:?}");
    }

    #[test]
    fn rare_changes_are_always_repaired_at_once() {
        let mut pace = Pace::default();
        let start = Instant::now();
        for round in 0..20 {
            let now = start + round * 6 * SECOND;
            assert_eq!(pace.noticed(now), None);
            assert_eq!(pace.due(), Some(now), "round {round}");
            assert!(pace.take(now) && !pace.take(now));
        }
    }

    #[test]
    fn a_repair_that_fails_is_tried_again_later() {
        let mut pace = Pace::default();
        let now = Instant::now();
        pace.noticed(now);
        assert!(pace.take(now));
        pace.failed(now);
        assert!(!pace.take(now) && pace.take(now + MIN_DELAY));
        fight(&mut pace, now + MIN_DELAY, 20);
        assert_eq!(pace.delay, Some(MAX_DELAY));
        pace.failed(now);
        assert_eq!(pace.due(), Some(now + MAX_DELAY));
    }

    #[test]
    fn repairs_count_within_the_window_only() {
        let start = Instant::now();
        let paced = |times: [u32; 3], next| {
            let mut pace = Pace::default();
            for time in times {
                let now = start + time * SECOND;
                assert_eq!(pace.noticed(now), None);
                assert_eq!(pace.noticed(now), None, "it is due already");
                assert!(pace.take(now));
            }
            pace.noticed(start + next * SECOND)
        };
        assert_eq!(paced([0, 1, 2], 9), Some(MIN_DELAY));
        assert_eq!(paced([0, 1, 2], 10), None, "the first is over");
        assert_eq!(paced([0, 9, 18], 19), None);
    }
}
