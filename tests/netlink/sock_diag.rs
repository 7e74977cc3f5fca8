//! Who is bound to what.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proxygw::config::Protocol::{self, Tcp, Udp};
use proxygw::netlink::sock_diag::{Bound, Diag, bound};
use rustix::net::sockopt::set_ipv6_v6only;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};

use crate::namespace::{Namespace, command, settle, spawn};

/// A socket, TCP ones listening.
fn socket(protocol: Protocol, address: &str, v6only: bool) -> OwnedFd {
    let address: SocketAddr = address.parse().expect("an address");
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if protocol == Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).expect("a socket");
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, v6only).expect("IPV6_V6ONLY");
    }
    bind(&socket, &address).expect("bound");
    if protocol == Tcp {
        listen(&socket, 8).expect("listening");
    }
    socket
}

/// The same socket, held by another process alone.
struct Other(Child);

impl Other {
    fn holding(socket: OwnedFd) -> Other {
        let mut command = Command::new("sleep");
        let other = Other(spawn(command.arg("60").stdin(Stdio::from(socket))).expect("sleep"));
        // The command has our own copy.
        drop(command);
        settle();
        other
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        settle();
    }
}

fn ask(diag: &mut Diag, protocol: Protocol, address: &str) -> bool {
    how(diag, protocol, address).is_some()
}

fn how(diag: &mut Diag, protocol: Protocol, address: &str) -> Option<Bound> {
    bound(diag, protocol, address.parse().expect("an address")).expect("asked")
}

fn prepare() -> Option<Namespace> {
    let namespace = Namespace::new()?;
    namespace.run(|| {
        for arguments in ["address add 10.9.0.1/32 dev lo", "-6 address add fd09::1/128 dev lo nodad"] {
            command("ip", &arguments.split(' ').collect::<Vec<_>>());
        }
    });
    Some(namespace)
}

#[test]
fn every_kind_of_listener_is_found_by_whom_it_serves() {
    let Some(namespace) = prepare() else { return };
    const ASKED: [&str; 5] = ["127.0.0.1:80", "10.9.0.1:80", "[::1]:80", "[fd09::1]:80", "[::ffff:10.9.0.1]:80"];
    namespace.run(|| {
        let mut diag = Diag::open().expect("a socket");
        for protocol in [Tcp, Udp] {
            for (address, v6only, answers) in [
                ("127.0.0.1:80", false, [true, false, false, false, false]),
                ("10.9.0.1:80", false, [false, true, false, false, true]),
                ("0.0.0.0:80", false, [true, true, false, false, true]),
                ("[::]:80", false, [true, true, true, true, true]),
                ("[::]:80", true, [false, false, true, true, false]),
                ("[::1]:80", false, [false, false, true, false, false]),
                ("[fd09::1]:80", true, [false, false, false, true, false]),
                ("[::ffff:10.9.0.1]:80", false, [false, true, false, false, true]),
                ("[::ffff:0.0.0.0]:80", false, [true, true, false, false, true]),
                ("0.0.0.0:81", false, [false; 5]),
                ("[::]:8080", false, [false; 5]),
            ] {
                let _other = Other::holding(socket(protocol, address, v6only));
                let found = ASKED.map(|asked| ask(&mut diag, protocol, asked));
                assert_eq!(found, answers, "{protocol} {address} v6only {v6only}");
                let expected = if address.contains("0.0.0.0") || address.contains("[::]") {
                    Bound::Wildcard
                } else {
                    Bound::Address
                };
                let bound = ASKED.iter().filter_map(|asked| how(&mut diag, protocol, asked));
                assert!(bound.into_iter().all(|how| how == expected), "{protocol} {address}");
                let swapped = if protocol == Tcp { Udp } else { Tcp };
                assert_eq!(ASKED.map(|asked| ask(&mut diag, swapped, asked)), [false; 5], "not {swapped}");
            }
            assert_eq!(ASKED.map(|asked| ask(&mut diag, protocol, asked)), [false; 5], "all closed");
        }
    });
}

