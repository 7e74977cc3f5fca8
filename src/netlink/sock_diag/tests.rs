//! Recorded sockets, and a kernel that is played by a thread.

use std::net::Ipv6Addr;
use std::os::fd::AsFd as _;

use neli::consts::nl::NlmF;
use rustix::fs::fstat;

use super::*;
use crate::netlink::message::Messages;
use crate::netlink::testing::{played, recorded};

fn found(datagrams: &[Vec<u8>]) -> Vec<Found> {
    let messages = datagrams.iter().flat_map(|datagram| Messages::new(datagram));
    messages.filter_map(|message| Found::parse(&message.expect("whole"))).collect()
}

fn parse(payload: &[u8]) -> Option<Found> {
    Found::parse(&Message { kind: BY_FAMILY, flags: NlmF::empty(), sequence: 1, port: 0, payload })
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A message about a socket.
fn socket(address: &str, v6only: bool, inode: u32) -> Vec<u8> {
    let mut fields = [0; ANSWER];
    match ip(address) {
        IpAddr::V4(ip) => {
            fields[0] = 2;
            fields[8..12].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            fields[0] = 10;
            fields[8..24].copy_from_slice(&ip.octets());
        }
    }
    fields[4..6].copy_from_slice(&80u16.to_be_bytes());
    fields[68..72].copy_from_slice(&inode.to_ne_bytes());
    Request::new(BY_FAMILY, &fields).attribute(V6ONLY, &[v6only.into()]).finish(NlmF::MULTI, 0).to_vec()
}

/// The result of a query for port 80 when the kernel's dumps for IPv4 and IPv6, or for IPv6 only, are these; and the
/// requests.
fn query(address: &str, dumps: &[&[Vec<u8>]]) -> (Option<Bound>, Vec<Vec<u8>>) {
    let done = Request::new(3, &[0; 4]).finish(NlmF::MULTI, 0).to_vec();
    let (socket, kernel) = played(dumps.iter().map(|dump| [*dump, std::slice::from_ref(&done)].concat()).collect());
    let bound = bound(&mut Diag { socket }, Protocol::Udp, SocketAddr::new(ip(address), 80)).expect("a result");
    (bound, kernel.join().expect("played"))
}

#[test]
fn recorded_sockets_have_their_address_interface_and_inode() {
    let socket = |ip, port, interface, v6only, inode| Found { ip, port, interface, v6only, inode };
    let unspecified = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let udp4 = found(&recorded!("sock_diag_udp4"));
    assert_eq!(udp4, [socket(ip("127.0.0.1"), 5353, 0, false, udp4[0].inode)], "the connected one is not reported");
    let udp6 = found(&recorded!("sock_diag_udp6"));
    assert_eq!(udp6, [socket(unspecified, 5353, 0, true, udp6[0].inode)]);
    let device = found(&recorded!("sock_diag_udp6_device"));
    assert_eq!(device, [socket(unspecified, 5354, 2, false, device[0].inode)]);
    let tcp4 = found(&recorded!("sock_diag_tcp4"));
    assert_eq!(tcp4, [socket(ip("0.0.0.0"), 5355, 0, false, tcp4[0].inode)]);
    let tcp6 = found(&recorded!("sock_diag_tcp6"));
    assert_eq!(tcp6, [socket(ip("::ffff:10.9.0.1"), 5353, 0, false, tcp6[0].inode)]);
    let mut inodes: Vec<_> = [udp4, udp6, device, tcp4, tcp6].iter().map(|all| all[0].inode).collect();
    inodes.sort_unstable();
    assert!(inodes[0] > 1000 && inodes.windows(2).all(|pair| pair[1] - pair[0] < 10), "made one after another");
}

#[test]
fn a_truncated_connected_or_unknown_socket_is_none() {
    let message = socket("::", true, 42);
    let mut payload = message[16..].to_vec();
    let ip = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    assert_eq!(parse(&payload), Some(Found { ip, port: 80, interface: 0, v6only: true, inode: 42 }));
    for end in 0..ANSWER {
        assert_eq!(parse(&payload[..end]), None, "{end}");
    }
    assert!(parse(&payload[..ANSWER]).is_some_and(|found| !found.v6only));
    for (at, value) in [(7, 1), (6, 1), (0, 1)] {
        let before = std::mem::replace(&mut payload[at], value);
        assert_eq!(parse(&payload), None, "{at}");
        payload[at] = before;
    }
}

#[test]
fn a_socket_receives_what_is_sent_to_its_address() {
    for (bound, v6only, received) in [
        ("0.0.0.0", false, "1100"),
        ("10.0.0.1", false, "1000"),
        ("::", false, "1111"),
        ("::", true, "0011"),
        ("fd00::1", false, "0010"),
        ("::ffff:0.0.0.0", false, "1100"),
        ("::ffff:10.0.0.1", false, "1000"),
    ] {
        let found = Found { ip: ip(bound), port: 80, interface: 0, v6only, inode: 1 };
        let receives = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"].map(|to| found.receives(ip(to), 0));
        let receives: String = receives.map(|yes| if yes { '1' } else { '0' }).iter().collect();
        assert_eq!(receives, received, "{bound}");
        let is_wildcard = !bound.ends_with(".1") && !bound.ends_with("::1");
        assert_eq!(found.how() == Bound::Wildcard, is_wildcard, "{bound}");
    }
}

#[test]
fn a_scope_excludes_sockets_of_other_interfaces() {
    let receives = |interface, scope| {
        let found = Found { ip: ip("::"), port: 80, interface, v6only: false, inode: 1 };
        found.receives(ip("fe80::1"), scope)
    };
    assert!(receives(0, 0) && receives(0, 2) && receives(2, 0) && receives(2, 2));
    assert!(!receives(3, 2));
}

#[test]
fn a_query_names_family_protocol_state_and_port() {
    let (bound, requests) = query("192.0.2.1", &[&[], &[]]);
    assert_eq!(bound, None);
    for (request, family) in requests.iter().zip([2, 10]) {
        // SOCK_DIAG_BY_FAMILY, REQUEST | DUMP
        assert_eq!(request[4..8], [20, 0, 1, 3]);
        // UDP, TCP_CLOSE, port 80
        assert_eq!(request[16..26], [family, 17, 0, 0, 0x80, 0, 0, 0, 0, 80]);
        assert_eq!((request.len(), &request[26..]), (16 + REQUEST, &[0; 46][..]));
    }
    assert_eq!(requests.len(), 2);
    let listening = super::request(AddressFamily::INET, Protocol::Tcp, 0x1234).finish(NlmF::empty(), 0).to_vec();
    assert_eq!(listening[16..26], [2, 6, 0, 0, 0, 4, 0, 0, 0x12, 0x34]);
}

#[test]
fn a_socket_bound_to_the_address_is_preferred_in_either_family() {
    let address = [socket("192.0.2.1", false, 1)];
    let wildcard = [socket("0.0.0.0", false, 2)];
    let [mapped, dual] = ["::ffff:192.0.2.1", "::"].map(|at| [socket(at, false, 3)]);
    let both = [wildcard[0].clone(), address[0].clone()];
    let bound = |dumps: &[&[Vec<u8>]]| query("192.0.2.1", dumps).0;
    assert_eq!(bound(&[&address]), Some(Bound::Address));
    assert_eq!(bound(&[&both]), Some(Bound::Address));
    assert_eq!(bound(&[&wildcard, &[]]), Some(Bound::Wildcard));
    assert_eq!(bound(&[&wildcard, &mapped]), Some(Bound::Address));
    assert_eq!(bound(&[&wildcard, &dual]), Some(Bound::Wildcard));
    assert_eq!(bound(&[&[], &dual]), Some(Bound::Wildcard));
    assert_eq!(bound(&[&[], &[socket("::", true, 3)]]), None);
    assert_eq!(query("::1", &[&dual]).0, Some(Bound::Wildcard));
    assert_eq!(query("::ffff:192.0.2.1", &[&address]).0, Some(Bound::Address));
}

#[test]
fn sockets_of_other_ports_and_of_this_process_do_not_count() {
    let mut other = socket("192.0.2.1", false, 1);
    other[16 + 5] = 81;
    assert_eq!(query("192.0.2.1", &[&[other], &[]]).0, None);
    let own = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let inode = u32::try_from(fstat(own.as_fd()).expect("its inode").st_ino).expect("it fits");
    assert!(own_inodes().expect("read").contains(&inode));
    let own_and_wildcard = [socket("192.0.2.1", false, inode), socket("0.0.0.0", false, 1)];
    assert_eq!(query("192.0.2.1", &[&own_and_wildcard[..1], &[]]).0, None);
    assert_eq!(query("192.0.2.1", &[&own_and_wildcard, &[]]).0, Some(Bound::Wildcard));
}
