//! The time since which a polled target is not in use, and the time of its next poll. Pure.
//!
//! Polls are rare: one is due only when its result can matter. Flows leave evidence in between. A closed TCP flow stays in
//! conntrack as TIME_WAIT or CLOSE for its *closed retention*, and its remaining lifetime shows when it was closed (within a
//! second: the kernel counts whole seconds). A UDP flow cannot end before its entry's time is over. So between two polls
//! nothing happens that the second does not show, if it comes before the evidence is gone.

use std::time::{Duration, Instant};

use super::Times;
use crate::config::Protocol;
use crate::dataplane::flows::seen::{Interval, Seen};
use crate::dataplane::flows::table::Found;

/// Minimum time between two polls.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Recheck interval of a UDP flow whose entry should have expired.
const EXPIRING: Duration = Duration::from_millis(250);

/// The flows of one target in a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count {
    /// TCP flows that count. They can end at any moment.
    tcp: u32,
    /// UDP flows that count.
    udp: u32,
    /// Time until which the last of the UDP flows lives at least.
    udp_until: Option<Instant>,
    /// Time at which the last of the closed TCP flows was closed.
    closed: Option<Interval>,
}

impl Count {
    pub(super) fn add(&mut self, found: &Found) {
        match (found.seen, found.entry.protocol) {
            (Seen::Counted { .. }, Protocol::Tcp) => self.tcp += 1,
            (Seen::Counted { until }, Protocol::Udp) => {
                self.udp += 1;
                self.udp_until = self.udp_until.max(Some(until));
            }
            (Seen::Closed(closed), _) => {
                let last = self.closed.get_or_insert(closed);
                last.earliest = last.earliest.max(closed.earliest);
                last.latest = last.latest.max(closed.latest);
            }
            _ => {}
        }
    }
}

/// Use of one target.
#[derive(Debug)]
pub(super) struct Polled {
    times: Times,
    /// Time at which the last flow ended, or tracking began.
    since: Interval,
    /// Time of the last poll.
    polled: Instant,
    /// Its result.
    count: Count,
    next: Next,
}

/// Result of a poll.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The idle time is over.
    Unused,
    /// The next poll is due.
    PollAt(Instant),
}

impl Polled {
    /// A target that is not in use since now.
    pub(super) fn new(now: Instant, times: Times) -> Polled {
        let next = Next::PollAt(now + times.idle.min(times.recheck()).max(MIN_PAUSE));
        Polled { times, since: Interval { earliest: now, latest: now }, polled: now, count: Count::default(), next }
    }

    /// Requests a poll.
    pub(super) fn poll_at(&mut self, now: Instant) {
        self.next = Next::PollAt(now);
    }

    /// Whether the idle time is over.
    pub(super) fn is_unused(&self) -> bool {
        self.next == Next::Unused
    }

    /// End of the last use, at the latest.
    pub(super) fn since(&self) -> Instant {
        self.since.latest
    }

    /// Time of the next poll.
    pub(super) fn next(&self) -> Instant {
        match self.next {
            Next::PollAt(at) => at,
            // The last time at which a poll still finds the closed entries of what ends now.
            Next::Unused => self.polled + self.times.recheck(),
        }
    }

    /// Handles the result of a poll at the time `at`.
    pub(super) fn observe(&mut self, at: Instant, count: Count) {
        let before = std::mem::replace(&mut self.count, count);
        let polled = std::mem::replace(&mut self.polled, at);
        let is_new = count.closed.is_some_and(|closed| closed.latest > polled);
        if let Some(closed) = count.closed {
            // What ended after the last poll cannot be the end that was known then; what ended before it can be no other.
            let bound =
                if is_new { self.since.latest.max(closed.latest) } else { self.since.latest.min(closed.latest) };
            self.since.earliest = self.since.earliest.max(closed.earliest);
            self.since.latest = bound.max(self.since.earliest);
        }
        if at.checked_sub(self.times.closed).is_some_and(|kept| kept > polled) {
            // This poll came late: a flow may have come in between, and its entry may have expired without evidence, even now.
            self.since.latest = at;
        }
        let vanished = before.udp > 0 || (before.tcp > 0 && !is_new);
        if count.tcp + count.udp == 0 && vanished {
            self.since = Interval { earliest: at, latest: at };
        }
        self.next = self.judge(at);
    }