#[test]
fn own_sockets_do_not_count_and_hide_no_other() {
    let Some(namespace) = prepare() else { return };
    namespace.run(|| {
        let mut diag = Diag::open().expect("a socket");
        for protocol in [Tcp, Udp] {
            let own = socket(protocol, "127.0.0.1:80", false);
            assert!(!ask(&mut diag, protocol, "127.0.0.1:80"), "{protocol}: our own");
            // Which cannot be bound beside ours, but to another address.
            let other = Other::holding(socket(protocol, "10.9.0.1:80", false));
            assert!(ask(&mut diag, protocol, "10.9.0.1:80"), "{protocol}: beside our own");
            assert!(!ask(&mut diag, protocol, "127.0.0.1:80"), "{protocol}: still our own");
            drop(own);
            drop(other);
        }
    });
}

#[test]
fn a_socket_that_takes_from_one_peer_does_not_count() {
    let Some(namespace) = prepare() else { return };
    namespace.run(|| {
        let mut diag = Diag::open().expect("a socket");
        let peer: SocketAddr = "127.0.0.1:9".parse().expect("an address");
        let udp = socket(Udp, "127.0.0.1:80", false);
        connect(&udp, &peer).expect("connected");
        let _other = Other::holding(udp);
        assert!(!ask(&mut diag, Udp, "127.0.0.1:80"), "connected UDP");

        let family = AddressFamily::INET;
        let tcp = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
        bind(&tcp, &"127.0.0.1:81".parse::<SocketAddr>().expect("an address")).expect("bound");
        let waiting = Other::holding(tcp);
        assert!(!ask(&mut diag, Tcp, "127.0.0.1:81"), "bound, not listening");
        drop(waiting);

        let server = socket(Tcp, "127.0.0.1:82", false);
        let client = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
        connect(&client, &"127.0.0.1:82".parse::<SocketAddr>().expect("an address")).expect("connected");
        let accepted = rustix::net::accept(&server).expect("accepted");
        drop(server);
        settle();
        let _other = Other::holding(accepted);
        assert!(!ask(&mut diag, Tcp, "127.0.0.1:82"), "a connection without its listener");
    });
}

#[test]
fn a_socket_bound_to_an_interface_counts_unless_the_scope_is_another() {
    let Some(namespace) = prepare() else { return };
    namespace.run(|| {
        let mut diag = Diag::open().expect("a socket");
        let bound_to_lo = socket(Tcp, "0.0.0.0:80", false);
        socket2::SockRef::from(&bound_to_lo.as_fd()).bind_device(Some(b"lo")).expect("SO_BINDTODEVICE");
        let _other = Other::holding(bound_to_lo);
        assert!(ask(&mut diag, Tcp, "127.0.0.1:80"));

        let v6 = socket(Udp, "[::]:80", false);
        socket2::SockRef::from(&v6.as_fd()).bind_device(Some(b"lo")).expect("SO_BINDTODEVICE");
        let _other = Other::holding(v6);
        assert!(ask(&mut diag, Udp, "[::1]:80"));
        assert!(ask(&mut diag, Udp, "[fe80::1%1]:80"));
        assert!(!ask(&mut diag, Udp, "[fe80::1%2]:80"));
    });
}

#[test]
fn a_query_takes_less_than_the_shortest_probe_interval() {
    let Some(namespace) = prepare() else { return };
    namespace.run(|| {
        let mut diag = Diag::open().expect("a socket");
        let _other = Other::holding(socket(Tcp, "127.0.0.1:80", false));
        let _udp = Other::holding(socket(Udp, "127.0.0.1:80", false));
        for (protocol, address, expected) in [
            (Tcp, "127.0.0.1:80", true),
            (Tcp, "127.0.0.1:81", false),
            (Tcp, "[::1]:81", false),
            (Udp, "127.0.0.1:80", true),
            (Udp, "127.0.0.1:81", false),
        ] {
            let time = |_| {
                let started = Instant::now();
                assert_eq!(ask(&mut diag, protocol, address), expected);
                started.elapsed()
            };
            let mut times: Vec<_> = (0..200).map(time).collect();
            times.sort();
            // The median. A target that warms is probed every millisecond at first.
            assert!(times[100] < Duration::from_millis(1), "{protocol} {address} {expected}: {:?}", times[100]);
        }
    });
}
