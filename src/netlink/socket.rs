//! Requests, which wait for the whole result for a bounded time.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{Protocol, RecvFlags};

use super::message::{Message, Messages, Request, array};
use super::netfilter;
use super::raw::RawSocket;

/// Timeout of each part of a result. The kernel replies within the system call, so this only keeps a fault from becoming
/// a hang.
pub const TIMEOUT: Duration = Duration::from_secs(5);

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

/// A netlink socket for requests and dumps.
#[derive(Debug)]
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
    /// The last result was not read to its end: the rest must be discarded before the next request.
    unread: bool,
}

impl Socket {
    /// A socket of this netlink protocol (`rustix::net::netlink::NETFILTER`, ...; `None`: `NETLINK_ROUTE`) in the calling
    /// thread's network namespace, in which it stays.
    ///
    /// # Errors
    /// The operating system's error: the protocol is not in the kernel, or no file descriptor is left.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        Socket::over(RawSocket::open(protocol)?.connect()?)
    }

    /// A socket that another process may have used.
    pub(super) fn over(raw: RawSocket) -> io::Result<Socket> {
        set_socket_timeout(&raw, Timeout::Recv, Some(TIMEOUT))?;
        Ok(Socket { raw, sequence: 0, unread: true })
    }

    /// The socket without its requests, for notifications.
    pub(super) fn into_raw(self) -> RawSocket {
        self.raw
    }

    /// Sends a request, passes each message of the result to `each`, and returns when the kernel acknowledges it.
    ///
    /// # Errors
    /// The kernel's error for this request (as its `raw_os_error`); `TimedOut` after [`TIMEOUT`]; `InvalidData` if the
    /// result could not be read.
    pub fn request(&mut self, mut request: Request, each: &mut dyn FnMut(&Message<'_>)) -> io::Result<()> {
        self.transact(|sequence| request.finish(NlmF::REQUEST | NlmF::ACK, sequence), each).map(drop)
    }

    /// Sends a request that has no result. `flags` are added to its own.
    ///
    /// # Errors
    /// As for [`request`](Socket::request).
    pub fn perform(&mut self, mut request: Request, flags: NlmF) -> io::Result<()> {
        self.transact(|sequence| request.finish(NlmF::REQUEST | NlmF::ACK | flags, sequence), &mut |_| {}).map(drop)
    }

    /// The first value that `parse` finds in the result of a request; `None` also for one of the `absent` errors.
    pub(super) fn find<T>(
        &mut self,
        request: Request,
        absent: &[Errno],
        parse: impl Fn(&Message<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut found = None;
        let result = self.request(request, &mut |message| found = found.take().or_else(|| parse(message)));
        Ok(unless(absent, result)?.and(found))
    }

    /// Sends a request for a dump and passes each message of it to `each`. An interrupted dump is made again, so `each` can
    /// see an object twice, and one that is gone.
    ///
    /// # Errors
    /// As for [`request`](Socket::request); and `ResourceBusy` if the dump was interrupted by changes each time.
    pub fn dump(&mut self, request: Request, each: &mut dyn FnMut(&Message<'_>)) -> io::Result<()> {
        self.collect(request, |(), message| each(message))
    }

    /// The values that `parse` finds in a dump. Those of an interrupted attempt are dropped.
    pub(super) fn list<T>(
        &mut self,
        request: Request,
        parse: impl Fn(&Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        self.collect(request, |found: &mut Vec<T>, message| found.extend(parse(message)))
    }

    /// Makes a dump until nothing interrupts it; each attempt begins with an empty result.
    fn collect<T: Default>(
        &mut self,
        mut request: Request,
        mut add: impl FnMut(&mut T, &Message<'_>),
    ) -> io::Result<T> {
        for _ in 0..DUMP_TRIES {
            let mut result = T::default();
            let bytes = |sequence| request.finish(NlmF::REQUEST | NlmF::DUMP, sequence).to_vec();
            if !self.transact(bytes, &mut |message| add(&mut result, message))? {
                return Ok(result);
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the kernel's table kept changing while it was read"))
    }

    /// Sends messages of nftables as one transaction: all take effect, or none.
    ///
    /// # Errors
    /// The kernel's error for the first message that it refused; else as for [`request`](Socket::request).
    pub(super) fn commit(&mut self, messages: Vec<(Request, NlmF)>) -> io::Result<()> {
        self.transact(|sequence| netfilter::batch(messages, sequence), &mut |_| {}).map(drop)
    }

    /// Sends the bytes of the next sequence number, and reads the result. True if changes interrupted the dump.
    fn transact<B: AsRef<[u8]>>(
        &mut self,
        bytes: impl FnOnce(u32) -> B,
        each: &mut dyn FnMut(&Message<'_>),
    ) -> io::Result<bool> {
        if std::mem::replace(&mut self.unread, true) {
            self.drain()?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.raw.send(bytes(self.sequence).as_ref())?;
        let mut is_interrupted = false;
        loop {
            let no_reply = || io::Error::new(io::ErrorKind::TimedOut, "no reply from the kernel on netlink");
            for message in Messages::new(self.raw.receive(RecvFlags::empty())?.ok_or_else(no_reply)?) {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                is_interrupted |= message.flags.contains(NlmF::DUMP_INTR);
                match message.kind {
                    ERROR | DONE => {
                        self.unread = false;
                        return errno(&message).map(|()| is_interrupted);
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
            // An error belongs to the old result; reporting it has removed it from the socket.
            if matches!(self.raw.receive(RecvFlags::DONTWAIT), Ok(None)) {
                return Ok(());
            }
        }
        Err(io::Error::other("an old netlink result does not end"))
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        socket.raw.fd
    }
}

/// `None` for one of the `expected` errors.
pub(super) fn unless<T>(expected: &[Errno], result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if Errno::from_io_error(&error).is_some_and(|errno| expected.contains(&errno)) => Ok(None),
        result => result.map(Some),
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
