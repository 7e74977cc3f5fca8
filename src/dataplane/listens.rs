//! Finds the frontend of a packet or a flow by its original destination.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::plan::Rules;
use crate::config::{PortMap, Protocol};
use crate::ids::{Family, FrontendId};

/// The listens of frontends. No two overlap, so that there is at most one for any destination.
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
        let at = |ip| self.by_address.get(&(protocol, ip))?.get(to.port());
        at(to.ip()).or_else(|| at(Family::of(to.ip()).unspecified()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::render::samples::{plan, rules};

    #[test]
    fn a_listen_on_one_address_comes_before_one_on_all() {
        let routes = ["192.0.2.1:80>10.0.0.1:80", "[::]:80>[fd00::1]:80"];
        let range = ["0.0.0.0:80-90>10.0.0.1:80-90"];
        let plan = plan([rules(Protocol::Tcp, &routes), rules(Protocol::Tcp, &range), rules(Protocol::Udp, &range)]);
        let listens = Listens::new(&plan.frontends);
        for (protocol, to, expected) in [
            (Protocol::Tcp, "192.0.2.1:80", Some(0)),
            (Protocol::Tcp, "192.0.2.2:80", Some(1)),
            (Protocol::Tcp, "192.0.2.1:90", Some(1)),
            (Protocol::Tcp, "192.0.2.1:91", None),
            (Protocol::Udp, "192.0.2.1:80", Some(2)),
            (Protocol::Tcp, "[2001:db8::1]:80", Some(0)),
            (Protocol::Udp, "[2001:db8::1]:80", None),
        ] {
            let found = listens.find(protocol, to.parse().expect("an address"));
            assert_eq!(found, expected.map(FrontendId::new), "{protocol} {to}");
        }
    }
}
