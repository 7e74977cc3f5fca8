//! Asks the kernel whether something is bound to an address, without a packet being sent (`linux/inet_diag.h`,
//! sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{AddressFamily, netlink};

use super::message::{Attributes, Message, Request};
use super::socket::Socket;
use crate::config::Protocol;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// Bytes in `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Bytes in `struct inet_diag_msg`.
const ANSWER: usize = 72;
/// `INET_DIAG_SKV6ONLY`: one byte, whether an IPv6 socket takes no IPv4.
const V6ONLY: u16 = 11;
/// `TCP_CLOSE`: the state of a UDP socket that is not connected.
const CLOSE: u8 = 7;
/// `TCP_LISTEN`.
const LISTEN: u8 = 10;

/// A socket to ask with; keep it, for opening one costs more than asking.
#[derive(Debug)]
pub struct Diag {
    socket: Socket,
}

impl Diag {
    /// A socket that asks about the calling thread's network namespace.
    ///
    /// # Errors
    /// The operating system's error: no sock_diag in the kernel, or no file descriptor left.
    pub fn open() -> io::Result<Diag> {
        Ok(Diag { socket: Socket::open(Some(netlink::SOCK_DIAG))? })
    }
}

impl AsFd for Diag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How a socket is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// To one address.
    Address,
    /// To all addresses of this host. The kernel chooses the source of what a UDP socket sends like this, by the route, unless
    /// the program does (`IP_PKTINFO`, ip(7)).
    Wildcard,
}

/// Whether, and how, a socket of another process, in the namespace of `diag`, is bound so that it receives what is sent to
/// `address`: for TCP a listening socket, for UDP one that is bound and not connected. Wildcard (`0.0.0.0`, `::`),
/// dual-stack (`::` without `IPV6_V6ONLY`) and v4-mapped (`::ffff:a.b.c.d`) sockets count. So does a socket that is bound
/// to an interface, whichever it is, unless `address` has another one as its scope. Nothing is connected.
///
/// Sockets of this process do not count, and hide no other. This can only ask whether something *could* receive: another
/// network namespace, a firewall or a full backlog is not seen.
///
/// # Errors
/// What the kernel said, most likely that it was built without `CONFIG_INET_UDP_DIAG` (`ENOENT`); `TimedOut`; or that
/// `/proc/self/fd`, read only if some socket matches, could not be read.
pub fn bound(diag: &mut Diag, protocol: Protocol, address: SocketAddr) -> io::Result<Option<Bound>> {
    let ip = address.ip().to_canonical();
    let scope = match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    // An IPv4 packet can also be received by an IPv6 socket, never the other way round.
    let families: &[AddressFamily] =
        if ip.is_ipv4() { &[AddressFamily::INET, AddressFamily::INET6] } else { &[AddressFamily::INET6] };
    let mut bound = None;
    for family in families {
        let mut inodes = Vec::new();
        diag.socket.dump(&mut request(*family, protocol, address.port()), &mut |message| {
            let Some(found) = Found::parse(message) else { return };
            if found.port == address.port() && found.receives(ip, scope) {
                inodes.push((found.inode, found.how()));
            }
        })?;
        if !inodes.is_empty() {
            let own = own_inodes()?;
            inodes.retain(|(inode, _)| !own.contains(inode));
            if inodes.iter().any(|(_, how)| *how == Bound::Address) {
                // The kernel prefers it.
                return Ok(Some(Bound::Address));
            }
            bound = bound.or(inodes.first().map(|_| Bound::Wildcard));
        }
    }
    Ok(bound)
}

/// `struct inet_diag_req_v2` for the sockets on one local port that can receive from anyone.
fn request(family: AddressFamily, protocol: Protocol, port: u16) -> Request {
    let state = match protocol {
        Protocol::Tcp => LISTEN,
        Protocol::Udp => CLOSE,
    };
    let mut header = [0; REQUEST];
    header[0] = family.as_raw() as u8;
    header[1] = protocol.number();
    header[4..8].copy_from_slice(&(1u32 << state).to_ne_bytes());
    header[8..10].copy_from_slice(&port.to_be_bytes());
    Request::new(BY_FAMILY, &header)
}

