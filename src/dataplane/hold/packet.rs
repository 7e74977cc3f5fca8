//! IP packets as NFLOG hands them on: reading them strictly within their bounds, and making them fit to be sent again.
//!
//! Nothing here trusts a length field. What is not a whole TCP or UDP packet over IPv4 (RFC 791) or IPv6 (RFC 8200) is
//! refused, and so is source routing, which would decide where our own copy of a packet goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::Protocol;

/// `IPPROTO_ICMP` and `IPPROTO_ICMPV6`.
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// The number of IPv6's fragment header, and its length.
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;

/// What every IPv6 link carries (RFC 8200, section 5).
const SMALLEST_MTU: usize = 1280;

/// A longer packet was put together of fragments.
const MOST_IN_ONE_PIECE: usize = 1500;

/// More IPv6 extension headers than anybody sends.
const MOST_EXTENSIONS: usize = 8;

/// How much of a refused IPv6 datagram goes back with the refusal: RFC 4443 fills up to the minimum MTU.
const MOST_QUOTED: usize = 1280 - 40 - 8;

/// Who speaks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// How.
    pub protocol: Protocol,
    /// The client.
    pub source: SocketAddr,
    /// Where it connects to.
    pub destination: SocketAddr,
}

/// A packet that is whole, and whose headers have been walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    bytes: Vec<u8>,
    /// Where the TCP or UDP header begins.
    transport: usize,
    /// Where the header before it names it.
    last_next_header: usize,
    /// Its flow.
    pub flow: Flow,
}

/// Why a packet cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// A length does not fit, or a header is none.
    Malformed,
    /// A part of a datagram: conntrack puts them together, so this one has gone around it.
    Fragment,
    /// Neither TCP nor UDP, or with source routing.
    Other,
}

impl Packet {
    /// Reads a packet from its network header on. What is behind its end is cut off.
    ///
    /// # Errors
    /// It cannot be held.
    pub fn parse(bytes: &[u8]) -> Result<Packet, Unfit> {
        let Header { length, transport, last_next_header, protocol, source, destination } =
            match bytes.first().ok_or(Unfit::Malformed)? >> 4 {
                4 => parse_v4(bytes)?,
                6 => parse_v6(bytes)?,
                _ => return Err(Unfit::Malformed),
            };
        let bytes = bytes.get(..length).ok_or(Unfit::Malformed)?;
        let segment = bytes.get(transport..).ok_or(Unfit::Malformed)?;
        let protocol = match protocol {
            6 => {
                let header = usize::from(byte(segment, 12)? >> 4) * 4;
                if header < 20 || header > segment.len() {
                    return Err(Unfit::Malformed);
                }
                Protocol::Tcp
            }
            17 => {
                let length = usize::from(word(segment, 4)?);
                if length < 8 || length != segment.len() {
                    return Err(Unfit::Malformed);
                }
                Protocol::Udp
            }
            _ => return Err(Unfit::Other),
        };
        let source = SocketAddr::new(source, word(segment, 0)?);
        let destination = SocketAddr::new(destination, word(segment, 2)?);
        Ok(Packet { bytes: bytes.to_vec(), transport, last_next_header, flow: Flow { protocol, source, destination } })
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The packet with its checksum computed anew: the captured one can be unfinished, where a peer leaves it to its
    /// network card. The IPv4 header's own is the kernel's business (raw(7)).
    ///
    /// A datagram that has come in fragments, which conntrack has put together, goes on in fragments.
    pub fn into_sendable(mut self) -> Vec<Vec<u8>> {
        let at = self.transport
            + match self.flow.protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
            };
        self.bytes[at..at + 2].fill(0);
        let segment = &self.bytes[self.transport..];
        let (from, to) = (self.flow.source.ip(), self.flow.destination.ip());
        let mut sum = checksum(pseudo_header(from, to, self.flow.protocol.number(), segment.len()), segment);
        if sum == 0 && self.flow.protocol == Protocol::Udp {
            // Zero means "none" (RFC 768).
            sum = 0xffff;
        }
        self.bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        match self.flow.source {
            _ if self.bytes.len() <= MOST_IN_ONE_PIECE => vec![self.bytes],
            SocketAddr::V4(_) => {
                // Then the kernel can do it, but for the flag that forbids it.
                self.bytes[6] &= !0x40;
                vec![self.bytes]
            }
            SocketAddr::V6(_) => self.into_fragments(),
        }
    }

