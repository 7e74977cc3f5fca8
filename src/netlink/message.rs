//! The bytes of netlink messages: a builder for requests, and borrowed, bounds-checked views of what was received.
//!
//! Reading never panics and never allocates: what is cut short or claims a wrong length ends the iteration.
//! See `linux/netlink.h` for the layout; all headers are in the host's byte order.

use std::io;

use neli::consts::nl::NlmF;

/// Bytes in `struct nlmsghdr`: length u32, type u16, flags u16, sequence u32, port u32.
pub const HEADER: usize = 16;

/// Bytes in `struct nlattr`: length u16, type u16.
const ATTRIBUTE_HEADER: usize = 4;

/// `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 1 << 15;

/// `NLA_TYPE_MASK`: the bits of an attribute's type that are not flags.
const TYPE_MASK: u16 = 0x3fff;

/// Messages and attributes start at multiples of this (`NLMSG_ALIGNTO`, `NLA_ALIGNTO`).
const ALIGN: usize = 4;

/// A message to the kernel, under construction.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of the given type with the family's own header behind netlink's.
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
    /// The sequence number of the request that it answers; 0 in notifications.
    pub sequence: u32,
    /// The netlink port that it answers, or that a notification's change came from.
    pub port: u32,
    /// What follows netlink's header.
    pub payload: &'a [u8],
}

/// The messages of one received datagram.
///
/// Yields an error of kind `InvalidData`, and then nothing more, if what is left is not a whole message.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in `datagram`.
    pub fn new(datagram: &'a [u8]) -> Messages<'a> {
        Messages { rest: datagram }
    }

    /// How many bytes have not been read.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self) -> Option<Message<'a>> {
        let rest = std::mem::take(&mut self.rest);
        let length = u32_at(rest, 0)? as usize;
        let kind = u16_at(rest, 4)?;
        let flags = NlmF::from_bits_retain(u16_at(rest, 6)?);
        let sequence = u32_at(rest, 8)?;
        let port = u32_at(rest, 12)?;
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

/// The attributes in a message's payload or in a nested attribute, as their type without flags and their value.
///
/// Ends at the first one that is not whole.
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
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == kind).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest);
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        self.rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut request = Request::new(0x101, &[2, 0, 0, 0])
            .attribute(3, &[1, 2, 3, 4, 5])
            .nested(4, |nest| nest.attribute(1, &[9]).attribute(2, &[]));
        request.finish(NlmF::REQUEST | NlmF::DUMP, 7).to_vec()
    }

    #[test]
    fn what_is_built_is_read_back() {
        let bytes = sample();
        let message = Messages::new(&bytes).next().expect("one").expect("whole");
        assert_eq!((message.kind, message.sequence), (0x101, 7));
        assert_eq!(message.flags, NlmF::REQUEST | NlmF::DUMP);
        let attributes: Vec<_> = Attributes::after(message.payload, 4).collect();
        assert_eq!(attributes[0], (3, &[1, 2, 3, 4, 5][..]));
        assert_eq!(attributes[1].0, 4);
        let inner: Vec<_> = Attributes::nested(attributes[1].1).collect();
        assert_eq!(inner, [(1, &[9][..]), (2, &[][..])]);
        assert_eq!(Messages::new(&bytes).count(), 1);
    }

    #[test]
    fn two_messages_in_a_datagram() {
        let mut bytes = sample();
        bytes.extend(sample());
        assert_eq!(Messages::new(&bytes).filter(|message| message.is_ok()).count(), 2);
    }

    #[test]
    fn every_prefix_is_refused_and_nothing_follows() {
        let bytes = sample();
        for end in 1..bytes.len() {
            let mut messages = Messages::new(&bytes[..end]);
            assert!(messages.next().expect("an item").is_err(), "{end}");
            assert!(messages.next().is_none(), "{end}");
        }
        assert!(Messages::new(&[]).next().is_none());
    }

    #[test]
    fn wrong_lengths_end_the_iteration() {
        for length in [0u32, 1, 15, 57, u32::MAX] {
            let mut bytes = sample();
            bytes[0..4].copy_from_slice(&length.to_ne_bytes());
            assert!(Messages::new(&bytes).next().expect("an item").is_err(), "{length}");
        }
        for length in [0u16, 3, 200, u16::MAX] {
            let mut bytes = sample();
            bytes[20..22].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Attributes::after(&bytes, 20).count(), 0, "{length}");
        }
        let bytes = sample();
        for cut in 0..bytes.len() {
            Attributes::after(&bytes[..cut], 20).for_each(|(_, value)| assert!(Attributes::nested(value).count() < 4));
        }
    }
}
