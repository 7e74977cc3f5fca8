//! A netlink socket: opened, joined to groups, and its datagrams sent and received.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Size of a receive buffer in bytes. The longest packet of NFLOG needs 64 KiB and some more; the kernel fills at most
/// 32 KiB per datagram of a dump.
const BUFFER: usize = 72 * 1024;

/// A netlink socket of the network namespace in which it was opened, with its receive buffer.
pub(super) struct RawSocket {
    pub fd: OwnedFd,
    buffer: Vec<u8>,
}

/// Result of a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A datagram.
    Some,
    /// No datagram waits.
    Nothing,
    /// The kernel dropped datagrams, because too many were unread (`ENOBUFS`).
    Overrun,
}

impl RawSocket {
    /// A socket of this netlink protocol (`None`: `NETLINK_ROUTE`) that is neither bound nor connected.
    pub fn open(protocol: Option<Protocol>) -> io::Result<RawSocket> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(RawSocket::over(fd))
    }

    pub fn over(fd: OwnedFd) -> RawSocket {
        RawSocket { fd, buffer: vec![0; BUFFER] }
    }

    /// Connects it to the kernel: it then refuses datagrams of other processes. An unbound socket gets a port id.
    pub fn connect(self) -> io::Result<RawSocket> {
        rustix::net::connect(&self.fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(self)
    }

    /// Joins these groups (bits of `nl_groups`), and connects.
    pub fn join(self, groups: u32) -> io::Result<RawSocket> {
        rustix::net::bind(&self.fd, &SocketAddrNetlink::new(0, groups))?;
        self.connect()
    }

    /// Sets the size of the receive buffer in bytes. The first call is not limited by net.core.rmem_max, but needs
    /// `CAP_NET_ADMIN` in the first user namespace.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        set_socket_recv_buffer_size_force(&self.fd, bytes)
            .or_else(|_| set_socket_recv_buffer_size(&self.fd, bytes))
            .map_err(io::Error::from)
    }

    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()))?;
        Ok(())
    }

    /// Receives one datagram; `None` if none comes in time, or none waits and `flags` have `DONTWAIT`; `InvalidData` if it
    /// does not fit.
    pub fn receive(&mut self, flags: RecvFlags) -> io::Result<Option<&[u8]>> {
        match retry_on_intr(|| rustix::net::recv(&self.fd, &mut self.buffer[..], flags | RecvFlags::TRUNC)) {
            Ok((_, length)) if length <= self.buffer.len() => Ok(Some(&self.buffer[..length])),
            Ok((_, length)) => {
                let text =
                    format!("a netlink datagram of {length} bytes, more than the {} expected", self.buffer.len());
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes one notification to `read`, if one waits. Does not block.
    pub fn notification(&mut self, read: impl FnOnce(&[u8])) -> io::Result<Received> {
        received_by(self.receive(RecvFlags::DONTWAIT).map(|datagram| datagram.map(read)))
    }
}

fn received_by(result: io::Result<Option<()>>) -> io::Result<Received> {
    match result {
        Ok(Some(())) => Ok(Received::Some),
        Ok(None) => Ok(Received::Nothing),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => Ok(Received::Overrun),
        Err(error) => Err(error),
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for RawSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RawSocket").field("fd", &self.fd).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn datagrams_are_received_in_order_until_none_waits() {
        let (near, far) = UnixDatagram::pair().expect("a pair");
        let mut events = RawSocket::over(near.into());
        assert_eq!(events.notification(|_| panic!("no datagram")).expect("received"), Received::Nothing);
        for datagram in [&b"one"[..], b"two"] {
            far.send(datagram).expect("sent");
        }
        for expected in [&b"one"[..], b"two"] {
            let result = events.notification(|datagram| assert_eq!(datagram, expected)).expect("received");
            assert_eq!(result, Received::Some);
        }
        assert_eq!(events.notification(|_| panic!("no datagram")).expect("received"), Received::Nothing);
        assert!(format!("{events:?}").starts_with("RawSocket { fd: "));
    }

    #[test]
    fn an_overrun_and_an_empty_socket_are_no_errors() {
        assert_eq!(received_by(Err(Errno::NOBUFS.into())).expect("an overrun"), Received::Overrun);
        assert_eq!(received_by(Ok(None)).expect("empty"), Received::Nothing);
        assert_eq!(received_by(Err(Errno::PERM.into())).expect_err("an error").raw_os_error(), Some(1));
    }

    #[test]
    fn the_receive_buffer_has_the_size_that_is_set() {
        let events = RawSocket::open(None).expect("NETLINK_ROUTE");
        for bytes in [8 * 1024, 16 * 1024] {
            events.set_receive_buffer(bytes).expect("set");
            // The kernel doubles it (socket(7)).
            assert_eq!(rustix::net::sockopt::socket_recv_buffer_size(&events).expect("a size"), 2 * bytes);
        }
    }

    #[test]
    fn a_socket_in_a_group_has_an_address_and_a_peer() {
        // RTNLGRP_LINK, which every user may join.
        let events = RawSocket::open(None).expect("NETLINK_ROUTE").join(1).expect("joined");
        let address = SocketAddrNetlink::try_from(rustix::net::getsockname(&events).expect("bound")).expect("netlink");
        assert!(address.pid() != 0 && address.groups() == 1);
        let peer = rustix::net::getpeername(&events).expect("connected").expect("an address");
        assert_eq!(SocketAddrNetlink::try_from(peer).expect("netlink").pid(), 0);
    }

    #[test]
    fn a_datagram_that_does_not_fit_is_reported() {
        let (near, far) = UnixDatagram::pair().expect("a pair");
        let mut socket = RawSocket { fd: near.into(), buffer: vec![0; 20] };
        far.send(&[0; 21]).expect("sent");
        far.send(&[0; 20]).expect("sent");
        assert_eq!(socket.receive(RecvFlags::empty()).expect_err("too long").kind(), io::ErrorKind::InvalidData);
        assert_eq!(socket.receive(RecvFlags::empty()).expect("received"), Some(&[0; 20][..]));
    }
}
