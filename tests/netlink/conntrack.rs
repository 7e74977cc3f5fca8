//! Dumps and deletion.

use std::time::{Duration, Instant};

use proxygw::config::Protocol;
use proxygw::netlink::conntrack::{Conntrack, Entry, TcpState};

use crate::namespace::{Namespace, nft};
use crate::world::{BACKEND, FOREIGN, GATEWAY, LISTEN, RANGE, World, reset, to};

fn dnat(conntrack: &mut Conntrack) -> Vec<Entry> {
    let mut entries = Vec::new();
    conntrack.dump_dnat(&mut |entry| entries.push(*entry)).expect("a dump");
    entries
}

fn to_port(conntrack: &mut Conntrack, protocol: Protocol, port: Option<u16>) -> Vec<Entry> {
    let mut entries = Vec::new();
    conntrack.dump_to(protocol, port, &mut |entry| entries.push(*entry)).expect("a dump");
    entries
}

/// Waits until the entry of the flow from this client address is in `state`.
fn wait_for(conntrack: &mut Conntrack, client: std::net::SocketAddr, state: TcpState) -> Entry {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let entry = dnat(conntrack).into_iter().find(|entry| entry.original.source == client);
        match entry {
            Some(entry) if entry.tcp_state == Some(state) => return entry,
            found => assert!(Instant::now() < until, "not {state:?}: {found:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn exactly_the_translated_flows_are_seen_and_can_be_deleted() {
    let Some(world) = World::new() else { return };
    let servers = world.serve();
    let mut conntrack = world.gateway.run(|| Conntrack::open().expect("a socket"));
    let (mut streams, mut sockets, mut clients) = (Vec::new(), Vec::new(), Vec::new());
    for ip in GATEWAY {
        for port in [LISTEN, FOREIGN] {
            let (near, far) = world.connect(&servers, ip, port);
            let udp = [true, false].map(|answer| world.datagram(&servers, ip, port, answer));
            if port == LISTEN {
                clients.push((near.local_addr().expect("bound").port(), ip, Protocol::Tcp, true));
                clients.push((udp[0].local_addr().expect("bound").port(), ip, Protocol::Udp, true));
                clients.push((udp[1].local_addr().expect("bound").port(), ip, Protocol::Udp, false));
            }
            streams.push((near, far));
            sockets.extend(udp);
        }
    }
    world.ping();
    let all = world.gateway.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").expect("the table"));
    assert!(all.contains("icmp"), "{all}");

    let entries = dnat(&mut conntrack);
    assert_eq!(entries.len(), clients.len(), "{entries:#?}");
    for (port, ip, protocol, answered) in clients {
        let found = entries.iter().find(|entry| entry.original.source.port() == port && entry.protocol == protocol);
        let entry = found.expect("the flow");
        assert_eq!(entry.original.destination, to(ip, LISTEN));
        assert_eq!(entry.reply.source, to(ip, BACKEND));
        assert_eq!(entry.reply.destination, entry.original.source);
        assert!(entry.status.dnat());
        assert_eq!((entry.status.answered(), entry.zone), (answered, 0));
        assert_eq!((entry.sent, entry.received, entry.start), (None, None, None));
        let timeout = entry.timeout.expect("seconds left");
        match protocol {
            Protocol::Tcp => {
                assert_eq!(entry.tcp_state, Some(TcpState::Established));
                assert!(entry.status.assured());
                assert!((431_000..=432_000).contains(&timeout), "{timeout}");
            }
            Protocol::Udp => {
                assert_eq!(entry.tcp_state, None);
                assert!((20..=30).contains(&timeout), "{timeout}");
            }
        }
    }

    for (protocol, port, expected) in [
        (Protocol::Tcp, Some(LISTEN), 2),
        (Protocol::Udp, Some(LISTEN), 4),
        (Protocol::Tcp, Some(FOREIGN), 2),
        (Protocol::Udp, Some(FOREIGN), 4),
        (Protocol::Tcp, Some(BACKEND), 0),
        (Protocol::Tcp, None, 4),
        (Protocol::Udp, None, 8),
    ] {
        let found = to_port(&mut conntrack, protocol, port);
        assert_eq!(found.len(), expected, "{protocol} {port:?}: {found:#?}");
    }

    for mut entry in dnat(&mut conntrack) {
        let id = entry.id;
        entry.id = !id;
        assert!(!conntrack.delete(&entry).expect("asked"), "another entry's id");
        entry.id = id;
        assert!(conntrack.delete(&entry).expect("deleted"));
        assert!(!conntrack.delete(&entry).expect("asked"), "gone");
    }
    assert_eq!(dnat(&mut conntrack), []);
    assert_eq!(to_port(&mut conntrack, Protocol::Tcp, None).len(), 2, "the foreign ones stay");
}

#[test]
fn the_end_of_a_connection_shows() {
    let Some(world) = World::new() else { return };
    let servers = world.serve();
    let mut conntrack = world.gateway.run(|| Conntrack::open().expect("a socket"));
    for ip in GATEWAY {
        let (near, far) = world.connect(&servers, ip, LISTEN);
        let client = near.local_addr().expect("bound");
        wait_for(&mut conntrack, client, TcpState::Established);
        drop(near);
        wait_for(&mut conntrack, client, TcpState::CloseWait);
        drop(far);
        let entry = wait_for(&mut conntrack, client, TcpState::TimeWait);
        assert!((100..=120).contains(&entry.timeout.expect("seconds left")));

        let (near, far) = world.connect(&servers, ip, LISTEN);
        let client = near.local_addr().expect("bound");
        reset(near);
        let entry = wait_for(&mut conntrack, client, TcpState::Close);
        assert!(entry.timeout.expect("seconds left") <= 10);
        drop(far);
    }
}

#[test]
fn counters_start_and_zone_are_read_where_they_are_kept() {
    let Some(world) = World::new() else { return };
    let servers = world.serve();
    let mut conntrack = world.gateway.run(|| {
        for name in ["acct", "timestamp"] {
            std::fs::write(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"), "1").expect("a sysctl");
        }
        for (port, zone) in [(FOREIGN, "ct zone set 7"), (LISTEN, "ct original zone set 9")] {
            nft(&format!(
                "table inet z{port} {{
                    chain pre {{ type filter hook prerouting priority -300; udp dport {port} {zone}; }}
                    chain out {{ type filter hook output priority -300; udp sport {port} ct zone set 7; }}
                }}"
            ));
        }
        Conntrack::open().expect("a socket")
    });
    let _near = world.datagram(&servers, GATEWAY[0], FOREIGN, true);
    let _near = world.datagram(&servers, GATEWAY[0], LISTEN, true);
    let found = to_port(&mut conntrack, Protocol::Udp, Some(FOREIGN));
    let [entry] = found[..] else { panic!("{found:?}") };
    assert_eq!(entry.zone, 7);
    let counted = entry.sent.zip(entry.received).map(|(sent, received)| (sent.packets, sent.bytes, received.packets));
    // One byte of data behind 20 of IPv4 and 8 of UDP.
    assert_eq!(counted, Some((1, 29, 1)));
    let started = std::time::UNIX_EPOCH + Duration::from_nanos(entry.start.expect("a start"));
    assert!(started.elapsed().expect("in the past") < Duration::from_secs(10));
    assert!(conntrack.set_timeout(&entry, 7).expect("set"));
    let left = conntrack.look_up(&entry.key(), entry.id).expect("an answer").and_then(|entry| entry.timeout);
    assert!(matches!(left, Some(5..=7)), "{left:?}");
    assert!(conntrack.delete(&entry).expect("deleted"));
    assert!(!conntrack.set_timeout(&entry, 7).expect("gone"));

    let found = dnat(&mut conntrack);
    let [entry] = found[..] else { panic!("{found:?}") };
    assert_eq!(entry.zone, 9, "of the original direction alone");
    assert!(conntrack.delete(&entry).expect("deleted"));
}

#[test]
fn foreign_flows_cost_a_filtered_dump_less_than_half_of_a_whole_one() {
    let Some(world) = World::new() else { return };
    let servers = world.serve();
    let mut conntrack = world.gateway.run(|| Conntrack::open().expect("a socket"));
    let (_near, _far) = world.connect(&servers, GATEWAY[0], LISTEN);
    for _ in 0..2 {
        // Below the range that is translated.
        world.flood(10_000..RANGE.start);
    }
    // The quickest of a few: the machine may be busy with other tests.
    let quickest = |dump: &mut dyn FnMut()| {
        let time = |_| {
            let started = Instant::now();
            dump();
            started.elapsed()
        };
        (0..5).map(time).min().expect("five")
    };
    let filtered = quickest(&mut || assert_eq!(dnat(&mut conntrack).len(), 1));
    let one = quickest(&mut || assert_eq!(to_port(&mut conntrack, Protocol::Udp, Some(12_345)).len(), 2));
    let mut count = 0;
    let all = quickest(&mut || count = to_port(&mut conntrack, Protocol::Udp, None).len());
    assert!(count >= 19_000, "{count}");
    assert!(2 * filtered < all && 2 * one < all, "{count} flows: {all:?}, dnat {filtered:?}, one port {one:?}");
}

#[test]
fn many_translated_flows_are_all_seen_and_deleted() {
    let Some(world) = World::new() else { return };
    let _servers = world.serve();
    let mut conntrack = world.gateway.run(|| Conntrack::open().expect("a socket"));
    world.flood(RANGE.start..RANGE.start + 5000);
    let started = Instant::now();
    let entries = dnat(&mut conntrack);
    let dumped = started.elapsed();
    assert!(entries.len() >= 4_900, "{}", entries.len());
    let started = Instant::now();
    let deleted = entries.iter().filter(|entry| conntrack.delete(entry).expect("deleted")).count();
    println!("{} flows: dumped in {dumped:?}, {deleted} deleted in {:?}", entries.len(), started.elapsed());
    assert_eq!(deleted, entries.len());
    assert_eq!(dnat(&mut conntrack), []);
}

#[test]
fn an_empty_table_is_an_empty_dump() {
    let Some(namespace) = Namespace::new() else { return };
    let mut conntrack = namespace.run(|| Conntrack::open().expect("a socket"));
    assert_eq!(dnat(&mut conntrack), []);
    assert_eq!(to_port(&mut conntrack, Protocol::Tcp, Some(80)), []);
}
