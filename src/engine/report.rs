//! Puts the status together.

use super::core::Core;
use super::status::{EndpointStatus, FrontendStatus, Status, TargetStatus};
use crate::config::{Address, Config};
use crate::dataplane::hold::AllCounters;

/// The state of everything, sorted by name.
pub(super) fn status(config: &Config, core: &Core, holds: &AllCounters) -> Status {
    let targets = config.targets.iter().enumerate().map(|(id, spec)| {
        let (state, last_error) = core.target(id);
        let endpoints = spec.endpoints.iter().map(|endpoint| EndpointStatus {
            name: endpoint.name.clone(),
            protocol: endpoint.protocol,
            address: endpoint.addresses[0],
            addresses: several(&endpoint.addresses),
        });
        TargetStatus {
            name: spec.name.clone(),
            kind: spec.kind.to_string(),
            state,
            last_error: last_error.map(str::to_owned),
            endpoints: endpoints.collect(),
        }
    });
    let frontends = config.frontends.iter().enumerate().map(|(id, spec)| {
        let (state, last_error) = core.frontend(id);
        let endpoint = config.endpoint_of(spec);
        FrontendStatus {
            name: spec.name.clone(),
            kind: spec.kind.to_string(),
            state,
            last_error: last_error.map(str::to_owned),
            protocol: spec.protocol,
            listen: spec.listen[0],
            listens: several(&spec.listen),
            target_name: config.targets[spec.target].name.clone(),
            endpoint_name: endpoint.name.clone(),
            proxy_address: endpoint.addresses[0],
            proxy_addresses: several(&endpoint.addresses),
            hold: holds.frontends.get(&id).map(|counters| counters.read()),
        }
    });
    let hold = holds.totals.as_ref().map(|totals| totals.read());
    let mut status =
        Status { closed: core.closing(), targets: targets.collect(), frontends: frontends.collect(), hold };
    status.targets.sort_by(|a, b| a.name.cmp(&b.name));
    status.frontends.sort_by(|a, b| a.name.cmp(&b.name));
    status
}

/// All addresses, where one does not say it all.
fn several(addresses: &[Address]) -> Vec<Address> {
    if addresses.len() > 1 { addresses.to_vec() } else { Vec::new() }
}
