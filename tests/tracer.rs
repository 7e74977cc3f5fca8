//! The tracer agrees with the kernel: packets are traced through a table, from its transaction and from nft's listing, and
//! sent; what becomes of them must be the same.

#[path = "../src/dataplane/trace/journey.rs"]
#[allow(dead_code)]
mod journey;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use proxygw::config::{Access, Masquerade, Prefix, Protocol, Route};
use proxygw::dataplane::plan::{ColdPath, HoldOptions, OnFailure, OnLink, Plan, Rules, State, Timeouts};
use proxygw::dataplane::render;
use proxygw::dataplane::trace::{Elements, Interface, Packet, Refusal, Ruleset, Segment, Verdict};
use proxygw::ids::{FrontendId, TargetId};
use proxygw::netlink::conntrack::{Conntrack, Entry};
use proxygw::netlink::link::{self, Link};
use proxygw::netlink::nflog::Nflog;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use journey::{Client, Gateway, Journey, Outcome, Sent, Source};
use support::packets::{datagram, send_packets, syn};
use support::{Lab, Namespace, require_namespaces};

const GROUP: u16 = 5;

/// Time without an answer after which there is none.
const UNANSWERED: Duration = Duration::from_millis(700);

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn route(text: &str) -> Route {
    let (listen, endpoint) = text.split_once('>').expect("LISTEN>ENDPOINT");
    Route { listen: listen.parse().expect("an address"), endpoint: endpoint.parse().expect("an address") }
}

fn rules(protocol: Protocol, cold: ColdPath, masquerade: Masquerade, routes: &[&str]) -> Rules {
    Rules {
        name: "f".to_owned(),
        target: TargetId::new(0),
        protocol,
        routes: routes.iter().copied().map(route).collect(),
        timeouts: Timeouts::new(Duration::from_secs(60)),
        cold,
        access: Access::default(),
        masquerade,
    }
}

/// Something of everything.
fn plan() -> Plan {
    use Masquerade::{Always, Auto, Never};
    use Protocol::{Tcp, Udp};
    let hold = ColdPath::Hold(HoldOptions {
        group: GROUP,
        packets: 1,
        per_source: 1,
        bytes: 1,
        timeout: Duration::from_secs(1),
        on_failure: OnFailure::Reject,
        replay: true,
    });
    let denied = |deny: &str, reject| {
        let (address, length) = deny.split_once('/').expect("a prefix");
        let length = length.parse().expect("a length");
        Access {
            deny: vec![Prefix { address: address.parse().expect("an address"), length }],
            reject,
            ..Access::default()
        }
    };
    let outside = Access { interfaces: vec!["clients".to_owned()], ..Access::default() };
    let frontends = [
        rules(Tcp, hold, Auto, &["0.0.0.0:80>203.0.113.2:8080", "[::]:80>[2001:db8:2::2]:8080"]),
        rules(Udp, hold, Always, &["198.51.100.1:100-110>203.0.113.2:205-215"]),
        rules(Udp, ColdPath::Drop, Auto, &["0.0.0.0:53>127.0.0.1:5300", "[::]:53>[::1]:5300"]),
        rules(Tcp, hold, Never, &["0.0.0.0:81>127.0.0.1:8081"]),
        Rules { access: denied("198.51.100.2/32", true), ..rules(Tcp, hold, Never, &["0.0.0.0:82>203.0.113.2:82"]) },
        Rules { access: denied("198.51.100.2/31", false), ..rules(Udp, hold, Never, &["0.0.0.0:82>203.0.113.2:82"]) },
        rules(Tcp, ColdPath::Local, Never, &["198.51.100.1:83>203.0.113.2:83"]),
        Rules { access: outside, ..rules(Udp, ColdPath::Drop, Never, &["0.0.0.0:84>203.0.113.2:84"]) },
        // The endpoint is an address of the gateway.
        rules(Udp, hold, Never, &["0.0.0.0:300-310>203.0.113.1:305-315"]),
    ];
    Plan { frontends: (0..).map(FrontendId::new).zip(frontends).collect() }
}

