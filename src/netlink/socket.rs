//! Sockets for requests, which wait for the whole result for a bounded time.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{Message, Messages, Request, array};
use super::netfilter;

/// Timeout of each part of a result. The kernel replies within the system call, so this only keeps a fault from becoming
/// a hang.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Size of a receive buffer in bytes. The longest packet of NFLOG needs 64 KiB and some more; the kernel fills at most
/// 32 KiB per datagram of a dump.
pub(super) const BUFFER: usize = 72 * 1024;

/// Maximum number of attempts at a dump that changes interrupt (`NLM_F_DUMP_INTR`).
const DUMP_TRIES: usize = 5;

/// Maximum number of datagrams of an earlier, failed result that are discarded.
const MAX_STALE_DATAGRAMS: usize = 1 << 20;

/// `NLMSG_ERROR`: an error number (0: acknowledged), then the request's header.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump, then an error number (0: complete).
const DONE: u16 = 3;
/// `NLMSG_MIN_TYPE`: smaller types are netlink's own.
const FIRST_FAMILY_TYPE: u16 = 16;

/// Consistency of a dump (`NLM_F_DUMP_INTR`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consistency {
    Consistent,
    Interrupted,
}

/// A netlink socket for requests and dumps, with its receive buffer.
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
    last: LastResult,
}

/// Result of the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastResult {
    Complete,
    /// It was not read to its end: the rest must be discarded before the next request.
    Partial,
}

