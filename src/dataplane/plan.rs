//! The rules that should be in the kernel, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{
    Access, Address, FrontendSpec, MAX_KERNEL_TIMEOUT, Masquerade, Prefix, Protocol, Route, Shift, seconds_rounded_up,
};
use crate::ids::{Family, FrontendId, TargetId};

/// Maximum time for which conntrack shows a closed TCP connection, in seconds: the kernel's default for TIME_WAIT.
const CLOSED_RETENTION: u32 = 120;

/// All rules that there can be. It never changes while the daemon runs; [`State`] has those that are in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Rules of each frontend.
    pub frontends: BTreeMap<FrontendId, Rules>,
}

/// The rules of one frontend.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The frontend's name, for the comments in the rule set.
    pub name: String,
    /// The target behind it.
    pub target: TargetId,
    /// The protocol of its flows.
    pub protocol: Protocol,
    /// Each listen with its endpoint; at least one.
    pub routes: Vec<Route>,
    /// Lifetimes of its flows.
    pub timeouts: Timeouts,
    /// Treatment of new flows while the target is not active.
    pub cold: ColdPath,
    /// The clients that may reach it.
    pub access: Access,
    /// The clients whose source address is replaced.
    pub masquerade: Masquerade,
}

impl Rules {
    /// The rules of a frontend of a target. The frontend's plugin chooses the cold path.
    pub fn new(frontend: &FrontendSpec, target: TargetId, cold: ColdPath) -> Rules {
        Rules {
            name: frontend.name.clone(),
            target,
            protocol: frontend.protocol,
            routes: frontend.endpoint.routes(&frontend.listen).collect(),
            timeouts: Timeouts::new(frontend.flow_timeout),
            cold,
            access: frontend.access.clone(),
            masquerade: frontend.masquerade,
        }
    }

    /// Whether the endpoint itself is among the addresses that a wildcard of the frontend stands for.
    pub fn shadows_endpoint(&self) -> bool {
        self.routes.iter().any(|route| route.shadows_endpoint().is_some())
    }

    /// The routes of one family.
    pub fn routes_of(&self, family: Family) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(move |route| Family::of(route.listen.ip) == family)
    }

    /// The port that all of its listens are on, if it is one.
    pub fn only_port(&self) -> Option<u16> {
        let ports = self.routes.first()?.listen.ports;
        let same = self.routes.iter().all(|route| route.listen.ports == ports);
        (same && !ports.is_range()).then_some(ports.first())
    }

    /// Whether an endpoint is a range of ports.
    pub fn has_range(&self) -> bool {
        self.routes.iter().any(|route| route.endpoint.ports.is_range())
    }

    /// The new destination of a flow to `destination`, if it is one of this frontend's.
    pub fn translate(&self, protocol: Protocol, destination: SocketAddr) -> Option<SocketAddr> {
        let route = self.routes.iter().find(|route| route.matches(destination));
        route.filter(|_| self.protocol == protocol).map(|route| route.translate(destination))
    }

    /// The endpoints of a UDP frontend that may answer from another address than their own, where that may be fixed.
    pub fn may_be_wildcards(&self) -> impl Iterator<Item = Address> {
        let may = self.protocol == Protocol::Udp && self.masquerade != Masquerade::Never;
        self.routes.iter().map(|route| route.endpoint).filter(move |endpoint| may && endpoint.ip.is_loopback())
    }

    /// Whether clients need `route_localnet` and its guard: those outside whose flows go to 127.0.0.0/8, or those on
    /// 127.0.0.0/8 whose flows go to other hosts.
    pub fn needs_route_localnet(&self) -> bool {
        let leaves = |route: &Route| route.listen.is_ipv4() && (route.is_wildcard() || route.listen.ip.is_loopback());
        self.enters_loopback() || self.masqueraded().any(leaves)
    }

    /// Whether flows from outside go to 127.0.0.0/8.
    pub fn enters_loopback(&self) -> bool {
        let enters = |Route { listen, endpoint }: &Route| {
            endpoint.is_ipv4() && endpoint.ip.is_loopback() && !listen.ip.is_loopback()
        };
        self.routes.iter().any(enters)
    }

    /// The routes whose clients' source addresses may have to be replaced: those to other hosts.
    pub fn masqueraded(&self) -> impl Iterator<Item = &Route> {
        let may = self.masquerade != Masquerade::Never;
        self.routes.iter().filter(move |route| may && !route.endpoint.ip.is_loopback())
    }
}