/// Protocol, source and destination of each packet. The source port is the packet's number.
const FROM_CLIENT: &[(Protocol, &str, &str)] = &[
    (Protocol::Tcp, "198.51.100.2", "198.51.100.1:80"),
    (Protocol::Tcp, "198.51.100.2", "203.0.113.1:80"),
    (Protocol::Tcp, "198.51.100.2", "203.0.113.2:80"),
    (Protocol::Tcp, "2001:db8:1::2", "[2001:db8:1::1]:80"),
    (Protocol::Tcp, "2001:db8:1::2", "[2001:db8:2::2]:80"),
    (Protocol::Udp, "198.51.100.2", "198.51.100.1:80"),
    (Protocol::Udp, "198.51.100.2", "198.51.100.1:100"),
    (Protocol::Udp, "198.51.100.2", "198.51.100.1:110"),
    (Protocol::Udp, "198.51.100.2", "198.51.100.1:111"),
    (Protocol::Udp, "198.51.100.2", "203.0.113.1:105"),
    (Protocol::Udp, "198.51.100.2", "198.51.100.1:53"),
    (Protocol::Tcp, "198.51.100.2", "198.51.100.1:53"),
    (Protocol::Tcp, "198.51.100.2", "198.51.100.1:81"),
    (Protocol::Tcp, "198.51.100.2", "198.51.100.1:82"),
    (Protocol::Udp, "198.51.100.2", "198.51.100.1:82"),
    (Protocol::Tcp, "198.51.100.2", "198.51.100.1:83"),
    (Protocol::Udp, "198.51.100.2", "198.51.100.1:84"),
    (Protocol::Udp, "198.51.100.2", "203.0.113.1:304"),
    (Protocol::Udp, "198.51.100.2", "203.0.113.1:305"),
    (Protocol::Udp, "198.51.100.2", "198.51.100.1:305"),
];
const FROM_BACKEND: &[(Protocol, &str, &str)] = &[
    (Protocol::Tcp, "203.0.113.2", "203.0.113.1:80"),
    (Protocol::Tcp, "2001:db8:2::2", "[2001:db8:2::1]:80"),
    (Protocol::Udp, "203.0.113.2", "198.51.100.1:101"),
    (Protocol::Tcp, "203.0.113.2", "203.0.113.1:82"),
    (Protocol::Udp, "203.0.113.2", "203.0.113.1:82"),
    (Protocol::Udp, "203.0.113.2", "203.0.113.1:84"),
];
const FROM_GATEWAY: &[(Protocol, &str, &str)] = &[
    (Protocol::Tcp, "198.51.100.1", "198.51.100.1:80"),
    (Protocol::Tcp, "127.0.0.1", "127.0.0.1:80"),
    (Protocol::Tcp, "2001:db8:1::1", "[2001:db8:1::1]:80"),
    (Protocol::Udp, "198.51.100.1", "198.51.100.1:105"),
    (Protocol::Udp, "198.51.100.1", "198.51.100.1:53"),
    (Protocol::Udp, "::1", "[::1]:53"),
    (Protocol::Tcp, "127.0.0.1", "127.0.0.1:81"),
    (Protocol::Tcp, "198.51.100.1", "198.51.100.1:82"),
    (Protocol::Tcp, "198.51.100.1", "198.51.100.1:83"),
    (Protocol::Udp, "203.0.113.1", "203.0.113.1:305"),
    (Protocol::Udp, "203.0.113.1", "203.0.113.1:304"),
];
/// From the clients' link, by hand.
const FORGED: &[(Protocol, &str, &str)] = &[
    (Protocol::Tcp, "198.51.100.1", "198.51.100.1:80"),
    (Protocol::Tcp, "198.51.100.255", "198.51.100.1:80"),
    (Protocol::Tcp, "127.0.0.1", "198.51.100.1:81"),
    (Protocol::Tcp, "0.1.2.3", "198.51.100.1:80"),
    (Protocol::Tcp, "2001:db8:1::1", "[2001:db8:1::1]:80"),
    (Protocol::Tcp, "2001:db8:1::", "[2001:db8:1::1]:80"),
    (Protocol::Tcp, "::1", "[2001:db8:1::1]:80"),
    (Protocol::Udp, "203.0.113.1", "198.51.100.1:101"),
    (Protocol::Udp, "198.51.100.77", "198.51.100.1:82"),
    (Protocol::Udp, "198.51.100.3", "198.51.100.1:82"),
];

/// End of a packet, as far as it can be seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// An entry of conntrack without translation, and an answer.
    Passes,
    Translated {
        to: SocketAddr,
        source: IpAddr,
    },
    Held,
    Refused,
    Dropped,
}

