//! Translation of one listen to one address of an endpoint.

use std::net::SocketAddr;

use super::{Address, Ports};

/// One listen of a frontend and its counterpart at the endpoint: of the same family, with the same number of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// Original destination; an unspecified address stands for any address of this host.
    pub listen: Address,
    /// The new destination.
    pub endpoint: Address,
}

/// A range of ports that leads to another of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shift {
    /// The ports of the listen.
    pub from: Ports,
    /// The endpoint's first.
    pub to: u16,
}

impl Shift {
    /// Each port, with the one that it leads to.
    pub fn pairs(self) -> impl Iterator<Item = (u16, u16)> {
        (self.from.first()..=self.from.last()).zip(self.to..=u16::MAX)
    }
}

impl Route {
    /// Whether the listen stands for every address of this host.
    pub fn is_wildcard(self) -> bool {
        self.listen.ip.is_unspecified()
    }

    /// Whether a packet to `destination` takes this route.
    pub fn matches(self, destination: SocketAddr) -> bool {
        let (ip, port) = (destination.ip(), destination.port());
        let is_endpoint = || ip == self.endpoint.ip && self.endpoint.ports.contains(port);
        self.listen.ports.contains(port)
            && self.listen.is_ipv4() == destination.is_ipv4()
            && (self.listen.ip == ip || (self.is_wildcard() && !is_endpoint()))
    }

    /// New destination of a packet to `destination`, which [`matches`](Route::matches).
    pub fn translate(self, destination: SocketAddr) -> SocketAddr {
        let offset = destination.port().wrapping_sub(self.listen.ports.first());
        SocketAddr::new(self.endpoint.ip, self.endpoint.ports.first().wrapping_add(offset))
    }

    /// The ranges of ports, if they differ.
    pub fn shift(self) -> Option<Shift> {
        let shift = Shift { from: self.listen.ports, to: self.endpoint.ports.first() };
        (shift.from.is_range() && shift.from.first() != shift.to).then_some(shift)
    }

    /// Ports at which a wildcard includes the endpoint itself. A packet to it there needs no DNAT, and a readiness probe must
    /// not be held.
    pub fn shadows_endpoint(self) -> Option<Ports> {
        self.listen.ports.common(self.endpoint.ports).filter(|_| self.is_wildcard())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(listen: &str, endpoint: &str) -> Route {
        Route { listen: listen.parse().expect("an address"), endpoint: endpoint.parse().expect("an address") }
    }

    #[test]
    fn a_flow_is_found_and_translated() {
        let shifted = route("0.0.0.0:100-110", "10.0.0.1:205-215");
        for (to, expected) in [
            ("192.0.2.1:100", Some("10.0.0.1:205")),
            ("192.0.2.1:110", Some("10.0.0.1:215")),
            ("192.0.2.1:111", None),
            ("192.0.2.1:99", None),
            ("10.0.0.1:105", Some("10.0.0.1:210")),
            ("[::1]:100", None),
        ] {
            let to: SocketAddr = to.parse().expect("an address");
            let found = shifted.matches(to).then(|| shifted.translate(to).to_string());
            assert_eq!(found.as_deref(), expected, "{to}");
        }
        let same = route("0.0.0.0:100-110", "10.0.0.1:100-110");
        assert!(!same.matches("10.0.0.1:105".parse().expect("an address")), "it is there already");
        assert!(!route("192.0.2.1:80", "10.0.0.1:80").matches("192.0.2.2:80".parse().expect("an address")));
    }

    #[test]
    fn only_ranges_to_other_ports_are_shifted() {
        assert_eq!(route("0.0.0.0:80", "10.0.0.1:81").shift(), None);
        assert_eq!(route("0.0.0.0:80-90", "10.0.0.1:80-90").shift(), None);
        let from = Ports::range(80, 90).expect("in order");
        assert_eq!(route("0.0.0.0:80-90", "10.0.0.1:81-91").shift(), Some(Shift { from, to: 81 }));
        let pairs: Vec<_> = Shift { from, to: 81 }.pairs().collect();
        assert_eq!((pairs.len(), pairs[0], pairs[10]), (11, (80, 81), (90, 91)));
    }

    #[test]
    fn a_wildcard_shadows_its_endpoint_where_their_ports_meet() {
        let ports = |route: Route| route.shadows_endpoint().map(|ports| ports.to_string());
        assert_eq!(ports(route("0.0.0.0:80", "10.0.0.1:80")).as_deref(), Some("80"));
        assert_eq!(ports(route("0.0.0.0:80", "10.0.0.1:81")), None);
        assert_eq!(ports(route("192.0.2.1:80", "10.0.0.1:80")), None);
        assert_eq!(ports(route("0.0.0.0:80-90", "10.0.0.1:85-95")).as_deref(), Some("85-90"));
    }
}
