//! Packets that a rule logged to a group (`log group N`), whole (linux/netfilter/nfnetlink_log.h).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use neli::consts::netfilter::{LogCmd, LogCopyMode, NetfilterMsg, NfLogAttr, NfLogCfg};
use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::netlink;

use super::message::{Messages, Request};
use super::netfilter::attributes;
use super::raw::RawSocket;
use super::socket::Socket;

pub use super::raw::Received;

/// Size of the receive buffer in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// `NF_INET_LOCAL_OUT`.
const LOCAL_OUT: u8 = 3;

/// A socket that receives the packets of one group of one network namespace. It becomes readable when a packet waits.
#[derive(Debug)]
pub struct Nflog(RawSocket);

/// A packet that was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged<'a> {
    /// From its network header on.
    pub payload: &'a [u8],
    /// True if it comes from this host itself.
    pub from_here: bool,
}

impl Nflog {
    /// Binds to the group in the calling thread's network namespace.
    ///
    /// # Errors
    /// `PermissionDenied` or `AddrInUse` if another program has the group (the kernel returns the one or the other),
    /// `PermissionDenied` without `CAP_NET_ADMIN` too; else the operating system's error.
    pub fn open(group: u16) -> io::Result<Nflog> {
        Nflog::bind(Socket::open(Some(netlink::NETFILTER))?, group)
    }

    fn bind(mut socket: Socket, group: u16) -> io::Result<Nflog> {
        socket.perform(bind(group), NlmF::empty()).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => io::ErrorKind::AddrInUse.into(),
            _ => error,
        })?;
        // Packets that come before this takes effect are lost.
        socket.perform(whole_packets(group), NlmF::empty())?;
        let events = socket.into_raw();
        events.set_receive_buffer(RECEIVE_BUFFER)?;
        Ok(Nflog(events))
    }

    /// Receives one datagram, and passes `each` packet of it; does not block.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn receive(&mut self, each: &mut dyn FnMut(Logged<'_>)) -> io::Result<Received> {
        self.0.notification(|datagram| for_each_packet(datagram, each))
    }
}

/// Binds a socket to a group, which one socket of a network namespace can have.
pub(super) fn bind(group: u16) -> Request {
    config(group).attribute(NfLogCfg::Cmd.into(), &[LogCmd::Bind.into()])
}

/// Requests whole packets, and each at once: the default waits for a hundred of them, or a second.
fn whole_packets(group: u16) -> Request {
    let mode = [&0xffff_u32.to_be_bytes()[..], &[LogCopyMode::Packet.into(), 0]].concat();
    config(group).attribute(NfLogCfg::Mode.into(), &mode).be32(NfLogCfg::QThresh.into(), 1)
}

fn config(group: u16) -> Request {
    let [high, low] = group.to_be_bytes();
    Request::new(NetfilterMsg::LogConfig.into(), &[0, 0, high, low])
}

/// Passes the packets of a datagram to `each`. Ends at a truncated message, and skips other messages.
pub fn for_each_packet(datagram: &[u8], each: &mut dyn FnMut(Logged<'_>)) {
    for message in Messages::new(datagram) {
        let Ok(message) = message else { break };
        let attributes = attributes(&message);
        if message.kind == u16::from(NetfilterMsg::LogPacket)
            && let Some(payload) = attributes.find(NfLogAttr::Payload.into())
        {
            // A protocol, the hook, padding.
            let header = attributes.find(NfLogAttr::PacketHdr.into());
            let from_here = header.and_then(|header| header.get(2)) == Some(&LOCAL_OUT);
            each(Logged { payload, from_here });
        }
    }
}

impl AsFd for Nflog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::{played, recorded};

    /// A packet as the kernel logs it.
    fn message(hook: u8, payload: &[u8]) -> Vec<u8> {
        let header = [0x08, 0x00, hook, 0];
        Request::new(NetfilterMsg::LogPacket.into(), &[2, 0, 0, 1])
            .attribute(NfLogAttr::PacketHdr.into(), &header)
            .attribute(NfLogAttr::Payload.into(), payload)
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
        let bare = Request::new(NetfilterMsg::LogPacket.into(), &[2, 0, 0, 1])
            .attribute(NfLogAttr::Payload.into(), b"x")
            .finish(NlmF::empty(), 0)
            .to_vec();
        assert_eq!(packets(&bare), [(b"x".to_vec(), false)]);
    }

    #[test]
    fn recorded_packets_are_read_whole() {
        let datagrams = recorded!("nflog");
        let [v4, v6, inside] = [0, 1, 2].map(|at| packets(&datagrams[at]));
        for (packets, version, end, from_here) in
            [(&v4, 4, &b"outside"[..], false), (&v6, 6, b"six", false), (&inside, 4, b"inside", true)]
        {
            let [(payload, here)] = &packets[..] else { panic!("{packets:?}") };
            assert_eq!((payload[0] >> 4, *here), (version, from_here));
            assert!(payload.ends_with(end), "{payload:?}");
        }
        // Its length is in bytes 2 and 3 (RFC 791).
        assert_eq!(v4[0].0[2..4], [0, v4[0].0.len() as u8]);
    }

    #[test]
    fn the_socket_is_bound_and_gets_whole_packets_at_once() {
        let done = || Request::new(2, &[0; 4]).finish(NlmF::empty(), 0).to_vec();
        let (socket, kernel) = played(vec![vec![done()], vec![done()]]);
        Nflog::bind(socket, 0x0102).expect("bound");
        let requests = kernel.join().expect("played");
        // nfgenmsg with the group; NFULA_CFG_CMD
        assert_eq!(requests[0][16..], [0, 0, 1, 2, 5, 0, 1, 0, 1, 0, 0, 0]);
        // NFULA_CFG_MODE: range, NFULNL_COPY_PACKET; NFULA_CFG_QTHRESH
        let expected = [0, 0, 1, 2, 10, 0, 2, 0, 0, 0, 0xff, 0xff, 2, 0, 0, 0, 8, 0, 5, 0, 0, 0, 0, 1];
        assert_eq!(requests[1][16..], expected);
        assert!(requests.iter().all(|request| request[4..8] == [1, 4, 5, 0]), "NFULNL_MSG_CONFIG, REQUEST | ACK");
    }

    #[test]
    fn a_group_of_another_socket_is_an_address_in_use() {
        let refuse = |errno: Errno| {
            let error = Request::new(2, &(-errno.raw_os_error()).to_ne_bytes()).finish(NlmF::empty(), 0).to_vec();
            let (socket, kernel) = played(vec![vec![error]]);
            let error = Nflog::bind(socket, 1).expect_err("refused");
            kernel.join().expect("played");
            error.kind()
        };
        assert_eq!(refuse(Errno::BUSY), io::ErrorKind::AddrInUse);
        assert_eq!(refuse(Errno::PERM), io::ErrorKind::PermissionDenied);
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
