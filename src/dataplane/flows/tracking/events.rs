//! Tracking by the kernel's events. What they do not show is queried: flows that could have expired, flows whose state an event
//! does not contain, and, with a dump, all flows after a subscription or after a loss of events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::time::{Duration, Instant};

use super::account::{Account, Changes, Flow};
use super::{AllTimes, Refresh, State, Tracking};
use crate::dataplane::flows::kernel::Kernel;
use crate::dataplane::flows::seen::{Seen, Window};
use crate::dataplane::flows::table::{Dump, Found, Table};
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::Key;

/// Maximum number of flows that are looked up one by one, rather than by a dump of all.
pub(in crate::dataplane::flows) const FEW: usize = 16;

/// Time for which a flow that could have expired is still shown to operators without a query.
const FRESH: Duration = Duration::from_secs(1);

/// Tracking by events.
pub(in crate::dataplane::flows) struct ByEvents {
    accounts: BTreeMap<TargetId, Account>,
    watched: BTreeSet<TargetId>,
    gap: Option<Gap>,
    /// Flows that were answered and were not known before, whose state the event did not contain: a connection that conntrack
    /// has picked up in its middle has no other event.
    unclear: BTreeMap<(TargetId, u32), Found>,
}

/// Missing events, which a dump makes up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// Those before the subscription.
    Start,
    /// Those that were lost when they came too fast.
    Overrun,
}

impl ByEvents {
    /// Tracking by a new subscription.
    pub(in crate::dataplane::flows) fn new(times: &AllTimes) -> ByEvents {
        let accounts = times.iter().map(|(id, times)| (*id, Account::new(times.idle.min(times.recheck()))));
        let (watched, unclear) = (BTreeSet::new(), BTreeMap::new());
        ByEvents { accounts: accounts.collect(), watched, gap: Some(Gap::Start), unclear }
    }

    fn account(&mut self, target: TargetId) -> &mut Account {
        self.accounts.get_mut(&target).expect("every target has an account")
    }

    fn is_complete(&self) -> bool {
        self.gap.is_none() && self.unclear.is_empty()
    }

    /// Whether every flow of a target that is in use could have expired by now.
    fn is_due(&mut self, target: TargetId, now: Instant) -> bool {
        self.account(target).in_use_until(now).is_some_and(|until| until <= now)
    }
}

impl Tracking for ByEvents {
    fn watch(&mut self, _: Instant, target: TargetId) {
        self.watched.insert(target);
    }

    fn unwatch(&mut self, target: TargetId) {
        self.watched.remove(&target);
    }

    fn watched(&self) -> Vec<TargetId> {
        self.watched.iter().copied().collect()
    }

    fn flushed(&mut self, target: TargetId) {
        self.account(target).flows = HashMap::new();
        self.unclear.retain(|(of, _), _| *of != target);
    }

    fn changed(&mut self, now: Instant, found: &Found) {
        self.account(found.target).update(Window::at(now), found, Changes::Reported);
        let is_unclear = matches!(found.seen, Seen::Unclear { .. }) && found.entry.status.answered();
        if is_unclear && self.unclear.len() <= FEW {
            let is_known = self.account(found.target).flows.contains_key(&found.entry.key());
            if !is_known {
                self.unclear.insert((found.target, found.entry.id), *found);
            }
        }
    }

    fn removed(&mut self, now: Instant, found: &Found) {
        self.account(found.target).end(now, &found.entry.key(), Some(found.entry.id));
    }

    fn overrun(&mut self) {
        self.gap = Some(Gap::Overrun);
    }

