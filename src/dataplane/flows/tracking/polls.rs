//! Tracking by polls, where the kernel reports no events.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use super::polled::{Count, Polled};
use super::{AllTimes, Refresh, State, Tracking};
use crate::dataplane::flows::table::{Dump, Table};
use crate::ids::TargetId;

/// Tracking by polls.
pub(in crate::dataplane::flows) struct ByPolls {
    times: AllTimes,
    watched: BTreeMap<TargetId, Polled>,
}

impl ByPolls {
    pub(in crate::dataplane::flows) fn new(times: &AllTimes) -> ByPolls {
        ByPolls { times: times.clone(), watched: BTreeMap::new() }
    }
}

impl Tracking for ByPolls {
    fn watch(&mut self, now: Instant, target: TargetId) {
        let times = self.times[&target];
        self.watched.entry(target).and_modify(|polled| polled.poll_at(now)).or_insert_with(|| Polled::new(now, times));
    }

    fn unwatch(&mut self, target: TargetId) {
        self.watched.remove(&target);
    }

    fn watched(&self) -> Vec<TargetId> {
        self.watched.keys().copied().collect()
    }

    fn refresh(&mut self, table: &mut Table) -> io::Result<Refresh> {
        let now = table.kernel.now();
        let is_due = self.watched.values().any(|polled| polled.next() <= now);
        Ok(if is_due { Refresh::DumpNeeded } else { Refresh::Done })
    }

    fn observe(&mut self, dump: &Dump) {
        let mut counts: BTreeMap<TargetId, Count> = BTreeMap::new();
        dump.found.iter().for_each(|found| counts.entry(found.target).or_default().add(found));
        for (target, polled) in &mut self.watched {
            polled.observe(dump.window.asked, counts.remove(target).unwrap_or_default());
        }
    }

    fn state(&self, target: TargetId) -> State {
        match self.watched.get(&target) {
            Some(polled) if polled.is_unused() => State::Unused { since: Some(polled.since()) },
            _ => State::Unknown,
        }
    }

    fn ended(&self, target: TargetId) -> Option<Instant> {
        self.watched.get(&target).map(Polled::since)
    }

    fn deadline(&mut self, _: Instant) -> Option<Instant> {
        self.watched.values().map(Polled::next).min()
    }
}
