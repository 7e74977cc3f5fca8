//! Routes that let answers in whose destination has become ::1 again (`linux/rtnetlink.h`).
//!
//! A client on ::1 that is sent to another host is masqueraded, and its answers come through an interface, where their
//! destination is turned back into ::1. For that address the kernel wants a route by the very interface
//! (`rt6_need_strict()`), and there is one by `lo` only. So there is one more for each interface, behind that of `lo`.
//! Nobody outside can use it: a packet that says ::1 when it comes in is dropped before it is looked at (RFC 4291, 2.5.3).

use std::io;
use std::net::Ipv6Addr;

use neli::consts::rtnl::{Rta, Rtm, Rtn};
use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::message::{Attributes, Message, Request};
use super::socket::Socket;
use crate::ids::OUR_NUMBER;

/// `RTA_PRIORITY` of our routes. By it they are found again, after a crash too.
const METRIC: u32 = OUR_NUMBER as u32;

/// `RT_TABLE_LOCAL`.
const TABLE: u8 = 255;

/// `RTPROT_STATIC`.
const PROTOCOL: u8 = 4;

/// `struct rtmsg`: family, both prefix lengths, tos, table, protocol, scope, type, flags u32.
const HEADER: usize = 12;

/// Adds the route by an interface, unless it is there.
///
/// # Errors
/// The operating system's error: `PermissionDenied` without `CAP_NET_ADMIN`, no such interface, IPv6 is off.
pub fn add(interface: u32) -> io::Result<()> {
    match Socket::open(None)?.create(&mut request(Rtm::Newroute.into(), interface)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Removes all routes that were added, by whichever daemon.
///
/// # Errors
/// The operating system's error.
pub fn remove_all() -> io::Result<()> {
    let mut socket = Socket::open(None)?;
    let mut header = [0; HEADER];
    header[0] = AddressFamily::INET6.as_raw() as u8;
    let mut interfaces = Vec::new();
    socket.dump(&mut Request::new(Rtm::Getroute.into(), &header), &mut |message| interfaces.extend(ours(message)))?;
    for interface in interfaces {
        match socket.request(&mut request(Rtm::Delroute.into(), interface), &mut |_| {}) {
            // Gone with its interface in the meantime.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => {}
            result => result?,
        }
    }
    Ok(())
}

fn request(kind: u16, interface: u32) -> Request {
    let local = u8::from(Rtn::Local);
    let header = [AddressFamily::INET6.as_raw() as u8, 128, 0, 0, TABLE, PROTOCOL, 0, local, 0, 0, 0, 0];
    Request::new(kind, &header)
        .attribute(Rta::Dst.into(), &Ipv6Addr::LOCALHOST.octets())
        .attribute(Rta::Oif.into(), &interface.to_ne_bytes())
        .attribute(Rta::Priority.into(), &METRIC.to_ne_bytes())
}

/// The interface of a route, if it is one of ours.
pub(super) fn ours(message: &Message<'_>) -> Option<u32> {
    let find = |kind: Rta| Attributes::after(message.payload, HEADER).find(kind.into());
    let number = |kind: Rta| Some(u32::from_ne_bytes(find(kind)?.try_into().ok()?));
    let is_ours = message.kind == u16::from(Rtm::Newroute)
        && message.payload.get(4) == Some(&TABLE)
        && find(Rta::Dst) == Some(&Ipv6Addr::LOCALHOST.octets())
        && number(Rta::Priority) == Some(METRIC);
    number(Rta::Oif).filter(|_| is_ours)
}