    /// Splits an IPv6 packet (RFC 8200, section 4.5). The headers before the transport header are repeated in each fragment.
    fn into_fragments(self) -> Vec<Vec<u8>> {
        let (head, payload) = self.bytes.split_at(self.transport);
        // The transport protocol is named by the last of the headers: the fragment header comes between.
        let next = self.flow.protocol.number();
        // Whole units of eight bytes, and within the smallest MTU.
        let room = (SMALLEST_MTU - head.len() - FRAGMENT_HEADER) / 8 * 8;
        let identification = u32::from_be_bytes([payload[0], payload[1], payload[6], payload[7]]);
        let count = payload.len().div_ceil(room);
        let fragment = |(index, part): (usize, &[u8])| {
            let more = u16::from(index + 1 < count);
            let mut fragment = head.to_vec();
            fragment[self.last_next_header] = FRAGMENT;
            fragment[4..6].copy_from_slice(&((head.len() - 40 + FRAGMENT_HEADER + part.len()) as u16).to_be_bytes());
            fragment.extend_from_slice(&[next, 0]);
            fragment.extend_from_slice(&((index * room) as u16 | more).to_be_bytes());
            fragment.extend_from_slice(&identification.to_be_bytes());
            fragment.extend_from_slice(part);
            fragment
        };
        payload.chunks(room).enumerate().map(fragment).collect()
    }

    /// What tells the client that nobody is there: a reset for TCP (RFC 9293, section 3.10.7.1), "port unreachable" for UDP
    /// (RFC 792, RFC 4443).
    pub fn refusal(&self) -> Vec<u8> {
        let (us, client) = (self.flow.destination, self.flow.source);
        match (self.flow.protocol, us.ip(), client.ip()) {
            (Protocol::Tcp, from, to) => {
                let segment = &self.bytes[self.transport..];
                let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
                let header = usize::from(segment[12] >> 4) * 4;
                let data = (segment.len() - header) as u32;
                let mut reset = Vec::with_capacity(20);
                reset.extend_from_slice(&us.port().to_be_bytes());
                reset.extend_from_slice(&client.port().to_be_bytes());
                reset.extend_from_slice(&0u32.to_be_bytes());
                // A SYN counts as one byte.
                reset.extend_from_slice(&sequence.wrapping_add(data + 1).to_be_bytes());
                // Five words of header; RST and ACK.
                reset.extend_from_slice(&[5 << 4, 0b01_0100, 0, 0, 0, 0, 0, 0]);
                let sum = checksum(pseudo_header(from, to, 6, reset.len()), &reset);
                reset[16..18].copy_from_slice(&sum.to_be_bytes());
                with_ip_header(from, to, 6, &reset)
            }
            (Protocol::Udp, IpAddr::V4(_), _) => {
                // Type 3, code 3, and as much of the datagram as RFC 792 asks for.
                let quoted = &self.bytes[..(self.transport + 8).min(self.bytes.len())];
                let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0], quoted].concat();
                let sum = checksum(0, &message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                with_ip_header(us.ip(), client.ip(), ICMP, &message)
            }
            (Protocol::Udp, IpAddr::V6(_), _) => {
                // Type 1, code 4.
                let quoted = &self.bytes[..self.bytes.len().min(MOST_QUOTED)];
                let mut message = [&[1, 4, 0, 0, 0, 0, 0, 0], quoted].concat();
                let sum = checksum(pseudo_header(us.ip(), client.ip(), ICMP6, message.len()), &message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                with_ip_header(us.ip(), client.ip(), ICMP6, &message)
            }
        }
    }
}

/// What the network header says.
struct Header {
    length: usize,
    transport: usize,
    last_next_header: usize,
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
}

