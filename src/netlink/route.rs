//! Asks the routing tables where a packet would go (`linux/rtnetlink.h`), in the calling thread's network namespace.

use std::io;
use std::net::IpAddr;

use neli::consts::rtnl::{Rta, Rtm, Rtn};
use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::message::{Attributes, Request};
use super::socket::Socket;

/// Bytes in `struct rtmsg`.
const HEADER: usize = 12;

/// Where `rtm_type` is in `struct rtmsg`: behind family, both prefix lengths, tos, table, protocol and scope.
const TYPE_AT: usize = 7;

/// Where the kernel would send a packet to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Whether it would be delivered to this host (`RTN_LOCAL`).
    pub local: bool,
    /// The index of the interface that it would leave by.
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

    /// Whether the kernel would deliver a packet for `address` to this host (`RTN_LOCAL`). Unlike an attempt to bind to it,
    /// `net.ipv4.ip_nonlocal_bind` makes no difference. A v4-mapped IPv6 address counts as the IPv4 address.
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
        self.query(request(address.to_canonical()))
    }

    /// The route of a packet from `source` to `destination` that comes in through an interface; `None` if the kernel would
    /// not accept it: there is no route, forwarding is off, or the reverse path is filtered.
    ///
    /// # Errors
    /// As for [`Routes::is_local`].
    pub fn look_up_input(&mut self, source: IpAddr, interface: u32, destination: IpAddr) -> io::Result<Option<Route>> {
        let with_source = |request: Request| match source {
            IpAddr::V4(source) => request.attribute(Rta::Src.into(), &source.octets()),
            IpAddr::V6(source) => request.attribute(Rta::Src.into(), &source.octets()),
        };
        self.query(with_source(request(destination)).attribute(Rta::Iif.into(), &interface.to_ne_bytes()))
    }

    fn query(&mut self, mut request: Request) -> io::Result<Option<Route>> {
        let mut route = None;
        let result = self.socket.request(&mut request, &mut |message| {
            let Some(kind) = message.payload.get(TYPE_AT) else { return };
            if message.kind == u16::from(Rtm::Newroute) {
                let interface = Attributes::after(message.payload, HEADER).find(Rta::Oif.into());
                let interface = interface.and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes));
                route = Some(Route { local: *kind == u8::from(Rtn::Local), interface });
            }
        });
        match result {
            Ok(()) => Ok(route),
            Err(error) if unroutable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// One [`Routes::is_local`] on a socket of its own.
///
/// # Errors
/// As for [`Routes::open`] and [`Routes::is_local`].
pub fn is_local(address: IpAddr) -> io::Result<bool> {
    Routes::open()?.is_local(address)
}

/// One [`Routes::look_up`] on a socket of its own.
///
/// # Errors
/// As for [`Routes::open`] and [`Routes::look_up`].
pub fn look_up(address: IpAddr) -> io::Result<Option<Route>> {
    Routes::open()?.look_up(address)
}

/// `RTM_GETROUTE` for one destination: `struct rtmsg` and `RTA_DST`.
fn request(address: IpAddr) -> Request {
    let mut header = [0; HEADER];
    let kind = u16::from(Rtm::Getroute);
    let (family, bits) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, 32),
        IpAddr::V6(_) => (AddressFamily::INET6, 128),
    };
    header[0] = family.as_raw() as u8;
    header[1] = bits;
    match address {
        IpAddr::V4(address) => Request::new(kind, &header).attribute(Rta::Dst.into(), &address.octets()),
        IpAddr::V6(address) => Request::new(kind, &header).attribute(Rta::Dst.into(), &address.octets()),
    }
}

/// Whether this is the kernel's answer for an address that it has no route for: none at all, an unreachable, a prohibit
/// (`EACCES`) or a blackhole route (`EINVAL`); or for a packet that it would not take in (`EXDEV`, `EINVAL`).
fn unroutable(error: &io::Error) -> bool {
    [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL, Errno::ADDRNOTAVAIL, Errno::XDEV]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
