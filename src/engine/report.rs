//! Builds the status.

use std::collections::BTreeMap;
use std::time::Instant;

use super::core::Core;
use super::members::Frontend;
use super::runner::Runner;
use super::status::{EndpointStatus, FrontendStatus, Status, TargetState, TargetStatus};
use super::wall::Wall;
use crate::config::{Address, seconds_rounded_up};
use crate::dataplane::flows::{Survey, TargetUse};
use crate::dataplane::hold::AllCounters;
use crate::ids::{FrontendId, TargetId};
use crate::readiness::Missing;

/// Everything that a status or an explanation needs, at one moment.
pub(super) struct View<'a> {
    pub now: Instant,
    pub wall: Wall,
    pub core: &'a Core,
    pub targets: &'a BTreeMap<TargetId, Runner>,
    pub frontends: &'a BTreeMap<FrontendId, Frontend>,
    pub holds: &'a AllCounters,
    /// The flows, or the reason why they are not known.
    pub survey: Result<&'a Survey, &'a String>,
}

impl View<'_> {
    /// The status.
    pub(super) fn status(&self) -> Status {
        let targets = self.targets.iter().map(|(&id, target)| {
            let spec = target.spec();
            let life = self.core.life(id);
            let endpoints = spec.endpoints.iter().map(|endpoint| EndpointStatus {
                name: endpoint.name.clone(),
                protocol: endpoint.protocol,
                address: endpoint.addresses[0],
                addresses: several(&endpoint.addresses),
            });
            TargetStatus {
                name: spec.name.clone(),
                kind: spec.kind.to_string(),
                state: life.state,
                since: self.wall.text(life.since),
                flows: self.use_of(id).map(|used| used.flows),
                drains_in: self.drains_in(id),
                pid: target.pid(),
                retry_in: self.retry_in(id),
                last_error: life.last_error.map(str::to_owned),
                waiting_for: self.missing(id).map(|missing| missing.what),
                endpoints: endpoints.collect(),
            }
        });
        let frontends = self.frontends.iter().map(|(&id, frontend)| {
            let spec = &frontend.spec;
            let (state, last_error) = self.core.frontend(id);
            let endpoint = &spec.endpoint;
            FrontendStatus {
                name: spec.name.clone(),
                kind: spec.kind.to_string(),
                state,
                flows: self.survey.ok().map(|survey| survey.frontends.get(&id).copied().unwrap_or(0)),
                last_error: last_error.map(str::to_owned),
                protocol: spec.protocol,
                listen: spec.listen[0],
                listens: several(&spec.listen),
                target_name: spec.target.clone(),
                endpoint_name: endpoint.name.clone(),
                proxy_address: endpoint.addresses[0],
                proxy_addresses: several(&endpoint.addresses),
                hold: self.holds.frontends.get(&id).map(|counters| counters.read()),
            }
        });
        let hold = self.holds.totals.as_ref().map(|totals| totals.read());
        let mut status =
            Status { closed: self.core.closing(), targets: targets.collect(), frontends: frontends.collect(), hold };
        status.targets.sort_by(|a, b| a.name.cmp(&b.name));
        status.frontends.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    /// Missing condition of a target that warms.
    pub(super) fn missing(&self, id: TargetId) -> Option<Missing> {
        let warms = self.core.life(id).state == TargetState::Warming;
        self.targets[&id].missing().filter(|_| warms)
    }

    /// Use of a target, if it is known.
    pub(super) fn use_of(&self, id: TargetId) -> Option<TargetUse> {
        self.survey.ok().map(|survey| survey.targets.get(&id).copied().unwrap_or_default())
    }

    /// Seconds until the target drains if no flow comes.
    pub(super) fn drains_in(&self, id: TargetId) -> Option<u64> {
        let used = self.use_of(id)?;
        Some(self.seconds_until(self.core.drains_at(id, used.flows, used.ended)?))
    }

    /// Seconds until the target may be started again, while it backs off.
    pub(super) fn retry_in(&self, id: TargetId) -> Option<u64> {
        Some(self.seconds_until(self.core.life(id).retry_at?))
    }

    /// Seconds until a time, rounded up.
    pub(super) fn seconds_until(&self, at: Instant) -> u64 {
        seconds_rounded_up(at.saturating_duration_since(self.now))
    }
}

/// The addresses, if there is more than one.
fn several(addresses: &[Address]) -> Vec<Address> {
    if addresses.len() > 1 { addresses.to_vec() } else { Vec::new() }
}
