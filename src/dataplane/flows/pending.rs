//! Orders that wait for their result: watches and checks. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::seen::{Seen, UNANSWERED};
use super::table::Dump;
use super::tracking::State;
use super::{Report, Use};
use crate::ids::TargetId;

/// Time between two dumps while a check waits for the answer to a flow.
const CHECK: Duration = Duration::from_millis(250);

/// The orders, one of each sort for a target at most.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Times of the watches.
    watches: BTreeMap<TargetId, Instant>,
    checks: BTreeMap<TargetId, Check>,
}

/// A drain that waits for flows that were not answered yet.
#[derive(Debug)]
struct Check {
    /// Time of the order.
    asked: Instant,
    until: Instant,
    next: Instant,
}

impl Pending {
    pub(super) fn watch(&mut self, target: TargetId, asked: Instant) {
        self.watches.insert(target, asked);
    }

    pub(super) fn check(&mut self, now: Instant, target: TargetId, asked: Instant) {
        self.checks.insert(target, Check { asked, until: now + UNANSWERED, next: now });
    }

    /// Drops the orders for a target.
    pub(super) fn cancel(&mut self, target: TargetId) {
        self.watches.remove(&target);
        self.checks.remove(&target);
    }

    /// The watched targets that are not in use, and since when.
    pub(super) fn unused(&self, state: impl Fn(TargetId) -> State) -> Vec<(TargetId, Option<Instant>)> {
        let unused = |target: &TargetId| match state(*target) {
            State::Unused { since } => Some((*target, since)),
            State::InUse | State::Unknown => None,
        };
        self.watches.keys().filter_map(unused).collect()
    }

    /// Completes a watch.
    pub(super) fn report_unused(&mut self, target: TargetId, since: Option<Instant>) -> Option<Report> {
        self.watches.remove(&target).map(|asked| Report::Unused { target, asked, since })
    }

    /// Completes the checks of targets that are in use. A failed query, which shows nothing, must not stop a backend either:
    /// then every target counts as in use.
    pub(super) fn report_used(&mut self, is_used: impl Fn(TargetId) -> bool) -> Vec<Report> {
        let (used, others): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.checks).into_iter().partition(|(target, _)| is_used(*target));
        self.checks = others;
        let report = |(target, Check { asked, .. })| Report::Checked { target, asked, result: Use::InUse };
        used.into_iter().map(report).collect()
    }

    /// Whether a check needs a dump.
    pub(super) fn is_check_due(&self, now: Instant) -> bool {
        self.checks.values().any(|check| check.next <= now)
    }

    /// Time of the next dump that a check needs.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.checks.values().map(|check| check.next).min()
    }

    /// Completes the checks that a dump decides.
    pub(super) fn observe(&mut self, dump: &Dump, ended: impl Fn(TargetId) -> Option<Instant>) -> Vec<Report> {
        let of = |is: fn(&Seen) -> bool| -> BTreeSet<TargetId> {
            dump.found.iter().filter(|found| is(&found.seen)).map(|found| found.target).collect()
        };
        if self.checks.is_empty() {
            return Vec::new();
        }
        let used = of(|seen| matches!(seen, Seen::Counted { .. }));
        let unanswered = of(|seen| *seen == Seen::Unanswered);
        let now = dump.window.answered;
        let mut reports = Vec::new();
        self.checks.retain(|target, check| {
            if !used.contains(target) && unanswered.contains(target) && now < check.until {
                check.next = now + CHECK;
                return true;
            }
            let result = if used.contains(target) { Use::InUse } else { Use::Unused { since: ended(*target) } };
            reports.push(Report::Checked { target: *target, asked: check.asked, result });
            false
        });
        reports
    }
}
