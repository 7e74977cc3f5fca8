//! The holder's way to the kernel.
//!
//! A packet that is sent from a raw socket keeps the client's source address. It passes the output hook, where our table
//! handles it like the client's own: the conntrack entry is exactly the one that the client's packet would have made.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

use super::packet::Flow;
use crate::Error;
use crate::netlink::conntrack::Conntrack;
use crate::netlink::nflog::{Logged, Nflog, Received};

/// Kernel interface of the holder. No method blocks.
pub(super) trait PacketIo: Send {
    fn fd(&self) -> BorrowedFd<'_>;
    fn receive(&mut self, each: &mut dyn FnMut(Logged<'_>)) -> io::Result<Received>;

    /// Sends a packet, header included. The error is `PermissionDenied` where a rule dropped it.
    fn send(&mut self, packet: &[u8], to: IpAddr) -> io::Result<()>;

    /// Deletes the conntrack entry of a flow, if there is one.
    fn delete_entry(&mut self, flow: &Flow) -> io::Result<()>;
}

/// The real sockets.
pub(super) struct Sockets {
    log: Nflog,
    raw_v4: OwnedFd,
    /// `None` where the kernel has no IPv6.
    raw_v6: Option<OwnedFd>,
    conntrack: Conntrack,
}

impl Sockets {
    /// Opens the sockets, with packets of an NFLOG group.
    pub(super) fn open(group: u16) -> Result<Sockets, Error> {
        let log = Nflog::open(group).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => format!(
                "the NFLOG group {group} belongs to another program (set plugins.packet.group to a free one), \
                 or CAP_NET_ADMIN is missing"
            ),
            _ => format!("cannot receive first packets from NFLOG group {group}: {error}"),
        })?;
        // IPPROTO_RAW: the packet brings its own header, in both versions (raw(7), ipv6(7)).
        let raw = |family| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            rustix::net::socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW))
        };
        let cannot = |error| format!("cannot open a raw socket: {error}");
        let raw_v6 = match raw(AddressFamily::INET6) {
            Err(Errno::AFNOSUPPORT) => None,
            socket => Some(socket.map_err(cannot)?),
        };
        Ok(Sockets { log, raw_v4: raw(AddressFamily::INET).map_err(cannot)?, raw_v6, conntrack: Conntrack::open()? })
    }
}

impl PacketIo for Sockets {
    fn fd(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    fn receive(&mut self, each: &mut dyn FnMut(Logged<'_>)) -> io::Result<Received> {
        self.log.receive(each)
    }

    fn send(&mut self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let socket =
            if to.is_ipv4() { &self.raw_v4 } else { self.raw_v6.as_ref().ok_or(io::ErrorKind::Unsupported)? };
        // The port has no meaning here, and must be 0 for IPv6.
        rustix::net::sendto(socket, packet, SendFlags::empty(), &SocketAddr::new(to, 0))?;
        Ok(())
    }

    fn delete_entry(&mut self, flow: &Flow) -> io::Result<()> {
        self.conntrack.delete_flow(flow.protocol, flow.source, flow.destination).map(drop)
    }
}
