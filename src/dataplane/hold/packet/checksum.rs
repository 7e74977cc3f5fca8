//! The Internet checksum (RFC 1071), and the IP headers of packets that proxygw itself makes.

use std::net::IpAddr;

/// Sum over the pseudo-header that the checksums of TCP, UDP and ICMPv6 cover (RFC 9293, section 3.1; RFC 8200,
/// section 8.1), not folded.
pub(super) fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> u64 {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(from) + address(to) + u64::from(protocol) + length as u64
}

/// Checksum of some bytes, on top of a sum.
pub(super) fn checksum(start: u64, bytes: &[u8]) -> u16 {
    let mut sum = start + sum(bytes);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// Sum of 16-bit words in network byte order, not folded. 64 bits hold that of 2^48 bytes.
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

/// A packet around `payload`, which is at most 1,280 bytes long.
pub(super) fn with_ip_header(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    const HOPS: u8 = 64;
    const DO_NOT_FRAGMENT: u8 = 0x40;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = ((20 + payload.len()) as u16).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, DO_NOT_FRAGMENT, 0, HOPS, protocol, 0, 0];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            let sum = checksum(0, &header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            [&header, payload].concat()
        }
        (from, to) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let [high, low] = (payload.len() as u16).to_be_bytes();
            let header = [0x60, 0, 0, 0, high, low, protocol, HOPS];
            [&header, &octets(from)[..], &octets(to), payload].concat()
        }
    }
}