/// Treatment of a new flow to a frontend whose target is not active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColdPath {
    /// The packets go to this host's own sockets: the frontend's handler listens there and answers.
    Local,
    /// First packets are dropped, so that the client retransmits and finds the backend; it is never refused.
    Drop,
    /// First packets wake the target and wait in the gateway until it is active; then they are sent on.
    Hold(HoldOptions),
}

impl ColdPath {
    /// The NFLOG group that first packets are held by, if they are held.
    pub fn group(self) -> Option<u16> {
        if let ColdPath::Hold(options) = self { Some(options.group) } else { None }
    }
}

/// Settings of a frontend that holds first packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldOptions {
    /// The NFLOG group that carries them; the same for all frontends.
    pub group: u16,
    /// Maximum number of packets that wait; the oldest are discarded for new ones.
    pub packets: u32,
    /// Maximum number of them of one source (an IPv4 address, or an IPv6 network of 64 bits).
    pub per_source: u32,
    /// Maximum number of bytes that wait.
    pub bytes: u32,
    /// Maximum time for which a packet waits.
    pub timeout: Duration,
    /// Treatment of clients when the target fails, or the time is over.
    pub on_failure: OnFailure,
    /// Whether the packets are sent on by the gateway. Otherwise the client's own retransmission is what arrives: then a
    /// firewall's forward policy judges every packet.
    pub replay: bool,
}

/// Treatment of clients whose packets cannot be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// They are left to retransmit.
    Drop,
    /// They are refused, by a reset for TCP and an ICMP error for UDP; at once for as long as the target backs off.
    Reject,
}

/// Lifetimes of flows in conntrack, in the whole seconds that the kernel counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeouts {
    /// An established TCP connection, or a UDP flow, after its last packet.
    pub silent: u32,
}

impl Timeouts {
    /// Timeouts for a frontend's `flow_timeout`, rounded up to whole seconds, within what the kernel's timers hold.
    pub fn new(flow_timeout: Duration) -> Timeouts {
        let seconds = seconds_rounded_up(flow_timeout.min(MAX_KERNEL_TIMEOUT));
        Timeouts { silent: u32::try_from(seconds).unwrap_or(u32::MAX).max(1) }
    }

    /// A TCP connection in a state that the kernel keeps for `default` seconds: never longer than an idle one.
    pub fn at_most(self, default: u32) -> u32 {
        self.silent.min(default)
    }

    /// A TCP connection whose SYN was not answered yet.
    pub fn syn_sent(self) -> u32 {
        self.at_most(120)
    }

    /// A TCP connection whose handshake was answered and is not complete.
    pub fn syn_received(self) -> u32 {
        self.at_most(60)
    }

    /// A TCP connection that has been closed or reset: for so long conntrack shows that, and when, it was.
    pub fn closed(self) -> u32 {
        self.at_most(CLOSED_RETENTION)
    }
}

/// The rules of a plan that are in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The frontends with their cold path in.
    pub cold: BTreeSet<FrontendId>,
    /// The frontends with their DNAT in.
    pub active: BTreeSet<FrontendId>,
    /// The frontends whose cold path refuses clients.
    pub refusing: BTreeSet<FrontendId>,
    /// The addresses on each link.
    pub on_link: BTreeSet<OnLink>,
    /// The UDP endpoints of targets, on loopback addresses, that answer from any address of this host.
    pub wildcards: BTreeSet<(TargetId, Address)>,
}

