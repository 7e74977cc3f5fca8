//! Finds out whether a socket is bound to an address, without sending a packet (`linux/inet_diag.h`, sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::net::{AddressFamily, netlink};

use super::message::{Attributes, Message, Request, array};
use super::socket::Socket;
use crate::config::Protocol;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// Bytes in `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Bytes in `struct inet_diag_msg`.
const ANSWER: usize = 72;
/// `INET_DIAG_SKV6ONLY`: one byte, 1 for an IPv6 socket that receives no IPv4.
const V6ONLY: u16 = 11;
/// `TCP_CLOSE`: the state of a UDP socket that is not connected.
const CLOSE: u8 = 7;
/// `TCP_LISTEN`.
const LISTEN: u8 = 10;

/// A socket for queries. Opening one costs more than a query: keep it for several.
#[derive(Debug)]
pub struct Diag {
    socket: Socket,
}

impl Diag {
    /// A socket for queries about the calling thread's network namespace.
    ///
    /// # Errors
    /// The operating system's error: no sock_diag in the kernel, or no file descriptor left.
    pub fn open() -> io::Result<Diag> {
        Ok(Diag { socket: Socket::open(Some(netlink::SOCK_DIAG))? })
    }
}

/// Scope of a socket's binding. The kernel prefers the lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// To one address.
    Address,
    /// To all addresses of this host. The kernel chooses the source address of what such a UDP socket sends by the route,
    /// unless the program does (`IP_PKTINFO`, ip(7)).
    Wildcard,
}

/// Finds a socket of another process, in the namespace of `diag`, that receives packets to `address`: for TCP a listening
/// socket, for UDP one that is bound and not connected. Wildcard (`0.0.0.0`, `::`), dual-stack (`::` without `IPV6_V6ONLY`)
/// and IPv4-mapped (`::ffff:a.b.c.d`) sockets count. So does a socket that is bound to an interface, unless `address` has
/// another interface as its scope. Nothing is connected.
///
/// Sockets of this process do not count, and hide no other. The result says that a socket *could* receive: another
/// network namespace, a firewall or a full backlog is not seen.
///
/// # Errors
/// The kernel's error, most likely that it was built without `CONFIG_INET_UDP_DIAG` (`ENOENT`); `TimedOut`; or that of
/// `/proc/self/fd`, which is read only if a socket matches.
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
        let mut found = diag.socket.list(request(*family, protocol, address.port()), |message| {
            Found::parse(message).filter(|found| found.port == address.port() && found.receives(ip, scope))
        })?;
        if !found.is_empty() {
            let own = own_inodes()?;
            found.retain(|found| !own.contains(&found.inode));
            bound = bound.into_iter().chain(found.iter().map(Found::how)).min();
            if bound == Some(Bound::Address) {
                break;
            }
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

/// The fields of `struct inet_diag_msg` that are used here: family u8, state u8, two bytes, `struct inet_diag_sockid` (source and
/// destination port, source and destination address, interface u32, cookie), five u32 of which the last is the inode.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub ip: IpAddr,
    port: u16,
    interface: u32,
    v6only: bool,
    inode: u32,
}

impl Found {
    pub fn parse(message: &Message<'_>) -> Option<Found> {
        let fields = message.payload.get(..ANSWER)?;
        let ip = match AddressFamily::from_raw(fields[0].into()) {
            AddressFamily::INET => IpAddr::from(array::<4>(fields, 8)?),
            AddressFamily::INET6 => IpAddr::from(array::<16>(fields, 8)?),
            _ => return None,
        };
        let is_unconnected = fields[6..8] == [0, 0];
        is_unconnected.then_some(Found {
            ip,
            port: u16::from_be_bytes(array(fields, 4)?),
            interface: u32::from_ne_bytes(array(fields, 40)?),
            v6only: Attributes::after(message.payload, ANSWER).find(V6ONLY) == Some(&[1]),
            inode: u32::from_ne_bytes(array(fields, 68)?),
        })
    }

    pub fn how(&self) -> Bound {
        let is_wildcard = self.ip.is_unspecified() || is_mapped_wildcard(self.ip);
        if is_wildcard { Bound::Wildcard } else { Bound::Address }
    }

    pub fn receives(&self, ip: IpAddr, scope: u32) -> bool {
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
        // A descriptor that was closed meanwhile has no link.
        let Ok(link) = std::fs::read_link(entry?.path()) else { continue };
        inodes.extend(
            link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u32>().ok()),
        );
    }
    Ok(inodes)
}

#[cfg(test)]
mod tests;
