//! Builds the explanation of a target's state.

use super::core::{Cause, Life, WokenBy};
use super::explanation::{Explanation, FlowStatus, TrafficStatus, WokenStatus};
use super::report::View;
use super::sentences::sentences;
use super::status::TargetState;
use crate::dataplane::flows::FlowDetail;
use crate::ids::{FrontendId, TargetId};

/// Name of a cause in the JSON.
fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Idle => "idle",
        Cause::Asked => "asked",
        Cause::Died => "died",
        Cause::Unresponsive => "silent",
        Cause::NotReady => "not_ready",
        Cause::TooOld => "max_uptime",
    }
}

impl View<'_> {
    /// The explanation of a target's state.
    pub(super) fn explain(&self, id: TargetId) -> Explanation {
        let target = &self.targets[&id];
        let spec = target.spec();
        let life = self.core.life(id);
        let name_of = |id: FrontendId| self.frontends[&id].spec.name.clone();
        let woken_by = life.woken.map(|woken| {
            let (frontend, source) = match woken.by {
                WokenBy::Client(id, source) => (Some(name_of(id)), source),
                WokenBy::Pin(id) => (Some(name_of(id)), None),
                WokenBy::Operator => (None, None),
            };
            WokenStatus { frontend, source, at: self.wall.text(woken.at) }
        });
        let details = self.survey.map(|survey| &survey.details[..]).unwrap_or_default();
        let mut explanation = Explanation {
            name: spec.name.clone(),
            kind: spec.kind.to_string(),
            state: life.state,
            since: self.wall.text(life.since),
            woken_by,
            kept_warm_by: self.core.pins(id).map(name_of).collect(),
            drained_because: life.drained.map(cause_name),
            pid: target.pid(),
            flows: self.use_of(id).map(|used| used.flows),
            flow_list: details.iter().map(|detail| self.flow(detail)).collect(),
            drains_in: self.drains_if_idle(id, &life).or_else(|| self.drains_in(id)),
            last_error: life.last_error.map(str::to_owned),
            retry_in: self.retry_in(id),
            waiting_for: self.missing(id).map(|missing| missing.what),
            waiting_since: self.missing(id).map(|missing| self.wall.text(missing.since)),
            sentences: Vec::new(),
        };
        explanation.sentences = sentences(&explanation, id, spec, &life, self);
        explanation
    }

    /// Seconds until a target that is in use drains if all of its flows stay idle.
    fn drains_if_idle(&self, id: TargetId, life: &Life<'_>) -> Option<u64> {
        let until = self.use_of(id).filter(|used| used.flows > 0)?.until?;
        (life.state == TargetState::Active && !life.is_pinned)
            .then(|| self.core.drains_at(id, 0, Some(until)).map(|at| self.seconds_until(at)))?
    }

    fn flow(&self, detail: &FlowDetail) -> FlowStatus {
        let entry = &detail.entry;
        let traffic = |counters: crate::netlink::conntrack::Counters| TrafficStatus {
            packets: counters.packets,
            bytes: counters.bytes,
        };
        FlowStatus {
            frontend: self.frontends[&detail.frontend].spec.name.clone(),
            protocol: entry.protocol,
            source: entry.original.source,
            destination: entry.original.destination,
            endpoint: entry.reply.source,
            tcp_state: entry.tcp_state.map(|state| state.name()),
            counts: detail.counts,
            offloaded: entry.status.offloaded(),
            age_seconds: detail.age.map(|age| age.as_secs()),
            left_seconds: entry.timeout.filter(|_| !entry.status.offloaded()).unwrap_or(0).into(),
            sent: entry.sent.map(traffic),
            received: entry.received.map(traffic),
        }
    }
}

#[cfg(test)]
mod tests;
