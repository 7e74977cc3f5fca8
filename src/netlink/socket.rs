//! Netlink sockets, and one for requests, which waits for the whole result for a bounded time.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_timeout,
};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{Message, Messages, Request};

/// How long the kernel may take for the next part of an answer. It answers within the system call, so this only keeps
/// a fault from becoming a hang.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The size of a receive buffer in bytes: the kernel fills at most 32 KiB of it per datagram of a dump.
pub const BUFFER: usize = 64 * 1024;

/// How often a dump is made that the kernel says was interrupted by a change (`NLM_F_DUMP_INTR`).
const DUMP_TRIES: usize = 5;

/// How many datagrams of an earlier, failed answer are thrown away before the socket is given up.
const STALE_DATAGRAMS: usize = 1 << 20;

/// `NLMSG_ERROR`: an error number (0: acknowledged), then the request's header.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump, then an error number (0: complete).
const DONE: u16 = 3;
/// `NLMSG_MIN_TYPE`: smaller types are netlink's own.
const FIRST_FAMILY_TYPE: u16 = 16;

/// A netlink socket for requests and dumps, with its receive buffer.
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
    /// An answer was not read to its end: what is left of it must go before the next request.
    unfinished: bool,
}

impl Socket {
    /// A socket of this netlink protocol (`rustix::net::netlink::NETFILTER`, ...; `None`: `NETLINK_ROUTE`) in the calling
    /// thread's network namespace, in which it stays.
    ///
    /// # Errors
    /// The operating system's error: the protocol is not in the kernel, or no file descriptor is left.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        let fd = open(protocol, SocketFlags::CLOEXEC)?;
        connect(&fd, 0)?;
        Socket::over(fd)
    }

    fn over(fd: OwnedFd) -> io::Result<Socket> {
        set_socket_timeout(&fd, Timeout::Recv, Some(TIMEOUT))?;
        Ok(Socket { fd, buffer: vec![0; BUFFER], sequence: 0, unfinished: false })
    }

    /// Sends a request, gives `each` message that answers it, and returns when the kernel acknowledges it.
    ///
    /// # Errors
    /// The kernel's error for this request (as its `raw_os_error`); `TimedOut` after [`TIMEOUT`]; `InvalidData` if the
    /// answer could not be read.
    pub fn request(&mut self, request: &mut Request, each: &mut dyn FnMut(&Message<'_>)) -> io::Result<()> {
        self.transact(request, NlmF::REQUEST | NlmF::ACK, each).map(|_| ())
    }

    /// Sends a request to make something, beside others of its sort (`NLM_F_CREATE | NLM_F_APPEND`).
    ///
    /// # Errors
    /// As for [`request`](Socket::request); `AlreadyExists` if the very same is there.
    pub fn create(&mut self, request: &mut Request) -> io::Result<()> {
        let flags = NlmF::REQUEST | NlmF::ACK | NlmF::CREATE | NlmF::APPEND;
        self.transact(request, flags, &mut |_| {}).map(|_| ())
    }

    /// Sends a request for a dump and gives `each` message of it. An interrupted dump is made again, so `each` can see
    /// an object twice.
    ///
    /// # Errors
    /// As for [`request`](Socket::request); and `ResourceBusy` if the dump was interrupted by changes each time.
    pub fn dump(&mut self, request: &mut Request, each: &mut dyn FnMut(&Message<'_>)) -> io::Result<()> {
        for _ in 0..DUMP_TRIES {
            if self.transact(request, NlmF::REQUEST | NlmF::DUMP, each)? {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the kernel's table kept changing while it was read"))
    }

    /// Whether the answer is consistent (not `NLM_F_DUMP_INTR`).
    fn transact(&mut self, request: &mut Request, flags: NlmF, each: &mut dyn FnMut(&Message<'_>)) -> io::Result<bool> {
        if std::mem::replace(&mut self.unfinished, true) {
            self.drain()?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.fd, request.finish(flags, self.sequence))?;
        let mut consistent = true;
        loop {
            let length = receive(&self.fd, &mut self.buffer, RecvFlags::empty())?;
            for message in Messages::new(&self.buffer[..length]) {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                consistent &= !message.flags.contains(NlmF::DUMP_INTR);
                match message.kind {
                    ERROR | DONE => {
                        self.unfinished = false;
                        return errno(&message).map(|()| consistent);
                    }
                    kind if kind < FIRST_FAMILY_TYPE => {}
                    _ => each(&message),
                }
            }
        }
    }

    /// Reads away what is left of an answer. The kernel makes a dump's next part when the one before is read, so this
    /// also ends the dump, without which the next one would be refused (`EBUSY`).
    fn drain(&mut self) -> io::Result<()> {
        for _ in 0..STALE_DATAGRAMS {
            match receive(&self.fd, &mut self.buffer, RecvFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
                // Any other error was one of the old answer, and is taken off the socket by being reported.
                Ok(_) | Err(_) => {}
            }
        }
        Err(io::Error::other("an old netlink answer does not end"))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Socket").field("fd", &self.fd).field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// A netlink socket that is neither bound nor connected.
pub(super) fn open(protocol: Option<Protocol>, flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?)
}

/// Binds a socket to a port id of its own and to these groups (bits of `nl_groups`), and connects it to the kernel: a
/// connected netlink socket refuses what other processes send.
pub(super) fn connect(fd: &OwnedFd, groups: u32) -> io::Result<()> {
    if groups != 0 {
        rustix::net::bind(fd, &SocketAddrNetlink::new(0, groups))?;
    }
    Ok(rustix::net::connect(fd, &SocketAddrNetlink::new(0, 0))?)
}

/// Sets the size of the receive buffer in bytes. The first call is not limited by net.core.rmem_max, but needs
/// `CAP_NET_ADMIN` in the first user namespace.
pub(super) fn set_receive_buffer(fd: &OwnedFd, bytes: usize) -> io::Result<()> {
    if set_socket_recv_buffer_size_force(fd, bytes).is_err() {
        set_socket_recv_buffer_size(fd, bytes)?;
    }
    Ok(())
}

fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::net::send(fd, bytes, SendFlags::empty()))?;
    Ok(())
}

/// Receives one datagram; `TimedOut` if there is none (in time, or at all if the socket or `flags` say not to wait),
/// `InvalidData` if it does not fit.
pub(super) fn receive(fd: &OwnedFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let started = Instant::now();
    loop {
        match rustix::net::recv(fd, &mut *buffer, flags | RecvFlags::TRUNC) {
            Ok((_, length)) if length <= buffer.len() => return Ok(length),
            Ok((_, length)) => {
                let text = format!("a netlink datagram of {length} bytes, more than the {} expected", buffer.len());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            Err(Errno::INTR) if started.elapsed() < TIMEOUT => {}
            Err(Errno::INTR | Errno::AGAIN) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer on netlink"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The error number at the start of an `NLMSG_ERROR` or `NLMSG_DONE`: negative, or 0 for none.
fn errno(message: &Message<'_>) -> io::Result<()> {
    let Some(bytes) = message.payload.first_chunk() else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink error without its number"));
    };
    match i32::from_ne_bytes(*bytes) {
        number if number < 0 => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
