//! IP packets as NFLOG delivers them: strict parsing, and making them fit to be sent again. Pure: no clock, no socket.
//!
//! Any process can send these bytes, so no length field is trusted: [`Packet::parse`] accepts a whole TCP or UDP packet over
//! IPv4 (RFC 791) or IPv6 (RFC 8200) that can be sent again on every link, and nothing else. Source routing is refused,
//! because it would decide where the copy of a packet goes. What parses can be sent and refused: neither
//! [`Packet::into_sendable`] nor [`Packet::refusal`] fails or panics.

mod checksum;
mod header;
#[cfg(test)]
mod properties;
mod refusal;
mod send;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use crate::config::Protocol;
use header::{Header, byte, word};

/// Header of IPv6 without extensions.
const HEADER_V6: usize = 40;

/// Length of the UDP header, and of a TCP header without options.
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;

/// Addresses and protocol of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client.
    pub source: SocketAddr,
    /// The address and port that the client connects to.
    pub destination: SocketAddr,
}

impl Flow {
    /// Whether the source is forged, if another host sent the packet: it is unspecified, loopback, multicast or the limited
    /// broadcast address (RFC 1122, section 3.2.1.3; RFC 4291, section 2). The host's own addresses take a route lookup:
    /// the kernel drops those, by the chain `forged`.
    pub fn has_forged_source(&self) -> bool {
        match self.source.ip().to_canonical() {
            IpAddr::V4(address) => {
                address.octets()[0] == 0 || address.is_loopback() || address.is_multicast() || address.is_broadcast()
            }
            IpAddr::V6(address) => address.is_unspecified() || address.is_loopback() || address.is_multicast(),
        }
    }
}

/// A whole packet whose headers have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    bytes: Vec<u8>,
    /// Position of the TCP or UDP header.
    transport: usize,
    /// Length of the TCP or UDP header.
    transport_header: usize,
    /// Length of what each fragment of an IPv6 packet repeats: "per-fragment headers" of RFC 8200, section 4.5.
    per_fragment: usize,
    /// Position of the field, in the last of these headers, that names the one behind it.
    next_header: usize,
    /// Addresses and protocol.
    pub flow: Flow,
}

/// Reason why a packet cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// A length does not fit, or a header is none.
    Malformed,
    /// A part of a datagram. Conntrack reassembles fragments, so this one has bypassed it.
    Fragment,
    /// Neither TCP nor UDP, or with source routing.
    Unsupported,
    /// Too long for one piece, with headers that do not fit into the first fragment (RFC 7112) on a link with IPv6's minimum
    /// MTU.
    LongHeaders,
}

impl Packet {
    /// Parses a packet from its network header on. Bytes behind its end are ignored.
    ///
    /// # Errors
    /// The packet cannot be held.
    pub fn parse(bytes: &[u8]) -> Result<Packet, Unfit> {
        let Header { length, transport, per_fragment, next_header, protocol, source, destination } =
            match byte(bytes, 0)? >> 4 {
                4 => header::parse_v4(bytes)?,
                6 => header::parse_v6(bytes)?,
                _ => return Err(Unfit::Malformed),
            };
        let bytes = bytes.get(..length).ok_or(Unfit::Malformed)?;
        let segment = bytes.get(transport..).ok_or(Unfit::Malformed)?;
        let (protocol, transport_header) = match protocol {
            6 => (Protocol::Tcp, tcp_header(segment)?),
            17 => (Protocol::Udp, udp_header(segment)?),
            _ => return Err(Unfit::Unsupported),
        };
        let source = SocketAddr::new(source, word(segment, 0)?);
        let destination = SocketAddr::new(destination, word(segment, 2)?);
        let flow = Flow { protocol, source, destination };
        let packet = Packet { bytes: bytes.to_vec(), transport, transport_header, per_fragment, next_header, flow };
        if packet.fits_the_minimum_mtu() { Ok(packet) } else { Err(Unfit::LongHeaders) }
    }

    /// Length in bytes, all headers included.
    #[allow(clippy::len_without_is_empty, reason = "a packet has a header")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The TCP or UDP header and what follows it.
    fn segment(&self) -> &[u8] {
        &self.bytes[self.transport..]
    }
}

/// Length of a TCP header, options included (RFC 9293, section 3.1).
fn tcp_header(segment: &[u8]) -> Result<usize, Unfit> {
    let header = usize::from(byte(segment, 12)? >> 4) * 4;
    if (TCP_HEADER..=segment.len()).contains(&header) { Ok(header) } else { Err(Unfit::Malformed) }
}

/// Length of a UDP header (RFC 768) whose datagram fills the packet.
fn udp_header(segment: &[u8]) -> Result<usize, Unfit> {
    let length = usize::from(word(segment, 4)?);
    if length >= UDP_HEADER && length == segment.len() { Ok(UDP_HEADER) } else { Err(Unfit::Malformed) }
}