fn parse_v4(bytes: &[u8]) -> Result<Header, Unfit> {
    let header = usize::from(byte(bytes, 0)? & 0xf) * 4;
    let length = usize::from(word(bytes, 2)?);
    if header < 20 || length < header || length > bytes.len() {
        return Err(Unfit::Malformed);
    }
    // More fragments, or an offset.
    if word(bytes, 6)? & 0x3fff != 0 {
        return Err(Unfit::Fragment);
    }
    options_are_harmless(&bytes[20..header])?;
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]));
    let (source, destination) = (address(12), address(16));
    Ok(Header { length, transport: header, last_next_header: 9, protocol: byte(bytes, 9)?, source, destination })
}

/// Refuses source routing among the options of an IPv4 header; the others go on as they are.
fn options_are_harmless(mut options: &[u8]) -> Result<(), Unfit> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    while let Some(kind) = options.first() {
        let length = match *kind {
            END => return Ok(()),
            NOTHING => 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(Unfit::Other),
            _ => usize::from(byte(options, 1)?).max(2),
        };
        options = options.get(length..).ok_or(Unfit::Malformed)?;
    }
    Ok(())
}

fn parse_v6(bytes: &[u8]) -> Result<Header, Unfit> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let header = bytes.get(..40).ok_or(Unfit::Malformed)?;
    let length = 40 + usize::from(word(bytes, 4)?);
    let address = |at: usize| -> Result<IpAddr, Unfit> {
        let octets: [u8; 16] = header[at..at + 16].try_into().map_err(|_| Unfit::Malformed)?;
        Ok(IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let (mut next, mut named_at, mut at) = (header[6], 6, 40);
    for _ in 0..MOST_EXTENSIONS {
        match next {
            HOP_BY_HOP | DESTINATION => {
                (next, named_at) = (byte(bytes, at)?, at);
                at += (usize::from(byte(bytes, at + 1)?) + 1) * 8;
            }
            FRAGMENT => return Err(Unfit::Fragment),
            ROUTING => return Err(Unfit::Other),
            protocol => {
                let (source, destination) = (address(8)?, address(24)?);
                return Ok(Header { length, transport: at, last_next_header: named_at, protocol, source, destination });
            }
        }
    }
    Err(Unfit::Other)
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, Unfit> {
    bytes.get(at).copied().ok_or(Unfit::Malformed)
}

fn word(bytes: &[u8], at: usize) -> Result<u16, Unfit> {
    Ok(u16::from_be_bytes([byte(bytes, at)?, byte(bytes, at + 1)?]))
}

/// The part of the checksum that covers the addresses (RFC 9293, section 3.1; RFC 8200, section 8.1), not folded.
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> u32 {
    let words =
        |octets: &[u8]| octets.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => words(&address.octets()),
        IpAddr::V6(address) => words(&address.octets()),
    };
    // A packet is at most 65,575 bytes long, so neither the length nor the sum overflows.
    let length = length as u32;
    address(from) + address(to) + u32::from(protocol) + (length >> 16) + (length & 0xffff)
}

/// The Internet checksum (RFC 1071) of some bytes, on top of a sum.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = u64::from(start);
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// A packet of ours around `payload`.
fn with_ip_header(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    const HOPS: u8 = 64;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = (20 + payload.len()) as u16;
            let mut header = vec![0x45, 0];
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
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
            let mut header = vec![0x60, 0, 0, 0];
            header.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            header.extend_from_slice(&[protocol, HOPS]);
            header.extend_from_slice(&octets(from));
            header.extend_from_slice(&octets(to));
            [&header, payload].concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN over IPv4 with a window of zero and a right checksum (computed by hand: see the sum's complement).
    fn syn_v4() -> Vec<u8> {
        let segment = [0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 5 << 4, 2, 0, 0, 0xde, 0xad, 0, 0];
        with_ip_header("198.51.100.2".parse().expect("v4"), "198.51.100.1".parse().expect("v4"), 6, &segment)
    }

    fn datagram_v6() -> Vec<u8> {
        let segment = [0x9c, 0x40, 0, 53, 0, 11, 0xde, 0xad, b'a', b'b', b'c'];
        with_ip_header("2001:db8::2".parse().expect("v6"), "2001:db8::1".parse().expect("v6"), 17, &segment)
    }

    /// The sum over a segment with its right checksum is zero.
    fn verify(packet: &[u8]) {
        let packet = Packet::parse(packet).expect("a packet");
        let segment = &packet.bytes[packet.transport..];
        let (from, to) = (packet.flow.source.ip(), packet.flow.destination.ip());
        assert_eq!(checksum(pseudo_header(from, to, packet.flow.protocol.number(), segment.len()), segment), 0);
    }

    #[test]
    fn a_packet_is_read_and_gets_its_checksum() {
        let packet = Packet::parse(&syn_v4()).expect("a packet");
        assert_eq!(packet.flow.source, "198.51.100.2:40000".parse().expect("an address"));
        assert_eq!(packet.flow.destination, "198.51.100.1:80".parse().expect("an address"));
        verify(&packet.into_sendable()[0]);
        let packet = Packet::parse(&datagram_v6()).expect("a packet");
        assert_eq!(packet.flow.destination, "[2001:db8::1]:53".parse().expect("an address"));
        verify(&packet.into_sendable()[0]);
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        assert_eq!(checksum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn no_prefix_and_no_flipped_bit_makes_it_panic() {
        for whole in [syn_v4(), datagram_v6()] {
            for end in 0..whole.len() {
                assert!(Packet::parse(&whole[..end]).is_err(), "{end}");
            }
            for bit in 0..whole.len() * 8 {
                let mut bad = whole.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                if let Ok(packet) = Packet::parse(&bad) {
                    packet.refusal();
                    packet.into_sendable();
                }
            }
        }
    }

    #[test]
    fn a_long_datagram_goes_on_in_fragments() {
        let mut segment = vec![0x9c, 0x40, 0, 53, 0x0b, 0xb8, 0, 0];
        segment.resize(3000, b'x');
        let whole =
            with_ip_header("2001:db8::2".parse().expect("v6"), "2001:db8::1".parse().expect("v6"), 17, &segment);
        let fragments = Packet::parse(&whole).expect("a packet").into_sendable();
        assert_eq!(fragments.len(), 3);
        let payload: Vec<u8> = fragments.iter().flat_map(|fragment| fragment[48..].to_vec()).collect();
        assert_eq!((payload.len(), &payload[8..]), (3000, &segment[8..]));
        for (index, fragment) in fragments.iter().enumerate() {
            assert!(fragment.len() <= 1280 && fragment[6] == FRAGMENT && fragment[40] == 17);
            assert_eq!(usize::from(word(fragment, 4).expect("a word")) + 40, fragment.len());
            let offset = usize::from(word(fragment, 42).expect("a word"));
            assert_eq!((offset & !7, offset & 1), (index * 1232, usize::from(index < 2)));
        }
    }

    #[test]
    fn fragments_and_source_routes_are_refused_on_purpose() {
        let mut fragment = syn_v4();
        fragment[6] = 0x20;
        assert_eq!(Packet::parse(&fragment), Err(Unfit::Fragment));
        let mut routed = syn_v4();
        routed.splice(20..20, [131, 3, 4, 0]);
        (routed[0], routed[3]) = (0x46, 44);
        assert_eq!(Packet::parse(&routed), Err(Unfit::Other));
        let mut harmless = syn_v4();
        harmless.splice(20..20, [1, 1, 1, 0]);
        (harmless[0], harmless[3]) = (0x46, 44);
        assert!(Packet::parse(&harmless).is_ok());
        let mut extended = datagram_v6();
        extended.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
        (extended[6], extended[5]) = (60, 19);
        assert!(Packet::parse(&extended).is_ok());
        extended[6] = 43;
        assert_eq!(Packet::parse(&extended), Err(Unfit::Other));
    }

    #[test]
    fn a_refusal_goes_back_to_the_client() {
        let reset = Packet::parse(&Packet::parse(&syn_v4()).expect("a packet").refusal()).expect("a reset");
        assert_eq!(reset.flow.destination, "198.51.100.2:40000".parse().expect("an address"));
        assert_eq!(reset.bytes[28..32], 10u32.to_be_bytes());
        verify(&reset.bytes);
        let unreachable = Packet::parse(&datagram_v6()).expect("a packet").refusal();
        assert_eq!((unreachable[6], unreachable[40], unreachable[41]), (ICMP6, 1, 4));
        assert_eq!(unreachable[48..], datagram_v6());
    }
}
