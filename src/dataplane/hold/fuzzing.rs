//! The fuzz target of held packets. See [`crate::fuzzing`]. The headers are read here in another way than in [`packet`].
//!
//! [`packet`]: super::packet

use std::net::IpAddr;

use super::packet::{Flow, Packet};
use crate::config::Protocol;

/// Reads a packet as NFLOG hands it on, and makes what would be sent of it.
///
/// # Panics
/// A packet that is sent is not well formed, or is not the one that was read.
pub fn packet(bytes: &[u8]) {
    let Ok(packet) = Packet::parse(bytes) else { return };
    let (flow, length) = (packet.flow, packet.len());
    assert!(length <= bytes.len());
    let refusal = packet.refusal();
    check_refusal(&refusal, flow);
    let sendable = packet.into_sendable();
    let whole = match &sendable[..] {
        [one] => one.clone(),
        fragments => reassemble(fragments),
    };
    assert_eq!(whole.len(), length);
    check_checksum(&whole, flow);
    // Nothing but the checksum, and "don't fragment" of a long one, has changed.
    let again = Packet::parse(&whole).expect("it can be read again");
    assert_eq!(again.flow, flow);
    let at = transport(&whole) + if flow.protocol == Protocol::Tcp { 16 } else { 6 };
    for (index, (new, old)) in whole.iter().zip(bytes).enumerate() {
        let changes = (at..at + 2).contains(&index) || (index == 6 && new ^ old == 0x40);
        assert!(new == old || changes, "byte {index}: {old:02x} has become {new:02x}");
    }
}

fn check_refusal(refusal: &[u8], flow: Flow) {
    assert!(refusal.len() <= 1280, "{} bytes of refusal", refusal.len());
    match flow.protocol {
        Protocol::Tcp => {
            let reset = Packet::parse(refusal).expect("a reset").flow;
            assert_eq!((reset.source, reset.destination), (flow.destination, flow.source));
            check_checksum(refusal, reset);
        }
        Protocol::Udp => {
            let message = &refusal[transport(refusal)..];
            let sum = match flow.source.ip() {
                IpAddr::V4(_) => sum(message),
                IpAddr::V6(_) => sum(message) + pseudo_header(flow, 58, message.len()),
            };
            assert_eq!(folded(sum), 0xffff);
        }
    }
}

/// The Internet checksum over a segment, its own included, is all ones (RFC 1071).
fn check_checksum(packet: &[u8], flow: Flow) {
    let segment = &packet[transport(packet)..];
    assert_eq!(folded(sum(segment) + pseudo_header(flow, flow.protocol.number(), segment.len())), 0xffff);
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().enumerate().map(|(index, byte)| u64::from(*byte) << if index % 2 == 0 { 8 } else { 0 }).sum()
}

fn pseudo_header(flow: Flow, protocol: u8, length: usize) -> u64 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    };
    octets(flow.source.ip()) + octets(flow.destination.ip()) + u64::from(protocol) + length as u64
}

fn folded(mut sum: u64) -> u64 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}

/// Offset of the transport header. Of IPv6, extension headers but the fragment header are passed over.
fn transport(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 {
        return usize::from(packet[0] & 0xf) * 4;
    }
    let (mut next, mut at) = (packet[6], 40);
    while next == 0 || next == 60 {
        next = packet[at];
        at += 8 + usize::from(packet[at + 1]) * 8;
    }
    at
}

/// The packet that these IPv6 fragments (RFC 8200, section 4.5) are of.
fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        assert!(fragment.len() <= 1500, "a fragment of {} bytes", fragment.len());
        assert_eq!(usize::from(fragment[4]) << 8 | usize::from(fragment[5]), fragment.len() - 40);
        let (mut next_at, mut at) = (6, 40);
        while fragment[next_at] != 44 {
            (next_at, at) = (at, at + 8 + usize::from(fragment[at + 1]) * 8);
        }
        if index == 0 {
            whole = fragment[..at].to_vec();
            whole[next_at] = fragment[at];
        }
        let offset = usize::from(fragment[at + 2]) << 8 | usize::from(fragment[at + 3]);
        let more = index + 1 < fragments.len();
        assert_eq!((offset & !7, offset & 7), (whole.len() - at, usize::from(more)));
        assert!(!more || (fragment.len() - at) % 8 == 0);
        whole.extend_from_slice(&fragment[at + 8..]);
    }
    let length = whole.len() - 40;
    whole[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    whole
}
