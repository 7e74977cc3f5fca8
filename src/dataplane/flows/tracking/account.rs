//! The flows that keep a target in use, as events show them. Pure: the time is passed in.
//!
//! An event reports that a flow was answered or closed. None reports its packets in between, nor, in time, that its entry has
//! expired. But every event and every query shows until when the entry lives at least. So one flow is remembered, the
//! *longest-lived*: until its time is over, no query is needed. Then another flow takes its place; only when all of them could
//! have expired, the kernel is queried.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::dataplane::flows::seen::{Seen, Window};
use crate::dataplane::flows::table::Found;
use crate::ids::FrontendId;
use crate::netlink::conntrack::Key;

/// Recheck interval of a flow whose last second has begun: the kernel counts whole seconds.
pub(super) const STEP: Duration = Duration::from_millis(200);

/// A flow that counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    /// Distinguishes its entry from later ones of the same key.
    pub id: u32,
    pub frontend: FrontendId,
    /// Time since which it is known to count.
    pub began: Instant,
    /// Time until which it needs no query.
    until: Instant,
    pub changes: Changes,
}

/// Events of a flow's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changes {
    /// The kernel reports them.
    Reported,
    /// The entry is older than the subscription, and may never have an event.
    Unreported,
}

/// The use of one target.
#[derive(Debug)]
pub(super) struct Account {
    pub flows: HashMap<Key, Flow>,
    /// Time at which the last flow ended.
    pub ended: Option<Instant>,
    /// Recheck interval of flows whose changes are not reported.
    recheck: Duration,
    /// The flow that saves queries.
    longest_lived: Option<Key>,
}

impl Account {
    pub(super) fn new(recheck: Duration) -> Account {
        Account { flows: HashMap::new(), ended: None, recheck, longest_lived: None }
    }

    /// The flows that could have expired by now.
    pub(super) fn expired(&self, now: Instant) -> impl Iterator<Item = (&Key, &Flow)> {
        self.flows.iter().filter(move |(_, flow)| flow.until <= now)
    }

    /// Handles the result of a lookup.
    pub(super) fn looked_up(&mut self, window: Window, found: &Found) {
        let key = found.entry.key();
        if let Seen::Closed(closed) = found.seen {
            self.end(closed.latest, &key, None);
        } else if let Some(flow) = self.flows.get(&key) {
            self.update(window, found, flow.changes);
        }
    }

    /// Handles an entry as an event or a dump shows it.
    pub(super) fn update(&mut self, window: Window, found: &Found, changes: Changes) {
        let (key, id) = (found.entry.key(), found.entry.id);
        match found.seen {
            Seen::Counted { until } => {
                let known = self.flows.get(&key).filter(|flow| flow.id == id);
                let began = known.map_or(window.asked, |flow| flow.began);
                let until = until.max(window.asked + STEP);
                let until = match changes {
                    Changes::Reported => until,
                    Changes::Unreported => until.min(window.asked + self.recheck),
                };
                self.flows.insert(key, Flow { id, frontend: found.frontend, began, until, changes });
            }
            Seen::Closed(_) | Seen::Unanswered | Seen::NotCounted => self.end(window.answered, &key, None),
            Seen::Unclear { until } => {
                if let Some(flow) = self.flows.get_mut(&key).filter(|flow| flow.id == id) {
                    flow.until = flow.until.max(until);
                }
            }
        }
    }

    /// Ends a flow; with an `id`, only if it is the flow's.
    pub(super) fn end(&mut self, at: Instant, key: &Key, id: Option<u32>) {
        if self.flows.get(key).is_some_and(|flow| id.is_none_or(|id| id == flow.id)) {
            self.flows.remove(key);
            self.ended_at(at);
        }
    }

    /// A flow has ended.
    pub(super) fn ended_at(&mut self, at: Instant) {
        self.ended = self.ended.max(Some(at));
    }

    /// Time until which the target is in use for certain; `None` if it is not in use.
    pub(super) fn in_use_until(&mut self, now: Instant) -> Option<Instant> {
        if let Some(flow) = self.longest_lived.and_then(|key| self.flows.get(&key))
            && flow.until > now
        {
            return Some(flow.until);
        }
        let (key, flow) = self.flows.iter().max_by_key(|(_, flow)| flow.until).unzip();
        self.longest_lived = key.copied();
        flow.map(|flow| flow.until)
    }
}
