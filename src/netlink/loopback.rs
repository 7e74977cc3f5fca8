//! Routes for replies whose destination becomes ::1 again (`linux/rtnetlink.h`).
//!
//! The flows of a client on ::1 to another host are masqueraded. Their replies come in through an interface, where their
//! destination is turned back into ::1. For that address the kernel requires a route by the very interface
//! (`rt6_need_strict()`), and there is only the one by `lo`. So each interface gets one more, after that of `lo`. No other
//! host can use it: the kernel drops packets to ::1 that come in through an interface (RFC 4291, 2.5.3).

use std::io;
use std::net::Ipv6Addr;

use neli::consts::nl::NlmF;
use neli::consts::rtnl::{Rta, Rtm, Rtn};
use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::message::{Attributes, Message, Request};
use super::socket::{Socket, unless};
use crate::ids::OUR_NUMBER;

/// `RTA_PRIORITY` of our routes, by which they are found again, after a crash too.
const METRIC: u32 = OUR_NUMBER as u32;

/// `RT_TABLE_LOCAL`.
const TABLE: u8 = 255;

/// `RTPROT_STATIC`.
const PROTOCOL: u8 = 4;

/// `struct rtmsg`: family, both prefix lengths, tos, table, protocol, scope, type, flags u32.
const HEADER: usize = 12;

/// Adds the route by an interface, unless it exists.
///
/// # Errors
/// The operating system's error: `PermissionDenied` without `CAP_NET_ADMIN`, no such interface, IPv6 is off.
pub fn add(interface: u32) -> io::Result<()> {
    add_over(&mut Socket::open(None)?, interface)
}

/// Removes all routes that were added, by any daemon.
///
/// # Errors
/// The operating system's error.
pub fn remove_all() -> io::Result<()> {
    remove_all_over(&mut Socket::open(None)?)
}

fn add_over(socket: &mut Socket, interface: u32) -> io::Result<()> {
    unless(&[Errno::EXIST], socket.perform(request(Rtm::Newroute.into(), interface), NlmF::CREATE | NlmF::APPEND))
        .map(drop)
}

fn remove_all_over(socket: &mut Socket) -> io::Result<()> {
    let mut header = [0; HEADER];
    header[0] = AddressFamily::INET6.as_raw() as u8;
    for interface in socket.list(Request::new(Rtm::Getroute.into(), &header), ours)? {
        // It can be gone with its interface meanwhile.
        unless(&[Errno::SRCH], socket.perform(request(Rtm::Delroute.into(), interface), NlmF::empty()))?;
    }
    Ok(())
}

fn request(kind: u16, interface: u32) -> Request {
    let local = u8::from(Rtn::Local);
    let header = [AddressFamily::INET6.as_raw() as u8, 128, 0, 0, TABLE, PROTOCOL, 0, local, 0, 0, 0, 0];
    Request::new(kind, &header)
        .ip(Rta::Dst.into(), Ipv6Addr::LOCALHOST.into())
        .ne32(Rta::Oif.into(), interface)
        .ne32(Rta::Priority.into(), METRIC)
}

/// The interface of a route, if it is one of ours.
pub(super) fn ours(message: &Message<'_>) -> Option<u32> {
    let route = Attributes::after(message.payload, HEADER);
    let is_ours = message.kind == u16::from(Rtm::Newroute)
        && message.payload.get(4) == Some(&TABLE)
        && route.ip(Rta::Dst.into()) == Some(Ipv6Addr::LOCALHOST.into())
        && route.ne32(Rta::Priority.into()) == Some(METRIC);
    route.ne32(Rta::Oif.into()).filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::{played, recorded};

    /// `struct rtmsg`, `RTA_DST`, `RTA_OIF` and `RTA_PRIORITY` of the route by interface 2.
    #[rustfmt::skip]
    const ROUTE: [u8; 48] = [
        10, 128, 0, 0, 255, 4, 0, 2, 0, 0, 0, 0,
        20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        8, 0, 4, 0, 2, 0, 0, 0,
        8, 0, 6, 0, 0x67, 0x70, 0, 0,
    ];

    fn errno(number: i32) -> Vec<Vec<u8>> {
        vec![Request::new(2, &(-number).to_ne_bytes()).finish(NlmF::empty(), 0).to_vec()]
    }

    #[test]
    fn a_route_is_added_unless_it_exists() {
        for (number, expected) in [(0, Ok(())), (17, Ok(())), (1, Err(io::ErrorKind::PermissionDenied))] {
            let (mut socket, kernel) = played(vec![errno(number)]);
            assert_eq!(add_over(&mut socket, 2).map_err(|error| error.kind()), expected);
            let requests = kernel.join().expect("played");
            // RTM_NEWROUTE, REQUEST | ACK, CREATE | APPEND
            assert_eq!(requests[0][4..8], [24, 0, 5, 12]);
            assert_eq!(requests[0][16..], ROUTE);
        }
    }

    #[test]
    fn only_our_routes_are_removed_even_if_one_is_gone() {
        for (number, expected) in [(0, Ok(())), (3, Ok(())), (1, Err(io::ErrorKind::PermissionDenied))] {
            let (mut socket, kernel) = played(vec![recorded!("routes_v6"), errno(number)]);
            assert_eq!(remove_all_over(&mut socket).map_err(|error| error.kind()), expected);
            let requests = kernel.join().expect("played");
            // RTM_GETROUTE, REQUEST | DUMP; RTM_DELROUTE, REQUEST | ACK
            assert_eq!((&requests[0][4..8], requests[0][16]), (&[26, 0, 1, 3][..], 10));
            assert_eq!(requests[1][4..8], [25, 0, 5, 0]);
            assert_eq!(requests[1][16..], ROUTE);
        }
    }

    #[test]
    fn a_route_that_differs_in_any_of_its_marks_is_unrelated() {
        let check = |kind, payload: &[u8]| ours(&Message { kind, flags: NlmF::empty(), sequence: 0, port: 0, payload });
        assert_eq!(check(24, &ROUTE), Some(2));
        assert_eq!(check(25, &ROUTE), None);
        // The table, the destination, the metric.
        for at in [4, 31, 44] {
            let mut other = ROUTE;
            other[at] ^= 1;
            assert_eq!(check(24, &other), None, "{at}");
        }
    }
}
