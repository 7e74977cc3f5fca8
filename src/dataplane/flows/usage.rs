//! Which flows keep which target in use, as conntrack's events tell it. Pure: the moments are passed in.
//!
//! An event tells when a flow is answered and when it is closed. Nothing tells of its packets in between, nor, in time, when
//! its entry expires. But every event and every answer of the kernel says until when the entry lives at least. So of
//! each target that is watched one flow is remembered, its *witness*: until its time is over nobody need be asked. Then
//! another flow takes its place; and only when the time of all of them could be over, the kernel is asked.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::seen::{Seen, left};
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::{Entry, Key};

/// How soon a flow is asked for again whose last second has begun: the kernel counts whole seconds.
pub(super) const STEP: Duration = Duration::from_millis(200);

/// A flow that is in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    /// What tells its entry from later ones of the same key.
    pub id: u32,
    /// Where it came to.
    pub frontend: FrontendId,
    /// Since when it has been known to be in use.
    pub began: Instant,
    /// Until when there is no need to ask for it.
    until: Instant,
    /// Whether its changes are events. Those of an entry that is older than the subscription may never be.
    tells: bool,
}

/// The use of one target.
#[derive(Debug)]
struct Use {
    flows: HashMap<Key, Flow>,
    /// When the last flow ended.
    ended: Option<Instant>,
    /// How often a flow is asked for that does not tell.
    doubt: Duration,
    /// The flow that keeps us from asking.
    witness: Option<Key>,
}

/// The use of all targets.
#[derive(Debug)]
pub(super) struct Usage {
    targets: Vec<Use>,
    /// Those whose use is to be known at any moment.
    watched: BTreeSet<TargetId>,
}

impl Usage {
    /// No flows. `doubts` says of each target how often a flow is asked for whose changes are not told.
    pub(super) fn new(doubts: impl Iterator<Item = Duration>) -> Usage {
        let targets = doubts.map(|doubt| Use { flows: HashMap::new(), ended: None, doubt, witness: None });
        Usage { targets: targets.collect(), watched: BTreeSet::new() }
    }

    /// The flows of a target.
    pub(super) fn flows(&self, target: TargetId) -> &HashMap<Key, Flow> {
        &self.targets[target].flows
    }

    /// When the last flow of a target ended, if any has.
    pub(super) fn ended(&self, target: TargetId) -> Option<Instant> {
        self.targets[target].ended
    }

    /// From now on the use of the target is to be known, or not.
    pub(super) fn watch(&mut self, target: TargetId, on: bool) {
        if on {
            self.watched.insert(target);
        } else {
            self.watched.remove(&target);
        }
    }

    /// Those whose use is to be known at any moment.
    pub(super) fn watched(&self) -> Vec<TargetId> {
        self.watched.iter().copied().collect()
    }

    /// Nothing is told any more: nothing is known, and nobody is watched.
    pub(super) fn forget_all(&mut self) {
        self.watched.clear();
        for used in &mut self.targets {
            (used.flows, used.ended) = (HashMap::new(), None);
        }
    }

    /// The flows of a target that could have ended without a word by now.
    pub(super) fn suspects(&self, target: TargetId, now: Instant) -> Vec<(Key, u32, FrontendId)> {
        let flows = self.targets[target].flows.iter().filter(|(_, flow)| flow.until <= now);
        flows.map(|(key, flow)| (*key, flow.id, flow.frontend)).collect()
    }

    /// An event has told this about an entry.
    pub(super) fn told(&mut self, now: Instant, target: TargetId, frontend: FrontendId, entry: &Entry) {
        self.update(now, target, frontend, entry, Some(true));
    }

    /// The kernel has answered this about an entry at `now`, a moment before which it was asked. A flow that is closed by now
    /// was so at `closed` at the latest.
    pub(super) fn answered(&mut self, now: Instant, closed: Instant, target: TargetId, entry: &Entry) {
        let Some(flow) = self.targets[target].flows.get(&entry.key()) else { return };
        let frontend = flow.frontend;
        match Seen::new(entry) {
            Some(Seen::Open) => self.update(now, target, frontend, entry, None),
            _ => self.end(closed, target, &entry.key(), None),
        }
    }

