//! Since when a target has been out of use, where no events tell it, and when to look again. Pure.
//!
//! The kernel is polled, and rarely: a poll is due only when the answer could matter. That works because flows leave
//! evidence. A closed TCP flow stays in conntrack as TIME_WAIT or CLOSE, and the time it has left says when it was closed
//! (to the second: the kernel counts whole seconds, so what is known is an interval). A UDP flow cannot end before its
//! entry's time is over. So between two polls nothing can happen that the second does not show, as long as the second
//! comes before the evidence is gone.

use std::time::{Duration, Instant};

use super::seen::{Seen, closed_between, left};
use crate::config::Protocol;
use crate::dataplane::plan::Timeouts;
use crate::netlink::conntrack::Entry;

/// The shortest time between two polls.
const SHORTEST: Duration = Duration::from_millis(50);

/// How soon a UDP flow is looked at again whose entry should have expired.
const EXPIRING: Duration = Duration::from_millis(250);

/// The flows of one target that count as use, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count {
    /// TCP flows. They can end at any moment.
    pub tcp: u32,
    /// UDP flows.
    pub udp: u32,
    /// Until when the last of the UDP flows lives at least.
    pub udp_until: Option<Instant>,
    /// When the last of the TCP flows that have been closed was: not before the first, not after the second.
    pub closed: Option<(Instant, Instant)>,
}

impl Count {
    /// How many flows are in use.
    pub(super) fn open(&self) -> u32 {
        self.tcp + self.udp
    }

    /// Adds an entry that the kernel has reported between the two moments.
    pub(super) fn add(&mut self, entry: &Entry, timeouts: Timeouts, asked: (Instant, Instant)) {
        match (Seen::new(entry), entry.protocol) {
            (Some(Seen::Open), Protocol::Tcp) => self.tcp += 1,
            (Some(Seen::Open), Protocol::Udp) => {
                self.udp += 1;
                self.udp_until = self.udp_until.max(Some(asked.0 + left(entry)));
            }
            (Some(Seen::Over), _) => {
                let (earliest, latest) = closed_between(entry, timeouts, asked);
                let last = self.closed.get_or_insert((earliest, latest));
                *last = (last.0.max(earliest), last.1.max(latest));
            }
            _ => {}
        }
    }
}

/// What is known about a target's use.
#[derive(Debug)]
pub(super) struct Polled {
    timeout: Duration,
    /// For how long the evidence of an ended flow lasts.
    trace: Duration,
    /// When the last flow ended (or the target became ready): not before the first, not after the second.
    since: (Instant, Instant),
    /// When the kernel was last asked.
    looked: Instant,
    /// What was alive then.
    alive: Count,
}

/// What a poll has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its idle time is over.
    Unused,
    /// Look again then.
    LookAt(Instant),
}

impl Polled {
    /// A target that is out of use since now. The traces of its flows last for `trace`.
    pub(super) fn new(now: Instant, timeout: Duration, trace: Duration) -> Polled {
        Polled { timeout, trace, since: (now, now), looked: now, alive: Count::default() }
    }

    /// The end of the last use, at the latest.
    pub(super) fn since(&self) -> Instant {
        self.since.1
    }

    /// When to look for the first time.
    pub(super) fn first_look(&self) -> Instant {
        self.since.1 + self.timeout.min(self.longest()).max(SHORTEST)
    }

    /// The last moment that still finds the traces of all that ends after a look at `at`.
    pub(super) fn last_look(&self, at: Instant) -> Instant {
        at + self.longest()
    }

    /// The longest time between two looks: short enough for the second to find what ended right after the first.
    fn longest(&self) -> Duration {
        self.trace / 4 * 3
    }

