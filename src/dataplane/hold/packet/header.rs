//! The IP headers, IPv6's extension headers included.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{HEADER_V6, Unfit};

/// Extension headers beyond this number are refused: hop-by-hop and destination options come once each (RFC 8200,
/// section 4.1).
const MAX_EXTENSIONS: usize = 8;

/// Contents of the IP headers. The positions are not checked against the length yet.
pub(super) struct Header {
    pub length: usize,
    pub transport: usize,
    pub per_fragment: usize,
    pub next_header: usize,
    pub protocol: u8,
    pub source: IpAddr,
    pub destination: IpAddr,
}

/// Parses an IPv4 header (RFC 791, section 3.1).
pub(super) fn parse_v4(bytes: &[u8]) -> Result<Header, Unfit> {
    const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff;
    let header = usize::from(byte(bytes, 0)? & 0xf) * 4;
    let length = usize::from(word(bytes, 2)?);
    if header < 20 || length < header || length > bytes.len() {
        return Err(Unfit::Malformed);
    }
    if word(bytes, 6)? & MORE_FRAGMENTS_OR_OFFSET != 0 {
        return Err(Unfit::Fragment);
    }
    check_options(bytes.get(20..header).ok_or(Unfit::Malformed)?)?;
    let address = |at| Ok::<IpAddr, Unfit>(Ipv4Addr::from(octets::<4>(bytes, at)?).into());
    let (source, destination) = (address(12)?, address(16)?);
    let protocol = byte(bytes, 9)?;
    // The kernel fragments IPv4 itself, so the positions for fragments mean nothing here.
    Ok(Header { length, transport: header, per_fragment: header, next_header: 9, protocol, source, destination })
}

/// Refuses source routing among the options of an IPv4 header. The others are sent as they are.
fn check_options(mut options: &[u8]) -> Result<(), Unfit> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    while let Some(kind) = options.first() {
        let length = match *kind {
            END => return Ok(()),
            NO_OPERATION => 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(Unfit::Unsupported),
            _ => match byte(options, 1)? {
                0 | 1 => return Err(Unfit::Malformed),
                length => usize::from(length),
            },
        };
        options = options.get(length..).ok_or(Unfit::Malformed)?;
    }
    Ok(())
}

/// Parses an IPv6 header with its extension headers (RFC 8200, sections 3 and 4).
///
/// A payload length of 0 is a jumbogram (RFC 2675), and is too short for a transport header.
pub(super) fn parse_v6(bytes: &[u8]) -> Result<Header, Unfit> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    const NEXT_HEADER: usize = 6;
    let length = HEADER_V6 + usize::from(word(bytes, 4)?);
    let bytes = bytes.get(..length).ok_or(Unfit::Malformed)?;
    let address = |at| Ok::<IpAddr, Unfit>(Ipv6Addr::from(octets::<16>(bytes, at)?).into());
    let (source, destination) = (address(8)?, address(24)?);
    let (mut next, mut at) = (byte(bytes, NEXT_HEADER)?, HEADER_V6);
    // Each fragment repeats the hop-by-hop options, and the headers before a routing header, which are refused here.
    let (mut per_fragment, mut next_header) = (HEADER_V6, NEXT_HEADER);
    for _ in 0..MAX_EXTENSIONS {
        match next {
            HOP_BY_HOP | DESTINATION => {
                let end = at + (usize::from(byte(bytes, at + 1)?) + 1) * 8;
                if next == HOP_BY_HOP {
                    if at != HEADER_V6 {
                        return Err(Unfit::Malformed);
                    }
                    (per_fragment, next_header) = (end, at);
                }
                (next, at) = (byte(bytes, at)?, end);
            }
            FRAGMENT => return Err(Unfit::Fragment),
            ROUTING => return Err(Unfit::Unsupported),
            protocol => {
                return Ok(Header { length, transport: at, per_fragment, next_header, protocol, source, destination });
            }
        }
    }
    Err(Unfit::Unsupported)
}

/// The byte at a position.
pub(super) fn byte(bytes: &[u8], at: usize) -> Result<u8, Unfit> {
    bytes.get(at).copied().ok_or(Unfit::Malformed)
}

/// The 16-bit number at a position, in network byte order.
pub(super) fn word(bytes: &[u8], at: usize) -> Result<u16, Unfit> {
    Ok(u16::from_be_bytes(octets(bytes, at)?))
}

fn octets<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unfit> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(Unfit::Malformed)
}