    fn update(&mut self, now: Instant, target: TargetId, frontend: FrontendId, entry: &Entry, tells: Option<bool>) {
        let key = entry.key();
        match Seen::new(entry) {
            Some(Seen::Open) => {
                let used = &mut self.targets[target];
                let known = used.flows.get(&key).filter(|flow| flow.id == entry.id);
                let began = known.map_or(now, |flow| flow.began);
                let tells = tells.or(known.map(|flow| flow.tells)).unwrap_or(true);
                let lives = left(entry).max(STEP);
                let until = now + if tells { lives } else { lives.min(used.doubt) };
                used.flows.insert(key, Flow { id: entry.id, frontend, began, until, tells });
            }
            Some(Seen::Over) => {
                if self.targets[target].flows.contains_key(&key) {
                    self.end(now, target, &key, None);
                }
            }
            Some(Seen::Idle) => self.end(now, target, &key, None),
            None => {
                if let Some(flow) = self.targets[target].flows.get_mut(&key).filter(|flow| flow.id == entry.id) {
                    flow.until = flow.until.max(now + left(entry));
                }
            }
        }
    }

    /// The entry is gone; `id` tells it from a later one.
    pub(super) fn end(&mut self, now: Instant, target: TargetId, key: &Key, id: Option<u32>) {
        let used = &mut self.targets[target];
        if used.flows.get(key).is_some_and(|flow| id.is_none_or(|id| id == flow.id)) {
            used.flows.remove(key);
            used.ended = used.ended.max(Some(now));
        }
    }

    /// Takes in all entries that there are of all targets, with the moment at which each one that is over was closed at the
    /// latest. `lost`: events were lost since it was last known; else what is new has been there from the beginning.
    pub(super) fn reconcile(
        &mut self,
        (at, answered): (Instant, Instant),
        entries: &[(TargetId, FrontendId, Entry, Instant)],
        known: Known,
    ) {
        let mut old: Vec<HashMap<Key, Flow>> =
            self.targets.iter_mut().map(|used| std::mem::take(&mut used.flows)).collect();
        for (target, frontend, entry, closed) in entries {
            let key = entry.key();
            match Seen::new(entry) {
                Some(Seen::Open) => {
                    let before = old[*target].remove(&key).filter(|flow| flow.id == entry.id);
                    if let Some(flow) = before {
                        self.targets[*target].flows.insert(key, flow);
                    }
                    let tells = before.map_or(known != Known::Nothing, |flow| flow.tells);
                    self.update(at, *target, *frontend, entry, Some(tells));
                }
                Some(Seen::Over) => {
                    let was_open = old[*target].remove(&key).is_some();
                    if was_open || known == Known::SomeLost {
                        let ended = &mut self.targets[*target].ended;
                        *ended = (*ended).max(Some(*closed));
                    }
                }
                Some(Seen::Idle) | None => {}
            }
        }
        for (used, old) in self.targets.iter_mut().zip(old) {
            if !old.is_empty() {
                used.ended = used.ended.max(Some(answered));
            }
        }
    }

    /// Forgets all flows of a target.
    pub(super) fn clear(&mut self, target: TargetId) {
        self.targets[target].flows = HashMap::new();
    }

    /// The watched targets of which every flow could have ended without a word by now.
    pub(super) fn doubtful(&mut self, now: Instant) -> Vec<TargetId> {
        self.watched().into_iter().filter(|target| self.is_doubtful(*target, now)).collect()
    }

    /// Whether every flow of the target could have ended without an event by now.
    pub(super) fn is_doubtful(&mut self, target: TargetId, now: Instant) -> bool {
        self.targets[target].certain_until(now).is_some_and(|until| until <= now)
    }

    /// When there will be the next doubt about a watched target.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let targets = &mut self.targets;
        self.watched.iter().filter_map(|id| targets[*id].certain_until(now)).min()
    }

    /// Whether any flow could have ended without a word by now.
    pub(super) fn any_doubt(&self, now: Instant) -> bool {
        self.targets.iter().any(|used| used.flows.values().any(|flow| flow.until <= now))
    }
}

/// What was known before a [`Usage::reconcile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: the subscription is new.
    Nothing,
    /// Everything but what was lost when events came too fast.
    SomeLost,
    /// Everything.
    Everything,
}

impl Use {
    /// Until when it is in use for certain; `None` if it is not in use.
    fn certain_until(&mut self, now: Instant) -> Option<Instant> {
        if let Some(flow) = self.witness.and_then(|witness| self.flows.get(&witness))
            && flow.until > now
        {
            return Some(flow.until);
        }
        let last = self.flows.iter().max_by_key(|(_, flow)| flow.until);
        self.witness = last.map(|(key, _)| *key);
        last.map(|(_, flow)| flow.until)
    }
}

#[cfg(test)]
mod tests;
