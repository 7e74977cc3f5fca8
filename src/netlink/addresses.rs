//! The addresses of this host's interfaces, and notifications of their changes (`linux/rtnetlink.h`, `linux/if_addr.h`).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use neli::consts::rtnl::{Ifa, Rtm};

use super::message::{Attributes, Request, array};
use super::raw::{RawSocket, Received};
use super::socket::Socket;

/// `RTNLGRP_IPV4_IFADDR` (number 5) and `RTNLGRP_IPV6_IFADDR` (number 9) as bits of `nl_groups`.
const GROUPS: u32 = 1 << 4 | 1 << 8;

/// `struct ifaddrmsg`: family u8, prefix length u8, flags u8, scope u8, interface u32.
const HEADER: usize = 8;

/// An address of an interface, and the prefix that is on the interface's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's index.
    pub interface: u32,
    /// The host's own address.
    pub own: IpAddr,
    /// The same, or, of a point-to-point link, the other end's.
    pub address: IpAddr,
    /// The length of the prefix in bits.
    pub length: u8,
}

/// All addresses, in the calling thread's network namespace.
///
/// # Errors
/// The operating system's error.
pub fn dump() -> io::Result<Vec<InterfaceAddress>> {
    dump_over(&mut Socket::open(None)?)
}

fn dump_over(socket: &mut Socket) -> io::Result<Vec<InterfaceAddress>> {
    socket.list(Request::new(Rtm::Getaddr.into(), &[0; HEADER]), |message| {
        if message.kind == u16::from(Rtm::Newaddr) { parse(message.payload) } else { None }
    })
}

pub(super) fn parse(payload: &[u8]) -> Option<InterfaceAddress> {
    let find = |kind: Ifa| Attributes::after(payload, HEADER).ip(kind.into());
    let address = find(Ifa::Address)?;
    Some(InterfaceAddress {
        interface: u32::from_ne_bytes(array(payload, 4)?),
        own: find(Ifa::Local).unwrap_or(address),
        address,
        length: *payload.get(1)?,
    })
}

/// A socket that becomes readable when an address is added or removed.
#[derive(Debug)]
pub struct AddressWatch(RawSocket);

impl AddressWatch {
    /// Watches the addresses of the calling thread's network namespace.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn open() -> io::Result<AddressWatch> {
        RawSocket::open(None)?.join(GROUPS).map(AddressWatch)
    }

    /// True if an address was added or removed since the last call, or notifications were lost. Does not block.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        while self.0.notification(|_| {})? != Received::Nothing {
            changed = true;
        }
        Ok(changed)
    }
}

impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::netlink::testing::{played, recorded};

    #[test]
    fn a_dump_has_the_addresses_of_both_families_and_of_a_point_to_point_link() {
        let (mut socket, kernel) = played(vec![recorded!("addresses")]);
        let dump = dump_over(&mut socket).expect("a dump");
        let found = |interface, own: &str, address: &str, length| {
            let (own, address) = (own.parse().expect("one"), address.parse().expect("one"));
            assert!(dump.contains(&InterfaceAddress { interface, own, address, length }), "{own}: {dump:?}");
        };
        found(1, "127.0.0.1", "127.0.0.1", 8);
        found(2, "10.9.0.1", "10.9.0.1", 24);
        found(4, "10.8.0.1", "10.8.0.2", 32);
        found(1, "::1", "::1", 128);
        found(2, "fd09::1", "fd09::1", 64);
        let requests = kernel.join().expect("played");
        // RTM_GETADDR, REQUEST | DUMP
        assert_eq!(requests[0][4..8], [22, 0, 1, 3]);
        assert_eq!(requests[0][16..], [0; 8]);
    }

    #[test]
    fn a_truncated_address_is_none() {
        let [message] = &recorded!("address_events")[..1] else { panic!("a datagram") };
        let payload = &message[16..];
        let address = parse(payload).expect("whole");
        assert_eq!((address.own, address.length), (IpAddr::from([10, 9, 0, 77]), 24));
        for end in 0..payload.len() {
            assert!(parse(&payload[..end]).is_none_or(|cut| cut.interface == address.interface), "{end}");
        }
        for end in 0..HEADER + 4 {
            assert_eq!(parse(&payload[..end]), None, "{end}");
        }
    }

    #[test]
    fn any_notification_is_a_change_and_is_read_once() {
        let (near, far) = UnixDatagram::pair().expect("a pair");
        let mut watch = AddressWatch(RawSocket::over(near.into()));
        assert!(!watch.changed().expect("read"));
        recorded!("address_events").iter().for_each(|datagram| assert!(far.send(datagram).is_ok()));
        assert!(watch.changed().expect("read"));
        assert!(!watch.changed().expect("read"));
    }

    #[test]
    fn this_host_can_be_watched() {
        let mut watch = AddressWatch::open().expect("opened");
        assert!(!watch.changed().expect("read"));
        let address = rustix::net::getsockname(&watch).expect("bound");
        let groups = rustix::net::netlink::SocketAddrNetlink::try_from(address).expect("netlink").groups();
        assert_eq!(groups, 0x110, "RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR");
        let addresses = dump().expect("a dump");
        assert!(addresses.iter().any(|address| address.own.is_loopback()), "{addresses:?}");
    }
}