/// What a journey looks like from outside.
fn expected(journey: &Journey, sent: &Sent<'_>, links: &[(Interface<'_>, Vec<(IpAddr, u8)>)]) -> Seen {
    match &journey.outcome {
        Outcome::Passes => Seen::Passes,
        Outcome::Translated { to, source } => Seen::Translated {
            to: *to,
            source: match source {
                Source::Client => sent.source.ip(),
                Source::Other(ip) => *ip,
                Source::Masqueraded => {
                    let on_link = |(own, length): &&(IpAddr, u8)| {
                        own.is_ipv4() == to.is_ipv4()
                            && Prefix::around(*own, *length) == Prefix::around(to.ip(), *length)
                    };
                    links.iter().flat_map(|(_, addresses)| addresses).find(on_link).expect("an address").0
                }
            },
        },
        Outcome::Held { group } => {
            assert_eq!(*group, u64::from(GROUP));
            Seen::Held
        }
        Outcome::Refused(_) => Seen::Refused,
        Outcome::Dropped => Seen::Dropped,
        Outcome::Unknown(statement) => panic!("unknown: {statement}"),
    }
}

/// Sends one packet by a socket, and returns whether there is an answer, a refusal included.
fn is_answered(protocol: Protocol, source: SocketAddr, to: SocketAddr) -> bool {
    if protocol == Protocol::Udp {
        let socket = UdpSocket::bind(source).expect("a socket");
        socket.set_read_timeout(Some(UNANSWERED)).expect("a timeout");
        let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        socket.connect(to).expect("a route");
        // A drop in the output hook is an error of its own, a refusal there one that follows.
        let _ = socket.send(b"?");
        return socket.recv(&mut [0; 16]).is_err_and(refused);
    }
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(UNANSWERED)).expect("a timeout");
    bind(&socket, &source).expect("a free port");
    connect(&socket, &to).map_or_else(|error| error == rustix::io::Errno::CONNREFUSED, |()| true)
}

/// The source ports of the packets that wait in a group.
fn held(nflog: &mut Nflog) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    let mut waits = true;
    while std::mem::take(&mut waits) {
        let read = nflog.receive(&mut |logged| {
            let bytes = logged.payload;
            let header = if bytes[0] >> 4 == 4 { usize::from(bytes[0] & 15) * 4 } else { 40 };
            ports.insert(u16::from_be_bytes([bytes[header], bytes[header + 1]]));
            waits = true;
        });
        read.expect("packets");
    }
    ports
}

/// Conntrack's entries, by the source port.
fn entries(gateway: &Namespace) -> BTreeMap<u16, Entry> {
    let mut found = BTreeMap::new();
    gateway.run(|| {
        let mut conntrack = Conntrack::open().expect("conntrack");
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut each = |entry: &Entry| {
                found.insert(entry.original.source.port(), *entry);
            };
            conntrack.dump_to(protocol, None, &mut each).expect("a dump");
        }
    });
    found
}

