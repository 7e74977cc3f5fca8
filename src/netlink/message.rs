//! Netlink messages as bytes: a builder for requests, and borrowed, bounds-checked views of received messages.
//!
//! Reading never panics and never allocates: a truncated message or a wrong length ends the iteration.
//! See `linux/netlink.h` for the layout; all headers are in the host's byte order.

use std::io;
use std::net::IpAddr;

use neli::consts::nl::NlmF;

/// Bytes in `struct nlmsghdr`: length u32, type u16, flags u16, sequence u32, port u32.
pub const HEADER: usize = 16;

/// Bytes in `struct nlattr`: length u16, type u16.
const ATTRIBUTE_HEADER: usize = 4;

/// `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 1 << 15;

/// `NLA_TYPE_MASK`: the bits of an attribute's type that are not flags.
const TYPE_MASK: u16 = 0x3fff;

/// Alignment of messages and attributes (`NLMSG_ALIGNTO`, `NLA_ALIGNTO`).
const ALIGN: usize = 4;

/// Builder of a message to the kernel.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of this type, with the family's own header after netlink's.
    pub fn new(kind: u16, header: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(header);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        Request { bytes }
    }

    /// Appends an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        self.put(kind, value.len());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        self
    }

    /// Appends an IP address.
    pub fn ip(self, kind: u16, address: IpAddr) -> Request {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    /// Appends a number in network byte order.
    pub fn be16(self, kind: u16, number: u16) -> Request {
        self.attribute(kind, &number.to_be_bytes())
    }

    /// Appends a number in network byte order.
    pub fn be32(self, kind: u16, number: u32) -> Request {
        self.attribute(kind, &number.to_be_bytes())
    }

    /// Appends a number in the host's byte order.
    pub fn ne32(self, kind: u16, number: u32) -> Request {
        self.attribute(kind, &number.to_ne_bytes())
    }

    /// Appends a string with a final zero.
    pub fn string(self, kind: u16, text: &str) -> Request {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute that holds the attributes which `fill` appends.
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Request) -> Request) -> Request {
        let start = self.bytes.len();
        self.put(kind | NESTED, 0);
        let mut filled = fill(self);
        let length = filled.bytes.len() - start;
        filled.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        filled
    }

    fn put(&mut self, kind: u16, length: usize) {
        // Requests are a few dozen bytes long, so the length of an attribute fits.
        self.bytes.extend_from_slice(&((ATTRIBUTE_HEADER + length) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
    }

    /// The message as it is sent, with its length, flags and sequence number filled in.
    pub fn finish(&mut self, flags: NlmF, sequence: u32) -> &[u8] {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.bits().to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// One received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The type: below 16 netlink's own (`NLMSG_ERROR`, ...), else the family's.
    pub kind: u16,
    /// The flags (`NLM_F_...`).
    pub flags: NlmF,
    /// The sequence number of the request; 0 in notifications.
    pub sequence: u32,
    /// The netlink port of the request, or of the socket that made the change of a notification.
    pub port: u32,
    /// The bytes after netlink's header.
    pub payload: &'a [u8],
}

/// The messages of one received datagram.
///
/// Yields an error of kind `InvalidData`, and then nothing more, if the rest is not a whole message.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in `datagram`.
    pub fn new(datagram: &'a [u8]) -> Messages<'a> {
        Messages { rest: datagram }
    }

    fn take(&mut self) -> Option<Message<'a>> {
        let rest = std::mem::take(&mut self.rest);
        let length = u32::from_ne_bytes(array(rest, 0)?) as usize;
        let kind = u16::from_ne_bytes(array(rest, 4)?);
        let flags = NlmF::from_bits_retain(u16::from_ne_bytes(array(rest, 6)?));
        let sequence = u32::from_ne_bytes(array(rest, 8)?);
        let port = u32::from_ne_bytes(array(rest, 12)?);
        let payload = rest.get(HEADER..length)?;
        self.rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some(Message { kind, flags, sequence, port, payload })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(self.take().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a garbled netlink message")))
    }
}

/// The attributes in a payload or in a nested attribute: their types without flags, and their values.
///
/// Ends at the first truncated attribute.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes that follow a family's header of `header` bytes.
    pub fn after(payload: &'a [u8], header: usize) -> Attributes<'a> {
        Attributes { rest: payload.get(header..).unwrap_or_default() }
    }

    /// The attributes nested in `value`.
    pub fn nested(value: &'a [u8]) -> Attributes<'a> {
        Attributes { rest: value }
    }

    /// The value of the first attribute of this type.
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The bytes of the first attribute of this type, if it has so many.
    pub fn array<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        self.find(kind)?.try_into().ok()
    }

    /// The number in the first attribute of this type, in network byte order.
    pub fn be16(&self, kind: u16) -> Option<u16> {
        self.array(kind).map(u16::from_be_bytes)
    }

    /// The number in the first attribute of this type, in network byte order.
    pub fn be32(&self, kind: u16) -> Option<u32> {
        self.array(kind).map(u32::from_be_bytes)
    }

    /// The number in the first attribute of this type, in network byte order.
    pub fn be64(&self, kind: u16) -> Option<u64> {
        self.array(kind).map(u64::from_be_bytes)
    }

    /// The number in the first attribute of this type, in the host's byte order.
    pub fn ne32(&self, kind: u16) -> Option<u32> {
        self.array(kind).map(u32::from_ne_bytes)
    }

    /// The IP address in the first attribute of this type.
    pub fn ip(&self, kind: u16) -> Option<IpAddr> {
        self.array::<4>(kind).map(IpAddr::from).or_else(|| self.array::<16>(kind).map(IpAddr::from))
    }

    /// The string, with or without its final zero, in the first attribute of this type. Names in the kernel are bytes.
    pub fn text(&self, kind: u16) -> Option<String> {
        let value = self.find(kind)?;
        Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
    }

    /// The attributes nested in the first attribute of this type.
    pub fn find_nested(&self, kind: u16) -> Option<Attributes<'a>> {
        self.find(kind).map(Attributes::nested)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest);
        let length = usize::from(u16::from_ne_bytes(array(rest, 0)?));
        let kind = u16::from_ne_bytes(array(rest, 2)?) & TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        self.rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A fixed number of bytes at an offset.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests;
