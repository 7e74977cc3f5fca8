//! A client and a gateway joined by a veth pair, the gateway with a table that DNATs some of its ports.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};

use crate::namespace::{Namespace, command, nft};

/// The gateway's addresses.
pub const GATEWAY: [&str; 2] = ["10.9.0.1", "fd09::1"];
/// The port that is DNATed, for TCP and for UDP, and where to.
pub const LISTEN: u16 = 80;
pub const BACKEND: u16 = 8080;
/// A port that is not.
pub const FOREIGN: u16 = 9000;
/// A range that is DNATed, for UDP.
pub const RANGE: std::ops::Range<u16> = 20_000..60_000;

pub struct World {
    pub client: Namespace,
    pub gateway: Namespace,
}

impl World {
    pub fn new() -> Option<World> {
        let world = World { client: Namespace::new()?, gateway: Namespace::new()? };
        world.gateway.run(|| {
            command("ip", &["link", "add", "eth", "type", "veth", "peer", "name", "eth", "netns", &world.client.name]);
            interface("10.9.0.1/24", "fd09::1/64");
            nft("table inet t {
                chain translate {
                    meta nfproto ipv4 meta l4proto { tcp, udp } th dport 80 dnat ip to 10.9.0.1:8080
                    meta nfproto ipv6 meta l4proto { tcp, udp } th dport 80 dnat ip6 to [fd09::1]:8080
                    meta nfproto ipv4 udp dport 20000-59999 dnat ip to 10.9.0.1:8080
                }
                chain pre { type nat hook prerouting priority -100; jump translate; }
                chain out { type nat hook output priority -100; jump translate; }
            }");
        });
        world.client.run(|| interface("10.9.0.2/24", "fd09::2/64"));
        Some(world)
    }

    /// Servers on the backend's and on the foreign port: TCP ones, which give out their connections, and UDP ones.
    pub fn serve(&self) -> Servers {
        self.gateway.run(|| Servers {
            tcp: [BACKEND, FOREIGN].map(|port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a listener")),
            udp: [BACKEND, FOREIGN].map(|port| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a socket")),
        })
    }

    /// A connection from the client, and the server's end of it.
    pub fn connect(&self, servers: &Servers, ip: &str, port: u16) -> (TcpStream, TcpStream) {
        let address = to(ip, port);
        let mut near =
            self.client.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)).expect("connected"));
        let (mut far, _) = servers.tcp[usize::from(port == FOREIGN)].accept().expect("accepted");
        near.write_all(b"a").expect("sent");
        far.read_exact(&mut [0]).expect("received");
        far.write_all(b"b").expect("answered");
        near.read_exact(&mut [0]).expect("answer received");
        (near, far)
    }

    /// A datagram from the client, answered or not.
    pub fn datagram(&self, servers: &Servers, ip: &str, port: u16, answer: bool) -> UdpSocket {
        let address = to(ip, port);
        let unspecified = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let near = self.client.run(|| UdpSocket::bind(SocketAddr::new(unspecified, 0)).expect("a socket"));
        near.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        near.send_to(b"a", address).expect("sent");
        let server = &servers.udp[usize::from(port == FOREIGN)];
        let (_, from) = server.recv_from(&mut [0; 8]).expect("received");
        if answer {
            server.send_to(b"b", from).expect("answered");
            let (_, from) = near.recv_from(&mut [0; 8]).expect("answer received");
            assert_eq!(from, address, "translated back");
        }
        near
    }

    /// An echo request of the client, so that there is a flow without ports.
    pub fn ping(&self) {
        self.client.run(|| {
            let (family, kind) = (AddressFamily::INET, SocketType::RAW);
            let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::ICMP)).expect("a raw socket");
            let echo = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
            sendto(&socket, &echo, SendFlags::empty(), &to(GATEWAY[0], 0)).expect("sent");
        });
    }

    /// Datagrams from the client to each port, which nobody answers: one flow each.
    pub fn flood(&self, ports: std::ops::Range<u16>) {
        let near = self.client.run(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
        for port in ports {
            near.send_to(b"a", to(GATEWAY[0], port)).expect("sent");
        }
    }
}

pub struct Servers {
    tcp: [TcpListener; 2],
    udp: [UdpSocket; 2],
}

pub fn to(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("linger");
}

fn interface(v4: &str, v6: &str) {
    command("ip", &["address", "add", v4, "dev", "eth"]);
    command("ip", &["-6", "address", "add", v6, "dev", "eth", "nodad"]);
    command("ip", &["link", "set", "eth", "up"]);
}