impl Socket {
    /// A socket of this netlink protocol (`rustix::net::netlink::NETFILTER`, ...; `None`: `NETLINK_ROUTE`) in the calling
    /// thread's network namespace, in which it stays.
    ///
    /// # Errors
    /// The operating system's error: the protocol is not in the kernel, or no file descriptor is left.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        let fd = open(protocol)?;
        connect(&fd)?;
        Socket::over(fd)
    }

    /// A socket that another process may have used.
    pub(super) fn over(fd: OwnedFd) -> io::Result<Socket> {
        set_socket_timeout(&fd, Timeout::Recv, Some(TIMEOUT))?;
        Ok(Socket { fd, buffer: vec![0; BUFFER], sequence: 0, last: LastResult::Partial })
    }

    /// The socket's descriptor.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends a request, passes each message of the result to `each`, and returns when the kernel acknowledges it.
    ///
    /// # Errors
    /// The kernel's error for this request (as its `raw_os_error`); `TimedOut` after [`TIMEOUT`]; `InvalidData` if the
    /// result could not be read.
    pub fn request(&mut self, request: &mut Request, each: &mut dyn FnMut(&Message<'_>)) -> io::Result<()> {
        self.transact(request, NlmF::REQUEST | NlmF::ACK, each).map(drop)
    }

    /// Sends a request to create an object after others of its kind (`NLM_F_CREATE | NLM_F_APPEND`).
    ///
    /// # Errors
    /// As for [`request`](Socket::request); `AlreadyExists` if the same object exists.
    pub fn create(&mut self, request: &mut Request) -> io::Result<()> {
        let flags = NlmF::REQUEST | NlmF::ACK | NlmF::CREATE | NlmF::APPEND;
        self.transact(request, flags, &mut |_| {}).map(drop)
    }

    /// Sends a request for a dump and passes each message of it to `each`. An interrupted dump is made again, so `each` can
    /// see an object twice.
    ///
    /// # Errors
    /// As for [`request`](Socket::request); and `ResourceBusy` if the dump was interrupted by changes each time.
    pub fn dump(&mut self, request: &mut Request, each: &mut dyn FnMut(&Message<'_>)) -> io::Result<()> {
        for _ in 0..DUMP_TRIES {
            if self.transact(request, NlmF::REQUEST | NlmF::DUMP, each)? == Consistency::Consistent {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the kernel's table kept changing while it was read"))
    }

    /// Sends messages of nftables as one transaction: all take effect, or none.
    ///
    /// # Errors
    /// The kernel's error for the first message that it refused; else as for [`request`](Socket::request).
    pub(super) fn commit(&mut self, messages: Vec<(Request, NlmF)>) -> io::Result<()> {
        let sequence = self.begin()?;
        send(&self.fd, &netfilter::batch(messages, sequence))?;
        self.read_result(&mut |_| {}).map(drop)
    }

    fn transact(
        &mut self,
        request: &mut Request,
        flags: NlmF,
        each: &mut dyn FnMut(&Message<'_>),
    ) -> io::Result<Consistency> {
        let sequence = self.begin()?;
        send(&self.fd, request.finish(flags, sequence))?;
        self.read_result(each)
    }

    /// Makes the socket ready for a request, and returns its sequence number.
    fn begin(&mut self) -> io::Result<u32> {
        if std::mem::replace(&mut self.last, LastResult::Partial) == LastResult::Partial {
            self.drain()?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        Ok(self.sequence)
    }

    fn read_result(&mut self, each: &mut dyn FnMut(&Message<'_>)) -> io::Result<Consistency> {
        let mut consistency = Consistency::Consistent;
        loop {
            let length = receive(&self.fd, &mut self.buffer, RecvFlags::empty())?;
            for message in Messages::new(&self.buffer[..length]) {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                if message.flags.contains(NlmF::DUMP_INTR) {
                    consistency = Consistency::Interrupted;
                }
                match message.kind {
                    ERROR | DONE => {
                        self.last = LastResult::Complete;
                        return errno(&message).map(|()| consistency);
                    }
                    kind if kind < FIRST_FAMILY_TYPE => {}
                    _ => each(&message),
                }
            }
        }
    }

    /// Discards the rest of a result. The kernel makes the next part of a dump when the one before is read, so this also ends
    /// the dump, without which the next one would be refused (`EBUSY`).
    fn drain(&mut self) -> io::Result<()> {
        for _ in 0..MAX_STALE_DATAGRAMS {
            match receive(&self.fd, &mut self.buffer, RecvFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
                // Any other error belongs to the old result; reporting it has removed it from the socket.
                Ok(_) | Err(_) => {}
            }
        }
        Err(io::Error::other("an old netlink result does not end"))
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
pub(super) fn open(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
}

/// Connects a socket to the kernel: it then refuses datagrams of other processes. An unbound socket gets a port id.
pub(super) fn connect(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::net::connect(fd, &SocketAddrNetlink::new(0, 0))?)
}

/// `None` for one of the `expected` errors.
pub(super) fn unless<T>(expected: &[Errno], result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if Errno::from_io_error(&error).is_some_and(|errno| expected.contains(&errno)) => Ok(None),
        result => result.map(Some),
    }
}

fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::net::send(fd, bytes, SendFlags::empty()))?;
    Ok(())
}

/// Receives one datagram; `TimedOut` if none comes in time, or none waits and `flags` have `DONTWAIT`; `InvalidData` if it
/// does not fit.
pub(super) fn receive(fd: &OwnedFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    match rustix::io::retry_on_intr(|| rustix::net::recv(fd, &mut *buffer, flags | RecvFlags::TRUNC)) {
        Ok((_, length)) if length <= buffer.len() => Ok(length),
        Ok((_, length)) => {
            let text = format!("a netlink datagram of {length} bytes, more than the {} expected", buffer.len());
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
        Err(Errno::AGAIN) => Err(io::Error::new(io::ErrorKind::TimedOut, "no reply from the kernel on netlink")),
        Err(error) => Err(error.into()),
    }
}

/// The error number at the start of an `NLMSG_ERROR` or `NLMSG_DONE`: negative, or 0 for none.
fn errno(message: &Message<'_>) -> io::Result<()> {
    let Some(bytes) = array(message.payload, 0) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "netlink error without its number"));
    };
    match i32::from_ne_bytes(bytes) {
        number if number < 0 => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
