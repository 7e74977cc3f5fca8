//! Packets that refuse a client.

use std::net::IpAddr;

use super::checksum::{checksum, pseudo_header, with_ip_header};
use super::{Packet, UDP_HEADER};
use crate::config::Protocol;

/// `IPPROTO_ICMP` and `IPPROTO_ICMPV6`.
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// Bytes of a refused IPv6 datagram that go back with the refusal: RFC 4443 fills up to the minimum MTU.
const MAX_QUOTED: usize = 1280 - 40 - 8;

impl Packet {
    /// A packet to the client that refuses it: a reset for TCP (RFC 9293, section 3.10.7.1), "port unreachable" for UDP
    /// (RFC 792, RFC 4443).
    pub fn refusal(&self) -> Vec<u8> {
        let (from, to) = (self.flow.destination.ip(), self.flow.source.ip());
        match (self.flow.protocol, from) {
            (Protocol::Tcp, _) => with_ip_header(from, to, Protocol::Tcp.number(), &self.reset()),
            (Protocol::Udp, IpAddr::V4(_)) => {
                // Type 3, code 3; RFC 792 wants the IP header and eight bytes more.
                let quoted = &self.bytes[..self.transport + UDP_HEADER];
                let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0], quoted].concat();
                let sum = checksum(0, &message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                with_ip_header(from, to, ICMP, &message)
            }
            (Protocol::Udp, IpAddr::V6(_)) => {
                // Type 1, code 4.
                let quoted = &self.bytes[..self.bytes.len().min(MAX_QUOTED)];
                let mut message = [&[1, 4, 0, 0, 0, 0, 0, 0], quoted].concat();
                let sum = checksum(pseudo_header(from, to, ICMP6, message.len()), &message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                with_ip_header(from, to, ICMP6, &message)
            }
        }
    }

    /// A TCP header that resets the connection of a SYN.
    fn reset(&self) -> Vec<u8> {
        const WORDS_OF_HEADER: u8 = 5;
        const RST_ACK: u8 = 0b01_0100;
        let segment = self.segment();
        let (us, client) = (self.flow.destination, self.flow.source);
        let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
        let data = (segment.len() - self.transport_header) as u32;
        // A SYN counts as one byte.
        let acknowledged = sequence.wrapping_add(data).wrapping_add(1);
        let ports = [us.port().to_be_bytes(), client.port().to_be_bytes()].concat();
        let rest = [WORDS_OF_HEADER << 4, RST_ACK, 0, 0, 0, 0, 0, 0];
        let mut reset = [&ports[..], &[0; 4], &acknowledged.to_be_bytes(), &rest].concat();
        let sum = checksum(pseudo_header(us.ip(), client.ip(), Protocol::Tcp.number(), reset.len()), &reset);
        reset[16..18].copy_from_slice(&sum.to_be_bytes());
        reset
    }
}
