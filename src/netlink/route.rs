//! Asks the routing tables whether an address is this host's own (`linux/rtnetlink.h`).

use std::io;
use std::net::IpAddr;

use neli::consts::rtnl::{Rta, Rtm, Rtn};
use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::message::Request;
use super::socket::Socket;

/// Where `rtm_type` is in `struct rtmsg`: behind family, both prefix lengths, tos, table, protocol and scope.
const TYPE_AT: usize = 7;

/// Whether the kernel would deliver a packet for `address` to this host (`RTN_LOCAL`), in the calling thread's network
/// namespace. Unlike an attempt to bind to it, `net.ipv4.ip_nonlocal_bind` makes no difference. A v4-mapped IPv6
/// address counts as the IPv4 address.
///
/// # Errors
/// What the operating system said when the kernel could not be asked; that there is no route is not an error.
pub fn is_local(address: IpAddr) -> io::Result<bool> {
    let mut local = false;
    let answer = Socket::open(None)?.request(&mut request(address.to_canonical()), &mut |message| {
        let kind = message.payload.get(TYPE_AT).copied();
        local |= message.kind == u16::from(Rtm::Newroute) && kind == Some(u8::from(Rtn::Local));
    });
    match answer {
        Ok(()) => Ok(local),
        Err(error) if unroutable(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `RTM_GETROUTE` for one destination: `struct rtmsg` and `RTA_DST`.
fn request(address: IpAddr) -> Request {
    let mut header = [0; 12];
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
/// (`EACCES`) or a blackhole route (`EINVAL`).
fn unroutable(error: &io::Error) -> bool {
    [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