    fn refresh(&mut self, table: &mut Table) -> io::Result<Refresh> {
        if self.gap.is_some() || self.unclear.len() > FEW {
            return Ok(Refresh::DumpNeeded);
        }
        while let Some((key, found)) = self.unclear.first_key_value() {
            let (key, (window, found)) = (*key, table.look_up(found.frontend, &found.entry.key(), found.entry.id)?);
            self.unclear.remove(&key);
            found.iter().for_each(|found| self.account(key.0).update(window, found, Changes::Reported));
        }
        let now = table.kernel.now();
        for target in self.watched() {
            if !self.is_due(target, now) {
                continue;
            }
            let mut expired: Vec<_> =
                self.account(target).expired(now).map(|(key, flow)| (flow.frontend, *key, flow.id)).collect();
            let others = expired.split_off(expired.len().min(FEW));
            for (frontend, key, id) in expired {
                match table.look_up(frontend, &key, id)? {
                    (window, Some(found)) => self.account(target).looked_up(window, &found),
                    (window, None) => self.account(target).end(window.answered, &key, Some(id)),
                }
            }
            // One that lives on is enough to know that the target is in use. If none of the first does, a dump shows the rest.
            if !others.is_empty() && self.is_due(target, now) {
                return Ok(Refresh::DumpNeeded);
            }
        }
        Ok(Refresh::Done)
    }

    fn observe(&mut self, dump: &Dump) {
        self.unclear.clear();
        let gap = self.gap.take();
        let new = if gap == Some(Gap::Start) { Changes::Unreported } else { Changes::Reported };
        let flows = |(id, account): (&TargetId, &mut Account)| (*id, std::mem::take(&mut account.flows));
        let mut before: BTreeMap<TargetId, HashMap<Key, Flow>> = self.accounts.iter_mut().map(flows).collect();
        for found in &dump.found {
            let key = found.entry.key();
            let account = self.account(found.target);
            let mut known = || before.get_mut(&found.target)?.remove(&key);
            match found.seen {
                Seen::Counted { .. } => {
                    let known = known().filter(|flow| flow.id == found.entry.id);
                    account.flows.extend(known.map(|flow| (key, flow)));
                    account.update(dump.window, found, known.map_or(new, |flow| flow.changes));
                }
                Seen::Closed(closed) => {
                    // It may have opened and closed among the events that were lost.
                    if known().is_some() || gap == Some(Gap::Overrun) {
                        account.ended_at(closed.latest);
                    }
                }
                Seen::Unanswered | Seen::NotCounted | Seen::Unclear { .. } => {}
            }
        }
        for (target, _) in before.iter().filter(|(_, vanished)| !vanished.is_empty()) {
            self.account(*target).ended_at(dump.window.answered);
        }
    }

    fn state(&self, target: TargetId) -> State {
        let account = &self.accounts[&target];
        match account.flows.is_empty() {
            false => State::InUse,
            true if self.is_complete() => State::Unused { since: account.ended },
            true => State::Unknown,
        }
    }

    fn ended(&self, target: TargetId) -> Option<Instant> {
        self.accounts[&target].ended
    }

    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if !self.is_complete() {
            return Some(now);
        }
        let accounts = &mut self.accounts;
        self.watched.iter().filter_map(|id| accounts.get_mut(id)?.in_use_until(now)).min()
    }

    fn flows(&self, now: Instant) -> Option<Vec<(TargetId, FrontendId)>> {
        let is_current =
            |account: &Account| now.checked_sub(FRESH).is_none_or(|at| account.expired(at).next().is_none());
        let is_known = self.is_complete() && self.accounts.values().all(is_current);
        let accounts = self.accounts.iter();
        let flows = accounts.flat_map(|(id, account)| account.flows.values().map(|flow| (*id, flow.frontend)));
        is_known.then(|| flows.collect())
    }

    fn began(&self, found: &Found) -> Option<Instant> {
        let flow = self.accounts[&found.target].flows.get(&found.entry.key())?;
        (flow.id == found.entry.id).then_some(flow.began)
    }

    fn is_available(&self, kernel: &dyn Kernel) -> bool {
        kernel.reports_changes()
    }
}

#[cfg(test)]
mod tests;
