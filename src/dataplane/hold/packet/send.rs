//! A held packet on its way to the backend: its checksum, and its fragments.

use std::net::SocketAddr;

use super::checksum::{checksum, pseudo_header};
use super::{HEADER_V6, Packet};
use crate::config::Protocol;

/// Number of IPv6's fragment header, and its length.
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;

/// Largest packet that every IPv6 link carries (RFC 8200, section 5).
pub(super) const MIN_MTU: usize = 1280;

/// A longer packet was reassembled from fragments, on common links.
pub(super) const MAX_IN_ONE_PIECE: usize = 1500;

impl Packet {
    /// The packets to send instead of the captured one, in order. The checksum is computed again, because the captured one
    /// can be unfinished: a peer may leave it to its network card. The kernel fills in the IPv4 header's own (raw(7)).
    ///
    /// A datagram that came in fragments, which conntrack has reassembled, leaves in fragments.
    pub fn into_sendable(mut self) -> Vec<Vec<u8>> {
        let at = self.transport
            + match self.flow.protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
            };
        self.bytes[at..at + 2].fill(0);
        let (from, to) = (self.flow.source.ip(), self.flow.destination.ip());
        let segment = self.segment();
        let mut sum = checksum(pseudo_header(from, to, self.flow.protocol.number(), segment.len()), segment);
        if sum == 0 && self.flow.protocol == Protocol::Udp {
            // Zero means "none" (RFC 768).
            sum = 0xffff;
        }
        self.bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        match self.flow.source {
            _ if self.bytes.len() <= MAX_IN_ONE_PIECE => vec![self.bytes],
            SocketAddr::V4(_) => {
                // The kernel fragments it, unless the flag "don't fragment" is set.
                self.bytes[6] &= !0x40;
                vec![self.bytes]
            }
            SocketAddr::V6(_) => self.fragments(u32::from(sum)),
        }
    }

    /// Whether it can be sent on every link: in one piece, or in fragments of which the first has all headers (RFC 7112).
    pub(super) fn fits_the_minimum_mtu(&self) -> bool {
        let headers = self.transport - self.per_fragment + self.transport_header;
        self.flow.source.is_ipv4() || self.len() <= MAX_IN_ONE_PIECE || self.part().is_some_and(|part| headers <= part)
    }

    /// Bytes of the fragmentable part in each fragment but the last: whole units of eight, at least one.
    fn part(&self) -> Option<usize> {
        let space = MIN_MTU.checked_sub(self.per_fragment + FRAGMENT_HEADER)? / 8 * 8;
        (space > 0).then_some(space)
    }

    /// Splits an IPv6 packet (RFC 8200, section 4.5) that [fits](Packet::fits_the_minimum_mtu). The per-fragment headers are
    /// repeated; all others belong to the part that is split.
    fn fragments(self, salt: u32) -> Vec<Vec<u8>> {
        let Some(size) = self.part() else { return Vec::new() };
        let (head, rest) = self.bytes.split_at(self.per_fragment);
        let next = head[self.next_header];
        let identification = (u32::from(self.flow.source.port()) << 16 | salt).to_be_bytes();
        let count = rest.len().div_ceil(size);
        let fragment = |(index, part): (usize, &[u8])| {
            let more = u16::from(index + 1 < count);
            // The whole is at most 65,535 bytes long behind the header, and each fragment at most 1,280.
            let offset = (index * size) as u16 | more;
            let length = (head.len() - HEADER_V6 + FRAGMENT_HEADER + part.len()) as u16;
            let mut fragment = Vec::with_capacity(head.len() + FRAGMENT_HEADER + part.len());
            fragment.extend_from_slice(head);
            fragment[4..6].copy_from_slice(&length.to_be_bytes());
            fragment[self.next_header] = FRAGMENT;
            fragment.extend_from_slice(&[next, 0]);
            fragment.extend_from_slice(&offset.to_be_bytes());
            fragment.extend_from_slice(&identification);
            fragment.extend_from_slice(part);
            fragment
        };
        rest.chunks(size).enumerate().map(fragment).collect()
    }
}