    fn judge(&self, at: Instant) -> Next {
        let next = if self.count.tcp > 0 {
            at + self.times.idle
        } else if self.count.udp > 0 {
            self.count.udp_until.unwrap_or(at).max(at + EXPIRING)
        } else {
            let Interval { earliest, latest } = self.since;
            let (earliest, latest) = (earliest + self.times.idle, latest + self.times.idle);
            if at >= latest {
                return Next::Unused;
            }
            // A poll in the middle halves the interval: it meets the kernel's seconds at another point.
            let middle = earliest + (latest - earliest) / 2;
            if middle > at + MIN_PAUSE { middle } else { latest }
        };
        Next::PollAt(next.min(at + self.times.recheck()).max(at + MIN_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A kernel with one TCP flow that is closed at `end` and leaves a trace of 60 s, counted in whole seconds.
    fn closed_at(end: Instant, at: Instant) -> Count {
        if at < end {
            return Count { tcp: 1, ..Count::default() };
        }
        let left = (end + 60 * SECOND - at).as_secs();
        let latest = at - (59 - left.min(59)) as u32 * SECOND;
        Count { closed: Some(Interval { earliest: latest - SECOND, latest: latest.min(at) }), ..Count::default() }
    }

    fn polled(ready: Instant, idle: Duration, closed: Duration) -> Polled {
        Polled::new(ready, Times { idle, closed })
    }

    /// Follows the verdicts until the drain; returns it and how many polls there were.
    fn follow(idle: &mut Polled, flows: impl Fn(Instant) -> Count) -> (Instant, u32) {
        for polls in 1..1000 {
            let at = idle.next();
            idle.observe(at, flows(at));
            if idle.is_unused() {
                return (at, polls);
            }
            assert!(idle.next() > at);
        }
        panic!("it never drains");
    }

    #[test]
    fn an_unused_target_drains_when_its_time_is_over_with_one_look() {
        let ready = Instant::now();
        let mut idle = polled(ready, 5 * SECOND, 60 * SECOND);
        assert_eq!(follow(&mut idle, |_| Count::default()), (ready + 5 * SECOND, 1));
    }

    #[test]
    fn polls_have_a_minimum_distance() {
        let ready = Instant::now();
        let mut idle = polled(ready, Duration::from_millis(10), 60 * SECOND);
        assert_eq!(idle.next(), ready + MIN_PAUSE);
        idle.observe(ready + SECOND, Count { tcp: 1, ..Count::default() });
        assert_eq!(idle.next(), ready + SECOND + MIN_PAUSE);
    }

    #[test]
    fn a_closed_flow_counts_from_its_close_to_half_a_second() {
        let ready = Instant::now();
        for step in 0..400u32 {
            let end = ready + step * Duration::from_millis(37) + Duration::from_millis(3);
            let mut idle = polled(ready, 5 * SECOND, 60 * SECOND);
            let (drained, polls) = follow(&mut idle, |at| closed_at(end, at));
            let after = drained - end;
            assert!(after >= 5 * SECOND, "{step}: drained {after:?} after the end");
            assert!(after <= 6 * SECOND, "{step}: drained {after:?} after the end");
            assert!(polls <= 8, "{step}: {polls} polls");
        }
    }

    #[test]
    fn a_look_that_comes_late_allows_for_a_flow_that_fell_silent_in_between() {
        let ready = Instant::now();
        let mut idle = polled(ready, SECOND, 2 * SECOND);
        assert_eq!(idle.next(), ready + SECOND);
        // A flow that came right after the start, and was silent for its 2 s, has just expired.
        let late = ready + 5 * SECOND / 2;
        idle.observe(late, Count::default());
        assert_eq!(follow(&mut idle, |_| Count::default()).0, late + SECOND);
    }

    #[test]
    fn a_tcp_flow_that_vanishes_without_a_trace_counts_until_it_is_missed() {
        // Deleted by an operator, or expired: the time is not known.
        let ready = Instant::now();
        let gone = ready + 7 * SECOND;
        let mut idle = polled(ready, 5 * SECOND, 60 * SECOND);
        let flows = |at| Count { tcp: u32::from(at < gone), ..Count::default() };
        let (drained, _) = follow(&mut idle, flows);
        assert!(drained >= gone + 5 * SECOND, "{:?} after its end", drained - gone);
        assert!(drained <= gone + 10 * SECOND, "{:?} after its end", drained - gone);
        // The closed entry of an older one does not count.
        let old = ready + SECOND;
        let mut idle = polled(ready, 5 * SECOND, 60 * SECOND);
        let flows = |at| Count { tcp: u32::from(at < gone), ..closed_at(old, at) };
        let (drained, _) = follow(&mut idle, flows);
        assert!(drained >= gone + 5 * SECOND && drained <= gone + 10 * SECOND);
    }

    #[test]
    fn a_udp_flow_counts_until_its_entry_is_gone_even_beside_older_traces() {
        let ready = Instant::now();
        let (old, end) = (ready + SECOND, ready + 9 * SECOND + Duration::from_millis(400));
        let mut idle = polled(ready, 5 * SECOND, 60 * SECOND);
        let (drained, polls) = follow(&mut idle, |at| {
            let mut flows = closed_at(old, at);
            if at < end {
                let left = (end - at).as_secs() as u32;
                (flows.udp, flows.udp_until) = (1, Some(at + left * SECOND));
            }
            flows
        });
        let after = drained - end;
        assert!(after >= 5 * SECOND && after < 6 * SECOND, "{after:?}");
        assert!(polls < 12, "{polls} polls");
    }

    #[test]
    fn a_flow_between_two_looks_restarts_the_clock() {
        let ready = Instant::now();
        let mut idle = polled(ready, 300 * SECOND, 60 * SECOND);
        let end = ready + 200 * SECOND;
        let (drained, _) = follow(&mut idle, |at| {
            if at < end - SECOND || at > end + 60 * SECOND { Count::default() } else { closed_at(end, at) }
        });
        assert!(drained >= end + 300 * SECOND && drained <= end + 301 * SECOND);
    }
}
