//! The flows as operators see them.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use super::seen::Seen;
use super::table::{Dump, Found};
use super::thread::Flows;
use super::tracking::Tracking;
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::Entry;

/// Maximum number of flows of a target that are listed.
const MAX_LISTED: usize = 100;

/// All flows at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    /// Use of the targets.
    pub targets: BTreeMap<TargetId, TargetUse>,
    /// Number of flows that count, of the frontends that have any.
    pub frontends: BTreeMap<FrontendId, u32>,
    /// The flows of the target that was asked for, at most a hundred: those that count first, the youngest last.
    pub details: Vec<FlowDetail>,
}

/// Use of one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetUse {
    /// Number of flows that count.
    pub flows: u32,
    /// Time at which the last one ended, if any has.
    pub ended: Option<Instant>,
    /// Time until which the last one lives at least, where it was queried.
    pub until: Option<Instant>,
}

/// One flow.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowDetail {
    /// The frontend that it came to.
    pub frontend: FrontendId,
    /// Its conntrack entry.
    pub entry: Entry,
    /// Whether it counts as use.
    pub counts: bool,
    /// Minimum age.
    pub age: Option<Duration>,
}

impl Flows {
    /// Counts the flows of all targets, and lists those of one.
    pub(super) fn survey(&mut self, details: Option<TargetId>) -> io::Result<Survey> {
        let now = self.table.kernel.now();
        let mut survey = Survey::default();
        match self.tracking.flows(now) {
            Some(flows) if details.is_none() => {
                flows.into_iter().for_each(|(target, frontend)| survey.count(target, frontend, None));
            }
            _ => {
                let dump = self.dump()?;
                for found in &dump.found {
                    if let Seen::Counted { until } = found.seen {
                        survey.count(found.target, found.frontend, Some(until));
                    }
                }
                let wall = self.table.kernel.wall();
                survey.details = details.map(|target| list(target, &dump, &*self.tracking, wall)).unwrap_or_default();
            }
        }
        for target in self.times.keys() {
            survey.targets.entry(*target).or_default().ended = self.tracking.ended(*target);
        }
        Ok(survey)
    }
}

impl Survey {
    fn count(&mut self, target: TargetId, frontend: FrontendId, until: Option<Instant>) {
        *self.frontends.entry(frontend).or_default() += 1;
        let of_target = self.targets.entry(target).or_default();
        of_target.flows += 1;
        of_target.until = of_target.until.max(until);
    }
}

fn list(target: TargetId, dump: &Dump, tracking: &dyn Tracking, wall: SystemTime) -> Vec<FlowDetail> {
    let now = dump.window.answered;
    let detail = |found: &Found| {
        let stamped = found.entry.start.and_then(|start| {
            let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(start);
            wall.duration_since(start).ok()
        });
        let known = || tracking.began(found).map(|began| now.saturating_duration_since(began));
        let counts = matches!(found.seen, Seen::Counted { .. });
        FlowDetail { frontend: found.frontend, entry: found.entry, counts, age: stamped.or_else(known) }
    };
    let is_open = |found: &&Found| !matches!(found.seen, Seen::Closed(_) | Seen::Unclear { .. });
    let found = dump.found.iter().filter(|found| found.target == target).filter(is_open);
    let mut details: Vec<_> = found.map(detail).collect();
    details.sort_by_key(|detail| (!detail.counts, std::cmp::Reverse(detail.age), detail.entry.original));
    details.truncate(MAX_LISTED);
    details
}