    /// Takes in what a poll has shown of the target at the moment `at`.
    pub(super) fn observe(&mut self, at: Instant, flows: &Count) -> Verdict {
        let before = std::mem::replace(&mut self.alive, *flows);
        let looked = std::mem::replace(&mut self.looked, at);
        let news = flows.closed.is_some_and(|(_, latest)| latest > looked);
        if let Some((earliest, latest)) = flows.closed {
            // What ended after the last look cannot be the end that was known then; what ended before it can be no other.
            let bound = if news { self.since.1.max(latest) } else { self.since.1.min(latest) };
            self.since.0 = self.since.0.max(earliest);
            self.since.1 = bound.max(self.since.0);
        }
        if at.checked_sub(self.trace).is_some_and(|traceless| traceless > looked) {
            // This look came late: a flow may have come in between and fallen silent for so long that it is gone without a
            // trace, which could have been just now.
            self.since.1 = at;
        }
        let traceless = before.udp > 0 || (before.tcp > 0 && !news);
        if flows.open() == 0 && traceless {
            self.since = (at, at);
        }
        let look = if flows.tcp > 0 {
            at + self.timeout
        } else if flows.udp > 0 {
            flows.udp_until.unwrap_or(at).max(at + EXPIRING)
        } else {
            let (earliest, latest) = (self.since.0 + self.timeout, self.since.1 + self.timeout);
            if at >= latest {
                return Verdict::Unused;
            }
            // A poll in the middle halves what is not known: the kernel's seconds are cut at another moment there.
            let middle = earliest + (latest - earliest) / 2;
            if middle > at + SHORTEST { middle } else { latest }
        };
        Verdict::LookAt(look.min(at + self.longest()).max(at + SHORTEST))
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
        Count { closed: Some((latest - SECOND, latest.min(at))), ..Count::default() }
    }

    /// Follows the verdicts until the drain; returns it and how many polls there were.
    fn follow(idle: &mut Polled, flows: impl Fn(Instant) -> Count) -> (Instant, u32) {
        let mut at = idle.first_look();
        for polls in 1..1000 {
            match idle.observe(at, &flows(at)) {
                Verdict::Unused => return (at, polls),
                Verdict::LookAt(next) => {
                    assert!(next > at);
                    at = next;
                }
            }
        }
        panic!("it never drains");
    }

    #[test]
    fn an_unused_target_drains_when_its_time_is_over_with_one_look() {
        let ready = Instant::now();
        let mut idle = Polled::new(ready, 5 * SECOND, 60 * SECOND);
        assert_eq!(follow(&mut idle, |_| Count::default()), (ready + 5 * SECOND, 1));
    }

    #[test]
    fn a_closed_flow_counts_from_its_close_to_half_a_second() {
        let ready = Instant::now();
        for step in 0..400u32 {
            let end = ready + step * Duration::from_millis(37) + Duration::from_millis(3);
            let mut idle = Polled::new(ready, 5 * SECOND, 60 * SECOND);
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
        let mut idle = Polled::new(ready, SECOND, 2 * SECOND);
        assert_eq!(idle.first_look(), ready + SECOND);
        // A flow that came right after the start, and was silent for its 2 s, has just expired.
        let late = ready + 5 * SECOND / 2;
        let mut at = late;
        while let Verdict::LookAt(next) = idle.observe(at, &Count::default()) {
            at = next;
        }
        assert_eq!(at, late + SECOND);
    }

    #[test]
    fn a_tcp_flow_that_vanishes_without_a_trace_counts_until_it_is_missed() {
        // Deleted by an operator, or expired: the time is not known.
        let ready = Instant::now();
        let gone = ready + 7 * SECOND;
        let mut idle = Polled::new(ready, 5 * SECOND, 60 * SECOND);
        let flows = |at| Count { tcp: u32::from(at < gone), ..Count::default() };
        let (drained, _) = follow(&mut idle, flows);
        assert!(drained >= gone + 5 * SECOND, "{:?} after its end", drained - gone);
        assert!(drained <= gone + 10 * SECOND, "{:?} after its end", drained - gone);
        // The closed entry of an older one does not count.
        let old = ready + SECOND;
        let mut idle = Polled::new(ready, 5 * SECOND, 60 * SECOND);
        let flows = |at| Count { tcp: u32::from(at < gone), ..closed_at(old, at) };
        let (drained, _) = follow(&mut idle, flows);
        assert!(drained >= gone + 5 * SECOND && drained <= gone + 10 * SECOND);
    }

    #[test]
    fn a_udp_flow_counts_until_its_entry_is_gone_even_beside_older_traces() {
        let ready = Instant::now();
        let (old, end) = (ready + SECOND, ready + 9 * SECOND + Duration::from_millis(400));
        let mut idle = Polled::new(ready, 5 * SECOND, 60 * SECOND);
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
        let mut idle = Polled::new(ready, 300 * SECOND, 60 * SECOND);
        let end = ready + 200 * SECOND;
        let (drained, _) = follow(&mut idle, |at| {
            if at < end - SECOND || at > end + 60 * SECOND { Count::default() } else { closed_at(end, at) }
        });
        assert!(drained >= end + 300 * SECOND && drained <= end + 301 * SECOND);
    }
}