/// What is needed of `struct inet_diag_msg`: family u8, state u8, two bytes, `struct inet_diag_sockid` (source and
/// destination port, source and destination address, interface u32, cookie), five u32 of which the last is the inode.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    ip: IpAddr,
    port: u16,
    interface: u32,
    v6only: bool,
    inode: u32,
}

impl Found {
    fn parse(message: &Message<'_>) -> Option<Found> {
        let answer: &[u8; ANSWER] = message.payload.first_chunk()?;
        let family = u16::from(answer[0]);
        let ip = if family == AddressFamily::INET.as_raw() {
            IpAddr::V4(Ipv4Addr::from(*answer[8..].first_chunk::<4>()?))
        } else if family == AddressFamily::INET6.as_raw() {
            IpAddr::V6(Ipv6Addr::from(*answer[8..].first_chunk::<16>()?))
        } else {
            return None;
        };
        let unconnected = answer[6..8] == [0, 0];
        let v6only = Attributes::after(message.payload, ANSWER).find(V6ONLY).is_some_and(|value| value == [1]);
        unconnected.then_some(Found {
            ip,
            port: u16::from_be_bytes(*answer[4..].first_chunk()?),
            interface: u32::from_ne_bytes(*answer[40..].first_chunk()?),
            v6only,
            inode: u32::from_ne_bytes(*answer[68..].first_chunk()?),
        })
    }

    fn how(&self) -> Bound {
        let is_wildcard = self.ip.is_unspecified() || is_mapped_wildcard(self.ip);
        if is_wildcard { Bound::Wildcard } else { Bound::Address }
    }

    fn receives(&self, ip: IpAddr, scope: u32) -> bool {
        if scope != 0 && self.interface != 0 && scope != self.interface {
            return false;
        }
        match self.ip {
            IpAddr::V6(bound) if bound.is_unspecified() => ip.is_ipv6() || !self.v6only,
            IpAddr::V4(bound) if bound.is_unspecified() => ip.is_ipv4(),
            bound => bound.to_canonical() == ip || (is_mapped_wildcard(bound) && ip.is_ipv4()),
        }
    }
}

/// `::ffff:0.0.0.0` receives all IPv4.
fn is_mapped_wildcard(ip: IpAddr) -> bool {
    ip.is_ipv6() && ip.to_canonical() == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
}

/// The inodes of the sockets that this process holds.
fn own_inodes() -> io::Result<Vec<u32>> {
    let mut inodes = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // A descriptor that was closed in the meantime has no link to read.
        let Ok(link) = std::fs::read_link(entry?.path()) else { continue };
        let inode =
            link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u32>().ok());
        inodes.extend(inode);
    }
    Ok(inodes)
}

/// Reads a message as a socket, for [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(message: &Message<'_>) {
    if let Some(found) = Found::parse(message) {
        let how = found.how();
        assert!(found.receives(found.ip.to_canonical(), 0) || how == Bound::Wildcard, "{found:?}");
    }
}

#[cfg(test)]
mod tests {
    use neli::consts::nl::NlmF;

    use super::*;

    #[test]
    fn every_prefix_of_an_answer_is_refused() {
        let mut payload = [0u8; ANSWER + 8];
        payload[0] = AddressFamily::INET6.as_raw() as u8;
        payload[4..6].copy_from_slice(&80u16.to_be_bytes());
        payload[68..72].copy_from_slice(&42u32.to_ne_bytes());
        payload[72..74].copy_from_slice(&5u16.to_ne_bytes());
        payload[74..76].copy_from_slice(&V6ONLY.to_ne_bytes());
        payload[76] = 1;
        let parse = |payload: &[u8]| {
            Found::parse(&Message { kind: BY_FAMILY, flags: NlmF::empty(), sequence: 1, port: 0, payload })
        };
        let ip = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        assert_eq!(parse(&payload), Some(Found { ip, port: 80, interface: 0, v6only: true, inode: 42 }));
        for end in 0..ANSWER {
            assert_eq!(parse(&payload[..end]), None, "{end}");
        }
        payload[7] = 1;
        assert_eq!(parse(&payload), None, "connected");
    }
}