/// The addresses that are on the link of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OnLink {
    /// The interface's index.
    pub interface: u32,
    /// Addresses that are reached there without a router.
    pub prefix: Prefix,
}

impl Plan {
    /// Whether any frontend that sends its clients to other hosts masquerades like this.
    pub fn has_masquerade(&self, how: Masquerade) -> bool {
        self.frontends.values().any(|rules| rules.masquerade == how && rules.masqueraded().next().is_some())
    }

    /// Whether any frontend sends clients from outside to 127.0.0.0/8, or from there to the outside.
    pub fn needs_route_localnet(&self) -> bool {
        self.frontends.values().any(Rules::needs_route_localnet)
    }

    /// Whether any frontend sends clients on ::1 to other hosts.
    pub fn needs_loopback_routes(&self) -> bool {
        let local = |listen: IpAddr| listen.is_ipv6() && (listen.is_unspecified() || listen.is_loopback());
        self.frontends.values().any(|rules| rules.masqueraded().any(|route| local(route.listen.ip)))
    }

    /// The NFLOG group that first packets are held by, if any frontend holds them.
    pub fn group(&self) -> Option<u16> {
        self.frontends.values().find_map(|rules| rules.cold.group())
    }

    /// Every range that leads to other ports than its own.
    pub fn shifts(&self) -> BTreeSet<Shift> {
        self.frontends.values().flat_map(|rules| &rules.routes).filter_map(|route| route.shift()).collect()
    }

