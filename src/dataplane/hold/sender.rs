//! Sends whole packets, with the addresses that they have (raw(7), ipv6(7)).
//!
//! A packet that is sent so passes the output hook, where our table is consulted as it is for the client's own: the
//! conntrack entry that is made is exactly the one that the client's packet would have made.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, ipproto};

/// Two raw sockets, one for each version of IP.
#[derive(Debug)]
pub struct Sender {
    v4: OwnedFd,
    /// Missing where the kernel has no IPv6.
    v6: Option<OwnedFd>,
}

impl Sender {
    /// Opens the sockets.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`, else what the operating system said.
    pub fn open() -> io::Result<Sender> {
        let open = |family| {
            // IPPROTO_RAW: the packet brings its own header, in both versions.
            let raw: Option<Protocol> = Some(ipproto::RAW);
            rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, raw)
        };
        let v6 = match open(AddressFamily::INET6) {
            Err(Errno::AFNOSUPPORT) => None,
            v6 => Some(v6?),
        };
        Ok(Sender { v4: open(AddressFamily::INET)?, v6 })
    }

    /// Sends a packet to the host that its header names.
    ///
    /// # Errors
    /// What the operating system said; `PermissionDenied` where a rule has dropped it.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)? };
        // The port has no meaning here, and has to be 0 for IPv6.
        rustix::net::sendto(socket, packet, SendFlags::empty(), &SocketAddr::new(to, 0))?;
        Ok(())
    }
}
