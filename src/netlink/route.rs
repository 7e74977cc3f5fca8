//! Route lookups (`linux/rtnetlink.h`) in the calling thread's network namespace.

use std::io;
use std::net::IpAddr;

use neli::consts::rtnl::{Rta, Rtm, Rtn};
use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::message::{Attributes, Message, Request};
use super::socket::Socket;

/// Bytes in `struct rtmsg`.
const HEADER: usize = 12;

/// Offset of `rtm_type` in `struct rtmsg`: after family, both prefix lengths, tos, table, protocol and scope.
const TYPE_AT: usize = 7;

/// Errors of a lookup without a route: none at all, an unreachable, a prohibit (`EACCES`) or a blackhole route (`EINVAL`); or
/// a packet that the kernel would not accept (`EXDEV`, `EINVAL`).
const UNROUTABLE: [Errno; 6] =
    [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL, Errno::ADDRNOTAVAIL, Errno::XDEV];

/// Result of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// True if the packet would be delivered to this host (`RTN_LOCAL`).
    pub local: bool,
    /// Index of the interface that the packet would leave by.
    pub interface: Option<u32>,
}

/// A socket for route lookups. Opening one costs more than a lookup: keep it for several.
#[derive(Debug)]
pub struct Routes {
    socket: Socket,
}

impl Routes {
    /// A socket for lookups in the calling thread's network namespace.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn open() -> io::Result<Routes> {
        Ok(Routes { socket: Socket::open(None)? })
    }

    /// True if the kernel would deliver a packet for `address` to this host (`RTN_LOCAL`). Unlike an attempt to bind to it,
    /// `net.ipv4.ip_nonlocal_bind` makes no difference. An IPv4-mapped IPv6 address counts as the IPv4 address.
    ///
    /// # Errors
    /// As for [`Socket::request`]. A missing route is not an error.
    pub fn is_local(&mut self, address: IpAddr) -> io::Result<bool> {
        Ok(self.look_up(address)?.is_some_and(|route| route.local))
    }

    /// The route of a packet from this host to `address`; `None` if there is none.
    ///
    /// # Errors
    /// As for [`Routes::is_local`].
    pub fn look_up(&mut self, address: IpAddr) -> io::Result<Option<Route>> {
        self.socket.find(request(address.to_canonical()), &UNROUTABLE, parse)
    }

    /// The route of a packet from `source` to `destination` that comes in through an interface; `None` if the kernel would
    /// not accept it: there is no route, forwarding is off, or the reverse path is filtered.
    ///
    /// # Errors
    /// As for [`Routes::is_local`].
    pub fn look_up_input(&mut self, source: IpAddr, interface: u32, destination: IpAddr) -> io::Result<Option<Route>> {
        let request = request(destination).ip(Rta::Src.into(), source).ne32(Rta::Iif.into(), interface);
        self.socket.find(request, &UNROUTABLE, parse)
    }
}

/// `RTM_GETROUTE` for one destination: `struct rtmsg` and `RTA_DST`.
fn request(address: IpAddr) -> Request {
    let (family, bits) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, 32),
        IpAddr::V6(_) => (AddressFamily::INET6, 128),
    };
    let mut header = [0; HEADER];
    header[..2].copy_from_slice(&[family.as_raw() as u8, bits]);
    Request::new(Rtm::Getroute.into(), &header).ip(Rta::Dst.into(), address)
}

fn parse(message: &Message<'_>) -> Option<Route> {
    let kind = message.payload.get(TYPE_AT).filter(|_| message.kind == u16::from(Rtm::Newroute))?;
    let interface = Attributes::after(message.payload, HEADER).ne32(Rta::Oif.into());
    Some(Route { local: *kind == u8::from(Rtn::Local), interface })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::{played, recorded};

    const LO: Option<u32> = Some(1);
    const ETH: Option<u32> = Some(2);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// The bytes after the message's header.
    fn sent(kernel: std::thread::JoinHandle<Vec<Vec<u8>>>) -> Vec<u8> {
        let requests = kernel.join().expect("played");
        // RTM_GETROUTE, REQUEST | ACK
        assert_eq!(requests[0][4..8], [26, 0, 5, 0]);
        requests[0][16..].to_vec()
    }

    fn recorded_lookup(recorded: Vec<Vec<u8>>, address: &str) -> (Option<Route>, Vec<u8>) {
        let (socket, kernel) = played(vec![recorded]);
        let route = Routes { socket }.look_up(ip(address)).expect("a result");
        (route, sent(kernel))
    }

    #[test]
    fn recorded_routes_of_this_host_and_of_the_default_route() {
        let (route, request) = recorded_lookup(recorded!("route_local"), "10.9.0.1");
        assert_eq!(route, Some(Route { local: true, interface: LO }));
        assert_eq!(request, [2, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 1, 0, 10, 9, 0, 1]);
        let (route, request) = recorded_lookup(recorded!("route_local_v6"), "fd09::1");
        assert_eq!(route.map(|route| route.local), Some(true));
        assert_eq!(request[..16], [10, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 1, 0]);
        let (route, request) = recorded_lookup(recorded!("route_default"), "::ffff:198.51.100.1");
        assert_eq!(route, Some(Route { local: false, interface: ETH }));
        assert_eq!((request[0], &request[16..]), (2, &[198, 51, 100, 1][..]));
    }

    #[test]
    fn an_unreachable_destination_has_no_route() {
        assert_eq!(recorded_lookup(recorded!("route_unreachable"), "203.0.113.1").0, None);
    }

    #[test]
    fn a_lookup_of_an_input_route_names_source_and_interface() {
        let (socket, kernel) = played(vec![recorded!("route_input")]);
        let route = Routes { socket }.look_up_input(ip("10.9.0.2"), 2, ip("10.9.0.1")).expect("a result");
        assert_eq!(route, Some(Route { local: true, interface: LO }));
        assert_eq!(sent(kernel)[12..], [8, 0, 1, 0, 10, 9, 0, 1, 8, 0, 2, 0, 10, 9, 0, 2, 8, 0, 3, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn other_errors_are_reported() {
        let error = Request::new(2, &(-1i32).to_ne_bytes()).finish(neli::consts::nl::NlmF::empty(), 0).to_vec();
        let (socket, kernel) = played(vec![vec![error]]);
        assert_eq!(Routes { socket }.is_local(ip("10.9.0.1")).expect_err("EPERM").raw_os_error(), Some(1));
        kernel.join().expect("played");
    }

    #[test]
    fn loopback_addresses_are_of_this_host() {
        let mut routes = Routes::open().expect("a socket");
        for address in ["127.0.0.1", "127.1.2.3", "::ffff:127.0.0.1"] {
            assert!(routes.is_local(ip(address)).expect("a result"), "{address}");
            assert!(routes.look_up(ip(address)).expect("a result").is_some_and(|route| route.local), "{address}");
        }
        // TEST-NET-1 (RFC 5737), with or without a default route.
        assert!(!routes.is_local(ip("192.0.2.1")).expect("a result"));
    }
}
