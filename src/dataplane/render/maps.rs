//! The maps and sets whose keys are what frontends listen on: one for each sort of listen, so that a packet is found in each
//! by one look-up.

use serde_json::{Value, json};

use crate::config::{Ports, Protocol, Route};
use crate::dataplane::plan::Plan;

/// One sort of listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Map {
    /// Its family.
    pub(super) v4: bool,
    /// On every address of this host.
    pub(super) any: bool,
    /// On a range of ports. Hash tables have no ranges, and are faster.
    pub(super) range: bool,
}

impl Map {
    /// Those that a plan needs: the ones with ranges only where there are any.
    pub(super) fn of(plan: &Plan) -> Vec<Map> {
        let mut maps = Vec::new();
        for (v4, any) in [(true, false), (true, true), (false, false), (false, true)] {
            maps.push(Map { v4, any, range: false });
            let ranges = Map { v4, any, range: true };
            let mut routes = plan.frontends.values().flat_map(|rules| &rules.routes);
            maps.extend(routes.any(|route| Map::for_route(route) == ranges).then_some(ranges));
        }
        maps
    }

    /// That of a route's listen.
    pub(super) fn for_route(route: &Route) -> Map {
        Map { v4: route.listen.is_ipv4(), any: route.is_wildcard(), range: route.listen.ports.is_range() }
    }

    /// Its name, such as `active_ip4` or `cold_range_any6`.
    pub(super) fn name(self, prefix: &str) -> String {
        let range = if self.range { "range_" } else { "" };
        let address = if self.any { "any" } else { "ip" };
        format!("{prefix}_{range}{address}{}", if self.v4 { 4 } else { 6 })
    }

    /// The types of its key.
    pub(super) fn key(self, with_protocol: bool) -> Vec<&'static str> {
        let address = if self.v4 { "ipv4_addr" } else { "ipv6_addr" };
        let parts = [(with_protocol, "inet_proto"), (!self.any, address), (true, "inet_service")];
        parts.into_iter().filter_map(|(there, part)| there.then_some(part)).collect()
    }
}

/// The key of a route's listen in its map.
pub(super) fn key_of(protocol: Option<Protocol>, route: &Route) -> Value {
    let protocol = protocol.map(|protocol| json!(protocol.name()));
    let address = (!route.is_wildcard()).then(|| json!(route.listen.ip.to_string()));
    let port = ports_value(route.listen.ports);
    match (&protocol, &address) {
        (None, None) => port,
        _ => json!({ "concat": protocol.into_iter().chain(address).chain([port]).collect::<Vec<_>>() }),
    }
}

fn ports_value(ports: Ports) -> Value {
    if ports.is_range() { json!({ "range": [ports.first(), ports.last()] }) } else { json!(ports.first()) }
}
