//! Plans for tests of the rules.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Access, Masquerade, Prefix, Protocol, Route};
use crate::dataplane::plan::{ColdPath, HoldOptions, OnFailure, OnLink, Plan, Rules, State, Timeouts};
use crate::ids::{FrontendId, TargetId};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').expect("ADDRESS/LENGTH");
    Prefix::around(ip(address), length.parse().expect("a length"))
}

pub(crate) fn route(text: &str) -> Route {
    let (listen, endpoint) = text.split_once('>').expect("LISTEN>ENDPOINT");
    Route { listen: listen.parse().expect("an address"), endpoint: endpoint.parse().expect("an address") }
}

/// A frontend with routes `LISTEN>ENDPOINT` that drops first packets while it is cold.
pub(crate) fn rules(protocol: Protocol, routes: &[&str]) -> Rules {
    Rules {
        name: "f".to_owned(),
        target: TargetId::new(0),
        protocol,
        routes: routes.iter().copied().map(route).collect(),
        timeouts: Timeouts::new(Duration::from_secs(60)),
        cold: ColdPath::Drop,
        access: Access::default(),
        masquerade: Masquerade::Never,
    }
}

/// The same, but it holds first packets.
pub(crate) fn holding(protocol: Protocol, routes: &[&str]) -> Rules {
    let cold = ColdPath::Hold(HoldOptions {
        group: 5,
        packets: 1,
        per_source: 1,
        bytes: 1,
        timeout: Duration::from_secs(1),
        on_failure: OnFailure::Reject,
        replay: true,
    });
    Rules { cold, ..rules(protocol, routes) }
}

pub(crate) fn masquerading(masquerade: Masquerade, protocol: Protocol, routes: &[&str]) -> Rules {
    Rules { masquerade, ..rules(protocol, routes) }
}

pub(crate) fn plan(frontends: impl IntoIterator<Item = Rules>) -> Plan {
    Plan { frontends: (0..).map(FrontendId::new).zip(frontends).collect() }
}

/// The frontends with these numbers.
pub(crate) fn ids(numbers: &[u32]) -> BTreeSet<FrontendId> {
    numbers.iter().copied().map(FrontendId::new).collect()
}

/// A state with these frontends active and cold.
pub(crate) fn state(active: &[u32], cold: &[u32]) -> State {
    State { active: ids(active), cold: ids(cold), ..State::default() }
}

/// Endpoints of the first target that answer from any address.
pub(crate) fn wildcards(endpoints: &[&str]) -> BTreeSet<(TargetId, crate::config::Address)> {
    endpoints.iter().map(|text| (TargetId::new(0), text.parse().expect("an address"))).collect()
}

/// A plan with every kind of cold path.
pub(crate) fn cold() -> Plan {
    plan([
        holding(Protocol::Tcp, &["0.0.0.0:80>127.0.0.1:8080", "[::]:80>[::1]:8080"]),
        rules(Protocol::Udp, &["192.0.2.1:53>10.0.0.1:53", "0.0.0.0:5000>10.0.0.1:5000"]),
        Rules { cold: ColdPath::Local, ..rules(Protocol::Tcp, &["[::]:81>[2001:db8::1]:81"]) },
        holding(Protocol::Udp, &["0.0.0.0:100-110>10.0.0.1:105-115"]),
    ])
}

/// A plan with access rules: refusing, dropping, and in front of sockets of this host.
pub(crate) fn access() -> Plan {
    let refusing = Access {
        allow: vec![prefix("198.51.100.0/24"), prefix("2001:db8:1::/48")],
        deny: vec![prefix("198.51.100.66/32"), prefix("2001:db8:1::66/128")],
        interfaces: vec!["eth0".to_owned(), "lo".to_owned()],
        reject: true,
    };
    let outside = Access { interfaces: vec!["eth0".to_owned()], ..Access::default() };
    let allowed = Access { allow: vec![prefix("198.51.100.0/25")], ..Access::default() };
    plan([
        Rules { access: refusing, ..holding(Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:80", "[::]:80>[fd00::1]:80"]) },
        Rules { access: outside, ..rules(Protocol::Udp, &["192.0.2.1:53>10.0.0.1:53"]) },
        Rules { access: allowed, cold: ColdPath::Local, ..rules(Protocol::Tcp, &["0.0.0.0:82>10.0.0.1:82"]) },
    ])
}

/// A plan with all ways to masquerade.
pub(crate) fn masquerade() -> Plan {
    plan([
        masquerading(Masquerade::Auto, Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:8080", "[::]:80>[fd00::1]:8080"]),
        masquerading(Masquerade::Always, Protocol::Tcp, &["192.0.2.1:81>10.0.0.1:8080"]),
        masquerading(Masquerade::Never, Protocol::Tcp, &["192.0.2.1:82>10.0.0.1:8080"]),
        masquerading(Masquerade::Always, Protocol::Udp, &["0.0.0.0:100-110>10.0.0.1:200-210"]),
        masquerading(Masquerade::Auto, Protocol::Udp, &["[2001:db8::9]:120-130>[fd00::1]:205-215"]),
        masquerading(Masquerade::Always, Protocol::Tcp, &["0.0.0.0:83>127.0.0.1:83"]),
    ])
}

/// Prefixes on the links of two interfaces.
pub(crate) fn on_link() -> BTreeSet<OnLink> {
    [(2, "10.0.0.0/24"), (2, "fd00::/64"), (3, "198.51.100.0/24")]
        .map(|(interface, text)| OnLink { interface, prefix: prefix(text) })
        .into()
}

/// A plan with ranges of ports: to themselves, to others, and with single ports in one frontend.
pub(crate) fn ranges() -> Plan {
    plan([
        rules(Protocol::Udp, &["0.0.0.0:27015-27030>10.0.0.1:27015-27030", "[::1]:27015-27030>[fd00::1]:27015-27030"]),
        rules(
            Protocol::Udp,
            &[
                "192.0.2.1:100-102>10.0.0.1:200-202",
                "0.0.0.0:200-202>10.0.0.1:200-202",
                "[::]:99-101>[fd00::1]:200-202",
            ],
        ),
    ])
}

/// A plan with UDP endpoints on loopback addresses whose sockets may be bound to all addresses.
pub(crate) fn wildcard() -> Plan {
    let auto = |routes: &[&str]| masquerading(Masquerade::Auto, Protocol::Udp, routes);
    plan([
        auto(&["192.0.2.1:5000-5010>127.0.0.1:5000-5010"]),
        auto(&["192.0.2.2:5005-5020>127.0.0.1:5005-5020"]),
        auto(&["0.0.0.0:53>127.0.0.1:5300", "[::]:53>[::1]:5300"]),
        masquerading(Masquerade::Never, Protocol::Udp, &["192.0.2.3:54>127.0.0.1:5400"]),
    ])
}
