//! The maps and sets whose keys are listens: one for each kind of listen, so that one lookup in each finds a packet's.

use nftables::expr::Expression;

use super::expr::{address_key, one_or_concat, ports, text};
use crate::config::{Protocol, Route};
use crate::dataplane::plan::Plan;
use crate::ids::Family;

/// One kind of listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Map {
    /// Its family.
    pub(super) family: Family,
    /// On every address of this host.
    pub(super) any: bool,
    /// On a range of ports. Hash tables have no ranges, and are faster.
    pub(super) range: bool,
}

impl Map {
    /// Those that a plan needs: the ones with ranges only where there are any.
    pub(super) fn of(plan: &Plan) -> Vec<Map> {
        let mut maps = Vec::new();
        for (family, any) in [(Family::V4, false), (Family::V4, true), (Family::V6, false), (Family::V6, true)] {
            maps.push(Map { family, any, range: false });
            let ranges = Map { family, any, range: true };
            let mut routes = plan.frontends.values().flat_map(|rules| &rules.routes);
            maps.extend(routes.any(|route| Map::for_route(route) == ranges).then_some(ranges));
        }
        maps
    }

    /// The map of a route's listen.
    pub(super) fn for_route(route: &Route) -> Map {
        let Route { listen, .. } = route;
        Map { family: Family::of(listen.ip), any: route.is_wildcard(), range: listen.ports.is_range() }
    }

    /// Its name, such as `active_ip4` or `cold_range_any6`.
    pub(super) fn name(self, prefix: &str) -> String {
        let range = if self.range { "range_" } else { "" };
        let address = if self.any { "any" } else { "ip" };
        format!("{prefix}_{range}{address}{}", self.family.version())
    }

    /// The types of its key.
    pub(super) fn key(self, with_protocol: bool) -> Vec<&'static str> {
        let parts = [(with_protocol, "inet_proto"), (!self.any, address_key(self.family)), (true, "inet_service")];
        parts.into_iter().filter_map(|(there, part)| there.then_some(part)).collect()
    }
}

/// The key of a route's listen in its map.
pub(super) fn key_of(protocol: Option<Protocol>, route: &Route) -> Expression<'static> {
    let protocol = protocol.map(|protocol| text(protocol.name()));
    let address = (!route.is_wildcard()).then(|| text(route.listen.ip.to_string()));
    one_or_concat(protocol.into_iter().chain(address).chain([ports(route.listen.ports)]).collect())
}
