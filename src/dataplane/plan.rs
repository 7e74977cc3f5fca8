//! What should be in the kernel, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{
    Access, Address, FrontendSpec, MAX_KERNEL_TIMEOUT, Masquerade, Prefix, Protocol, Route, Shift, seconds_rounded_up,
};
use crate::ids::{Family, FrontendId, TargetId};

/// The longest time that conntrack shows a closed TCP connection for; the kernel's default for TIME_WAIT.
const LONGEST_TRACE: Duration = Duration::from_secs(120);

/// All rules that there can be. It never changes while the daemon runs; [`State`] says which of them are in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Rules of each frontend.
    pub frontends: BTreeMap<FrontendId, Rules>,
}

/// The rules of one frontend.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The frontend's name, for people who read the rule set.
    pub name: String,
    /// Target behind it.
    pub target: TargetId,
    /// What is matched, with the next field.
    pub protocol: Protocol,
    /// Each listen, and where it leads; at least one.
    pub routes: Vec<Route>,
    /// How long a silent flow lives.
    pub timeouts: Timeouts,
    /// What happens to new flows while the target is not active.
    pub cold: ColdPath,
    /// Who may reach it.
    pub access: Access,
    /// Whose source address the endpoint sees.
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

    /// Whether it leads to a range of ports.
    pub fn has_range(&self) -> bool {
        self.routes.iter().any(|route| route.endpoint.ports.is_range())
    }

    /// Where a flow to `destination` is sent to, if it is one of this frontend's.
    pub fn translate(&self, protocol: Protocol, destination: SocketAddr) -> Option<SocketAddr> {
        let route = self.routes.iter().find(|route| route.matches(destination));
        route.filter(|_| self.protocol == protocol).map(|route| route.translate(destination))
    }

    /// The endpoints of a UDP frontend that may answer from another address than they are asked at, where that may be mended.
    pub fn may_be_wildcards(&self) -> impl Iterator<Item = Address> {
        let may = self.protocol == Protocol::Udp && self.masquerade != Masquerade::Never;
        self.routes.iter().map(|route| route.endpoint).filter(move |endpoint| may && endpoint.ip.is_loopback())
    }

    /// Whether clients need `route_localnet` and its guard: those outside who are sent to 127.0.0.0/8, or those on
    /// 127.0.0.0/8 who are sent elsewhere.
    pub fn needs_route_localnet(&self) -> bool {
        let inside = |ip: IpAddr| ip.is_ipv4() && ip.is_loopback();
        let leaves = |route: &Route| route.is_wildcard() && route.listen.is_ipv4() || inside(route.listen.ip);
        self.enters_loopback() || self.masqueraded().any(leaves)
    }

    /// Whether clients outside are sent to 127.0.0.0/8.
    pub fn enters_loopback(&self) -> bool {
        let inside = |ip: IpAddr| ip.is_ipv4() && ip.is_loopback();
        self.routes.iter().any(|route| inside(route.endpoint.ip) && !route.listen.ip.is_loopback())
    }

    /// The routes whose clients' source addresses may have to be replaced: those to other hosts.
    pub fn masqueraded(&self) -> impl Iterator<Item = &Route> {
        let may = self.masquerade != Masquerade::Never;
        self.routes.iter().filter(move |route| may && !route.endpoint.ip.is_loopback())
    }
}

/// What happens to a new flow to a frontend whose target is not active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColdPath {
    /// The packets go to this host's own sockets: the frontend's handler listens there and answers.
    Local,
    /// First packets are dropped, so that the client tries again and finds the backend; it is never refused.
    Drop,
    /// First packets wake the target and wait in the gateway until it is active; then they go on, as if the backend had
    /// always been there.
    Hold(HoldOptions),
}

/// How first packets are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldOptions {
    /// The NFLOG group that carries them; the same for all frontends.
    pub group: u16,
    /// How many packets wait at most; the oldest make room.
    pub packets: u32,
    /// How many of them may be of one source (an IPv4 address, or an IPv6 network of 64 bits).
    pub per_source: u32,
    /// How many bytes wait at most.
    pub bytes: u32,
    /// How long a packet waits at most.
    pub timeout: Duration,
    /// What clients are told when the target fails, or the time is over.
    pub on_failure: OnFailure,
    /// Whether the packets are sent on by the gateway. Otherwise the client's own retransmission is what arrives: then a
    /// firewall's forward policy judges every packet.
    pub replay: bool,
}

/// What clients are told when their packets cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing: they try again by themselves.
    Drop,
    /// That nobody is there: a reset for TCP, the ICMP error for UDP; at once for as long as the target backs off.
    Reject,
}

/// For how long conntrack keeps a flow, in the whole seconds that the kernel counts.
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

    /// A TCP connection in a state that the kernel keeps for `default` seconds: never longer than a silent one.
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

    /// A TCP connection that has been closed or reset: for so long it can be seen that, and when, it was.
    pub fn closed(self) -> u32 {
        self.at_most(LONGEST_TRACE.as_secs() as u32)
    }
}

/// Which of the plan's rules are in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The frontends whose cold path is in.
    pub cold: BTreeSet<FrontendId>,
    /// The frontends whose DNAT is in.
    pub active: BTreeSet<FrontendId>,
    /// The frontends whose cold path refuses clients.
    pub refusing: BTreeSet<FrontendId>,
    /// Who is on which link.
    pub on_link: BTreeSet<OnLink>,
    /// The UDP endpoints of targets, on loopback addresses, that answer from any address of this host.
    pub wildcards: BTreeSet<(TargetId, Address)>,
}

/// The addresses that are on the link of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OnLink {
    /// The interface's index.
    pub interface: u32,
    /// What is reached there without a router.
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
        self.frontends.values().find_map(|rules| match rules.cold {
            ColdPath::Hold(options) => Some(options.group),
            ColdPath::Local | ColdPath::Drop => None,
        })
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