/// Runs a transaction of nft in JSON.
fn load(gateway: &Namespace, transaction: &str) {
    let mut nft = gateway.command("nft").args(["-j", "-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    nft.stdin.take().expect("piped").write_all(transaction.as_bytes()).expect("nft reads");
    assert!(nft.wait().expect("nft").success(), "{transaction}");
}

fn parsed(json: &str) -> serde_json::Value {
    serde_json::from_str(json).expect("JSON")
}

#[test]
fn the_tracer_agrees_with_the_kernel() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    lab.gateway.sysctl("ipv4/conf/all/route_localnet", "1");
    for host in [&lab.gateway, &lab.backend] {
        ["ipv4/icmp_ratelimit", "ipv4/icmp_ratemask", "ipv6/icmp/ratelimit"]
            .iter()
            .for_each(|name| host.sysctl(name, "0"));
    }
    let interfaces: Vec<Link> = lab.gateway.run(|| link::all().expect("interfaces"));
    let link =
        |name: &str| interfaces.iter().find(|link| link.name == name).map(Interface::from).expect("an interface");
    let (clients, backends) = (link("clients"), link("backends"));
    let own =
        |addresses: [(&str, u8); 2]| addresses.map(|(ip, length)| (ip.parse().expect("an address"), length)).to_vec();
    let links = vec![
        (clients, own([("198.51.100.1", 24), ("2001:db8:1::1", 64)])),
        (backends, own([("203.0.113.1", 24), ("2001:db8:2::1", 64)])),
    ];
    let on_link: BTreeSet<OnLink> = links
        .iter()
        .flat_map(|(link, addresses)| addresses.iter().map(|(ip, length)| (link.index, Prefix::around(*ip, *length))))
        .map(|(interface, prefix)| OnLink { interface, prefix })
        .collect();
    let plan = plan();
    let all: BTreeSet<FrontendId> = plan.frontends.keys().copied().collect();
    let cold = State { cold: all.clone(), on_link: on_link.clone(), ..State::default() };
    let refusing = State { refusing: all.clone(), ..cold.clone() };
    let wildcards = ["127.0.0.1:5300", "[::1]:5300"].map(|text| (TargetId::new(0), text.parse().expect("an address")));
    let active = State { active: all, wildcards: wildcards.into(), ..cold.clone() };

    // conntrack deletes the entry of a connection that is refused at once.
    let listen = || [53, 80, 81, 82, 83, 8080, 8081].map(|port| TcpListener::bind(("::", port)).expect("a listener"));
    let _servers = [&lab.gateway, &lab.backend].map(|namespace| namespace.run(listen));
    let mut nflog = lab.gateway.run(|| Nflog::open(GROUP).expect("the group is free"));
    let mut rendered = Ruleset::default();
    let mut port = 20_000;
    let mut before: Option<State> = None;
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for state in [cold, refusing, active] {
        let transaction = match &before {
            None => render::table(&plan, &state),
            Some(before) => render::changes(&plan, before, &state).expect("a change"),
        };
        load(&lab.gateway, &transaction);
        if before.is_none() {
            support::nft(&lab.gateway, &render::timeouts(&plan).expect("timeouts"));
        }
        before = Some(state);
        rendered.add(&parsed(&transaction), Elements::Listed);
        let listing = Ruleset::read(&parsed(&lab.gateway.sh("nft -j list table inet proxygw")), Elements::Listed);
        let mut gateways = [rendered, listing].map(|rules| Gateway { rules, links: links.clone() });

        let mut packets: Vec<(Sent<'_>, Option<&Namespace>)> = Vec::new();
        for (list, client, from) in [
            (FROM_CLIENT, Client::Outside(clients), Some(lab.client())),
            (FROM_BACKEND, Client::Outside(backends), Some(&lab.backend)),
            (FROM_GATEWAY, Client::Here, Some(&lab.gateway)),
            (FORGED, Client::Outside(clients), None),
        ] {
            for (protocol, source, destination) in list {
                port += 1;
                let source = SocketAddr::new(source.parse().expect("an address"), port);
                let sent =
                    Sent { client, protocol: *protocol, source, destination: at(destination), segment: Segment::First };
                packets.push((sent, from));
            }
        }
        let forged = packets.iter().filter(|(_, from)| from.is_none()).map(|(sent, _)| match sent.protocol {
            Protocol::Tcp => syn(sent.source, sent.destination),
            Protocol::Udp => datagram(sent.source, sent.destination, b"?"),
        });
        send_packets(lab.client(), &lab.gateway, "clients", &forged.collect::<Vec<_>>());
        let began = Instant::now();
        let answered: Vec<bool> = std::thread::scope(|scope| {
            let probes: Vec<_> = packets
                .iter()
                .map(|(sent, from)| {
                    let probe = move || is_answered(sent.protocol, sent.source, sent.destination);
                    scope.spawn(move || from.is_some_and(|from| from.run(probe)))
                })
                .collect();
            probes.into_iter().map(|probe| probe.join().expect("a probe")).collect()
        });
        assert!(began.elapsed() < Duration::from_secs(60));
        let (held, entries) = (held(&mut nflog), entries(&lab.gateway));
        for ((sent, from), answered) in packets.iter().zip(answered) {
            let entry = entries.get(&sent.source.port());
            let seen = match entry {
                Some(entry) if entry.status.dnat() => {
                    Seen::Translated { to: entry.reply.source, source: entry.reply.destination.ip() }
                }
                _ if held.contains(&sent.source.port()) => Seen::Held,
                Some(_) if answered || from.is_none() => Seen::Passes,
                _ if answered => Seen::Refused,
                _ => Seen::Dropped,
            };
            for gateway in &gateways {
                let journey = gateway.trace(*sent);
                let path = journey.path.join(" > ");
                let expected = match expected(&journey, sent, &links) {
                    // No socket receives the answer.
                    Seen::Refused if from.is_none() => Seen::Dropped,
                    expected => expected,
                };
                assert_eq!(expected, seen, "{sent:?}: {journey} by {path}\n{entry:?}");
            }
            let kind = match seen {
                Seen::Passes => "passes",
                Seen::Translated { source, .. } if source == sent.source.ip() => "translated",
                Seen::Translated { .. } => "masqueraded",
                Seen::Held => "held",
                Seen::Refused => "refused",
                Seen::Dropped => "dropped",
            };
            *outcomes.entry(kind).or_default() += 1;
        }
        rendered = std::mem::take(&mut gateways[0].rules);
    }
    // Every kind of end was there.
    assert_eq!(outcomes.len(), 6, "{outcomes:?}");
    assert_eq!(outcomes.values().sum::<usize>(), 3 * 47, "{outcomes:?}");
}
