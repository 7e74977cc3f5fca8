//! Due work of the `conntrack` thread: it queries the kernel, and answers the orders that wait for that.
//!
//! A query that fails is repeated after a pause, and is never taken for "not used".

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::events::SILENT;
use super::kernel::Kernel;
use super::polled::{Count, Verdict};
use super::queries::Dump;
use super::seen::{Seen, closed_between, may_be_answered};
use super::thread::{Check, FEW, Flows, RETRY};
use super::usage::Known;
use super::{Report, Use};
use crate::ids::TargetId;

/// Time between two lookups of an unanswered flow while a drain waits for it.
const CHECK: Duration = Duration::from_millis(250);

impl<K: Kernel> Flows<K> {
    /// Makes the queries that are due, and answers the orders that wait for them.
    pub(super) fn run_due(&mut self) {
        let now = self.kernel.now();
        if self.retry.is_none_or(|at| at <= now) {
            match self.query(now) {
                Ok(()) => self.retry = None,
                Err(error) => {
                    if self.retry.is_none() {
                        log::warn!("cannot query the flows, so no target drains: {error}");
                    }
                    self.retry = Some(now + RETRY);
                    // A failure must not stop a backend that is in use.
                    for (target, Check { asked, .. }) in std::mem::take(&mut self.checks) {
                        self.reports.report(Report::Checked { target, asked, result: Use::InUse });
                    }
                }
            }
        }
        if !self.subscribed || self.stale.is_some() {
            return;
        }
        let usage = &self.usage;
        let is_unused = |(target, _): &(&TargetId, &Instant)| usage.flows(**target).is_empty();
        let unused: Vec<_> = self.awaited.iter().filter(is_unused).map(|(target, asked)| (*target, *asked)).collect();
        if !unused.is_empty() && !self.kernel.reports_changes() {
            // There may be flows without an event, until now: the idle times start again.
            return self.give_up_events(SILENT);
        }
        for (target, asked) in unused {
            self.awaited.remove(&target);
            let since = self.usage.ended(target);
            self.reports.report(Report::Unused { target, asked, since });
        }
    }

    fn query(&mut self, now: Instant) -> io::Result<()> {
        let used: Vec<_> =
            self.checks.keys().filter(|target| !self.usage.flows(**target).is_empty()).copied().collect();
        for target in used {
            self.checked(target, true);
        }
        let poll_due = self.polled.values().any(|(next, _)| *next <= now);
        let check_due = self.checks.values().any(|check| check.next <= now);
        if poll_due || check_due || self.stale.is_some() {
            self.look()?;
            return Ok(());
        }
        self.inquire(now)?;
        for target in self.usage.doubtful(now) {
            let mut suspects = self.usage.suspects(target, now);
            let others = suspects.split_off(suspects.len().min(FEW));
            for suspect in suspects {
                self.recheck(target, suspect)?;
            }
            // One that lives on is enough to know that the target is in use. If none of the first does, a dump knows the rest.
            if !others.is_empty() && self.usage.is_doubtful(target, now) {
                self.look()?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Dumps all flows, and updates everything that depends on them.
    pub(super) fn look(&mut self) -> io::Result<Dump> {
        let dump = self.dump()?;
        let counts = self.count(&dump);
        for (target, (next, polled)) in &mut self.polled {
            let count = counts.get(target).copied().unwrap_or_default();
            match polled.observe(dump.asked.0, &count) {
                Verdict::LookAt(at) => *next = at,
                Verdict::Unused => {
                    // The last time at which a query still finds the closed entries of what ends now.
                    *next = polled.last_look(dump.asked.0);
                    if let Some(asked) = self.awaited.remove(target) {
                        let since = Some(polled.since());
                        self.reports.report(Report::Unused { target: *target, asked, since });
                    }
                }
            }
        }
        if self.subscribed {
            let known = self.stale.take().unwrap_or(Known::Everything);
            let seen: Vec<_> = dump
                .entries
                .iter()
                .map(|(frontend, entry)| {
                    let closed = closed_between(entry, self.index.rules(*frontend).timeouts, dump.asked).1;
                    (self.target_of[*frontend], *frontend, *entry, closed)
                })
                .collect();
            self.usage.reconcile(dump.asked, &seen, known);
        }
        self.look_for_checks(&dump, &counts);
        Ok(dump)
    }

    fn look_for_checks(&mut self, dump: &Dump, counts: &BTreeMap<TargetId, Count>) {
        let targets: Vec<_> = self.checks.keys().copied().collect();
        for target in targets {
            let used = counts.get(&target).is_some_and(|count| count.open() > 0);
            let may_be_used = dump.entries.iter().any(|(frontend, entry)| {
                self.target_of[*frontend] == target
                    && Seen::new(entry) == Some(Seen::Idle)
                    && may_be_answered(entry, self.index.rules(*frontend).timeouts)
            });
            if used || !may_be_used {
                self.checked(target, used);
            } else if let Some(check) = self.checks.get_mut(&target) {
                check.next = dump.asked.1 + CHECK;
                if check.until <= dump.asked.1 {
                    self.checked(target, false);
                }
            }
        }
    }

    fn checked(&mut self, target: TargetId, used: bool) {
        let Some(Check { asked, .. }) = self.checks.remove(&target) else { return };
        let since = if self.subscribed { self.usage.ended(target) } else { None };
        let result = if used { Use::InUse } else { Use::Unused { since } };
        self.reports.report(Report::Checked { target, asked, result });
    }

    /// Time of the next turn, unless something comes before.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let now = self.kernel.now();
        let next = match self.retry {
            Some(retry) => Some(retry),
            None => {
                let polls = self.polled.values().map(|(next, _)| *next);
                let checks = self.checks.values().map(|check| check.next);
                polls.chain(checks).chain(self.reach.deadline()).chain(self.usage.deadline(now)).min()
            }
        };
        let probes = self.connects.as_ref().and_then(|connects| connects.deadline(now));
        next.into_iter().chain(self.gathering).chain(probes).min()
    }
}
