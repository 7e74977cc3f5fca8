//! The addresses of this host's interfaces, and being told when they change (`linux/rtnetlink.h`, `linux/if_addr.h`).

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use neli::consts::rtnl::{Ifa, Rtm};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};

use super::message::{Attributes, Request};
use super::socket::{self, BUFFER, Socket};

/// `RTNLGRP_IPV4_IFADDR` (number 5) and `RTNLGRP_IPV6_IFADDR` (number 9) as bits of `nl_groups`.
const GROUPS: u32 = 1 << 4 | 1 << 8;

/// `struct ifaddrmsg`: family u8, prefix length u8, flags u8, scope u8, interface u32.
const HEADER: usize = 8;

/// An address of an interface, with the length of its prefix: what is in it is on the interface's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's index.
    pub interface: u32,
    /// The host's own address.
    pub own: IpAddr,
    /// The same, or, of a point-to-point link, the other end's.
    pub address: IpAddr,
    /// The length of its prefix in bits.
    pub length: u8,
}

/// All addresses, in the calling thread's network namespace.
///
/// # Errors
/// The operating system's error.
pub fn dump() -> io::Result<Vec<InterfaceAddress>> {
    let mut addresses = Vec::new();
    let mut request = Request::new(Rtm::Getaddr.into(), &[0; HEADER]);
    Socket::open(None)?.dump(&mut request, &mut |message| {
        if message.kind == u16::from(Rtm::Newaddr) {
            addresses.extend(parse(message.payload));
        }
    })?;
    Ok(addresses)
}

pub(super) fn parse(payload: &[u8]) -> Option<InterfaceAddress> {
    let length = *payload.get(1)?;
    let interface = u32::from_ne_bytes(payload.get(4..HEADER)?.try_into().ok()?);
    let find = |kind: Ifa| Attributes::after(payload, HEADER).find(kind.into()).and_then(address_of);
    let address = find(Ifa::Address)?;
    Some(InterfaceAddress { interface, own: find(Ifa::Local).unwrap_or(address), address, length })
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}

/// A socket that becomes readable when an address comes or goes.
pub struct AddressWatch {
    events: OwnedFd,
    buffer: Vec<u8>,
}

impl AddressWatch {
    /// Watches the addresses of the calling thread's network namespace.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn open() -> io::Result<AddressWatch> {
        let events = socket::open(None, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        socket::connect(&events, GROUPS)?;
        Ok(AddressWatch { events, buffer: vec![0; BUFFER] })
    }

    /// Reads what has happened since the last call, and tells whether anything has. Does not block.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match socket::receive(&self.events, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(_) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(changed),
                // Too many events at once.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => changed = true,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl fmt::Debug for AddressWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AddressWatch").field("events", &self.events).finish_non_exhaustive()
    }
}
