//! Packets that a rule has logged to a group (`log group N`), whole.
//!
//! Numbers are those of linux/netfilter/nfnetlink_log.h.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, netlink};

use super::message::{Attributes, Messages, Request};
use super::socket::{self, TIMEOUT};
use crate::system::wait_readable;

/// `NFNL_SUBSYS_ULOG`, and in it `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG`.
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = 4 << 8 | 1;

/// `NFULA_CFG_CMD`, `_MODE`, `_QTHRESH`; `NFULNL_CFG_CMD_BIND`; `NFULNL_COPY_PACKET`.
const COMMAND: u16 = 1;
const MODE: u16 = 2;
const THRESHOLD: u16 = 5;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;

/// `NFULA_PACKET_HDR` (a protocol, a hook, padding) and `NFULA_PAYLOAD`.
const HEADER: u16 = 1;
const PAYLOAD: u16 = 9;

/// `struct nfgenmsg`.
const GENERIC_HEADER: usize = 4;

/// The longest packet, with room for netlink around it.
const BUFFER: usize = 72 * 1024;

/// How many bytes of packets the kernel is asked to keep until they are read.
const KEPT: usize = 4 * 1024 * 1024;

/// `NF_INET_LOCAL_OUT`.
const LOCAL_OUT: u8 = 3;

/// A socket that receives the packets of one group of one network namespace. It becomes readable when there is one.
pub struct Nflog {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// A packet that has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged<'a> {
    /// From its network header on.
    pub payload: &'a [u8],
    /// Whether it comes from this host itself.
    pub from_here: bool,
}

/// What there was to receive.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Something, and `each` has seen it.
    Some,
    /// Nothing more.
    Nothing,
    /// Packets were lost, since too many were unread (`ENOBUFS`).
    Overrun,
}

impl Nflog {
    /// Binds to the group in the calling thread's network namespace.
    ///
    /// # Errors
    /// `PermissionDenied` or `AddrInUse` if another program has the group (the kernel says the one or the other),
    /// `PermissionDenied` without `CAP_NET_ADMIN` too; else the operating system's error.
    pub fn open(group: u16) -> io::Result<Nflog> {
        let fd = socket::open(Some(netlink::NETFILTER), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        socket::set_receive_buffer(&fd, KEPT)?;
        socket::connect(&fd, 0)?;
        let mut log = Nflog { fd, buffer: vec![0; BUFFER] };
        let [high, low] = group.to_be_bytes();
        let request = || Request::new(CONFIG, &[0, 0, high, low]);
        log.configure(&mut request().attribute(COMMAND, &[BIND])).map_err(|error| {
            match Errno::from_io_error(&error) {
                Some(Errno::BUSY) => io::ErrorKind::AddrInUse.into(),
                _ => error,
            }
        })?;
        // Whole packets, and each at once: the default waits for a hundred of them, or a second.
        let mode = [&0xffff_u32.to_be_bytes()[..], &[COPY_PACKET, 0]].concat();
        log.configure(&mut request().attribute(MODE, &mode).attribute(THRESHOLD, &1u32.to_be_bytes()))?;
        Ok(log)
    }

    /// Sends a request and waits for its acknowledgement; packets that come before it are lost.
    fn configure(&mut self, request: &mut Request) -> io::Result<()> {
        const ERROR: u16 = 2;
        rustix::net::send(&self.fd, request.finish(NlmF::REQUEST | NlmF::ACK, 1), SendFlags::empty())?;
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            wait_readable(&[self.fd.as_fd()], Some(deadline))?;
            let length = match socket::receive(&self.fd, &mut self.buffer, RecvFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => continue,
                length => length?,
            };
            for message in Messages::new(&self.buffer[..length]) {
                let message = message?;
                if message.kind == ERROR {
                    let number = message.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    return if number == 0 {
                        Ok(())
                    } else {
                        Err(io::Error::from_raw_os_error(number.saturating_neg()))
                    };
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Takes what the kernel hands on at once, and gives `each` packet of it; does not block.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn receive(&mut self, each: &mut dyn FnMut(Logged<'_>)) -> io::Result<Received> {
        let length = match socket::receive(&self.fd, &mut self.buffer, RecvFlags::DONTWAIT) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Received::Nothing),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => return Ok(Received::Overrun),
            Err(error) => return Err(error),
        };
        for_each_packet(&self.buffer[..length], each);
        Ok(Received::Some)
    }
}

/// Gives `each` the packets of one datagram of the kernel. Pure: what is not whole ends it, what is not a packet is skipped.
pub fn for_each_packet(datagram: &[u8], each: &mut dyn FnMut(Logged<'_>)) {
    for message in Messages::new(datagram) {
        let Ok(message) = message else { break };
        let attributes = || Attributes::after(message.payload, GENERIC_HEADER);
        if message.kind == PACKET
            && let Some(payload) = attributes().find(PAYLOAD)
        {
            let from_here = attributes().find(HEADER).and_then(|header| header.get(2)) == Some(&LOCAL_OUT);
            each(Logged { payload, from_here });
        }
    }
}

impl AsFd for Nflog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Nflog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Nflog").field("fd", &self.fd).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet as the kernel logs it.
    fn message(hook: u8, payload: &[u8]) -> Vec<u8> {
        let header = [0x08, 0x00, hook, 0];
        Request::new(PACKET, &[2, 0, 0, 1])
            .attribute(HEADER, &header)
            .attribute(PAYLOAD, payload)
            .finish(NlmF::empty(), 0)
            .to_vec()
    }

    fn packets(datagram: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let mut all = Vec::new();
        for_each_packet(datagram, &mut |logged| all.push((logged.payload.to_vec(), logged.from_here)));
        all
    }

    #[test]
    fn the_hook_says_whether_a_packet_is_of_this_host() {
        const PREROUTING: u8 = 0;
        let both = [message(PREROUTING, b"outside"), message(LOCAL_OUT, b"inside")].concat();
        assert_eq!(packets(&both), [(b"outside".to_vec(), false), (b"inside".to_vec(), true)]);
        // Without a header it counts as from outside, which is the stricter.
        let bare = Request::new(PACKET, &[2, 0, 0, 1]).attribute(PAYLOAD, b"x").finish(NlmF::empty(), 0).to_vec();
        assert_eq!(packets(&bare), [(b"x".to_vec(), false)]);
    }

    #[test]
    fn no_cut_and_no_flipped_bit_panics_or_reads_beyond_the_datagram() {
        let whole = [message(LOCAL_OUT, b"first packet"), message(0, b"second")].concat();
        for end in 0..whole.len() {
            assert!(packets(&whole[..end]).len() < 2, "{end}");
        }
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let bytes: usize = packets(&bad).iter().map(|(payload, _)| payload.len()).sum();
            assert!(bytes <= whole.len(), "{bit}");
        }
    }
}