    /// Every distinct set of timeouts.
    pub fn timeouts(&self) -> BTreeSet<Timeouts> {
        self.frontends.values().map(|rules| rules.timeouts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::render::samples::{self, masquerading, plan, rules};

    /// A frontend of one route that masquerades by itself.
    fn auto(route: &str) -> Rules {
        masquerading(Masquerade::Auto, Protocol::Tcp, &[route])
    }

    #[test]
    fn route_localnet_is_needed_to_enter_127_and_to_leave_it() {
        for (route, enters, needs) in [
            ("0.0.0.0:80>127.0.0.1:80", true, true),
            ("127.0.0.2:80>127.0.0.1:80", false, false),
            ("[::]:80>[::1]:80", false, false),
            ("0.0.0.0:80>10.0.0.1:80", false, true),
            ("127.0.0.1:80>10.0.0.1:80", false, true),
            ("192.0.2.1:80>10.0.0.1:80", false, false),
            ("[::]:80>[fd00::1]:80", false, false),
            ("[::1]:80>[fd00::1]:80", false, false),
        ] {
            let rules = auto(route);
            assert_eq!((rules.enters_loopback(), rules.needs_route_localnet()), (enters, needs), "{route}");
            assert_eq!(plan([rules.clone()]).needs_route_localnet(), needs);
            let never = Rules { masquerade: Masquerade::Never, ..rules };
            assert_eq!(never.needs_route_localnet(), enters, "{route}");
        }
    }

    #[test]
    fn loopback_routes_are_needed_by_clients_on_the_ipv6_loopback() {
        for (route, needs) in [
            ("[::]:80>[fd00::1]:80", true),
            ("[::1]:80>[fd00::1]:80", true),
            ("[2001:db8::1]:80>[fd00::1]:80", false),
            ("[::]:80>[::1]:80", false),
            ("0.0.0.0:80>10.0.0.1:80", false),
            ("127.0.0.1:80>10.0.0.1:80", false),
        ] {
            assert_eq!(plan([auto(route)]).needs_loopback_routes(), needs, "{route}");
        }
    }

    #[test]
    fn only_frontends_to_other_hosts_masquerade() {
        let remote = plan([masquerading(Masquerade::Always, Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:80"])]);
        let local = plan([masquerading(Masquerade::Always, Protocol::Tcp, &["0.0.0.0:80>127.0.0.1:80"])]);
        assert!(remote.has_masquerade(Masquerade::Always) && !remote.has_masquerade(Masquerade::Auto));
        assert!(!local.has_masquerade(Masquerade::Always));
    }

    #[test]
    fn udp_endpoints_on_loopback_addresses_may_be_wildcards() {
        let of = |rules: Rules| rules.may_be_wildcards().map(|address| address.to_string()).collect::<Vec<_>>();
        let routes = ["0.0.0.0:53>127.0.0.1:5300", "[::]:53>[::1]:5300", "192.0.2.1:53>10.0.0.1:53"];
        assert_eq!(of(masquerading(Masquerade::Auto, Protocol::Udp, &routes)), ["127.0.0.1:5300", "[::1]:5300"]);
        assert!(of(masquerading(Masquerade::Never, Protocol::Udp, &routes)).is_empty());
        assert!(of(masquerading(Masquerade::Auto, Protocol::Tcp, &routes)).is_empty());
    }

    #[test]
    fn ports_are_those_of_all_routes() {
        let only = |routes: &[&str]| rules(Protocol::Tcp, routes).only_port();
        assert_eq!(only(&["0.0.0.0:80>10.0.0.1:81", "[::]:80>[fd00::1]:81"]), Some(80));
        assert_eq!(only(&["0.0.0.0:80>10.0.0.1:81", "[::]:82>[fd00::1]:81"]), None);
        assert_eq!(only(&["0.0.0.0:80-81>10.0.0.1:80-81"]), None);
        let has_range = |routes: &[&str]| rules(Protocol::Tcp, routes).has_range();
        assert!(has_range(&["0.0.0.0:80>10.0.0.1:80", "0.0.0.0:81-82>10.0.0.1:81-82"]));
        assert!(!has_range(&["0.0.0.0:80>10.0.0.1:80"]));
    }

    #[test]
    fn a_flow_is_translated_by_the_route_of_its_protocol() {
        let rules = rules(Protocol::Tcp, &["192.0.2.1:80>10.0.0.1:8080", "0.0.0.0:100-110>10.0.0.1:200-210"]);
        let to = |protocol, text: &str| {
            rules.translate(protocol, text.parse().expect("an address")).map(|address| address.to_string())
        };
        assert_eq!(to(Protocol::Tcp, "192.0.2.1:80").as_deref(), Some("10.0.0.1:8080"));
        assert_eq!(to(Protocol::Tcp, "192.0.2.9:105").as_deref(), Some("10.0.0.1:205"));
        assert_eq!(to(Protocol::Udp, "192.0.2.1:80"), None);
        assert_eq!(to(Protocol::Tcp, "192.0.2.2:80"), None);
    }

    #[test]
    fn the_group_is_that_of_a_frontend_that_holds() {
        assert_eq!(samples::cold().group(), Some(5));
        assert_eq!(samples::masquerade().group(), None);
    }

    #[test]
    fn states_of_tcp_live_no_longer_than_an_idle_flow() {
        let times = |seconds| {
            let timeouts = Timeouts::new(Duration::from_secs(seconds));
            [timeouts.syn_sent(), timeouts.syn_received(), timeouts.closed(), timeouts.at_most(7)]
        };
        assert_eq!(times(3600), [120, 60, 120, 7]);
        assert_eq!(times(30), [30, 30, 30, 7]);
        assert_eq!(times(5), [5, 5, 5, 5]);
    }

    #[test]
    fn timeouts_are_whole_seconds_within_the_kernels_range() {
        let seconds = |nanos: u64| Timeouts::new(Duration::from_nanos(nanos)).silent;
        let cases = [(0, 1), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2), (u64::MAX, 24 * 24 * 60 * 60)];
        for (nanos, expected) in cases {
            assert_eq!(seconds(nanos), expected, "{nanos}");
        }
        // At the kernel's highest tick rate.
        assert!(u64::from(Timeouts::new(Duration::MAX).silent) * 1000 < 1 << 31);
    }
}
