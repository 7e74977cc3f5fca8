//! The flows as people want to see them.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use super::kernel::Kernel;
use super::queries::Dump;
use super::seen::{Seen, left};
use super::thread::Flows;
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::Entry;

/// How many flows of a target are listed.
const LISTED: usize = 100;

/// How old a count may be that somebody asks for.
const FRESH: Duration = Duration::from_secs(1);

/// All flows at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// The use of each target, by id.
    pub targets: BTreeMap<TargetId, TargetUse>,
    /// How many flows of each frontend are in use, by id.
    pub frontends: BTreeMap<FrontendId, u32>,
    /// The flows of the target that was asked for: those in use first, the youngest last; at most a hundred.
    pub details: Vec<FlowDetail>,
}

/// The use of one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetUse {
    /// How many flows are in use.
    pub flows: u32,
    /// When the last one ended, if any has.
    pub ended: Option<Instant>,
    /// Until when the last one lives at least.
    pub until: Option<Instant>,
}

/// One flow.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowDetail {
    /// Where it came to.
    pub frontend: FrontendId,
    /// Its conntrack entry.
    pub entry: Entry,
    /// Whether it counts as use.
    pub counts: bool,
    /// For how long it has been known, at least.
    pub age: Option<Duration>,
}

impl<K: Kernel> Flows<K> {
    /// Counts the flows of all targets, and lists those of one.
    pub(super) fn survey(&mut self, details: Option<TargetId>) -> io::Result<Survey> {
        let now = self.kernel.now();
        let fresh = self.dumped.is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        let accounted = self.subscribed && self.stale.is_none();
        let dump = match (details, accounted) {
            (None, true) if fresh || !self.usage.any_doubt(now) => None,
            _ => Some(self.look()?),
        };
        let mut survey = Survey {
            targets: (0..self.times.len()).map(|at| (TargetId::at(at), TargetUse::default())).collect(),
            frontends: (0..self.target_of.len()).map(|at| (FrontendId::at(at), 0)).collect(),
            details: Vec::new(),
        };
        match &dump {
            Some(dump) => {
                for (frontend, entry) in dump.entries.iter().filter(|(_, entry)| Seen::new(entry) == Some(Seen::Open)) {
                    *survey.frontends.entry(*frontend).or_default() += 1;
                    let used = survey.targets.entry(self.target_of[*frontend]).or_default();
                    used.flows += 1;
                    used.until = used.until.max(Some(dump.asked.0 + left(entry)));
                }
            }
            None => {
                for (&target, survey_use) in &mut survey.targets {
                    survey_use.flows = self.usage.flows(target).len() as u32;
                    self.usage
                        .flows(target)
                        .values()
                        .for_each(|flow| *survey.frontends.entry(flow.frontend).or_default() += 1);
                }
            }
        }
        for (&target, survey_use) in &mut survey.targets {
            let polled = self.polled.get(&target).map(|(_, polled)| polled.since());
            survey_use.ended = if self.subscribed { self.usage.ended(target) } else { polled };
        }
        if let (Some(target), Some(dump)) = (details, dump) {
            survey.details = self.details(target, &dump);
        }
        Ok(survey)
    }

    fn details(&self, target: TargetId, dump: &Dump) -> Vec<FlowDetail> {
        let now = dump.asked.1;
        let of_target = dump.entries.iter().filter(|(frontend, _)| self.target_of[*frontend] == target);
        let mut details: Vec<_> = of_target
            .filter_map(|(frontend, entry)| {
                let seen = Seen::new(entry)?;
                let known = self.usage.flows(target).get(&entry.key()).filter(|flow| flow.id == entry.id);
                let stamped = entry.start.and_then(|start| {
                    let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(start);
                    SystemTime::now().duration_since(start).ok()
                });
                let age = stamped.or(known.map(|flow| now.saturating_duration_since(flow.began)));
                let counts = seen == Seen::Open;
                let detail = FlowDetail { frontend: *frontend, entry: *entry, counts, age };
                (seen != Seen::Over).then_some(detail)
            })
            .collect();
        details.sort_by_key(|detail| (!detail.counts, std::cmp::Reverse(detail.age), detail.entry.original));
        details.truncate(LISTED);
        details
    }
}
