//! Sockets that receive notifications of the kernel, without blocking.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{Protocol, RecvFlags};

use super::socket::{self, BUFFER};

/// A socket that becomes readable when the kernel notifies about the network namespace in which it was opened.
pub struct EventSocket {
    fd: OwnedFd,
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

impl EventSocket {
    /// A socket of this netlink protocol (`None`: `NETLINK_ROUTE`) that is in no group yet.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<EventSocket> {
        Ok(EventSocket::over(socket::open(protocol)?))
    }

    pub(super) fn over(fd: OwnedFd) -> EventSocket {
        EventSocket { fd, buffer: vec![0; BUFFER] }
    }

    /// Sets the size of the receive buffer in bytes. The first call is not limited by net.core.rmem_max, but needs
    /// `CAP_NET_ADMIN` in the first user namespace.
    pub(super) fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        if set_socket_recv_buffer_size_force(&self.fd, bytes).is_err() {
            set_socket_recv_buffer_size(&self.fd, bytes)?;
        }
        Ok(())
    }

    /// Joins these groups (bits of `nl_groups`).
    pub(super) fn join(self, groups: u32) -> io::Result<EventSocket> {
        rustix::net::bind(&self.fd, &SocketAddrNetlink::new(0, groups))?;
        socket::connect(&self.fd)?;
        Ok(self)
    }

    /// Receives one datagram into `read`, if one waits.
    pub(super) fn receive(&mut self, read: impl FnOnce(&[u8])) -> io::Result<Received> {
        let received = socket::receive(&self.fd, &mut self.buffer, RecvFlags::DONTWAIT);
        received_by(received.map(|length| read(&self.buffer[..length])))
    }
}

fn received_by(result: io::Result<()>) -> io::Result<Received> {
    match result {
        Ok(()) => Ok(Received::Some),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Received::Nothing),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => Ok(Received::Overrun),
        Err(error) => Err(error),
    }
}

impl AsFd for EventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for EventSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EventSocket").field("fd", &self.fd).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn datagrams_are_received_in_order_until_none_waits() {
        let (near, far) = UnixDatagram::pair().expect("a pair");
        let mut events = EventSocket::over(near.into());
        assert_eq!(events.receive(|_| panic!("no datagram")).expect("received"), Received::Nothing);
        for datagram in [&b"one"[..], b"two"] {
            far.send(datagram).expect("sent");
        }
        for expected in [&b"one"[..], b"two"] {
            let result = events.receive(|datagram| assert_eq!(datagram, expected)).expect("received");
            assert_eq!(result, Received::Some);
        }
        assert_eq!(events.receive(|_| panic!("no datagram")).expect("received"), Received::Nothing);
        assert!(format!("{events:?}").starts_with("EventSocket { fd: "));
    }

    #[test]
    fn an_overrun_and_an_empty_socket_are_no_errors() {
        assert_eq!(received_by(Err(Errno::NOBUFS.into())).expect("an overrun"), Received::Overrun);
        assert_eq!(received_by(Err(io::ErrorKind::TimedOut.into())).expect("empty"), Received::Nothing);
        assert_eq!(received_by(Err(Errno::PERM.into())).expect_err("an error").raw_os_error(), Some(1));
    }

    #[test]
    fn the_receive_buffer_has_the_size_that_is_set() {
        let events = EventSocket::open(None).expect("NETLINK_ROUTE");
        for bytes in [8 * 1024, 16 * 1024] {
            events.set_receive_buffer(bytes).expect("set");
            // The kernel doubles it (socket(7)).
            assert_eq!(rustix::net::sockopt::socket_recv_buffer_size(&events).expect("a size"), 2 * bytes);
        }
    }

    #[test]
    fn a_socket_in_a_group_has_an_address_and_a_peer() {
        // RTNLGRP_LINK, which every user may join.
        let events = EventSocket::open(None).expect("NETLINK_ROUTE").join(1).expect("joined");
        let address = SocketAddrNetlink::try_from(rustix::net::getsockname(&events).expect("bound")).expect("netlink");
        assert!(address.pid() != 0 && address.groups() == 1);
        let peer = rustix::net::getpeername(&events).expect("connected").expect("an address");
        assert_eq!(SocketAddrNetlink::try_from(peer).expect("netlink").pid(), 0);
    }
}
