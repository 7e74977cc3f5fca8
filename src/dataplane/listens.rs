//! Finds the frontend that a packet or a flow came to, by its original destination.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::plan::Rules;
use crate::config::{PortMap, Protocol};
use crate::ids::FrontendId;

/// What frontends listen on. No two listens overlap, so that there is at most one for any destination.
#[derive(Debug, Default)]
pub struct Listens {
    by_address: HashMap<(Protocol, IpAddr), PortMap<FrontendId>>,
}

impl Listens {
    /// The listens of these frontends.
    pub fn new<'a>(frontends: impl IntoIterator<Item = (&'a FrontendId, &'a Rules)>) -> Listens {
        let mut listens = Listens::default();
        for (id, rules) in frontends {
            for route in &rules.routes {
                let key = (rules.protocol, route.listen.ip);
                listens.by_address.entry(key).or_default().insert(route.listen.ports, *id);
            }
        }
        listens
    }

    /// The frontend that listens there, on that address or on all.
    pub fn find(&self, protocol: Protocol, to: SocketAddr) -> Option<FrontendId> {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let at = |ip| self.by_address.get(&(protocol, ip))?.get(to.port());
        at(to.ip()).or_else(|| at(any))
    }
}
